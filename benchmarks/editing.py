"""Given examples, there and back: how much of a held-out digit survives, how well its noise is measured and removed.

    python -m benchmarks.editing RUN

RUN is a run folder of the digits.  PSNR is of values before rounding, peak the data's range.  Noise is white Gaussian, in
units of that range: 0.1 is 1.6 of the digits' 16.

    round trip   held-out digits up to pure noise and back, mean and worst
    noise found  the ratio of the estimate to the truth, mean and root mean square error; 64 pixels allow 8.8 % at best
    removed      PSNR over all examples of the noisy ones cut to their range, of x̂ for noise that is told and that is estimated, and
                 of a draw of what may have been there; rounded as the data are
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.common import machine, table, write
from undiffuse.models.denoising import denoise, estimate_noise_level
from undiffuse.models.editing import reconstruct
from undiffuse.models.file import load
from undiffuse.models.model import Model
from undiffuse.process.philox import standard_normal
from undiffuse.runs.data import held_out_data

EXAMPLES = 100
SHARES = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0)  # noise, of the range of the values


def round_trips(model: Model, values: torch.Tensor) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for method in ("ddim", "heun", "ddpm_inversion"):
        for steps in (10, 20, 50, 100):
            psnr = reconstruct(model, values, method=method, steps=steps).psnr
            finite = psnr.isfinite().all()  # recorded noise comes back to the bit
            rows.append(
                {
                    "method": method,
                    "steps": steps,
                    "mean": psnr.mean().item() if finite else None,
                    "worst": psnr.min().item() if finite else None,
                }
            )
    return rows


def noises(model: Model, values: torch.Tensor, span: float) -> list[dict[str, float]]:
    """Estimates, and what is left after removing the noise."""
    rows = []
    for share in SHARES:
        noisy = values + share * span * standard_normal(values.shape[1:], 1, torch.arange(len(values)))
        row = {"noise": share}
        truth = share * span / model.config.codec.scale[0]
        for kind in ("wavelet", "likelihood"):
            ratio = estimate_noise_level(model, model.codec.encode(noisy, limited=False), kind) / truth
            row |= {f"{kind} ratio": ratio.mean().item(), f"{kind} rms": (ratio - 1).square().mean().sqrt().item()}

        def psnr(found: torch.Tensor) -> float:
            return -10 * ((found - values) / span).square().mean().log10().item()

        told, alone = denoise(model, noisy, noise=share * span, steps=25), denoise(model, noisy, steps=25)
        row |= {
            "noisy": psnr(noisy.clamp(values.min(), values.max())),
            "told": psnr(told.mean),
            "estimated": psnr(alone.mean),
            "draw": psnr(told.sample),
        }
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    folder = parser.parse_args().run
    where, model = machine(), load(folder)
    values = torch.from_numpy(held_out_data(folder).values[:EXAMPLES]).float()
    span = model.config.codec.high[0] - model.config.codec.low[0]
    trips, found = round_trips(model, values), noises(model, values, span)
    shown = [
        [r["method"], r["steps"], *("exact" if r[k] is None else f"{r[k]:.1f} dB" for k in ("mean", "worst"))]
        for r in trips
    ]
    print(table(["method", "steps", "mean PSNR", "worst"], shown))
    head = [
        "noise",
        "wavelet: mean, rms error",
        "likelihood: mean, rms error",
        "noisy",
        "x̂, told",
        "x̂, estimated",
        "a draw, told",
    ]
    print(
        table(
            head,
            [
                [
                    f"{r['noise']:.1%}",
                    *(f"{r[k + ' ratio']:.2f}, {r[k + ' rms']:.0%}" for k in ("wavelet", "likelihood")),
                    *(f"{r[k]:.1f} dB" for k in ("noisy", "told", "estimated", "draw")),
                ]
                for r in found
            ],
        )
    )
    write("editing", {"machine": where, "provenance": model.config.provenance, "round_trips": trips, "noise": found})


if __name__ == "__main__":
    main()
