"""Model: a trained denoiser with everything needed to use it, and the one file it lives in.

The file (storage.py) holds tensors `online.*` and `ema.*`, or one of these sets, those of an autoencoder `latent.*` where x is
its latents, and in its header the whole ModelConfig.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from undiffuse.conditioning.classes import ClassConfig
from undiffuse.conditioning.known import KNOWN
from undiffuse.data.codec import Codec
from undiffuse.errors import UsageError, whole
from undiffuse.models import storage
from undiffuse.models.config import ModelConfig, rescheduled
from undiffuse.models.denoiser import Denoiser
from undiffuse.models.guidance import Guidance, Request, build_denoiser, build_sampler, encode_request, validate
from undiffuse.networks.adapters import merged
from undiffuse.networks.latents import Latents
from undiffuse.process.config import ScheduleConfig
from undiffuse.process.levels import Level
from undiffuse.process.philox import standard_normal
from undiffuse.process.posteriors import DenoiserFn
from undiffuse.process.schedules import Schedule
from undiffuse.rng import NoiseStream
from undiffuse.sampling.classifier_guidance import Guide
from undiffuse.sampling.loop import Counter, SamplerStep, final, initial, trajectory
from undiffuse.sampling.overrides import SamplingOverrides, resolved
from undiffuse.sampling.settings import SamplingConfig

BATCH_EXAMPLES, BATCH_NUMBERS = 256, 2**20  # examples, and their numbers, that go through the network together


def at_once(shape: Sequence[int], most: int = BATCH_EXAMPLES, numbers: int = BATCH_NUMBERS) -> int:
    """How many examples of this shape to work on together: at most so many, and fewer where they hold more numbers than this."""
    return max(1, min(most, numbers // math.prod(shape)))


class Model:
    """A denoiser on its schedule, with its codec, and the latents it works on if any. Made by `load` or by training."""

    def __init__(
        self, config: ModelConfig, denoiser: Denoiser, schedule: Schedule, latents: Latents | None = None
    ) -> None:
        self.config, self.denoiser, self.schedule = config, denoiser.eval(), schedule
        self.codec, self.latents = Codec(config.codec, latents), latents

    @property
    def device(self) -> torch.device:
        """The device of the model's weights."""
        return next(self.denoiser.parameters()).device

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of its classes; empty for an unconditional model."""
        return next(
            (c.names for c in self.config.conditions.values() if isinstance(c, ClassConfig) and not c.retired), ()
        )

    # Sampling ---------------------------------------------------------------------------------------------------------

    def sample(
        self,
        n: int,
        conditions: Mapping[str, object] | None = None,
        *,
        seed: int = 0,
        first: int = 0,
        index: Sequence[int] | None = None,
        negative: Mapping[str, object] | None = None,
        autoguidance: Model | None = None,
        guides: Sequence[Guide] = (),
        sampling: SamplingConfig | None = None,
        batch_size: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        **overrides: Unpack[SamplingOverrides],
    ) -> Tensor:
        """n new examples, float (n, C, *size) in the data's own range.

        conditions: {"class": "7", "age": 30}, one value for all or a list of n; one that is left out is absent, the null token.
        Of sequences of unequal length it may have the number that says where they end, such as {"length": 40}; lengths are drawn as the
        training examples have them when it is left out.  Beyond the end of a sample, and where no training example knew anything, there is
        NaN, 0 of whole numbers.
        seed, first: examples first … first + n - 1 of this seed; each is the same whatever else is drawn.   index: any n of
        them instead, such as the same one n times.
        negative: conditions to be guided away from, in place of absent ones (a negative prompt).   autoguidance: a weaker model to be
        guided away from (Karras et al. 2024).   Both need a guidance above 1.   guides: gradients, such as `Classifier.guide`.
        sampling: the settings to use in place of the model's own.   overrides: single fields of SamplingConfig (solver, grid, steps,
        eta, guidance, clip, …) to replace in these.
        batch_size: examples that go through the network together, `at_once` when left out.
        progress: called with (done, total) steps.

        Raises UsageError for n < 1, a condition the model does not know, or settings that contradict each other; Failure for
        samples that are no finite numbers.
        """
        parts = self.sample_in_batches(
            n,
            conditions,
            seed=seed,
            first=first,
            index=index,
            negative=negative,
            autoguidance=autoguidance,
            guides=guides,
            sampling=sampling,
            batch_size=batch_size,
            progress=progress,
            **overrides,
        )
        values, done = torch.empty(n, *self.config.codec.shape, dtype=self.config.codec.storage), 0
        for part in parts:
            values[done : done + len(part)] = part
            done += len(part)
        return values

    def table(
        self, values: Tensor | np.ndarray, conditions: Mapping[str, Sequence[object]] | None = None
    ) -> dict[str, list[object]]:
        """The rows that samples (n, columns, 1) of a table stand for: its columns by name, n cells each, for pandas.DataFrame or the like.

        Numbers are numbers, other cells as the table had them, None where one is empty.   conditions: n values of columns that the samples were
        conditioned on, by name.   Raises UsageError for a model of anything else.
        """
        file_format = self.config.file_format
        if file_format is None or file_format.table is None:
            raise UsageError("this model makes no tables: it was trained on other data.")
        rows = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
        return file_format.table.rows(rows, conditions)[0]

    def sample_in_batches(
        self,
        n: int,
        conditions: Mapping[str, object] | None = None,
        *,
        seed: int = 0,
        first: int = 0,
        index: Sequence[int] | None = None,
        negative: Mapping[str, object] | None = None,
        autoguidance: Model | None = None,
        guides: Sequence[Guide] = (),
        sampling: SamplingConfig | None = None,
        batch_size: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        **overrides: Unpack[SamplingOverrides],
    ) -> Iterator[Tensor]:
        """The samples of `sample`, (B, C, *size) a batch as they are made, so that no more than one need be in memory.

        Arguments and errors are those of `sample`; what cannot be used is refused before the first batch.
        """
        n, seed, first = whole(n, "the number of samples"), whole(seed, "a seed"), whole(first, "the first sample")
        if n < 1:
            raise UsageError(f"asked for {n} samples: ask for at least 1.")
        config, guidance = self._resolved(sampling, overrides), Guidance(negative, autoguidance, guides)
        validate(self, config, guidance, conditions or {})
        which = torch.arange(first, first + n) if index is None else torch.tensor([whole(k, "an index") for k in index])
        if len(which) != n:
            raise UsageError(f"{len(which)} indices were given for {n} samples: there should be one each.")
        conditions = self.with_lengths(conditions or {}, seed, which)
        request = encode_request(self, conditions, n, guidance, torch.device("cpu"))
        size = at_once(self.codec.shape) if batch_size is None else whole(batch_size, "a batch size")
        if size < 1:
            raise UsageError(f"batches of {size} hold nothing: take at least 1 example.")
        return self._batches(request, which, size, config, guidance, seed, progress)

    def _batches(
        self,
        request: Request,
        which: Tensor,
        size: int,
        config: SamplingConfig,
        guidance: Guidance,
        seed: int,
        progress: Callable[[int, int], None] | None,
    ) -> Iterator[Tensor]:
        levels, n = config.build_levels(self.schedule), len(which)
        count = Counter((len(levels) - 1) * -(-n // size), progress)
        for start in range(0, n, size):
            rows = slice(start, start + size)
            steps = self._steps(request.rows(rows).on(self.device), config, guidance, levels, seed, which[rows])
            values = self.codec.decode(final(count.counted(steps)))
            yield values if self.denoiser.conditions.known is None else self.marked(values, request.values[KNOWN][rows])

    def marked(self, values: Tensor, known: Tensor) -> Tensor:
        """Values (B, C, *size) with what says that there is nothing where they are not known, bool (B, C or 1, *size): NaN, 0 of whole numbers."""
        nothing = 0.0 if self.config.codec.kind == "integer" else math.nan
        return torch.where(known.to(values.device), values, nothing)

    def with_lengths(self, conditions: Mapping[str, object], seed: int, index: Tensor) -> Mapping[str, object]:
        """The conditions of samples of a seed by their index, with lengths as the training examples have them where none are given.

        The same conditions of a model whose examples are of one length.
        """
        known = self.denoiser.conditions.known
        if known is None or known.config.length is None or known.config.length in conditions:
            return conditions
        normal = standard_normal((1,), seed, index.cpu(), stream=NoiseStream.LENGTH)[:, 0].double()
        return {**conditions, known.config.length: known.drawn_lengths(torch.special.ndtr(normal))}

    def trajectory(
        self,
        n: int,
        conditions: Mapping[str, object] | None = None,
        *,
        seed: int = 0,
        first: int = 0,
        negative: Mapping[str, object] | None = None,
        autoguidance: Model | None = None,
        guides: Sequence[Guide] = (),
        sampling: SamplingConfig | None = None,
        **overrides: Unpack[SamplingOverrides],
    ) -> Iterator[SamplerStep]:
        """Every step of sampling n examples: x_t, x̂ and the next x, (n, C, *size) in the model's range. See `sample`."""
        config, guidance = self._resolved(sampling, overrides), Guidance(negative, autoguidance, guides)
        n, seed, first = whole(n, "the number of samples"), whole(seed, "a seed"), whole(first, "the first sample")
        index = torch.arange(first, first + n)
        validate(self, config, guidance, conditions or {})
        conditions = self.with_lengths(conditions or {}, seed, index)
        request, levels = encode_request(self, conditions, n, guidance), config.build_levels(self.schedule)
        return self._steps(request, config, guidance, levels, seed, index)

    def sampling_config(
        self, sampling: SamplingConfig | None = None, **overrides: Unpack[SamplingOverrides]
    ) -> SamplingConfig:
        """The settings that `sample` uses for these arguments: `sampling`, or the model's own, with single fields replaced.

        Another solver or grid brings what it needs itself, see `sampling.settings.completed`.
        Raises UsageError where they contradict each other or the model.
        """
        return self._resolved(sampling, overrides)

    def _resolved(self, sampling: SamplingConfig | None, overrides: Mapping[str, Any]) -> SamplingConfig:
        config = resolved(self.config.sampling, sampling, overrides, Model.sample)
        config.build_solver(self.schedule)
        config.build_levels(self.schedule)
        return config

    def _steps(
        self, request: Request, config: SamplingConfig, guidance: Guidance, levels: Level, seed: int, index: Tensor
    ) -> Iterator[SamplerStep]:
        index = index.to(self.device)
        x = initial(levels, self.codec.shape, seed, index)
        denoise, solver = build_sampler(self, request, config, guidance)
        return trajectory(
            x, denoise, levels, solver, seed=seed, index=index, noise=config.noise_sampler, s_noise=config.s_noise
        )

    def denoiser_fn(self, conditions: Mapping[str, object], n: int, sampling: SamplingConfig) -> DenoiserFn:
        """The denoiser that sampling n examples uses: conditioned, guided, clipped. Raises UsageError for momentum, which it cannot have."""
        return self.denoiser_fns(conditions, n, sampling)(slice(n))

    def denoiser_fns(
        self, conditions: Mapping[str, object], n: int, sampling: SamplingConfig
    ) -> Callable[[slice | Tensor], DenoiserFn]:
        """What gives the Denoise of any rows of n examples, a slice or int64 indices. Raises UsageError as `denoise` does."""
        if sampling.apg_momentum:
            raise UsageError(
                "momentum of guidance is a memory of sampling's steps, which this has none of: leave apg_momentum out."
            )
        validate(self, sampling, Guidance(), conditions)
        request = encode_request(self, conditions, n, Guidance(), torch.device("cpu"))
        return lambda rows: build_denoiser(self, request.rows(rows).on(self.device), sampling, Guidance())

    def with_schedule(self, schedule: ScheduleConfig) -> Model:
        """The same weights on another noise schedule, without any training: see process/predictions.py, eq. (2).

        Its way of sampling is kept where it works there.  Raises UsageError for a variance that belongs to the old one.
        """
        config, known = rescheduled(self.config, schedule), self.denoiser
        return Model(
            config,
            Denoiser(known.network, config.build_prediction(), known.conditions, known.variance),
            schedule.build(),
            self.latents,
        )

    # The file ---------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Writes the model file that `undiffuse.load` and the commands read, with the weights that it has now; returns its path.

        Of the two sets of weights that a run's file has, it holds the one of `config.weights`, so it is half as large.

        Raises UsageError for a path that is a folder, OSError for a full disk.
        """
        path = Path(path)
        if path.is_dir():
            raise UsageError(f"{path} is a folder: name a file in it, such as {path / 'model.safetensors'}.")
        known = self.denoiser
        own: dict[str, Mapping[str, Tensor]] = (
            {} if self.latents is None else {"latent": dict(self.latents.named_parameters())}
        )
        own |= {"buffer": found} if (found := known.buffers_to_store()) else {}
        own[self.config.weights] = {name: value.detach() for name, value in merged(known).items()}
        storage.write(path, "model", self.config.model_dump_json(), storage.named(**own))
        return path

    def __repr__(self) -> str:
        parameters = sum(p.numel() for p in self.denoiser.parameters())
        conditions = ", ".join(
            f"{name} ({config.kind})"
            for name, config in self.config.conditions.items()
            if name in self.denoiser.conditions.settable
        )
        by = "" if self.codec.space is None else f" by latents of {self.codec.shape}"
        return (
            f"Model({self.config.codec.shape}{by}, {f'conditioned on {conditions}' if conditions else 'unconditional'}, {self.config.prediction} on "
            f"{self.config.schedule.name}, {parameters:,} parameters, {self.config.weights} weights)"
        )
