"""Noise removed from given examples: the example lies on the way from noise to data already, at a place that its noise gives.

From there it goes down to clean ones, and x̂ in one step is the estimate of least squared error.  Examples of the same noise go
through the network together.  What is returned lies on the CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Unpack, get_args

import numpy as np
import torch
from torch import Tensor

from undiffuse.config import changed
from undiffuse.errors import UsageError
from undiffuse.models.editing import (
    WITH_GRADIENTS,
    Progress,
    StepCallback,
    default_steps,
    encoded_examples,
    followed,
    inversion_config,
)
from undiffuse.models.model import Model, at_once
from undiffuse.process.levels import Level, broadcast_to
from undiffuse.process.probability_flow import angle_of, level_at
from undiffuse.process.schedules import Schedule
from undiffuse.sampling.loop import Counter, require_finite, trajectory
from undiffuse.sampling.noise_estimates import by_likelihood, by_wavelet
from undiffuse.sampling.overrides import SamplingOverrides
from undiffuse.sampling.settings import SamplingConfig
from undiffuse.sampling.spacings import logsnr

NoiseEstimate = Literal["likelihood", "wavelet"]
ESTIMATE_LEVELS = 64


@dataclass(frozen=True)
class Denoised:
    """Examples without their noise.

    mean: x̂, the estimate of least squared error.   sample: a sample of the posterior.  Both (n, C, *size) in the data's own range.
    x: the noisy example in the model's range, (n, …).   sigma_edm: sigma/alpha of each, given or estimated, (n,).
    """

    mean: Tensor
    sample: Tensor
    x: Tensor
    sigma_edm: Tensor


def denoise(
    model: Model,
    values: np.ndarray | Tensor,
    *,
    noise: float | None = None,
    level: float | Tensor | None = None,
    estimate: NoiseEstimate = "likelihood",
    conditions: Mapping[str, object] | None = None,
    seed: int = 0,
    watch: StepCallback | None = None,
    progress: Progress | None = None,
    sampling: SamplingConfig | None = None,
    **overrides: Unpack[SamplingOverrides],
) -> Denoised:
    """Removes noise from examples: values = clean ones + noise, (n, C, *size), in the data's own range or beyond it.

    noise: its standard deviation in the data's own units.   level: sigma/alpha instead, in the model's, one or (n,).   Neither:
    estimated for each example, see sampling/noise_estimates.py, which takes it for white: where values were cut off at the
    ends of their range it finds too little.   Sampling is ancestral by default, so that what it ends in is drawn
    from the examples that could have been there: `steps`, evenly in the angle, down from where the noise is.

    Raises UsageError for a level outside the model's schedule, or both given.
    """
    x, ratio = (
        encoded_examples(model, values, limited=False),
        noise_level(model, values, noise, level, estimate, conditions),
    )
    given = {"solver": "ddpm", **overrides} if sampling is None else overrides
    config, n = inversion_config(model, None, sampling, given, denoise), len(x)
    denoisers, size = model.denoiser_fns(conditions or {}, n, config), at_once(x.shape[1:])
    means, samples = (torch.empty(n, *model.config.codec.shape, dtype=model.config.codec.storage) for _ in range(2))
    paths = [
        (rows, levels)
        for one in dict.fromkeys(ratio.tolist())
        for levels in [descent(model.schedule, one, config.steps)]
        for rows in (ratio == one).nonzero()[:, 0].split(size)
    ]
    counter = Counter(sum(len(levels) - 1 for _, levels in paths), progress)
    for rows, levels in paths:
        here, index, denoiser = x[rows].to(model.device), rows.to(model.device), denoisers(rows)
        x_t = broadcast_to(levels.alpha[0], here) * here
        with torch.no_grad():
            means[rows] = model.codec.decode(require_finite(denoiser(x_t, levels[0]).mean))
        steps = trajectory(
            x_t,
            denoiser,
            levels,
            config.build_solver(model.schedule),
            seed=seed,
            index=index,
            noise=config.noise_sampler,
        )
        samples[rows] = model.codec.decode(followed(counter.counted(steps), "down", rows, watch, x_t))
    return Denoised(means, samples, x, ratio)


def noise_level(
    model: Model,
    values: np.ndarray | Tensor,
    noise: float | None = None,
    level: float | Tensor | None = None,
    estimate: NoiseEstimate = "likelihood",
    conditions: Mapping[str, object] | None = None,
) -> Tensor:
    """sigma/alpha of the noise in each example, float64 (n,), given or estimated. Arguments and errors as of `denoise`."""
    if model.codec.space is not None:
        raise UsageError(
            "this model knows noise of an autoencoder's latents and none of the data: denoise with one trained without `latent`."
        )
    if model.codec.config.columns is not None:
        raise UsageError(
            "noise is of numbers on one scale, and rows of a table have categories and ranks: there is nothing to denoise."
        )
    if noise is not None and level is not None:
        raise UsageError("the noise is given twice, in the data's units and as sigma/alpha: give one of them.")
    if noise is not None:
        level = noise / _unit(model)
    if level is None:
        ratio = estimate_noise_level(model, encoded_examples(model, values, limited=False), estimate, conditions)
    else:
        ratio = torch.as_tensor(level, dtype=torch.float64).expand(len(values))
    top = float(model.schedule([model.schedule.t_max]).sigma_edm)
    for value in ratio.tolist():
        if not 0 < value <= top:
            raise UsageError(
                f"noise of sigma/alpha {value:g} lies outside what this model was trained on, above 0 and up to {top:g}."
            )
    return ratio


def estimate_noise_level(
    model: Model, x: Tensor, estimate: NoiseEstimate = "likelihood", conditions: Mapping[str, object] | None = None
) -> Tensor:
    """sigma/alpha of the noise in each example of x (n, …), in the model's range; float64 (n,)."""
    if estimate == "wavelet":
        low = float(model.schedule([model.schedule.t_min]).sigma_edm)
        return by_wavelet(x).cpu().double().clamp(min=low)
    if estimate != "likelihood":
        raise UsageError(f"there is no estimate {estimate!r}: choose one of {', '.join(get_args(NoiseEstimate))}.")
    unclipped = changed(inversion_config(model, None, None, {}, denoise), {"clip": "none"})
    levels = logsnr(model.schedule, default_steps(model, ESTIMATE_LEVELS))[:-1]
    denoisers = model.denoiser_fns(conditions or {}, len(x), unclipped)
    batches = torch.arange(len(x)).split(at_once(x.shape[1:], most=WITH_GRADIENTS))
    return torch.cat([by_likelihood(x[rows].to(model.device), denoisers(rows), levels) for rows in batches])


def in_data_units(model: Model, ratio: Tensor) -> Tensor | None:
    """Noise of sigma/alpha `ratio` as a standard deviation of the data's values; None where channels have their own units."""
    return ratio * model.config.codec.scale[0] if len(set(model.config.codec.scale)) == 1 else None


def share_at_ends(model: Model, values: Tensor) -> float:
    """The share of values (n, C, *size) at the lowest or highest that the data can have, where noise may have been cut off; 0 for floats."""
    codec = model.codec
    return (
        0.0 if codec.config.kind == "float" else float(((values == codec.low) | (values == codec.high)).double().mean())
    )


def descent(schedule: Schedule, ratio: float, steps: int) -> Level:
    """From sigma/alpha `ratio` down to the schedule's cleanest level, evenly in the angle, and into the clean one."""
    start = torch.atan(torch.tensor(ratio, dtype=torch.float64))
    end = angle_of(schedule([schedule.t_min]))[0]
    phis = torch.linspace(float(start), float(end), steps, dtype=torch.float64) if start > end else end[None]
    return Level.of_rows([level_at(schedule, phi) for phi in phis]).and_clean()


def _unit(model: Model) -> float:
    scales = set(model.config.codec.scale)
    if len(scales) > 1:
        raise UsageError(
            "the channels of this data have units of their own, so no one noise fits them: give it as sigma/alpha."
        )
    return scales.pop()
