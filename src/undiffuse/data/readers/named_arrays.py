"""Files of named arrays: HDF5, Zarr and NetCDF.  Which array is the data is said by `variable`, or follows from the names.

    the data        `variable`; else the one called images, x, data or values; else the only one of numbers with two axes or more.
                    Several names, "t2m,u10", are the channels of one example
    the axes        by `layout`; else by the names that the file gives them (time, channel, lat, lon, …); else as for any array
    labels          one called labels, y, label or targets, of one number for each example
    columns         every other array with as many rows
    missing         values that the attribute _FillValue or missing_value names

Only what is used is read, a part at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from undiffuse.data.arrays import LABELS, VALUES, array_dataset
from undiffuse.data.config import DataConfig
from undiffuse.data.damage import refuse_damaged
from undiffuse.data.dataset import Dataset
from undiffuse.data.holes import with_nodata_of_file
from undiffuse.data.large_arrays import allocated
from undiffuse.data.statistics import PART_NUMBERS
from undiffuse.errors import UsageError
from undiffuse.system import optional

WHAT = "a file of arrays"
HDF5, NETCDF = (".h5", ".hdf5", ".he5"), (".nc", ".nc4", ".cdf", ".netcdf")
AXIS_NAMES = {  # what files call their axes
    "N": "n time t sample samples example examples batch member number index record obs valid_time",
    "C": "c channel channels band bands variable level lev plev pressure_level feature features",
    "D": "d z depth plane",
    "H": "h y lat latitude height row rows nlat rlat",
    "W": "w x lon longitude width col cols column columns nlon rlon",
    "L": "l length position sample_time",
}


@dataclass(frozen=True)
class NamedArray:
    """shape, dtype: of the array.   dims: the names of its axes, where the file says them.   read: (first row, the row after the last) → values.

    nodata: the value that means missing, where the file says one.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    dims: tuple[str, ...] | None
    read: Callable[[int, int], np.ndarray]
    nodata: object = None

    def all(self) -> np.ndarray:
        """All values, read part by part."""
        dtype = self.dtype.newbyteorder("=")
        if not self.shape:
            return np.asarray(self.read(0, 1), dtype)
        values = allocated(self.shape, dtype)
        each = max(1, PART_NUMBERS // max(1, int(np.prod(self.shape[1:]))))
        for start in range(0, self.shape[0], each):
            values[start : start + each] = self.read(start, min(start + each, self.shape[0]))
        return values


def named_arrays(path: Path, config: DataConfig) -> Dataset:
    """The data set of a file of named arrays. Raises UsageError where it is not clear which of them is the data."""
    suffix = path.suffix.lower()
    open_ = _netcdf if suffix in NETCDF else _zarr if path.is_dir() else _hdf5
    with ExitStack() as stack:
        with refuse_damaged(path, WHAT):
            arrays = stack.enter_context(open_(path))
        return _dataset(path, arrays, config)


def _dataset(path: Path, arrays: Mapping[str, NamedArray], config: DataConfig) -> Dataset:
    chosen = _chosen(path, arrays, config.variable)
    first = arrays[chosen[0]]
    different = [name for name in chosen if arrays[name].shape != first.shape]
    if different:
        raise UsageError(
            f"{chosen[0]} of {path} has the shape {first.shape} and {different[0]} {arrays[different[0]].shape}: channels are of one shape."
        )
    layout = config.layout or (_layout(first.dims) if first.dims else None)

    def all_of(name: str) -> np.ndarray:
        with refuse_damaged(path, WHAT):
            return arrays[name].all()

    values = all_of(chosen[0]) if len(chosen) == 1 else _stacked([all_of(name) for name in chosen])
    if len(chosen) > 1 and layout is not None:
        layout = f"{layout[0]}C{layout[1:]}"
    rows = values.shape[layout.index("N")] if layout and "N" in layout else values.shape[0]
    label = next((name for name in LABELS if name in arrays and arrays[name].shape == (rows,)), None)
    columns = {
        name: all_of(name)
        for name, array in arrays.items()
        if name not in (*chosen, label)
        and array.shape[:1] == (rows,)
        and len(array.shape) <= 2
        and array.dtype.kind in "fiubSUO"
    }
    columns = {name: column.astype(str) if column.dtype.kind in "SUO" else column for name, column in columns.items()}
    data = array_dataset(path.stem, values, all_of(label) if label else None, layout, columns, config.complex)
    if len(chosen) == 1:
        data = with_nodata_of_file(data, first.nodata, config)
    named = ", ".join(chosen)
    others = [name for name in arrays if name not in (*chosen, label, *columns)]
    notes = [f"the data is {named} of {path.name}" + (f"; not used: {', '.join(others[:8])}" if others else "")]
    if layout and not config.layout:
        notes.append(f"its axes {', '.join(first.dims or ())} are read as {layout}; `layout` says otherwise")
    return replace(data, notes=(*notes, *data.notes))


def _stacked(arrays: list[np.ndarray]) -> np.ndarray:
    """Arrays (N, …) as the channels of one, (N, C, …)."""
    values = allocated((len(arrays[0]), len(arrays), *arrays[0].shape[1:]), np.result_type(*arrays))
    for channel, array in enumerate(arrays):
        values[:, channel] = array
    return values


def _chosen(path: Path, arrays: Mapping[str, NamedArray], variable: str | None) -> list[str]:
    """The names of the arrays that are the data."""
    listed = ", ".join(f"{name} {array.shape}" for name, array in list(arrays.items())[:12]) or "no arrays"
    if variable is not None:
        names = [name.strip() for name in variable.split(",")]
        missing = [name for name in names if name not in arrays]
        if missing:
            raise UsageError(f"{path} has no array {missing[0]!r}: it holds {listed}.")
        return names
    able = [name for name, array in arrays.items() if array.dtype.kind in "fiubc" and len(array.shape) >= 2]
    named = next((name for name in VALUES if name in able), None)
    if named is None and len(able) != 1:
        raise UsageError(
            f"{path} holds {listed}: say by `variable` which of them is the data, several as channels: a,b."
        )
    return [named or able[0]]


def _layout(dims: tuple[str, ...]) -> str | None:
    """The layout that names of axes say; None where they say too little."""
    axes = [next((axis for axis, names in AXIS_NAMES.items() if dim.lower() in names.split()), "") for dim in dims]
    if axes and not axes[0]:
        axes[0] = "N" if "N" not in axes else ""
    if (axes.count("H") and not axes.count("W")) or not all(axes) or len(set(axes)) < len(axes) or "N" not in axes:
        return None
    return "".join(axes)


@contextmanager
def _hdf5(path: Path) -> Iterator[Mapping[str, NamedArray]]:
    h5py = optional("h5py")
    with h5py.File(path, "r") as file:
        found: dict[str, NamedArray] = {}

        def visit(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset) and item.dtype.names is None:
                dims = tuple(dim.label for dim in item.dims)
                found[name] = NamedArray(
                    item.shape, item.dtype, dims if all(dims) and dims else None, _rows_of(item), _nodata(item.attrs)
                )

        file.visititems(visit)
        yield found


@contextmanager
def _zarr(path: Path) -> Iterator[Mapping[str, NamedArray]]:
    zarr = optional("zarr")
    store = zarr.open(str(path), mode="r")
    arrays = {"data": store} if isinstance(store, zarr.Array) else dict(_arrays_of(store, zarr))
    yield {name: _of_zarr(array) for name, array in arrays.items()}


def _of_zarr(array: Any) -> NamedArray:
    dims = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    named = tuple(dims) if dims and all(dims) else None
    return NamedArray(tuple(array.shape), np.dtype(array.dtype), named, _rows_of(array), _nodata(array.attrs))


def _nodata(attributes: Any) -> object:
    """What the attributes of an array say is missing; those of NetCDF are NaN already where it is read."""
    return next((attributes[name] for name in ("_FillValue", "missing_value") if name in attributes), None)


def _rows_of(array: Any) -> Callable[[int, int], np.ndarray]:
    """What reads rows of an array of HDF5, Zarr or xarray; all of it where it has no axes."""
    return lambda start, end: np.asarray(array[start:end] if array.shape else array[()])


def _arrays_of(group: Any, zarr: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, item in sorted(group.members()):
        if isinstance(item, zarr.Array):
            yield prefix + name, item
        else:
            yield from _arrays_of(item, zarr, f"{prefix}{name}/")


@contextmanager
def _netcdf(path: Path) -> Iterator[Mapping[str, NamedArray]]:
    optional("h5netcdf")
    xarray = optional("xarray")
    with path.open("rb") as file:
        engine = "h5netcdf" if file.read(8)[1:4] == b"HDF" else "scipy"
    if engine == "scipy":
        optional("scipy")
    with xarray.open_dataset(path, engine=engine, decode_times=False) as content:
        yield {
            str(name): NamedArray(tuple(v.shape), v.dtype, tuple(map(str, v.dims)), _rows_of(v))
            for name, v in content.variables.items()
        }


def is_zarr(path: Path) -> bool:
    """Whether a folder is a store of Zarr, of format 2 or 3."""
    return path.is_dir() and any((path / name).is_file() for name in (".zarray", ".zgroup", "zarr.json"))
