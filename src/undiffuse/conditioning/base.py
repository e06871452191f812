"""What every kind of condition is: a configuration, and a module that encodes, embeds and drops it.

    what the user gives ─encode──> numbers (n, …) ──dropped──> the same, some of it replaced by the null token
                                                  ──forward──> an embedding, for one of three ways into the network

    embedding   (B, width), added to the time embedding, into every layer     (Ho et al. 2020; AdaGN, Dhariwal & Nichol 2021)
    concat      (B, c) spread over all positions, or (B, c, *size), beside the noisy input       (Saharia et al. 2022, SR3)
    attention   (B, tokens, width), which positions attend to                              (Rombach et al. 2022, eq. 5)

The null token is a row of its own: an index past a vocabulary, or zeros where a last number tells whether
a value is present.  A network trained with it is the unconditional model as well, which is what
classifier-free guidance needs (Ho & Salimans 2022, Algorithm 1).
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, cast

import numpy as np
import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from torch import Tensor, nn

from undiffuse.conditioning.encoded import Encoded
from undiffuse.conditioning.fitting import Column, Fitting, one_value_each
from undiffuse.data.dataset import Dataset
from undiffuse.errors import UsageError

if TYPE_CHECKING:
    from undiffuse.conditioning.spec import Condition

Inject = Literal["embedding", "concat", "cross_attention"]
EXAMPLES_AT_ONCE = 1024  # examples of a data set
CONCAT_CHANNELS = 8  # channels that a condition without a size of its own is given beside the noisy input


LONGEST_NAME = 100  # characters


def checked_name(name: str) -> str:
    """The name of a condition or a task, which names files and folders too. Raises UsageError for one that would lead out of a folder."""
    if (
        not name.strip(". ")
        or len(name) > LONGEST_NAME
        or any(sign in "/\\" or not sign.isprintable() for sign in name)
    ):
        raise UsageError(
            f"{name[:LONGEST_NAME]!r} cannot be the name of a condition or a task, since files are called after it: "
            f"give it one of 1 to {LONGEST_NAME} characters without slashes; the column is given beside it."
        )
    return name


Name = Annotated[str, AfterValidator(checked_name)]


class Note(UserWarning):
    """A warning about something that may be intended, but should be known."""


def warn_note(text: str) -> None:
    """Warns with a Note: what functions do with their notes where they are given nothing else to do with them."""
    warnings.warn(text, Note, stacklevel=3)


@dataclass(frozen=True)
class ParameterMap:
    """Where the entries of an older parameter lie in one that grew along `axis`.

    of: for each place along it the old one, None for a new one.   starts: the old places whose mean the new ones start as, zero
    where there are none.
    """

    axis: int
    of: tuple[int | None, ...]
    starts: tuple[int, ...] = ()


class ConditionSettings(BaseModel, ABC):
    """What all kinds of condition have. Each kind is a subclass with more, whose `kind` is the name that it is registered under."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    dropout: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Probability, from 0 to less than 1, that training leaves the condition out, so that guidance has an "
        "unconditional model.",
    )
    inject: Inject = Field(
        "embedding",
        description="How it enters the network: embedding (added in every layer), concat (extra input channels) or "
        "cross_attention.",
    )
    missing: bool = Field(
        False,
        description="Whether some training examples have no value, so that the network knows the null token even without dropout.",
    )
    retired: bool = Field(
        False, description="Whether an earlier training used the condition and later ones no longer do."
    )
    kind: str = Field(description="The kind of condition.")

    declarable: ClassVar[bool] = True
    """Whether users can declare it; if not, runs make it of the examples themselves."""
    naming: ClassVar[bool] = False
    """Whether values are names of a vocabulary; of each name some example is then trained on."""
    pictures: ClassVar[bool] = False
    """Whether values are pictures, which take long to read and lie as the examples do."""
    numeric: ClassVar[bool] = False
    """Whether values are numbers, which mean nothing without the condition's name."""

    @property
    def droppable(self) -> bool:
        """Whether the network was trained with the null token."""
        return self.dropout > 0 or self.missing

    def retire(self) -> Self:
        """This condition in a model that continues without it."""
        return self.model_copy(update={"retired": True, "missing": True, "dropout": 0.0})

    # From the data to a configuration, and from the command line to values: a kind overrides what is different for it.

    @classmethod
    def read_column(cls, column: np.ndarray, data: Dataset, declared: Condition) -> Column:
        """The values of a column of the data (N, …): as they stand, floats that are whole numbers as int, None where a cell is empty.

        Raises UsageError for a column that the kind cannot be read from.
        """
        return Column(one_value_each(column, declared.kind))

    @classmethod
    def fit(cls, column: Column, how: Fitting) -> Self:
        """The configuration for a data set. Raises UsageError for a column that the kind does not fit."""
        return cls(**how.common(missing=len(column.present()) < len(column)))

    @classmethod
    def present(cls, value: object) -> object:
        """A value of a column, None where it is missing."""
        return present_or_none(value)

    @classmethod
    def names_of(cls, value: Any) -> list[str]:
        """The names in one value, of a kind with a vocabulary."""
        return [str(value)]

    @classmethod
    def parse(cls, text: str, config: Self | None = None, fit: str = "crop") -> tuple[list[Any], list[str]]:
        """The values in a text of the command line, one or several, and how each is shown.

        config: of the model's condition; None where it is only read off samples.   fit: how pictures are resized.
        Raises UsageError for a text that cannot be understood.
        """
        return [text], [text]

    def merged_with(self, data: Self) -> Self:
        """This condition when training goes on with data of which `data` was fitted: its scales and everything it knows stay.

        Raises UsageError where the two cannot be one condition.
        """
        return self._merged(data)

    def _merged(self, data: Self, **grown: object) -> Self:
        """What all kinds do of `continued`."""
        if data.inject != self.inject:
            raise UsageError(
                f"in the model it enters by {self.inject!r}, and the weights are for that: leave `inject` out, or give it another name."
            )
        same = {"dropout": data.dropout, "missing": data.missing or self.droppable, "retired": False}
        return self.model_copy(update={**same, **grown})

    @property
    def concat_channels(self) -> int:
        """How many channels are put beside the noisy input."""
        return CONCAT_CHANNELS if self.inject == "concat" else 0


class ConditionModule(nn.Module, ABC):
    """One condition of a model."""

    settable = True
    """Whether users can set it."""
    name = ""
    """Of this condition in its model, for messages."""
    axes = 0
    """Of one value, as people write it: 0 for a name, a text or a number, 1 for a vector."""

    def __init__(self, config: ConditionSettings) -> None:
        super().__init__()
        self.config = config
        self._null: Tensor | None
        self.register_buffer("_null", None, persistent=False)

    @abstractmethod
    def read(self, values: Sequence[object]) -> Tensor:
        """Values, none of them None → (n, …) on the CPU. Raises UsageError for what cannot be understood."""

    @abstractmethod
    def null_token(self) -> Tensor:
        """The null token of one example, of the shape and dtype of one row of `read`."""

    @abstractmethod
    def forward(self, encoded: Tensor) -> Tensor:
        """Encoded values → the embedding, see the top of this file."""

    def padding_mask(self, encoded: Tensor) -> Tensor | None:
        """(B, tokens), True where a token of `forward` is not there; None where all are."""
        return None

    def parameter_map(self, old: Self) -> dict[str, ParameterMap]:
        """Of the parameters that grow with what the condition knows, by name: where those of an older one lie."""
        return {}

    def zero_init_output(self) -> None:
        """Makes it start without effect: its last layer at zero, except where the network's own first layer for it is zero."""
        if self.config.inject == "embedding":
            last = [module for module in self.modules() if next(module.children(), None) is None][-1]
            for parameter in last.parameters():
                nn.init.zeros_(parameter)

    def is_one(self, value: object) -> bool:
        """Whether this is one value, and no sequence of values for several examples."""
        several = isinstance(value, list | tuple) and any(v is None for v in value)
        return not several and depth(value) <= self.axes

    def each(self, value: object, n: int, name: str) -> list[object]:
        """The value of each of n examples, where `value` is one value for all or a sequence of n. Raises UsageError for another number.

        name: of the condition.
        """
        each = [value] * n if self.is_one(value) else list(cast(Sequence[object], value))
        if len(each) != n:
            raise UsageError(f"{len(each)} values of {name!r} were given for {n} examples: give one, or one each.")
        return [bare(one) for one in each]

    def encode(self, values: Sequence[object]) -> Tensor:
        """One row for each value, None for the null token."""
        present = [row for row, value in enumerate(values) if value is not None]
        if len(present) == len(values):
            return self._read(values)
        self.require_null_token()
        nothing = self.null_token()
        if not present:
            return nothing.expand(len(values), *nothing.shape)
        encoded = nothing.repeat(len(values), *[1] * nothing.ndim)
        read = self._read([values[row] for row in present])
        if read.shape[1:] != encoded.shape[1:] or read.dtype != encoded.dtype:
            raise UsageError(
                f"a {self.config.kind} is read as {tuple(read.shape[1:])} of {read.dtype}, and its null token is {tuple(nothing.shape)} of "
                f"{nothing.dtype}: `read` and `null_token` return the same."
            )
        encoded[present] = read
        return encoded

    def _read(self, values: Sequence[object]) -> Tensor:
        """`read`, of any kind of condition. Raises UsageError where that returns anything but a tensor with a row for each value."""
        found: object = self.read(values)
        if not isinstance(found, Tensor) or found.ndim == 0 or len(found) != len(values):
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise UsageError(
                f"a {self.config.kind} was read as {shape} for {len(values)} values: `read` returns a tensor with a row for each."
            )
        return found

    def require_null_token(self) -> None:
        """Raises UsageError where the network was trained without the null token."""
        if not self.config.droppable:
            raise UsageError(
                "this model was trained without ever dropping it (drop = 0), so it has no unconditional mode: give it a value, "
                "or train with a drop of 0.1."
            )

    def encode_all(self, values: Sequence[object] | Tensor) -> Encoded:
        """The values of a whole data set, None or NaN for the null token, part by part and kept small.

        values: N of them, as people write them, or a tensor with a row for each.
        """
        nothing = self.null_token()
        whole = torch.empty(len(values), *nothing.shape, dtype=nothing.dtype)
        for start in range(0, len(values), EXAMPLES_AT_ONCE):
            part = values[start : start + EXAMPLES_AT_ONCE]
            whole[start : start + len(part)] = self.encode([present_or_none(value) for value in part])
        return whole

    def null_tokens(self, n: int, device: torch.device) -> Tensor:
        """The null token for n examples; made once, and brought to another device once."""
        if self._null is None or self._null.device != device:
            self._null = self.null_token().to(device)
        return self._null.expand(n, *self._null.shape)

    def dropped(self, encoded: Tensor, drop: Tensor) -> Tensor:
        """Encoded values with the null token where `drop` (B,) is true."""
        return torch.where(
            drop.reshape(-1, *[1] * (encoded.ndim - 1)), self.null_tokens(1, encoded.device).to(encoded.dtype), encoded
        )


def merged_vocabulary(names: Sequence[str], more: Sequence[str]) -> tuple[str, ...]:
    """A vocabulary with the names of another that it lacks at the end."""
    return tuple(dict.fromkeys((*names, *more)))


def old_indices(names: Sequence[str], before: Sequence[str]) -> tuple[int | None, ...]:
    """Where each name stands in an older vocabulary, None for a new one."""
    place = {name: k for k, name in enumerate(before)}
    return tuple(place.get(name) for name in names)


def width_for(config: ConditionSettings, width: int) -> int:
    """How many numbers the embedding of an example, or of a token, has."""
    return CONCAT_CHANNELS if config.inject == "concat" else width


def two_layers(numbers: int, width: int) -> nn.Sequential:
    """Linear, SiLU, Linear."""
    return nn.Sequential(nn.Linear(numbers, width), nn.SiLU(), nn.Linear(width, width))


def as_token(embedding: Tensor, config: ConditionSettings) -> Tensor:
    """(B, width) as the one token (B, 1, width) where positions attend to it."""
    return embedding[:, None] if config.inject == "cross_attention" else embedding


def present_or_none(value: object) -> object:
    """A value of a data set, None where it is missing."""
    return None if isinstance(value, Tensor) and value.is_floating_point() and value.isnan().any() else value


def bare(value: object) -> object:
    """Scalars of NumPy and torch as Python's own, anything else as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def depth(value: object) -> int:
    """How deep sequences are nested; the axes of an array."""
    if isinstance(value, list | tuple):
        return 1 + max((depth(v) for v in value), default=0)
    return int(getattr(value, "ndim", 0))
