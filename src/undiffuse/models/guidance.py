"""Guidance: all that can pull samples besides the settings a model keeps, and the DenoiserFn and Solver they make together.

x̂ ── classifier-free guidance, against absent conditions, negative ones, or a weaker model ── an observation of x ── clipping
   ── gradients, clipping ──> x̂
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from undiffuse.conditioning.base import Note
from undiffuse.conditioning.conditions import EncodedConditions
from undiffuse.conditioning.known import KNOWN
from undiffuse.data.codec import Codec
from undiffuse.errors import UsageError
from undiffuse.models.config import ModelConfig
from undiffuse.models.denoiser import Denoiser
from undiffuse.process.posteriors import DenoiserFn
from undiffuse.process.schedules import Schedule
from undiffuse.sampling.classifier_guidance import Guide, MeanGuided, by_score
from undiffuse.sampling.guidance import (
    Pair,
    clipped,
    composed,
    dynamically_thresholded,
    in_interval,
    separate_pair,
)
from undiffuse.sampling.momentum import Remembering, WithMomentum
from undiffuse.sampling.settings import SamplingConfig
from undiffuse.sampling.solvers.ancestral import Ancestral
from undiffuse.sampling.solvers.base import Solver


class GuidedModel(Protocol):
    """What of a model is needed here."""

    config: ModelConfig
    denoiser: Denoiser
    schedule: Schedule
    codec: Codec

    @property
    def device(self) -> torch.device:
        """The device of the model."""


@dataclass(frozen=True)
class Guidance:
    """negative: conditions to be guided away from, in place of absent ones.   autoguidance: a weaker model to be guided away from.

    guides: gradients, see sampling/classifier_guidance.py.   Raises UsageError for values of another kind.
    """

    negative: Mapping[str, object] | None = None
    autoguidance: GuidedModel | None = None
    guides: Sequence[Guide] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.negative, Mapping | None):
            raise UsageError(f"negative is given by name, such as {{'class': 'cat'}}, and not as {self.negative!r}.")
        if self.autoguidance is not None and not hasattr(self.autoguidance, "denoiser"):
            raise UsageError(
                f"autoguidance is a weaker model, such as undiffuse.load('runs/early'), and not {self.autoguidance!r}."
            )
        if not isinstance(self.guides, Sequence) or not all(isinstance(guide, Guide) for guide in self.guides):
            raise UsageError(f"guides is a list, such as [classifier.guide('cat', n)], and not {self.guides!r}.")


@dataclass(frozen=True)
class Request:
    """The encoded conditions of n examples, and those of the negative condition or the weaker model.   index: of each, 0 … n - 1."""

    values: EncodedConditions
    negative: EncodedConditions | None
    autoguidance: EncodedConditions | None
    index: Tensor

    def rows(self, part: slice | Tensor) -> Request:
        """The part of the request that belongs to some of the examples."""

        def of(values: EncodedConditions | None) -> EncodedConditions | None:
            return None if values is None else {name: value[part] for name, value in values.items()}

        return Request(of(self.values) or {}, of(self.negative), of(self.autoguidance), self.index[part])

    def on(self, device: torch.device) -> Request:
        """The same on a device."""

        def placed(values: EncodedConditions | None) -> EncodedConditions | None:
            return None if values is None else {name: value.to(device) for name, value in values.items()}

        return Request(
            placed(self.values) or {}, placed(self.negative), placed(self.autoguidance), self.index.to(device)
        )


def validate(
    model: GuidedModel, sampling: SamplingConfig, guidance: Guidance, requested: Mapping[str, object] | None = None
) -> None:
    """Raises UsageError for guidance that contradicts itself, the settings or the model; notes guidance by absent conditions.

    requested: the conditions of the samples, where they are known.
    """
    conditions = model.denoiser.conditions
    scales = sampling.guidance_scales or {}
    for name in scales:
        if name not in conditions.droppable:
            known = (
                f"it can guide by {', '.join(conditions.droppable)}"
                if conditions.droppable
                else "it has none that may be absent"
            )
            raise UsageError(f"this model cannot be guided by {name!r}: {known}.")
    guided = not sampling.unguided or bool(scales)
    if guidance.negative and guidance.autoguidance is not None:
        raise UsageError(
            "a negative condition and a weaker model are both what to be guided away from: give one of them."
        )
    if (guidance.negative or guidance.autoguidance is not None) and not guided:
        raise UsageError(
            "guidance 1 keeps away from nothing: give a guidance above 1 with a negative condition or a weaker model."
        )
    if guidance.negative and scales:
        raise UsageError(
            "scales for each condition start from absent conditions, so a negative one has no place: leave one out."
        )
    if guidance.autoguidance is not None:
        if scales:
            raise UsageError(
                "a weaker model has the same conditions as this one, so there is one scale for all: leave the scales out."
            )
        _refuse_other(model, guidance.autoguidance, "the weaker model")
    elif guided and not conditions.settable:
        raise UsageError("this model is unconditional, so there is nothing to guide: leave guidance at 1.")
    elif guided and not conditions.droppable:
        raise UsageError(
            "this model was trained without ever dropping its conditions (drop = 0), so it cannot be guided by them: use guidance 1."
        )
    if any(guide.form == "mean" for guide in guidance.guides) and not isinstance(
        sampling.build_solver(model.schedule), Ancestral
    ):
        raise UsageError(
            f"guidance in the form 'mean' moves the mean of ancestral steps, and {sampling.solver!r} takes none: use ddpm, or 'score'."
        )
    if (
        isinstance(requested, Mapping) and not guidance.negative and guidance.autoguidance is None
    ):  # anything else is refused where it is encoded
        _note_absent(sampling, [name for name in conditions.droppable if requested.get(name) is not None])


def _note_absent(sampling: SamplingConfig, present: Sequence[str]) -> None:
    """Notes that guidance changes nothing where the conditions it guides by are absent.   present: those that are given and can be dropped."""
    scales = sampling.guidance_scales or {}
    absent = [name for name, scale in scales.items() if name not in present and scale != 1]
    if absent:
        warnings.warn(f"the condition {absent[0]!r} is absent, so guiding by it changes nothing", Note, stacklevel=1)
    elif not scales and not present and sampling.guidance not in (0, 1):
        warnings.warn("no condition that guidance goes by is given, so guidance changes nothing", Note, stacklevel=1)


def _refuse_other(model: GuidedModel, other: GuidedModel, what: str) -> None:
    """Raises UsageError for a model whose x_t is not this one's."""
    if other.config.codec != model.config.codec:
        raise UsageError(
            f"{what} was trained on other data, or data scaled otherwise ({other.config.codec.shape}): it cannot guide this one."
        )
    if other.config.schedule != model.config.schedule:
        raise UsageError(
            f"{what} was trained on the noise schedule {other.config.schedule.name!r}, this one on {model.config.schedule.name!r}: "
            "train both on the same."
        )


def build_denoiser(
    model: GuidedModel,
    request: Request,
    sampling: SamplingConfig,
    guidance: Guidance,
    conditioned: Callable[[DenoiserFn], DenoiserFn] = lambda denoise: denoise,
) -> DenoiserFn:
    """The denoiser that sampling uses.   conditioned: conditions it on a measurement of x, see sampling/inverse_problems.py.

    That comes before clipping, since a clipped x̂ has no derivative where it was clipped.   With momentum of guidance it is a
    `Remembering`, which remembers in the steps of a `WithMomentum`.
    """
    by_gradient = [guide for guide in guidance.guides if guide.form == "score"]

    def guided_by_all(denoiser: DenoiserFn) -> DenoiserFn:
        guided = _limited(model, conditioned(denoiser), sampling)
        return _limited(model, by_score(guided, by_gradient, request.index), sampling) if by_gradient else guided

    guided = _guided(model, request, sampling, guidance)
    if isinstance(guided, Remembering):
        return Remembering(lambda running: guided_by_all(guided.build(running)), guided.share)
    return guided_by_all(guided)


def build_sampler(
    model: GuidedModel, request: Request, sampling: SamplingConfig, guidance: Guidance
) -> tuple[DenoiserFn, Solver]:
    """The denoiser and the solver that sampling uses."""
    solver = sampling.build_solver(model.schedule)
    by_mean = tuple(guide for guide in guidance.guides if guide.form == "mean")
    if by_mean:
        assert isinstance(solver, Ancestral)  # `check` saw to it
        solver = MeanGuided(solver, by_mean, request.index)
    denoiser = build_denoiser(model, request, sampling, guidance)
    return denoiser, WithMomentum(solver) if isinstance(denoiser, Remembering) else solver


def _guided(model: GuidedModel, request: Request, sampling: SamplingConfig, guidance: Guidance) -> DenoiserFn:
    denoiser, values = model.denoiser, request.values
    scales = sampling.guidance_scales or {}
    if scales and len({sampling.guidance, *scales.values()}) == 1:
        scales, sampling = {}, sampling.model_copy(update={"guidance": next(iter(scales.values()))})
    if sampling.unguided and not scales:
        return denoiser.bind(values)
    if scales:
        guided = _nested(model, values, sampling.guidance, scales)
    elif sampling.guidance == 0 and sampling.guidance_interval is None and guidance.autoguidance is None:
        return denoiser.bind(request.negative or denoiser.conditions.without(values))
    else:
        guided = sampling.build_guidance()(_pair(model, request, guidance))
    if sampling.guidance_interval is None:
        return guided
    plain, low, high = denoiser.bind(values), *sampling.guidance_interval
    if isinstance(guided, Remembering):
        return Remembering(lambda running: in_interval(guided.build(running), plain, low, high), guided.share)
    return in_interval(guided, plain, low, high)


def _pair(model: GuidedModel, request: Request, guidance: Guidance) -> Pair:
    if guidance.autoguidance is not None:
        return separate_pair(
            model.denoiser.bind(request.values), guidance.autoguidance.denoiser.bind(request.autoguidance or {})
        )
    return model.denoiser.batched(
        [request.values, request.negative or model.denoiser.conditions.without(request.values)]
    )


def _nested(model: GuidedModel, values: EncodedConditions, rest: float, scales: Mapping[str, float]) -> DenoiserFn:
    """Conditions with scales of their own, one after another in the order of the scales; the others first, with `rest`.

    Conditions of one scale are added together, which saves an evaluation.
    """
    conditions = model.denoiser.conditions
    of: dict[float, list[str]] = {}
    for name in [*(name for name in conditions.droppable if name not in scales), *scales]:
        of.setdefault(scales.get(name, rest), []).append(name)
    absent, sets = set(conditions.droppable), [conditions.without(values)]
    for names in of.values():
        absent -= set(names)
        sets.append(conditions.without(values, absent))
    return composed(model.denoiser.batched(sets), list(of))


def _limited(model: GuidedModel, denoise: DenoiserFn, sampling: SamplingConfig) -> DenoiserFn:
    low, high = model.codec.limits(model.device)
    keep_eps = (
        sampling.epsilon_from == "unclipped" and sampling.solver != "ddpm"
    )  # which has no eps in diffusers either: its steps are made of x̂ and x_t
    if sampling.clip == "range":
        return clipped(denoise, low, high, keep_eps=keep_eps)
    if sampling.clip == "dynamic":
        bound = float(high.max())
        most = math.inf if sampling.threshold_max is None else sampling.threshold_max * bound
        return dynamically_thresholded(denoise, sampling.threshold_quantile, bound, most, keep_eps=keep_eps)
    return denoise


def encode_request(
    model: GuidedModel, conditions: Mapping[str, object], n: int, guidance: Guidance, device: torch.device | None = None
) -> Request:
    """The request of n examples, on a device, the model's when None. Raises UsageError, see Conditions.encode."""
    values, weaker = model.denoiser.conditions.encode(conditions, n), None
    negative = model.denoiser.conditions.encode(guidance.negative, n) if guidance.negative else None
    if guidance.autoguidance is not None:
        known = guidance.autoguidance.denoiser.conditions
        weaker = known.encode({name: value for name, value in conditions.items() if name in known.settable}, n)
    for others in (negative, weaker):  # which end where these do
        if others is not None and KNOWN in values and KNOWN in others:
            others[KNOWN] = values[KNOWN]
    return Request(values, negative, weaker, torch.arange(n)).on(device or model.device)
