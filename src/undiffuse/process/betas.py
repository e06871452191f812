"""The betas of discrete chains: the variance of the noise added at each of T steps.

A chain adds noise one step at a time (Ho et al. 2020, eq. 2),

    q(x_t | x_{t-1}) = N( sqrt(1 - beta_t) x_{t-1}, beta_t I ),

so its signal after t steps is alpha-bar_t = prod_{s<=t} (1 - beta_s).  Each function below returns beta_1..beta_T
in float64.  Schedules defined by a range of betas are meant for T = 1000 and are rescaled by 1000/T, which keeps
alpha-bar_T the same whatever T is (Nichol & Dhariwal 2021, and the code released with it).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from undiffuse.errors import UsageError

REFERENCE_STEPS = 1000


def _steps(T: int) -> int:
    if T < 1:
        raise UsageError(f"a chain needs at least one step, but T = {T}: give a T of 1 or more.")
    return T


def _rescaled(T: int, name: str, beta_start: float, beta_end: float) -> tuple[float, float]:
    """The range of betas at T steps, refused where the largest would reach 1."""
    scale = REFERENCE_STEPS / _steps(T)
    largest = max(beta_start, beta_end)
    if scale * largest >= 1:
        smallest_T = math.floor(REFERENCE_STEPS * largest) + 1
        raise UsageError(
            f"the {name} schedule is rescaled by 1000/T, so T = {T} gives a beta of {scale * largest:.3g}, "
            f"and betas must stay below 1: the smallest T that works is {smallest_T}."
        )
    return scale * beta_start, scale * beta_end


def linear_betas(T: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> Tensor:
    """DDPM's schedule: beta grows linearly, 1e-4 → 0.02 over 1000 steps (Ho et al. 2020, section 4)."""
    start, end = _rescaled(T, "linear", beta_start, beta_end)
    return torch.linspace(start, end, T, dtype=torch.float64)


def scaled_linear_betas(T: int, beta_start: float = 0.00085, beta_end: float = 0.012) -> Tensor:
    """sqrt(beta) grows linearly: the schedule of latent diffusion (Rombach et al. 2022)."""
    start, end = _rescaled(T, "scaled_linear", beta_start, beta_end)
    return torch.linspace(start**0.5, end**0.5, T, dtype=torch.float64) ** 2


def sigmoid_betas(T: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> Tensor:
    """beta follows a logistic curve over [-6, 6] (GeoDiff, Xu et al. 2022)."""
    start, end = _rescaled(T, "sigmoid", beta_start, beta_end)
    return torch.sigmoid(torch.linspace(-6, 6, T, dtype=torch.float64)) * (end - start) + start


def constant_betas(T: int, beta: float = 0.01) -> Tensor:
    """The same beta at every step."""
    start, _ = _rescaled(T, "constant", beta, beta)
    return torch.full((T,), start, dtype=torch.float64)


def cosine_betas(T: int, s: float = 0.008, beta_max: float = 0.999) -> Tensor:
    """alpha-bar_t = f(t)/f(0), f(t) = cos²((t/T + s)/(1 + s) · pi/2) (Nichol & Dhariwal 2021, eq. 17).

    The offset s keeps the first steps from vanishing, the clip at beta_max the last one from being singular.
    """
    t = torch.arange(_steps(T) + 1, dtype=torch.float64) / T
    f = torch.cos((t + s) / (1 + s) * torch.pi / 2) ** 2
    return (1 - f[1:] / f[:-1]).clamp(max=beta_max)


def sigmoid_alpha_bar_betas(
    T: int, start: float = -3.0, end: float = 3.0, tau: float = 1.0, beta_max: float = 0.999
) -> Tensor:
    """alpha-bar_t falls along a logistic curve (Chen 2023, Figure 8, the `gamma` of its code; denoising-diffusion-pytorch's default).

    With v(t) = sigmoid((start + t/T (end - start))/tau): alpha-bar_t = (v(T) - v(t))/(v(T) - v(0)).  A larger `start`, up to 0,
    or a smaller tau adds noise.   Raises UsageError for a tau that is not positive, or start >= end.
    """
    if not (tau > 0 and start < end):
        raise UsageError(
            f"a sigmoid in alpha-bar goes from a start to a larger end, tau positive, not from {start:g} to {end:g} with {tau:g}."
        )
    t = torch.arange(_steps(T) + 1, dtype=torch.float64) / T
    v = torch.sigmoid((start + t * (end - start)) / tau)
    alpha_bar = (v[-1] - v) / (v[-1] - v[0])
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=beta_max)


def polynomial_betas(T: int, power: float = 2.0, precision: float = 1e-5, smallest: float = 0.001) -> Tensor:
    """alpha-bar_t = (1 - 2 s)(1 - (t/(T-1))^power)² + s, t = 0 … T - 1, s the precision (Hoogeboom et al. 2022, EDM for molecules).

    Their code also has t = 0 as a level with noise, so its "polynomial_2" of 1000 timesteps is this with T = 1001.  As there,
    the square loses no more than to a `smallest` share of itself in a step.   Raises UsageError for a power or a precision out of range.
    """
    if not (power > 0 and 0 < precision < 0.5):
        raise UsageError(
            f"a polynomial schedule has a positive power and a precision between 0 and 0.5, not {power:g} and {precision:g}."
        )
    root = 1 - (torch.arange(_steps(T), dtype=torch.float64) / max(T - 1, 1)) ** power
    share = torch.cat([root[:1] ** 2, (root[1:] / root[:-1]) ** 2]).clamp(min=smallest)
    alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), (1 - 2 * precision) * share.cumprod(0) + precision])
    return 1 - alpha_bar[1:] / alpha_bar[:-1]


def zero_terminal_snr(betas: Tensor) -> Tensor:
    """Rescales a chain so that its last level is pure noise (Lin et al. 2024, Algorithm 1).

    sqrt(alpha-bar) is shifted to end in 0 and scaled to keep its first value; the last beta becomes 1.
    """
    if len(betas) < 2:
        raise UsageError("zero terminal SNR needs a chain of at least 2 steps: give a larger T.")
    root = torch.cumprod(1 - betas.double(), 0).sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    before = torch.cat([torch.ones(1, dtype=torch.float64), root[:-1]])
    return 1 - (root / before) ** 2


BETAS: dict[str, Callable[[int], Tensor]] = {
    "linear": linear_betas,
    "scaled_linear": scaled_linear_betas,
    "cosine": cosine_betas,
    "sigmoid": sigmoid_betas,
    "constant": constant_betas,
    "sigmoid_alpha_bar": sigmoid_alpha_bar_betas,
    "polynomial": polynomial_betas,
}
