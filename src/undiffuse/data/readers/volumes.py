"""Volumes of medicine and science: NIfTI and NRRD.  Values as they are meant (slope and intercept applied), positions in `affine`.

    a folder of volumes     every file is an example, (1, D, H, W); sub-folders are classes
    a file of four axes     the last axis counts the examples
    a file of three axes    its slices along the last axis are the examples

Samples are written in files of the same kind, type and affine (file_formats.py).
Axes are turned so that the last one of the file, slices, comes first: depth, then rows, then columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from undiffuse.data.arrays import array_dataset, native
from undiffuse.data.config import DataConfig
from undiffuse.data.damage import refuse_damaged
from undiffuse.data.dataset import Dataset
from undiffuse.data.file_formats import FileFormat
from undiffuse.data.readers.folders import classes_of, find, stacked
from undiffuse.errors import UsageError
from undiffuse.system import optional

VOLUMES = (".nii", ".nii.gz", ".nrrd", ".nhdr")


def read_volume(path: Path) -> tuple[np.ndarray, FileFormat]:
    """(values, in the order of the file's axes; the file's format with its affine). Raises UsageError for a damaged file."""
    with refuse_damaged(path, "a volume"):
        return _nifti(path) if ".nii" in path.name.lower() else _nrrd(path)


def _format(path: Path, kind: str, values: np.ndarray, affine: np.ndarray, space: str | None = None) -> FileFormat:
    suffix = next(each for each in sorted(VOLUMES, key=len, reverse=True) if path.name.lower().endswith(each))
    lies = tuple(np.asarray(affine, np.float64).ravel().tolist())
    return FileFormat(
        kind=kind, suffix=suffix.replace(".nhdr", ".nrrd"), dtype=values.dtype.name, affine=lies, space=space
    )


def _nifti(path: Path) -> tuple[np.ndarray, FileFormat]:
    image: Any = optional("nibabel").load(path)
    plain = image.dataobj.slope in (1, None) and image.dataobj.inter in (0, None)
    values = np.asanyarray(image.dataobj) if plain else image.get_fdata(dtype=np.float32)
    return (values := native(values)), _format(path, "nifti", values, image.affine)


def _nrrd(path: Path) -> tuple[np.ndarray, FileFormat]:
    values, header = optional("nrrd").read(str(path))
    affine = np.eye(4)
    directions, origin = header.get("space directions"), header.get("space origin")
    if directions is not None and np.shape(directions) == (3, 3):
        affine[:3, :3] = np.asarray(directions, np.float64).T
    if origin is not None and len(origin) == 3:
        affine[:3, 3] = origin
    return (values := native(values)), _format(path, "nrrd", values, affine, header.get("space"))


def volume_file(path: Path, config: DataConfig) -> Dataset:
    """The examples of one file: its last axis counts them. Raises UsageError for fewer than three axes or more than four."""
    values, file_format = read_volume(path)
    if values.ndim not in (3, 4):
        raise UsageError(
            f"{path} has {values.ndim} axes: a file of slices has three, one of volumes four; or give a folder of volumes."
        )
    turned = values.transpose(*reversed(range(values.ndim)))
    data = array_dataset(
        path.name.split(".")[0],
        turned,
        None,
        config.layout or ("NHW" if values.ndim == 3 else "NDHW"),
        parts=config.complex,
    )
    what = "slices along its last axis" if values.ndim == 3 else "volumes along its last axis"
    columns = {"affine": np.repeat(np.array(file_format.affine)[None], len(data), 0)}
    kept = data.file_format if config.layout else file_format
    return replace(
        data, columns=columns, file_format=kept, notes=(f"the examples are the {len(data)} {what}", *data.notes)
    )


def volume_folder(root: Path, config: DataConfig) -> Dataset:
    """Every volume below a folder is an example. Raises UsageError where sizes or types differ, naming two files."""
    found, formats = find(root, VOLUMES, "volume"), list[FileFormat]()
    labels, notes = classes_of(root, found.names)

    def volumes() -> Iterator[np.ndarray]:
        for path in found.files:
            values, file_format = read_volume(path)
            formats.append(file_format)
            yield values

    values = stacked(root, found.names, volumes())
    if values.ndim != 4:
        raise UsageError(
            f"{found.names[0]} has {values.ndim - 1} axes, and volumes have three: give a file of several volumes by itself."
        )
    columns = {"file": np.array(found.names), "affine": np.array([each.affine for each in formats])}
    classes = None if labels is None else np.array(labels)
    data = array_dataset(root.resolve().name, values.transpose(0, 3, 2, 1), classes, "NDHW", columns, config.complex)
    if len({(each.affine, each.space) for each in formats}) > 1:
        notes.append(f"the volumes lie differently in space: samples are written with the affine of {found.names[0]}")
    return replace(data, root=root, file_format=formats[0], notes=(*data.notes, *found.notes(), *notes))
