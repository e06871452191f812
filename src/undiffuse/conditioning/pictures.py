"""A picture as a condition: a mask, a smaller version, edges, a grey version, of the example to be made.

    concat      beside the noisy input, channel by channel, brought to its size where it is smaller or larger (the default)
    layers      a few strided convolutions, the mean over positions
    attention   the same convolutions, every position a token

Scaled by the data to about -1 … 1.  Encoded with a last channel of ones, all zeros where the picture is absent.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from undiffuse.conditioning.base import ConditionModule, ConditionSettings, Inject, Note, depth, present_or_none
from undiffuse.conditioning.encoded import Encoded, EncodedColumn
from undiffuse.conditioning.fitting import Column, Fitting
from undiffuse.data import tables
from undiffuse.data.codec import CodecConfig
from undiffuse.data.dataset import Dataset
from undiffuse.data.examples import read_examples
from undiffuse.data.ranges import FULL_RANGES, colours, found_range, has_alpha
from undiffuse.errors import UsageError

if TYPE_CHECKING:
    from undiffuse.conditioning.spec import Condition

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TOKENS_PER_AXIS = 8
KEPT_AS = {"uint8": "uint8", "bool": "uint8", "uint16": "int32"}  # by their type in files; any other as float32
TYPES = {torch.uint8: "uint8", torch.int32: "uint16"}  # whose range is found, by the type that they are kept as
NUMBERS_AT_ONCE = 2**20  # of a data set's pictures


class ImageConfig(ConditionSettings):
    """A picture of the example's size or another."""

    pictures: ClassVar[bool] = True

    kind: Literal["image"] = Field("image", description="Which kind of condition this is.")
    shape: tuple[int, ...] = Field(min_length=2, description="Shape of a picture: (C, *size).")
    mode: str | None = Field(None, description="Pixel mode of image files, by Pillow's name; None for arrays.")
    low: float = Field(description="Lowest stored value: black.")
    high: float = Field(description="Highest stored value: white.")
    alpha: float | None = Field(
        None, description="Highest value of the last channel, where that is an alpha channel with a range of its own."
    )
    inject: Inject = Field(
        "concat",
        description="How it enters the network: embedding (added in every layer), concat (extra input channels) or "
        "cross_attention.",
    )

    @classmethod
    def read_column(cls, column: np.ndarray, data: Dataset, declared: Condition) -> Column:
        """Pictures (N, C, *size): arrays, or the files that a column names."""
        values, mode, notes = tables.pictures(data, column, declared.channels)
        kept = torch.from_numpy(values.astype(KEPT_AS.get(values.dtype.name, "float32"), copy=False))
        return Column(kept, mode, notes)

    @classmethod
    def fit(cls, column: Column, how: Fitting) -> ImageConfig:
        pictures, mode = column.values, column.mode
        if not isinstance(pictures, Tensor):
            raise UsageError("a picture is an array for each example: (examples, channels, *size).")
        for note in column.notes:
            warnings.warn(f"of the pictures of {how.name!r}, {note}", Note, stacklevel=2)
        there = torch.tensor([not (part.is_floating_point() and bool(part.isnan().any())) for part in pictures])
        present = pictures if there.all() else pictures[there]
        if not len(present):
            raise UsageError("the pictures are all missing: leave them out.")
        low, high, alpha = cls._range(present, mode, how)
        if not math.isfinite(low) or not low < high or (mode is None and present.min() == present.max()):
            raise UsageError("the pictures have the same value everywhere, or infinite ones: leave them out.")
        common = how.common(missing=not bool(there.all()))
        return cls(shape=tuple(pictures.shape[1:]), mode=mode, low=low, high=high, alpha=alpha, **common)

    @classmethod
    def _range(cls, pictures: Tensor, mode: str | None, how: Fitting) -> tuple[float, float, float | None]:
        """What is black and white (data/ranges.py), noted where it is not all of the type, and the highest value of alpha."""
        if pictures.dtype not in TYPES or how.legacy:
            if mode is None:
                return pictures.min().item(), pictures.max().item(), None
            return 0.0, 65535.0 if mode.endswith(";16") else 255.0, None
        full = FULL_RANGES[TYPES[pictures.dtype]]
        values = pictures.numpy().astype(TYPES[pictures.dtype], copy=False)
        low, high = found_range(values, mode)
        if high < full:
            top = colours(values, mode).max()
            warnings.warn(
                f"the pictures of {how.name!r} reach {top} and are read as {low:.0f} to {high:.0f}", Note, stacklevel=2
            )
        return low, high, float(full) if has_alpha(mode) else None

    @classmethod
    def parse(cls, text: str, config: ImageConfig | None = None, fit: str = "crop") -> tuple[list[Any], list[str]]:
        """The path of an image, or of an .npy file, brought to the model's shape and range."""
        if config is None:
            raise UsageError("the model has no such picture as a condition: leave it out.")
        (low, high), path = config.span, Path(text)
        as_data = CodecConfig(
            shape=config.shape,
            kind="float",
            dtype="float32",
            mode=config.mode,
            low=low,
            high=high,
            offset=tuple((a + b) / 2 for a, b in zip(low, high, strict=True)),
            scale=tuple((b - a) / 2 for a, b in zip(low, high, strict=True)),
        )
        values, notes = read_examples(path, as_data, fit)
        for note in notes:
            warnings.warn(note, Note, stacklevel=2)
        return list(values), [path.stem if len(values) == 1 else f"{path.stem}[{k}]" for k in range(len(values))]

    def merged_with(self, data: ImageConfig) -> ImageConfig:
        """The scale stays the one that the network knows."""
        if data.shape[0] != self.shape[0]:
            raise UsageError(
                f"its pictures have {data.shape[0]} channels, and the model takes {self.shape[0]}: convert them, or name it otherwise."
            )
        return self._merged(data, shape=data.shape, mode=data.mode)

    @property
    def span(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The lowest and the highest stored values, one per channel."""
        if self.alpha is None:
            return (self.low,) * self.shape[0], (self.high,) * self.shape[0]
        return (*(self.low,) * (self.shape[0] - 1), 0.0), (*(self.high,) * (self.shape[0] - 1), self.alpha)

    @property
    def concat_channels(self) -> int:
        return self.shape[0] + 1 if self.inject == "concat" else 0


class Pictures(EncodedColumn):
    """Pictures as they are stored (N, C, *size), encoded when rows of them are indexed."""

    def __init__(self, stored: Tensor, config: ImageConfig) -> None:
        self.stored, self.config = stored, config
        self.shape, self.dtype = (stored.shape[1] + 1, *stored.shape[2:]), torch.float32

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, rows: Any) -> Tensor:
        pictures = self.stored[torch.as_tensor(rows)].float()
        missing = pictures.flatten(1).isnan().any(1).reshape(-1, *[1] * (pictures.ndim - 1))
        return torch.where(missing, 0.0, scaled(pictures, self.config))


def scaled(pictures: Tensor, config: ImageConfig) -> Tensor:
    """Stored values (B, C, *size) → about -1 … 1, with a last channel of ones."""
    found = (pictures - config.low) / (config.high - config.low) * 2 - 1
    if config.alpha is not None:
        found[:, -1] = pictures[:, -1] / config.alpha * 2 - 1
    return torch.cat([found, torch.ones_like(found[:, :1])], 1)


class ImageCondition(ConditionModule):
    """Pictures (B, C + 1, *size) → the same, embeddings (B, width) or tokens (B, positions, width)."""

    config: ImageConfig

    def __init__(self, config: ImageConfig, width: int) -> None:
        super().__init__(config)
        self.axes = len(config.shape)
        layers: list[nn.Module] = []
        channels, side = config.shape[0] + 1, max(config.shape[1:])
        if config.inject != "concat":
            kind = CONVOLUTIONS[len(config.shape) - 1]
            while side > TOKENS_PER_AXIS:
                layers += [kind(channels, width, 3, stride=2, padding=1), nn.SiLU()]
                channels, side = width, -(-side // 2)
            layers.append(kind(channels, width, 3, padding=1))
        self.convolutions = nn.Sequential(*layers)

    def forward(self, encoded: Tensor) -> Tensor:
        if self.config.inject == "concat":
            return encoded
        features = self.convolutions(encoded).flatten(2)
        out: Tensor = features.mean(2) if self.config.inject == "embedding" else features.transpose(1, 2)
        return out

    def is_one(self, value: object) -> bool:
        """One picture, and no list of several that all leave out their only channel."""
        if self.config.shape[0] == 1 and depth(value) == self.axes:
            first, *others = cast(Sequence[object], value)
            return not others and not (isinstance(value, list | tuple) and hasattr(first, "ndim"))
        return super().is_one(value)

    def null_token(self) -> Tensor:
        channels, *size = self.config.shape
        return torch.zeros(channels + 1, *size)

    def read(self, values: Sequence[object]) -> Tensor:
        """Arrays (C, *size) of stored values; without C where there is one channel."""
        rows, (channels, *size), c = [], self.config.shape, self.config
        for value in values:
            try:
                picture = torch.as_tensor(value, dtype=torch.float32).cpu()
            except (TypeError, ValueError, RuntimeError):
                raise UsageError(f"{str(value)[:40]!r} is no picture: give an array of shape {c.shape}.") from None
            if channels == 1 and list(picture.shape) == size:
                picture = picture[None]
            if tuple(picture.shape) != c.shape:
                raise UsageError(
                    f"the picture has the shape {tuple(picture.shape)}, but the model takes {c.shape}: resize it."
                )
            if not picture.isfinite().all():
                raise UsageError("the picture holds values that are NaN or infinite: fix it.")
            if any(part.min() < low or part.max() > high for part, low, high in zip(picture, *c.span, strict=True)):
                raise UsageError(
                    f"the picture's values lie in [{picture.min():g}, {picture.max():g}], but in training they lay in [{c.low:g}, {c.high:g}]: "
                    "scale it as there."
                )
            rows.append(picture)
        return scaled(torch.stack(rows), c)

    def encode_all(self, values: Sequence[object] | Tensor) -> Encoded:
        """Pictures in a tensor stay as they are stored; each is looked at once."""
        if not isinstance(values, Tensor):
            return super().encode_all(values)
        for part in values.split(max(1, NUMBERS_AT_ONCE // math.prod(self.config.shape))):
            self.encode([present_or_none(value) for value in part])
        return Pictures(values, self.config)
