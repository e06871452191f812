"""Examples written to a folder, at once or while they are made: an array, and a picture of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from undiffuse.data.codec import CodecConfig, shape_in_files
from undiffuse.data.file_formats import FileFormat
from undiffuse.pictures.images import save_image

MOST_SHOWN = 200  # examples on a sheet


def shown_examples(labels: Sequence[str], most: int = MOST_SHOWN) -> list[int]:
    """Which examples a sheet shows: all, or as many of each label, or the first, up to so many."""
    if len(labels) <= most:
        return list(range(len(labels)))
    each, counts, found = most // len(set(labels)), dict[str, int](), list[int]()
    if not each:
        return list(range(most))
    for k, label in enumerate(labels):
        counts[label] = counts.get(label, 0) + 1
        if counts[label] <= each:
            found.append(k)
    return found


class ExampleWriter:
    """Examples of one codec in a folder: NAME.npy, and IMAGES/00000.png, …   shown: those of a sheet.

    file_format: of the files that the data came in; in FILES/00000.nii.gz, … where these are no pictures and arrays.  Rows of a table are in
    one file, rows.csv, and have no pictures.
    No more of them is held than what is shown.   Raises Failure where a package is missing that writes such files.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        images: str,
        codec: CodecConfig,
        n: int,
        shown: Sequence[int],
        file_format: FileFormat | None = None,
        files: str = "files",
    ) -> None:
        self.file_format, self.files = file_format, None
        if file_format is not None and file_format.has_files:
            file_format.require_package()
            self.files = folder / files
            self.files.mkdir()
        self.images, self.codec, self.shown, self.done = folder / images, codec, frozenset(shown), 0
        self.kept: list[Tensor] = []
        self.rows: list[Tensor] = []
        self.repaired = 0  # rows of a table in which a relation had to be
        self.table = None if file_format is None or file_format.table is None else folder / f"rows{file_format.suffix}"
        if self.table is None:
            self.images.mkdir()
        self.array = open(folder / f"{name}.npy", "wb")  # noqa: SIM115  closed by `finish`
        complex_ = file_format if file_format is not None and file_format.is_complex else None
        described = np.lib.format.dtype_to_descr(np.dtype(complex_.dtype if complex_ else codec.dtype))
        shape = complex_.shape(codec.shape) if complex_ else codec.shape
        header = {"descr": described, "fortran_order": False, "shape": (n, *shape_in_files(shape))}
        np.lib.format.write_array_header_1_0(self.array, header)

    def add(self, values: Tensor, lengths: Sequence[int] | None = None) -> None:
        """values: float (B, C, *size), in the data's own range.   lengths: where sequences end, which files of their own do not go beyond."""
        stored = _array_of(values, self.codec, self.file_format)
        self.array.write(stored.tobytes())
        self.rows += [] if self.table is None else [values[:, :, 0]]
        for k, value in enumerate(values):
            if self.files is not None and self.file_format is not None:
                whole = value if lengths is None else value[..., : lengths[k]]
                self.file_format.write(self.files / f"{self.done:05d}{self.file_format.suffix}", whole.numpy())
            if self.table is None:
                save_image(value, self.codec, self.images / f"{self.done:05d}.png")
            if self.done in self.shown:
                self.kept.append(value.clone())
            self.done += 1

    def name_of(self, k: int) -> str:
        """The file of example k in the folder: of the format of the data, or the picture; the row of a table."""
        if self.table is not None:
            return f"{self.table.name}:{k + 1}"
        if self.files is not None and self.file_format is not None:
            return f"{self.files.name}/{k:05d}{self.file_format.suffix}"
        return f"{self.images.name}/{k:05d}.png"

    def finish(self, conditions: Mapping[str, Sequence[object]] | None = None) -> Tensor:
        """Those that are shown, (len(shown), C, *size).   conditions: of all, by name, which belong into the rows of a table."""
        self.array.close()
        if self.table is not None and self.file_format is not None and self.file_format.table is not None:
            schema = self.file_format.table
            rows, self.repaired = schema.related.from_free(torch.cat(self.rows).double().numpy())
            schema.write(self.table, rows, conditions)
        return torch.stack(self.kept)


def _array_of(values: Tensor, codec: CodecConfig, file_format: FileFormat | None) -> np.ndarray:
    """Values (N, C, *size) as the array of all has them: of the codec's type, or complex."""
    if file_format is not None and file_format.is_complex:
        return file_format.array(values.numpy())
    return values.numpy().astype(codec.dtype, copy=False)


def write_examples(
    folder: Path,
    name: str,
    names: Sequence[str],
    values: Tensor,
    codec: CodecConfig,
    file_format: FileFormat | None = None,
) -> list[str]:
    """Writes examples (n, C, *size) in the data's own range to NAME.npy, and images to NAME/; returns what was written.

    file_format: of the files that the data came in, which are written to NAME/ too, unless the examples are of another size than that.
    """
    array = _array_of(values, codec, file_format)
    np.save(folder / f"{name}.npy", array.reshape(len(array), *shape_in_files(array.shape[1:])))
    in_files = file_format is not None and file_format.has_files and tuple(values.shape[1:]) == codec.shape
    if len(codec.shape) != 3 and not in_files:
        return [f"{name}.npy"]
    (folder / name).mkdir()
    for k, each in enumerate(names):
        if len(codec.shape) == 3:
            save_image(values[k], codec, folder / name / f"{k:03d}-{each}.png")
        if in_files and file_format is not None:
            file_format.write(folder / name / f"{k:03d}-{each}{file_format.suffix}", values[k].numpy())
    return [f"{name}.npy", f"{name}/"]
