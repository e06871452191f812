"""Inverse problems with a trained model: fill in, upscale, colour, deblur.  No retraining.

Each task is a measurement of an example, y = A x + noise (process/operators.py), and inverse_methods.py draws x given y.

Integers are only known to half a step, which is noise of the standard deviation 1/sqrt(12) of a step.  What a mask leaves
is known exactly, and is returned as it was given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Unpack

import numpy as np
import torch
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.models.editing import Progress, StepCallback
from undiffuse.models.guidance import Guidance
from undiffuse.models.inverse_methods import InverseMethod, InverseMethodName, Solution, method_config, solve
from undiffuse.models.model import Model
from undiffuse.process.operators import REC_601, Blur, Downsample, Grey, Mask, hidden_places
from undiffuse.sampling.classifier_guidance import Guide
from undiffuse.sampling.inverse_problems import Measurement
from undiffuse.sampling.overrides import SamplingOverrides
from undiffuse.sampling.settings import SamplingConfig

ROUNDING = 1 / math.sqrt(12)


def inpaint(
    model: Model,
    values: np.ndarray | Tensor,
    hidden: np.ndarray | Tensor | None = None,
    n: int = 1,
    *,
    method: InverseMethod | InverseMethodName | None = None,
    conditions: Mapping[str, object] | None = None,
    negative: Mapping[str, object] | None = None,
    autoguidance: Model | None = None,
    guides: Sequence[Guide] = (),
    sampling: SamplingConfig | None = None,
    seed: int = 0,
    watch: StepCallback | None = None,
    progress: Progress | None = None,
    **overrides: Unpack[SamplingOverrides],
) -> Solution:
    """Fills in what is hidden, n times for each example; everything else comes back as it was given.

    values: (inputs, C, *size) in the data's own range; what stands at hidden places does not matter.   hidden: True where to
    fill in, of the shape (*size), (1 or C, *size) or (inputs, 1 or C, *size); where values are NaN when left out.
    method: an InverseMethod, or its name.   conditions: as for Model.sample, one value for all or one for each example.
    negative, autoguidance, guides, sampling, overrides: as for Model.sample; dps and repaint have a solver and steps of their own.
    watch: called with every step, see StepCallback.   progress: called with (done, total) steps.

    Raises UsageError for a mask of another size, one that hides everything or nothing, or values that are not finite elsewhere.
    """
    chosen, guidance = InverseMethod.of(method), Guidance(negative, autoguidance, guides)
    config = method_config(model, chosen, sampling, overrides, inpaint)
    given, shape = _carried(model, values), model.config.codec.shape
    if given.shape[1:] != shape:
        raise UsageError(f"the model takes examples of shape {shape}, but these have {tuple(given.shape[1:])}.")
    where = hidden_places(given.isnan() if hidden is None else hidden, shape, len(given)).expand_as(given)
    offset = torch.tensor(model.config.codec.offset, dtype=given.dtype).reshape(-1, *[1] * (given.ndim - 2))
    x = _encoded(model, torch.where(where, offset, given))
    operator = Mask(~where.to(model.device))
    found = solve(
        model,
        Measurement(operator, operator(x)),
        n,
        chosen,
        config,
        conditions=conditions,
        guidance=guidance,
        seed=seed,
        watch=watch,
        progress=progress,
    )
    pasted = torch.where(where[:, None], found.values, given[:, None])
    if (known := model.denoiser.conditions.known) is not None:  # what no training example knew is not filled in
        pasted = model.marked(pasted, known.config.ever() | ~where[:, None])
    return Solution(pasted, torch.where(where, offset, given), found.misfit)


def upscale(
    model: Model,
    values: np.ndarray | Tensor,
    factor: int = 2,
    n: int = 1,
    *,
    noise: float | None = None,
    method: InverseMethod | InverseMethodName | None = None,
    conditions: Mapping[str, object] | None = None,
    negative: Mapping[str, object] | None = None,
    autoguidance: Model | None = None,
    guides: Sequence[Guide] = (),
    sampling: SamplingConfig | None = None,
    seed: int = 0,
    watch: StepCallback | None = None,
    progress: Progress | None = None,
    **overrides: Unpack[SamplingOverrides],
) -> Solution:
    """Examples of the model's size whose blocks of factor numbers along each axis have the averages `values`.

    values: (inputs, C, *size / factor) in the data's own range.   noise: of theirs, in the same; that of rounding when left out.
    Raises UsageError for a factor that does not divide the model's size, or values of another shape.   See `inpaint`.
    """
    chosen, guidance = InverseMethod.of(method), Guidance(negative, autoguidance, guides)
    config = method_config(model, chosen, sampling, overrides, upscale)
    operator, small = Downsample(factor), _carried(model, values)
    expected = operator.shape_of(model.config.codec.shape)
    if small.shape[1:] != expected:
        raise UsageError(
            f"with the factor {factor} this model takes examples of shape {expected}, but these have {tuple(small.shape[1:])}."
        )
    y = operator(_encoded(model, operator.picture(small)))
    return solve(
        model,
        Measurement(operator, y, _noise(model, noise)),
        n,
        chosen,
        config,
        conditions=conditions,
        guidance=guidance,
        seed=seed,
        watch=watch,
        progress=progress,
    )


def colorize(
    model: Model,
    values: np.ndarray | Tensor,
    n: int = 1,
    *,
    weights: tuple[float, ...] | None = None,
    noise: float | None = None,
    method: InverseMethod | InverseMethodName | None = None,
    conditions: Mapping[str, object] | None = None,
    negative: Mapping[str, object] | None = None,
    autoguidance: Model | None = None,
    guides: Sequence[Guide] = (),
    sampling: SamplingConfig | None = None,
    seed: int = 0,
    watch: StepCallback | None = None,
    progress: Progress | None = None,
    **overrides: Unpack[SamplingOverrides],
) -> Solution:
    """Colours for grey examples.

    values: grey, (inputs, 1, *size), or in colour, from which grey is made.   weights: of the channels, summing to 1; how bright
    red, green and blue look when left out, and of other numbers of channels the mean.
    Raises UsageError for a model of one channel, or weights that do not fit.   See `inpaint` and `upscale`.
    """
    chosen, guidance = InverseMethod.of(method), Guidance(negative, autoguidance, guides)
    config = method_config(model, chosen, sampling, overrides, colorize)
    shape, given = model.config.codec.shape, _carried(model, values)
    weights = weights or (REC_601 if shape[0] == 3 else (1 / shape[0],) * shape[0])
    grey = Grey(weights)
    one = grey.shape_of(shape)
    if not math.isclose(sum(weights), 1, abs_tol=1e-6):
        raise UsageError(
            f"the weights of the channels sum up to {sum(weights):g}: they should sum up to 1, so that white stays white."
        )
    if given.shape[1:] not in (shape, one):
        raise UsageError(
            f"colouring takes grey examples of shape {one} (or of {shape}), but these have {tuple(given.shape[1:])}."
        )
    observed = given if given.shape[1:] == one else grey(given)
    # In the model's range each channel has a unit of its own: sum w v = sum (w scale) x + sum w offset.
    units = tuple(w * scale for w, scale in zip(weights, model.config.codec.scale, strict=True))
    operator = Grey(tuple(unit / sum(units) for unit in units))
    y = operator(_encoded(model, grey.picture(observed), limited=False))
    measured = Measurement(operator, y, _noise(model, noise, sum(units)))
    found = solve(
        model,
        measured,
        n,
        chosen,
        config,
        conditions=conditions,
        guidance=guidance,
        seed=seed,
        watch=watch,
        progress=progress,
    )
    return Solution(found.values, grey.picture(observed).contiguous(), found.misfit)


def deblur(
    model: Model,
    values: np.ndarray | Tensor,
    radius: float = 1.0,
    n: int = 1,
    *,
    noise: float | None = None,
    method: InverseMethod | InverseMethodName | None = None,
    conditions: Mapping[str, object] | None = None,
    negative: Mapping[str, object] | None = None,
    autoguidance: Model | None = None,
    guides: Sequence[Guide] = (),
    sampling: SamplingConfig | None = None,
    seed: int = 0,
    watch: StepCallback | None = None,
    progress: Progress | None = None,
    **overrides: Unpack[SamplingOverrides],
) -> Solution:
    """Sharp examples that, blurred by a Gaussian of the standard deviation `radius`, in steps of the grid, are `values`.

    values: (inputs, C, *size) in the data's own range.   Raises UsageError for a radius that is none.   See `upscale`.
    """
    chosen, guidance = InverseMethod.of(method), Guidance(negative, autoguidance, guides)
    config = method_config(model, chosen, sampling, overrides, deblur)
    operator = Blur(radius)
    operator.shape_of(model.config.codec.shape)
    y = _encoded(model, _carried(model, values))
    return solve(
        model,
        Measurement(operator, y, _noise(model, noise)),
        n,
        chosen,
        config,
        conditions=conditions,
        guidance=guidance,
        seed=seed,
        watch=watch,
        progress=progress,
    )


def _carried(model: Model, values: np.ndarray | Tensor) -> Tensor:
    return model.config.codec.carried(values).cpu()


def _encoded(model: Model, values: Tensor, limited: bool = True) -> Tensor:
    if model.codec.space is not None:
        raise UsageError(
            "this model knows an autoencoder's latents, and observations are of the data: take one trained without `latent`."
        )
    if model.codec.config.columns is not None:
        raise UsageError(
            "observations are numbers on one scale, and rows of a table have categories and ranks: declare what is known as conditions."
        )
    if not values.isfinite().all():
        raise UsageError(
            f"{int((~values.isfinite()).sum())} of the values are NaN or infinite: remove them, or hide them from inpaint."
        )
    return model.codec.encode(values, limited).to(model.device)


def _noise(model: Model, noise: float | None, unit: float | None = None) -> float:
    """A standard deviation in the data's own units, in the model's.   unit: how many of these are one of the model's."""
    if noise is not None and not 0 <= noise < math.inf:
        raise UsageError(
            f"noise of {noise:g} is none: give its standard deviation in the units of the data, 0 or more."
        )
    if noise is not None and unit is None and len(set(model.config.codec.scale)) > 1:
        raise UsageError("the channels of this data have units of their own, so no one noise fits them: leave it out.")
    if noise is None:
        noise = ROUNDING if model.config.codec.kind == "integer" else 0.0
    return noise / (unit or model.config.codec.scale[0])
