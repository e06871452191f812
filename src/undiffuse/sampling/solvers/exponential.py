"""Exponential integrators: polynomials under the integral of forms.py, in three ways of choosing their nodes.

Multistep    through the values at the last `order` levels: one evaluation a step.  With a corrector the step just taken
             is integrated again, now also through the value at its end, before the next one starts from it; that value
             is needed anyway, so this costs nothing and gains one order (Zhao et al. 2023, UniPC).
Singlestep   blocks of `order` steps, each integrated from the start of its block, through the values at that start and at
             the latest level; a block of three is DPM-Solver-3 (Lu et al. 2022a, Algorithm 2) with its inner levels read
             from the table instead of computed.  The end of a table may cut a block short.
Heun         through the values at both ends of a step, the far one evaluated at a first-order guess: two evaluations
             (Karras et al. 2022, Algorithm 1, in whichever form).

All draw the noise of their form (forms.py, eq. 2), and a corrected or restarted step keeps the noise it had.

Into the clean level the step is DDIM's, which ends on x̂: at the last noisy level nothing else is known of x_0, and some
coordinates are infinite there.  So it is where the integral has no meaning, in the noise form at pure noise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.process.levels import Level
from undiffuse.process.posteriors import DenoiserFn
from undiffuse.sampling.solvers.base import NoiseSource, Solver, Step, combination, jump
from undiffuse.sampling.solvers.forms import (
    LOGSNR,
    Coordinate,
    Form,
    Rule,
    angle_coordinate,
    angle_form,
    clean,
    weights,
)


@dataclass(frozen=True)
class _Integral:
    """From row `base` of a table to row `stop`, through the values at rows `nodes`, newest first."""

    base: int
    stop: int
    nodes: tuple[int, ...]


@dataclass(frozen=True)
class _Sum:
    """on_base · x at the base + the sum of weights · g, newest g first."""

    on_base: float
    weights: tuple[float, ...]

    def __call__(self, base: Tensor, values: Sequence[Tensor]) -> Tensor:
        if len(values) < len(self.weights):
            raise UsageError(
                "a trajectory of a solver with a history can only be taken up with its state: start it again."
            )
        x = base * self.on_base
        for weight, g in zip(self.weights, values, strict=False):
            if weight:
                x.add_(g, alpha=weight)
        return x


def _sums(
    form: Form, coordinate: Coordinate, rule: Rule, levels: Level, integrals: Sequence[_Integral | None]
) -> list[_Sum | None]:
    """Forms.py's equation (1) for each integral; those with as many nodes are weighed together."""
    scale, sums = form.scale(levels.alpha, levels.sigma), dict[int, _Sum]()
    for count in {len(i.nodes) for i in integrals if i}:
        which = [(k, i) for k, i in enumerate(integrals) if i and len(i.nodes) == count]
        start, stop = (torch.tensor([getattr(i, end) for _, i in which]) for end in ("base", "stop"))
        w = weights(form, coordinate, rule, levels.sigma_edm, start, stop, torch.tensor([i.nodes for _, i in which]))
        on_base, on_values = (scale[stop] / scale[start]).tolist(), (scale[stop][:, None] * w).tolist()
        for (k, i), base, row in zip(which, on_base, on_values, strict=True):
            newest = i.nodes[0]
            dense = [0.0] * (newest - i.nodes[-1] + 1)
            for node, weight in zip(i.nodes, row, strict=True):
                dense[newest - node] = weight
            sums[k] = _Sum(base, tuple(dense))
    return [sums.get(k) for k in range(len(integrals))]


def _usable(form: Form, coordinate: Coordinate, levels: Level) -> tuple[list[bool], list[bool]]:
    """Of each row: whether an integral may end there, and whether a polynomial may pass through it."""
    u = levels.sigma_edm
    return form.measure(u).isfinite().tolist(), coordinate.of(u).isfinite().tolist()


@dataclass(frozen=True)
class _Row:
    """A step.  level: (alpha, sigma) of x_t.   g: its coefficients on x̂ and eps.   predict: None for DDIM's step.

    there: (alpha, sigma) of x_s.   correct: of x_t, if any.   restart: whether x_t becomes the base.   kept: how many
    values later steps want.   on_noise, carried: factors of this step's noise, and of the noise since the base.
    to_base: the base's scale over that of x_t.
    """

    here: Level
    level: tuple[float, float]
    there: tuple[float, float]
    g: tuple[float, float]
    predict: _Sum | None
    correct: _Sum | None
    restart: bool
    kept: int
    on_noise: float
    carried: float
    to_base: float


@dataclass(frozen=True)
class _State:
    base: Tensor
    values: tuple[Tensor, ...]
    noise: Tensor | None


@dataclass(frozen=True)
class Exponential(Solver, ABC):
    """What Multistep and Singlestep share.  They differ in the levels that their polynomials pass through."""

    form: Form = field(default_factory=clean)
    coordinate: Coordinate = LOGSNR
    order: int = 2
    rule: Rule = "exact"

    def __post_init__(self) -> None:
        if not 1 <= self.order <= 4:
            raise UsageError(f"the order of a solver is 1, 2, 3 or 4, not {self.order}.")

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        return self.form.eta > 0

    @abstractmethod
    def _predicted(self, row: int, steps: int) -> _Integral:
        """The integral of step `row` of so many."""

    def _corrected(self, row: int, steps: int) -> _Integral | None:
        """The integral up to level `row`, done again when the value there is known."""
        return None

    def plan(self, levels: Level) -> Sequence[_Row]:
        steps, form = len(levels) - 1, self.form
        ends, passes = _usable(form, self.coordinate, levels)
        ends = [end and sigma > 0 for end, sigma in zip(ends, levels.sigma.tolist(), strict=True)]

        def fitting(integral: _Integral | None, corrected: bool) -> _Integral | None:
            if integral is None or not (ends[integral.base] and ends[integral.stop] and passes[integral.stop]):
                return None
            nodes = tuple(n for n in integral.nodes if passes[n])
            if corrected:
                return _Integral(integral.base, integral.stop, nodes) if len(nodes) > 1 else None
            return _Integral(integral.base, integral.stop, nodes or integral.nodes[:1])

        bases = [self._predicted(row, steps).base for row in range(steps)]
        predicted = [fitting(self._predicted(row, steps), False) for row in range(steps)]
        corrected = [
            fitting(self._corrected(row, steps), True) if row and predicted[row - 1] else None for row in range(steps)
        ]
        predict = _sums(form, self.coordinate, self.rule, levels, predicted)
        correct = _sums(form, self.coordinate, "exact", levels, corrected)
        pairs = list(zip(levels.alpha.tolist(), levels.sigma.tolist(), strict=True))
        g = list(zip(*(f(levels.alpha, levels.sigma).tolist() for f in (form.on_clean, form.on_eps)), strict=True))
        on_noise, carried = self._noise(levels)
        scale = form.scale(levels.alpha, levels.sigma)[:-1]
        to_base = (scale[bases] / scale).tolist()
        rows = []
        for row, here in enumerate(levels.rows()[:-1]):
            reach = range(row + 1, min(steps, row + 2 + self.order))
            later = [n for k in reach for i in (predicted[k], corrected[k]) if i for n in i.nodes if n <= row]
            rows.append(
                _Row(
                    here,
                    pairs[row],
                    pairs[row + 1],
                    g[row],
                    predict[row],
                    correct[row],
                    restart=bases[row] == row,
                    kept=row + 1 - min(later) if later else 0,
                    on_noise=on_noise[row],
                    carried=carried[row],
                    to_base=to_base[row],
                )
            )
        return rows

    def _noise(self, levels: Level) -> tuple[list[float], list[float]]:
        """For each step, the factors of its own noise and of the noise since its base."""
        if not self.stochastic:
            return [0.0] * (len(levels) - 1), [0.0] * (len(levels) - 1)
        log_ratio = levels.sigma_edm.log()
        variance = -torch.expm1(2 * self.form.eta * (log_ratio[1:] - log_ratio[:-1])) * levels.sigma[1:] ** 2
        scale = self.form.scale(levels.alpha, levels.sigma)
        return variance.sqrt().tolist(), (scale[1:] / scale[:-1]).nan_to_num().tolist()

    def step(self, x_t: Tensor, denoise: DenoiserFn, row: _Row, noise: NoiseSource, state: _State | None) -> Step:
        posterior = denoise(x_t, row.here)
        g = posterior.mean if row.g == (1.0, 0.0) else combination(posterior, x_t, row.level, *row.g)
        values = (g, *state.values) if state else (g,)
        start = jump(posterior, x_t, row.level)
        if row.correct and state:
            corrected = row.correct(state.base, values)
            if state.noise is not None:
                corrected = corrected.add_(state.noise)
            start = corrected if start is x_t else corrected.add_(start - x_t)
        if row.restart or state is None:
            base, since = start, None
        else:  # a jump inside a block is one of the block's start, seen from there
            base, since = (
                state.base if start is x_t else torch.add(state.base, start - x_t, alpha=row.to_base),
                state.noise,
            )
        if row.predict is None:
            alpha, sigma = row.there
            x = combination(posterior, start, row.level, alpha, 0.0 if self.stochastic else sigma)
        else:
            x = row.predict(base, values)
        fresh = None
        if row.on_noise:
            fresh = noise(0) * row.on_noise
            if since is not None:
                fresh = fresh.add_(since, alpha=row.carried)
            x = x.add_(fresh)
        return Step(x, posterior, _State(base, values[: row.kept], fresh))


@dataclass(frozen=True)
class Multistep(Exponential):
    """corrector: integrate each step again through the value at its end.

    lower_order_final: the k-th step from the end takes no order above k, as DPM-Solver's code does for few steps.
    """

    corrector: bool = False
    lower_order_final: bool = False

    def _order(self, row: int, steps: int) -> int:
        return min(self.order, steps - row) if self.lower_order_final else self.order

    def _predicted(self, row: int, steps: int) -> _Integral:
        return _Integral(row, row + 1, tuple(range(row, max(-1, row - self._order(row, steps)), -1)))

    def _corrected(self, row: int, steps: int) -> _Integral | None:
        order = self._order(row - 1, steps)
        return _Integral(row - 1, row, tuple(range(row, max(-1, row - order - 1), -1))) if self.corrector else None


@dataclass(frozen=True)
class Singlestep(Exponential):
    """Blocks of `order` steps."""

    def _predicted(self, row: int, steps: int) -> _Integral:
        base = row - row % self.order
        return _Integral(base, row + 1, (row, base) if row > base else (row,))


@dataclass(frozen=True)
class _Trapezoid:
    here: Level
    there: Level
    level: tuple[float, float]
    target: tuple[float, float]
    g_here: tuple[float, float]
    g_there: tuple[float, float]
    whole: _Sum | None


@dataclass(frozen=True)
class Heun(Solver):
    """Second order. In the ratio form it is EDM's Algorithm 1; in the angle it stays finite at pure noise."""

    form: Form = field(default_factory=angle_form)
    coordinate: Coordinate = field(default_factory=angle_coordinate)
    evaluations: int = 2

    def plan(self, levels: Level) -> Sequence[_Trapezoid]:
        steps, (ends, _) = len(levels) - 1, _usable(self.form, self.coordinate, levels)
        integrals = [
            _Integral(k, k + 1, (k + 1, k)) if ends[k] and ends[k + 1] and levels.sigma[k + 1] > 0 else None
            for k in range(steps)
        ]
        sums = _sums(self.form, self.coordinate, "exact", levels, integrals)
        pairs = list(zip(levels.alpha.tolist(), levels.sigma.tolist(), strict=True))
        on = (self.form.on_clean, self.form.on_eps)
        g = list(zip(*(f(levels.alpha, levels.sigma).tolist() for f in on), strict=True))
        rows = levels.rows()
        return [_Trapezoid(rows[k], rows[k + 1], pairs[k], pairs[k + 1], g[k], g[k + 1], sums[k]) for k in range(steps)]

    def step(self, x_t: Tensor, denoise: DenoiserFn, row: _Trapezoid, noise: NoiseSource, state: None) -> Step:
        posterior = denoise(x_t, row.here)
        guess = combination(posterior, x_t, row.level, *row.target)
        if row.whole is None:
            return Step(guess, posterior)
        far = combination(denoise(guess, row.there), guess, row.target, *row.g_there)
        return Step(
            row.whole(jump(posterior, x_t, row.level), (far, combination(posterior, x_t, row.level, *row.g_here))),
            posterior,
        )
