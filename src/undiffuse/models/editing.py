"""Edits of given examples: reconstruct one, vary it, interpolate between two.  denoising.py removes noise from them.

Each goes up to some noise level and back down, put together from sampling/ for one model:

    reconstruct   up by inversion of the flow (ddim, heun), by DDPM inversion (ddpm_inversion), or by a random jump
                  (stochastic; Meng et al. 2022, SDEdit, Algorithm 1), and down again
    vary          the same with random jumps, several times for each example
    interpolate   two examples up by inversion, along the sphere between them, and down

Examples go through the network in batches.  What is returned lies on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Unpack, get_args

import numpy as np
import torch
from torch import Tensor

from undiffuse.config import changed
from undiffuse.errors import UsageError
from undiffuse.models.model import BATCH_NUMBERS, Model, at_once
from undiffuse.process.chains import Chain
from undiffuse.process.forward import add_noise
from undiffuse.process.levels import Level
from undiffuse.process.philox import standard_normal
from undiffuse.process.probability_flow import angle_of
from undiffuse.rng import NoiseStream
from undiffuse.sampling.ddpm_inversion import ddpm_inversion
from undiffuse.sampling.inversion import at_lowest_noise, invert, slerp
from undiffuse.sampling.loop import Counter, SamplerStep, require_finite, trajectory
from undiffuse.sampling.overrides import SamplingOverrides, refuse_unknown, resolved
from undiffuse.sampling.settings import ONE_WAY, OWN_ENDS, OWN_SOLVER, UNGUIDED, SamplingConfig
from undiffuse.sampling.solvers.registry import own_grid

InversionMethod = Literal["heun", "ddim", "ddpm_inversion", "stochastic"]
INVERSION_SOLVERS = {
    "heun": "heun",
    "ddim": "euler",
    "ddpm_inversion": "ddpm",
}  # of the methods whose way back the way up prescribes
INVERSION_STEPS = 100

WITH_GRADIENTS = 64  # examples at once, where gradients are recorded
RECORDED = 2**24  # numbers of recorded noise at once

StepCallback = Callable[[Literal["up", "down"], SamplerStep, Tensor], None]
"""Called with every step of a trajectory and which examples it is of, int64 (B,): for strips and animations."""
Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""


@dataclass(frozen=True)
class Reconstruction:
    """Examples after the way to noise and back.

    values: (n, C, *size), in the data's own range.   x, noised, back: the example, x_t at the level `top`, and the reconstruction, (n, …) in the
    model's range.   psnr: of `back` before it is rounded and clipped, in dB, inf where nothing changed, (n,).
    """

    values: Tensor
    x: Tensor
    noised: Tensor
    back: Tensor
    top: Level
    psnr: Tensor


@dataclass(frozen=True)
class Interpolation:
    """Examples between two others.

    values: (n, C, *size), in the data's own range.   shares: of the second example, 0 … 1.   x: the two examples.
    back: (n, …), in the model's range.   psnr: of the two ends, in dB, (2,).
    """

    values: Tensor
    shares: tuple[float, ...]
    x: Tensor
    back: Tensor
    psnr: Tensor


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
    sampling: SamplingConfig | None = None,
    **overrides: Unpack[SamplingOverrides],
) -> Reconstruction:
    """Takes examples up to a level and back.

    values: (n, C, *size) in the data's own range.   strength: how far up, as a share of the angle atan2(sigma, alpha),
    0 … 1; at 0 nothing happens.   conditions, sampling, overrides: as for Model.sample, but without guidance and on a grid of 100
    steps that reaches down to the model's cleanest level where nothing else is given.   progress: called with (done, total) steps.

    Raises UsageError for an unknown method, a strength out of range, or settings that contradict each other.
    """
    config = inversion_config(model, INVERSION_SOLVERS.get(_known(method)), sampling, overrides, reconstruct)
    of = torch.arange(len(values))
    return _up_and_down(model, values, of, method, strength, conditions, seed, watch, progress, config)


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
    sampling: SamplingConfig | None = None,
    **overrides: Unpack[SamplingOverrides],
) -> Reconstruction:
    """n variations of each example: noised at random as far up as `strength` says, and back.

    The variations of one example follow each other.   Raises UsageError for n < 1, and as `reconstruct`.
    """
    if n < 1:
        raise UsageError(f"asked for {n} variations: ask for at least 1.")
    of = torch.arange(len(values)).repeat_interleave(n)
    config = inversion_config(model, None, sampling, overrides, vary)
    return _up_and_down(model, values, of, "stochastic", strength, conditions, seed, watch, progress, config)


def _up_and_down(
    model: Model,
    values: np.ndarray | Tensor,
    of: Tensor,
    method: InversionMethod,
    strength: float,
    conditions: Mapping[str, object] | None,
    seed: int,
    watch: StepCallback | None,
    progress: Progress | None,
    config: SamplingConfig,
) -> Reconstruction:
    """of: int64 (n,), which of the values each result starts from.  What is not returned is held of one batch at a time."""
    if not 0 <= strength <= 1:
        raise UsageError(f"the strength {strength:g} lies outside 0 (nothing) to 1 (all the way to noise).")
    levels, solver, n = (
        _up_to(config.build_levels(model.schedule), strength),
        config.build_solver(model.schedule),
        len(of),
    )
    given = encoded_examples(model, values)
    x = given if len(of) == len(given) else given[of]
    noised, back, psnr = torch.empty_like(x), torch.empty_like(x), torch.empty(n)
    decoded = torch.empty(n, *model.config.codec.shape, dtype=model.config.codec.storage)
    denoisers = model.denoiser_fns(conditions or {}, len(values), config)
    steps = len(levels) - 1
    size = at_once(
        x.shape[1:],
        numbers=min(BATCH_NUMBERS, RECORDED // max(1, steps)) if method == "ddpm_inversion" else BATCH_NUMBERS,
    )
    counter = Counter(-(-n // size) * (steps + (max(0, steps - 1) if method in ("heun", "ddim") else 0)), progress)
    for rows in torch.arange(n).split(size):
        here, index, denoise = x[rows].to(model.device), rows.to(model.device), denoisers(of[rows])
        noise: Any = config.noise_sampler
        top, rest = here, torch.zeros_like(here)
        if method == "ddpm_inversion" and steps:
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
            top = followed(counter.counted(up), "up", rows, watch, at_lowest_noise(here, levels))
        down = trajectory(top, denoise, levels, solver, seed=seed, index=index, noise=noise) if steps else iter(())
        result = followed(counter.counted(down), "down", rows, watch, top) + rest
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
    sampling: SamplingConfig | None = None,
    **overrides: Unpack[SamplingOverrides],
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
    config = inversion_config(model, INVERSION_SOLVERS[method], sampling, overrides, interpolate)
    levels, solver = config.build_levels(model.schedule), config.build_solver(model.schedule)
    x = torch.cat([encoded_examples(model, value[None]) for value in (first, second)])
    ends, steps, size = torch.arange(2), len(levels) - 1, at_once(x.shape[1:])
    counter = Counter(steps - 1 + steps * -(-n // size), progress)
    up = invert(x.to(model.device), model.denoiser_fn(conditions or {}, 2, config), levels, solver)
    top = followed(counter.counted(up), "up", ends, watch, at_lowest_noise(x.to(model.device), levels))
    shares = tuple(torch.linspace(0, 1, n, dtype=torch.float64).tolist())
    denoisers, back = model.denoiser_fns(conditions or {}, n, config), torch.empty(n, *x.shape[1:])
    decoded = torch.empty(n, *model.config.codec.shape, dtype=model.config.codec.storage)
    for rows in torch.arange(n).split(size):
        between = torch.cat([slerp(top[:1], top[1:], shares[k]) for k in rows.tolist()])
        decoding = trajectory(between, denoisers(rows), levels, solver, seed=0, index=rows.to(model.device))
        result = followed(counter.counted(decoding), "down", rows, watch, between)
        back[rows], decoded[rows] = result.cpu(), model.codec.decode(result)
    return Interpolation(decoded, shares, x, back, _psnr(model, x, back[[0, -1]]))


def default_steps(model: Model, most: int = INVERSION_STEPS) -> int:
    """`most`, or as many as the model's chain has."""
    return min(most, len(model.schedule)) if isinstance(model.schedule, Chain) else most


def _known(method: InversionMethod) -> InversionMethod:
    if method not in get_args(InversionMethod):
        raise UsageError(f"there is no method {method!r}: choose one of {', '.join(get_args(InversionMethod))}.")
    return method


def inversion_config(
    model: Model,
    solver: str | None,
    sampling: SamplingConfig | None,
    overrides: Mapping[str, Any],
    function: Callable[..., object],
) -> SamplingConfig:
    """`sampling`, or the model's own settings without guidance on a grid that ends in its cleanest level, with the overrides.

    solver: that the method prescribes, if any.   function: that the overrides were given to.
    Raises UsageError for another solver than a prescribed one, and settings that contradict each other.
    """
    refuse_unknown(overrides, function)
    if solver is not None and ("solver" in overrides or (sampling is not None and sampling.solver != solver)):
        raise UsageError(
            f"this method goes back the way it came, by {solver!r}, so its solver cannot be chosen: leave it out, or use 'stochastic'."
        )
    if sampling is not None:
        return resolved(model.config.sampling, sampling, overrides, function)
    # A chain's own levels are what its network was trained at; evenly spaced times of other schedules may leap, as EDM's do.
    grid = "uniform" if isinstance(model.schedule, Chain) else "karras"
    base: dict[str, Any] = (
        {"grid": grid, "steps": default_steps(model), "logsnrs": None} | ONE_WAY | OWN_ENDS | UNGUIDED
    )
    if solver is not None:
        base |= {"solver": solver}
    named = solver or overrides.get("solver")
    if named is not None:
        base |= {"grid": own_grid(named) or grid} | OWN_SOLVER
    return changed(model.config.sampling, {**base, **overrides})


def encoded_examples(model: Model, values: np.ndarray | Tensor, limited: bool = True) -> Tensor:
    """x of examples, on the CPU. Raises UsageError where there are none, or some of their numbers are none."""
    if not isinstance(values, np.ndarray | Tensor):
        values = model.config.codec.carried(values)
    if not len(values):
        raise UsageError("there are no examples: give at least 1.")
    x = model.codec.encode_parts(values, limited=limited)
    if not x.isfinite().all():
        raise UsageError(
            f"{int((~x.isfinite()).sum())} of the values are NaN or infinite: remove them, or fill them in by inpaint."
        )
    return x


def _up_to(levels: Level, strength: float) -> Level:
    """The end of a table, from the noisy level nearest to a share of its angle; the clean level alone at strength 0."""
    if strength == 0:
        return levels[-1:]
    angle = angle_of(levels)[:-1]
    return levels[int((angle - strength * angle[0]).abs().argmin()) :]


def followed(
    steps: Iterator[SamplerStep], way: Literal["up", "down"], rows: Tensor, watch: StepCallback | None, x: Tensor
) -> Tensor:
    """Where a trajectory of some examples from x ends."""
    for step in steps:
        x = step.x
        if watch:
            watch(way, step, rows)
    return require_finite(x)


def _psnr(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """Peak signal to noise, example by example, in dB: 10 log10(range² / mean squared error), on the CPU."""
    low, high = model.codec.plain.limits(x.device)
    x, y = model.codec.in_plain(x), model.codec.in_plain(y)
    error = (((x - y) / (high - low)) ** 2).flatten(1).mean(1)
    return -10 * error.log10().cpu()
