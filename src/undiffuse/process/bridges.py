"""Bridges: q(x_s | x_t, x_0), the step to a cleaner level if the clean x were known.

Let s be cleaner than t and r = SNR_t / SNR_s.  The chain is Markov, so

    q(x_t | x_s) = N( (alpha_t/alpha_s) x_s,  large ),     large = sigma_t² - (alpha_t/alpha_s)² sigma_s² = sigma_t² (1 - r).

Multiplying by q(x_s | x_0) and completing the square (Ho et al. 2020, eq. 6-7, for any pair of levels):

    q(x_s | x_t, x_0) = N( on_x · x_0 + on_xt · x_t,  small )
    on_x = alpha_s (1 - r)      on_xt = alpha_t sigma_s² / (alpha_s sigma_t²)      small = sigma_s² (1 - r)

For neighbours of a DDPM chain, small is the paper's beta-tilde and large its beta.  1 - r is taken as
-expm1(lambda_t - lambda_s), which keeps all its digits when the two levels nearly coincide.

The reverse process draws x_s with a variance somewhere between the two,

    (1 - r) · sigma_s^(2(1-f)) · sigma_t^(2f):    f = 0 fixed_small, f = 1 fixed_large, f learned in between.

Into the clean level small = 0.  No noise is added there, but the likelihood of x_0 under the last transition needs a
variance: the reference code borrows small from the transition before it, and so does `table`: the one place.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from undiffuse.process.levels import Level


@dataclass(frozen=True)
class Bridge:
    """Coefficients between two levels, or a table of them, float64.

    on_x, on_xt: the mean of q(x_s | x_t, x_0) is on_x · x_0 + on_xt · x_t.
    small, large: variances of q(x_s | x_t, x_0) and of q(x_t | x_s).
    log_small: log(small), finite in a table: borrowed at the last transition.
    log_large: log(large).     into_clean: whether s is the clean level.
    """

    on_x: Tensor
    on_xt: Tensor
    small: Tensor
    large: Tensor
    log_small: Tensor
    log_large: Tensor
    into_clean: Tensor

    def __getitem__(self, rows: int | slice | Tensor) -> Bridge:
        return Bridge(**{name: value[rows] for name, value in vars(self).items()})

    def rows(self) -> list[Bridge]:
        """A table's rows, one Bridge of shape () each."""
        return [Bridge(*row) for row in zip(*(value.unbind() for value in vars(self).values()), strict=True)]

    def __len__(self) -> int:
        return len(self.on_x)

    @staticmethod
    def between(here: Level, there: Level) -> Bridge:
        """The bridge from `here` (x_t) to the cleaner `there` (x_s), for levels of one common shape."""
        one_minus_r = -torch.expm1(here.logsnr - there.logsnr)
        small = there.sigma**2 * one_minus_r
        large = here.sigma**2 * one_minus_r
        return Bridge(
            on_x=there.alpha * one_minus_r,
            on_xt=here.alpha * there.sigma**2 / (there.alpha * here.sigma**2),
            small=small,
            large=large,
            log_small=small.log(),
            log_large=large.log(),
            into_clean=there.sigma == 0,
        )

    @staticmethod
    def table(levels: Level) -> Bridge:
        """The len(levels) - 1 bridges along a table, with log_small of the last one borrowed.

        A table of a single transition has nothing to borrow from, and takes its large variance.
        """
        bridge = Bridge.between(levels[:-1], levels[1:])
        spare = bridge.log_small[-2:-1] if len(bridge) > 1 else bridge.log_large
        borrowed = torch.where(bridge.into_clean[-1:], spare, bridge.log_small[-1:])
        log_small = torch.cat([bridge.log_small[:-1], borrowed])
        return Bridge(**{**vars(bridge), "log_small": log_small})
