"""Volumes of medicine and science: NIfTI and NRRD.  Values as they are meant (slope and intercept applied), positions in `affine`.

    a folder of volumes     every file is an example, (1, D, H, W); sub-folders are classes
    a file of four axes     the last axis counts the examples
    a file of three axes    its slices along the last axis are the examples

Axes are turned so that the last one of the file, slices, comes first: depth, then rows, then columns.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from undiffuse.data.arrays import array_dataset
from undiffuse.data.config import DataConfig
from undiffuse.data.damage import refuse_damaged
from undiffuse.data.dataset import Dataset
from undiffuse.data.readers.image_folder import classes_of
from undiffuse.errors import UsageError
from undiffuse.system import optional

VOLUMES = (".nii", ".nii.gz", ".nrrd", ".nhdr")


def is_volume(path: Path) -> bool:
    """Whether a file has the name of a volume."""
    return path.name.lower().endswith(VOLUMES)


def read_volume(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(values, in the order of the file's axes; the affine (4, 4) from indices to millimetres). Raises UsageError for a damaged file."""
    with refuse_damaged(path, "a volume"):
        return _nifti(path) if ".nii" in path.name.lower() else _nrrd(path)


def _nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image: Any = optional("nibabel").load(path)
    plain = image.dataobj.slope in (1, None) and image.dataobj.inter in (0, None)
    values = np.asanyarray(image.dataobj) if plain else image.get_fdata(dtype=np.float32)
    return np.asarray(values, values.dtype.newbyteorder("=")), np.asarray(image.affine, np.float64)


def _nrrd(path: Path) -> tuple[np.ndarray, np.ndarray]:
    values, header = optional("nrrd").read(str(path))
    affine = np.eye(4)
    directions, origin = header.get("space directions"), header.get("space origin")
    if directions is not None and np.shape(directions) == (3, 3):
        affine[:3, :3] = np.asarray(directions, np.float64).T
    if origin is not None and len(origin) == 3:
        affine[:3, 3] = origin
    return np.asarray(values, values.dtype.newbyteorder("=")), affine


def volume_file(path: Path, config: DataConfig) -> Dataset:
    """The examples of one file: its last axis counts them. Raises UsageError for fewer than three axes or more than four."""
    values, affine = read_volume(path)
    if values.ndim not in (3, 4):
        raise UsageError(
            f"{path} has {values.ndim} axes: a file of slices has three, one of volumes four; or give a folder of volumes."
        )
    turned = values.transpose(*reversed(range(values.ndim)))
    data = array_dataset(
        path.name.split(".")[0], turned, None, config.layout or ("NHW" if values.ndim == 3 else "NDHW")
    )
    what = "slices along its last axis" if values.ndim == 3 else "volumes along its last axis"
    columns = {"affine": np.repeat(affine.reshape(1, -1), len(data), 0)}
    return replace(data, columns=columns, notes=(f"the examples are the {len(data)} {what}", *data.notes))


def volume_folder(root: Path, config: DataConfig) -> Dataset:
    """Every volume below a folder is an example. Raises UsageError where sizes or types differ, naming two files."""
    files = sorted((path for path in root.rglob("*") if is_volume(path) and not path.name.startswith(".")), key=str)
    names = [path.relative_to(root).as_posix() for path in files]
    labels, notes = classes_of(root, names)
    values, affines = np.empty(0), []
    for row, path in enumerate(files):
        volume, affine = read_volume(path)
        if row == 0:
            values = np.empty((len(files), *volume.shape), volume.dtype)
        if volume.shape != values.shape[1:] or volume.dtype != values.dtype:
            raise UsageError(
                f"{names[row]} is {volume.shape} of {volume.dtype}, and {names[0]} {values.shape[1:]} of {values.dtype}: bring all volumes of "
                f"{root} to one size and type, such as by resampling."
            )
        values[row] = volume
        affines.append(affine.ravel())
    if values.ndim != 4:
        raise UsageError(
            f"{names[0]} has {values.ndim - 1} axes, and volumes have three: give a file of several volumes by itself."
        )
    turned = values.transpose(0, 3, 2, 1)
    columns = {"file": np.array(names), "affine": np.stack(affines)}
    data = array_dataset(root.resolve().name, turned, None if labels is None else np.array(labels), "NDHW", columns)
    return replace(data, root=root, notes=(*data.notes, *notes))
