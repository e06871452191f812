"""A folder of images.  Sub-folders are classes.  Grey stays grey, alpha and 16 bits are kept, nothing is converted
unless asked; files that cannot be read are listed and skipped, and more than 1 % of them stop the work."""

from __future__ import annotations

import os
import struct
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from undiffuse.data.dataset import Dataset
from undiffuse.errors import UsageError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}
CHANNEL_NAMES = {"grey": "L", "rgb": "RGB", "rgba": "RGBA"}
LARGEST_SHARE_UNREADABLE = 0.01
DESCRIBED = {"L": "grey", "LA": "grey with alpha", "RGB": "colour", "RGBA": "colour with alpha", "I;16": "16-bit grey"}


class Unreadable(Exception):
    """Why one file cannot be used."""


def _true_depth(path: Path) -> None:
    """Refuses PNGs that Pillow would silently cut from 16 to 8 bits: 16-bit colour, and 16-bit grey with alpha."""
    with open(path, "rb") as file:
        head = file.read(26)
    if head[:8] == b"\x89PNG\r\n\x1a\n" and len(head) == 26:
        depth, colour = struct.unpack("BB", head[24:26])
        if depth == 16 and colour != 0:
            raise Unreadable("a 16-bit colour PNG, which would lose half of its depth: store such images as .npy")


def read_image(path: Path, mode: str | None = None, size: tuple[int, int] | None = None, fit: str = "crop") -> Image.Image:
    """One image: first frame, upright by its EXIF note, in a mode of DESCRIBED.

    mode: convert to it.   size: (height, width) to resize to, by `fit`: crop, pad or stretch.
    Raises Unreadable.
    """
    try:
        _true_depth(path)
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                file.load()
                image = ImageOps.exif_transpose(file)
    except Unreadable:
        raise
    except Exception as error:  # Pillow raises many kinds; for one file out of many, all mean the same
        raise Unreadable(str(error) or type(error).__name__) from None
    image = image.convert(mode) if mode else _plain(image)
    return fitted(image, size, fit) if size else image


def _plain(image: Image.Image) -> Image.Image:
    """The image in the nearest mode of DESCRIBED that loses nothing."""
    if image.mode in DESCRIBED:
        return image
    if image.mode == "1":
        return image.convert("L")
    if image.mode == "P":
        return image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode in ("I;16B", "I;16L", "I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise Unreadable("integers beyond 16 bits: store such images as .npy")
        return Image.fromarray(values.astype(np.uint16))
    raise Unreadable(f"its colour mode {image.mode} is not grey or RGB: convert the file first")


def fitted(image: Image.Image, size: tuple[int, int], fit: str) -> Image.Image:
    height, width = size
    if image.size == (width, height):
        return image
    if image.mode == "I;16":  # Pillow resizes floats well and 16-bit integers badly
        resized = fitted(Image.fromarray(np.asarray(image).astype(np.float32)), size, fit)
        return Image.fromarray(np.asarray(resized).round().clip(0, 65535).astype(np.uint16))
    if fit == "crop":
        return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    if fit == "pad":
        return ImageOps.pad(image, (width, height), Image.Resampling.LANCZOS)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _files(root: Path) -> tuple[list[Path], list[str]]:
    """Image files below root, sorted, links leading out of it left out; and the suffixes of the other files."""
    files, others = [], set()
    inside = root.resolve()
    for folder, subfolders, names in os.walk(root):
        subfolders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            if name.startswith(".") or not path.resolve().is_relative_to(inside):
                continue
            if path.suffix.lower() in SUFFIXES:
                files.append(path)
            else:
                others.add(path.suffix or name)
    return files, sorted(others)


def _classes(root: Path, files: list[Path]) -> list[str] | None:
    """The name of each file's sub-folder; None where all lie in the folder itself."""
    names = [path.relative_to(root).parts[0] if path.parent != root else None for path in files]
    if None not in names:
        return names  # type: ignore[return-value]
    if any(names):
        raise UsageError(
            f"{root} holds images both in the folder itself and in sub-folders: sub-folders are classes, so put all "
            "images into sub-folders, or none."
        )
    return None


def _same(root: Path, files: list[Path], images: list[Image.Image]) -> None:
    """Raises UsageError where sizes or modes differ, naming an example of each of the two commonest."""
    for what, of, mend in (
        ("sizes", lambda image: f"{image.width}×{image.height}", "--size 64 (resizes, cropping to fit; --fit pad or stretch instead)"),
        ("kinds of pixel", lambda image: DESCRIBED[image.mode], "--channels grey, rgb or rgba"),
    ):  # fmt: skip
        seen: dict[str, list[Path]] = {}
        for path, image in zip(files, images, strict=True):
            seen.setdefault(of(image), []).append(path)
        if len(seen) > 1:
            first, second = sorted(seen.items(), key=lambda item: -len(item[1]))[:2]
            raise UsageError(
                f"{root} holds images of {len(seen)} {what}: {len(first[1])} are {first[0]} "
                f"(such as {_below(root, first[1][0])}), {len(second[1])} are {second[0]} "
                f"(such as {_below(root, second[1][0])}). Make them one with {mend}."
            )


def _below(root: Path, path: Path) -> Path:
    """A path as it is seen from root, where it lies below it."""
    return path.relative_to(root) if path.is_relative_to(root) else path


def read_images(
    root: Path, files: list[Path], size: tuple[int, int] | None = None, fit: str = "crop", channels: str | None = None
) -> tuple[list[Image.Image], list[int], tuple[str, ...]]:
    """Reads files in parallel: (the images, which of the files they are, notes on those that cannot be read).

    Raises UsageError where more than 1 % cannot be read, or sizes or modes differ.
    """
    mode = CHANNEL_NAMES[channels] if channels else None

    def read(path: Path) -> Image.Image | Unreadable:
        try:
            return read_image(path, mode, size, fit)
        except Unreadable as problem:
            return problem

    with ThreadPoolExecutor() as pool:
        results = list(pool.map(read, files))
    bad = [(path, result) for path, result in zip(files, results, strict=True) if isinstance(result, Unreadable)]
    listed = "; ".join(f"{_below(root, path)} ({problem})" for path, problem in bad[:10])
    listed += f"; and {len(bad) - 10} more" if len(bad) > 10 else ""
    if len(bad) > LARGEST_SHARE_UNREADABLE * len(files):
        raise UsageError(f"{len(bad)} of {len(files)} images in {root} cannot be read: {listed}. Mend or remove them.")
    kept = [i for i, result in enumerate(results) if not isinstance(result, Unreadable)]
    images = [result for result in results if not isinstance(result, Unreadable)]
    _same(root, [files[i] for i in kept], images)
    return images, kept, (f"skipped {len(bad)} of {len(files)} images that cannot be read: {listed}",) if bad else ()


def stacked(images: list[Image.Image]) -> np.ndarray:
    """Images of one size and mode as (N, C, H, W)."""
    values = np.stack([np.asarray(image) for image in images])
    return values[:, None] if values.ndim == 3 else np.ascontiguousarray(np.moveaxis(values, -1, 1))


def image_folder(
    root: Path, size: tuple[int, int] | None = None, fit: str = "crop", channels: str | None = None
) -> Dataset:
    """Reads every image below root into memory, in parallel.

    Raises UsageError for a folder without images, with more than 1 % unreadable ones, or with mixed sizes or modes.
    """
    files, others = _files(root)
    if not files:
        found = f"only files of type {', '.join(others[:5])}" if others else "nothing"
        raise UsageError(f"there are no images in {root}, {found}: it should hold .png, .jpg, .webp, .bmp, .tif or .gif files.")
    labels = _classes(root, files)
    images, kept, note = read_images(root, files, size, fit, channels)
    names: tuple[str, ...] = tuple(sorted(set(labels))) if labels else ()
    return Dataset(
        name=root.resolve().name,
        values=stacked(images),
        labels=np.array([names.index(labels[i]) for i in kept], dtype=np.int64) if labels else None,
        classes=names,
        mode=images[0].mode,
        columns={"file": np.array([files[i].relative_to(root).as_posix() for i in kept])},
        root=root,
        notes=note,
    )
