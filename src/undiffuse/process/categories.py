"""Categories in a Gaussian process: one-hot vectors with noise, and a network that answers with probabilities.

A column of K categories is a block of K channels of x.  With f_k the share of category k in the data, its clean value is

    x_0 = e_k - f,                                       of mean 0,                                            (1)

and the forward process is that of any other channel, x_t = alpha x_0 + sigma eps.  Given x_t, and nothing else, Bayes' rule says

    log p(k | x_t) = log f_k - |x_t - alpha (e_k - f)|² / (2 sigma²) + const
                   = log f_k + alpha (x_t + alpha f)_k / sigma² + const,                                       (2)

since |e_k|² is the same for all k.  The network's output F is added to these logits: it has to say only what the other channels, the
conditions and its own doubts change, and F = 0 is already the best answer that looks at nothing else.  Then

    p = softmax(log f + alpha (x_t + alpha f)/sigma² + F),        x̂ = E[x_0 | x_t] = p - f,                   (3)

so that the solvers, which need nothing but x̂, are those of any other data ("score interpolation", Dieleman et al. 2022, "Continuous
diffusion for categorical data", section 3.1; for tables of numbers and categories Mueller et al. 2025, "Continuous diffusion for mixed-type
tabular data").  It is trained by the cross-entropy -log p_k, whose minimiser is p(k | x_t) whatever the level's weight, divided by the entropy
of f, so that every column starts at 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from undiffuse.process.levels import Level, broadcast_to


@dataclass(frozen=True)
class CategoryBlock:
    """A column of categories.   start: its first channel.   shares: f, of each category, above 0; they add up to 1."""

    start: int
    shares: tuple[float, ...]


class Categories:
    """The blocks of channels of x (C, 1) that are categories.   channels: C.

    Everything is computed for all blocks at once, however many there are.
    """

    def __init__(self, blocks: Sequence[CategoryBlock], channels: int) -> None:
        self.blocks, self.channels = tuple(blocks), channels
        places = [torch.arange(block.start, block.start + len(block.shares)) for block in blocks]
        shares = [torch.tensor(block.shares, dtype=torch.float64) for block in blocks]
        self._place = torch.cat(places)
        self._block = torch.cat([torch.full((len(each),), k) for k, each in enumerate(places)])
        f = torch.cat(shares)
        self._shares, self._log_shares = f.float()[:, None], f.log().float()[:, None]
        self._entropy = torch.stack([-(each * each.log()).sum() for each in shares]).float().clamp(min=1e-3)
        rest = torch.ones(channels, dtype=torch.bool)
        rest[self._place] = False
        self._numbers = rest.nonzero()[:, 0]

    def to(self, device: torch.device) -> Categories:
        """The same on a device."""
        if self._place.device != device:
            for name in ("_place", "_block", "_shares", "_log_shares", "_entropy", "_numbers"):
                setattr(self, name, getattr(self, name).to(device))
        return self

    @property
    def columns(self) -> int:
        """How many columns x stands for: a block is one."""
        return len(self.blocks) + len(self._numbers)

    def log_probabilities(self, F: Tensor, x_t: Tensor, level: Level) -> Tensor:
        """log p (B, K of all blocks, 1) of eq. 3.   F, x_t: (B, C, 1); level: one for all examples or one for each."""
        self.to(x_t.device)
        alpha, sigma = broadcast_to(level.alpha, x_t), broadcast_to(level.sigma, x_t)
        f, noisy = self._shares, x_t[:, self._place]
        # in the units of x_t before the large factor: what is far from every category is as far from all
        logits = self._log_shares + alpha / sigma**2 * (noisy + alpha * f) + F[:, self._place]
        return logits - self._of_block(self._log_sum_exp(logits))

    def means(self, log_p: Tensor, mean: Tensor) -> Tensor:
        """x̂ (B, C, 1) with the blocks' of eq. 3 in their places.   mean: of the other channels."""
        return mean.index_copy(1, self._place, log_p.exp() - self._shares)

    def error(self, log_p: Tensor, squares: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """The loss of each example (B,), the mean over columns: cross-entropy over entropy of a block, weighted square of a number.

        squares: (x̂ - x)² (B, C, 1).   weight: of these, (B,).
        """
        true = x[:, self._place] + self._shares  # e_k, up to rounding
        taken = torch.where(true > 0.5, log_p, torch.zeros_like(log_p))
        entropy = -self._sums(taken)[:, :, 0] / self._entropy
        numbers = squares[:, self._numbers].flatten(1).sum(1) * weight
        return (entropy.sum(1) + numbers) / self.columns

    def _sums(self, values: Tensor) -> Tensor:
        """Of the channels of each block: (B, K of all, 1) → (B, blocks, 1)."""
        zeros = values.new_zeros(len(values), len(self.blocks), 1)
        return zeros.index_add(1, self._block, values)

    def _of_block(self, values: Tensor) -> Tensor:
        """What belongs to a block, at each of its channels: (B, blocks, 1) → (B, K of all, 1)."""
        return values[:, self._block]

    def _log_sum_exp(self, logits: Tensor) -> Tensor:
        index = self._block[None, :, None].expand_as(logits)
        low = logits.new_full((len(logits), len(self.blocks), 1), -torch.inf)
        most = low.scatter_reduce(1, index, logits.detach(), "amax")
        return most + self._sums((logits - self._of_block(most)).exp()).log()
