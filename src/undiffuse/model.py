"""Model: a trained denoiser with everything needed to use it, and the one file it lives in.

The file is safetensors: tensors `raw.*` and `averaged.*`, and a JSON header with the format's version, the whole
ModelConfig, and a SHA-256 of the configuration and every tensor.  Nothing in it is ever executed or unpickled.  Loading
checks, in this order: that it is a safetensors file, that it is one of ours, its version, its configuration, the name
and shape of every tensor, and the hash.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from undiffuse.configuration import ModelConfig, SamplingConfig, changed, parsed
from undiffuse.data.codec import Codec
from undiffuse.denoiser import Denoiser
from undiffuse.files import write_atomically
from undiffuse.measures import Likelihood, Method, likelihood
from undiffuse.process.chains import Chain
from undiffuse.process.levels import Level
from undiffuse.process.posteriors import Denoise, Fixed, Posterior
from undiffuse.process.schedules import Schedule
from undiffuse.sampling.guidance import classifier_free, clipped, dynamically_thresholded, in_interval, plus, projected, rescaled
from undiffuse.sampling.trajectory import Moment, initial, trajectory

FORMAT_VERSION = 1
FILE_NAME = "model.safetensors"
CHUNK = 256


def default_device() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Model:
    """A denoiser on its schedule, with its codec. Made by `load` or by training."""

    def __init__(self, config: ModelConfig, denoiser: Denoiser, schedule: Schedule) -> None:
        self.config, self.denoiser, self.schedule = config, denoiser.eval(), schedule
        self.codec = Codec(config.codec)

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes it can be asked for; empty for an unconditional model."""
        return next((c.names for c in self.config.conditions.values() if c.kind == "class"), ())

    # Sampling ---------------------------------------------------------------------------------------------------------

    def sample(
        self, n: int, conditions: Mapping[str, object] | None = None, *, seed: int = 0, first: int = 0,
        progress: Callable[[int, int], None] | None = None, **sampling: Any,
    ) -> Tensor:  # fmt: skip
        """n new examples, float (n, C, *size) in the data's own range.

        conditions: {"class": "7"}, one value for all or a sequence of n; not mentioned means unconditional.
        seed, first: examples first … first + n - 1 of this seed; each is the same whatever else is drawn.
        sampling: any field of SamplingConfig (solver, grid, steps, eta, guidance, clip, …) to use instead of the
        model's own.   progress: called with (done, total) steps.

        Raises ValueError for n < 1, a condition the model does not know, or settings that contradict each other.
        """
        if n < 1:
            raise ValueError(f"asked for {n} samples: ask for at least 1.")
        values = self.denoiser.conditions.encode(conditions or {}, n)
        how = self.how(**sampling)
        levels = how.build_levels(self.schedule)
        parts, total, done = [], (len(levels) - 1) * -(-n // CHUNK), 0
        for start in range(0, n, CHUNK):
            part = {name: value[start : start + CHUNK] for name, value in values.items()}
            x = None
            for moment in self._walk(min(CHUNK, n - start), part, how, levels, seed, first + start):
                x, done = moment.x, done + 1
                if progress:
                    progress(done, total)
            assert x is not None  # a grid has at least one step
            parts.append(x)
        return self.codec.decode(torch.cat(parts))

    def trajectory(
        self, n: int, conditions: Mapping[str, object] | None = None, *, seed: int = 0, first: int = 0, **sampling: Any
    ) -> Iterator[Moment]:
        """Every step of sampling n examples: x_t, the belief x̂ and the next x, in the model's range. See `sample`."""
        how = self.how(**sampling)
        values = self.denoiser.conditions.encode(conditions or {}, n)
        return self._walk(n, values, how, how.build_levels(self.schedule), seed, first)

    def how(self, **sampling: Any) -> SamplingConfig:
        """The model's own way of sampling with some fields of SamplingConfig replaced.

        Raises ValueError where they contradict each other or the model.
        """
        how = changed(self.config.sampling, sampling)
        how.build_solver(self.schedule)
        how.build_levels(self.schedule)
        return how

    def _walk(
        self, n: int, values: dict[str, Tensor], how: SamplingConfig, levels: Level, seed: int, first: int
    ) -> Iterator[Moment]:
        device = self.device
        index = torch.arange(first, first + n, device=device)
        denoise = self.denoise({name: value.to(device) for name, value in values.items()}, how)
        x = initial(levels, self.config.codec.shape, seed, index)
        return trajectory(x, denoise, levels, how.build_solver(self.schedule), seed=seed, index=index, noise=how.noise)

    def denoise(self, values: dict[str, Tensor], how: SamplingConfig) -> Denoise:
        """The Denoise that sampling walks with: conditioned, guided, clipped."""
        if how.guidance == 1 and how.guidance_form != "plus":
            denoise = self.denoiser.given(values)
        elif not self.denoiser.conditions.askable:
            raise ValueError("this model is unconditional, so there is nothing to guide: leave guidance at 1.")
        elif how.guidance == 0 and how.guidance_interval is None:
            n = len(next(iter(values.values())))
            denoise = self.denoiser.given(self.denoiser.conditions.null(n, self.device))
        else:
            denoise = self._guided(values, how)
        low, high = self.codec.limits(self.device)
        if how.clip == "range":
            return clipped(denoise, low, high, keep_eps=how.keep_eps)
        if how.clip == "dynamic":
            return dynamically_thresholded(denoise, bound=float(high.max()), keep_eps=how.keep_eps)
        return denoise

    def _guided(self, values: dict[str, Tensor], how: SamplingConfig) -> Denoise:
        pair = self.denoiser.pair(values)
        if how.guidance_form == "projected":
            guided = projected(pair, how.guidance)
        elif how.guidance_form == "plus":
            guided = plus(pair, how.guidance)
        else:
            guided = rescaled(pair, how.guidance, how.guidance_rescale) if how.guidance_rescale else classifier_free(pair, how.guidance)
        return in_interval(guided, self.denoiser.given(values), *how.guidance_interval) if how.guidance_interval else guided

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
        chosen: Method = method or ("chain" if isinstance(self.schedule, Chain) else "continuous")
        if variance is not None and (chosen != "chain" or not 0 <= variance <= 1):
            raise ValueError(f"variance {variance:g} cannot be used: it is of the method chain's transitions, from 0 (small) to 1 (large).")
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
        return (
            f"Model({self.config.codec.shape}, {len(self.classes)} classes, {self.config.prediction} on "
            f"{self.config.schedule.name}, {parameters:,} parameters, {self.config.weights} weights)"
        )


def _with_variance(denoise: Denoise, fraction: float) -> Denoise:
    """The same belief with a variance fixed between the bridge's small (0) and large (1)."""
    return lambda x_t, level: Posterior(denoise(x_t, level).mean, Fixed(fraction))


def save_model(path: Path, config: ModelConfig, raw: dict[str, Tensor], averaged: dict[str, Tensor]) -> None:
    """Writes a model file atomically and reads it back. Raises OSError for a full disk or a file that reads back wrong."""
    sets = {"raw": raw, "averaged": averaged}
    tensors = {f"{kind}.{name}": tensor.detach().contiguous().cpu() for kind, set_ in sets.items() for name, tensor in set_.items()}
    text = config.model_dump_json()
    header = {"undiffuse": json.dumps({"format": FORMAT_VERSION, "sha256": _digest(text, tensors)}), "config": text}
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())

    def write(temporary: Path) -> None:
        save_file(tensors, temporary, header)
        read_file(temporary)

    write_atomically(path, write, size)


def store_sampling(path: Path, sampling: SamplingConfig) -> None:
    """Makes `sampling` the default of the model file at `path`, which is written anew; its weights stay as they are."""
    config, tensors = read_file(path)
    kinds = ({name.removeprefix(kind): t for name, t in tensors.items() if name.startswith(kind)} for kind in ("raw.", "averaged."))
    save_model(path, config.model_copy(update={"sampling": sampling}), *kinds)


def load(path: str | Path, device: torch.device | str | None = None, weights: str | None = None) -> Model:
    """The model in a run folder or a model file.

    weights: "averaged" or "raw"; the better one by default.
    Raises ValueError, one sentence saying what is wrong, for anything that is not an intact model file.
    """
    path = Path(path)
    path = path / FILE_NAME if path.is_dir() else path
    if not path.exists():
        raise ValueError(f"there is no model at {path}: give a run folder made by 'undiffuse train', or its {FILE_NAME}.")
    config, tensors = read_file(path)
    if weights is not None:
        config = changed(config, {"weights": weights})
    denoiser, schedule = config.build()
    _fill(denoiser, tensors, config.weights, path)
    return Model(config, denoiser.to(device or default_device()), schedule)


def _fill(denoiser: Denoiser, tensors: dict[str, Tensor], weights: str, path: Path) -> None:
    """Copies one set of weights, every name and shape exactly matched."""
    expected = dict(denoiser.named_parameters())
    for kind in ("raw", "averaged"):
        found = {name.removeprefix(f"{kind}."): tensor for name, tensor in tensors.items() if name.startswith(f"{kind}.")}
        for name in sorted(expected.keys() ^ found.keys()):
            what = "lacks" if name in expected else "has an unknown"
            raise ValueError(f"{path} {what} tensor {kind}.{name}: it does not belong to the model its header describes.")
        for name, parameter in expected.items():
            if found[name].shape != parameter.shape or found[name].dtype != parameter.dtype:
                raise ValueError(
                    f"{path}: tensor {kind}.{name} is {tuple(found[name].shape)} {found[name].dtype}, but the model its "
                    f"header describes needs {tuple(parameter.shape)} {parameter.dtype}."
                )
    with torch.no_grad():
        for name, parameter in expected.items():
            parameter.copy_(tensors[f"{weights}.{name}"])


def read_file(path: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The configuration and all tensors of a model file, every check of this page passed. Raises ValueError."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not an intact model file: {_kind(path, error)}.") from None
    if "undiffuse" not in metadata or "config" not in metadata:
        raise ValueError(f"{path} holds tensors in the safetensors format, but it is not an undiffuse model.")
    damaged = f"{path} was changed after it was written, or damaged: fetch it again"
    try:
        header = json.loads(metadata["undiffuse"])
        version, digest = int(header["format"]), str(header["sha256"])
        content = json.loads(metadata["config"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{damaged}.") from None
    if version > FORMAT_VERSION:
        raise ValueError(f"{path} has format {version}, and this version of undiffuse reads up to {FORMAT_VERSION}: upgrade undiffuse.")
    if digest != _digest(metadata["config"], tensors):
        raise ValueError(f"{damaged} (its SHA-256 does not match).")
    return parsed(ModelConfig, content, f"{path} has a header this version cannot use"), tensors


def _digest(config: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(config.encode())
    for name in sorted(tensors):
        digest.update(f"{name}{tensors[name].dtype}{tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _kind(path: Path, error: Exception) -> str:
    """What a file that is not safetensors looks like. It is looked at, never loaded."""
    with open(path, "rb") as file:
        start = file.read(8)
    if start[:2] == b"PK":
        return "it is a zip archive, such as PyTorch's .pt, under another name; pickles are never loaded"
    if start[:1] == b"\x80":
        return "it is a Python pickle under another name; pickles are never loaded"
    if len(start) < 8 or int.from_bytes(start, "little") > path.stat().st_size:
        return "it is truncated, or of another format"
    return f"it is truncated or damaged ({error})"
