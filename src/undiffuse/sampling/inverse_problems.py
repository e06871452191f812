"""Inverse problems: samples of p(x | y) where y = A x + noise · n is known, with a model of p(x) as it is.

Given x_t, the posterior of x has a mean x̂ and a covariance V, and by Tweedie's formula, differentiated once more,

    V = sigma²/alpha · dx̂/dx_t,                                                                                          (1)

a symmetric matrix that backward passes multiply by vectors.  Taken for a Gaussian, N(x̂, V), it is conditioned on y in
closed form, and the mean of that is all a solver needs:

    x̂_y = x̂ + V Aᵀ w,     w = (A V Aᵀ + noise² I)^-1 (y - A x̂).                                                         (2)

The same is x̂ + sigma²/alpha · grad log p(y | x_t).  For Gaussian data (2) is exact, and so are the samples.  The methods
differ in what they put for the two V:

    method    V before Aᵀ   V inside w                                    evaluations a step
    exact     (1)           (1), by a few conjugate gradients             1 forward, iterations + 1 backward (Rozet et al. 2024, MMPS)
    pigdm     (1)           r² I                                          1 forward, 1 backward (Song et al. 2023, ΠGDM, eq. 7)
    replace   r² I          r² I, so that A x̂_y = y without noise         1 forward (Song et al. 2021; Wang et al. 2023, DDNM)
    dps       (1)           any number: a step of its own length, below   1 forward, 1 backward (Chung et al. 2023)

where r² = prior sigma²/(alpha² prior + sigma²) is what is not known of numbers of variance `prior`.  (ΠGDM's released code
weighs w by r² once more, at each step; this does not.)

A network's x̂ is not exact, and far from the data its dx̂/dx_t is not even symmetric.  Conjugate gradients therefore start
from w = 0: after few iterations w lies where V is large, which is where the network can be trusted; starting from pigdm's
w, the rest of it brings in the errors of directions that V should have removed.  For the same reason a share of r², the
`damping`, is added to noise².  Exact denoisers need neither: without damping, as many iterations as there are known numbers solve (2).

DPS is a change of an ancestral step instead, x_s + 2 zeta (dx̂/dx_t)ᵀ Aᵀ (y - A x̂)/|y - A x̂|, its Algorithm 1.  RePaint is
one too (Lugmayr et al. 2022): after each step the known numbers are those of q(x_s | x_0), noised anew to the level that
was just reached, so the last ones are the known numbers themselves.  What is sampled beside them depends on them only through
the network, which has time to agree with them where the grid goes back up and down again (grids.py: resampled).

At pure noise, alpha = 0, x_t has no information and (1) is 0/0: exact, pigdm and dps begin below it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.process import derivatives
from undiffuse.process.forward import add_noise
from undiffuse.process.levels import Level, broadcast_to
from undiffuse.process.operators import Mask, Operator
from undiffuse.process.posteriors import DenoiserFn, Posterior
from undiffuse.sampling.solvers.ancestral import DDIM, Ancestral
from undiffuse.sampling.solvers.base import NoiseSource, Solver, Step, constant_denoiser

DAMPING = 0.01  # digits are filled in as well with 0.1
ITERATIONS = 3


@dataclass(frozen=True)
class Measurement:
    """y = A x + noise · n.   y: (B, …), of the same examples in the same order as x.   noise: a standard deviation."""

    operator: Operator
    y: Tensor
    noise: float = 0.0

    def residual(self, x: Tensor) -> Tensor:
        """y - A x."""
        return self.y.to(x) - self.operator(x)

    def rows(self, rows: slice | Tensor) -> Measurement:
        """Of some examples."""
        operator = self.operator
        if isinstance(operator, Mask) and operator.known.ndim == self.y.ndim:
            operator = Mask(operator.known[rows])
        return Measurement(operator, self.y[rows], self.noise)


def replacement(denoise: DenoiserFn, measurement: Measurement, prior: float = 1.0) -> DenoiserFn:
    """Method replace: the known part of x̂ is replaced by y, or moved towards it where y is noisy."""

    def conditioned(x_t: Tensor, level: Level) -> Posterior:
        posterior, unknown = denoise(x_t, level), _unknown(level, prior)
        w = measurement.operator.solve(measurement.residual(posterior.mean), unknown, measurement.noise**2)
        return posterior.moved(unknown * measurement.operator.adjoint(w), level)

    return conditioned


def moment_matching(
    denoise: DenoiserFn,
    measurement: Measurement,
    iterations: int = ITERATIONS,
    prior: float = 1.0,
    damping: float = DAMPING,
) -> DenoiserFn:
    """Method exact; pigdm with 0 iterations.   iterations: of conjugate gradients; as many as there are known numbers solve (2).

    damping: see above.
    """

    def conditioned(x_t: Tensor, level: Level) -> Posterior:
        if not level.alpha:
            return denoise(x_t, level)
        posterior, transposed = _with_jacobian(denoise, x_t, level)
        unknown, on_jacobian = _unknown(level, prior), broadcast_to(level.sigma**2 / level.alpha, x_t)
        noise2 = measurement.noise**2 + damping * unknown

        def covariance(v: Tensor) -> Tensor:
            return on_jacobian * transposed(measurement.operator.adjoint(v))

        residual = measurement.residual(posterior.mean)
        if iterations:
            w = _conjugate_gradients(lambda v: measurement.operator(covariance(v)) + noise2 * v, residual, iterations)
        else:
            w = measurement.operator.solve(residual, unknown, noise2)
        return posterior.moved(covariance(w), level)

    return conditioned


def _unknown(level: Level, prior: float) -> float:
    """r²."""
    return float(prior * level.sigma**2 / (level.alpha**2 * prior + level.sigma**2))


def _with_jacobian(denoise: DenoiserFn, x_t: Tensor, level: Level) -> tuple[Posterior, Callable[[Tensor], Tensor]]:
    """The posterior, and a function that multiplies vectors by (dx̂/dx_t)ᵀ."""
    with derivatives.with_graph():
        x = x_t.detach().requires_grad_()
        posterior = denoise(x, level)

    def transposed(v: Tensor) -> Tensor:
        return torch.autograd.grad(posterior.mean, x, v, retain_graph=True)[0]

    return posterior.detached(), transposed


def _conjugate_gradients(matrix: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    """matrix^-1 b from the guess 0, each example by itself (Hestenes & Stiefel 1952), which stops where there is no curvature."""
    w, rest, direction, length = torch.zeros_like(b), b, b, _dot(b, b)
    for _ in range(iterations):
        curved = matrix(direction)
        curvature = _dot(direction, curved)
        going = (curvature > 0) & (length > 0)
        step = torch.where(going, length / curvature, 0)
        w, rest = w + step * direction, rest - step * curved
        before, length = length, _dot(rest, rest)
        direction = torch.where(going, rest + length / before * direction, 0)
    return w


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Of each example, shaped to multiply it."""
    return (a * b).flatten(1).sum(1).reshape(-1, *[1] * (a.ndim - 1))


@dataclass(frozen=True)
class DPS(Solver):
    """Diffusion posterior sampling.   step_size: length of its steps, zeta above, one for each step of the solver."""

    inner: Ancestral | DDIM
    measurement: Measurement
    step_size: float = 1.0
    stochastic: bool = True

    def plan(self, levels: Level) -> Sequence[tuple[Level, Any]]:
        return list(zip(levels.rows(), self.inner.plan(levels), strict=False))

    def step(self, x_t: Tensor, denoise: DenoiserFn, row: tuple[Level, Any], noise: NoiseSource, state: Any) -> Step:
        here, plan = row
        posterior, transposed = _with_jacobian(denoise, x_t, here)
        step = self.inner.step(x_t, partial(constant_denoiser, posterior), plan, noise, state)
        if not here.alpha:
            return step
        residual = self.measurement.residual(posterior.mean)
        length = (
            _dot(residual, residual).sqrt().reshape(-1, *[1] * (x_t.ndim - 1)).clamp(min=torch.finfo(x_t.dtype).tiny)
        )
        pull = transposed(self.measurement.operator.adjoint(residual)) / length
        return Step(step.x + 2 * self.step_size * pull, posterior, step.state)


@dataclass(frozen=True)
class RePaint(Solver):
    """Ancestral steps, after which the known numbers are noised anew.   measurement: through a mask, without noise.

    Raises UsageError for any other.
    """

    inner: Ancestral
    measurement: Measurement
    stochastic: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.measurement.operator, Mask) or self.measurement.noise:
            raise UsageError(
                "repaint fills in what a mask hides, from numbers that are known exactly: use the method exact or pigdm here."
            )

    def plan(self, levels: Level) -> Sequence[Any]:
        return self.inner.plan(levels)

    def step(self, x_t: Tensor, denoise: DenoiserFn, row: Any, noise: NoiseSource, state: Any) -> Step:
        step, there = self.inner.step(x_t, denoise, row, noise, state), row.move.there
        y = self.measurement.y.to(x_t)
        known = add_noise(y, there, noise(1)) if there.sigma else y
        assert isinstance(self.measurement.operator, Mask)
        return Step(
            torch.where(self.measurement.operator.known.to(x_t.device), known, step.x), step.posterior, step.state
        )
