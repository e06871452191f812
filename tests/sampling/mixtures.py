"""A mixture of Gaussians and its probability-flow ODE solved by another library: the truth solvers are measured against."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from scipy.integrate import solve_ivp

from tests.process.instances import SCHEDULES
from undiffuse.process.levels import Level
from undiffuse.process.oracles import Mixture

d = torch.float64
POINTS = 12

# three components that are neither round nor alike
MIXTURE = Mixture(
    torch.tensor([0.5, 0.3, 0.2], dtype=d),
    torch.tensor([[-1.0, 0.4], [0.9, 1.0], [0.5, -1.1]], dtype=d),
    torch.tensor([[[0.20, 0.05], [0.05, 0.10]], [[0.08, -0.02], [-0.02, 0.15]], [[0.12, 0.0], [0.0, 0.05]]], dtype=d),
)

# sigma/alpha from and to; the ends are interior levels, so that nothing but a solver's own order shows
ENDS = {
    "linear-1000": (12.0, 0.05),
    "cosine_continuous": (12.0, 0.05),
    "ve": (10.0, 0.05),
    "edm": (10.0, 0.05),
    "flow": (12.0, 0.05),
}


def table(name: str, steps: int) -> Level:
    """steps + 1 levels of a schedule from ENDS, evenly spaced in log-SNR."""
    high, low = ENDS[name]
    logsnr = -2 * torch.linspace(math.log(high), math.log(low), steps + 1, dtype=d)
    return SCHEDULES[name](SCHEDULES[name].at(logsnr))


def start(name: str) -> torch.Tensor:
    levels = table(name, 1)
    z = torch.randn(POINTS, 2, dtype=d, generator=torch.Generator().manual_seed(1))
    return z * levels.sigma[0]


@lru_cache
def exact_end(name: str) -> torch.Tensor:
    """Where the flow takes `start`: dX/d log u = X - E[x_0 | X], X = x_t/alpha, u = sigma/alpha, by DOP853 at 1e-12."""
    levels = table(name, 1)
    first = (start(name) / levels.alpha[0]).numpy()

    def slope(log_u: float, X: np.ndarray) -> np.ndarray:
        X = X.reshape(POINTS, 2)
        level = Level(torch.tensor(1.0, dtype=d), torch.tensor(math.exp(log_u), dtype=d), torch.tensor(0.0, dtype=d))
        return (X - MIXTURE(torch.from_numpy(X), level).mean.numpy()).ravel()

    high, low = ENDS[name]
    end = solve_ivp(slope, (math.log(high), math.log(low)), first.ravel(), method="DOP853", rtol=1e-12, atol=1e-12).y[
        :, -1
    ]
    return torch.from_numpy(end.reshape(POINTS, 2)) * levels.alpha[1]
