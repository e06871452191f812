"""undiffuse likelihood RUN"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer import Argument

from undiffuse.cli import shared
from undiffuse.cli.options import opt
from undiffuse.cli.result import Result
from undiffuse.cli.runner import SEED, Job, job_command
from undiffuse.errors import UsageError

LIKELIHOOD_DATA_HELP = "Examples to judge by; the run's held-out ones when left out."
STEPS_HELP = "Steps of a respaced chain (all), or levels of the continuous bound (64)."
VARIANCE = "Variance of the chain: 0 small, 1 large; the model's own when left out."
EXACT = opt("Of a flow: a derivative per dimension, no probe.", None, "--exact-divergence")
LIKELIHOOD_TITLES = {
    "chain": "Cost of each step of the chain",
    "continuous": "Cost of each stretch of log-SNR",
    "flow": "Growth of volume along the flow",
}


@job_command("likelihood", SEED)
def likelihood(
    job: Job,
    data: Annotated[str | None, Argument(metavar="[DATA]", help=LIKELIHOOD_DATA_HELP)] = None,
    method: Annotated[str | None, opt("chain, flow or continuous; chain where the model has one.")] = None,
    n: Annotated[int, opt("How many examples, drawn at random.", None, "-n")] = 256,
    draws: Annotated[int, opt("Repetitions with other noise; two or more tell its part of the error.")] = 1,
    decoder: Annotated[str | None, opt("Of quantised data: tanh, as published numbers, or exact.")] = None,
    unit: Annotated[str | None, opt("bits or nats, per dimension; float data has nats alone.")] = None,
    steps: Annotated[int | None, opt(STEPS_HELP)] = None,
    variance: Annotated[float | None, opt(VARIANCE)] = None,
    exact_divergence: Annotated[bool, EXACT] = False,
) -> Result:
    """How probable examples are under a model, in bits per dimension, step by step."""
    if n < 1:
        raise UsageError(f"-n {n} asks for nothing: ask for at least 1.")
    from undiffuse.evaluation.likelihood import in_unit
    from undiffuse.evaluation.likelihood import likelihood as model_likelihood
    from undiffuse.evaluation.likelihood_report import likelihood_lines, likelihood_numbers, likelihood_text
    from undiffuse.pictures.plots import plot_likelihood
    from undiffuse.runs.data import held_out_data, model_conditions, named_data, random_subset, refuse_other_range

    model, run = job.model, job.run
    kind, divisor = in_unit(unit, model.codec.config.bins is not None)
    whole, trained_on = (held_out_data(run), False) if data is None else named_data(run, data)
    for text in () if data is None else whole.notes:
        shared.note(text)
    if trained_on:
        typer.echo(
            f"note: the run was trained on {data}, so these are training and held-out examples together; leave DATA out for held-out ones."
        )
    examples = random_subset(whole, n, job.seed)
    refuse_other_range(examples.values, model.codec.config, whole.name)
    conditions = model_conditions(run, model, examples)
    settings: dict[str, Any] = {"draws": draws, "seed": job.seed, "steps": steps, "variance": variance}
    settings["exact_divergence"] = exact_divergence
    how: dict[str, Any] = {"method": method, "decoder": decoder, **settings}
    how["progress"] = lambda done, total: job.phase("likelihood", done / total)
    found = model_likelihood(model, examples.values, conditions, **how)
    which = f"{len(examples)} {'held-out examples' if data is None else f'examples of {whole.name}'}"
    if conditions:
        which += " with their " + " and ".join({"class": "classes"}.get(name, name) for name in conditions)
    settings |= {"weights": model.config.weights, "data": data, "conditions": list(conditions)}
    unit, total = f"{kind}/dim", likelihood_text(found, f"{kind}/dim", divisor)
    terms = [(term.kind, term.ratio, term.nats / divisor) for term in found.terms]
    return Result(
        numbers=likelihood_numbers(found, unit, divisor, settings),
        numbers_in="likelihood.json",
        files={
            "likelihood.png": lambda path: plot_likelihood(path, terms, total, unit, LIKELIHOOD_TITLES[found.method])
        },
        lines=likelihood_lines(found, unit, divisor, which),
    )
