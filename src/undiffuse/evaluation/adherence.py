"""Adherence: do samples show the conditions that were requested?

For each condition a small predictor is trained on real held-out examples, which the model was not trained on, to read the condition
off a clean example.  It then reads samples, for which the truth is the condition requested:

    class, task, tags   accuracy                    number   R² of requested and read
    text, vector        retrieval: how often the requested one is the nearest, of CANDIDATES, to what is read

Beside it stand a ceiling, the same predictor on real examples it was not trained on, and a floor, the samples with what
was requested shuffled among them.  A predictor that reads little cannot show that samples are bad; then the ceiling says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from undiffuse.conditioning.columns import column_values, encode_columns
from undiffuse.conditioning.encoded import Encoded
from undiffuse.conditioning.spec import Condition
from undiffuse.conditioning.texts import PARTS, TextCondition
from undiffuse.config import parsed
from undiffuse.data.dataset import Dataset
from undiffuse.errors import UsageError
from undiffuse.models.file import load
from undiffuse.models.model import Model
from undiffuse.process.levels import Level
from undiffuse.rng import GeneratorStream, drawing, generator, permuted
from undiffuse.runs.classifier import ClassifierRun, reading
from undiffuse.runs.data import run_data
from undiffuse.sampling.overrides import SamplingOverrides
from undiffuse.sampling.settings import SamplingConfig
from undiffuse.training.settings import TrainingConfig

READ = ("class", "task", "number", "tags", "text", "vector")
CANDIDATES = 10
DIMENSIONS = 64  # that texts are brought to for a predictor
FEWEST_A_SIDE = 20  # held-out examples on each side
LITTLE = 0.2  # of a score, between the floor and the ceiling


@dataclass(frozen=True)
class Adherence:
    """Of one condition.   measure: "accuracy", "R²" or "retrieval of 10".   samples, error: the score and its standard error.

    ceiling: the predictor on real examples.   floor: the samples, shuffled.   requested, read: of numbers, in the data's units.
    """

    name: str
    kind: str
    measure: str
    samples: float
    error: float
    ceiling: float
    floor: float
    requested: tuple[float, ...] = ()
    read: tuple[float, ...] = ()


def adherence_table(found: Sequence[Adherence]) -> list[str]:
    """The lines of a table, one for each condition, and a note on those that predictors read badly."""
    lines = [f"{'condition':24} {'measure':16} {'samples':>16} {'real examples':>14} {'shuffled':>9}"]
    for a in found:
        score = f"{a.samples:.3f} ± {a.error:.3f}"
        lines.append(f"{a.kind + ' ' + a.name:24} {a.measure:16} {score:>16} {a.ceiling:14.3f} {a.floor:9.3f}")
    weak = ", ".join(a.name for a in found if a.ceiling - a.floor < LITTLE)
    if weak:
        lines.append(
            f"note: even of real examples the predictor reads little of {weak}, so its scores say little there"
        )
    return lines


def evaluate(
    run: str | Path,
    *,
    n: int = 500,
    predictor_steps: int = 600,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: Callable[[str, float], None] | None = None,
    sampling: SamplingConfig | None = None,
    **overrides: Unpack[SamplingOverrides],
) -> list[Adherence]:
    """How well n samples of a run show each of its conditions, judged by predictors trained on its held-out examples.

    run: the run folder.   device: such as "cuda".   The other arguments are those of `adherence`.
    Raises UsageError where the run's data is gone or has changed, and as `adherence`.
    """
    known = run_data(Path(run), "give a run folder made by training")
    return adherence(
        load(run, device),
        known.data,
        known.held_out,
        known.conditions,
        n=n,
        predictor_steps=predictor_steps,
        seed=seed,
        progress=progress,
        sampling=sampling,
        **overrides,
    )


def adherence(
    model: Model,
    data: Dataset,
    held_out: np.ndarray,
    declared: Mapping[str, Condition],
    *,
    n: int = 500,
    predictor_steps: int = 600,
    seed: int = 0,
    progress: Callable[[str, float], None] | None = None,
    sampling: SamplingConfig | None = None,
    **overrides: Unpack[SamplingOverrides],
) -> list[Adherence]:
    """How well n samples show each declared condition.

    data: the run's, held_out: its rows that the model was not trained on.   predictor_steps: updates of each predictor.   sampling, overrides: as
    for Model.sample.   progress: called with (what is done, the share of it).
    Raises UsageError for a model without conditions that can be read, or too few held-out examples.
    """
    if n < 2:
        raise UsageError(f"{n} samples are too few to judge by: take at least 2.")
    training = parsed(
        TrainingConfig,
        {"steps": predictor_steps, "seed": seed, "learning_rate": 1e-3, "weight_decay": 0.05, "warmup": 20},
        "predictors cannot be trained so",
    )
    readable = {name: condition for name, condition in declared.items() if condition.kind in READ}
    if not readable:
        raise UsageError(
            f"none of this model's conditions can be read off an example: {', '.join(declared) or 'it is unconditional'}."
        )
    if len(held_out) < 2 * FEWEST_A_SIDE:
        raise UsageError(
            f"{len(held_out)} held-out examples are too few to train a predictor on and to test it: hold out at least "
            f"{2 * FEWEST_A_SIDE}. A run cannot change what it holds out: train another with held_out={2 * FEWEST_A_SIDE} and another name."
        )
    order = permuted(GeneratorStream.PREDICTORS, held_out, seed)
    learned, tested = np.sort(order[::2]), np.sort(order[1::2])
    requested_rows = tested[np.arange(n) % len(tested)]
    requested = {name: column_values(data, name, condition, requested_rows) for name, condition in declared.items()}
    conditions = {name: values for name, values in requested.items() if name in model.config.conditions}

    def watch(what: str) -> Callable[[float], None]:
        return lambda share: progress(what, share) if progress else None

    sampled = watch("sampling")
    values = model.sample(
        n, conditions, seed=seed, progress=lambda done, total: sampled(done / total), sampling=sampling, **overrides
    )
    codec = model.codec.plain
    x = codec.encode(values)
    training = training.model_copy(update={"batch_size": min(64, len(learned))})
    found = []
    for name, condition in readable.items():
        target, source = _target(data, name, condition, model)
        work = ClassifierRun(
            Path(), model.config, codec, source, (learned, tested), name, target, training, model.device, clean=True
        )
        trained = watch(f"learning to read {name}")
        for update in work.loop.updates(work.loader):
            trained(update.done)
        found.append(_judged(work, source, name, target, condition, x, requested_rows, tested))
    return found


def _target(data: Dataset, name: str, condition: Condition, model: Model) -> tuple[Condition, Dataset]:
    """What the predictor reads, and the data with it: texts become vectors, tasks classes."""
    column = condition.column or name
    if condition.kind == "text":
        module = model.denoiser.conditions[name]
        assert isinstance(module, TextCondition)
        encoded = encode_columns(data, {name: condition}, model.denoiser.conditions)[name]
        return Condition(kind="vector", column=f"{name} as a vector"), replace(
            data, columns={**data.columns, f"{name} as a vector": _pooled(encoded, module).numpy()}
        )
    return Condition(kind="class" if condition.kind == "task" else condition.kind, column=column), data


def _pooled(encoded: Encoded, module: TextCondition) -> Tensor:
    """Encoded texts, N of them, as vectors of at most DIMENSIONS numbers: the mean over tokens, in its main directions."""
    flat = torch.cat([_flat(encoded[rows], module) for rows in torch.arange(len(encoded)).split(1024)])
    flat -= flat.mean(0)
    with drawing(GeneratorStream.COMPONENTS):
        _, _, directions = torch.pca_lowrank(flat, q=min(DIMENSIONS, *flat.shape), center=False, niter=4)
    return flat @ directions


def _flat(encoded: Tensor, module: TextCondition) -> Tensor:
    """Encoded texts (B, …) as vectors: a bag of hashed parts, or the mean over tokens."""
    if module.config.encoder.kind == "words":
        bags = torch.zeros(len(encoded), module.config.encoder.buckets + 1)
        return bags.scatter_add_(1, encoded.flatten(1), torch.ones(len(encoded), encoded.shape[1] * PARTS))[:, 1:]
    present = encoded[..., -1:]
    return (
        encoded[..., :-1] if encoded.ndim == 2 else (encoded[..., :-1] * present).sum(1) / present.sum(1).clamp(min=1)
    )


def _judged(
    work: ClassifierRun,
    data: Dataset,
    name: str,
    target: Condition,
    condition: Condition,
    x: Tensor,
    requested_rows: np.ndarray,
    tested: np.ndarray,
) -> Adherence:
    config = work.config.target
    every = encode_columns(data, {name: target}, work.reader)[name]
    requested, real = every[requested_rows], every[tested]
    answers = _answers(work, x)
    real_x = torch.cat(
        [work.codec.encode(data.values[part]) for part in np.array_split(tested, max(1, len(tested) // 256))]
    )
    real_answers = _answers(work, real_x)
    shuffle = torch.randperm(len(requested), generator=generator(GeneratorStream.MISMATCHED))
    if target.kind == "vector":
        all_present = every[np.arange(len(data))]
        score, ceiling, floor = (
            _retrieved(a, w, all_present)
            for a, w in ((answers, requested), (real_answers, real), (answers, requested[shuffle]))
        )
        return Adherence(
            name, condition.kind, f"retrieval of {CANDIDATES}", score, _binomial(score, len(x)), ceiling, floor
        )
    read, best, worst = (
        reading(config, a, w) for a, w in ((answers, requested), (real_answers, real), (answers, requested[shuffle]))
    )
    numbers: dict[str, Any] = {}
    if target.kind == "number":
        present = requested[:, 1] > 0
        numbers = {
            "requested": _in_units(config, requested[present, 0]),
            "read": _in_units(config, answers[present, 0]),
        }
    measure = "R²" if target.kind == "number" else "accuracy"
    return Adherence(name, condition.kind, measure, read.score, read.error, best.score, worst.score, **numbers)


@torch.no_grad()
def _answers(work: ClassifierRun, x: Tensor) -> Tensor:
    """What the averaged weights say of clean examples."""
    work.classifier.eval()
    with work.loop.ema.swapped():
        return torch.cat(
            [work.classifier(part.to(work.device), Level.clean(torch.ones(len(part)))).cpu() for part in x.split(256)]
        )


def _retrieved(answers: Tensor, requested: Tensor, every: Tensor) -> float:
    """How often the requested vector is nearest to the answer among CANDIDATES, the others drawn from all that differ from it."""
    draws = generator(GeneratorStream.CANDIDATES)
    pool = torch.unique(every, dim=0)
    pool = pool[pool[:, -1] > 0][:, :-1]
    right = 0
    for answer, want in zip(answers, requested[:, :-1], strict=True):
        others = pool[(pool != want).any(1)]
        chosen = others[torch.randperm(len(others), generator=draws)[: CANDIDATES - 1]]
        similar = torch.nn.functional.cosine_similarity(torch.cat([want[None], chosen]), answer[None])
        right += int(similar.argmax() == 0)
    return right / len(answers)


def _binomial(share: float, n: int) -> float:
    return math.sqrt(max(share * (1 - share), 1 / n) / n)


def _in_units(config: Any, z: Tensor) -> tuple[float, ...]:
    return tuple((z.cpu().double() * config.std + config.mean).tolist())
