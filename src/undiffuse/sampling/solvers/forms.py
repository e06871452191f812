"""Forms and coordinates: the reverse process as an integral, and polynomials under it.

Everything is a function of the noise ratio u = sigma/alpha, so nothing here depends on a schedule.

A *form* writes the probability-flow ODE with its linear part solved exactly.  With y = x_t / scale and a measure M(u),

    dy = g dM,      g = on_clean · x̂ + on_eps · eps,      x_s = scale_s ( x_t / scale_t + ∫ g dM ).                   (1)

    form       scale                    M                     g                       integrates exactly
    noise      alpha                    u                     eps                     constant eps        (DDIM, DEIS, DPM-Solver)
    clean      sigma                    1/u                   x̂                       constant x̂          (DPM-Solver++)
    flow       alpha + sigma            u/(1+u)               eps - x̂                 straight paths      (rectified flow)
    angle      hypot(sigma, alpha s)    atan(u/s)             the velocity v          data N(0, s²)       (TrigFlow; EDM's F)

The clean form also carries the stochastic differential equations that share the flow's marginals.  With eta >= 0,

    scale = sigma u^eta,   M = u^-(1+eta),   x_s gains N(0, sigma_s² (1 - (u_s/u_t)^(2 eta)))                          (2)

eta = 0 is the ODE, eta = 1 the reverse SDE whose first-order step is DDPM's ancestral one with fixed_small (Lu et al.
2022b, eq. 14; Xue et al. 2023, SA-Solver, Proposition 4.2, whose tau² is eta).

A *coordinate* c(u) is what g is taken to be a polynomial in.  Through the values of g at nodes c_j, Lagrange's
polynomials L_j give (1) as a sum of g_j times

    w_j = ∫ L_j(c) dM        exact, by Gauss-Legendre quadrature in c (Adams, DEIS, UniPC), or
    w_j = L_j(middle of c) · (M_s - M_t)                                   the midpoint rule (DPM-Solver-2, DPM-Solver++ 2M).

The coordinate `row` counts steps instead, and spreads M evenly over each (Liu et al. 2022, PLMS).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]
OfLevel = Callable[[Tensor, Tensor], Tensor]
Rule = Literal["exact", "midpoint"]

QUADRATURE_POINTS = 32


@dataclass(frozen=True)
class Form:
    """scale, on_clean, on_eps: of (alpha, sigma).   measure: M(u).   slope: dM/du.   eta: of the noise, eq. (2)."""

    name: str
    scale: OfLevel
    measure: Function
    slope: Function
    on_clean: OfLevel
    on_eps: OfLevel
    eta: float = 0.0


@dataclass(frozen=True)
class Coordinate:
    """of: c(u).   ratio: u(c).   slope: du/dc, at c."""

    name: str
    of: Function
    ratio: Function
    slope: Function


def _zero(alpha: Tensor, sigma: Tensor) -> Tensor:
    return torch.zeros_like(alpha)


def _one(alpha: Tensor, sigma: Tensor) -> Tensor:
    return torch.ones_like(alpha)


def _flow_time(u: Tensor) -> Tensor:
    """sigma/(alpha + sigma): the time of rectified flow, whatever the schedule."""
    return torch.where(u.isinf(), 1.0, u / (1 + u))


EPS_FORM = Form("noise", lambda alpha, sigma: alpha, lambda u: u, torch.ones_like, _zero, _one)

FLOW = Form(
    "flow",
    lambda alpha, sigma: alpha + sigma,
    _flow_time,
    lambda u: (1 + u) ** -2,
    lambda alpha, sigma: -torch.ones_like(alpha),
    _one,
)


@lru_cache
def clean(eta: float = 0.0) -> Form:
    """The clean form of the ODE (0) or of an SDE with the same marginals (1: as noisy as ancestral sampling)."""
    return Form(
        "clean",
        lambda alpha, sigma: sigma * (sigma / alpha) ** eta,
        lambda u: u ** -(1 + eta),
        lambda u: -(1 + eta) * u ** -(2 + eta),
        _one,
        _zero,
        eta,
    )


@lru_cache
def angle_form(deviation: float = 1.0) -> Form:
    """deviation: of the data, s; with mean-free Gaussian data of that deviation g is zero and any step exact."""

    def norm(alpha: Tensor, sigma: Tensor) -> Tensor:
        return torch.hypot(sigma, alpha * deviation)

    return Form(
        "angle",
        norm,
        lambda u: torch.atan(u / deviation),
        lambda u: deviation / (deviation**2 + u**2),
        lambda alpha, sigma: -sigma / (deviation * norm(alpha, sigma)),
        lambda alpha, sigma: alpha * deviation / norm(alpha, sigma),
    )


LOGSNR = Coordinate("logsnr", lambda u: -u.log(), lambda c: (-c).exp(), lambda c: -(-c).exp())
RATIO = Coordinate("ratio", lambda u: u, lambda c: c, torch.ones_like)
FLOW_TIME = Coordinate("flow_time", _flow_time, lambda c: c / (1 - c), lambda c: (1 - c) ** -2)
ROW = Coordinate("row", torch.zeros_like, torch.zeros_like, torch.zeros_like)  # not a function of u, see `weights`


@lru_cache
def angle_coordinate(deviation: float = 1.0) -> Coordinate:
    """atan(u/s), linear in time for the cosine schedule."""
    return Coordinate(
        "angle",
        lambda u: torch.atan(u / deviation),
        lambda c: deviation * torch.tan(c),
        lambda c: deviation / torch.cos(c) ** 2,
    )


@lru_cache(maxsize=1)
def _gauss_legendre() -> tuple[Tensor, Tensor]:
    """Points and weights on [-1, 1] from the eigenvalues of the Jacobi matrix (Golub & Welsch 1969)."""
    k = torch.arange(1, QUADRATURE_POINTS, dtype=torch.float64)
    off = k / (4 * k**2 - 1).sqrt()
    points, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return points, 2 * vectors[0] ** 2


def _lagrange(nodes: Tensor, at: Tensor) -> Tensor:
    """L_j(at): nodes (R, k), at (R, Q) -> (R, Q, k)."""
    values = []
    for j in range(nodes.shape[1]):
        others = [m for m in range(nodes.shape[1]) if m != j]
        top = at[:, :, None] - nodes[:, None, others]
        values.append((top / (nodes[:, j, None] - nodes[:, others])[:, None]).prod(-1))
    return torch.stack(values, -1)


def weights(
    form: Form, coordinate: Coordinate, rule: Rule, u: Tensor, start: Tensor, stop: Tensor, nodes: Tensor
) -> Tensor:
    """w_j of R integrals over one table, float64 (R, k).

    u: the table's noise ratios.   start, stop: the rows each integral runs between, (R,).   nodes: the rows of its
    nodes, (R, k); all nodes but a single one must have finite coordinates.
    """
    measure = form.measure(u)
    whole = (measure[stop] - measure[start])[:, None]
    if nodes.shape[1] == 1:
        return whole
    if coordinate is ROW:
        c, c_nodes = torch.arange(len(u), dtype=torch.float64), nodes.double()
    else:
        c, c_nodes = coordinate.of(u), coordinate.of(u)[nodes]
    middle, half = (c[start] + c[stop])[:, None] / 2, (c[stop] - c[start])[:, None] / 2
    if rule == "midpoint":
        return whole * _lagrange(c_nodes, middle)[:, 0]
    points, shares = _gauss_legendre()
    at = middle + half * points
    polynomials = _lagrange(c_nodes, at)
    if coordinate is ROW:
        return whole * (polynomials * shares[:, None]).sum(1) / 2
    density = form.slope(coordinate.ratio(at)) * coordinate.slope(at)
    return half * (polynomials * (density * shares)[:, :, None]).sum(1)
