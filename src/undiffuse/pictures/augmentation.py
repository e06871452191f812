"""What augmentation does to examples, for people: the original, each chosen change alone, and all as training draws them."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from undiffuse.data.augmentation import AugmentConfig, augmented
from undiffuse.data.codec import Codec
from undiffuse.data.ranges import has_alpha
from undiffuse.pictures.images import to_rgb
from undiffuse.pictures.sheets import sheet
from undiffuse.rng import GeneratorStream, generator

MOST_AUGMENTED = 6
DRAWS = 8  # of each change, the first of which that changed anything is shown


def augmentation_sheet(x: Tensor, config: AugmentConfig, codec: Codec, seed: int = 0) -> Image.Image:
    """Examples x (B, C, *size), in the model's range, a row for each: as they are, with each change, and as training has them.

    The last column draws with the probabilities of the configuration.
    """
    x, alpha = x[:MOST_AUGMENTED].cpu(), has_alpha(codec.config.mode) and codec.space is None
    limits = codec.limits(x.device)
    off = {name: type(getattr(config, name))() for name in config.chosen} | {"shift": 0, "mirror": False}
    menu = {name: {name: getattr(config, name), "probability": 1.0} for name in config.chosen}
    if config.mirror:
        menu["mirror"] = {"mirror": True, "probability": 0.0}
    columns = [x]
    for number, chosen in enumerate(menu.values()):
        alone = AugmentConfig(**{**off, **chosen})
        draws = generator(GeneratorStream.LOOKED_AT, seed, number)
        made = augmented(x.repeat(DRAWS, *[1] * (x.ndim - 1)), alone, draws, alpha=alpha, limits=limits).x
        made = made.reshape(DRAWS, *x.shape)
        first = (made != x).flatten(2).any(2).int().argmax(0)
        columns.append(made[first, torch.arange(len(x))])
    columns.append(augmented(x, config, generator(GeneratorStream.SHIFTS, seed), alpha=alpha, limits=limits).x)
    pictures = to_rgb(codec.decode(torch.cat(columns)), codec.config)
    n = len(x)
    return sheet(
        [[pictures[column * n + row] for column in range(len(columns))] for row in range(n)],
        title="Augmentation: each change alone, and as training has them",
        column_labels=["as it is", *menu, "in training"],
    )
