"""A folder of images.  Sub-folders are classes.

Grey stays grey, alpha and 16 bits are kept, nothing is converted unless you ask for it (images.py); what is read and what is left out: folders.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from undiffuse.data.config import DataConfig
from undiffuse.data.dataset import Dataset
from undiffuse.data.holes import with_nodata_of_file
from undiffuse.data.images import read_images
from undiffuse.data.pixels import ImageOptions, Openable
from undiffuse.data.readers.folders import classes_of, find, is_run
from undiffuse.errors import UsageError

GDAL_NODATA = 42113  # the tag of geographers' TIFF that says which value means missing


def images_by_name(root: Path, files: Sequence[Openable], names: Sequence[str], config: DataConfig) -> Dataset:
    """The images of a folder or an archive, whose folders are classes; the column `file` has their names."""
    labels, notes = classes_of(root, names)
    images = read_images(root, files, names, ImageOptions.of(config))
    classes: tuple[str, ...] = tuple(sorted(set(labels))) if labels else ()
    place = {name: k for k, name in enumerate(classes)}
    return Dataset(
        name=root.resolve().name,
        values=images.values,
        labels=np.array([place[labels[i]] for i in images.kept], dtype=np.int64) if labels else None,
        classes=classes,
        mode=images.mode,
        columns={"file": np.array([names[i] for i in images.kept])},
        root=root,
        notes=(*images.notes, *notes),
        file_format=images.file_format,
    )


def image_folder(root: Path, config: DataConfig) -> Dataset:
    """All images below root, of one size and kind of pixel after `size` (height, width) and `channels` (grey, rgb, rgba)."""
    if is_run(root):
        raise UsageError(
            f"{root} is a run of this package, not data: give a folder of images, such as {root / 'samples'} for what it drew."
        )
    found = find(root)
    if not found.files:
        left = "; ".join(found.notes()) or "nothing"
        raise UsageError(
            f"there are no images in {root}, {left}. It should hold .png, .jpg, .webp, .bmp, .tif or .gif files."
        )
    data = images_by_name(root, found.files, found.names, config)
    if not config.size:  # which mixes that value with others
        data = with_nodata_of_file(data, nodata_of_image(found.files[0]), config)
    return replace(data, folder=root, notes=(*data.notes, *found.notes()))


def nodata_of_image(path: Path) -> str | None:
    """The value that an image says means missing, as GDAL writes it into a TIFF; None for none."""
    if path.suffix.lower() not in (".tif", ".tiff"):
        return None
    try:
        with Image.open(path) as file:
            found = getattr(file, "tag_v2", {}).get(GDAL_NODATA)
    except Exception:  # what is damaged is said where the pixels are read
        return None
    return None if found is None else str(found)
