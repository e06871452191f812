"""Validation on a fixed bank: is it learning, at which noise levels, and against what?

The training loss of a diffusion model shows little: its value depends on the weighting, it is noisy because the levels
are drawn, and nobody knows what is good.  Here the error of x̂ is measured on held-out examples, always with the same
levels and the same noise, and beside three references computed from the data:

    trivial   always answers the mean of the data           E |x_0 - mean|² per dimension
    linear    the best affine denoiser, from the covariance  E |x_0 - E_gauss[x_0|x_t]|²
    copying   the exact denoiser of the training set         small on training data, large on held-out data

Below linear: it learned more than the covariance.  At trivial: nothing.  Towards copying: it is memorising.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from undiffuse.conditioning.conditions import EncodedConditions
from undiffuse.conditioning.probe import effect
from undiffuse.process.forward import add_noise
from undiffuse.process.levels import Level
from undiffuse.process.oracles import FiniteSet, Mixture, fitted_gaussian
from undiffuse.process.philox import standard_normal
from undiffuse.process.posteriors import DenoiserFn
from undiffuse.process.schedules import Schedule
from undiffuse.rng import NoiseStream

Measured = TypeVar("Measured")

LEVELS = 12
LOGSNR_RANGE = (-8.0, 8.0)
MOST_EXAMPLES, FEWEST_EXAMPLES, VALIDATION_NUMBERS = 256, 16, 2**14
MOST_DIMENSIONS = 1024  # a covariance larger than this is not worth its cubic cost
MOST_POINTS = 10_000
PROBED = 64  # examples, for what conditions change


@dataclass(frozen=True)
class ValidationSet:
    """Held-out x (N, ...), their conditions, fixed noise (N, ...) and a table of levels.

    known: bool (N, ...), which numbers errors are of; all when None.
    """

    x: Tensor
    values: EncodedConditions
    eps: Tensor
    levels: Level
    known: Tensor | None = None

    @staticmethod
    def of(
        x: Tensor, values: EncodedConditions, schedule: Schedule, first: int = 0, known: Tensor | None = None
    ) -> ValidationSet:
        """All of x with the conditions of its rows; levels evenly spaced in log-SNR within the schedule's range.

        first: the number of the first example among all, which their noise goes by.   known: (N, C or 1, *size), see above.
        """
        values = {name: value[: len(x)] for name, value in values.items()}
        ends = schedule([schedule.t_max, schedule.t_min]).logsnr.clamp(*LOGSNR_RANGE)
        logsnr = torch.linspace(ends[0].item(), ends[1].item(), LEVELS, dtype=torch.float64)
        times = schedule.nearest(schedule.at(logsnr))
        eps = standard_normal(x.shape[1:], 0, first + torch.arange(len(x)), stream=NoiseStream.VALIDATION).to(x.device)
        levels = schedule(torch.unique(times).flip(0))
        return ValidationSet(x, values, eps, levels, None if known is None else known.to(x.device).expand_as(x))

    def errors(self, denoise: DenoiserFn) -> Tensor:
        """E |x̂ - x_0|² per dimension at each level, float64 (LEVELS,)."""
        return self.each(denoise).mean(0)

    @torch.no_grad()
    def each(self, denoise: DenoiserFn) -> Tensor:
        """|x̂ - x_0|² per dimension of each example at each level, float64 on the CPU (N, LEVELS)."""
        columns = []
        for row in range(len(self.levels)):
            level = self.levels[row]
            mean = denoise(add_noise(self.x, level, self.eps), level).mean
            columns.append(self.mean_of_known((mean - self.x).cpu().double().pow(2)))
        return torch.stack(columns, 1)

    def mean_of_known(self, terms: Tensor) -> Tensor:
        """The mean of terms (N, ...), on the CPU, over the known numbers of each example, (N,)."""
        if self.known is None:
            return terms.flatten(1).mean(1)
        known = self.known.cpu()
        return torch.where(known, terms, 0).flatten(1).sum(1) / known.flatten(1).sum(1).clamp(min=1)

    @torch.no_grad()
    def effects(self, given: Callable[[EncodedConditions], DenoiserFn], names: Iterable[str]) -> dict[str, list[float]]:
        """How much x̂ changes at each level when a condition is shuffled among the examples, the others as they are.

        In standard deviations of x_0. Conditions that are the same for all examples are left out.
        """
        few = slice(0, PROBED)
        x, eps, values = self.x[few], self.eps[few], {name: value[few] for name, value in self.values.items()}
        deviation = (x - x.mean(0)).cpu().double().square().mean().sqrt().item()
        found = {}
        for name in names:
            changes = []
            for level in self.levels.rows():
                x_t = add_noise(x, level, eps)
                change = effect(lambda changed, x_t=x_t, level=level: given(changed)(x_t, level).mean, values, name)  # type: ignore[misc]
                changes += [] if change is None else [change / max(deviation, 1e-12)]
            if changes:
                found[name] = changes
        return found


def validation_size(shape: Sequence[int]) -> int:
    """How many examples of this shape are enough: large ones average over many numbers each, and cost more."""
    return max(FEWEST_EXAMPLES, min(MOST_EXAMPLES, VALIDATION_NUMBERS // math.prod(shape)))


@dataclass(frozen=True)
class BaselineErrors:
    """Errors at the levels of a bank. linear, copying: None where the data are too large for them."""

    trivial: Tensor
    linear: Tensor | None
    copying: Tensor | None

    def scale(self) -> Tensor:
        """What to divide a model's errors by: the best linear denoiser's where there is one."""
        return self.trivial if self.linear is None else self.linear


@dataclass(frozen=True)
class Baseline:
    """What a model's errors are compared with: the best affine denoiser of a training set, or its mean where that is too large.

    mean: (...), of x.   linear: over flattened x.
    """

    mean: Tensor
    linear: Mixture | None

    @staticmethod
    def of(training: Tensor, known: Tensor | None = None) -> Baseline:
        """Of a training set x (N, ...).   known: which numbers are known; the best linear denoiser is then another for each set of them."""
        if known is not None:
            known = known.expand_as(training).cpu()
            count = known.sum(0).clamp(min=1)
            return Baseline((training.cpu() * known).sum(0) / count, None)
        points = training.flatten(1)[:MOST_POINTS].cpu()
        small = points.shape[1] <= MOST_DIMENSIONS and len(points) > 1
        return Baseline(training.mean(0).cpu(), fitted_gaussian(points) if small else None)

    @property
    def name(self) -> str:
        """What the errors are compared with, in words."""
        return "a constant answer, the mean" if self.linear is None else "the best linear denoiser"

    def each(self, bank: ValidationSet) -> Tensor:
        """Squared errors per dimension of each example at each level, float64 (N, LEVELS)."""
        return self.trivial(bank) if self.linear is None else _flat(bank).each(self.linear)

    def trivial(self, bank: ValidationSet) -> Tensor:
        """The same, of answering the mean."""
        errors = bank.mean_of_known((bank.x.cpu() - self.mean).double() ** 2)
        return errors[:, None].expand(-1, len(bank.levels))


def _flat(bank: ValidationSet) -> ValidationSet:
    return ValidationSet(bank.x.flatten(1).cpu().double(), {}, bank.eps.flatten(1).cpu().double(), bank.levels)


def baseline_errors(bank: ValidationSet, training: Tensor, baseline: Baseline | None = None) -> BaselineErrors:
    """The reference curves of a training set x (N, ...), measured on the bank."""
    baseline = baseline or Baseline.of(training)
    trivial = baseline.trivial(bank).mean(0)
    if baseline.linear is None:
        return BaselineErrors(trivial, None, None)
    points = training.flatten(1)[:MOST_POINTS].cpu()
    return BaselineErrors(trivial, baseline.each(bank).mean(0), _flat(bank).errors(FiniteSet(points)))


def relative(errors: Tensor, reference: BaselineErrors) -> float:
    """One number for a model: its error over the reference's, the geometric mean over levels. Below 1 is learning."""
    return math.exp((errors / reference.scale()).log().mean().item())


def evaluated(denoiser: torch.nn.Module, measure: Callable[[], Measured]) -> Measured:
    """`measure()` with the module in evaluation mode, and back."""
    was_training = denoiser.training
    denoiser.eval()
    try:
        with torch.no_grad():
            return measure()
    finally:
        denoiser.train(was_training)
