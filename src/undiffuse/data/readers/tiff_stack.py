"""A TIFF file of many pages: every page is an example.  Any depth, floats and any number of channels.

Single pictures in a folder are read as images (pixels.py); this is for stacks, whose pages are one series of equal size.
Samples are written as TIFF of the same type, one page each.  The value that GDAL's tag says is missing is.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from undiffuse.data.arrays import array_dataset, native
from undiffuse.data.config import DataConfig
from undiffuse.data.damage import refuse_damaged
from undiffuse.data.dataset import Dataset
from undiffuse.data.file_formats import FileFormat
from undiffuse.data.holes import with_nodata_of_file
from undiffuse.data.readers.image_folder import GDAL_NODATA
from undiffuse.errors import UsageError
from undiffuse.system import optional

TIFF = (".tif", ".tiff")
TIFF_AXES = {"S": "C", "C": "C", "Y": "H", "X": "W"}  # tifffile's letters; all others count pages


def tiff_stack(path: Path, config: DataConfig) -> Dataset:
    """The pages of a TIFF file. Raises UsageError for a damaged file, and one whose pages differ in size."""
    tifffile: Any = optional("tifffile")
    with refuse_damaged(path, "a TIFF file"), tifffile.TiffFile(path) as file:
        series = file.series
        if len(series) > 1:
            raise UsageError(
                f"the pages of {path} are of {len(series)} sizes, {series[0].shape} and {series[1].shape} among them: store each as a file "
                "in a folder, and give a size."
            )
        values, axes = series[0].asarray(), series[0].axes
        nodata = getattr(file.pages[0].tags.get(GDAL_NODATA), "value", None)
    pages = [k for k, axis in enumerate(axes) if axis not in TIFF_AXES]
    if not pages:
        raise UsageError(
            f"{path} is one picture of shape {values.shape}: give a folder of pictures, or a file of many pages."
        )
    rest = [k for k in range(values.ndim) if k not in pages]
    values = values.transpose(*pages, *rest)
    values = values.reshape(-1, *values.shape[len(pages) :])
    layout = config.layout or "N" + "".join(TIFF_AXES[axes[k]] for k in rest)
    data = array_dataset(path.stem, native(values), None, layout, parts=config.complex)
    data = with_nodata_of_file(data, nodata, config)
    kept = data.file_format or FileFormat(kind="tiff", suffix=".tif", dtype=values.dtype.newbyteorder("=").name)
    return replace(
        data, file_format=kept, notes=(f"the examples are the {len(data)} pages of {path.name}", *data.notes)
    )
