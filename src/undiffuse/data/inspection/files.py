"""The image files of a folder or an archive, each decoded once, whatever is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from undiffuse.data.config import DataConfig
from undiffuse.data.images import LARGEST_SHARE_UNREADABLE, decoded
from undiffuse.data.kept import ImageFacts
from undiffuse.data.pixels import IMAGE_SUFFIXES, ImageOptions, Openable, size_in_header
from undiffuse.data.readers import archives
from undiffuse.data.readers.folders import find, is_run

SIDES = (16, 32, 64, 128, 256)  # that pictures of many sizes are brought to, the largest that most reach
MOST_REACH = 0.9  # of the files
LOOKED_INTO = 2000  # files, whose headers say which size suits them
ODD_SHAPE = 2.0  # times as long, for its width, as most


@dataclass(frozen=True)
class Scan:
    """Of every file that can be read: itself, its name, size (height, width) and kind of pixel.   unreadable: name and reason of the others."""

    files: tuple[Openable, ...]
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
    if archives.in_archive(path) is not None:
        members = [m for m in archives.members_at(path)[0] if m.suffix in IMAGE_SUFFIXES]
        top = archives.common_folder([m.name for m in members])
        return list(members), [m.name.removeprefix(top) for m in members]
    if not path.is_dir() or is_run(path):
        return [], []
    found = find(path)
    return list(found.files), found.names


def sizes_of_some(files: Sequence[Openable]) -> list[tuple[int, int]]:
    """(height, width) of images, by the headers of at most LOOKED_INTO of them, evenly spread, that can be read."""
    spread = files[:: -(-len(files) // LOOKED_INTO) or 1]
    with ThreadPoolExecutor() as pool:
        return [size for size in pool.map(size_in_header, spread) if size is not None]


def suggested_side(sizes: Sequence[tuple[int, int]]) -> int | None:
    """The side to bring images of these sizes (height, width) to; None where all have one already, which is at most the largest of SIDES."""
    if not sizes or (len(set(sizes)) == 1 and max(sizes[0]) <= SIDES[-1]):
        return None
    reach = [sum(min(size) >= side for size in sizes) / len(sizes) for side in SIDES]
    return max((side for side, share in zip(SIDES, reach, strict=True) if share >= MOST_REACH), default=SIDES[0])


def scan(files: Sequence[Openable], names: Sequence[str], config: DataConfig) -> Scan:
    """Decodes every file, in parallel, as the data set will be read.   names: of the files."""
    found = decoded(files, ImageOptions.of(config))
    bad = tuple((name, facts) for name, facts in zip(names, found.facts, strict=True) if isinstance(facts, str))
    good = [
        (file, name, facts.size, facts.mode)
        for file, name, facts in zip(files, names, found.facts, strict=True)
        if isinstance(facts, ImageFacts)
    ]
    kept, named, sizes, modes = zip(*good, strict=True) if good else ((), (), (), ())
    return Scan(kept, named, sizes, modes, bad)
