"""A run: data, a design and a folder, wired together.

runs/<name>/
  model.safetensors   the model, see model.py
  config.json         the whole configuration
  state/              checkpoints for exact resume, the newest kept
  metrics.jsonl       one JSON object a line
  samples/            a grid of the same seeds every so often
  cache/              what a transformer said of the texts
  adapters/           of a fine-tuning by low-rank adapters, as peft writes them
  heard.png           how much each condition changes what the model believes, by noise level
"""

from __future__ import annotations

import logging
import math
import platform
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from undiffuse import __version__
from undiffuse.conditioning.augmentation import AugmentationConfig
from undiffuse.conditioning.classes import TaskConfig
from undiffuse.conditioning.columns import column_values, encode_columns, fit_conditions
from undiffuse.conditioning.conditions import EncodedConditions
from undiffuse.conditioning.degradations import Degradations
from undiffuse.conditioning.encoded import Part
from undiffuse.conditioning.observation import ObservationConfig
from undiffuse.conditioning.probe import require_sensitivity
from undiffuse.config import changed
from undiffuse.data.augmentation import shifted
from undiffuse.data.codec import Codec, fitted_codec, shape_in_files
from undiffuse.data.dataset import Dataset
from undiffuse.data.loader import Loader
from undiffuse.models import storage
from undiffuse.models.config import ModelConfig
from undiffuse.models.file import MODEL_FILE, save_model, stored_config
from undiffuse.models.lora import AdaptersConfig
from undiffuse.models.lora import save_adapters as save_adapters
from undiffuse.models.lora import written as adapters_written
from undiffuse.models.model import Model
from undiffuse.networks.adapters import merged
from undiffuse.networks.building import NETWORK_NAMES
from undiffuse.networks.latents import Latents
from undiffuse.pictures.levels import effects
from undiffuse.process.likelihood.bound import Bins, Decoder, Density
from undiffuse.rng import GeneratorStream, drawing, generator, permuted
from undiffuse.runs.design import RunConfig
from undiffuse.runs.fine_tuning import FineTuning, kept_codec, kept_conditions
from undiffuse.runs.folder import RunFolder
from undiffuse.runs.previews import MOST_PREVIEWED, Previews
from undiffuse.system import write_atomically
from undiffuse.training.cadence import DEFAULT_INTERVALS, Intervals
from undiffuse.training.fit import fit
from undiffuse.training.hooks import Every, FunctionHook, HookLike, at_end
from undiffuse.training.learners import DenoiserLearner
from undiffuse.training.log import MetricsLog
from undiffuse.training.loop import TrainingLoop, Update
from undiffuse.training.objectives import OBJECTIVES, Objective, Simple, make_weight
from undiffuse.training.scores import HeldOut, Scores
from undiffuse.training.timesteps import make_timestep_sampler
from undiffuse.training.validation import Baseline, ValidationSet, baseline_errors, evaluated, validation_size

_log = logging.getLogger("undiffuse")
MOST_PROBED = 64  # examples, for the probe of conditions
MOST_REFERENCE_NUMBERS = 2**25  # of the training set, for the reference curves
QUICK, THOROUGH = 3.0, 30.0  # seconds for measuring held-out examples, while training and at its end
CACHE, SAMPLES, METRICS, ADAPTERS = "cache", "samples", "metrics.jsonl", "adapters"


class Run:
    """A run folder being trained. `updates` does the work; everything it writes is described at the top of this file."""

    def __init__(
        self,
        folder: Path,
        config: RunConfig,
        data: Dataset,
        rows: tuple[np.ndarray, np.ndarray],
        device: torch.device,
        watch: Intervals = DEFAULT_INTERVALS,
        download: bool = False,
        latents: Latents | None = None,
        start: FineTuning | None = None,
    ) -> None:
        self.folder, self.config, self.watch, self.device = folder, config, watch, device
        self._folder = RunFolder(folder, (SAMPLES, ADAPTERS, CACHE))
        self._checkpoint, self._previews, self._sensitivity = self._hooks()
        design = config.design
        self.notes, self.latents = data.notes, latents
        before, alike = (
            stored_config(folder),
            config.measured_on == "all",
        )  # of this run, which may go on with other data than it was fitted to
        codec = Codec(
            kept_codec(before, (start.codec if start else fitted_codec)(data, rows[0], all_alike=alike), folder),
            latents,
        )
        fit = start.conditions if start else partial(fit_conditions, known=before.conditions if before else ())
        conditions = kept_conditions(
            before,
            fit(data, config.conditions, design.condition_dropout, download, rows=rows[0], all_alike=alike),
            folder,
        )
        if design.augment.probability:
            conditions["augmentation"] = AugmentationConfig(numbers=len(data.shape) - 1)
        self.tasks = Degradations(design.degradations) if design.degradations else None
        if self.tasks:
            self.tasks.check(data.shape)
            conditions["observation"] = ObservationConfig(shape=(data.shape[0] + 2, *data.shape[1:]))
            conditions |= {"task": TaskConfig(names=self.tasks.names)} if len(self.tasks.names) > 1 else {}
        self.model_config = ModelConfig(
            codec=codec.config,
            latent=None if latents is None else latents.config,
            network=design.network,
            schedule=design.schedule,
            trained_schedule=design.trained_schedule,
            c_in=design.c_in,
            c_noise=design.c_noise,
            prediction=design.prediction,
            variance_type=design.variance_type,
            sigma_data=design.sigma_data,
            conditions=conditions,
            degradations=design.degradations,
            sampling=design.sampling,
        )
        with drawing(GeneratorStream.WEIGHTS, design.training.seed):
            denoiser, schedule = self.model_config.build()
            self._fresh = start.initialize(denoiser, self.model_config.shape, design.adapters) if start else {}
        values = encode_columns(data, config.conditions, denoiser.conditions, folder / CACHE)
        unsaid = [
            name
            for name in denoiser.conditions.names
            if name not in values and not (self.tasks and name in ("observation", "task"))
        ]
        values |= {name: denoiser.conditions[name].encode([None] * len(data)) for name in unsaid}
        self.data, self.training_rows, self.held_out = data, rows[0], data[rows[1]]
        self.model = Model(self.model_config, denoiser.to(device), schedule, latents)
        training = design.training
        sampler = make_timestep_sampler(
            training.timestep_sampling, schedule, training.stratified, training.timestep_mean, training.timestep_std
        )
        self.trainer = TrainingLoop(
            DenoiserLearner(denoiser, self._objective(codec)), schedule, sampler, design.training
        )
        told = {name: Part(value, rows[0]) for name, value in values.items()}
        self.loader = Loader(data, codec, design.training.batch_size, design.training.seed, device, told, rows[0])
        # data may be sorted by class, so the few that are looked at are drawn from all
        seen = permuted(GeneratorStream.LOOKED_AT, rows[0])
        judged = permuted(GeneratorStream.JUDGED, rows[1] if len(rows[1]) else rows[0])
        few = seen[:MOST_PROBED]
        probed = {name: value[few].to(device) for name, value in values.items()}
        self._refuse_deaf(
            probed | self._told(codec.encode_parts(data.values, few, device), generator(GeneratorStream.PROBED_TASKS))
        )
        self.codec = codec

        def examples(first: int, last: int) -> tuple[Tensor, EncodedConditions]:
            few = judged[first:last]
            x = codec.encode_parts(data.values, few, device)
            said = {name: value[few].to(device) for name, value in values.items()}
            return x, said | self._told(x, generator(GeneratorStream.HELD_OUT_TASKS, 0, first))

        self.validation = ValidationSet.of(*examples(0, validation_size(codec.shape)), schedule)
        said = {
            name: column_values(data, name, condition, judged[:MOST_PREVIEWED])
            for name, condition in config.conditions.items()
        }
        self.previews = Previews(self.model, self.validation, config.conditions, said)
        self.measuring = (
            HeldOut(len(judged), examples, codec.shape, schedule, Baseline.of(self._some_of_training()))
            if len(rows[1])
            else None
        )
        self._scored: tuple[int, float, Scores | None] = (-1, 0.0, None)
        self._heard: tuple[int, dict[str, list[float]]] = (-1, {})

    def _objective(self, codec: Codec) -> Objective:
        training, schedule, prediction = (
            self.config.design.training,
            self.model.schedule,
            self.model.denoiser.prediction,
        )
        simple = Simple(
            make_weight(training.weight, prediction, self.config.design.sigma_data, training.gamma, training.bias)
        )
        decoder: Decoder = Bins(codec.bins) if codec.bins is not None and codec.space is None else Density()
        return OBJECTIVES[training.objective].make(simple, schedule, decoder)

    def _refuse_deaf(self, values: EncodedConditions) -> None:
        """Raises UsageError for a condition that the network does not hear, before anything is trained."""
        if values:
            n, schedule = len(next(iter(values.values()))), self.model.schedule
            x = torch.zeros(n, *self.model_config.shape, device=self.device)
            level = schedule(schedule.nearest(schedule.time(torch.tensor(0.5, dtype=torch.float64))))
            require_sensitivity(
                self.model.denoiser, lambda told: self.model.denoiser(x, level, told).mean, values, self._fresh
            )

    def _batch(self, step: int) -> tuple[Tensor, EncodedConditions]:
        x, values = self.loader(step)
        augment, seed = self.config.design.augment, self.config.design.training.seed
        if augment.probability:
            x, values["augmentation"] = shifted(
                x, augment.probability, augment.shift, generator(GeneratorStream.SHIFTS, seed, step)
            )
        return x, values | self._told(x, generator(GeneratorStream.TASKS, seed, step))

    def _told(self, x: Tensor, draws: torch.Generator) -> EncodedConditions:
        """What tasks by training show of examples."""
        return self.tasks.conditions(x, draws) if self.tasks else {}

    @property
    def training_data(self) -> Dataset:
        """The examples that are trained on: a copy of them."""
        return self.data[self.training_rows]

    def description(self) -> str:
        """What is about to be trained, in two lines."""
        trained, parameters = (
            self.trainer.flat.parameter.numel(),
            sum(p.numel() for p in self.model.denoiser.parameters()),
        )
        design, shape = self.config.design, "×".join(str(n) for n in shape_in_files(self.data.shape))
        told = ", ".join(f"{c.kind} {name}" if c.kind != name else name for name, c in self.config.conditions.items())
        by = "" if self.latents is None else f", by latents of {'×'.join(str(n) for n in self.latents.shape)}"
        return (
            f"run {self.folder}: {len(self.training_rows):,} examples of {shape} ({f'told {told}' if told else 'unconditional'}), "
            f"{len(self.held_out):,} held out{by}\n"
            f"{f'starting from {self.config.start.name}, {trained:,} parameters trained; ' if self.config.start else ''}"
            f"{NETWORK_NAMES[design.network.kind]} of {parameters:,} parameters, {design.prediction} prediction on {design.schedule.name}, "
            f"batches of {design.training.batch_size}, on {self.device}"
        )

    def verdict(self) -> str:
        """How good the model is on held-out data, against what the covariance alone would give."""
        found = self.measured()
        if found is None or self.measuring is None:
            said = "no held-out examples, so nothing is known of how it does on new ones"
        else:
            said = found.sentence(found.best(), self.measuring.baseline.name)
        heard = ", ".join(f"{name} {max(changes):.2f}" for name, changes in self.condition_sensitivity().items())
        return said + (
            f"\nheard: {heard} (the most that x̂ changes when one is shuffled, in standard deviations of the data)"
            if heard
            else ""
        )

    # The course of a run ----------------------------------------------------------------------------------------------

    def updates(self, hooks: Iterable[HookLike] = ()) -> Iterator[Update]:
        """Trains to the end, resuming where the folder's newest checkpoint left off.

        hooks: called between updates, see training/hooks.py.
        A consumer that stops early should call `save`.  Raises Failure where another process trains in the folder, UsageError for a
        checkpoint that this run cannot go on from.
        """
        metrics = MetricsLog(self.folder / METRICS)
        with self._folder:
            metrics.check()
            self._folder.resume(self.trainer)
            metrics.resume(self.trainer.step)
            self._folder.write_config(self.config)
            _log.info(
                "%s in %s at step %d", "resumed" if self.trainer.step else "started", self.folder, self.trainer.step
            )
            if self.trainer.done >= 1 and self._written() == {self.trainer.step}:
                return
            self._checkpoint, self._previews, self._sensitivity = self._hooks()
            own = (metrics, self._previews, self._sensitivity)
            yield from fit(self.trainer, self._batch, (*own, *hooks), self._checkpoint)

    def _hooks(self) -> tuple[FunctionHook, FunctionHook, FunctionHook]:
        """What a run does between updates: its checkpoint, its previews, and at the end the picture of what reaches the network."""
        watch = self.watch
        return (
            Every(seconds=watch.checkpoint, share=watch.share, name="checkpoint")(
                lambda _, update: self.save(THOROUGH if update.done >= 1 else QUICK)
            ),
            Every(seconds=watch.preview, share=watch.share, name="preview")(lambda *_: self.preview()),
            at_end(lambda *_: self._draw_sensitivity(), "sensitivity to conditions"),
        )

    @property
    def spent(self) -> tuple[float, float]:
        """Seconds that this process has spent on saving, and on drawing."""
        return self._checkpoint.cadence.spent, self._previews.cadence.spent + self._sensitivity.cadence.spent

    def _written(self) -> set[int | None]:
        """The steps that the model file and the adapters are of, None for what is not there: a kill may come between a checkpoint and these."""
        found = [
            storage.config_of(self.folder / MODEL_FILE),
            *([adapters_written(self.folder / ADAPTERS)] if self.config.design.adapters else []),
        ]
        return {((config or {}).get("provenance") or {}).get("training", {}).get("steps") for config in found}

    def save(self, seconds: float = QUICK) -> None:
        """Writes a checkpoint and the model file.   seconds: for measuring which weights are better."""
        with self._folder:
            self._folder.save(self.trainer)
            self._save_model(seconds)
        _log.info("saved step %d in %s", self.trainer.step, self.folder)

    def _save_model(self, seconds: float) -> None:
        trainer, found = self.trainer, self.measured(seconds)
        scores, best = ({}, "ema") if found is None else (found.summary(), found.best())
        provenance = {
            "made_by": f"undiffuse {__version__}",
            "torch": torch.__version__,
            "python": platform.python_version(),
            "data": {
                "source": Path(self.config.data.source).name,
                "fingerprint": self.config.fingerprint,
                "training": len(self.training_rows),
                "held_out": len(self.held_out),
            },
            "training": {
                **self.config.design.training.model_dump(mode="json"),
                "steps": trainer.step,
                "seconds": round(trainer.seconds, 1),
            },
            "held_out": {name: score["relative"] for name, score in scores.items()},
            "held_out_error": {name: score["error"] for name, score in scores.items()},
            "held_out_measured": 0 if found is None else len(found),
            "heard": {name: round(max(changes), 4) for name, changes in self.condition_sensitivity().items()},
        }
        if self.config.start:
            provenance["started_from"] = self.config.start.model_dump(mode="json")
        config = changed(self.model_config, {"weights": best, "provenance": provenance})
        self.model.config, denoiser = config, self.model.denoiser
        online = merged(denoiser)
        with trainer.ema.swapped():
            ema = merged(denoiser)
        if self.config.start and self.config.design.adapters:
            with trainer.ema.swapped() if best == "ema" else nullcontext():
                save_adapters(self.folder / ADAPTERS, denoiser, AdaptersConfig(model=config, start=self.config.start))
        save_model(self.folder / MODEL_FILE, config, online, ema, latents=self.latents)

    def measured(self, seconds: float = THOROUGH) -> Scores | None:
        """Errors of the averaged and the raw weights on held-out examples, None where there are none.

        seconds: after which it makes do with the examples that were measured.
        """
        step, took, found = self._scored
        if self.measuring is not None and (step != self.trainer.step or took < seconds):
            denoiser = self.model.denoiser

            def online(bank: ValidationSet) -> Tensor:
                return evaluated(denoiser, lambda: bank.each(denoiser.bind(bank.values)))

            def ema(bank: ValidationSet) -> Tensor:
                with self.trainer.ema.swapped():
                    return online(bank)

            found = self.measuring.measured({"ema": ema, "online": online}, seconds)
            self._scored = (self.trainer.step, seconds, found)
        return found

    def scores(self) -> dict[str, dict[str, Any]]:
        """Summary of `measured`, see scores.py; empty where nothing is held out."""
        found = self.measured()
        return {} if found is None else found.summary()

    def curves(self) -> dict[str, list[float]]:
        """Error by level of the three references of validation.py, on the bank's examples."""
        found = baseline_errors(self.validation, self._some_of_training())
        named = {"trivial": found.trivial, "linear": found.linear, "copying": found.copying}
        return {name: curve.tolist() for name, curve in named.items() if curve is not None}

    def _some_of_training(self) -> Tensor:
        """x of training examples, drawn at random, as many as reference curves are made of."""
        n = max(1, MOST_REFERENCE_NUMBERS // math.prod(self.codec.shape))
        rows = permuted(GeneratorStream.LOOKED_AT, self.training_rows)[:n]
        return self.codec.encode_parts(self.data.values, rows)

    def condition_sensitivity(self) -> dict[str, list[float]]:
        """How much shuffling each condition changes x̂ of held-out examples, at each level of the bank; averaged weights."""
        if self._heard[0] != self.trainer.step:
            denoiser = self.model.denoiser
            with self.trainer.ema.swapped():
                changes = self.validation.effects(denoiser.bind, denoiser.conditions.settable)
            self._heard = (self.trainer.step, changes)
        return self._heard[1]

    def preview(self) -> Path:
        """Draws what the averaged weights make, see previews.py."""
        with self.trainer.ema.swapped():
            picture = evaluated(self.model.denoiser, lambda: self.previews.drawn(f"step {self.trainer.step}"))
        path = self.folder / SAMPLES / f"step-{self.trainer.step:08d}.png"
        write_atomically(path, lambda temporary: picture.save(temporary, "PNG"))
        _log.info("drew %s", path)
        return path

    def _draw_sensitivity(self) -> None:
        heard = self.condition_sensitivity()
        if heard:
            effects(
                self.folder / "heard.png",
                self.validation.levels.sigma_edm.tolist(),
                heard,
                "What the model hears of each condition, by noise level",
            )
