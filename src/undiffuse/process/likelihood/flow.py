"""Likelihood by the probability-flow ODE: a change of variables along the path from data to noise.

The flow of process/probability_flow.py carries y = x_t / hypot(alpha, sigma) from the least noisy level, at the angle phi_0, to the
noisiest, at phi_1.  The density changes along it by the divergence of its velocity v (Chen et al. 2018, Theorem 1; Song
et al. 2021, eq. 39),

    log p(y_0) = log p(y_1) + int_{phi_0}^{phi_1} div v(y, phi) dphi.                                             (1)

The sampler along the same path stops at phi_0 and returns x = x_t/alpha there, so y_0 = cos(phi_0) x and

    -log p(x) = -log p(y_1) - int div v dphi - d log cos(phi_0).                                                  (2)

It is the exact likelihood of that sampler, up to the tolerances.  The divergence is either exact, one derivative for
each of the d dimensions, or Skilling and Hutchinson's estimate e' (dv/dy) e, whose mean over e of independent signs is
the trace (Grathwohl et al. 2019, eq. 7).  The probes e are drawn once and held along the whole path.  Drawn anew at
every evaluation they would make v's companion a rough function of phi, which no error control can follow.

Quantised data has no density; with u uniform over the bin of each value (Theis et al. 2016, section 3.1),
-log P(value) <= E_u[-log p(value + u)], both per bin.

Step sizes follow the error of the whole batch: an example's likelihood is the same beside others to within the tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from undiffuse.process import derivatives
from undiffuse.process.levels import Level
from undiffuse.process.posteriors import DenoiserFn
from undiffuse.process.probability_flow import angle_of, times_as, velocity
from undiffuse.process.schedules import Schedule
from undiffuse.system import optional

LEAST_STOP_LOGSNR = -20.0  # of the stops in between, where a schedule ends in pure noise


@dataclass(frozen=True)
class FlowLikelihood:
    """The terms of eq. 2 in nats/dim; their sum is -log p.

    prior:  (B,).    path: (stops - 1, P, B), minus the divergence along each stretch, noisiest first, for each of P probes.
    scale:  -log cos(phi_0), a number.    levels: the stops, noisiest first.    evaluations: of the denoiser.
    """

    prior: Tensor
    path: Tensor
    scale: float
    levels: Level
    evaluations: int

    @property
    def total(self) -> Tensor:
        """(P, B), one estimate for each probe."""
        return self.prior + self.path.sum(0) + self.scale


def standard_normal_log_density(y: Tensor) -> Tensor:
    """log N(y; 0, I), (B,)."""
    return -0.5 * (y**2 + math.log(2 * math.pi)).flatten(1).sum(1)


def exact_divergence(v: Tensor, y: Tensor) -> Tensor:
    """div v, (1, B), by one derivative for each dimension. Examples must not depend on each other."""
    flat = v.flatten(1)
    rows = (
        torch.autograd.grad(flat[:, i].sum(), y, retain_graph=True)[0].flatten(1)[:, i] for i in range(flat.shape[1])
    )
    return torch.stack(list(rows)).sum(0)[None]


def probed_divergence(v: Tensor, y: Tensor, probes: Tensor) -> Tensor:
    """e' (dv/dy) e for each of the probes (P, B, ...), (P, B)."""
    return torch.stack(
        [(torch.autograd.grad((v * e).sum(), y, retain_graph=True)[0] * e).flatten(1).sum(1) for e in probes]
    )


def flow_likelihood(
    denoise: DenoiserFn,
    schedule: Schedule,
    x: Tensor,
    probes: Tensor | None = None,
    *,
    log_prior: Callable[[Tensor], Tensor] = standard_normal_log_density,
    stops: int = 33,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    watch: Callable[[float], None] | None = None,
) -> FlowLikelihood:
    """-log p(x) of x (B, ...) in the model's range, in the dtype of x, with gradients of `denoise`.

    probes: (P, B, ...) of ±1, or None for the exact divergence.    log_prior: log-density of y at the noisiest level, (B,).
    stops: at how many levels the integral is read off.    rtol, atol: of each step, relative and absolute.
    watch: called with the share of the path that is done, in log-SNR.

    Raises RuntimeError where torchdiffeq is not installed.   Source: Song et al. 2021, appendix D.2.
    """
    span = _stops(schedule, stops)
    size, covered, evaluations = x[0].numel(), 0.0, 0
    log_start, log_end = (span[i].tan().log().item() for i in (0, -2))

    def field(phi: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        nonlocal covered, evaluations
        evaluations += 1
        if watch:
            along = (
                phi.clamp(max=span[-1].to(phi)).cpu().double().tan().log().item()
            )  # the last step may overshoot the end
            covered = max(covered, min(1.0, (along - log_start) / (log_end - log_start)))
            watch(covered)
        with derivatives.with_graph():
            y = state[0].detach().requires_grad_()
            v = velocity(denoise, schedule, phi, y)[0]
            divergence = exact_divergence(v, y) if probes is None else probed_divergence(v, y, probes)
        return v.detach(), divergence / size

    start = span[0].cos().to(x) * x
    state = (start, x.new_zeros(1 if probes is None else len(probes), len(x)))
    y, integral = optional("torchdiffeq").odeint(
        field, state, span.to(x), rtol=rtol, atol=atol, method="dopri5", options=times_as(x)
    )
    levels = schedule(schedule.at(-2 * span.tan().log()).clamp(schedule.t_min, schedule.t_max))
    return FlowLikelihood(
        prior=-log_prior(y[-1]) / size,
        path=-integral.diff(dim=0).flip(0),
        scale=-math.log(span[0].cos().item()),
        levels=levels[torch.arange(stops - 1, -1, -1)],
        evaluations=evaluations,
    )


def dequantised(x: Tensor, shares: Tensor, width: Tensor | float) -> Tensor:
    """x moved to the place `shares`, in (0, 1), of bins of this width around it."""
    return x + (shares - 0.5) * width


def _stops(schedule: Schedule, count: int) -> Tensor:
    """Angles from the least noisy level to the noisiest, float64 (count,), even in log-SNR but for a last leap to pure noise."""
    ends = schedule([schedule.t_min, schedule.t_max])
    most, least = ends.logsnr.tolist()
    inner = torch.atan((-torch.linspace(most, max(least, LEAST_STOP_LOGSNR), count, dtype=torch.float64) / 2).exp())
    phi = angle_of(ends)
    return torch.cat([phi[:1], inner[1:-1], phi[1:]])
