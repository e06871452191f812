"""Writing many examples as they come: an array, images, and the few that a sheet shows."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from undiffuse.cli import shared

if TYPE_CHECKING:
    from torch import Tensor

    from undiffuse.data.codec import CodecConfig

MOST_SHOWN = 200  # examples on a sheet


def few(labels: Sequence[str], most: int = MOST_SHOWN) -> list[int]:
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


class Results:
    """Examples of one codec in a folder: NAME.npy, and IMAGES/00000.png, …, where they have pictures.   shown: those of a sheet.

    No more of them is held than what is shown.
    """

    def __init__(self, folder: Path, name: str, images: str, codec: CodecConfig, n: int, shown: Sequence[int]) -> None:
        import numpy as np

        from undiffuse.data.codec import shape_in_files

        self.images, self.codec, self.shown, self.done = folder / images, codec, frozenset(shown), 0
        self.kept: list[Tensor] = []
        self.images.mkdir()
        self.array = open(folder / f"{name}.npy", "wb")  # noqa: SIM115  closed by `finish`
        described = np.lib.format.dtype_to_descr(np.dtype(codec.dtype))
        np.lib.format.write_array_header_1_0(
            self.array, {"descr": described, "fortran_order": False, "shape": (n, *shape_in_files(codec.shape))}
        )

    def add(self, values: Tensor) -> None:
        """values: float (B, C, *size), in the data's own range."""
        from undiffuse.pictures.images import save_image

        self.array.write(values.numpy().astype(self.codec.dtype).tobytes())
        for value in values:
            save_image(value, self.codec, self.images / f"{self.done:05d}.png")
            if self.done in self.shown:
                self.kept.append(value.clone())
            self.done += 1

    def finish(self) -> Tensor:
        """Those that are shown, (len(shown), C, *size)."""
        import torch

        self.array.close()
        return torch.stack(self.kept)


@contextmanager
def fresh_folder(run: Path, kind: str, out: Path | None) -> Iterator[Path]:
    """A folder for results, of which nothing stays where what fills it fails."""
    there_before = out is not None and out.exists()
    folder = shared.result_folder(run, kind, out)
    try:
        yield folder
    except BaseException:
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        with suppress(OSError):  # a folder that holds other results stays
            if not there_before:
                folder.rmdir()
            if out is None:
                folder.parent.rmdir()
        raise
