"""What a solver is: x_t, Denoise, here, there -> x_s.

A solver is shown the whole table of levels before it starts and answers with a plan, one row for each step: everything
that does not depend on x, computed once, in float64.  Its steps are then a few multiplications and additions of tensors
by plain numbers.  The next level is always the table's next row, never the value of a formula.

No noise is added into the clean level.  A solver's memory is its `state`, passed in and returned, None to start with.

A posterior may keep a noise estimate that does not reproduce x_t (guidance.py: CFG++, clipping with the eps of the unclipped x̂).
What published code does with it, x_s = alpha_s x̂ + sigma_s eps, is then two things, as the limit of s towards t shows:

    a jump    x_t -> x_t' = alpha_t x̂ + sigma_t eps        to the x that the pair does reproduce                         (1)
    a step    x_t' -> x_s                                   of DDIM, or of any other solver

So every solver does (1) first, once at each level of the table, and takes x̂ and eps from the pair.  What a corrector has added
to x_t stays added; inside the blocks of a singlestep method the jump is added to the block's start; the far end that Heun's method
guesses is another step's, which jumps there itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from undiffuse.process.bridges import Bridge
from undiffuse.process.levels import Level
from undiffuse.process.posteriors import DenoiserFn, Posterior

NoiseSource = Callable[[int], Tensor]
"""Draw number k of this step, standard normal of the shape of x_t; called only by steps that use it."""


@dataclass(frozen=True)
class Move:
    """One step's levels and bridge. here, there: Level of shape (); bridge: the one between them."""

    here: Level
    there: Level
    bridge: Bridge


@dataclass(frozen=True)
class Step:
    """What a solver did: the new x_s (B, ...), the posterior at x_t that it started from, and its state for the next step."""

    x: Tensor
    posterior: Posterior
    state: Any = None


class Solver(ABC):
    """evaluations: of the network, per step.   stochastic: whether its steps draw noise.

    without_jumps: why it cannot do equation (1), a sentence that refuses a noise estimate that is kept; empty where it does it.
    """

    evaluations: int = 1
    stochastic: bool = False
    without_jumps: ClassVar[str] = ""

    @abstractmethod
    def plan(self, levels: Level) -> Sequence[Any]:
        """One row for each of the len(levels) - 1 steps along a table of ever cleaner levels."""

    @abstractmethod
    def step(self, x_t: Tensor, denoise: DenoiserFn, row: Any, noise: NoiseSource, state: Any) -> Step:
        """The step that `row` of the plan describes."""


def moves(levels: Level) -> list[Move]:
    """The moves along a table of ever cleaner levels."""
    rows = levels.rows()
    return [Move(*each) for each in zip(rows, rows[1:], Bridge.table(levels).rows(), strict=False)]


def constant_denoiser(posterior: Posterior, x_t: Tensor, level: Level) -> Posterior:
    """With its first argument bound, a denoiser that returns this posterior whatever x_t (B, ...) is."""
    return posterior


def jump(posterior: Posterior, x_t: Tensor, level: tuple[float, float]) -> Tensor:
    """Equation (1), for the (alpha, sigma) of x_t: a new tensor, or x_t itself where no noise estimate is kept."""
    if posterior.kept_eps is None:
        return x_t
    return (posterior.mean * level[0]).add_(posterior.kept_eps, alpha=level[1])


def combination(
    posterior: Posterior, x_t: Tensor, level: tuple[float, float], on_clean: float, on_eps: float
) -> Tensor:
    """on_clean · x̂ + on_eps · eps, for the (alpha, sigma) of x_t; a new tensor."""
    alpha, sigma = level
    if not on_eps:
        return posterior.mean * on_clean
    if posterior.kept_eps is not None:
        return (posterior.mean * on_clean).add_(posterior.kept_eps, alpha=on_eps)
    return (posterior.mean * (on_clean - on_eps * alpha / sigma)).add_(x_t, alpha=on_eps / sigma)
