"""From the weights of a trained denoiser to those of one with more conditions: old ones work as before, new ones have no effect yet.

    parts that both have                     copied
    a vocabulary, a longer text              copied row by row; a new name starts as the null token
    channels beside the input                the first layer's weights on the new ones are zero
    a new condition into the layers          its last layer is zero
    a new condition that is attended to      attention to tokens is new, and its last layer starts at zero as it always does

So without new conditions the new denoiser returns what the old one does: `transfer_weights` checks it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from undiffuse.conditioning.base import ConditionModule, ParameterMap
from undiffuse.errors import UsageError
from undiffuse.models.denoiser import Denoiser
from undiffuse.networks.matching import match_parameters
from undiffuse.process.levels import Level
from undiffuse.process.schedules import Schedule
from undiffuse.rng import GeneratorStream, generator

TOLERANCE = 1e-3  # of the largest x̂; float rounding is far below
CHECKED = 2  # examples


@torch.no_grad()
def transfer_weights(
    old: Denoiser, new: Denoiser, shape: tuple[int, ...], trained_schedule: Schedule
) -> dict[str, Tensor]:
    """Copies weights; returns for each parameter which of its entries are new.

    shape: (C, *size) of x, clock: the schedule that the clock of both is of, to check the two against each other.   The conditions
    of the old denoiser come first in the new one.   Raises UsageError where the weights do not fit.
    """
    places = {
        f"conditions.{new.conditions.path(name)}.{parameter}": where
        for name, module in new.conditions.items()
        if name in old.conditions.names
        for parameter, where in module.parameter_map(old.conditions[name]).items()
    }
    for name, module in new.conditions.items():
        if name not in old.conditions.names:
            module.zero_init_output()
    known, parameters = dict(old.named_parameters()), dict(new.named_parameters())
    fresh = {name: torch.ones(p.shape, dtype=torch.bool) for name, p in parameters.items()}
    for of_new, of_old in match_parameters(old, new):
        value, parameter = known[of_old], parameters[of_new]
        where = places.get(of_new)
        if where is None and of_new.startswith("network."):
            where = _input_channels(value, parameter)
        if where is not None:
            fresh[of_new] = _place(value, parameter, where)
        elif value.shape == parameter.shape:
            parameter.copy_(value)
            fresh[of_new] = torch.zeros(parameter.shape, dtype=torch.bool)
        else:
            raise UsageError(
                f"the weights {of_old} {tuple(value.shape)} of the model to start from do not fit data or conditions that need "
                f"{tuple(parameter.shape)}: keep the size that it was trained on, or train a new model."
            )
    _check(
        old,
        new,
        shape,
        trained_schedule(trained_schedule.nearest(trained_schedule.time(torch.tensor(0.5, dtype=torch.float64)))),
    )
    return fresh


def _input_channels(old: Tensor, new: Tensor) -> ParameterMap | None:
    """Of a layer with more channels than before, the new ones last."""
    same = old.ndim == new.ndim >= 2 and old.shape[:1] + old.shape[2:] == new.shape[:1] + new.shape[2:]
    more = new.shape[1] - old.shape[1] if same else 0
    return ParameterMap(1, (*range(old.shape[1]), *[None] * more)) if more > 0 else None


def _place(old: Tensor, new: Tensor, where: ParameterMap) -> Tensor:
    """Writes old entries to their places in new; returns which entries are new."""
    start = torch.zeros_like(old.select(where.axis, 0))
    if where.starts:
        start = old.index_select(where.axis, torch.tensor(where.starts)).mean(where.axis)
    fresh = torch.zeros(new.shape, dtype=torch.bool)
    for place, source in enumerate(where.of):
        new.select(where.axis, place).copy_(start if source is None else old.select(where.axis, source))
        fresh.select(where.axis, place).fill_(source is None)
    return fresh


def _check(old: Denoiser, new: Denoiser, shape: tuple[int, ...], level: Level) -> None:
    """Raises UsageError for a new denoiser that returns something else without new conditions."""
    x = torch.randn(CHECKED, *shape, generator=generator(GeneratorStream.CARRIED))
    always = [name for name, module in old.conditions.items() if not module.config.droppable]
    before = old.eval()(
        x, level, {name: _absent_value(module, name in always) for name, module in old.conditions.items()}
    ).mean
    always += [name for name, module in new.conditions.items() if not module.config.droppable]
    after = new.eval()(
        x, level, {name: _absent_value(module, name in always) for name, module in new.conditions.items()}
    ).mean
    if (after - before).abs().max() > TOLERANCE * before.abs().max():
        raise UsageError(
            "what is new to this network changes what it knew, so its weights are no start: set `inject` to embedding for what is new."
        )


def _absent_value(module: ConditionModule, always: bool) -> Tensor:
    """The null tokens; of what must always be present, the first value that there is."""
    return (
        torch.zeros_like(module.null_tokens(CHECKED, torch.device("cpu")))
        if always
        else module.encode([None] * CHECKED)
    )
