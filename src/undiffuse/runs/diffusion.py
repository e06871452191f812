"""A run: data, a design and a folder, wired together.

runs/<name>/
  model.safetensors          the model, see models/file.py
  config.json                the whole configuration
  plan.json                  the same, with the rule behind each decision, see plan_file.py
  examples.npz               what is trained on, example by example, see inventory.py
  held_out.txt               which examples are held out, a line each: their files, or data:3 by their number
  state/                     checkpoints for exact resume, the newest kept
  metrics.jsonl              one JSON object a line
  samples/                   a grid of the same seeds every so often
  cache/                     what a transformer answers to the texts
  adapters/                  of a fine-tuning by low-rank adapters, as peft writes them
  condition_sensitivity.png  how much each condition changes x̂, by noise level
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from undiffuse import __version__
from undiffuse.conditioning.conditions import EncodedConditions
from undiffuse.conditioning.encoded import Part
from undiffuse.conditioning.probe import require_sensitivity
from undiffuse.config import changed, stored
from undiffuse.data.codec import Codec, shape_in_files
from undiffuse.data.dataset import Dataset
from undiffuse.data.loader import Loader
from undiffuse.models import storage
from undiffuse.models.config import ModelConfig
from undiffuse.models.file import MODEL_FILE, save_model
from undiffuse.models.lora import AdaptersConfig, save_adapters
from undiffuse.models.lora import written as adapters_written
from undiffuse.models.model import Model
from undiffuse.networks.adapters import merged
from undiffuse.networks.building import title_of
from undiffuse.networks.latents import Latents
from undiffuse.pictures.levels import effects
from undiffuse.process.likelihood.bound import Bins, Decoder, Density
from undiffuse.rng import GeneratorStream, drawing, generator, permuted
from undiffuse.runs.design import RunConfig
from undiffuse.runs.existing import CACHE
from undiffuse.runs.fine_tuning import PretrainedModel, initialize
from undiffuse.runs.folder import CONFIG, RunFolder
from undiffuse.runs.inventory import INVENTORY
from undiffuse.runs.measurements import QUICK, THOROUGH, Measurements
from undiffuse.runs.plan_file import PLAN, PlanFile
from undiffuse.runs.prepared import Prepared
from undiffuse.runs.previews import MOST_PREVIEWED, Previews
from undiffuse.system import write_atomically, write_text
from undiffuse.training.cadence import DEFAULT_INTERVALS, Intervals
from undiffuse.training.fit import fit
from undiffuse.training.hooks import Every, FunctionHook, HookLike, at_end
from undiffuse.training.learners import DenoiserLearner
from undiffuse.training.log import MetricsLog
from undiffuse.training.loop import TrainingLoop, Update
from undiffuse.training.objectives import OBJECTIVES, Objective, Simple, make_weight
from undiffuse.training.timesteps import make_timestep_sampler
from undiffuse.training.validation import evaluated

_log = logging.getLogger("undiffuse")
MOST_PROBED = 64  # examples, for the probe of conditions
HELD_OUT = "held_out.txt"
SAMPLES, METRICS, ADAPTERS, SENSITIVITY = "samples", "metrics.jsonl", "adapters", "condition_sensitivity.png"


class Run:
    """A run folder being trained. `updates` does the work; what it writes is described at the top of this file.

    Networks, loaders and measurements are made when they are first used.
    latents: of a model that diffuses in these.   base: the model that it starts from.   plan: what was decided, and why.
    """

    def __init__(
        self,
        folder: Path,
        config: RunConfig,
        prepared: Prepared,
        device: torch.device,
        watch: Intervals = DEFAULT_INTERVALS,
        latents: Latents | None = None,
        base: PretrainedModel | None = None,
        plan: PlanFile | None = None,
    ) -> None:
        self.folder, self.config, self.prepared, self.watch, self.device = folder, config, prepared, watch, device
        self.latents, self.base, self.plan = latents, base, plan
        self.codec, self.tasks = Codec(prepared.codec, latents), prepared.degradations
        self._folder = RunFolder(folder, (SAMPLES, ADAPTERS, CACHE))
        self._checkpoint, self._previews, self._sensitivity = self._hooks()

    @cached_property
    def model_config(self) -> ModelConfig:
        """What the model file says of itself, but for where it came from."""
        design = self.config.design
        return ModelConfig(
            codec=self.prepared.codec,
            file_format=self.prepared.data.file_format,
            latent=None if self.latents is None else self.latents.config,
            network=design.network,
            schedule=design.schedule,
            trained_schedule=design.trained_schedule,
            c_in=design.c_in,
            c_noise=design.c_noise,
            prediction=design.prediction,
            variance_type=design.variance_type,
            sigma_data=design.sigma_data,
            conditions=dict(self.prepared.conditions),
            degradations=design.degradations,
            sampling=design.sampling,
        )

    @cached_property
    def _initial(self) -> tuple[Model, dict[str, Tensor]]:
        """The model with its first weights, and of a fine-tuning, which entries of its parameters are new."""
        config, design = self.model_config, self.config.design
        with drawing(GeneratorStream.WEIGHTS, design.training.seed):
            denoiser, schedule = config.build()
            fresh = initialize(denoiser, self.base.model, config.shape, design.adapters) if self.base else {}
        return Model(config, denoiser.to(self.device), schedule, self.latents), fresh

    @property
    def model(self) -> Model:
        """The model as it is now, by its online weights."""
        return self._initial[0]

    @cached_property
    def loop(self) -> TrainingLoop:
        """The training loop."""
        training, schedule = self.config.design.training, self.model.schedule
        sampler = make_timestep_sampler(
            training.timestep_sampling, schedule, training.stratified, training.timestep_mean, training.timestep_std
        )
        return TrainingLoop(DenoiserLearner(self.model.denoiser, self._objective()), schedule, sampler, training)

    def _objective(self) -> Objective:
        training, schedule = self.config.design.training, self.model.schedule
        weight = make_weight(
            training.weight,
            self.model.denoiser.prediction,
            self.config.design.sigma_data,
            training.gamma,
            training.bias,
        )
        bins = self.codec.bins if self.codec.space is None else None
        decoder: Decoder = Density() if bins is None else Bins(bins)
        simple = Simple(weight, self.model.denoiser.categories)
        return OBJECTIVES[training.objective].make(simple, schedule, decoder)

    @cached_property
    def loader(self) -> Loader:
        """Batches of the training examples."""
        data, rows, training = self.prepared.data, self.prepared.training, self.config.design.training
        values = {name: Part(value, rows) for name, value in self.prepared.values.items()}
        balanced = self.prepared.balanced(training)
        return Loader(data, self.codec, training.batch_size, training.seed, self.device, values, rows, balanced)

    def batch(self, step: int) -> tuple[Tensor, EncodedConditions]:
        """(x (B, C, *size), what is known of each example) of an update, as the network is given them."""
        x, values = self.loader(step)
        augment, seed = self.config.design.augment, self.config.design.training.seed
        draws = generator(GeneratorStream.SHIFTS, seed, step)
        x, values = self.prepared.augmented(x, values, augment, self.codec, draws)
        x = self.prepared.filled(x, values)
        return x, values | self.prepared.degraded(x, generator(GeneratorStream.TASKS, seed, step))

    @cached_property
    def measurements(self) -> Measurements:
        """What is known of how good the model is."""
        return Measurements(self.model, self.loop, self.prepared, self.device)

    @cached_property
    def previews(self) -> Previews:
        """What is drawn every so often."""
        found = self.measurements
        return Previews(self.model, found.validation, self.config.conditions, found.values_of(MOST_PREVIEWED))

    @property
    def training_data(self) -> Dataset:
        """The examples that are trained on: a copy of them."""
        return self.prepared.data[self.prepared.training]

    @property
    def held_out(self) -> Dataset:
        """The examples that are held out: a copy of them."""
        return self.prepared.data[self.prepared.held_out]

    def description(self) -> str:
        """What is about to be trained, in two lines."""
        trained = self.loop.flat.parameter.numel()
        parameters = sum(p.numel() for p in self.model.denoiser.parameters())
        design, start, data = self.config.design, self.config.start, self.prepared.data
        shape = "×".join(str(n) for n in shape_in_files(data.shape))
        names = ", ".join(f"{c.kind} {name}" if c.kind != name else name for name, c in self.config.conditions.items())
        by = "" if self.latents is None else f", by latents of {'×'.join(str(n) for n in self.latents.shape)}"
        return (
            f"run {self.folder}: {len(self.prepared.training):,} examples of {shape} ({f'conditioned on {names}' if names else 'unconditional'}), "
            f"{len(self.prepared.held_out):,} held out{by}\n"
            f"{f'starting from {start.name}, {trained:,} parameters trained; ' if start else ''}"
            f"{title_of(design.network)} of {parameters:,} parameters, {design.prediction} prediction on {design.schedule.name}, "
            f"batches of {design.training.batch_size}, on {self.device}"
        )

    # The course of a run ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raises UsageError for a condition that does not reach the network's answer, by the first weights."""
        rows = permuted(GeneratorStream.LOOKED_AT, self.prepared.training)[:MOST_PROBED]
        draws = generator(GeneratorStream.PROBED_TASKS)
        values = self.prepared.examples(rows, self.codec, self.device, draws)[1]
        if values:
            denoiser, schedule, fresh = self.model.denoiser, self.model.schedule, self._initial[1]
            x = torch.zeros(len(rows), *self.model_config.shape, device=self.device)
            level = schedule(schedule.nearest(schedule.time(torch.tensor(0.5, dtype=torch.float64))))
            require_sensitivity(denoiser, lambda given: denoiser(x, level, given).mean, values, fresh)

    def updates(self, hooks: Iterable[HookLike] = ()) -> Iterator[Update]:
        """Trains to the end, resuming where the folder's newest checkpoint left off.

        hooks: called between updates, see training/hooks.py.
        A consumer that stops early should call `save`.  Raises Failure where another process trains in the folder, UsageError for a
        condition that does not reach the network, and for a checkpoint that this run cannot go on from.
        """
        self.check()
        metrics = MetricsLog(self.folder / METRICS)
        with self._folder:
            metrics.check()
            self._folder.resume(self.loop)
            metrics.resume(self.loop.step)
            self._write_decided()
            self._folder.write_config(self.config)
            _log.info("%s in %s at step %d", "resumed" if self.loop.step else "started", self.folder, self.loop.step)
            if self.loop.done >= 1 and self.is_saved:
                return
            own = (metrics, self._previews, self._sensitivity)
            yield from fit(self.loop, self.batch, (*own, *hooks), self._checkpoint)

    def _write_decided(self) -> None:
        """Writes what is trained on, which examples are held out, and the plan."""
        before = stored(self.folder / CONFIG, RunConfig, "choose another name")
        if before is None or before.fingerprint != self.config.fingerprint or not (self.folder / INVENTORY).exists():
            self.prepared.inventory(self.config.split).write(self.folder)
        names = self.prepared.data.names(self.prepared.held_out)
        write_text(self.folder / HELD_OUT, "".join(f"{name}\n" for name in names))
        if self.plan is not None:
            self.plan.write(self.folder / PLAN)

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

    @property
    def is_saved(self) -> bool:
        """Whether the model file in the folder is of the updates that are done."""
        return self._written() == {self.loop.step}

    def _written(self) -> set[int | None]:
        """The steps that the model file and the adapters are of, None for what is not there: a kill may come between a checkpoint and these."""
        found = [
            storage.config_of(self.folder / MODEL_FILE),
            *([adapters_written(self.folder / ADAPTERS)] if self.config.design.adapters else []),
        ]
        return {((config or {}).get("provenance") or {}).get("training", {}).get("steps") for config in found}

    def resume(self) -> None:
        """Takes up the folder's newest checkpoint, unless that is done. Raises Failure where another process trains there."""
        if not self._folder.resumed:
            with self._folder:
                self._folder.resume(self.loop)

    def save(self, seconds: float = QUICK) -> None:
        """Writes a checkpoint and the model file.   seconds: for measuring which weights are better."""
        with self._folder:
            self._folder.save(self.loop)
            self._save_model(seconds)
        _log.info("saved step %d in %s", self.loop.step, self.folder)

    def _save_model(self, seconds: float) -> None:
        loop, found = self.loop, self.measurements.measured(seconds)
        scores, best = ({}, "ema") if found is None else (found.summary(), found.best())
        provenance = {
            "made_by": f"undiffuse {__version__}",
            "torch": torch.__version__,
            "python": platform.python_version(),
            "data": {
                "source": Path(self.config.data.source).name,
                "fingerprint": self.config.fingerprint,
                "training": len(self.prepared.training),
                "held_out": len(self.prepared.held_out),
            },
            "training": {
                **self.config.design.training.model_dump(mode="json"),
                "steps": loop.step,
                "seconds": round(loop.seconds, 1),
            },
            "held_out": {name: score["relative"] for name, score in scores.items()},
            "held_out_error": {name: score["error"] for name, score in scores.items()},
            "held_out_measured": 0 if found is None else len(found),
            "condition_sensitivity": {
                name: round(max(changes), 4) for name, changes in self.measurements.condition_sensitivity().items()
            },
        }
        if self.config.start:
            provenance["started_from"] = self.config.start.model_dump(mode="json")
        config = changed(self.model_config, {"weights": best, "provenance": provenance})
        self.model.config, denoiser = config, self.model.denoiser
        online = merged(denoiser)
        with loop.ema.swapped():
            ema = merged(denoiser)
        if self.config.start and self.config.design.adapters:
            with loop.ema.swapped() if best == "ema" else nullcontext():
                save_adapters(self.folder / ADAPTERS, denoiser, AdaptersConfig(model=config, start=self.config.start))
        buffers = denoiser.buffers_to_store()
        save_model(self.folder / MODEL_FILE, config, online, ema, latents=self.latents, buffers=buffers)

    def preview(self) -> Path:
        """Draws what the averaged weights make, see previews.py."""
        with self.loop.ema.swapped():
            picture = evaluated(self.model.denoiser, lambda: self.previews.drawn(f"step {self.loop.step}"))
        path = self.folder / SAMPLES / f"step-{self.loop.step:08d}.png"
        write_atomically(path, lambda temporary: picture.save(temporary, "PNG"))
        _log.info("drew %s", path)
        return path

    def _draw_sensitivity(self) -> None:
        changes = self.measurements.condition_sensitivity()
        if changes:
            levels = self.measurements.validation.levels.sigma_edm.tolist()
            effects(self.folder / SENSITIVITY, levels, changes, "How much each condition changes x̂, by noise level")
