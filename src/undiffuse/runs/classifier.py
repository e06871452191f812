"""Training a classifier on the noisy examples of a run, and saying at which noise levels it knows anything.

    runs/<name>/classifier-<target>/
      classifier.safetensors   see classifier.py
      config.json              what it reads and how it is trained
      state/                   checkpoints for exact resume
      levels.json, levels.png  how well it reads held-out examples, by noise level, against chance

It reads the data, the split, the noise schedule and the codec from the run, so it cannot disagree with the model.  The same
command resumes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from undiffuse.conditioning.base import EXAMPLES_AT_ONCE
from undiffuse.conditioning.classes import ClassConfig
from undiffuse.conditioning.columns import encode_columns, fit_conditions
from undiffuse.conditioning.conditions import Conditions, EncodedConditions
from undiffuse.conditioning.encoded import Encoded, Part
from undiffuse.conditioning.numbers import NumberConfig
from undiffuse.conditioning.spec import Condition
from undiffuse.conditioning.vectors import VectorConfig
from undiffuse.config import Config, begun_before, changed
from undiffuse.data.balancing import BalancedOrder
from undiffuse.data.codec import Codec
from undiffuse.data.dataset import Dataset
from undiffuse.data.loader import Loader
from undiffuse.errors import UsageError
from undiffuse.models.classifier import CLASSIFIER_FILE, Classifier, ClassifierConfig, log_likelihood, save_classifier
from undiffuse.models.config import ModelConfig
from undiffuse.models.storage import sets_of
from undiffuse.networks.building import NetworkConfig, suggested_unet
from undiffuse.networks.unet_config import StagesConfig, UNetConfig
from undiffuse.pictures.levels import readings as draw_levels
from undiffuse.process.forward import add_noise
from undiffuse.process.levels import Level
from undiffuse.rng import GeneratorStream, drawing, permuted
from undiffuse.runs.folder import CONFIG, RunFolder
from undiffuse.system import write_text
from undiffuse.training.cadence import SHARE
from undiffuse.training.fit import fit
from undiffuse.training.hooks import Every, HookLike
from undiffuse.training.learners import Computing, Learner
from undiffuse.training.loop import TrainingLoop, Update
from undiffuse.training.settings import TrainingConfig
from undiffuse.training.timesteps import make_timestep_sampler
from undiffuse.training.validation import ValidationSet

READABLE_KINDS = ("class", "number", "tags", "vector")
MOST_READ, FEWEST_HELD_OUT = 2000, 2  # that say what is to be read
CLASSIFIER_FREE_TO_CHANGE = ("training.steps", "training.budget")
CLASSIFIER_OTHERWISE = "give it another name, with the column beside it, or remove the folder"
CONFIDENT = 3.0  # standard errors above chance


class ClassifierLearner(Learner):
    """Cross-entropy of the target of noised examples; of clean ones for a classifier that never sees noise."""

    def __init__(self, classifier: Classifier, name: str, clean: bool = False) -> None:
        self.module = self.classifier = classifier
        self.name, self.clean = name, clean

    def prepared(self, values: EncodedConditions, generator: torch.Generator) -> EncodedConditions:
        return values

    def losses(self, x: Tensor, eps: Tensor, level: Level, values: EncodedConditions, computing: Computing) -> Tensor:
        if self.clean:
            level, x_t = Level.clean(level.alpha), x
        else:
            x_t = add_noise(x, level, eps)
        with computing():
            answer = self.classifier(x_t, level)
        return -log_likelihood(self.classifier.config.target, answer.float(), values[self.name])


@dataclass(frozen=True)
class Reading:
    """How well a classifier reads held-out examples at one level.

    score: accuracy of a class (of tags, the mean over them), R² of a number or a vector.   error: its standard error.   chance: what
    knowing nothing gives.
    """

    ratio: float
    score: float
    error: float
    chance: float

    @property
    def can_guide(self) -> bool:
        """Whether the classifier is better than chance at this level, by more than its error allows."""
        return self.score - self.chance > CONFIDENT * max(self.error, 1e-6)


class ClassifierRunConfig(Config):
    """config.json of a classifier's folder."""

    measured_on: Literal["all", "training"] = Field(
        "all",
        description="Examples that the target's mean and deviation are measured on: training, or all in runs of older versions.",
    )
    classifier: ClassifierConfig = Field(description="The classifier's file header.")
    declared: Condition = Field(description="The condition that it predicts, as declared.")
    fingerprint: str = Field(description="Hash of the data.")
    training: TrainingConfig = Field(description="How the classifier is trained.")


class ClassifierRun:
    """A classifier of one target being trained. `updates` does the work.

    model: the configuration it is for, codec: the model's.   rows: of the data, to train on and held out.   target: as declared, called `name`.
    clean: for a classifier that never sees noise.
    """

    def __init__(
        self,
        folder: Path,
        model: ModelConfig,
        codec: Codec,
        data: Dataset,
        rows: tuple[np.ndarray, np.ndarray],
        name: str,
        target: Condition,
        training: TrainingConfig,
        device: torch.device,
        *,
        clean: bool = False,
    ) -> None:
        if target.kind not in READABLE_KINDS:
            raise UsageError(
                f"a classifier reads {', '.join(READABLE_KINDS)}, and {name!r} is a {target.kind}: choose another."
            )
        self.folder, self.model, self.codec, self.data, self.device = folder, model, codec, data, device
        self.name, self.target, self.training, self.clean = name, target, training, clean
        self.training_rows, self.held_out_rows = rows
        self.schedule = model.schedule.build()
        self._folder = RunFolder(folder)

    @cached_property
    def _measured_on(self) -> Literal["all", "training"]:
        return "all" if not self.clean and begun_before(self.folder / CONFIG) else "training"

    @cached_property
    def config(self) -> ClassifierConfig:
        """What the classifier file says of itself. Raises UsageError for a target that cannot be read from the data."""
        target = fit_conditions(
            self.data,
            {self.name: self.target},
            0.0,
            rows=self.training_rows,
            legacy=self._measured_on == "all",
        )[self.name]
        return ClassifierConfig(
            codec=self.model.codec,
            latent=None if self.codec.space is None else self.model.latent,
            schedule=self.model.schedule,
            network=classifying_network(self.model.network, self.codec.shape),
            name=self.name,
            target=target,  # type: ignore[arg-type]
        )

    @cached_property
    def run_config(self) -> ClassifierRunConfig:
        """The content of config.json."""
        return ClassifierRunConfig(
            measured_on=self._measured_on,
            classifier=self.config,
            declared=self.target,
            fingerprint=self.data.fingerprint(),
            training=self.training,
        )

    @cached_property
    def classifier(self) -> Classifier:
        """The classifier, with its first weights before it is trained."""
        with drawing(GeneratorStream.WEIGHTS, self.training.seed):
            return self.config.build().to(self.device)

    @cached_property
    def reader(self) -> Conditions:
        """What encodes the target."""
        with drawing(GeneratorStream.WEIGHTS):
            return Conditions({self.name: self.config.target}, 1)

    @cached_property
    def _values(self) -> Encoded:
        """The encoded target of every example."""
        return encode_columns(self.data, {self.name: self.target}, self.reader)[self.name]

    @cached_property
    def loop(self) -> TrainingLoop:
        """The training loop."""
        learner = ClassifierLearner(self.classifier, self.name, self.clean)
        sampler = make_timestep_sampler("uniform", self.schedule, True)
        return TrainingLoop(learner, self.schedule, sampler, self.training)

    @cached_property
    def loader(self) -> Loader:
        """Batches of the training examples and their targets."""
        rows, values = self.training_rows, {self.name: Part(self._values, self.training_rows)}
        balanced = None
        if self.training.balance:
            if self.config.target.kind != "class" or self.training.balance_by not in (None, self.name):
                raise UsageError(
                    f"balance is of the class that is told apart, and {self.name!r} is none: leave it out."
                )
            balanced = BalancedOrder(self._values[rows].numpy(), self.training.balance)
        training = self.training
        return Loader(self.data, self.codec, training.batch_size, training.seed, self.device, values, rows, balanced)

    @cached_property
    def bank(self) -> ValidationSet | None:
        """Held-out examples that have a target; None where too few have."""
        parts = np.array_split(self.held_out_rows, 1 + len(self.held_out_rows) // EXAMPLES_AT_ONCE)
        present = np.concatenate([says(self.config.target, self._values[part]).numpy() for part in parts])
        # data may be sorted by class, so the few that are looked at are drawn from all
        judged = permuted(GeneratorStream.JUDGED, self.held_out_rows[present])[:MOST_READ]
        if len(judged) < FEWEST_HELD_OUT:
            return None
        x, values = self.codec.encode(self.data.values[judged]), {self.name: self._values[judged].to(self.device)}
        return ValidationSet.of(x.to(self.device), values, self.schedule)

    def description(self) -> str:
        """What is about to be trained, in a line."""
        what = self.name if self.name == self.target.kind else f"{self.target.kind} {self.name}"
        read = f"reads {what} off {len(self.training_rows):,} noisy examples"
        return f"classifier {self.folder}: {read}, {self.loop.flat.parameter.numel():,} parameters"

    def check(self) -> None:
        """Raises UsageError where the folder holds a classifier that is trained otherwise, with a list of what differs."""
        self._folder.refuse_other(self.run_config, CLASSIFIER_OTHERWISE, CLASSIFIER_FREE_TO_CHANGE)

    def updates(self, hooks: Iterable[HookLike] = ()) -> Iterator[Update]:
        """Trains to the end, resuming from the newest checkpoint; saves every minute.

        hooks: called between updates, see training/hooks.py.
        A consumer that stops early should call `save`.  Raises UsageError, see `check`, and Failure where another process trains here.
        """
        with self._folder:
            self.check()
            self._folder.write_config(self.run_config)
            self._folder.resume(self.loop)
            yield from fit(self.loop, self.loader, hooks, Every(seconds=60.0, share=SHARE)(lambda *_: self.save()))

    def save(self) -> None:
        """Writes a checkpoint and the classifier file."""
        with self._folder:
            tensors = self._folder.save(self.loop)
            readings = self.readings()
            useful = [reading.ratio for reading in readings if reading.can_guide]
            provenance = {"steps": self.loop.step, "readings": [asdict(reading) for reading in readings]}
            config = changed(
                self.config, {"provenance": provenance, "can_guide": [min(useful), max(useful)] if useful else None}
            )
            save_classifier(self.folder / CLASSIFIER_FILE, config, **sets_of(tensors))
            write_text(
                self.folder / "levels.json", json.dumps([asdict(reading) for reading in readings], indent=2) + "\n"
            )

    def readings(self) -> list[Reading]:
        """How well the averaged weights read held-out examples, by noise level; empty where none of them says what is to be read."""
        if self.bank is None:
            return []
        found = []
        with torch.no_grad(), self.loop.ema.swapped():
            for row in range(len(self.bank.levels)):
                level = self.bank.levels[row]
                x_t = add_noise(self.bank.x, level, self.bank.eps)
                answer = torch.cat([self.classifier(part, level) for part in x_t.split(256)])
                found.append(
                    reading(self.config.target, answer.cpu(), self.bank.values[self.name].cpu(), level.sigma_edm.item())
                )
        return found


def score_of(kind: str) -> str:
    """What a reading of a condition of that kind measures."""
    return "R²" if kind == "number" else "accuracy"


def readings_table(readings: list[Reading], kind: str) -> str:
    """Readings as a table, and where the classifier can guide.   kind: of the condition."""
    lines = [f"{'σ/α':>9} {score_of(kind):>9} {'± error':>9} {'chance':>8}"]
    for r in readings:
        meaning = "can guide" if r.can_guide else "not surely better than chance"
        lines.append(f"{r.ratio:9.3g} {r.score:9.3f} {r.error:9.3f} {r.chance:8.3f}   {meaning}")
    useful = [r.ratio for r in readings if r.can_guide]
    advice = "train it for longer, or look whether the data says anything of this"
    where = f"where σ/α is {min(useful):.3g} to {max(useful):.3g}" if useful else ""
    return "\n".join([*lines, f"it can guide {where}" if useful else f"it reads nothing at any noise level: {advice}"])


def draw_readings(path: Path, readings: list[Reading], kind: str, name: str) -> None:
    """Draws one or more readings of the condition called `name`.   kind: of it."""
    rows = [(r.ratio, r.score, r.error, r.chance, r.can_guide) for r in readings]
    draw_levels(path, rows, score_of(kind), f"What the classifier reads of {name!r} off noisy examples")


def says(target: Any, encoded: Tensor) -> Tensor:
    """Which encoded targets (N, …) say anything, bool (N,). What says nothing can be read neither rightly nor wrongly."""
    return encoded < len(target.names) if isinstance(target, ClassConfig) else encoded[:, -1] > 0


def reading(target: Any, answer: Tensor, encoded: Tensor, ratio: float = 0.0) -> Reading:
    """How well answers (N, outputs) fit encoded targets (N, …), two or more of which say something."""
    present = says(target, encoded)
    if isinstance(target, ClassConfig):
        answer, encoded = answer[present], encoded[present]
        right = (answer.argmax(1) == encoded).double()
        chance = torch.bincount(encoded, minlength=len(target.names)).max().item() / len(encoded)
        return Reading(
            ratio, right.mean().item(), math.sqrt(max(right.var().item(), 1 / len(right)) / len(right)), chance
        )
    values, answer = encoded[present, :-1].double(), answer[present].double()
    if isinstance(target, NumberConfig | VectorConfig):
        squares, around = (
            ((values - answer[:, : values.shape[1]]) ** 2).mean(1),
            ((values - values.mean(0)) ** 2).mean(1),
        )
        score = 1 - squares.mean() / around.mean()
        spread = (squares - (1 - score) * around).std() / around.mean()  # of a ratio of means, to first order
        return Reading(ratio, score.item(), (spread / math.sqrt(len(values))).item(), 0.0)
    right = ((answer > 0) == (values > 0)).double().mean(1)
    chance = torch.maximum(values.mean(0), 1 - values.mean(0)).mean().item()
    return Reading(ratio, right.mean().item(), (right.std() / math.sqrt(len(right))).item(), chance)


def classifying_network(network: NetworkConfig, shape: tuple[int, ...]) -> UNetConfig:
    """An encoder for the data of a model: the levels of its network where it has any, attention in the middle, no wider than needed."""
    content = (
        network.model_dump() if isinstance(network, StagesConfig) else suggested_unet(shape, cpu=True).model_dump()
    )
    content = {name: content[name] for name in StagesConfig.model_fields}
    content |= (
        {"timestep_embedding": "adm"} if content["timestep_embedding"] == "fourier" else {}
    )  # for the label is one of its conditions, of up to 1000
    return UNetConfig(**content | {"middle_attention": True, "attention": (), "embedding_width": None})
