"""The noise of a trajectory, as a function of (seed, example, place) alone.

Independent   draw k at row r of the grid has a counter of its own.  Another number of steps is another noise.
Brownian      increments of one Brownian path W per example, which is the same whatever the grid:

                  z(here -> there) = (W(c_there) - W(c_here)) / sqrt(c_there - c_here),      c = the level's time.

              Finer grids then converge to one sample path of the SDE, and neighbouring step counts give similar pictures
              (the idea of k-diffusion's Brownian tree).  W is built by Lévy's construction: halving [0, 1] again and
              again, each midpoint the mean of its neighbours plus a draw that belongs to that midpoint,

                  W(m) = (W(a) + W(b))/2 + sqrt(b - a)/2 · z_m.

The time is log-SNR, cut at ±20 and mapped to [0, 1], with a resolution of 2^-20.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.process.levels import Level
from undiffuse.process.philox import exact_device, standard_normal
from undiffuse.rng import NoiseStream

BROWNIAN_LOGSNR, DEPTH = 20.0, 20


class NoiseSequence(ABC):
    """Draws of the shape of x; `at(row, k)` is draw number k of the step that leaves a row."""

    @abstractmethod
    def at(self, row: int, draw: int = 0) -> Tensor:
        """Standard normal noise of the shape of x, (B, ...): draw number `draw` of the step that leaves a row."""


class Independent(NoiseSequence):
    """Made for several rows at once: a small tensor costs as much as a larger one."""

    AT_ONCE = 2**18  # numbers

    def __init__(self, x: Tensor, seed: int, index: Tensor, steps: int) -> None:
        self.shape, self.dtype, self.seed, self.index, self.steps = x.shape, x.dtype, seed, index, steps
        self.count = max(1, self.AT_ONCE // max(1, x.numel()))
        self.made: dict[int, tuple[int, Tensor]] = {}

    def at(self, row: int, draw: int = 0) -> Tensor:
        first, rows = self.made.get(draw, (0, ()))
        if not first <= row < first + len(rows):
            first, rows = row, self._rows(row, draw)
            self.made[draw] = (first, rows)
        return rows[row - first]

    def _rows(self, first: int, draw: int) -> Tensor:
        rows = torch.arange(first, min(first + self.count, self.steps), device=self.index.device)
        index, step = self.index.repeat(len(rows)), rows.repeat_interleave(len(self.index))
        stream = NoiseStream.STEP if draw == 0 else NoiseStream.STEP_AGAIN + draw
        normal = standard_normal(self.shape[1:], self.seed, index, step, stream)
        return normal.to(self.dtype).reshape(len(rows), *self.shape)


class Brownian(NoiseSequence):
    """The path of each example, of which only the nodes near the current level are kept. Further draws of a row are independent.

    Raises UsageError for a grid with levels too close to tell apart, or one that goes back up to a noisier level.
    """

    def __init__(self, x: Tensor, seed: int, index: Tensor, levels: Level) -> None:
        self.like, self.shape, self.seed = x.new_empty(0), x.shape, seed
        self.index = index.to(exact_device(index.device))  # the path is float64
        self.others = Independent(x, seed, index, len(levels) - 1)
        clock = (levels.logsnr.clamp(-BROWNIAN_LOGSNR, BROWNIAN_LOGSNR) / BROWNIAN_LOGSNR + 1) / 2
        self.clock = (clock * 2**DEPTH).round().long().tolist()
        if any(a >= b for a, b in zip(self.clock, self.clock[1:], strict=False)):
            raise UsageError(
                "Brownian noise needs a grid that gets cleaner at every step, by 0.0001 in log-SNR at least: take fewer "
                "steps, no churn or restart, or independent noise."
            )
        self.nodes: dict[int, Tensor] = {}

    def at(self, row: int, draw: int = 0) -> Tensor:
        if draw:
            return self.others.at(row, draw)
        here, there = self.clock[row], self.clock[row + 1]
        step = self._value(there) - self._value(here)
        kept = _ancestors(there)
        self.nodes = {at: value for at, value in self.nodes.items() if at in kept}
        out: Tensor = (step * (2**DEPTH / (there - here)) ** 0.5).to(self.like)
        return out

    def _value(self, at: int) -> Tensor:
        """W at at / 2^DEPTH, float64."""
        if at not in self.nodes:
            if at in (0, 2**DEPTH):
                self.nodes[at] = (
                    self._draw(at) if at else torch.zeros(self.shape, dtype=torch.float64, device=self.index.device)
                )
            else:
                half = at & -at  # the distance to the two nodes it lies between
                mean = (self._value(at - half) + self._value(at + half)) / 2
                self.nodes[at] = mean + (2 * half / 2**DEPTH) ** 0.5 / 2 * self._draw(at)
        return self.nodes[at]

    def _draw(self, at: int) -> Tensor:
        return standard_normal(self.shape[1:], self.seed, self.index, at, NoiseStream.BROWNIAN).double()


def _ancestors(at: int) -> set[int]:
    """A node and all that it is the midpoint of, up to the two ends."""
    found, left, right = {at, 0, 2**DEPTH}, at, at
    while left % 2**DEPTH:
        left -= left & -left
        found.add(left)
    while right % 2**DEPTH:
        right += right & -right
        found.add(right)
    return found
