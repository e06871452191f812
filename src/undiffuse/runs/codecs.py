"""The codec of a run: of its data, of the model it starts from, or the one that its network learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from undiffuse.data.codec import CodecConfig, fitted_codec
from undiffuse.data.dataset import Dataset
from undiffuse.data.ranges import colours, found_range
from undiffuse.errors import UsageError
from undiffuse.models.config import ModelConfig

SMALLEST, LARGEST = 0.05, 5.0  # deviation, and mean, of float data in the model's unit, where its own have 0.5 and 0
MOST_UNFILLED = (
    4  # times the range of the data that the model's may have, to stay the unit; masks of 0 and 1 are no dark photos
)


def fine_tuned_codec(
    base: ModelConfig, data: Dataset, rows: np.ndarray | None = None, *, legacy: bool = False
) -> CodecConfig:
    """The codec for new data.   rows, legacy: see `fitted_codec`.

    Raises UsageError for examples that the network cannot take, or of another unit.
    """
    fitted, of = fitted_codec(data, rows, legacy=legacy), base.codec
    if len(fitted.shape) != len(of.shape) or fitted.shape[0] != of.shape[0]:
        raise UsageError(
            f"the model to start from makes examples of {_described(of.shape)}, and the data has {_described(fitted.shape)}: "
            "fine-tuning keeps both numbers; convert the data (`channels`, for images), or train a new model."
        )
    same = {"shape": fitted.shape, "mode": fitted.mode}
    inside = of.kind == "integer" and of.holds(data.bounds())
    filled = legacy or of.high[0] - of.low[0] <= MOST_UNFILLED * (fitted.high[0] - fitted.low[0])
    if fitted.dtype == of.dtype and inside and filled and (data.low is None or legacy):
        return of.model_copy(update=same)
    if fitted.kind == "integer" or of.kind == "integer":
        return fitted
    codec = fitted.model_copy(update={"offset": of.offset, "scale": of.scale})
    for channel, (mean, own, zero, known) in enumerate(
        zip(fitted.offset, fitted.scale, of.offset, of.scale, strict=True)
    ):
        if not SMALLEST <= own / known / 2 <= LARGEST or abs(mean - zero) / known > LARGEST:
            raise UsageError(
                f"channel {channel} of the data is {mean:g} ± {own / 2:g}, and in the model's training it was {zero:g} ± {known / 2:g}: "
                "bring the data to the same unit."
            )
    return codec


def _described(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} channel{'s' * (shape[0] > 1)} and {len(shape) - 1} axes"


def kept_codec(before: ModelConfig | None, fitted: CodecConfig, folder: Path) -> CodecConfig:
    """The codec of a run that goes on: the one its network learned, whatever the data of now would suggest.

    before: the run's own model, None for a new run.   Raises UsageError for examples of another shape or type.
    """
    if before is None:
        return fitted
    same = [(codec.shape, codec.kind, codec.dtype) for codec in (before.codec, fitted)]
    if same[0] != same[1]:
        raise UsageError(
            f"the run in {folder} learned examples of shape {same[0][0]} and type {same[0][2]}, and the data has shape {same[1][0]} and type "
            f"{same[1][2]} now: choose another `name`."
        )
    return before.codec


def refuse_outside(before: ModelConfig | None, data: Dataset, requested: tuple[float, float] | None) -> None:
    """Raises UsageError for whole numbers beyond the range that a run's network learned, or another range that is requested."""
    if before is None or before.codec.kind != "integer" or not np.issubdtype(data.values.dtype, np.integer):
        return
    values = data.bounds()
    shown = colours(values, data.mode)
    low, high, smallest, largest = before.codec.low[0], before.codec.high[0], shown.min(), shown.max()
    if smallest < low or largest > high:
        expected = requested or found_range(values, data.mode)
        raise UsageError(
            f"the values lie in [{smallest}, {largest}] now, and this run keeps {low:g} to {high:g}: choose another `name` to read "
            f"{expected[0]:g} to {expected[1]:g}."
        )
    if requested is not None and requested != (low, high):
        raise UsageError(
            f"this run keeps {low:g} to {high:g}, as its network learned them: leave `range` out, or choose another `name` to read "
            f"{requested[0]:g} to {requested[1]:g}."
        )


def run_codec(
    data: Dataset,
    rows: np.ndarray,
    base: ModelConfig | None,
    before: ModelConfig | None,
    folder: Path,
    *,
    legacy: bool = False,
) -> CodecConfig:
    """The codec of a run.   base: the model that it starts from.   before: the run's own, where it goes on.   rows: see `fitted_codec`.

    Raises UsageError for examples that a network which is trained already cannot take.
    """
    if base is None:
        return kept_codec(before, fitted_codec(data, rows, legacy=legacy), folder)
    return kept_codec(before, fine_tuned_codec(base, data, rows, legacy=legacy), folder)
