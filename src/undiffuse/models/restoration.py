"""Tasks that a model was trained for: from an observation of an example to examples that may have been there.

A model of tasks (degradations.py) receives an observation and samples what the example may have been: one evaluation of the
network a step, no gradient.  The observation comes from a user (`observe`), or is made from a whole example to measure how well it
comes back (`degrade`).  A second stage is the same with a first model's samples as observations (`upscale_samples`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Unpack

import numpy as np
import torch
from torch import Tensor

from undiffuse.conditioning.degradations import Degradation, observation_channels
from undiffuse.data.codec import CodecConfig
from undiffuse.errors import UsageError
from undiffuse.models.inverse_problems import inpaint
from undiffuse.models.model import Model
from undiffuse.process.operators import Grey, Mask, Operator, hidden_places
from undiffuse.process.philox import standard_normal
from undiffuse.rng import GeneratorStream, NoiseStream, generator, seed_of
from undiffuse.sampling.classifier_guidance import Guide
from undiffuse.sampling.overrides import SamplingOverrides
from undiffuse.sampling.settings import SamplingConfig

AUGMENTATION = 0.1


@dataclass(frozen=True)
class Observation:
    """What is known of examples after a degradation.

    channels: what the network receives, (inputs, C + 2, *size).   tasks: of each.   values: the picture of y, in the data's own range,
    (inputs, C, *size).   known: of inpainting, which numbers are known, (inputs, C, *size).   kept: and their values.
    """

    channels: Tensor
    tasks: tuple[str, ...]
    values: Tensor
    known: Tensor | None = None
    kept: Tensor | None = None

    @property
    def hidden(self) -> Tensor:
        """Where nothing is known, bool (inputs, C, *size)."""
        return (self.channels[:, -2:-1] == 0).expand_as(self.values)


@dataclass(frozen=True)
class Restored:
    """values: (inputs, n, C, *size), in the data's own range.   observation: what they were made from."""

    values: Tensor
    observation: Observation


def degradation_of(model: Model, task: str | None) -> tuple[str, Degradation]:
    """The task and its corruption; the model's only one where None. Raises UsageError for one it was not trained for."""
    tasks = model.config.degradations
    if not tasks:
        raise UsageError(
            "this model was not trained for tasks: 'undiffuse inpaint', 'upscale', 'colorize', 'deblur' and 'denoise' take any model, and "
            "training with a `degradation`, such as inpaint,denoise, makes one for them."
        )
    if task is None and len(tasks) == 1:
        task = next(iter(tasks))
    if task not in tasks:
        raise UsageError(
            f"{'there are several tasks, so choose one' if task is None else f'this model was not trained for the task {task!r}'}: "
            f"it can do {', '.join(tasks)}."
        )
    return task, tasks[task]


def degrade(model: Model, values: np.ndarray | Tensor, task: str | None = None, *, seed: int = 0) -> Observation:
    """The observation that the task makes of whole examples (inputs, C, *size), in the data's own range, drawn as in training."""
    name, corruption = degradation_of(model, task)
    x = model.codec.encode(values)
    each = [corruption.observe(x[k : k + 1], generator(GeneratorStream.SIMULATED, seed, k)) for k in range(len(x))]
    both = torch.cat(each)
    known = both[:, -2:-1].bool().expand_as(x) if corruption.kind == "inpaint" else None  # type: ignore[attr-defined]
    kept = model.codec.decode(x) if known is not None else None
    return Observation(both, (name,) * len(x), _picture(model, both), known, kept)


def degrade_each(
    model: Model, values: np.ndarray | Tensor, tasks: Sequence[str | None], *, seed: int = 0
) -> Observation:
    """The observations that each of the tasks makes of whole examples (inputs, C, *size), task after task; see `degrade`."""
    return concatenate([degrade(model, values, task, seed=seed) for task in tasks])


def observation_codec(model: Model, task: str | None = None) -> CodecConfig:
    """The codec of what a task leaves of an example, for reading observations: of its size and channels."""
    codec, (_, degradation) = model.config.codec, degradation_of(model, task)
    operator = degradation.operator(codec.shape, 1, generator(GeneratorStream.DISCARDED))
    shape = operator.shape_of(codec.shape)
    per_channel = {name: getattr(codec, name)[: shape[0]] for name in ("offset", "scale", "low", "high")}
    mode = codec.mode if shape[0] == codec.shape[0] else None
    return codec.model_copy(update={"shape": shape, "mode": mode, **per_channel})


def noise_in_range(model: Model, task: str, noise: float) -> float:
    """A standard deviation in the data's own units, in the model's range. Raises UsageError for one that the task was not trained for."""
    codec, (low, high) = model.config.codec, degradation_of(model, task)[1].noise
    if len(set(codec.scale)) > 1:
        raise UsageError("the channels of this data have units of their own, so no one noise fits them: leave it out.")
    unit = codec.scale[0]
    if not low * unit <= noise <= high * unit:
        raise UsageError(
            f"{task!r} was trained for noise of {low * unit:g} to {high * unit:g} in the unit of the images, not of {noise:g}."
        )
    return noise / unit


def psnr(model: Model, values: Tensor, others: Tensor) -> Tensor:
    """Peak signal to noise of examples (n, C, *size) in the data's own range, in dB, (n,): of their widest channel's range."""
    codec = model.config.codec
    peak = max(high - low for high, low in zip(codec.high, codec.low, strict=True))
    return -10 * ((values - others) / peak).flatten(1).square().mean(1).log10()


def observe(
    model: Model,
    values: np.ndarray | Tensor,
    task: str | None = None,
    *,
    hidden: np.ndarray | Tensor | None = None,
    noise: float | None = None,
    added: Tensor | None = None,
) -> Observation:
    """Observations of a user, in the data's own range: of the size that the task leaves, (inputs, C, *size / factor) of upscaling.

    hidden: of inpainting, True where to fill in, (*size), (1, *size) or (inputs, 1, *size).   noise: how noisy the values are, as
    a standard deviation in the model's range; the least that the task was trained for when left out.
    added: standard normal, to add as that noise first where the values have none: noise conditioning augmentation.
    Raises UsageError for values, a mask or noise that the task does not take.
    """
    name, corruption = degradation_of(model, task)
    low, high = corruption.noise
    s = low if noise is None else noise
    if not low <= s <= high:
        raise UsageError(f"the task {name!r} was trained for noise of {low:g} to {high:g}, not of {s:g}.")
    shape, observed = model.config.codec.shape, model.config.codec.carried(values)
    operator: Operator
    if corruption.kind == "inpaint":  # type: ignore[attr-defined]
        if hidden is None:
            raise UsageError("inpainting needs to know what is hidden: give a mask.")
        operator = Mask(~hidden_places(hidden, shape, len(observed), channels=False))
    elif hidden is not None:
        raise UsageError(f"a mask belongs to inpainting, not to the task {name!r}: leave it out.")
    else:
        operator = corruption.operator(shape, len(observed), generator(GeneratorStream.DISCARDED))
    expected = operator.shape_of(shape)
    if tuple(observed.shape[1:]) != tuple(expected):
        raise UsageError(
            f"the task {name!r} takes examples of shape {tuple(expected)}, but these have {tuple(observed.shape[1:])}."
        )
    if isinstance(operator, Grey) and len(set(model.config.codec.scale)) > 1:
        raise UsageError(
            "the channels of this data have units of their own, so one grey stands for none of them: colour with 'undiffuse colorize'."
        )
    if isinstance(operator, Mask):
        observed = torch.where(operator.known, observed, model.codec.offset)
    if not observed.isfinite().all():
        raise UsageError(
            f"{int((~observed.isfinite()).sum())} of the values are NaN or infinite: remove them, or hide them from inpainting."
        )
    y = operator(model.codec.encode(operator.picture(observed), limited=False))
    y = y if added is None else y + s * added
    both = observation_channels(operator, y, torch.full((len(y),), float(s)))
    known = (
        operator.known.expand(len(y), *shape) if isinstance(operator, Mask) and corruption.kind == "inpaint" else None  # type: ignore[attr-defined]
    )
    return Observation(both, (name,) * len(y), _picture(model, both), known, observed if known is not None else None)


def concatenate(parts: Sequence[Observation]) -> Observation:
    """Examples of several tasks in one; what is known of some is pasted into these alone."""
    shape = parts[0].values.shape[1:]
    values, both = (torch.cat([getattr(part, name) for part in parts]) for name in ("values", "channels"))
    tasks = tuple(task for part in parts for task in part.tasks)
    if all(part.known is None for part in parts):
        return Observation(both, tasks, values)
    known = [
        torch.zeros(len(part.values), *shape, dtype=torch.bool) if part.known is None else part.known for part in parts
    ]
    kept = [part.values if part.kept is None else part.kept for part in parts]
    return Observation(both, tasks, values, torch.cat(known), torch.cat(kept))


def observe_holes(model: Model, values: np.ndarray | Tensor) -> Observation:
    """Examples with holes (inputs, C, *size), in the data's own range, NaN where a number is missing.

    Raises UsageError for examples of another shape, or without a hole.
    """
    given, shape = model.config.codec.carried(values).cpu(), model.config.codec.shape
    if given.shape[1:] != shape:
        raise UsageError(f"the model takes examples of shape {shape}, but these have {tuple(given.shape[1:])}.")
    known = ~given.isnan()
    if known.all():
        raise UsageError("nothing is missing in these examples: put NaN where numbers are to be filled in.")
    x = model.codec.encode(given, limited=False, known=known)
    everywhere = known.all(1, keepdim=True).to(x)
    both = torch.cat([x, everywhere, torch.zeros_like(everywhere)], 1)
    return Observation(both, ("inpaint",) * len(x), _picture(model, both), known, given)


def restore(
    model: Model,
    observation: Observation | np.ndarray | Tensor,
    n: int = 1,
    *,
    conditions: Mapping[str, object] | None = None,
    negative: Mapping[str, object] | None = None,
    autoguidance: Model | None = None,
    guides: Sequence[Guide] = (),
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    sampling: SamplingConfig | None = None,
    **overrides: Unpack[SamplingOverrides],
) -> Restored:
    """n examples for each observation, (inputs, n, C, *size); numbers that inpainting keeps come back as they were given.

    observation: what a degradation left, for a model that was trained for it; or examples (inputs, C, *size) with NaN where numbers are
    missing, which any model fills in (`inpaint`): so a model that was trained on examples with holes completes them.
    conditions: one value for all, or one for each observation.   The other arguments are those of Model.sample.
    Raises UsageError for n < 1, and as Model.sample.
    """
    if n < 1:
        raise UsageError(f"asked for {n} examples of each: ask for at least 1.")
    if not isinstance(observation, Observation):
        if model.config.degradations:
            raise UsageError(
                f"this model was trained to restore {', '.join(model.config.degradations)}: make its observation by undiffuse.observe first."
            )
        observed = observe_holes(model, observation)
        assert observed.kept is not None
        filled = inpaint(
            model, observed.kept, None, n, conditions=conditions, negative=negative, autoguidance=autoguidance,
            guides=guides, seed=seed, progress=progress, sampling=sampling, **overrides,
        )  # fmt: skip
        return Restored(filled.values, observed)
    inputs = len(observation.channels)
    each = model.denoiser.conditions.for_each(conditions or {}, inputs)
    given: dict[str, object] = {name: [value for value in values for _ in range(n)] for name, values in each.items()}
    given["observation"] = observation.channels.repeat_interleave(n, 0).cpu()
    if len(model.config.degradations) > 1:
        given["task"] = [task for task in observation.tasks for _ in range(n)]
    values = model.sample(
        inputs * n,
        given,
        seed=seed,
        negative=negative,
        autoguidance=autoguidance,
        guides=guides,
        progress=progress,
        sampling=sampling,
        **overrides,
    )
    values = values.reshape(inputs, n, *values.shape[1:])
    if observation.known is not None and observation.kept is not None:
        values = torch.where(observation.known[:, None], observation.kept[:, None], values)
    return Restored(values, observation)


def check_stages(first: Model, second: Model, noise: float | None = None) -> tuple[str, float]:
    """The task of a second stage and the noise it is shown a first one's samples with, `AUGMENTATION` where it may be when None.

    Raises UsageError for a second stage that upscales nothing, or examples of another shape or range.
    """
    name, task = _upscaling(second)
    expected = task.operator(second.config.codec.shape, 1, generator(GeneratorStream.DISCARDED)).shape_of(
        second.config.codec.shape
    )
    if first.config.codec.shape != expected:
        raise UsageError(
            f"the second stage makes examples of {expected} larger, and the first one's are {first.config.codec.shape}."
        )
    if (first.config.codec.low, first.config.codec.high) != (second.config.codec.low, second.config.codec.high):
        raise UsageError("the two stages were trained on values of different ranges: train both on the same data.")
    low, high = task.noise
    noise = min(max(AUGMENTATION, low), high) if noise is None else noise
    if not low <= noise <= high:
        raise UsageError(
            f"the second stage was trained for noise of {low:g} to {high:g}, not of {noise:g}: choose `augmentation` between them."
        )
    return name, noise


def upscale_samples(
    model: Model,
    small: Tensor,
    *,
    augmentation: float = 0.0,
    conditions: Mapping[str, object] | None = None,
    seed: int = 0,
    index: Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
    sampling: SamplingConfig | None = None,
    **overrides: Unpack[SamplingOverrides],
) -> Tensor:
    """Samples (n, C, *size / factor) of a first stage, made larger by a second; noise is added to them, and its size is an input.

    seed: the first stage's; every later one draws from a stream of its own, chosen by its size.   index: of each sample's noise in
    the seed, 0 … n - 1 when left out.   Raises UsageError for samples of another shape.
    """
    name, _ = _upscaling(model)
    own = seed_of(GeneratorStream.LATER_STAGE, seed, math.prod(model.config.codec.shape))
    which = torch.arange(len(small)) if index is None else torch.as_tensor(index, dtype=torch.int64)
    added = standard_normal(tuple(small.shape[1:]), own, which, stream=NoiseStream.NOISE_CONDITIONING)
    observation = observe(model, small, name, noise=augmentation, added=added)
    given = (
        dict(conditions or {})
        | {"observation": observation.channels}
        | ({"task": [name] * len(small)} if len(model.config.degradations) > 1 else {})
    )
    return model.sample(
        len(small), given, seed=own, index=which.tolist(), progress=progress, sampling=sampling, **overrides
    )


def _upscaling(model: Model) -> tuple[str, Degradation]:
    found = [(name, task) for name, task in model.config.degradations.items() if task.kind == "upscale"]
    if not found:
        raise UsageError("the second stage was not trained to upscale: train one with `upscale_factor`.")
    return found[0]


def _picture(model: Model, both: Tensor) -> Tensor:
    return model.codec.decode(both[:, :-2])
