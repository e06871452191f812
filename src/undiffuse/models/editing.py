"""What can be done with a given example: reconstruct it, clean it, walk from one to another.

Each is a walk up to some level and a walk back down, put together from sampling/ for one model:

    reconstruct   up by inversion of the flow (ddim, heun), by recording the noise (recorded), or by a random jump
                  (stochastic; Meng et al. 2022, SDEdit, Algorithm 1), and down again
    vary          the same with random jumps, several times for each example
    interpolate   two examples up by inversion, along the sphere between them, and down
    restore       the example lies on the way already: its noise says where.  Down from there, and x̂ in one step

Examples go through the network in batches, restored ones together where their noise is the same.  What is returned lies on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from undiffuse.config import changed
from undiffuse.errors import UsageError
from undiffuse.models.model import NUMBERS, Model, at_once
from undiffuse.process.chains import Chain
from undiffuse.process.forward import add_noise
from undiffuse.process.levels import Level, broadcast_to
from undiffuse.process.philox import standard_normal
from undiffuse.process.probability_flow import angle_of, level_at
from undiffuse.process.schedules import Schedule
from undiffuse.rng import NoiseStream
from undiffuse.sampling.ddpm_inversion import ddpm_inversion
from undiffuse.sampling.inversion import at_lowest_noise, invert, slerp
from undiffuse.sampling.loop import Counter, SamplerStep, require_finite, trajectory
from undiffuse.sampling.noise_estimates import by_likelihood, by_wavelet
from undiffuse.sampling.settings import ONE_WAY, OWN_ENDS, OWN_SOLVER, UNGUIDED, SamplingConfig
from undiffuse.sampling.solvers.registry import own_grid
from undiffuse.sampling.spacings import logsnr

InversionMethod = Literal["heun", "ddim", "recorded", "stochastic"]
NoiseEstimate = Literal["likelihood", "wavelet"]
SOLVERS = {"heun": "heun", "ddim": "euler", "recorded": "ddpm"}  # of the walks whose way back the way up prescribes
STEPS, ESTIMATE_LEVELS = 100, 64

WITH_GRADIENTS = 64  # examples at once, where gradients are recorded
RECORDED = 2**24  # numbers of recorded noise at once

StepCallback = Callable[[Literal["up", "down"], SamplerStep, Tensor], None]
"""Called with every step of a walk and which examples it is of, int64 (B,): for strips and animations."""
Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""


@dataclass(frozen=True)
class Reconstruction:
    """values: in the data's own range.   x, noised, back: the example, x_t at the level `top`, and what came back, in the
    model's range.   psnr: of `back` before it is rounded and clipped, in dB, inf where nothing changed, (n,)."""

    values: Tensor
    x: Tensor
    noised: Tensor
    back: Tensor
    top: Level
    psnr: Tensor


@dataclass(frozen=True)
class Interpolation:
    """values: (n, C, *size), in the data's own range.   shares: of the second example, 0 … 1.   x: the two examples.
    back: (n, …), in the model's range.   psnr: of the two ends, in dB, (2,)."""

    values: Tensor
    shares: tuple[float, ...]
    x: Tensor
    back: Tensor
    psnr: Tensor


@dataclass(frozen=True)
class Denoised:
    """mean: x̂, the estimate of least squared error.   sample: one example that may have been there.  Both in the data's
    own range.   x: the noisy example in the model's.   ratio: sigma/alpha of each, given or estimated, (n,)."""

    mean: Tensor
    sample: Tensor
    x: Tensor
    sigma_edm: Tensor


def reconstruct(
    model: Model,
    values: np.ndarray | Tensor,
    *,
    method: InversionMethod = "heun",
    strength: float = 1.0,
    conditions: Mapping[str, object] | None = None,
    seed: int = 0,
    watch: StepCallback | None = None,
    progress: Progress | None = None,
    **sampling: Any,
) -> Reconstruction:
    """Walks examples up to a level and back.

    values: (n, C, *size) in the data's own range.   strength: how far up, as a share of the angle atan2(sigma, alpha),
    0 … 1; at 0 nothing happens.   conditions, sampling: as for Model.sample, but without guidance and on a grid of 100
    steps that reaches down to the model's cleanest level when nothing else is said.   progress: called with (done, total) steps.

    Raises UsageError for an unknown method, a strength out of range, or settings that contradict each other.
    """
    return _there_and_back(
        model, values, torch.arange(len(values)), method, strength, conditions, seed, watch, progress, sampling
    )


def vary(
    model: Model,
    values: np.ndarray | Tensor,
    strength: float = 0.5,
    n: int = 1,
    *,
    conditions: Mapping[str, object] | None = None,
    seed: int = 0,
    watch: StepCallback | None = None,
    progress: Progress | None = None,
    **sampling: Any,
) -> Reconstruction:
    """n variations of each example: noised at random as far up as `strength` says, and back.

    The variations of one example follow each other.   Raises UsageError for n < 1, and as `reconstruct`.
    """
    if n < 1:
        raise UsageError(f"asked for {n} variations: ask for at least 1.")
    of = torch.arange(len(values)).repeat_interleave(n)
    return _there_and_back(model, values, of, "stochastic", strength, conditions, seed, watch, progress, sampling)


def _there_and_back(
    model: Model,
    values: np.ndarray | Tensor,
    of: Tensor,
    method: InversionMethod,
    strength: float,
    conditions: Mapping[str, object] | None,
    seed: int,
    watch: StepCallback | None,
    progress: Progress | None,
    sampling: Mapping[str, Any],
) -> Reconstruction:
    """of: int64 (n,), which of the values each walk starts from.  What is not returned is held of one batch at a time."""
    if method not in get_args(InversionMethod):
        raise UsageError(f"there is no method {method!r}: choose one of {', '.join(get_args(InversionMethod))}.")
    if not 0 <= strength <= 1:
        raise UsageError(f"the strength {strength:g} lies outside 0 (nothing) to 1 (all the way to noise).")
    how = _settings(model, SOLVERS.get(method), sampling)
    levels, solver, n = _up_to(how.build_levels(model.schedule), strength), how.build_solver(model.schedule), len(of)
    given = _encoded(model, values)
    x = given if len(of) == len(given) else given[of]
    noised, back, psnr = torch.empty_like(x), torch.empty_like(x), torch.empty(n)
    decoded = torch.empty(n, *model.config.codec.shape, dtype=model.config.codec.storage)
    denoisers = model.denoiser_fns(conditions or {}, len(values), how)
    steps = len(levels) - 1
    size = at_once(x.shape[1:], numbers=min(NUMBERS, RECORDED // max(1, steps)) if method == "recorded" else NUMBERS)
    counter = Counter(-(-n // size) * (steps + (max(0, steps - 1) if method in ("heun", "ddim") else 0)), progress)
    for rows in torch.arange(n).split(size):
        here, index, denoise = x[rows].to(model.device), rows.to(model.device), denoisers(of[rows])
        noise: Any = how.noise_sampler
        top, rest = here, torch.zeros_like(here)
        if method == "recorded" and steps:
            noise = ddpm_inversion(here, denoise, levels, seed=seed, index=index)
            top, rest = noise.top, noise.rest
        elif method == "stochastic":
            top = (
                add_noise(
                    here, levels[0], standard_normal(here.shape[1:], seed, index, stream=NoiseStream.INITIAL).to(here)
                )
                if steps
                else here
            )
        elif steps:
            up = invert(here, denoise, levels, solver)
            top = _end(counter.counted(up), "up", rows, watch, at_lowest_noise(here, levels))
        down = trajectory(top, denoise, levels, solver, seed=seed, index=index, noise=noise) if steps else iter(())
        result = _end(counter.counted(down), "down", rows, watch, top) + rest
        noised[rows], back[rows], decoded[rows], psnr[rows] = (
            top.cpu(),
            result.cpu(),
            model.codec.decode(result),
            _psnr(model, here, result),
        )
    return Reconstruction(decoded, x, noised, back, levels[0], psnr)


def interpolate(
    model: Model,
    first: np.ndarray | Tensor,
    second: np.ndarray | Tensor,
    n: int = 9,
    *,
    method: InversionMethod = "heun",
    conditions: Mapping[str, object] | None = None,
    watch: StepCallback | None = None,
    progress: Progress | None = None,
    **sampling: Any,
) -> Interpolation:
    """n examples from one to another, both ends included, by way of the noises they come from.

    first, second: (C, *size) in the data's own range.   method: of inversion, heun or ddim.   The rest as for `reconstruct`.
    Raises UsageError for n < 2, or another method.
    """
    if n < 2:
        raise UsageError(f"between two ends there are at least 2 examples, not {n}.")
    if method not in ("heun", "ddim"):
        raise UsageError(
            f"interpolation needs the one noise an example comes from: the method is heun or ddim, not {method!r}."
        )
    how = _settings(model, SOLVERS[method], sampling)
    levels, solver = how.build_levels(model.schedule), how.build_solver(model.schedule)
    x = torch.cat([_encoded(model, value[None]) for value in (first, second)])
    ends, steps, size = torch.arange(2), len(levels) - 1, at_once(x.shape[1:])
    counter = Counter(steps - 1 + steps * -(-n // size), progress)
    up = invert(x.to(model.device), model.denoiser_fn(conditions or {}, 2, how), levels, solver)
    top = _end(counter.counted(up), "up", ends, watch, at_lowest_noise(x.to(model.device), levels))
    shares = tuple(torch.linspace(0, 1, n, dtype=torch.float64).tolist())
    denoisers, back = model.denoiser_fns(conditions or {}, n, how), torch.empty(n, *x.shape[1:])
    decoded = torch.empty(n, *model.config.codec.shape, dtype=model.config.codec.storage)
    for rows in torch.arange(n).split(size):
        between = torch.cat([slerp(top[:1], top[1:], shares[k]) for k in rows.tolist()])
        moments = trajectory(between, denoisers(rows), levels, solver, seed=0, index=rows.to(model.device))
        result = _end(counter.counted(moments), "down", rows, watch, between)
        back[rows], decoded[rows] = result.cpu(), model.codec.decode(result)
    return Interpolation(decoded, shares, x, back, _psnr(model, x, back[[0, -1]]))


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
    **sampling: Any,
) -> Denoised:
    """Removes noise from examples: values = clean ones + noise, (n, C, *size), in the data's own range or beyond it.

    noise: its standard deviation in the data's own units.   level: sigma/alpha instead, in the model's, one or (n,).   Neither:
    estimated for each example, see sampling/noise_estimates.py, which takes it for white: where values were cut off at the
    ends of their range it finds too little.   The walk is ancestral, so that what it ends in is drawn
    from the examples that could have been there; `steps`, evenly in the angle, down from where the noise is.  Examples of one
    noise are walked together.

    Raises UsageError for a level outside the model's schedule, or both given.
    """
    x, ratio = _encoded(model, values, limited=False), noise_level(model, values, noise, level, estimate, conditions)
    how, n = _settings(model, None, {"solver": "ddpm", **sampling}), len(x)
    denoisers, size = model.denoiser_fns(conditions or {}, n, how), at_once(x.shape[1:])
    means, samples = (torch.empty(n, *model.config.codec.shape, dtype=model.config.codec.storage) for _ in range(2))
    walks = [
        (rows, levels)
        for one in dict.fromkeys(ratio.tolist())
        for levels in [descent(model.schedule, one, how.steps)]
        for rows in (ratio == one).nonzero()[:, 0].split(size)
    ]
    counter = Counter(sum(len(levels) - 1 for _, levels in walks), progress)
    for rows, levels in walks:
        here, index, denoise = x[rows].to(model.device), rows.to(model.device), denoisers(rows)
        x_t = broadcast_to(levels.alpha[0], here) * here
        with torch.no_grad():
            means[rows] = model.codec.decode(require_finite(denoise(x_t, levels[0]).mean))
        moments = trajectory(
            x_t, denoise, levels, how.build_solver(model.schedule), seed=seed, index=index, noise=how.noise_sampler
        )
        samples[rows] = model.codec.decode(_end(counter.counted(moments), "down", rows, watch, x_t))
    return Denoised(means, samples, x, ratio)


def noise_level(
    model: Model,
    values: np.ndarray | Tensor,
    noise: float | None = None,
    level: float | Tensor | None = None,
    estimate: NoiseEstimate = "likelihood",
    conditions: Mapping[str, object] | None = None,
) -> Tensor:
    """sigma/alpha of the noise in each example, float64 (n,), given or estimated. Arguments and errors as of `restore`."""
    if model.codec.space is not None:
        raise UsageError(
            "this model knows noise of an autoencoder's latents and none of the data: denoise with one trained without --latent."
        )
    if noise is not None and level is not None:
        raise UsageError("the noise is given twice, in the data's units and as sigma/alpha: give one of them.")
    if noise is not None:
        level = noise / _unit(model)
    if level is None:
        ratio = estimate_noise_level(model, _encoded(model, values, limited=False), estimate, conditions)
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
    unclipped = changed(_settings(model, None, {}), {"clip": "none"})
    levels = logsnr(model.schedule, default_steps(model, ESTIMATE_LEVELS))[:-1]
    denoisers = model.denoiser_fns(conditions or {}, len(x), unclipped)
    batches = torch.arange(len(x)).split(at_once(x.shape[1:], most=WITH_GRADIENTS))
    return torch.cat([by_likelihood(x[rows].to(model.device), denoisers(rows), levels) for rows in batches])


def in_data_units(model: Model, ratio: Tensor) -> Tensor | None:
    """Noise of sigma/alpha `ratio` as a standard deviation of the data's values; None where channels have their own units."""
    return ratio * model.config.codec.scale[0] if len(set(model.config.codec.scale)) == 1 else None


def descent(schedule: Schedule, ratio: float, steps: int) -> Level:
    """From sigma/alpha `ratio` down to the schedule's cleanest level, evenly in the angle, and into the clean one."""
    start = torch.atan(torch.tensor(ratio, dtype=torch.float64))
    end = angle_of(schedule([schedule.t_min]))[0]
    phis = torch.linspace(float(start), float(end), steps, dtype=torch.float64) if start > end else end[None]
    return Level.of_rows([level_at(schedule, phi) for phi in phis]).and_clean()


def default_steps(model: Model, wanted: int = STEPS) -> int:
    """As many as wanted, or as the model's chain has."""
    return min(wanted, len(model.schedule)) if isinstance(model.schedule, Chain) else wanted


def _unit(model: Model) -> float:
    scales = set(model.config.codec.scale)
    if len(scales) > 1:
        raise UsageError(
            "the channels of this data have units of their own, so no one noise fits them: give it as sigma/alpha."
        )
    return scales.pop()


def _settings(model: Model, solver: str | None, sampling: Mapping[str, Any]) -> SamplingConfig:
    """The model's own settings, on a grid that ends in its cleanest level; with a solver that is prescribed, if any."""
    # A chain's own levels are what its network was trained at; evenly spaced times of other schedules may leap, as EDM's do.
    grid = "uniform" if isinstance(model.schedule, Chain) else "karras"
    base: dict[str, Any] = (
        {"grid": grid, "steps": default_steps(model), "logsnrs": None} | ONE_WAY | OWN_ENDS | UNGUIDED
    )
    if solver is not None:
        if "solver" in sampling:
            raise UsageError(
                "this method goes back the way it came, so its solver cannot be chosen: leave it out, or use 'stochastic'."
            )
        base |= {"solver": solver}
    named = solver or sampling.get("solver")
    if named is not None:
        base |= {"grid": own_grid(named) or grid} | OWN_SOLVER
    return changed(model.config.sampling, {**base, **sampling})


def _encoded(model: Model, values: np.ndarray | Tensor, limited: bool = True) -> Tensor:
    """x of examples, on the CPU. Raises UsageError where there are none, or some of their numbers are none."""
    if not isinstance(values, np.ndarray | Tensor):
        values = model.config.codec.carried(values)
    if not len(values):
        raise UsageError("there are no examples: give at least 1.")
    x = model.codec.encode_parts(values, limited=limited)
    if not x.isfinite().all():
        raise UsageError(
            f"{int((~x.isfinite()).sum())} of the values are NaN or infinite: mend them, or fill them in by inpaint."
        )
    return x


def _up_to(levels: Level, strength: float) -> Level:
    """The end of a table, from the noisy level nearest to a share of its angle; the clean level alone at strength 0."""
    if strength == 0:
        return levels[-1:]
    angle = angle_of(levels)[:-1]
    return levels[int((angle - strength * angle[0]).abs().argmin()) :]


def _end(
    moments: Iterator[SamplerStep], way: Literal["up", "down"], rows: Tensor, watch: StepCallback | None, x: Tensor
) -> Tensor:
    """Where a walk of some examples from x ends."""
    for moment in moments:
        x = moment.x
        if watch:
            watch(way, moment, rows)
    return require_finite(x)


def _psnr(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """Peak signal to noise, example by example, in dB: 10 log10(range² / mean squared error), on the CPU."""
    low, high = model.codec.plain.limits(x.device)
    x, y = model.codec.in_plain(x), model.codec.in_plain(y)
    error = (((x - y) / (high - low)) ** 2).flatten(1).mean(1)
    return -10 * error.log10().cpu()
