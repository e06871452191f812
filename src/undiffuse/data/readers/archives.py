"""Archives of images, zip and tar, read in place.  Nothing is unpacked.

    archive.zip                  all its images; a folder that holds all of them is looked through, folders below are classes, and texts of the
                                 same name, 0001.txt beside 0001.jpg, are the column `caption`
    archive.zip/train/cats       the images below that folder
    shards                       WebDataset: one tar, a folder of tars or a pattern, where most images have a 0001.cls or 0001.json beside them

Members whose names are absolute or lead upwards are refused with the whole archive, links and devices inside are left out.  Members of a plain
zip or tar are read one by one; a compressed tar has no index, so it is read once from the beginning, and its files are kept in memory as they
are stored.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal

import numpy as np

from undiffuse.data.arrays import class_labels
from undiffuse.data.cache import identity
from undiffuse.data.config import DataConfig
from undiffuse.data.damage import refuse_damaged
from undiffuse.data.dataset import Dataset
from undiffuse.data.images import NAMED, first_few, read_images
from undiffuse.data.kept import kept_dataset
from undiffuse.data.pixels import IMAGE_SUFFIXES, ImageOptions
from undiffuse.data.readers.folders import HIDDEN, OF_SYSTEMS
from undiffuse.data.readers.image_folder import images_by_name
from undiffuse.data.tables import CAPTIONS, as_column
from undiffuse.errors import UsageError

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
LARGEST_MEMBER = 2**30  # bytes, unpacked
LARGEST_COMPRESSED = 2**32  # bytes of all files in a compressed tar
CAPTION_SUFFIX, CLASS_SUFFIX, COLUMNS_SUFFIX = ".txt", ".cls", ".json"
BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True)
class Member:
    """One file of an archive.   name: there.   size: unpacked, in bytes.   content: reads all of it.   archive: its identity."""

    name: str
    size: int
    content: Callable[[], bytes] = field(repr=False)
    archive: str = ""

    @property
    def suffix(self) -> str:
        """The end of the name, in lower case."""
        return PurePosixPath(self.name).suffix.lower()

    @property
    def identity(self) -> str:
        """What tells the file from others, and from what it was before."""
        return f"{self.archive} {self.name}"

    def open(self, mode: Literal["rb"], /) -> IO[bytes]:
        """The file, in memory. Raises OSError for one that is too large to be a picture."""
        if self.size > LARGEST_MEMBER:
            raise OSError(
                f"it unpacks to {self.size / 1e9:.1f} GB, more than the {LARGEST_MEMBER / 1e9:.1f} GB that are read"
            )
        return io.BytesIO(self.content())


def in_archive(path: Path) -> tuple[Path, str] | None:
    """(the archive, the folder in it) that a path leads to, None where it leads into none: a.zip, or a.zip/train."""
    for place in (path, *path.parents):
        if place.name.lower().endswith(ARCHIVES) and place.is_file():
            return place, path.relative_to(place).as_posix().removeprefix(".")
    return None


def members(archive: Path) -> tuple[list[Member], list[str]]:
    """(the files of an archive by name, notes on what was left out). Raises UsageError for one that is damaged or leads out of itself."""
    with refuse_damaged(archive, "an archive"):
        found = list(_zip(archive) if archive.suffix.lower() == ".zip" else _tar(archive))
    leading_out = [
        m.name
        for m in found
        if m.name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", m.name) or m.name[1:2] == ":"
    ]
    if leading_out:
        raise UsageError(
            f"{archive} has members that lie outside it, such as {leading_out[0]!r}: it is damaged or made to do harm; pack it anew."
        )
    links = [m.name for m in found if m.size < 0]
    notes = [f"left out {len(links)} members that are links or no files ({first_few(links)})"] if links else []
    of = identity(archive)
    kept = [replace(m, archive=of) for m in found if m.size >= 0 and not _hidden(m.name)]
    return sorted(kept, key=lambda m: (PurePosixPath(m.name).parts[:-1], m.name)), notes


def _hidden(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return any(part.startswith(HIDDEN) for part in parts) or parts[-1] in OF_SYSTEMS


def _zip(path: Path) -> Iterator[Member]:
    archive = zipfile.ZipFile(path)  # stays open for the members, which share its lock
    for info in archive.infolist():
        if info.is_dir():
            continue
        if info.flag_bits & 1:
            raise UsageError(f"{path} is encrypted: unpack it with its password and give the folder.")
        link = (info.external_attr >> 16) & 0o170000 == 0o120000
        yield Member(info.filename, -1 if link else info.file_size, lambda info=info: archive.read(info))  # type: ignore[misc]


def _tar(path: Path) -> Iterator[Member]:
    if path.suffix.lower() == ".tar":
        with tarfile.open(path, "r:") as archive:
            for info in archive:
                if not info.isdir():
                    yield Member(
                        info.name, info.size if info.isfile() else -1, _part_of(path, info.offset_data, info.size)
                    )
        return
    kept = 0
    with tarfile.open(path, "r|*") as archive:
        for info in archive:
            if info.isdir():
                continue
            file = archive.extractfile(info) if info.isfile() and info.size <= LARGEST_MEMBER else None
            content = b"" if file is None else file.read()
            kept += len(content)
            if kept > LARGEST_COMPRESSED:
                raise UsageError(
                    f"{path} holds more than {LARGEST_COMPRESSED / 1e9:.0f} GB, and a compressed tar cannot be read in place: unpack it "
                    "and give the folder."
                )
            yield Member(info.name, info.size if info.isfile() else -1, lambda content=content: content)  # type: ignore[misc]


def _part_of(path: Path, offset: int, size: int) -> Callable[[], bytes]:
    def read() -> bytes:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    return read


def members_at(path: Path) -> tuple[list[Member], list[str]]:
    """(the files of an archive, or of the folder in it, that a path leads to; notes). Raises UsageError as `members` does."""
    place = in_archive(path)
    assert place is not None  # the kind of file says so
    archive, folder = place
    found, notes = members(archive)
    return [m for m in found if m.name.startswith(f"{folder}/")] if folder else found, notes


def image_archive(path: Path, config: DataConfig) -> Dataset:
    """The images of an archive, or of a folder in it. Raises UsageError where there are none, and as `read_images` does."""
    place = in_archive(path)
    return kept_dataset([place[0]] if place else [], (path, ImageOptions.of(config)), lambda: _of_archive(path, config))


def _of_archive(path: Path, config: DataConfig) -> Dataset:
    found, notes = members_at(path)
    pictures = [m for m in found if m.suffix in IMAGE_SUFFIXES]
    if not pictures:
        suffixes = Counter(m.suffix or "no suffix" for m in found)
        holds = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(NAMED)) or "nothing"
        raise UsageError(
            f"there are no images in {path}, which holds {holds}. It should hold .png, .jpg, .webp, .bmp, .tif or .gif files."
        )
    if _is_webdataset(found):
        data = samples(path.name, found, config)
        return replace(data, notes=(*data.notes, *notes))
    names = [m.name for m in pictures]
    top = common_folder(names)
    data = images_by_name(path, pictures, [name.removeprefix(top) for name in names], config)
    captions = {_key(m.name): m for m in found if m.suffix == CAPTION_SUFFIX}
    texts = [captions.get(_key(f"{top}{name}")) for name in data.columns["file"]]
    columns = dict(data.columns)
    if any(texts):
        columns[CAPTIONS] = as_column(["" if m is None else _text(m).strip() for m in texts])
    used = {m.name for m in (*pictures, *texts) if m is not None}
    others = [m.name for m in found if m.name not in used]
    notes += [f"left out {len(others)} files that are no images ({first_few(others)})"] if others else []
    name = next(part for part in (path, *path.parents) if part.is_file()).name.split(".")[0]
    return replace(data, name=name, columns=columns, notes=(*data.notes, *notes))


def common_folder(names: list[str]) -> str:
    """The folders, "a/b/", that all of these lie in."""
    parts = [PurePosixPath(name).parts[:-1] for name in names]
    shared = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return "".join(f"{part}/" for part in shared)


# WebDataset ---------------------------------------------------------------------------------------------------------------


def shards_of(path: Path) -> list[Path]:
    """The tars of a WebDataset: those of a folder that holds no other files, or of a pattern name-{000..123}.tar; none for anything else."""
    if path.is_dir():
        tars = []
        for each in path.iterdir():
            if each.name.lower().endswith(ARCHIVES[1:]):
                tars.append(each)
            elif each.suffix != COLUMNS_SUFFIX and not each.name.startswith((".", "_")):
                return []
        return sorted(tars)
    braces = BRACES.search(path.name)
    if braces is None:
        return []
    first, last = int(braces[1]), int(braces[2])
    return [path.with_name(path.name.replace(braces[0], f"{k:0{len(braces[1])}d}")) for k in range(first, last + 1)]


def shards(path: Path, config: DataConfig) -> Dataset:
    """The examples of all shards, in their order. Raises UsageError for shards that are missing."""
    return kept_dataset(shards_of(path), (path, ImageOptions.of(config)), lambda: _of_shards(path, config))


def _of_shards(path: Path, config: DataConfig) -> Dataset:
    tars = shards_of(path)
    missing = [tar.name for tar in tars if not tar.is_file()]
    if missing:
        raise UsageError(f"{len(missing)} of the {len(tars)} shards of {path} are not there: {first_few(missing)}.")
    found: list[Member] = []
    notes: list[str] = []
    for tar in tars:
        inside, left = members(tar)
        found += [replace(m, name=f"{tar.name.split('.')[0]}/{m.name}") for m in inside]
        notes += left
    if not any(m.suffix in IMAGE_SUFFIXES for m in found):
        raise UsageError(f"there are no images in the {len(tars)} shards of {path}.")
    data = samples(path.name, found, config)
    return replace(data, notes=(f"{len(tars)} shards are read as one data set", *data.notes, *notes))


def _key(name: str) -> str:
    """What the members of one example share: the name up to the first dot of its last part."""
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.partition('.')[0]}"


def _is_webdataset(found: list[Member]) -> bool:
    """Whether most images of an archive have a class or columns beside them."""
    images = {_key(m.name) for m in found if m.suffix in IMAGE_SUFFIXES}
    beside = {_key(m.name) for m in found if m.suffix in (CLASS_SUFFIX, COLUMNS_SUFFIX)}
    return len(images & beside) > len(images) / 2


def samples(name: str, found: list[Member], config: DataConfig) -> Dataset:
    """The examples of WebDataset: an image, and what the members of the same key say: .cls a class, .txt a caption, .json columns."""
    examples: dict[str, Member] = {}
    beside: dict[str, dict[str, Member]] = {}
    for member in found:
        key = _key(member.name)
        if member.suffix in IMAGE_SUFFIXES:
            examples.setdefault(key, member)
        else:
            beside.setdefault(key, {})[member.suffix] = member
    keys = list(examples)
    images = read_images(Path(name), list(examples.values()), keys, ImageOptions.of(config))
    kept = [keys[row] for row in images.kept]
    rows = [_row(beside.get(key, {})) for key in kept]
    columns = {
        column: as_column([row.get(column) for row in rows]) for column in dict.fromkeys(c for r in rows for c in r)
    }
    labels, classes, notes = None, tuple[str, ...](), list[str]()
    if "class" in columns:
        cells = columns.pop("class")
        labels, classes, notes = class_labels(cells if cells.dtype.kind == "f" else cells.astype(str))
    return Dataset(
        name.split(".")[0],
        images.values,
        labels,
        classes,
        mode=images.mode,
        file_format=images.file_format,
        columns={"key": np.array(kept), **columns},
        notes=(*images.notes, *notes),
    )


def _row(beside: Mapping[str, Member]) -> dict[str, Any]:
    """The columns of one example: what the members of its key hold, by their suffix."""
    row: dict[str, Any] = {}
    if (columns := beside.get(COLUMNS_SUFFIX)) is not None:
        try:
            content = json.loads(_text(columns))
        except ValueError as error:
            raise UsageError(f"{columns.name} cannot be read: {error}.") from None
        row |= {str(key): value for key, value in content.items()} if isinstance(content, dict) else {}
    if (label := beside.get(CLASS_SUFFIX)) is not None:
        text = _text(label).strip()
        row["class"] = int(text) if text.isdecimal() else text
    if (caption := beside.get(CAPTION_SUFFIX)) is not None:
        row[CAPTIONS] = _text(caption).strip()
    return row


def _text(member: Member) -> str:
    """The text of a member in UTF-8. Raises UsageError for anything else."""
    try:
        return member.open("rb").read().decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise UsageError(f"{member.name} cannot be read: {error}.") from None
