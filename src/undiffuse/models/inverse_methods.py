"""How an inverse problem is solved with a model: the method, its settings, and the run from noise to examples given y.

The methods that draw x given y are sampling/inverse_problems.py's.  Here they get a model's codec, conditions, guidance, grid and solver.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.models.editing import WITH_GRADIENTS, Progress, StepCallback, default_steps
from undiffuse.models.guidance import Guidance, build_denoiser, encode_request, validate
from undiffuse.models.model import Model, at_once
from undiffuse.process.levels import Level
from undiffuse.process.posteriors import DenoiserFn
from undiffuse.sampling.grids import resampled
from undiffuse.sampling.inverse_problems import DPS, ITERATIONS, Measurement, RePaint, moment_matching, replacement
from undiffuse.sampling.loop import Counter, initial, require_finite, trajectory
from undiffuse.sampling.momentum import Remembering, WithMomentum
from undiffuse.sampling.overrides import resolved
from undiffuse.sampling.settings import ONE_WAY, SamplingConfig
from undiffuse.sampling.solvers.ancestral import DDIM, Ancestral
from undiffuse.sampling.solvers.base import Solver

InverseMethodName = Literal["exact", "pigdm", "replace", "dps", "repaint"]
ANCESTRAL_STEPS: dict[str, int] = {"dps": 50, "repaint": 30}  # of the methods that change ancestral steps
ZETA = 0.07


@dataclass(frozen=True)
class InverseMethod:
    """How an inverse problem is solved.

    method: one of InverseMethodName; sampling/inverse_problems.py derives them, docs/measurements/inverse-problems.md compares them.
    iterations: of conjugate gradients in `exact`, 1 or more.
    dps_step_size: length of the steps of `dps`, above 0; None: ZETA times the root of how many numbers an example has, since the noise
        of a step grows like that.
    jump_length, jump_repeats: of `repaint`: every stretch of `jump_length` steps is sampled `jump_repeats` times.

    Raises UsageError for a method that does not exist and for numbers out of range.
    """

    method: InverseMethodName = "dps"
    iterations: int = ITERATIONS
    dps_step_size: float | None = None
    jump_length: int = 10
    jump_repeats: int = 5

    def __post_init__(self) -> None:
        if self.method not in get_args(InverseMethodName):
            raise UsageError(
                f"there is no method {self.method!r}: choose one of {', '.join(get_args(InverseMethodName))}."
            )
        if self.iterations < 1 or (self.dps_step_size is not None and not 0 < self.dps_step_size < math.inf):
            raise UsageError(
                f"exact takes 1 or more iterations and dps a zeta above 0, not {self.iterations} and {self.dps_step_size}."
            )

    @staticmethod
    def of(what: InverseMethod | InverseMethodName | None) -> InverseMethod:
        """The one of a method's name; the usual one for None. Raises UsageError for a name that is none."""
        return what if isinstance(what, InverseMethod) else InverseMethod() if what is None else InverseMethod(what)


@dataclass(frozen=True)
class Solution:
    """Samples of p(x | y).

    values: (inputs, n, C, *size), in the data's own range.   observed: y as examples, (inputs, C, *size), in the same range.
    misfit: the root mean square of y - A x before rounding, in the model's range, (inputs, n).
    """

    values: Tensor
    observed: Tensor
    misfit: Tensor


def method_config(
    model: Model,
    method: InverseMethod,
    sampling: SamplingConfig | None = None,
    overrides: Mapping[str, Any] | None = None,
    function: Callable[..., object] = Model.sample,
) -> SamplingConfig:
    """The settings to sample with: `sampling`, or the model's own with the method's, and the overrides.

    function: that the overrides were given to, for the sentence about a misspelt one.
    Raises UsageError for a solver that the method cannot take.
    """
    own: dict[str, Any] = {}
    if sampling is None and method.method in ANCESTRAL_STEPS:
        own = {"solver": "ddpm", "steps": default_steps(model, ANCESTRAL_STEPS[method.method])}
    if method.method == "repaint":  # has ups and downs of its own
        own |= ONE_WAY | {"noise_sampler": "independent"}
    config = resolved(model.config.sampling, sampling, own | dict(overrides or {}), function)
    solver = config.build_solver(model.schedule)
    if method.method == "repaint" and not isinstance(solver, Ancestral):
        raise UsageError(f"repaint takes ancestral steps, and {config.solver!r} takes none: leave the solver out.")
    if method.method == "dps" and not isinstance(solver, Ancestral | DDIM):
        raise UsageError(
            f"dps moves the steps of ddpm or ddim, not those of {config.solver!r}: choose one of these, or the method exact."
        )
    return config


def method_levels(model: Model, method: InverseMethod, config: SamplingConfig) -> Level:
    """The levels that are visited, one row more than there are steps."""
    levels = config.build_levels(model.schedule)
    if method.method != "repaint":
        return levels
    return resampled(levels, max(1, min(method.jump_length, len(levels) - 2)), method.jump_repeats)


def solve(
    model: Model,
    measurement: Measurement,
    n: int,
    method: InverseMethod,
    config: SamplingConfig,
    *,
    conditions: Mapping[str, object] | None = None,
    guidance: Guidance | None = None,
    seed: int = 0,
    watch: StepCallback | None = None,
    progress: Progress | None = None,
) -> Solution:
    """n examples for each row of a measurement.   config: of `method_config`.

    conditions: one value for all, or one for each row.   Raises UsageError for n < 1, and guidance that contradicts the settings.
    """
    if n < 1:
        raise UsageError(f"asked for {n} answers: ask for at least 1.")
    guidance, inputs = guidance or Guidance(), len(measurement.y)
    validate(model, config, guidance)
    levels, solver = method_levels(model, method, config), config.build_solver(model.schedule)
    request = encode_request(model, conditions or {}, inputs, guidance)
    every = torch.arange(inputs, device=model.device).repeat_interleave(n)
    values = torch.empty(len(every), *model.config.codec.shape, dtype=model.config.codec.storage)
    misfit, size = torch.empty(len(every)), at_once(model.codec.shape, most=WITH_GRADIENTS)
    counter = Counter((len(levels) - 1) * -(-len(every) // size), progress)
    for answers in torch.arange(len(every)).split(size):
        index = answers.to(model.device)
        rows = every[index]
        some = measurement.rows(rows)
        x = initial(levels, model.config.codec.shape, seed, index)
        denoise = build_denoiser(
            model,
            request.rows(rows),
            config,
            guidance,
            lambda plain, some=some: _conditioned(plain, some, method, model),  # type: ignore[misc]
        )
        own = _solver(solver, some, method, x[0].numel())
        own = WithMomentum(own) if isinstance(denoise, Remembering) else own
        steps = trajectory(
            x, denoise, levels, own, seed=seed, index=index, noise=config.noise_sampler, s_noise=config.s_noise
        )
        for step in counter.counted(steps):
            x = step.x
            if watch:
                watch("down", step, answers)
        values[answers] = model.codec.decode(require_finite(x))
        misfit[answers] = some.residual(x).flatten(1).square().mean(1).sqrt().cpu()
    shaped = values.reshape(inputs, n, *model.config.codec.shape)
    return Solution(shaped, model.codec.decode(measurement.operator.picture(measurement.y)), misfit.reshape(inputs, n))


def _conditioned(plain: DenoiserFn, measurement: Measurement, method: InverseMethod, model: Model) -> DenoiserFn:
    prior = model.config.sigma_data**2
    if method.method == "replace":
        return replacement(plain, measurement, prior)
    if method.method in ("exact", "pigdm"):
        return moment_matching(plain, measurement, method.iterations if method.method == "exact" else 0, prior)
    return plain


def _solver(solver: Solver, measurement: Measurement, method: InverseMethod, numbers: int) -> Solver:
    """numbers: of an example."""
    if method.method == "repaint":
        assert isinstance(solver, Ancestral)  # `method_config` saw to it
        return RePaint(solver, measurement)
    if method.method == "dps":
        assert isinstance(solver, Ancestral | DDIM)
        return DPS(
            solver, measurement, ZETA * math.sqrt(numbers) if method.dps_step_size is None else method.dps_step_size
        )
    return solver
