"""The sheet of augmentations: examples as they are come first, then a column for each change and one for all."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from undiffuse.data.augmentation import AugmentConfig
from undiffuse.data.codec import Codec, fitted_codec
from undiffuse.data.dataset import Dataset
from undiffuse.pictures.augmentation import augmentation_sheet
from undiffuse.pictures.images import to_rgb
from undiffuse.pictures.sheets import sheet


@pytest.mark.parametrize(
    ("shape", "mode"), [((1, 40), None), ((3, 64, 64), "RGB"), ((4, 64, 64), "RGBA"), ((1, 6, 64, 64), None)]
)
def test_the_sheet_shows_the_original_first(shape, mode, monkeypatch):
    made = {}
    monkeypatch.setattr(
        "undiffuse.pictures.augmentation.sheet", lambda rows, **how: made.update(rows=rows, **how) or sheet(rows, **how)
    )
    values = np.random.default_rng(0).integers(0, 256, (4, *shape), dtype=np.uint8)
    codec = Codec(fitted_codec(Dataset("x", values, mode=mode, low=0, high=255)))
    config = AugmentConfig(probability=0.5, shift=0, flip=True, scale=0.2, brightness=0.1, mirror=True)
    augmentation_sheet(codec.encode(values), config, codec)
    assert made["column_labels"] == ["as it is", "flip", "scale", "brightness", "mirror", "in training"]
    for row, original, flipped in zip(
        made["rows"],
        to_rgb(torch.from_numpy(values), codec.config),
        to_rgb(torch.from_numpy(values).flip(-1), codec.config),
        strict=True,
    ):
        assert len(row) == 6
        assert np.array_equal(row[0], original)
        assert np.array_equal(row[1], flipped)
        assert np.array_equal(row[4], flipped)
        assert not any(np.array_equal(row[k], original) for k in (2, 3))
