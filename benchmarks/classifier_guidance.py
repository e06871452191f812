"""Classifier guidance of an unconditional model of the digits: form, solver, scale, and the two safeguards of the score form.

    undiffuse train digits --name u --unconditional --budget 150s
    undiffuse classifier runs/u --steps 1500
    python -m benchmarks.classifier_guidance runs/u

Accuracy is the share of samples whose 3 nearest of all 1,797 real digits vote for the class asked for, Fréchet the distance
to all real digits, on raw pixels.  "as released" is ADM's Algorithm 2 as its code has it: x̂ is clipped before the pull and
not after, and the classifier pulls at every level.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.common import machine, table, write
from undiffuse.data.sources import open_digits
from undiffuse.evaluation.distances import frechet_distance, neighbour_classes
from undiffuse.models import guidance as guiding
from undiffuse.models.classifier import load_classifier
from undiffuse.models.file import load

SCALES = (0.0, 1.0, 2.0, 4.0, 8.0)
WALKS: list[tuple[str, str, dict[str, Any]]] = [
    ("score", "adams, 16 steps", {}),
    ("score", "ddim, 50 steps", {"solver": "ddim", "steps": 50}),
    ("score", "ddpm, 100 steps", {"solver": "ddpm", "grid": "uniform", "steps": 100}),
    ("mean", "ddpm, 100 steps", {"solver": "ddpm", "grid": "uniform", "steps": 100}),
]
EVERYWHERE = (0.0, math.inf)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("-n", type=int, default=500)
    options = parser.parse_args()
    where, model, classifier = machine(), load(options.run), load_classifier(options.run / "classifier-class")
    real, asked = open_digits(), torch.arange(options.n) % 10
    everything, labels = model.codec.encode(real.values).flatten(1).double(), torch.from_numpy(real.labels)

    def judged(form: str, how: dict[str, Any], scale: float, interval: tuple[float, float] | None) -> dict[str, float]:
        guide = classifier.guide([str(k) for k in asked.tolist()], options.n, scale, form, interval)  # type: ignore[arg-type]
        x = model.codec.encode(model.sample(options.n, guides=[guide], **how)).flatten(1).double()
        right = neighbour_classes(x, everything, labels) == asked
        return {"scale": scale, "accuracy": right.double().mean().item(), "frechet": frechet_distance(x, everything)}

    rows: list[dict[str, Any]] = []
    for form, walk, how in WALKS:
        kinds: dict[str, tuple[float, float] | None] = {"where it beats chance": None, "everywhere": EVERYWHERE}
        if form == "score":
            kinds["as released"] = EVERYWHERE
        for kind, interval in kinds.items():
            if kind == "as released":  # the second clipping left out
                with patch.object(guiding, "_limited", _once(guiding._limited)):
                    found = [judged(form, how, scale, interval) for scale in SCALES]
            else:
                found = [judged(form, how, scale, interval) for scale in SCALES]
            rows.append({"form": form, "walk": walk, "guided": kind, "results": found})
            print(form, walk, kind, [f"{r['accuracy']:.1%} {r['frechet']:.2f}" for r in found], flush=True)
    head = ["form", "solver", "guided", *(f"scale {scale:g}: accuracy, Fréchet" for scale in SCALES)]
    print(
        table(
            head,
            [
                [r["form"], r["walk"], r["guided"], *(f"{v['accuracy']:.1%}, {v['frechet']:.2f}" for v in r["results"])]
                for r in rows
            ],
        )
    )
    content = {
        "machine": where,
        "n": options.n,
        "can_guide": classifier.config.can_guide,
        "readings": classifier.config.provenance,
        "rows": rows,
    }
    write("classifier_guidance", content)


def _once(limited: Any) -> Any:
    """The clipping of the first call for each walk alone."""
    calls = [0]

    def sometimes(model: Any, denoise: Any, how: Any) -> Any:
        calls[0] += 1
        return limited(model, denoise, how) if calls[0] % 2 else denoise

    return sometimes


if __name__ == "__main__":
    main()
