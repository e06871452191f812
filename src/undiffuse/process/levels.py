"""Level: how noisy.  Every other file speaks about noise in these terms alone.

A noised example is an affine mixture of the clean example and Gaussian noise,

    x_t = alpha · x_0 + sigma · eps,     eps ~ N(0, I)                                   (1)

so a noise level is the pair (alpha, sigma), whatever schedule or time it came from: sqrt(alpha-bar) and
sqrt(1 - alpha-bar) in DDPM (Ho et al. 2020, eq. 4), (1, sigma) in EDM (Karras et al. 2022), (1 - t, t) in
flow matching.  The signal-to-noise ratio SNR = alpha²/sigma² orders levels and does not change when x_t is
rescaled.  `timestep` is what the network receives: the training index for a discrete chain.

A table of levels has one leading axis.  Tables run noisiest first and end in the clean level (1, 0, -1).
Levels are float64 on the CPU until `broadcast_to` casts a coefficient to the x it multiplies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CLEAN_TIMESTEP = -1.0


@dataclass(frozen=True)
class Level:
    """One noise level, one per example, or a table: `alpha`, `sigma` and `timestep` of one common shape.

    alpha: signal coefficient, in [0, 1].   sigma: noise standard deviation, >= 0.
    timestep: what the network receives: training index of a chain, 1000 · t for continuous schedules.
    """

    alpha: Tensor
    sigma: Tensor
    timestep: Tensor

    def __len__(self) -> int:
        return len(self.alpha)

    def __getitem__(self, rows: int | slice | Sequence[int] | Tensor) -> Level:
        """Rows of a table. Respacing a chain is nothing more than this: `levels[rows]` keeps the timesteps."""
        index = torch.as_tensor(rows) if isinstance(rows, Sequence) else rows
        return Level(self.alpha[index], self.sigma[index], self.timestep[index])

    def rows(self) -> list[Level]:
        """A table's rows, one Level of shape () each."""
        return [
            Level(*row) for row in zip(self.alpha.unbind(), self.sigma.unbind(), self.timestep.unbind(), strict=True)
        ]

    @staticmethod
    def of_rows(rows: Sequence[Level]) -> Level:
        """A table of Levels of shape (): the inverse of `rows`."""
        return Level(*(torch.stack([getattr(row, name) for row in rows]) for name in ("alpha", "sigma", "timestep")))

    @property
    def logsnr(self) -> Tensor:
        """log(alpha² / sigma²): +inf at the clean level, -inf at pure noise."""
        return 2 * (self.alpha.log() - self.sigma.log())

    @property
    def snr(self) -> Tensor:
        """alpha²/sigma², of the shape of the level; infinite at the clean level."""
        return (self.alpha / self.sigma) ** 2

    @property
    def sigma_edm(self) -> Tensor:
        """sigma / alpha: the noise level of the rescaled x_t / alpha, EDM's sigma."""
        return self.sigma / self.alpha

    @staticmethod
    def clean(like: Tensor | None = None) -> Level:
        """The level of x_0 itself; with the shape of `like` when given."""
        one = torch.ones((), dtype=torch.float64) if like is None else torch.ones_like(like)
        return Level(one, 0 * one, CLEAN_TIMESTEP * one)

    def and_clean(self) -> Level:
        """This table with the clean level appended."""
        end = Level.clean(self.alpha[-1:])
        return Level(
            torch.cat([self.alpha, end.alpha]),
            torch.cat([self.sigma, end.sigma]),
            torch.cat([self.timestep, end.timestep]),
        )


def broadcast_to(coefficient: Tensor, x: Tensor) -> Tensor:
    """Brings a float64 coefficient to x: its device, its dtype (float32 at least), its number of axes.

    coefficient: shape () for all examples, or (B,) for one per example of x (B, ...).
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    coefficient = coefficient.to(device=x.device, dtype=dtype)
    if coefficient.ndim:
        coefficient = coefficient.reshape(-1, *[1] * (x.ndim - 1))
    return coefficient
