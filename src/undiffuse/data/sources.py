"""Where data comes from: `digits` and other named sources, and every kind of file and folder that is known.

`digits` alone is the data set that comes with the package, also where a folder has that name: that one is ./digits.

A kind of file is an entry of FILE_KINDS: what it is recognised by, and a function that reads it, in a file of its own under readers/.
Kinds are looked at from the last registered to the first, so that a user's own comes before those of the package.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from undiffuse.data import tables
from undiffuse.data.config import DataConfig
from undiffuse.data.dataset import Dataset
from undiffuse.data.holes import with_checked_holes, with_masks, with_nodata
from undiffuse.data.items import as_dataset
from undiffuse.data.readers import archives, audio, named_arrays, tiff_stack, volumes
from undiffuse.data.readers.folders import holds_mostly
from undiffuse.data.readers.idx import idx
from undiffuse.data.readers.image_folder import image_folder
from undiffuse.data.readers.image_table import image_table
from undiffuse.data.readers.numpy_files import ARRAY_FILES, numpy_file, numpy_folder
from undiffuse.errors import UsageError
from undiffuse.registry import Registry


@dataclass(frozen=True)
class FileKind:
    """A kind of file or folder that holds a data set.

    what: it is, for messages.   read: its examples.   suffixes: of such files, in lower case.   claims: whether a path, of whatever suffix, is
    one; a file of the suffixes when None.   images: whether it holds pictures, so that `size`, `fit`, `channels` and `max_pixels` apply.
    """

    what: str
    read: Callable[[Path, DataConfig], Dataset]
    suffixes: tuple[str, ...] = ()
    claims: Callable[[Path], bool] | None = None
    images: bool = False

    def __call__(self, path: Path) -> bool:
        """Whether a path is of this kind."""
        if self.claims is not None:
            return self.claims(path)
        return path.is_file() and path.name.lower().endswith(self.suffixes)


FILE_KINDS: Registry[FileKind] = Registry(
    "kind of file",
    "undiffuse.file_kinds",
    {
        "image folder": FileKind("a folder of images", image_folder, claims=Path.is_dir, images=True),
        "idx": FileKind("an idx file", idx, claims=lambda path: path.is_file() and "idx" in path.name.lower()),
        "numpy": FileKind("an .npy or .npz file", numpy_file, (".npy", ".npz")),
        "image table": FileKind(
            "a table, of rows or of images that it names", image_table, tables.TABLE_SUFFIXES, images=True
        ),
        "image archive": FileKind(
            "a .zip or .tar of images",
            archives.image_archive,
            claims=lambda path: archives.in_archive(path) is not None,
            images=True,
        ),
        "webdataset": FileKind(
            "shards of WebDataset", archives.shards, claims=lambda path: bool(archives.shards_of(path)), images=True
        ),
        "hdf5": FileKind("an HDF5 file", named_arrays.named_arrays, named_arrays.HDF5),
        "zarr": FileKind("a Zarr store", named_arrays.named_arrays, claims=named_arrays.is_zarr),
        "netcdf": FileKind("a NetCDF file", named_arrays.named_arrays, named_arrays.NETCDF),
        "tiff stack": FileKind("a TIFF file of many pages", tiff_stack.tiff_stack, tiff_stack.TIFF),
        "volume": FileKind("a NIfTI or NRRD file", volumes.volume_file, volumes.VOLUMES),
        "numpy folder": FileKind(
            "a folder of .npy files", numpy_folder, claims=lambda path: holds_mostly(path, ARRAY_FILES)
        ),
        "volume folder": FileKind(
            "a folder of volumes", volumes.volume_folder, claims=lambda path: holds_mostly(path, volumes.VOLUMES)
        ),
        "audio folder": FileKind(
            "a folder of recordings", audio.audio_folder, claims=lambda path: holds_mostly(path, audio.RECORDINGS)
        ),
    },
)


def register_file_kind(name: str, suffixes: tuple[str, ...], read: Callable[[Path], Any]) -> None:
    """Makes files of one's own kind known, to `undiffuse.train("a.dcm")` and to `undiffuse train a.dcm`.

    suffixes: of such files, in lower case with the dot, such as (".dcm",).   read: called with the path; it returns whatever `as_dataset` takes:
    a torch Dataset, a list of tensors, an array, …, the same every time.
    Raises UsageError for a name that is taken, and suffixes that are none.
    """
    if isinstance(suffixes, str) or not suffixes or not all(s.startswith(".") and s == s.lower() for s in suffixes):
        raise UsageError(
            f"suffixes are one or several in lower case with their dots, such as ('.dcm',), and not {suffixes!r}."
        )

    def opened(path: Path, config: DataConfig) -> Dataset:
        return as_dataset(read(path), path.stem, layout=config.layout, parts=config.complex)

    FILE_KINDS.register(name, FileKind(f"a {name} file", opened, tuple(suffixes)), owner=read)


def open_digits() -> Dataset:
    """1,797 handwritten digits of 8×8, values 0..16 (UCI, CC BY 4.0), part of this package."""
    with resources.files("undiffuse.data").joinpath("digits/digits.npz").open("rb") as file:
        content = np.load(file, allow_pickle=False)
        values, labels = content["images"], content["labels"].astype(np.int64)
    return Dataset("digits", values, labels, tuple("0123456789"), low=0.0, high=16.0)


def shrunk(data: Dataset, factor: int) -> Dataset:
    """Examples whose numbers are the averages of blocks, of what is known in them, rounded where they are integers.

    Raises UsageError where blocks do not fit.
    """
    size = data.shape[1:]
    if any(n % factor for n in size):
        raise UsageError(
            f"blocks of {factor} do not fit examples of {'×'.join(str(n) for n in size)}: shrink by a number that divides every side."
        )
    within = tuple(range(3, 2 * len(size) + 2, 2))

    def blocks(values: np.ndarray) -> np.ndarray:
        return values.reshape(*values.shape[:2], *(part for n in size for part in (n // factor, factor)))

    if data.known is None:
        means = blocks(data.values).mean(within, dtype=np.float64)
    else:
        count = blocks(data.known).sum(within)
        means = blocks(data.filled(slice(None))).sum(within, dtype=np.float64) / np.maximum(count, 1)
        data = replace(data, known=count > 0)
    values = (means.round() if np.issubdtype(data.values.dtype, np.integer) else means).astype(data.values.dtype)
    kept = None if data.file_format is None else data.file_format.shrunk(factor, len(size))
    return replace(data, values=values, file_format=kept)


HANDED_OVER = "python:"  # what the source of data that never lay in a file starts with
SOURCES: Registry[Callable[[str], Any]] = Registry(
    "data source", "undiffuse.sources", {"digits": lambda rest: open_digits()}
)


def register_source(name: str, read: Callable[[str], Any]) -> None:
    """Makes data of one's own known as `name`, to `undiffuse.train(name)` and to `undiffuse train NAME`.

    read: called with what follows the name and a colon, as "0.1" of "moons:0.1", or with ""; it returns whatever `as_dataset` takes: a
    torch Dataset, a list of tensors, an array, …, the same every time, for a run that goes on reads it anew.
    Raises UsageError for a name that is taken.
    """
    SOURCES.register(name, read)


def own_source(source: str) -> bool:
    """Whether a source is a registered one. Entry points of packages are looked at where nothing lies at that path."""
    name = source.partition(":")[0]
    return name in set(SOURCES) or (not Path(source).expanduser().exists() and bool(name) and name in SOURCES)


def file_kind(path: Path) -> FileKind | None:
    """The kind of a file or folder that is there, None for what is none known."""
    return next((kind for kind in reversed(list(FILE_KINDS.values())) if kind(path)), None)


def of_images(config: DataConfig) -> bool:
    """Whether a configuration names files that hold pictures."""
    if own_source(config.source):
        return False
    kind = file_kind(Path(config.source).expanduser())
    return kind is not None and kind.images


def open_data(config: DataConfig) -> Dataset:
    """The data set a configuration names. Raises UsageError, one sentence with the fix, for anything unusable."""
    path = Path(config.source).expanduser()
    if own_source(config.source):
        name, _, rest = config.source.partition(":")
        data = as_dataset(SOURCES[name](rest), name, layout=config.layout, parts=config.complex)
        if path.exists():
            what = "the data set that comes with undiffuse" if name == "digits" else "a registered data source"
            data = replace(data, notes=(*data.notes, f"{name!r} is {what}; what is called so here is ./{name}"))
        return with_settings(data, config)
    if config.source.startswith(HANDED_OVER):
        raise UsageError(
            f"the data was handed over in Python, as a {config.source.removeprefix(HANDED_OVER)}, and lies in no file: give data as the run's was."
        )
    kind = file_kind(path)
    if kind is None and not path.exists():
        raise UsageError(
            f"there is no data at {path}: give {', '.join(map(repr, SOURCES.names()))}, or a folder or file that is there."
        )
    if kind is None:
        known = ", ".join(dict.fromkeys(each.what for each in FILE_KINDS.values()))
        raise UsageError(f"{path} is no kind of data known here: give {known}.")
    return with_settings(kind.read(path, config), config)


def with_settings(data: Dataset, config: DataConfig) -> Dataset:
    """Data that was read, with what is missing, its blocks averaged, its range set and the columns of a table.

    Raises UsageError for what does not fit it.
    """
    path = Path(config.source).expanduser()
    if (config.size or config.channels) and not of_images(config):
        raise UsageError("`size` and `channels` are for images; change an array before giving it.")
    if config.nodata is not None and config.size:
        raise UsageError(
            "`nodata` is a value as it is stored, and resizing mixes it with others: leave `size` out, or give masks as `missing`."
        )
    if config.complex and (data.file_format is None or not data.file_format.is_complex):
        raise UsageError(f"`complex` is for complex numbers, and the data is {data.values.dtype}: leave it out.")
    if data.table is not None:  # whose empty cells are values too
        for name in ("nodata", "missing", "shrink", "range"):
            if getattr(config, name) is not None:
                raise UsageError(
                    f"`{name}` is of numbers on one scale, and the rows of a table are none: leave it out."
                )
        return data if config.table is None else tables.with_table(data, Path(config.table).expanduser(), None)
    data = with_nodata(data, config.nodata)
    if config.missing is not None:
        data = with_masks(data, Path(config.missing).expanduser(), config.fit)
    data = data if config.shrink is None else shrunk(data, config.shrink)
    if config.range is not None:
        data = replace(data, low=config.range[0], high=config.range[1])
    if config.table is not None:
        named = "file" in data.columns and data.root is not None and path.suffix.lower() not in tables.TABLE_SUFFIXES
        files = data.columns["file"].tolist() if named else None
        data = tables.with_table(data, Path(config.table).expanduser(), files)
    return with_checked_holes(data)  # last: it may leave examples out, with the rows of the table that are theirs
