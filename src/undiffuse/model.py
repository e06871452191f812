"""Model: a trained denoiser with everything needed to use it, and the one file it lives in.

The file (artefact.py) holds tensors `raw.*` and `averaged.*`, those of an autoencoder `latent.*` where x is its latents, and
in its header the whole ModelConfig.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from undiffuse import adapters as stored_adapters
from undiffuse import artefact
from undiffuse.carrying import carry
from undiffuse.conditioning.texts import TextCondition
from undiffuse.configuration import ModelConfig, changed, parsed, rescheduled
from undiffuse.data.codec import Codec
from undiffuse.denoiser import Denoiser
from undiffuse.devices import usable_device
from undiffuse.errors import UsageError, whole
from undiffuse.files import FolderLock
from undiffuse.latents import Latents
from undiffuse.measures import Likelihood, Method, likelihood
from undiffuse.process.chains import Chain
from undiffuse.process.levels import Level
from undiffuse.process.posteriors import Denoise, Fixed, Posterior
from undiffuse.process.schedules import Schedule
from undiffuse.sampling.guidance import clipped
from undiffuse.sampling.settings import SamplingConfig, completed
from undiffuse.sampling.trajectory import Counter, Moment, final, initial, trajectory
from undiffuse.scheduling import ScheduleConfig
from undiffuse.steering import Asked, Steering, check, denoise, encoded, walking

FILE_NAME = "model.safetensors"
AT_ONCE, NUMBERS = 256, 2**20  # examples, and their numbers, that go through the network together


def at_once(shape: Sequence[int], most: int = AT_ONCE, numbers: int = NUMBERS) -> int:
    """How many examples of this shape to work on together: at most so many, and fewer where they hold more numbers than this."""
    return max(1, min(most, numbers // math.prod(shape)))


class Model:
    """A denoiser on its schedule, with its codec, and the latents it works on if any. Made by `load` or by training."""

    def __init__(self, config: ModelConfig, denoiser: Denoiser, schedule: Schedule, latents: Latents | None = None) -> None:
        self.config, self.denoiser, self.schedule = config, denoiser.eval(), schedule
        self.codec, self.latents = Codec(config.codec, latents), latents

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes it can be asked for; empty for an unconditional model."""
        return next((c.names for c in self.config.conditions.values() if c.kind == "class" and not c.retired), ())

    # Sampling ---------------------------------------------------------------------------------------------------------

    def sample(
        self, n: int, conditions: Mapping[str, object] | None = None, *, seed: int = 0, first: int = 0, index: Sequence[int] | None = None,
        steering: Steering | None = None, batch_size: int | None = None, progress: Callable[[int, int], None] | None = None, **sampling: Any,
    ) -> Tensor:  # fmt: skip
        """n new examples, float (n, C, *size) in the data's own range.

        conditions: {"class": "7", "age": 30}, one value for all or a list of n; not mentioned means not said.
        seed, first: examples first … first + n - 1 of this seed; each is the same whatever else is drawn.   index: any n of
        them instead, such as the same one n times.   steering: negative conditions, a weaker model, gradients.
        batch_size: examples that go through the network together, `at_once` when left out.
        sampling: any field of SamplingConfig (solver, grid, steps, eta, guidance, clip, …) to use instead of the
        model's own.   progress: called with (done, total) steps.

        Raises UsageError for n < 1, a condition the model does not know, or settings that contradict each other; Failure for
        samples that are no finite numbers.
        """
        parts = self.sample_in_batches(
            n, conditions, seed=seed, first=first, index=index, steering=steering, batch_size=batch_size, progress=progress, **sampling
        )
        values, done = torch.empty(n, *self.config.codec.shape, dtype=self.config.codec.storage), 0
        for part in parts:
            values[done : done + len(part)] = part
            done += len(part)
        return values

    def sample_in_batches(
        self, n: int, conditions: Mapping[str, object] | None = None, *, seed: int = 0, first: int = 0, index: Sequence[int] | None = None,
        steering: Steering | None = None, batch_size: int | None = None, progress: Callable[[int, int], None] | None = None, **sampling: Any,
    ) -> Iterator[Tensor]:  # fmt: skip
        """The samples of `sample`, batch after batch as they are made, so that no more than one need be in memory."""
        n, seed, first = whole(n, "the number of samples"), whole(seed, "a seed"), whole(first, "the first sample")
        if n < 1:
            raise UsageError(f"asked for {n} samples: ask for at least 1.")
        how, steering = self.how(**sampling), steering or Steering()
        check(self, how, steering, conditions or {})
        asked = encoded(self, conditions or {}, n, steering, torch.device("cpu"))
        which = torch.arange(first, first + n) if index is None else torch.tensor([whole(k, "an index") for k in index])
        if len(which) != n:
            raise UsageError(f"{len(which)} indices were given for {n} samples: there should be one each.")
        size = at_once(self.codec.shape) if batch_size is None else whole(batch_size, "a batch size")
        if size < 1:
            raise UsageError(f"batches of {size} hold nothing: take at least 1 example.")
        return self._batches(asked, which, size, how, steering, seed, progress)

    def _batches(
        self, asked: Asked, which: Tensor, size: int, how: SamplingConfig, steering: Steering, seed: int,
        progress: Callable[[int, int], None] | None,
    ) -> Iterator[Tensor]:  # fmt: skip
        levels, n = how.build_levels(self.schedule), len(which)
        count = Counter((len(levels) - 1) * -(-n // size), progress)
        for start in range(0, n, size):
            rows = slice(start, start + size)
            moments = self._walk(asked.rows(rows).on(self.device), how, steering, levels, seed, which[rows])
            yield self.codec.decode(final(count.counted(moments)))

    def trajectory(
        self, n: int, conditions: Mapping[str, object] | None = None, *, seed: int = 0, first: int = 0, steering: Steering | None = None,
        **sampling: Any,
    ) -> Iterator[Moment]:  # fmt: skip
        """Every step of sampling n examples: x_t, the belief x̂ and the next x, in the model's range. See `sample`."""
        how, steering = self.how(**sampling), steering or Steering()
        n, seed, first = whole(n, "the number of samples"), whole(seed, "a seed"), whole(first, "the first sample")
        check(self, how, steering, conditions or {})
        asked = encoded(self, conditions or {}, n, steering)
        return self._walk(asked, how, steering, how.build_levels(self.schedule), seed, torch.arange(first, first + n))

    def how(self, **sampling: Any) -> SamplingConfig:
        """The model's own way of sampling with some fields of SamplingConfig replaced, see `sampling.settings.completed`.

        Raises UsageError where they contradict each other or the model.
        """
        how = changed(self.config.sampling, completed(self.config.sampling, sampling))
        how.build_solver(self.schedule)
        how.build_levels(self.schedule)
        return how

    def _walk(self, asked: Asked, how: SamplingConfig, steering: Steering, levels: Level, seed: int, index: Tensor) -> Iterator[Moment]:
        index = index.to(self.device)
        x = initial(levels, self.codec.shape, seed, index)
        walked, solver = walking(self, asked, how, steering)
        return trajectory(x, walked, levels, solver, seed=seed, index=index, noise=how.noise, s_noise=how.s_noise)

    def denoise(self, conditions: Mapping[str, object], n: int, how: SamplingConfig) -> Denoise:
        """The Denoise that sampling n examples walks with: conditioned, guided, clipped. Raises UsageError for momentum, which it cannot have."""
        return self.denoisers(conditions, n, how)(slice(n))

    def denoisers(self, conditions: Mapping[str, object], n: int, how: SamplingConfig) -> Callable[[slice | Tensor], Denoise]:
        """What gives the Denoise of any rows of n examples, a slice or int64 indices. Raises UsageError as `denoise` does."""
        if how.guidance_momentum:
            raise UsageError("momentum of guidance is a memory of sampling's steps, which this has none of: leave guidance_momentum out.")
        check(self, how, Steering(), conditions)
        asked = encoded(self, conditions, n, Steering(), torch.device("cpu"))
        return lambda rows: denoise(self, asked.rows(rows).on(self.device), how, Steering())

    def on(self, schedule: ScheduleConfig) -> Model:
        """The same weights on another noise schedule, without any training: see process/predictions.py, eq. (2).

        Its way of sampling is kept where it works there.  Raises UsageError for a variance that belongs to the old one.
        """
        config, known = rescheduled(self.config, schedule), self.denoiser
        return Model(config, Denoiser(known.network, config.build_prediction(), known.conditions, known.variance), schedule.build(), self.latents)

    # Measuring --------------------------------------------------------------------------------------------------------

    def likelihood(
        self, values: np.ndarray | Tensor, conditions: Mapping[str, object] | None = None, *, method: Method | None = None,
        draws: int = 1, seed: int = 0, decoder: Literal["tanh", "exact"] | None = None, steps: int | None = None,
        variance: float | None = None, exact_divergence: bool = False, progress: Callable[[float, float], None] | None = None,
    ) -> Likelihood:  # fmt: skip
        """-log p of examples (N, C, *size) in the data's own range, given their conditions and without guidance.

        method: "chain", "flow" or "continuous"; by default the first of chain and continuous that the schedule allows.
        variance: of the chain's transitions, 0 small to 1 large, instead of the model's own.
        x̂ of quantised data is clipped to its range in the two bounds, as in the published codes; never in the flow.
        The other arguments, and the errors, are those of `measures.likelihood`.
        """
        if self.codec.space is not None:
            raise UsageError("the likelihood of an autoencoder's latents says nothing of the data's: for that, train a model without --latent.")
        chosen: Method = method or ("chain" if isinstance(self.schedule, Chain) else "continuous")
        if variance is not None and (chosen != "chain" or not 0 <= variance <= 1):
            raise UsageError(f"variance {variance:g} cannot be used: it is of the method chain's transitions, from 0 (small) to 1 (large).")
        known = self.denoiser.conditions.encode(conditions or {}, len(values))
        low, high = self.codec.limits(self.device)

        def given(rows: slice) -> Denoise:
            denoise = self.denoiser.given({name: value[rows].to(self.device) for name, value in known.items()})
            if variance is not None:
                denoise = _with_variance(denoise, variance)
            return clipped(denoise, low, high) if self.codec.config.bins and chosen != "flow" else denoise

        return likelihood(
            given, self.schedule, self.codec, values, method=chosen, draws=draws, seed=seed, decoder=decoder, steps=steps,
            exact_divergence=exact_divergence, device=self.device, progress=progress,
        )  # fmt: skip

    # The file ---------------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        parameters = sum(p.numel() for p in self.denoiser.parameters())
        told = ", ".join(f"{name} ({config.kind})" for name, config in self.config.conditions.items() if name in self.denoiser.conditions.askable)
        by = "" if self.codec.space is None else f" by latents of {self.codec.shape}"
        return (
            f"Model({self.config.codec.shape}{by}, {f'told {told}' if told else 'unconditional'}, {self.config.prediction} on "
            f"{self.config.schedule.name}, {parameters:,} parameters, {self.config.weights} weights)"
        )


def _with_variance(denoise: Denoise, fraction: float) -> Denoise:
    """The same belief with a variance fixed between the bridge's small (0) and large (1)."""
    return lambda x_t, level: Posterior(denoise(x_t, level).mean, Fixed(fraction))


def save_model(path: Path, config: ModelConfig, raw: Mapping[str, Tensor], averaged: Mapping[str, Tensor], latents: Latents | None = None) -> None:
    """Writes a model file atomically and reads it back. Raises OSError for a full disk or a file that reads back wrong."""
    own = {} if latents is None else {"latent": dict(latents.named_parameters())}
    artefact.write(path, "model", config.model_dump_json(), artefact.named(raw=raw, averaged=averaged, **own))


def store_sampling(path: Path, sampling: SamplingConfig) -> None:
    """Makes `sampling` the default of the model file at `path`, which is written anew; its weights stay as they are.

    Raises Failure where the run is being trained.
    """
    with FolderLock(path.parent):  # a run that is being trained would write over it
        config, tensors = read_file(path)
        artefact.write(path, "model", config.model_copy(update={"sampling": sampling}).model_dump_json(), tensors)


def weights_digest(model: Model) -> str:
    """SHA-256 of the weights that sample."""
    return artefact.digest_of("", {name: p.detach().cpu() for name, p in model.denoiser.named_parameters()})


def load(
    path: str | Path, device: torch.device | str | None = None, weights: str | None = None, encoder: str | None = None, download: bool = False,
    adapters: str | Path | None = None,
) -> Model:  # fmt: skip
    """The model in a run folder or a model file.

    weights: "averaged" or "raw"; the better one by default.   encoder: where its text encoder lies now, if it has one.
    download: whether that may be fetched.   adapters: a folder of low-rank adapters to tune it by, a run's adapters/ or peft's.
    Its parameters are frozen; to train them, `model.denoiser.requires_grad_()`.
    Raises UsageError, one sentence saying what is wrong, for anything that is not an intact model file.
    """
    path, device = file_of(path), usable_device(device)
    header = artefact.read_header(path, "model")
    config = _config_of(header)
    if weights is not None:
        config = changed(config, {"weights": weights})
    denoiser, schedule = config.build()
    latents = None if config.latent is None else Latents.build(config.latent)
    of_latents = () if latents is None else ((latents, "latent", ("latent",)),)
    artefact.fill(header, (denoiser, config.weights, artefact.SETS), *of_latents)
    model = Model(config, denoiser, schedule, latents)
    if adapters is not None:
        model = _adapted(model, Path(adapters))
    for _, module in model.denoiser.conditions.items():
        if isinstance(module, TextCondition):
            module.source, module.download = encoder, download
    for part in (model.denoiser, latents):
        if part is not None:  # gradients of x̂ are taken by x_t alone, and keep nothing that only weights would need
            part.to(device).requires_grad_(False)
    return model


def _adapted(model: Model, folder: Path) -> Model:
    """A model tuned by the adapters in a folder. Raises UsageError for those of another model."""
    rest = stored_adapters.read_rest(folder)
    if rest is not None:
        header, tensors = rest
        if header.start.sha256 != weights_digest(model):
            raise UsageError(f"the adapters in {folder} tune the weights of {header.start.name}, which are not these: give the model they are of.")
        denoiser, schedule = header.model.build()
        carry(model.denoiser, denoiser, header.model.shape, model.config.build_clock())
        parameters = dict(denoiser.named_parameters())
        with torch.no_grad():
            for name, tensor in tensors.items():
                parameters[name].copy_(tensor)
        latents = model.latents.of_shape(header.model.codec.shape) if model.latents else None
        model = Model(header.model, denoiser, schedule, latents)
    stored_adapters.add(model.denoiser.network, folder)
    return model


def file_of(path: str | Path) -> Path:
    """The model file that a run folder holds, or the path itself. Raises UsageError where there is none."""
    path = Path(path)
    path = path / FILE_NAME if path.is_dir() else path
    if not path.exists():
        raise UsageError(f"there is no model at {path}: give a run folder made by 'undiffuse train', or its {FILE_NAME}.")
    return path


def stored_config(folder: Path) -> ModelConfig | None:
    """What the model file of a run folder says of itself, None where there is none that says anything. Its weights are not looked at."""
    content = artefact.config_of(folder / FILE_NAME)
    try:
        return None if content is None else parsed(ModelConfig, content, "")
    except UsageError:
        return None


def read_file(path: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The configuration and all tensors of a model file. Raises UsageError."""
    header = artefact.read_header(path, "model")
    return _config_of(header), dict(artefact.tensors_in(header))


def _config_of(header: artefact.Header) -> ModelConfig:
    return parsed(ModelConfig, header.content, f"{header.path} has a header this version cannot use")
