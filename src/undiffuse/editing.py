"""What can be done with a given example: reconstruct it, clean it, walk from one to another.

Each is a walk up to some level and a walk back down, put together from sampling/ for one model:

    reconstruct   up by inversion of the flow (ddim, heun), by recording the noise (recorded), or by a random jump
                  (stochastic; Meng et al. 2022, SDEdit, Algorithm 1), and down again
    vary          the same with random jumps, several times for each example
    interpolate   two examples up by inversion, along the sphere between them, and down
    restore       the example lies on the way already: its noise says where.  Down from there, and x̂ in one step

All the examples of a call go through the network together, restored ones apart from each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from undiffuse.configuration import changed
from undiffuse.errors import UsageError
from undiffuse.model import Model
from undiffuse.process.chains import Chain
from undiffuse.process.corruption import jump
from undiffuse.process.flow import angle_of, level_at
from undiffuse.process.levels import Level, meet
from undiffuse.process.noise import standard_normal
from undiffuse.process.posteriors import Denoise
from undiffuse.process.schedules import Schedule
from undiffuse.sampling.inversion import inverted, lifted, slerp
from undiffuse.sampling.noise_estimates import by_likelihood, by_wavelet
from undiffuse.sampling.recording import recorded
from undiffuse.sampling.settings import ONE_WAY, OWN_ENDS, OWN_SOLVER, UNGUIDED, SamplingConfig
from undiffuse.sampling.solvers.registry import own_grid
from undiffuse.sampling.spacings import logsnr
from undiffuse.sampling.trajectory import Moment, finite, trajectory
from undiffuse.streams import NoiseStream

Method = Literal["heun", "ddim", "recorded", "stochastic"]
Estimate = Literal["likelihood", "wavelet"]
SOLVERS = {"heun": "heun", "ddim": "euler", "recorded": "ddpm"}  # of the walks whose way back the way up prescribes
STEPS, ESTIMATE_LEVELS = 100, 64

Watch = Callable[[Literal["up", "down"], Moment], None]
"""Called with every step of a walk: for progress bars, strips and animations."""


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
class Restoration:
    """mean: x̂, the estimate of least squared error.   sample: one example that may have been there.  Both in the data's
    own range.   x: the noisy example in the model's.   ratio: sigma/alpha of each, given or estimated, (n,)."""

    mean: Tensor
    sample: Tensor
    x: Tensor
    ratio: Tensor


def reconstruct(
    model: Model, values: np.ndarray | Tensor, *, method: Method = "heun", strength: float = 1.0,
    conditions: Mapping[str, object] | None = None, seed: int = 0, watch: Watch | None = None, **sampling: Any,
) -> Reconstruction:  # fmt: skip
    """Walks examples up to a level and back.

    values: (n, C, *size) in the data's own range.   strength: how far up, as a share of the angle atan2(sigma, alpha),
    0 … 1; at 0 nothing happens.   conditions, sampling: as for Model.sample, but without guidance and on a grid of 100
    steps that reaches down to the model's cleanest level when nothing else is said.

    Raises UsageError for an unknown method, a strength out of range, or settings that contradict each other.
    """
    if method not in get_args(Method):
        raise UsageError(f"there is no method {method!r}: choose one of {', '.join(get_args(Method))}.")
    if not 0 <= strength <= 1:
        raise UsageError(f"the strength {strength:g} lies outside 0 (nothing) to 1 (all the way to noise).")
    how = _settings(model, SOLVERS.get(method), sampling)
    levels = _up_to(how.build_levels(model.schedule), strength)
    x = model.codec.encode(values).to(model.device)
    if len(levels) == 1:
        return Reconstruction(model.codec.decode(x), x, x, x, levels[0], _psnr(model, x, x))
    index = torch.arange(len(x), device=x.device)
    denoise, solver = _denoise(model, conditions, len(x), how), how.build_solver(model.schedule)
    noise: Any = how.noise
    rest = torch.zeros_like(x)
    if method == "recorded":
        noise = recorded(x, denoise, levels, seed=seed, index=index)
        top, rest = noise.top, noise.rest
    elif method == "stochastic":
        top = jump(x, levels[0], standard_normal(x.shape[1:], seed, index, stream=NoiseStream.INITIAL).to(x))
    else:
        top = _end(inverted(x, denoise, levels, solver), "up", watch, lifted(x, levels))
    result = _end(trajectory(top, denoise, levels, solver, seed=seed, index=index, noise=noise), "down", watch, top) + rest
    return Reconstruction(model.codec.decode(result), x, top, result, levels[0], _psnr(model, x, result))


def vary(
    model: Model, values: np.ndarray | Tensor, strength: float = 0.5, n: int = 1, *, conditions: Mapping[str, object] | None = None, seed: int = 0,
    watch: Watch | None = None, **sampling: Any,
) -> Reconstruction:  # fmt: skip
    """n variations of each example: noised at random as far up as `strength` says, and back.

    The variations of one example follow each other.   Raises UsageError for n < 1, and as `reconstruct`.
    """
    if n < 1:
        raise UsageError(f"asked for {n} variations: ask for at least 1.")
    raw, count = torch.as_tensor(values), len(values)
    told = {name: [value for value in each for _ in range(n)] for name, each in model.denoiser.conditions.for_each(conditions or {}, count).items()}
    repeated = raw.repeat_interleave(n, 0)
    return reconstruct(model, repeated, method="stochastic", strength=strength, conditions=told, seed=seed, watch=watch, **sampling)


def interpolate(
    model: Model, first: np.ndarray | Tensor, second: np.ndarray | Tensor, n: int = 9, *, method: Method = "heun",
    conditions: Mapping[str, object] | None = None, watch: Watch | None = None, **sampling: Any,
) -> Interpolation:  # fmt: skip
    """n examples from one to another, both ends included, by way of the noises they come from.

    first, second: (C, *size) in the data's own range.   method: of inversion, heun or ddim.   The rest as for `reconstruct`.
    Raises UsageError for n < 2, or another method.
    """
    if n < 2:
        raise UsageError(f"between two ends there are at least 2 examples, not {n}.")
    if method not in ("heun", "ddim"):
        raise UsageError(f"interpolation needs the one noise an example comes from: the method is heun or ddim, not {method!r}.")
    how = _settings(model, SOLVERS[method], sampling)
    levels, solver = how.build_levels(model.schedule), how.build_solver(model.schedule)
    x = torch.cat([model.codec.encode(value[None]) for value in (first, second)]).to(model.device)
    top = _end(inverted(x, _denoise(model, conditions, 2, how), levels, solver), "up", watch, lifted(x, levels))
    shares = tuple(torch.linspace(0, 1, n, dtype=torch.float64).tolist())
    between = torch.cat([slerp(top[:1], top[1:], share) for share in shares])
    index = torch.arange(n, device=x.device)
    moments = trajectory(between, _denoise(model, conditions, n, how), levels, solver, seed=0, index=index)
    back = _end(moments, "down", watch, between)
    return Interpolation(model.codec.decode(back), shares, x, back, _psnr(model, x, back[[0, -1]]))


def restore(
    model: Model, values: np.ndarray | Tensor, *, noise: float | None = None, level: float | None = None,
    estimate: Estimate = "likelihood", conditions: Mapping[str, object] | None = None, seed: int = 0, watch: Watch | None = None,
    **sampling: Any,
) -> Restoration:  # fmt: skip
    """Removes noise from examples: values = clean ones + noise, (n, C, *size), in the data's own range or beyond it.

    noise: its standard deviation in the data's own units.   level: sigma/alpha instead, in the model's.   Neither:
    estimated for each example, see sampling/noise_estimates.py, which takes it for white: where values were cut off at the
    ends of their range it finds too little.   The walk is ancestral, so that what it ends in is drawn
    from the examples that could have been there; `steps`, evenly in the angle, down from where the noise is.

    Raises UsageError for a level outside the model's schedule, or both given.
    """
    if model.codec.space is not None:
        raise UsageError("this model knows noise of an autoencoder's latents and none of the data: denoise with one trained without --latent.")
    x = model.codec.encode(values, limited=False).to(model.device)
    how = _settings(model, None, {"solver": "ddpm", **sampling})
    if noise is not None and level is not None:
        raise UsageError("the noise is given twice, in the data's units and as sigma/alpha: give one of them.")
    if noise is not None:
        level = noise / _unit(model)
    if level is not None:
        ratio = torch.full((len(x),), float(level), dtype=torch.float64)
    else:
        ratio = estimated(model, x, estimate, conditions)
    top = float(model.schedule([model.schedule.t_max]).ratio)
    for value in ratio.tolist():
        if not 0 < value <= top:
            raise UsageError(f"noise of sigma/alpha {value:g} lies outside what this model was trained on, above 0 and up to {top:g}.")
    means, samples, each = [], [], model.denoiser.conditions.for_each(conditions or {}, len(x))
    for k, one in enumerate(ratio.tolist()):
        levels = descent(model.schedule, one, how.steps)
        x_t = meet(levels.alpha[0], x) * x[k : k + 1]
        denoise = _denoise(model, {name: [values[k]] for name, values in each.items()}, 1, how)
        index = torch.tensor([k], device=x.device)
        moments = trajectory(x_t, denoise, levels, how.build_solver(model.schedule), seed=seed, index=index, noise=how.noise)
        with torch.no_grad():
            means.append(denoise(x_t, levels[0]).mean)
        samples.append(_end(moments, "down", watch, x_t))
    decode = model.codec.decode
    return Restoration(decode(torch.cat(means)), decode(torch.cat(samples)), x, ratio)


def estimated(model: Model, x: Tensor, estimate: Estimate = "likelihood", conditions: Mapping[str, object] | None = None) -> Tensor:
    """sigma/alpha of the noise in each example of x (n, …), in the model's range; float64 (n,)."""
    if estimate == "wavelet":
        low = float(model.schedule([model.schedule.t_min]).ratio)
        return by_wavelet(x).cpu().double().clamp(min=low)
    if estimate != "likelihood":
        raise UsageError(f"there is no estimate {estimate!r}: choose one of {', '.join(get_args(Estimate))}.")
    unclipped = changed(_settings(model, None, {}), {"clip": "none"})
    levels = logsnr(model.schedule, default_steps(model, ESTIMATE_LEVELS))[:-1]
    return by_likelihood(x, _denoise(model, conditions, len(x), unclipped), levels)


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
        raise UsageError("the channels of this data have units of their own, so no one noise fits them: give it as sigma/alpha.")
    return scales.pop()


def _settings(model: Model, solver: str | None, sampling: Mapping[str, Any]) -> SamplingConfig:
    """The model's own settings, on a grid that ends in its cleanest level; with a solver that is prescribed, if any."""
    # A chain's own levels are what its network was trained at; evenly spaced times of other schedules may leap, as EDM's do.
    grid = "uniform" if isinstance(model.schedule, Chain) else "karras"
    base: dict[str, Any] = {"grid": grid, "steps": default_steps(model), "logsnrs": None} | ONE_WAY | OWN_ENDS | UNGUIDED
    if solver is not None:
        if "solver" in sampling:
            raise UsageError("this method goes back the way it came, so its solver cannot be chosen: leave it out, or use 'stochastic'.")
        base |= {"solver": solver}
    named = solver or sampling.get("solver")
    if named is not None:
        base |= {"grid": own_grid(named) or grid} | OWN_SOLVER
    return changed(model.config.sampling, {**base, **sampling})


def _denoise(model: Model, conditions: Mapping[str, object] | None, n: int, how: SamplingConfig) -> Denoise:
    return model.denoise(conditions or {}, n, how)


def _up_to(levels: Level, strength: float) -> Level:
    """The end of a table, from the noisy level nearest to a share of its angle; the clean level alone at strength 0."""
    if strength == 0:
        return levels[-1:]
    angle = angle_of(levels)[:-1]
    return levels[int((angle - strength * angle[0]).abs().argmin()) :]


def _end(moments: Iterator[Moment], way: Literal["up", "down"], watch: Watch | None, x: Tensor) -> Tensor:
    """Where a walk from x ends."""
    for moment in moments:
        x = moment.x
        if watch:
            watch(way, moment)
    return finite(x)


def _psnr(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """Peak signal to noise, example by example, in dB: 10 log10(range² / mean squared error), on the CPU."""
    low, high = model.codec.plain.limits(x.device)
    x, y = model.codec.in_plain(x), model.codec.in_plain(y)
    error = (((x - y) / (high - low)) ** 2).flatten(1).mean(1)
    return -10 * error.log10().cpu()
