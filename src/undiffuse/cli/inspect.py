"""undiffuse inspect DATA"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument

from undiffuse.cli import shared
from undiffuse.cli.options import not_none, opt, options_of, with_options
from undiffuse.cli.place import refuse_unwritable
from undiffuse.errors import UsageError

if TYPE_CHECKING:
    from undiffuse.data.config import DataConfig
    from undiffuse.data.inspection.files import Scan
    from undiffuse.data.inspection.report import Inspection
    from undiffuse.runs.plan_file import PlanFile

READING = options_of(
    "DataConfig",
    {None: ("fit", "channels", "variable", "layout", "max_pixels", "complex", "nodata", "missing", "table")},
)
MOST_NAMED = 6  # of each kind of what is noteworthy
EXAMPLES_SHOWN = 24
CHANGED_SHOWN, CHANGED_SIDE = 12, 128


def inspect(
    data: Annotated[str, Argument(metavar="DATA", help="What `train` takes: a folder, an archive, a file, digits.")],
    size: Annotated[Any, opt("Resize images: 64, or height×width as 48x80.", parse=shared.size)] = None,
    out: Annotated[Path | None, opt("Folder to write to; inspected/NAME when left out.")] = None,
    as_json: Annotated[bool, opt("Print the numbers as JSON.", None, "--json")] = False,
    **options: Any,
) -> None:
    """Look at data before training: counts, values, classes, copies, what is damaged or odd. Nothing of it is changed."""
    import json

    from undiffuse.config import finite, parsed
    from undiffuse.data.config import DataConfig
    from undiffuse.data.inspection.report import inspect_data
    from undiffuse.data.readers.image_folder import images_by_name
    from undiffuse.data.sources import open_data
    from undiffuse.runs.plan_file import PLAN
    from undiffuse.runs.prepare import default_name
    from undiffuse.runs.progress import data_bars
    from undiffuse.system import write_text

    config = parsed(
        DataConfig, not_none({"source": data, "size": size} | options), "these settings of the data do not work"
    )
    folder = out or Path("inspected") / default_name(data)
    refuse_unwritable(folder)
    with nullcontext() if as_json else data_bars():
        scan, config = _scanned(config)
        refused = scan is not None and scan.too_many_unreadable
        if scan is not None and refused:
            opened = images_by_name(Path(data).expanduser(), scan.files, scan.names, config)
        else:
            opened = open_data(config)
        found = inspect_data(opened)
        plan, problem = (None, None) if refused else _planned(config, found, scan, given=size is not None)
    command = shared.command("train", data, *_as_options(config))
    numbers = ({"files": scan.numbers()} if scan else {}) | found.numbers()
    numbers |= {"plan": None if plan is None else plan.model_dump(mode="json"), "suggested_command": command}
    text = json.dumps(finite(numbers), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(folder / "inspection.json", text)
    changed = [] if scan is None else _changed(scan, config)
    drawn = [] if problem or not _draw(found, changed, folder / "inspection.png") else ["inspection.png"]
    if plan is not None:
        plan.write(folder / PLAN)
        drawn.append(PLAN)
    if as_json:
        typer.echo(text, nl=False)
        return
    for line in [*_of_files(scan), *_of_examples(found), *(f"note: {shared.with_flags(n)}" for n in opened.notes)]:
        typer.echo(line)
    if refused:
        typer.echo("note: more than 1 % of the images cannot be read, and training refuses that: fix or remove them")
    if problem:
        typer.echo(f"note: training refuses this: {shared.with_flags(problem)}")
    if plan is not None:
        typer.echo("\nplan")
        for line in plan.lines():
            typer.echo(f"  {line}")
    typer.echo(f"\nwrote {folder}/: {', '.join([*drawn, 'inspection.json'])}")
    if plan is not None:
        typer.echo(f"edit and follow the plan: {shared.command('train', '--plan', folder / PLAN)}")
    if not problem:
        typer.echo(f"next: {command}")


with_options(inspect, READING)


def _as_options(config: DataConfig) -> list[object]:
    """How the data is read, as options of `train`: what is not as it is by default."""
    default = type(config)(source=config.source)
    found: list[object] = []
    for name in ("size", *(each.name for each in READING)):
        value = getattr(config, name)
        if value != getattr(default, name):
            shown = value if name != "size" else value[0] if value[0] == value[1] else f"{value[0]}x{value[1]}"
            flag = f"--{name.replace('_', '-')}"
            found += [flag] if value is True else [flag, shown]
    return found


def _scanned(config: DataConfig) -> tuple[Scan | None, DataConfig]:
    """(what the image files are, None where the data is none; the settings, with those that bring all to one size and kind of pixel)."""
    from undiffuse.data.inspection.files import image_files, scan, sizes_of_some
    from undiffuse.data.sources import of_images

    path = Path(config.source).expanduser()
    files, names = image_files(path) if of_images(config) else ([], [])
    if not files:
        return None, config
    config, found = _sized(config, sizes_of_some(files)), None
    if config.size is None:
        found = scan(files, names, config)
        config = _sized(config, found.sizes)  # in case that only those differ which were not among these
    if found is None or config.size is not None:
        found = scan(files, names, config)
    if not found.names:
        name, reason = found.unreadable[0]
        raise UsageError(f"none of the {len(files)} images in {path} can be read, such as {name}: {reason}.")
    return found, config.model_copy(update={"channels": config.channels or found.suggested_channels()})


def _sized(config: DataConfig, sizes: Sequence[tuple[int, int]]) -> DataConfig:
    """The settings with a size for images of these sizes (height, width), where they need one and none is set."""
    from undiffuse.data.inspection.files import suggested_side

    side = None if config.size else suggested_side(sizes)
    return config if side is None else config.model_copy(update={"size": (side, side)})


def _planned(
    config: DataConfig, found: Inspection, scan: Scan | None, given: bool
) -> tuple[PlanFile | None, str | None]:
    """(the plan that `train` would make, None where it refuses the data; why it does).   given: whether the size was."""
    from undiffuse.data.inspection.files import MOST_REACH, SIDES
    from undiffuse.runs.plan_file import PlanFile, measured
    from undiffuse.runs.prepare import prepare

    because = {}
    if scan is not None and config.size and not given:
        because["size"] = (
            f"{config.size[0]}×{config.size[1]}: the largest of {', '.join(map(str, SIDES))} that {MOST_REACH:.0%} of the files reach"
        )
    if scan is not None and config.channels and len(set(scan.modes)) > 1:
        because["channels"] = f"{config.channels}: files are of several kinds of pixel"
    try:
        with TemporaryDirectory() as nowhere:  # a run is made in a folder, and nothing of this one is written
            plan = prepare(config, Path(nowhere) / "run", dataset=found.data, duplicates=found.duplicates)
            return PlanFile.of(plan, because, measured(plan.run())), None
    except UsageError as problem:
        return None, str(problem)


def _of_files(scan: Scan | None) -> list[str]:
    """What is said of image files."""
    if scan is None:
        return []
    numbers = scan.numbers()
    sizes, kinds = numbers["sizes"], numbers["kinds_of_pixel"]
    assert isinstance(sizes, dict)
    assert isinstance(kinds, dict)
    shown = ", ".join(f"{size} ({count:,})" for size, count in list(sizes.items())[:MOST_NAMED])
    lines = [
        f"files        {numbers['files']:,} images of {len(sizes):,} size{'s' * (len(sizes) > 1)}: {shown}{', …' if len(sizes) > MOST_NAMED else ''}",
        f"pixels       {', '.join(f'{kind} ({count:,})' for kind, count in kinds.items())}",
    ]
    lines += [f"unreadable   {name}: {reason}" for name, reason in scan.unreadable[:MOST_NAMED]]
    more = len(scan.unreadable) - MOST_NAMED
    lines += [f"             and {more:,} more; inspection.json names all"] if more > 0 else []
    return lines + ([f"odd sizes    {_few(scan.odd)}"] if scan.odd else [])


def _clusters(n: int) -> str:
    return f"{n:,} cluster{'s' * (n != 1)}"


def _few(names: list[str]) -> str:
    return f"{len(names):,}: {', '.join(names[:MOST_NAMED])}{', …' if len(names) > MOST_NAMED else ''}"


def _of_examples(found: Inspection) -> list[str]:
    """What is said of the examples."""
    data, copies = found.data, found.duplicates
    q = found.quantiles
    lines = [f"examples     {len(data):,} of shape {'×'.join(map(str, data.shape))}, {data.values.dtype.name}"]
    if q:
        lines.append(
            f"values       {q[0]:g} to {q[-1]:g} (999 of 1000), median {q[3]:g}; mean {', '.join(f'{m:.3g}' for m in found.means[:4])}"
        )
    if any(found.missing):
        shares = ", ".join(f"{share:.1%}" for share in found.missing[:8])
        lines.append(
            f"missing      {shares}{', …' if len(found.missing) > 8 else ''} of the numbers{' of each channel' * (len(found.missing) > 1)}"
        )
    if found.classes:
        most = sorted(found.classes.items(), key=lambda item: -item[1])[:8]
        shown = ", ".join(f"{name or 'none'} {count:,}" for name, count in most)
        lines.append(f"classes      {len(data.classes):,}: {shown}{', …' if len(found.classes) > 8 else ''}")
        lines += [f"rare         {_few(found.rare)}"] if found.rare else []
    for column in found.columns:
        missing = f"; {column.missing:,} missing" if column.missing else ""
        lines.append(f"column       {column.name}: {column.kind or 'no condition'} ({column.why}{missing})")
    joined = f"{sum(map(len, copies.near)):,} in {_clusters(len(copies.near))} of near-duplicates"
    lines.append(f"copies       {copies.repeated:,} equal another; {joined}")
    lines += [f"             {' = '.join(found.data.names(cluster[:4]))}" for cluster in copies.near[:MOST_NAMED]]
    return lines + [f"{name:12} {_few(found.data.names(rows))}" for name, rows in found.quality.items()]


def _changed(scan: Scan, config: DataConfig) -> list[list[Any]]:
    """Pictures of some files that reading changes, each as it is in the file and, beside it, as it is read; unlike ones first."""
    from itertools import islice

    import numpy as np

    from undiffuse.data.pixels import CHANNELS, DESCRIBED, ImageOptions, Unreadable, converted, read_image
    from undiffuse.pictures.inspection import in_square

    others = [
        row
        for row, (size, mode) in enumerate(zip(scan.sizes, scan.modes, strict=True))
        if (config.size and size != tuple(config.size))
        or (config.channels and mode.split(";")[0] != list(DESCRIBED)[CHANNELS[config.channels] - 1])
    ]
    kinds = {(scan.sizes[row], scan.modes[row]): row for row in reversed(others)}
    found = []
    for row in islice(dict.fromkeys([*kinds.values(), *others]), CHANGED_SHOWN):
        try:
            each = [read_image(scan.files[row], how).values for how in (None, ImageOptions.of(config))]
        except Unreadable:
            continue
        top = max(255.0, *(float(values.max()) for values in each))  # of both, so that they are alike
        shown = [(values / top * 255).clip(0, 255).astype(np.uint8) for values in each]
        found.append([in_square(_on_white(converted(values, 4)), CHANGED_SIDE) for values in shown])
    return found


def _on_white(values: Any) -> Any:
    """A picture (4, H, W) of 8 bits with alpha as it looks on white, (H, W, 3)."""
    alpha = values[3:].astype(float) / 255
    return (values[:3] * alpha + 255 * (1 - alpha)).round().astype("uint8").transpose(1, 2, 0)


def _draw(found: Inspection, changed: list[list[Any]], path: Path) -> bool:
    """Draws the page, in the colours that the data is shown in everywhere. Returns whether it could.   changed: see `_changed`."""
    import numpy as np
    import torch

    from undiffuse.data.codec import fitted_codec
    from undiffuse.pictures.images import to_rgb
    from undiffuse.pictures.inspection import InspectionPage, draw_inspection

    data = found.data
    try:
        codec = fitted_codec(data)
    except UsageError:
        return False

    def shown(rows: Any) -> list[Any]:
        values = data.values[rows].astype(np.float64)
        if data.known is not None:  # missing numbers as the lowest, black
            values = np.where(data.known[rows], values, np.reshape(codec.low, (-1, *[1] * (values.ndim - 2))))
        return list(to_rgb(torch.from_numpy(values), codec))

    spread = np.unique(np.linspace(0, len(data) - 1, EXAMPLES_SHOWN).round().astype(int))
    rows = [
        (f"{name}: {len(which):,}", [[picture] for picture in shown(which[:12])])
        for name, which in found.quality.items()
    ]
    near = [shown(cluster[:4]) for cluster in found.duplicates.near[:12]]
    if changed:
        rows.insert(0, ("in the file, and beside it as it is read", changed))
    if near:
        rows.insert(0, (f"near-duplicates: {_clusters(len(found.duplicates.near))}", near))
    values = data.values[spread].astype(np.float64)
    values = values.ravel() if data.known is None else values[np.broadcast_to(data.known[spread], values.shape)]
    span = (min(codec.low), max(codec.high)) if codec.kind == "integer" else (found.quantiles[0], found.quantiles[-1])
    copies = f"{sum(map(len, found.duplicates.near)):,} in clusters of near-duplicates"
    subtitle = f"{len(data):,} examples of {'×'.join(map(str, data.shape))}, {data.values.dtype.name} · {copies}"
    draw_inspection(InspectionPage(data.name, subtitle, shown(spread), values, span, found.classes, rows), path)
    return True
