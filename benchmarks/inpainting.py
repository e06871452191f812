"""Half of a digit is hidden: is what is filled in read as the digit it was?

    python -m benchmarks.inpainting MNIST RUN bottom            # MNIST: a folder with the four idx.gz files; RUN: trained on it
    python -m benchmarks.inpainting MNIST RUN center --told     # told the class, too

Test digits, which no model was trained on, but the first 64: these were looked at when methods' defaults were chosen.  Each method fills in
the same n digits with each seed:

    read as     share whose filled-in digit a convolutional network, trained here on the 60,000 training digits, reads as the
                digit it was; beside it the same for the original and for the digit with nothing (black) filled in.  A perfect
                sampler does not reach the original's share: what is left of a 3 may be left of an 8
    PSNR        of the hidden part, peak 255, over all digits; of an honest draw it is lower than of the mean of many
    known       largest error of known pixels, which should be 0
    misfit      of known pixels before they are pasted, root mean square, of the range -1 … 1
    seconds     a digit, this machine, one thread

Standard errors: of the share over digits and seeds together, as of independent ones; of PSNR over digits, by the delta method.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import RESULTS, machine, table, write
from benchmarks.mnist_conditioned import classes, read, trained_judge
from undiffuse.models.file import load
from undiffuse.models.inverse_methods import InverseMethod
from undiffuse.models.inverse_problems import inpaint
from undiffuse.models.model import Model

APPROACHES: dict[str, tuple[InverseMethod, dict[str, Any]]] = {
    "replace (x̂)": (InverseMethod("replace"), {}),
    "replace (x_t): repaint, walked once": (InverseMethod("repaint", jump_repeats=1), {}),
    "repaint": (InverseMethod("repaint"), {}),
    "pigdm": (InverseMethod("pigdm"), {}),
    "pigdm, 50 ancestral steps": (InverseMethod("pigdm"), {"solver": "ddpm", "steps": 50}),
    "exact": (InverseMethod("exact"), {}),
    "dps": (InverseMethod("dps"), {}),
}
LOOKED_AT = 64
PARTS = {"bottom": (slice(14, 28), slice(0, 28)), "center": (slice(7, 21), slice(7, 21))}


def measured(
    model: Model, judge: Any, images: torch.Tensor, labels: np.ndarray, part: str, told: bool, seeds: int
) -> list[dict[str, Any]]:
    hidden = torch.zeros(28, 28, dtype=torch.bool)
    hidden[PARTS[part]] = True
    conditions = {"class": [str(label) for label in labels]} if told else {}
    rows = []
    for name, (approach, sampling) in APPROACHES.items():
        right, errors, known, misfit, start = [], [], 0.0, [], time.perf_counter()
        for seed in range(seeds):
            result = inpaint(model, images, hidden, method=approach, conditions=conditions, seed=seed, **sampling)
            filled = result.values[:, 0]
            right.append(torch.from_numpy(classes(judge, filled).numpy() == labels))
            errors.append((((filled - images) / 255) ** 2)[:, 0, hidden].mean(1))
            known = max(known, float((filled - images)[:, 0, ~hidden].abs().max()))
            misfit.append(result.misfit)
        seconds = (time.perf_counter() - start) / seeds / len(images)
        share, error = torch.cat(right).double().mean().item(), torch.cat(errors).double()
        rows.append(
            {
                "method": name,
                "settings": vars(approach),
                "sampling": sampling,
                "read_as": share,
                "read_as_error": math.sqrt(max(share * (1 - share), 1 / len(error)) / len(error)),
                "psnr": -10 * error.mean().log10().item(),
                "psnr_error": (10 / math.log(10) * error.std() / len(error) ** 0.5 / error.mean()).item(),
                "known": known,
                "misfit": torch.cat(misfit).mean().item(),
                "seconds": seconds,
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mnist", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--told", action="store_true")
    parser.add_argument("-n", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--judge-steps", type=int, default=700)
    options = parser.parse_args()
    where, model = machine(), load(options.run)
    judge, tested = trained_judge(options.mnist, options.judge_steps)
    images, labels = read(options.mnist, "t10k")
    judged = slice(LOOKED_AT, LOOKED_AT + options.n)
    given, truth = torch.from_numpy(images[judged, None].astype(np.float32)), labels[judged]
    blank = given.clone()
    blank[(..., *PARTS[options.part])] = 0
    ends = {
        name: float((classes(judge, values).numpy() == truth).mean())
        for name, values in (("original", given), ("black", blank))
    }
    rows = measured(model, judge, given, truth, options.part, options.told, options.seeds)
    head = [
        "method",
        "read as the digit it was",
        "PSNR of the hidden part",
        "misfit before pasting",
        "known pixels",
        "s a digit",
    ]
    print(
        table(
            head,
            [
                [
                    r["method"],
                    f"{r['read_as']:.1%} ± {r['read_as_error']:.1%}",
                    f"{r['psnr']:.2f} ± {r['psnr_error']:.2f} dB",
                    f"{r['misfit']:.3f}",
                    f"{r['known']:g}",
                    f"{r['seconds']:.2f}",
                ]
                for r in rows
            ],
        )
    )
    print(
        f"read as: the originals {ends['original']:.1%}, with black filled in {ends['black']:.1%}; the judge {tested:.2%} on test digits"
    )
    path = RESULTS / "inpainting.json"
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    content[options.part + (", told" if options.told else "")] = {
        "machine": where,
        "n": options.n,
        "left_out": LOOKED_AT,
        "seeds": options.seeds,
        "judge_test_accuracy": tested,
        "read_as": ends,
        "model": {name: model.config.provenance.get(name) for name in ("training", "held_out")},
        "results": rows,
    }
    write("inpainting", content)


if __name__ == "__main__":
    main()
