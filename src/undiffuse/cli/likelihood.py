"""undiffuse likelihood RUN"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer
from typer import Argument, Option

from undiffuse.cli import shared
from undiffuse.cli.result import Result
from undiffuse.cli.runner import SEED, Job, answers
from undiffuse.errors import UsageError

if TYPE_CHECKING:
    from undiffuse.evaluation.likelihood_estimate import Likelihood, LikelihoodMethod


@answers("likelihood", SEED)
def likelihood(
    job: Job,
    data: Annotated[
        str | None, Argument(metavar="[DATA]", help="Examples to judge by; the run's held-out ones when left out.")
    ] = None,
    method: Annotated[str | None, Option(help="chain, flow or continuous; chain where the model has one.")] = None,
    n: Annotated[int, Option("-n", help="How many examples, drawn at random.")] = 256,
    draws: Annotated[int, Option(help="Repetitions with other noise; two or more tell its part of the error.")] = 1,
    decoder: Annotated[str | None, Option(help="Of quantised data: tanh, as published numbers, or exact.")] = None,
    unit: Annotated[str | None, Option(help="bits or nats, per dimension; float data has nats alone.")] = None,
    steps: Annotated[
        int | None, Option(help="Steps of a respaced chain (all), or levels of the continuous bound (64).")
    ] = None,
    variance: Annotated[
        float | None, Option(help="Variance of the chain: 0 small, 1 large; the model's own when left out.")
    ] = None,
    exact_divergence: Annotated[
        bool, Option("--exact-divergence", help="Of a flow: a derivative per dimension, no probe.")
    ] = False,
) -> Result:
    """How probable examples are under a model, in bits per dimension, step by step."""
    if n < 1:
        raise UsageError(f"-n {n} asks for nothing: ask for at least 1.")
    from undiffuse.evaluation.likelihood import in_unit
    from undiffuse.evaluation.likelihood import likelihood as model_likelihood
    from undiffuse.pictures import plots
    from undiffuse.runs.data import conditions_of, held_out_data, named_data, random_subset

    model, run = job.model, job.run
    chosen, divisor = in_unit(unit, model.codec.config.bins is not None)
    whole, trained_on = (held_out_data(run), False) if data is None else named_data(run, data)
    for note in () if data is None else whole.notes:
        shared.note(note)
    if trained_on:
        typer.echo(
            f"note: the run was trained on {data}, so these are training and held-out examples together; leave DATA out for held-out ones."
        )
    examples = random_subset(whole, n, job.seed)
    told = {
        name: values
        for name, values in conditions_of(run, examples).items()
        if name in model.denoiser.conditions.settable
    }
    if not told and "class" in model.denoiser.conditions.settable and examples.labels is not None:
        told = {"class": [examples.classes[k] if k >= 0 else None for k in examples.labels]}
    found = model_likelihood(
        model,
        examples.values,
        told,
        method=cast("LikelihoodMethod | None", method),
        draws=draws,
        seed=job.seed,
        decoder=cast("Literal['tanh', 'exact'] | None", decoder),
        steps=steps,
        variance=variance,
        exact_divergence=exact_divergence,
        progress=lambda done, total: job.phase("likelihood", done / total),
    )
    unit_name = f"{chosen}/dim"
    which = f"{len(examples)} {'held-out examples' if data is None else f'examples of {whole.name}'}"
    which += " with their " + " and ".join({"class": "classes"}.get(name, name) for name in told) if told else ""
    total = f"{found.mean / divisor:.3f}{'' if found.error is None else f' ± {found.error / divisor:.3f}'} {unit_name}"
    parts = ", ".join(f"{_plural(kind)} {nats / divisor:.3f}" for kind, nats in found.sums().items())
    settings = {
        "draws": draws,
        "seed": job.seed,
        "steps": steps,
        "variance": variance,
        "exact_divergence": exact_divergence,
        "weights": model.config.weights,
        "data": data,
        "told": list(told),
    }
    title = {
        "chain": "Cost of each step of the chain",
        "continuous": "Cost of each stretch of log-SNR",
        "flow": "Growth of volume along the flow",
    }
    terms = [(term.kind, term.ratio, term.nats / divisor) for term in found.terms]
    decoded = f"; {found.decoder} decoder" if found.decoder in ("tanh", "exact") else ""
    return Result(
        numbers=_numbers(found, unit_name, divisor, settings),
        numbers_in="likelihood.json",
        files={
            "likelihood.png": lambda path: plots.plot_likelihood(path, terms, total, unit_name, title[found.method])
        },
        lines=[f"{total} ({_walk(found)}; {parts}{decoded}; {which})", _meaning(found, unit_name, divisor)],
    )


def _plural(kind: str) -> str:
    return {"step": "steps"}.get(kind, kind)


def _walk(found: Likelihood) -> str:
    """The method and how long it walked."""
    return {
        "chain": f"chain, {found.evaluations} steps",
        "continuous": f"continuous time, {found.evaluations - 1} levels",
        "flow": f"flow, {found.evaluations} evaluations",
    }[found.method]


def _meaning(found: Likelihood, unit_name: str, divisor: float) -> str:
    """What the number and its ± are."""
    density = (
        "of the density of the values as they are stored" if not found.quantised else "of the probability of the values"
    )
    bound = "" if found.method == "flow" and not found.quantised else "an upper bound on -log p, "
    noise = (
        ""
        if found.noise_error is None
        else f", {found.noise_error / divisor:.3f} of it from the noise of {len(found.estimates)} draws"
    )
    spread = "; one example has no ±" if found.error is None else f"; ± is one standard error over the examples{noise}"
    return f"{bound}in {unit_name} {density}{spread}"


def _numbers(found: Likelihood, unit: str, divisor: float, settings: dict[str, Any]) -> dict[str, Any]:
    """likelihood.json: strict JSON, null for what is infinite."""

    def number(value: float | None) -> float | None:
        return None if value is None or not math.isfinite(value) else value

    def amount(nats: float | None) -> float | None:
        return number(None if nats is None else nats / divisor)

    return {
        "method": found.method,
        "unit": unit,
        "of": "probability" if found.quantised else "density",
        "decoder": found.decoder,
        "mean": amount(found.mean),
        "standard_error": amount(found.error),
        "standard_error_of_noise": amount(found.noise_error),
        "parts": {k: amount(v) for k, v in found.sums().items()},
        "settings": settings,
        "evaluations": found.evaluations,
        "terms": [
            {
                "kind": term.kind,
                "sigma_over_alpha": number(term.ratio),
                "label": number(term.label),
                "log_snr": number(-2 * math.log(term.ratio)) if 0 < term.ratio < math.inf else None,
                "amount": amount(term.nats),
            }
            for term in found.terms
        ],
        "examples": [amount(nats) for nats in found.examples.tolist()],
    }
