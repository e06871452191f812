"""The conditions of every example of a data set, encoded and kept small: rows of a batch are made on demand.

    a tensor   (N, …), one row each: classes, numbers, vectors
    Ragged     rows of different lengths end to end, as in the compressed sparse row format, each different one once: tags, words,
               states of tokens
    Distinct   every different row once: pooled states of texts

N examples take as much memory as their values, not N times the longest text or the whole vocabulary.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

HashableT = TypeVar("HashableT", bound=Hashable)


class EncodedColumn(ABC):
    """The encoded values of one condition, one for each of N examples.   shape, dtype: of one row as it is handed out."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device = torch.device("cpu")

    @property
    def nbytes(self) -> int:
        """How many bytes all rows take as they are handed out."""
        return len(self) * math.prod(self.shape) * self.dtype.itemsize

    @abstractmethod
    def __len__(self) -> int:
        """N."""

    @abstractmethod
    def __getitem__(self, rows: Any) -> Tensor:
        """The rows (B, *shape) of examples by their numbers, an array or tensor (B,), on the CPU."""


Encoded: TypeAlias = Tensor | EncodedColumn


class Part(EncodedColumn):
    """Some rows of a column, which are looked up there and not copied."""

    def __init__(self, column: Encoded, rows: Any) -> None:
        self.column, self.rows = column, torch.as_tensor(rows)
        self.shape, self.dtype = (tuple(column.shape[1:]) if isinstance(column, Tensor) else column.shape), column.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Any) -> Tensor:
        return self.column[self.rows[torch.as_tensor(rows)]]


class Distinct(EncodedColumn):
    """content: the different rows (U, …).   which: of them each example has, int64 (N,), -1 where the value is absent: zeros."""

    def __init__(self, content: Tensor, which: Tensor) -> None:
        self.content, self.which = content, which
        self.shape, self.dtype = tuple(content.shape[1:]), content.dtype

    def __len__(self) -> int:
        return len(self.which)

    def __getitem__(self, rows: Any) -> Tensor:
        which = self.which[torch.as_tensor(rows)]
        found = (
            self.content[which.clamp(min=0)]
            if len(self.content)
            else torch.zeros(len(which), *self.shape, dtype=self.dtype)
        )
        return torch.where((which >= 0).reshape(-1, *[1] * len(self.shape)), found, torch.zeros((), dtype=self.dtype))


class Ragged(EncodedColumn):
    """Rows of different lengths, padded with zeros when they are handed out, or as 1 at the places that they name.

    content: all different rows end to end, (total, …).   starts: where each begins, and the end, int64 (U + 1,).   which: of them each
    example has, int64 (N,), -1 where the value is absent: all zeros.   most: the longest that may be; of `named` the vocabulary.
    named: whether content (total,) are places out of `most`, which become 1 in a row of most + 1, with a last 1 where a value is present.
    dtype: of the rows that are handed out.
    """

    def __init__(
        self, content: Tensor, starts: Tensor, which: Tensor, most: int, dtype: torch.dtype, named: bool = False
    ) -> None:
        self.content, self.starts, self.which, self.most, self.dtype, self.named = (
            content,
            starts,
            which,
            most,
            dtype,
            named,
        )
        self.shape = (most + 1,) if named else (most, *content.shape[1:])

    def __len__(self) -> int:
        return len(self.which)

    def __getitem__(self, rows: Any) -> Tensor:
        which = self.which[torch.as_tensor(rows)]
        present, of = which >= 0, which.clamp(min=0)
        first = self.starts[of]
        lengths = torch.where(present, self.starts[(of + 1).clamp(max=len(self.starts) - 1)] - first, 0)
        row = torch.repeat_interleave(torch.arange(len(which)), lengths)
        place = torch.arange(len(row)) - torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
        content = self.content[torch.repeat_interleave(first, lengths) + place]
        found = torch.zeros(len(which), *self.shape, dtype=self.dtype)
        if self.named:
            found[row, content.long()] = 1
            found[:, -1] = present.to(self.dtype)
        else:
            found[row, place] = content.to(self.dtype)
        return found


def end_to_end(parts: Iterable[Tensor], empty: Tensor) -> Tensor:
    """The rows of tensors (n, …) in one, (total, …), which grows in place: a list of them and their concatenation would be twice as much.

    empty: (0, …), what none of them are.
    """
    content = bytearray()
    for part in parts:
        content += part.contiguous().numpy().tobytes()
    return torch.frombuffer(content, dtype=empty.dtype).reshape(-1, *empty.shape[1:]) if content else empty


def starts_of(lengths: Sequence[int] | Tensor) -> Tensor:
    """Where rows of these lengths begin, end to end, and where the last ends; int64 (U + 1,)."""
    return torch.cat([torch.zeros(1, dtype=torch.int64), torch.as_tensor(lengths, dtype=torch.int64).cumsum(0)])


def distinct(values: Iterable[HashableT | None]) -> tuple[list[HashableT], Tensor]:
    """(the different values but None, in the order in which they come; which of them each is, int64 (N,), -1 for None)."""
    place: dict[HashableT, int] = {}
    which = [-1 if value is None else place.setdefault(value, len(place)) for value in values]
    return list(place), torch.tensor(which, dtype=torch.int64)
