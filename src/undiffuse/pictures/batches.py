"""A batch as the network sees it: each example, what it is told of it, and the same with more and more noise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from undiffuse.data.codec import Codec
from undiffuse.pictures.edits import at_level, pictures_of
from undiffuse.pictures.sheets import sheet
from undiffuse.pictures.tables import is_table, scatter
from undiffuse.pictures.views import level_label
from undiffuse.process.levels import Level
from undiffuse.process.philox import standard_normal
from undiffuse.rng import NoiseStream

MOST_BATCH_ROWS = 8
LONGEST_LABEL = 40


def batch_sheet(
    x: Tensor, levels: Level, codec: Codec, labels: Sequence[str], title: str, observed: Tensor | None = None
) -> Image.Image:
    """x (B, C, *size) in the model's range, a row for each example: itself, and x_t at each of the levels, a table.

    labels: of each example.   observed: what is left of x by degradations, (B, C, *size).   Rows of tables are dots, without noise.
    """
    if is_table(codec.config):
        return scatter(codec.decode(x), codec.config, [""] * len(x), title)
    x = x[:MOST_BATCH_ROWS].cpu()
    eps = standard_normal(x.shape[1:], 0, torch.arange(len(x)), stream=NoiseStream.FORWARD)
    columns = {"x": pictures_of(codec.decode(x), codec)}
    if observed is not None:
        columns["observed"] = pictures_of(codec.decode(observed[:MOST_BATCH_ROWS].cpu()), codec)
    for level in levels.rows():
        x_t = level.alpha.float() * x + level.sigma.float() * eps
        columns[level_label(level)] = at_level(x_t, level, codec)
    shown = [label if len(label) <= LONGEST_LABEL else f"{label[: LONGEST_LABEL - 1]}…" for label in labels[: len(x)]]
    rows = list(zip(*columns.values(), strict=True))
    return sheet(rows, title=title, row_labels=shown if any(shown) else (), column_labels=list(columns))
