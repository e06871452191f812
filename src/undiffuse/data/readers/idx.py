"""idx, the format of MNIST: two zero bytes, the type, the number of axes, their lengths, the values (LeCun)."""

from __future__ import annotations

import gzip
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np

from undiffuse.data.arrays import array_dataset, native
from undiffuse.data.config import DataConfig
from undiffuse.data.dataset import Dataset
from undiffuse.errors import UsageError

IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def _idx_array(path: Path) -> np.ndarray:
    """The array in an idx file."""
    try:
        with (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rb") as file:
            content = file.read()
        zero, kind, axes = struct.unpack(">HBB", content[:4])
        shape = struct.unpack(f">{axes}I", content[4 : 4 + 4 * axes])
        if zero or kind not in IDX_TYPES:
            raise UsageError("it does not start as idx files do")
        values = np.frombuffer(content, IDX_TYPES[kind], offset=4 + 4 * axes)
        return native(values.reshape(shape))
    except (ValueError, OSError, EOFError, struct.error) as error:
        raise UsageError(f"{path} cannot be read as an idx file: {error}.") from None


def idx(path: Path, config: DataConfig) -> Dataset:
    """idx of MNIST, gzipped or not; labels from the file beside it with `labels-idx1` for `images-idx3` in its name."""
    beside = path.with_name(path.name.replace("images-idx3", "labels-idx1").replace("images.idx3", "labels.idx1"))
    labels = _idx_array(beside) if beside != path and beside.exists() else None
    data = array_dataset(path.name.split("-images")[0].split(".")[0], _idx_array(path), labels, config.layout)
    looked = (
        f"no {beside.name} is beside it" if beside != path else "its name has no 'images-idx3', so none were looked for"
    )
    return data if labels is not None else replace(data, notes=(*data.notes, f"no labels: {looked}"))
