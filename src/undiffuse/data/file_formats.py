"""The files that examples came in, so that samples are written in the same: what an array does not say.

    volumes      where they lie in space (the affine), and the axes in the order of the file
    recordings   their rate, and how deep they are
    TIFF         floats, deep whole numbers and any number of channels, which PNG has not
    arrays       complex numbers, which x has as two channels each, the real and the imaginary part; sequences of unequal length, a file each
    tables       names, kinds and formats of their columns (data/table_schema.py)

A kind is an entry of FILE_WRITERS: a function that writes one example.  Pictures of up to 16 bits need none of this (pictures/images.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from PIL import Image
from pydantic import AfterValidator, Field

from undiffuse.config import Config
from undiffuse.data.table_schema import TableSchema
from undiffuse.registry import Registry
from undiffuse.system import optional

EXACT_PILLOW = ("uint8", "uint16", "int32", "float32")  # grey types that Pillow writes to TIFF as they are
EXACT_RECORDINGS = (".wav", ".flac", ".aif", ".aiff", ".au")  # that lose nothing


def _nifti(path: Path, values: np.ndarray, how: FileFormat) -> None:
    nibabel: Any = optional("nibabel")
    turned = _axes_of_file(values)
    image = nibabel.Nifti1Image(turned, np.array(how.affine).reshape(4, 4), dtype=turned.dtype)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


def _nrrd(path: Path, values: np.ndarray, how: FileFormat) -> None:
    affine = np.array(how.affine).reshape(4, 4)
    header: dict[str, Any] = {"space dimension": 3} if how.space is None else {"space": how.space}
    header |= {"space directions": affine[:3, :3].T, "space origin": affine[:3, 3]}
    optional("nrrd").write(str(path), _axes_of_file(values), header)


def _axes_of_file(values: np.ndarray) -> np.ndarray:
    """(1, D, H, W), or a slice (1, H, W), in the order of the file's axes, as readers/volumes.py turns them; a slice is one of a volume."""
    volume = values if values.ndim == 4 else values[:, None]
    return np.ascontiguousarray(volume[0].transpose(2, 1, 0))


def _recording(path: Path, values: np.ndarray, how: FileFormat) -> None:
    optional("soundfile").write(str(path), values.T, how.rate, subtype=how.subtype)


def _tiff(path: Path, values: np.ndarray, how: FileFormat) -> None:
    if len(values) == 1 and values.dtype.name in EXACT_PILLOW:
        Image.fromarray(values[0]).save(path)
        return
    kind = "rgb" if len(values) in (3, 4) and values.dtype.kind == "u" else "minisblack"
    image = values[0] if len(values) == 1 else np.ascontiguousarray(values.transpose(1, 2, 0))
    optional("tifffile").imwrite(path, image, photometric=kind, planarconfig=None if len(values) == 1 else "contig")


def _npy(path: Path, values: np.ndarray, how: FileFormat) -> None:
    np.save(path, values[0] if len(values) == 1 else values)


@dataclass(frozen=True)
class FileWriter:
    """A kind of file.   write: one example (C, *size), of the type in files; None where the array of all is enough.   module: that it needs."""

    write: Callable[[Path, np.ndarray, FileFormat], None] | None
    module: str = ""


FILE_WRITERS: Registry[FileWriter] = Registry(
    "kind of written file",
    "undiffuse.file_writers",
    {
        "array": FileWriter(None),
        "npy": FileWriter(_npy),
        "nifti": FileWriter(_nifti, "nibabel"),
        "nrrd": FileWriter(_nrrd, "nrrd"),
        "recording": FileWriter(_recording, "soundfile"),
        "tiff": FileWriter(_tiff),
        "table": FileWriter(None),
    },
)


class FileFormat(Config):
    """The files that samples are written in."""

    kind: Annotated[str, AfterValidator(FILE_WRITERS.checked)] = Field(
        description="Which kind of file it is: array, npy, nifti, nrrd, recording, tiff or table."
    )
    suffix: str = Field(description="How its name ends, with the dot.")
    dtype: str = Field(description="NumPy's name of the type in the file.")
    affine: tuple[float, ...] | None = Field(
        None, description="Of volumes: the affine (4, 4) from indices to millimetres, row by row."
    )
    space: str | None = Field(None, description="Of NRRD: its space, such as left-posterior-superior.")
    rate: int | None = Field(None, gt=0, description="Of recordings: samples a second.")
    table: TableSchema | None = Field(None, description="Of tables: what their columns are.")
    subtype: str | None = Field(None, description="Of recordings: libsndfile's name of their depth, such as PCM_16.")

    @property
    def is_complex(self) -> bool:
        """Whether two channels of x are one of complex numbers."""
        return self.dtype.startswith("complex")

    @property
    def has_files(self) -> bool:
        """Whether every example has a file of its own, beside the array of all."""
        return FILE_WRITERS[self.kind].write is not None

    def array(self, values: np.ndarray) -> np.ndarray:
        """Values (N, C, *size) of the codec as the type in files; (N, C/2, *size) where they are complex."""
        if self.is_complex:
            return (values[:, ::2] + 1j * values[:, 1::2]).astype(self.dtype)
        return (np.rint(values) if np.dtype(self.dtype).kind in "iu" else values).astype(self.dtype)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of one such array, of one of values (C, *size)."""
        return (shape[0] // 2, *shape[1:]) if self.is_complex else shape

    def write(self, path: Path, value: np.ndarray) -> None:
        """One example (C, *size) of the codec. Raises Failure where a package is missing."""
        write = FILE_WRITERS[self.kind].write
        assert write is not None
        write(path, self.array(value[None])[0], self)

    def require_package(self) -> None:
        """Raises Failure, with the fix, where what writes such files is not installed."""
        if module := FILE_WRITERS[self.kind].module:
            optional(module)

    def shrunk(self, factor: int, axes: int) -> FileFormat:
        """Of examples whose blocks of so many values along their axes are averaged.   axes: of one example."""
        update: dict[str, Any] = {}
        if self.affine is not None:
            along = np.array([factor] * min(axes, 3) + [1] * (3 - min(axes, 3)))
            blocks = np.diag([*along.astype(float), 1.0])
            blocks[:3, 3] = (along - 1) / 2  # the middle of the first block
            update["affine"] = tuple((np.array(self.affine).reshape(4, 4) @ blocks).ravel().tolist())
        if self.rate is not None:
            update["rate"] = max(1, round(self.rate / factor))
        return self.model_copy(update=update)
