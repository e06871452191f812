"""The Gaussian between a variational autoencoder's encoder and decoder (Kingma & Welling 2014, eq. 10 and appendix B).

z = mean + deviation · noise,      KL( N(mean, variance) | N(0, I) ) = ½ Σ ( mean² + variance - 1 - log variance )
"""

from __future__ import annotations

import torch
from torch import Tensor

LOG_VARIANCE = (-30.0, 20.0)


def split(both: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-variance (B, c, …) each, in single precision at least, of a network's output (B, 2c, …)."""
    mean, log_variance = both.to(torch.promote_types(both.dtype, torch.float32)).chunk(2, 1)
    return mean, log_variance.clamp(*LOG_VARIANCE)


def sample_gaussian(mean: Tensor, log_variance: Tensor) -> Tensor:
    """A sample of z, of the shape (B, c, …) of mean and log-variance, from torch's global generator."""
    return mean + (log_variance / 2).exp() * torch.randn_like(mean)


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """The KL divergence from N(0, I) in nats of each example, (B,), of mean and log-variance (B, c, …)."""
    return (mean.square() + log_variance.exp() - 1 - log_variance).flatten(1).sum(1) / 2
