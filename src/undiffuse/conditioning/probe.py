"""Is the network sensitive to its conditions?

A condition that never reaches the output is the commonest silent failure of conditional models.  So each is shuffled
among the examples of a batch, everything else the same, and the change of x̂ is measured.  Before training, when last
layers start at zero and hide everything, parameters that are all zero are lent small random values for the probe; so are
entries that a fine-tuning added, which start as nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

import torch
from torch import Tensor, nn

from undiffuse.conditioning.conditions import EncodedConditions
from undiffuse.errors import UsageError
from undiffuse.rng import GeneratorStream, generator

NONE: Mapping[str, Tensor] = MappingProxyType({})
LENT = 0.1  # deviation of the values lent to zero parameters


def shuffled(value: Tensor) -> Tensor | None:
    """The rows moved round by the step, of up to 16, that changes most of them; None where none does."""
    flat = value.flatten(1) if value.ndim > 1 else value[:, None]
    changed = [(int((flat != flat.roll(step, 0)).any(1).sum()), -step) for step in range(1, min(len(flat), 17))]
    most, step = max(changed, default=(0, 0))
    return value.roll(-step, 0) if most else None


def effect(answer: Callable[[EncodedConditions], Tensor], values: EncodedConditions, name: str) -> float | None:
    """Root mean square change of an answer (B, …) when the condition `name` is shuffled; None where all values are the same."""
    other = shuffled(values[name])
    if other is None:
        return None
    return (answer(values | {name: other}) - answer(values)).cpu().double().square().mean().sqrt().item()


@contextmanager
def perturb_zero_parameters(module: nn.Module, fresh: Mapping[str, Tensor] = NONE) -> Iterator[None]:
    """The module with small random values in the parameters that are all zero, inside a `with`; as it was afterwards.

    fresh: for parameters by name, which of their entries are lent values too.
    """
    draws = generator(GeneratorStream.LENT)
    before: list[tuple[Tensor, Tensor]] = []
    try:
        with torch.no_grad():
            for name, p in module.named_parameters():
                lent = (
                    fresh[name].to(p.device)
                    if name in fresh and p.any()
                    else torch.tensor(not p.any(), device=p.device)
                )
                if lent.any():
                    before.append((p, p.clone()))
                    p.copy_(torch.where(lent, (LENT * torch.randn(p.shape, generator=draws)).to(p), p))
        yield
    finally:
        with torch.no_grad():
            for parameter, value in before:
                parameter.copy_(value)


def require_sensitivity(
    module: nn.Module,
    answer: Callable[[EncodedConditions], Tensor],
    values: EncodedConditions,
    fresh: Mapping[str, Tensor] = NONE,
) -> None:
    """Raises UsageError for a condition that does not reach the answer of a module at all.   fresh: see `zeros_lent`."""
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad(), perturb_zero_parameters(module, fresh):
            deaf = [name for name in values if effect(answer, values, name) == 0]
    finally:
        module.train(was_training)
    if deaf:
        raise UsageError(
            f"the network ignores {', '.join(deaf)}: its output is exactly the same whatever the value, so training "
            "would learn nothing of it; give the network a way to it."
        )
