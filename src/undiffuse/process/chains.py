"""Discrete chains: T levels given by their betas, as in DDPM.

With alpha-bar_t = prod_{s<=t} (1 - beta_s), one jump replaces t steps (Ho et al. 2020, eq. 4):

    q(x_t | x_0) = N( sqrt(alpha-bar_t) x_0, (1 - alpha-bar_t) I ),   alpha = sqrt(alpha-bar), sigma = sqrt(1 - alpha-bar).

The products are float64 sums of log1p(-beta): a float32 cumulative product loses 1.7e-4 on beta, and
1 - alpha-bar is taken as -expm1(log alpha-bar), which does not cancel for the first, tiny betas.

Time on a chain is the training index t = 0 … T-1, t = 0 least noisy (the reference code's convention).  Between two
indices the angle atan2(sigma, alpha) is interpolated linearly: monotone, on the unit circle, and finite at pure noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.process.levels import Level
from undiffuse.process.schedules import Schedule, variance_preserving


class Chain(Schedule):
    """A variance-preserving chain of T = len(betas) steps.

    betas:  float64 (T,), beta_1 first.  Each in (0, 1); the last may be 1 (zero terminal SNR).
    levels: the table x_T … x_1, x_0: T + 1 rows, noisiest first, labels T-1 … 0, then the clean level.

    Raises UsageError for an empty chain or a beta outside its range.
    """

    family = staticmethod(variance_preserving)

    def __init__(self, betas: Tensor | Sequence[float]) -> None:
        betas = torch.as_tensor(betas, dtype=torch.float64).detach().cpu()
        if betas.ndim != 1 or len(betas) == 0:
            raise UsageError("a chain needs a list of at least one beta.")
        wrong = ~((betas > 0) & (betas < 1))
        wrong[-1] = not 0 < betas[-1] <= 1
        if wrong.any():
            step = int(wrong.nonzero()[0])
            raise UsageError(
                f"beta number {step + 1} of {len(betas)} is {betas[step].item():.6g}: "
                "betas must lie between 0 and 1 (only the last may be 1)."
            )
        self.betas = betas
        log_alpha_bar = torch.log1p(-betas).cumsum(0)
        alpha, sigma = (log_alpha_bar / 2).exp(), (-torch.expm1(log_alpha_bar)).sqrt()
        self._by_time = Level(alpha, sigma, torch.arange(len(betas), dtype=torch.float64))
        self._angle = torch.atan2(sigma, alpha)
        self.levels = self._by_time[torch.arange(len(betas) - 1, -1, -1)].and_clean()
        self.t_min, self.t_max = 0.0, float(len(betas) - 1)

    def __len__(self) -> int:
        return len(self.betas)

    def timestep(self, t: Tensor) -> Tensor:
        return t

    def nearest(self, t: Tensor) -> Tensor:
        return t.round().clamp(self.t_min, self.t_max)

    def time(self, share: Tensor) -> Tensor:
        """Every index gets an equal share: T intervals of width 1 around 0 … T-1."""
        return share * len(self) - 0.5

    def row(self, level: Level) -> Tensor:
        """The row of `levels` (and so of any table of bridges on it) that a level's label names."""
        return (len(self) - 1 - level.timestep).round().long()

    def __call__(self, t: Tensor | Sequence[float] | float) -> Level:
        t = torch.as_tensor(t, dtype=torch.float64)
        angle = self._interpolated(t)
        below = self._by_time[t.floor().long().clamp(0, len(self) - 1)]
        exact = t == below.timestep
        return Level(
            torch.where(exact, below.alpha, angle.cos()), torch.where(exact, below.sigma, angle.sin()), self.timestep(t)
        )

    def _interpolated(self, t: Tensor) -> Tensor:
        below = t.floor().long().clamp(0, max(len(self) - 2, 0))
        above = (below + 1).clamp(max=len(self) - 1)
        return self._angle[below] + (t - below) * (self._angle[above] - self._angle[below])

    def logsnr(self, t: Tensor) -> Tensor:
        return self(t).logsnr

    def at(self, logsnr: Tensor) -> Tensor:
        angle = torch.atan((-logsnr / 2).exp())
        above = torch.searchsorted(self._angle, angle).clamp(1, max(len(self) - 1, 1)).clamp(max=len(self) - 1)
        below = (above - 1).clamp(min=0)
        width = self._angle[above] - self._angle[below]
        fraction = torch.where(width > 0, (angle - self._angle[below]) / width, 0.0)
        return (below + fraction).clamp(self.t_min, self.t_max)

    def shifted(self, shift: float) -> Chain:
        """The chain whose log-SNRs are this one's plus `shift`; still a chain, with betas of its own."""
        logsnr = self._by_time.logsnr + shift
        log_alpha_bar = torch.nn.functional.logsigmoid(logsnr)
        before = torch.cat([torch.zeros(1, dtype=torch.float64), log_alpha_bar[:-1]])
        return Chain(-torch.expm1(log_alpha_bar - before))
