"""The image files of a folder or an archive, each decoded once, whatever is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from undiffuse.data.config import DataConfig
from undiffuse.data.dataset import Dataset
from undiffuse.data.images import LARGEST_SHARE_UNREADABLE
from undiffuse.data.pixels import IMAGE_SUFFIXES, Openable, Unreadable, read_image
from undiffuse.data.readers import archives, image_folder

SIDES = (16, 32, 64, 128, 256)  # that pictures of many sizes are brought to, the largest that most reach
MOST_REACH = 0.9  # of the files
ODD_SHAPE = 2.0  # times as long, for its width, as most


@dataclass(frozen=True)
class Scan:
    """Of every file that can be read, in order: names, sizes (height, width), kinds of pixel.   unreadable: name and reason of the others."""

    names: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    modes: tuple[str, ...]
    unreadable: tuple[tuple[str, str], ...]

    @property
    def uniform(self) -> bool:
        """Whether all have one size and one kind of pixel."""
        return len(set(self.sizes)) <= 1 and len(set(self.modes)) <= 1

    @property
    def too_many_unreadable(self) -> bool:
        """Whether training would refuse them."""
        return len(self.unreadable) > LARGEST_SHARE_UNREADABLE * (len(self.names) + len(self.unreadable))

    @property
    def odd(self) -> list[str]:
        """The names of those that are far longer or wider than most, or of less than half the common shorter side."""
        ratios = sorted(height / width for height, width in self.sizes)
        shorter = sorted(min(size) for size in self.sizes)
        ratio, side = (of[len(of) // 2] if of else 1.0 for of in (ratios, shorter))
        return [
            name
            for name, (height, width) in zip(self.names, self.sizes, strict=True)
            if max(height / width / ratio, ratio * width / height) > ODD_SHAPE or min(height, width) < side / 2
        ]

    def suggested_size(self) -> int | None:
        """The side to bring all to: None where all have one size already, which is at most the largest of SIDES."""
        if not self.sizes or (len(set(self.sizes)) == 1 and max(self.sizes[0]) <= SIDES[-1]):
            return None
        reach = [sum(min(size) >= side for size in self.sizes) / len(self.sizes) for side in SIDES]
        return max((side for side, share in zip(SIDES, reach, strict=True) if share >= MOST_REACH), default=SIDES[0])

    def suggested_channels(self) -> str | None:
        """What to convert all to: None where they are of one kind."""
        kinds = {mode.split(";")[0] for mode in self.modes}
        if len(kinds) <= 1:
            return None
        return "grey" if kinds <= {"L", "I", "LA"} else "rgb"

    def numbers(self) -> dict[str, object]:
        """All of it as plain data, sizes and kinds counted."""
        return {
            "files": len(self.names) + len(self.unreadable),
            "sizes": {f"{h}x{w}": count for (h, w), count in Counter(self.sizes).most_common()},
            "kinds_of_pixel": dict(Counter(self.modes).most_common()),
            "unreadable": [{"file": name, "reason": reason} for name, reason in self.unreadable],
            "odd_sized": self.odd,
        }


def image_files(path: Path) -> tuple[list[Openable], list[str]]:
    """(the image files of a folder or an archive, their names there); none for any other kind of data."""
    place = archives.in_archive(path)
    if place is not None:
        members, _ = archives.members(place[0])
        found = [
            m for m in members if m.suffix in IMAGE_SUFFIXES and m.name.startswith(f"{place[1]}/" if place[1] else "")
        ]
        return list(found), [m.name for m in found]
    if not path.is_dir() or image_folder.is_run(path):
        return [], []
    files = image_folder.find(path).files
    return list(files), [file.relative_to(path).as_posix() for file in files]


def readable_images(path: Path, found: Scan, config: DataConfig) -> Dataset:
    """Those images of a folder or an archive that can be read."""
    files, names = image_files(path)
    by_name = dict(zip(names, files, strict=True))
    top = archives.common_folder(list(found.names)) if archives.in_archive(path) else ""
    shown = [name.removeprefix(top) for name in found.names]
    return image_folder.images_by_name(path, [by_name[name] for name in found.names], shown, config)


def scan(
    files: Sequence[Openable],
    names: Sequence[str],
    max_pixels: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> Scan:
    """Decodes every file, in parallel.   progress: called with the share that is done."""

    def looked(file: Openable) -> tuple[tuple[int, int], str] | str:
        try:
            picture = read_image(file, max_pixels=max_pixels)
        except Unreadable as problem:
            return str(problem)
        height, width = picture.values.shape[-2:]
        return (height, width), picture.mode

    found = []
    with ThreadPoolExecutor() as pool:
        for done, each in enumerate(pool.map(looked, files), start=1):
            found.append(each)
            if progress and (done % 64 == 0 or done == len(files)):
                progress(done / len(files))
    good = [(name, *each) for name, each in zip(names, found, strict=True) if not isinstance(each, str)]
    bad = tuple((name, each) for name, each in zip(names, found, strict=True) if isinstance(each, str))
    return Scan(tuple(g[0] for g in good), tuple(g[1] for g in good), tuple(g[2] for g in good), bad)
