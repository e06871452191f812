"""What users declare: which columns of their data are conditions, of which kind; and fitting that to the data.

Condition(kind="number", column="age")     becomes a NumberConfig with the mean, deviation and range of that column.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from undiffuse.conditioning.base import Inject
from undiffuse.conditioning.classes import ClassConfig, TaskConfig, vocabulary
from undiffuse.conditioning.conditions import ConditionConfig
from undiffuse.conditioning.numbers import NumberConfig, as_number
from undiffuse.conditioning.pictures import ImageConfig
from undiffuse.conditioning.tags import TagsConfig, names_in
from undiffuse.conditioning.texts import TextConfig, WordsEncoder, text_or_none, words_of
from undiffuse.conditioning.transformers import Pooling, describe_encoder
from undiffuse.conditioning.vectors import VectorConfig
from undiffuse.errors import UsageError, explained

ConditionKind = Literal["class", "tags", "number", "vector", "text", "image", "task"]
WORDS = "words"


class Condition(BaseModel):
    """A condition as declared."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: ConditionKind = Field(description="What the values are: class, tags, number, vector, text, image or task.")
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
            raise UsageError("a task is always said, so it is never dropped: leave its drop out.")
        if self.channels is not None and self.kind != "image":
            raise UsageError(f"channels are those of pictures, and a {self.kind} is none: leave them out.")
        return self


def fit_condition(
    declared: Condition,
    column: Sequence[object] | Tensor,
    dropout: float = 0.1,
    mode: str | None = None,
    download: bool = False,
    continued: bool = False,
    rows: Collection[int] | None = None,
    span: tuple[float, float] | None = None,
    alpha: float | None = None,
) -> ConditionConfig:
    """The configuration of a declared condition for a data set.

    drop: where the condition has none of its own.
    column: names, texts or numbers, None where one is missing; vectors (N, d), NaN where they are; pictures (N, C, *size).
    mode: of pictures, Pillow's name.   download: whether a text encoder may be fetched.
    continued: whether the model knows the condition already, so that one value alone may be said.
    rows: those that mean, deviation and the size of a text's states are measured on; all when None, or where they hold too little to be
    measured.  Names, the range of numbers and pictures, and the length of the longest text are those of all rows: what may be asked for.
    span: the range of pictures; of the values themselves when None.   alpha: as ImageConfig has it.
    Raises UsageError for a column that the kind does not fit.
    """
    common: dict[str, Any] = {"dropout": dropout if declared.dropout is None else declared.dropout}
    common |= {"inject": declared.inject} if declared.inject else {}
    if isinstance(column, Tensor):
        if declared.kind == "image":
            return _of_pictures(column, mode, span, common | {"alpha": alpha})
        return _of_vectors(declared.kind, column, rows, common)
    said = [value for value in column if value is not None]
    common["missing"] = len(said) < len(column)
    if not said:
        raise UsageError("nothing is said in any row: leave it out.")
    if declared.kind == "class":
        return ClassConfig(names=_several(vocabulary(said), continued), **common)
    if declared.kind == "task":
        if common["missing"]:
            raise UsageError(f"{len(column) - len(said)} rows name no task, and every example needs one: fill them in.")
        return TaskConfig(names=_several(vocabulary(said), continued), **common | {"dropout": 0})
    if declared.kind == "tags":
        return TagsConfig(
            names=_several(vocabulary(name for value in said for name in names_in(value)), continued), **common
        )
    if declared.kind == "number":
        numbers = torch.tensor([as_number(value) for value in said], dtype=torch.float64)
        whole = {
            int(digits) for value in said if (digits := str(value).strip()).removeprefix("-").isdecimal()
        }  # exactly, unlike floats
        if len(whole) > len({float(value) for value in whole}) and not continued:  # a run of before goes on
            raise UsageError(
                "different whole numbers beyond 2^53 would be read as the same: subtract the smallest from all of them."
            )
        low, high = numbers.min().item(), numbers.max().item()
        if low == high and not continued:
            raise UsageError(f"it is {low:g} in every row: there is nothing to learn from it.")
        seen = [
            as_number(value)
            for value in (column if rows is None else [column[row] for row in rows])
            if value is not None
        ]
        numbers = torch.tensor(seen, dtype=torch.float64) if len(set(seen)) > 1 else numbers
        return NumberConfig(
            mean=numbers.mean().item(),
            std=numbers.std().item() if low < high else 1.0,
            low=low,
            high=high,
            **common,
        )
    assert declared.kind == "text"
    texts = [str(value) for value in said]
    if declared.encoder in (None, WORDS):
        common.setdefault("inject", "cross_attention")
        return TextConfig(encoder=WordsEncoder(most=max(1, *(len(words_of(text)) for text in texts))), **common)
    assert declared.encoder is not None
    measured = None if rows is None else [text for row in rows if (text := text_or_none(column[row])) is not None]
    encoder = describe_encoder(declared.encoder, declared.pooling, texts, download, measured)
    common.setdefault("inject", "cross_attention" if encoder.pooling == "tokens" else "embedding")
    return TextConfig(encoder=encoder, **common)


def _several(names: tuple[str, ...], continued: bool) -> tuple[str, ...]:
    if len(names) < (1 if continued else 2):
        raise UsageError(
            f"there is only one value, {names[0]!r}, so it tells nothing: leave it out."
            if names
            else "no row names any: leave it out."
        )
    return names


def _of_vectors(kind: str, column: Tensor, rows: Collection[int] | None, common: dict[str, Any]) -> VectorConfig:
    if kind != "vector" or column.ndim != 2:
        raise UsageError(
            f"a {kind} cannot be an array of shape {tuple(column.shape)}: a vector is (examples, numbers)."
        )
    there = ~column.isnan().any(1)
    said = column[there].double()
    if len(said) < 2 or not said.isfinite().all():
        raise UsageError("the vectors hold infinite numbers, or are all missing: mend them.")
    if not said.std(0).any():
        raise UsageError("the vectors are the same in every row: there is nothing to learn from them.")
    if rows is not None:
        of_rows = column[list(rows)][there[list(rows)]].double()
        said = of_rows if len(of_rows) > 1 and of_rows.std(0).any() else said
    deviation = said.std(0)
    return VectorConfig(
        mean=tuple(said.mean(0).tolist()),
        std=tuple(torch.where(deviation > 0, deviation, 1.0).tolist()),
        missing=not bool(there.all()),
        **common,
    )


def _of_pictures(
    column: Tensor, mode: str | None, span: tuple[float, float] | None, common: dict[str, Any]
) -> ImageConfig:
    there = torch.tensor([not (part.is_floating_point() and bool(part.isnan().any())) for part in column])
    said = column if there.all() else column[there]
    if not len(said):
        raise UsageError("the pictures are all missing: leave them out.")
    low, high = span or (
        (0.0, 65535.0 if mode.endswith(";16") else 255.0) if mode else (said.min().item(), said.max().item())
    )
    if not math.isfinite(low) or not low < high or (mode is None and said.min() == said.max()):
        raise UsageError("the pictures have the same value everywhere, or infinite ones: leave them out.")
    return ImageConfig(
        shape=tuple(column.shape[1:]), mode=mode, low=low, high=high, missing=not bool(there.all()), **common
    )
