"""What users declare: which columns of their data are conditions, of which kind; and fitting that to the data.

Condition(kind="number", column="age")     becomes a NumberConfig with the mean, deviation and range of that column.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from undiffuse.conditioning.base import ConditionSettings, Inject
from undiffuse.conditioning.conditions import CONDITIONS, ConditionConfig
from undiffuse.conditioning.fitting import Column, Fitting
from undiffuse.conditioning.texts import WORDS
from undiffuse.conditioning.transformers import Pooling
from undiffuse.errors import UsageError, explained


def checked_kind(kind: str) -> str:
    """The name itself of a kind that users can declare. Raises UsageError for any other."""
    if not CONDITIONS[kind].config.declarable:
        raise UsageError(f"a run makes conditions of the kind {kind!r} itself: declare another kind.")
    return kind


class Condition(BaseModel):
    """A condition as declared."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: Annotated[str, AfterValidator(checked_kind)] = Field(
        description="What the values are: class, tags, number, vector, text, image or task."
    )
    column: str | None = Field(
        None,
        description="Column of the data, or an .npy file with one row per example; the condition's own name when left out.",
    )
    dropout: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Probability, from 0 to less than 1, that training leaves the condition out, so that guidance has an "
        "unconditional model; the design's condition_dropout when left out.",
    )
    inject: Inject | None = Field(
        None,
        description="How it enters the network: embedding (added in every layer), concat (extra input channels) or "
        "cross_attention; what suits the kind when left out.",
    )
    encoder: str | None = Field(
        None, description="Text encoder: words (trained with the model), or the folder or hub name of a transformer."
    )
    pooling: Pooling | None = Field(
        None, description="How the states of a transformer are used: mean, last, or tokens (all of them)."
    )
    channels: Literal["grey", "rgb", "rgba"] | None = Field(
        None, description="Convert pictures in files to grey, rgb or rgba."
    )

    def __init__(self, **settings: Any) -> None:
        """Raises UsageError for settings that are not there, or contradict each other."""
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise UsageError(f"the condition cannot be declared so: {explained(error)}") from None

    @model_validator(mode="after")
    def _nothing_ignored(self) -> Condition:
        if self.encoder is not None and self.kind != "text":
            raise UsageError(f"an encoder reads texts, and a {self.kind} is none: leave it out.")
        if self.pooling is not None and self.encoder in (None, WORDS):
            raise UsageError(
                "pooling belongs to a transformer's states: name the transformer as encoder, or leave it out."
            )
        if self.kind == "task" and self.dropout:
            raise UsageError("a task is always present, so it is never dropped: leave its dropout out.")
        if self.channels is not None and self.kind != "image":
            raise UsageError(f"channels are those of pictures, and a {self.kind} is none: leave them out.")
        return self


def fit_condition(
    declared: Condition,
    column: Column | Sequence[object] | Tensor,
    dropout: float = 0.1,
    *,
    name: str = "",
    download: bool = False,
    continued: bool = False,
    rows: Sequence[int] | None = None,
    legacy: bool = False,
    examples: Sequence[object] | None = None,
) -> ConditionConfig:
    """The configuration of a declared condition for a data set.   column: its values.   For the rest see `Fitting`.

    Raises UsageError for a column that the kind does not fit.
    """
    values = column if isinstance(column, Column) else Column(column)
    how = Fitting(declared, name, dropout, download, continued, rows, legacy, examples)
    kind = CONDITIONS[declared.kind].config
    if isinstance(values.values, Tensor) and kind.fit.__func__ is ConditionSettings.fit.__func__:  # type: ignore[attr-defined]
        raise UsageError(
            f"a {declared.kind} cannot be an array of shape {tuple(values.values.shape)}: give one value each."
        )
    return kind.fit(values, how)
