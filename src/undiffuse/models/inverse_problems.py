"""Inverse problems with a trained model: fill in, upscale, colour, deblur.  No retraining.

Each task is what is seen of an example, y = A x + noise (process/operators.py); the methods that draw x given y are
sampling/inverse.py's.  Here they meet a model: its codec, its conditions and guidance, its grid and solver.

Integers are only known to half a step, which is noise of the standard deviation 1/sqrt(12) of a step.  What a mask leaves
is known exactly, and is returned as it was given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from undiffuse.config import changed
from undiffuse.errors import UsageError
from undiffuse.models.editing import WITH_GRADIENTS, Progress, StepCallback, default_steps
from undiffuse.models.guidance import Guidance, build_denoiser, encode_request, validate
from undiffuse.models.model import Model, at_once
from undiffuse.process.levels import Level
from undiffuse.process.operators import REC_601, Blur, Downsample, Grey, Mask, hidden_places
from undiffuse.process.posteriors import DenoiserFn
from undiffuse.sampling.grids import resampled
from undiffuse.sampling.inverse_problems import DPS, ITERATIONS, Measurement, RePaint, moment_matching, replacement
from undiffuse.sampling.loop import Counter, initial, require_finite, trajectory
from undiffuse.sampling.momentum import Remembering, WithMomentum
from undiffuse.sampling.settings import ONE_WAY, SamplingConfig, completed
from undiffuse.sampling.solvers.ancestral import DDIM, Ancestral
from undiffuse.sampling.solvers.base import Solver

InverseMethodName = Literal["exact", "pigdm", "replace", "dps", "repaint"]
STEPS: dict[str, int] = {"dps": 50, "repaint": 30}  # of the methods that change ancestral steps
ZETA = 0.07
ROUNDING = 1 / math.sqrt(12)


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
    """values: (inputs, n, C, *size), in the data's own range.   seen: y as examples, (inputs, C, *size), in the same.
    misfit: the root mean square of y - A x before rounding, in the model's range, (inputs, n)."""

    values: Tensor
    observed: Tensor
    misfit: Tensor


def inpaint(
    model: Model,
    values: np.ndarray | Tensor,
    hidden: np.ndarray | Tensor | None = None,
    n: int = 1,
    *,
    method: InverseMethod | InverseMethodName | None = None,
    conditions: Mapping[str, object] | None = None,
    steering: Guidance | None = None,
    seed: int = 0,
    watch: StepCallback | None = None,
    progress: Progress | None = None,
    **sampling: Any,
) -> Solution:
    """Fills in what is hidden, n times for each example; everything else comes back as it was given.

    values: (inputs, C, *size) in the data's own range; what stands at hidden places does not matter.   hidden: True where to
    fill in, of the shape (*size), (1 or C, *size) or (inputs, 1 or C, *size); where values are NaN when left out.
    method: or the name of its method.   conditions: as for Model.sample, one value for all or one for each example.
    sampling: any field of SamplingConfig.   progress: called with (done, total) steps.

    Raises UsageError for a mask of another size, one that hides everything or nothing, or values that are not finite elsewhere.
    """
    given, shape = _carried(model, values), model.config.codec.shape
    if given.shape[1:] != shape:
        raise UsageError(f"the model takes examples of shape {shape}, but these have {tuple(given.shape[1:])}.")
    where = hidden_places(given.isnan() if hidden is None else hidden, shape, len(given)).expand_as(given)
    offset = torch.tensor(model.config.codec.offset, dtype=given.dtype).reshape(-1, *[1] * (given.ndim - 2))
    x = _encoded(model, torch.where(where, offset, given))
    operator = Mask(~where.to(model.device))
    found = _solved(
        model, Measurement(operator, operator(x)), n, method, conditions, steering, seed, watch, progress, sampling
    )
    pasted = torch.where(where[:, None], found.values, given[:, None])
    return Solution(pasted, torch.where(where, offset, given), found.misfit)


def upscale(
    model: Model,
    values: np.ndarray | Tensor,
    factor: int = 2,
    n: int = 1,
    *,
    noise: float | None = None,
    method: InverseMethod | InverseMethodName | None = None,
    conditions: Mapping[str, object] | None = None,
    steering: Guidance | None = None,
    seed: int = 0,
    watch: StepCallback | None = None,
    progress: Progress | None = None,
    **sampling: Any,
) -> Solution:
    """Examples of the model's size whose blocks of factor numbers along each axis have the averages `values`.

    values: (inputs, C, *size / factor) in the data's own range.   noise: of theirs, in the same; that of rounding when left out.
    Raises UsageError for a factor that does not divide the model's size, or values of another shape.   See `inpaint`.
    """
    operator, small = Downsample(factor), _carried(model, values)
    wanted = operator.shape_of(model.config.codec.shape)
    if small.shape[1:] != wanted:
        raise UsageError(
            f"with the factor {factor} this model takes examples of shape {wanted}, but these have {tuple(small.shape[1:])}."
        )
    y = operator(_encoded(model, operator.picture(small)))
    return _solved(
        model,
        Measurement(operator, y, _noise(model, noise)),
        n,
        method,
        conditions,
        steering,
        seed,
        watch,
        progress,
        sampling,
    )


def colorize(
    model: Model,
    values: np.ndarray | Tensor,
    n: int = 1,
    *,
    weights: tuple[float, ...] | None = None,
    noise: float | None = None,
    method: InverseMethod | InverseMethodName | None = None,
    conditions: Mapping[str, object] | None = None,
    steering: Guidance | None = None,
    seed: int = 0,
    watch: StepCallback | None = None,
    progress: Progress | None = None,
    **sampling: Any,
) -> Solution:
    """Colours for grey examples.

    values: grey, (inputs, 1, *size), or in colour, from which grey is made.   weights: of the channels, summing to 1; how bright
    red, green and blue look when left out, and of other numbers of channels the mean.
    Raises UsageError for a model of one channel, or weights that do not fit.   See `inpaint` and `upscale`.
    """
    shape, given = model.config.codec.shape, _carried(model, values)
    weights = weights or (REC_601 if shape[0] == 3 else (1 / shape[0],) * shape[0])
    grey = Grey(weights)
    one = grey.shape_of(shape)
    if not math.isclose(sum(weights), 1, abs_tol=1e-6):
        raise UsageError(
            f"the weights of the channels sum up to {sum(weights):g}: they should sum up to 1, so that white stays white."
        )
    if given.shape[1:] not in (shape, one):
        raise UsageError(
            f"colouring takes grey examples of shape {one} (or of {shape}), but these have {tuple(given.shape[1:])}."
        )
    seen = given if given.shape[1:] == one else grey(given)
    # In the model's range each channel has a unit of its own: sum w v = sum (w scale) x + sum w offset.
    units = tuple(w * scale for w, scale in zip(weights, model.config.codec.scale, strict=True))
    operator = Grey(tuple(unit / sum(units) for unit in units))
    y = operator(_encoded(model, grey.picture(seen), limited=False))
    measured = Measurement(operator, y, _noise(model, noise, sum(units)))
    found = _solved(model, measured, n, method, conditions, steering, seed, watch, progress, sampling)
    return Solution(found.values, grey.picture(seen).contiguous(), found.misfit)


def deblur(
    model: Model,
    values: np.ndarray | Tensor,
    radius: float = 1.0,
    n: int = 1,
    *,
    noise: float | None = None,
    method: InverseMethod | InverseMethodName | None = None,
    conditions: Mapping[str, object] | None = None,
    steering: Guidance | None = None,
    seed: int = 0,
    watch: StepCallback | None = None,
    progress: Progress | None = None,
    **sampling: Any,
) -> Solution:
    """Sharp examples that, blurred by a Gaussian of the standard deviation `radius`, in steps of the grid, are `values`.

    values: (inputs, C, *size) in the data's own range.   Raises UsageError for a radius that is none.   See `upscale`.
    """
    operator = Blur(radius)
    operator.shape_of(model.config.codec.shape)
    y = _encoded(model, _carried(model, values))
    return _solved(
        model,
        Measurement(operator, y, _noise(model, noise)),
        n,
        method,
        conditions,
        steering,
        seed,
        watch,
        progress,
        sampling,
    )


def settings(model: Model, method: InverseMethod, **sampling: Any) -> SamplingConfig:
    """What is walked with: the model's own settings, then the method's, then those given.

    Raises UsageError for a solver that the method cannot take.
    """
    own: dict[str, Any] = (
        {"solver": "ddpm", "steps": default_steps(model, STEPS[method.method])} if method.method in STEPS else {}
    )
    if method.method == "repaint":  # has ups and downs of its own
        own |= ONE_WAY | {"noise_sampler": "independent"}
    how = changed(model.config.sampling, completed(model.config.sampling, {**own, **sampling}))
    solver = how.build_solver(model.schedule)
    if method.method == "repaint" and not isinstance(solver, Ancestral):
        raise UsageError(f"repaint takes ancestral steps, and {how.solver!r} takes none: leave the solver out.")
    if method.method == "dps" and not isinstance(solver, Ancestral | DDIM):
        raise UsageError(
            f"dps moves the steps of ddpm or ddim, not those of {how.solver!r}: choose one of these, or the method exact."
        )
    return how


def grid(model: Model, method: InverseMethod, how: SamplingConfig) -> Level:
    """The table of levels that is walked."""
    levels = how.build_levels(model.schedule)
    return (
        resampled(levels, max(1, min(method.jump_length, len(levels) - 2)), method.jump_repeats)
        if method.method == "repaint"
        else levels
    )


def _solved(
    model: Model,
    seen: Measurement,
    n: int,
    method: InverseMethod | InverseMethodName | None,
    conditions: Mapping[str, object] | None,
    steering: Guidance | None,
    seed: int,
    watch: StepCallback | None,
    progress: Progress | None,
    sampling: Mapping[str, Any],
) -> Solution:
    """n examples for each row of what is seen."""
    if n < 1:
        raise UsageError(f"asked for {n} answers: ask for at least 1.")
    method, steering, inputs = InverseMethod.of(method), steering or Guidance(), len(seen.y)
    how = settings(model, method, **sampling)
    validate(model, how, steering)
    levels, solver = grid(model, method, how), how.build_solver(model.schedule)
    asked = encode_request(model, conditions or {}, inputs, steering)
    every = torch.arange(inputs, device=model.device).repeat_interleave(n)
    values = torch.empty(len(every), *model.config.codec.shape, dtype=model.config.codec.storage)
    misfit, size = torch.empty(len(every)), at_once(model.codec.shape, most=WITH_GRADIENTS)
    counter = Counter((len(levels) - 1) * -(-len(every) // size), progress)
    for answers in torch.arange(len(every)).split(size):
        index = answers.to(model.device)
        rows = every[index]
        some = seen.rows(rows)
        x = initial(levels, model.config.codec.shape, seed, index)
        belief = build_denoiser(
            model,
            asked.rows(rows),
            how,
            steering,
            lambda plain, some=some: _conditioned(plain, some, method, model),  # type: ignore[misc]
        )
        walking = _solver(solver, some, method, x[0].numel())
        walking = WithMomentum(walking) if isinstance(belief, Remembering) else walking
        moments = trajectory(
            x, belief, levels, walking, seed=seed, index=index, noise=how.noise_sampler, s_noise=how.s_noise
        )
        for moment in counter.counted(moments):
            x = moment.x
            if watch:
                watch("down", moment, answers)
        values[answers] = model.codec.decode(require_finite(x))
        misfit[answers] = some.residual(x).flatten(1).square().mean(1).sqrt().cpu()
    shaped = values.reshape(inputs, n, *model.config.codec.shape)
    return Solution(shaped, model.codec.decode(seen.operator.picture(seen.y)), misfit.reshape(inputs, n))


def _conditioned(plain: DenoiserFn, seen: Measurement, method: InverseMethod, model: Model) -> DenoiserFn:
    prior = model.config.sigma_data**2
    if method.method == "replace":
        return replacement(plain, seen, prior)
    if method.method in ("exact", "pigdm"):
        return moment_matching(plain, seen, method.iterations if method.method == "exact" else 0, prior)
    return plain


def _solver(solver: Solver, seen: Measurement, method: InverseMethod, numbers: int) -> Solver:
    """numbers: of an example."""
    if method.method == "repaint":
        assert isinstance(solver, Ancestral)  # `settings` saw to it
        return RePaint(solver, seen)
    if method.method == "dps":
        assert isinstance(solver, Ancestral | DDIM)
        return DPS(solver, seen, ZETA * math.sqrt(numbers) if method.dps_step_size is None else method.dps_step_size)
    return solver


def _carried(model: Model, values: np.ndarray | Tensor) -> Tensor:
    return model.config.codec.carried(values).cpu()


def _encoded(model: Model, values: Tensor, limited: bool = True) -> Tensor:
    if model.codec.space is not None:
        raise UsageError(
            "this model knows an autoencoder's latents, and what is seen is seen of the data: take one trained without --latent."
        )
    if not values.isfinite().all():
        raise UsageError(
            f"{int((~values.isfinite()).sum())} of the values are NaN or infinite: mend them, or hide them from inpaint."
        )
    return model.codec.encode(values, limited).to(model.device)


def _noise(model: Model, noise: float | None, unit: float | None = None) -> float:
    """A standard deviation in the data's own units, in the model's.   unit: how many of these are one of the model's."""
    if noise is not None and not 0 <= noise < math.inf:
        raise UsageError(
            f"noise of {noise:g} is none: give its standard deviation in the units of the data, 0 or more."
        )
    if noise is not None and unit is None and len(set(model.config.codec.scale)) > 1:
        raise UsageError("the channels of this data have units of their own, so no one noise fits them: leave it out.")
    if noise is None:
        noise = ROUNDING if model.config.codec.kind == "integer" else 0.0
    return noise / (unit or model.config.codec.scale[0])
