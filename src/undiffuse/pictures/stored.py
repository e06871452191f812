"""Examples written to a folder, at once or while they are made: an array, and a picture of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from undiffuse.data.codec import CodecConfig, shape_in_files
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

    No more of them is held than what is shown.
    """

    def __init__(self, folder: Path, name: str, images: str, codec: CodecConfig, n: int, shown: Sequence[int]) -> None:
        self.images, self.codec, self.shown, self.done = folder / images, codec, frozenset(shown), 0
        self.kept: list[Tensor] = []
        self.images.mkdir()
        self.array = open(folder / f"{name}.npy", "wb")  # noqa: SIM115  closed by `finish`
        described = np.lib.format.dtype_to_descr(np.dtype(codec.dtype))
        header = {"descr": described, "fortran_order": False, "shape": (n, *shape_in_files(codec.shape))}
        np.lib.format.write_array_header_1_0(self.array, header)

    def add(self, values: Tensor) -> None:
        """values: float (B, C, *size), in the data's own range."""
        self.array.write(values.numpy().astype(self.codec.dtype).tobytes())
        for value in values:
            save_image(value, self.codec, self.images / f"{self.done:05d}.png")
            if self.done in self.shown:
                self.kept.append(value.clone())
            self.done += 1

    def finish(self) -> Tensor:
        """Those that are shown, (len(shown), C, *size)."""
        self.array.close()
        return torch.stack(self.kept)


def write_examples(folder: Path, name: str, names: Sequence[str], values: Tensor, codec: CodecConfig) -> list[str]:
    """Writes examples (n, C, *size) in the data's own range to NAME.npy, and images to NAME/; returns what was written."""
    array = values.numpy().astype(codec.dtype, copy=False)
    np.save(folder / f"{name}.npy", array.reshape(len(array), *shape_in_files(array.shape[1:])))
    if len(codec.shape) != 3:
        return [f"{name}.npy"]
    (folder / name).mkdir()
    for k, each in enumerate(names):
        save_image(values[k], codec, folder / name / f"{k:03d}-{each}.png")
    return [f"{name}.npy", f"{name}/"]
