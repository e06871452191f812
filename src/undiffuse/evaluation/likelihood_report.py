"""A likelihood as sentences and as plain numbers."""

from __future__ import annotations

import math
from typing import Any

from undiffuse.evaluation.likelihood_estimate import Likelihood

PLURALS = {"step": "steps"}


def likelihood_lines(found: Likelihood, unit: str, divisor: float, examples: str) -> list[str]:
    """The number, how it was found and of what; then what it and its ± mean.

    unit: such as bits/dim, of `divisor` nats.   examples: which ones, in words.
    """
    parts = ", ".join(f"{PLURALS.get(kind, kind)} {nats / divisor:.3f}" for kind, nats in found.sums().items())
    decoder = f"; {found.decoder} decoder" if found.decoder in ("tanh", "exact") else ""
    effort = {
        "chain": f"chain, {found.evaluations} steps",
        "continuous": f"continuous time, {found.evaluations - 1} levels",
        "flow": f"flow, {found.evaluations} evaluations",
    }[found.method]
    of = "the probability of the values" if found.quantised else "the density of the values as they are stored"
    bound = "" if found.method == "flow" and not found.quantised else "an upper bound on -log p, "
    spread = "; one example has no ±"
    if found.error is not None:
        spread = "; ± is one standard error over the examples"
        if found.noise_error is not None:
            spread += f", {found.noise_error / divisor:.3f} of it from the noise of {len(found.estimates)} draws"
    return [
        f"{likelihood_text(found, unit, divisor)} ({effort}; {parts}{decoder}; {examples})",
        f"{bound}in {unit} of {of}{spread}",
    ]


def likelihood_text(found: Likelihood, unit: str, divisor: float) -> str:
    """The number with its standard error and unit."""
    error = "" if found.error is None else f" ± {found.error / divisor:.3f}"
    return f"{found.mean / divisor:.3f}{error} {unit}"


def likelihood_numbers(found: Likelihood, unit: str, divisor: float, settings: dict[str, Any]) -> dict[str, Any]:
    """Everything as plain data, amounts in the unit.   settings: of the estimate, stored as they are."""

    def amount(nats: float | None) -> float | None:
        return None if nats is None else nats / divisor

    return {
        "method": found.method,
        "unit": unit,
        "of": "probability" if found.quantised else "density",
        "decoder": found.decoder,
        "mean": amount(found.mean),
        "standard_error": amount(found.error),
        "standard_error_of_noise": amount(found.noise_error),
        "parts": {kind: amount(nats) for kind, nats in found.sums().items()},
        "settings": settings,
        "evaluations": found.evaluations,
        "terms": [
            {
                "kind": term.kind,
                "sigma_over_alpha": term.ratio,
                "label": term.label,
                "log_snr": -2 * math.log(term.ratio) if 0 < term.ratio < math.inf else None,
                "amount": amount(term.nats),
            }
            for term in found.terms
        ],
        "examples": [amount(nats) for nats in found.examples.tolist()],
    }
