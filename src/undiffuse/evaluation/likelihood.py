"""How probable given examples are under a model: bits or nats per dimension, whichever way they are found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.evaluation.likelihood_estimate import Likelihood, LikelihoodMethod, Unit, estimate
from undiffuse.models.model import Model
from undiffuse.process.chains import Chain
from undiffuse.process.likelihood.bound import LOG_2
from undiffuse.process.posteriors import DenoiserFn, FixedVariance, Posterior
from undiffuse.sampling.guidance import clipped


def in_unit(unit: str | None, quantised: bool) -> tuple[Unit, float]:
    """(unit, what to divide nats by); bits for quantised data and nats for floats when None.

    Raises UsageError for bits of a density, and for another unit.
    """
    if unit not in (None, "bits", "nats"):
        raise UsageError(f"there is no unit {unit!r}: choose bits or nats.")
    if unit == "bits" and not quantised:
        raise UsageError(
            "float data has a density and no probability, so it has no bits/dim: leave the unit out, or ask for nats."
        )
    return ("bits", LOG_2) if unit == "bits" or (unit is None and quantised) else ("nats", 1.0)


def likelihood(
    model: Model,
    values: np.ndarray | Tensor,
    conditions: Mapping[str, object] | None = None,
    *,
    method: LikelihoodMethod | None = None,
    draws: int = 1,
    seed: int = 0,
    decoder: Literal["tanh", "exact"] | None = None,
    steps: int | None = None,
    variance: float | None = None,
    exact_divergence: bool = False,
    progress: Callable[[float, float], None] | None = None,
) -> Likelihood:
    """-log p of examples (N, C, *size) in the data's own range, given their conditions and without guidance.

    method: "chain", "flow" or "continuous"; by default the first of chain and continuous that the schedule allows.
    variance: of the chain's transitions, 0 small to 1 large, instead of the model's own.
    x̂ of quantised data is clipped to its range in the two bounds, as in the published codes; never in the flow.
    The other arguments, and the errors, are those of `estimate`.
    """
    if model.codec.space is not None:
        raise UsageError(
            "the likelihood of an autoencoder's latents says nothing of the data's: for that, train a model without `latent`."
        )
    if model.codec.config.columns is not None:
        raise UsageError(
            "the likelihood is of numbers on one scale, and rows of a table have categories and ranks: leave it to other data."
        )
    chosen: LikelihoodMethod = method or ("chain" if isinstance(model.schedule, Chain) else "continuous")
    if variance is not None and (chosen != "chain" or not 0 <= variance <= 1):
        raise UsageError(
            f"variance {variance:g} cannot be used: it is of the method chain's transitions, from 0 (small) to 1 (large)."
        )
    known = model.denoiser.conditions.encode(conditions or {}, len(values))
    low, high = model.codec.limits(model.device)

    def given(rows: slice) -> DenoiserFn:
        denoise = model.denoiser.bind({name: value[rows].to(model.device) for name, value in known.items()})
        if variance is not None:
            denoise = _with_variance(denoise, variance)
        return clipped(denoise, low, high) if model.codec.config.bins and chosen != "flow" else denoise

    return estimate(
        given,
        model.schedule,
        model.codec,
        values,
        method=chosen,
        draws=draws,
        seed=seed,
        decoder=decoder,
        steps=steps,
        exact_divergence=exact_divergence,
        device=model.device,
        progress=progress,
    )


def _with_variance(denoise: DenoiserFn, fraction: float) -> DenoiserFn:
    """The same belief with a variance fixed between the bridge's small (0) and large (1)."""
    return lambda x_t, level: Posterior(denoise(x_t, level).mean, FixedVariance(fraction))
