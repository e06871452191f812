"""Augmentation for small data: a menu of changes to training examples, each off unless it is chosen.

Every example comes with numbers that say what was done to it, which the model receives (conditioning/augmentation.py) and which are all 0
where nothing was: so its samples show nothing of it (Karras et al. 2022, appendix F.2).  The change is a function of these numbers, so that
they cannot say anything else.  One entry of the menu is not told, and the samples do show it: `mirror`, random flips of the data itself, as
DDPM and ADM train with (Ho et al. 2020, appendix B).

    drawn      for each entry that is chosen, in the menu's order: its numbers, then which of the examples get it
    applied    flips, turns, shifts; then one resampling for scale, rotation, stretch and translation; then colour (transforms.py)

The first entry draws as it did when it was the only one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field, model_validator
from torch import Tensor

from undiffuse.config import Config
from undiffuse.data.transforms import Geometry, Recolouring, planar
from undiffuse.errors import UsageError, nearest

USUAL_PROBABILITY = 0.12
"""Of every chosen entry where none is said: that of EDM's models of CIFAR-10 (Karras et al. 2022, Table 6)."""


class AugmentConfig(Config):
    """Augmentation against copying of small data."""

    probability: float = Field(
        0.0, ge=0, le=1, description="Probability, 0 to 1, that a training example gets each of the chosen changes."
    )
    shift: int = Field(1, ge=0, description="Largest shift along each axis, in pixels; 0 for none.")
    flip: bool = Field(False, description="Flip left and right: reverse the last axis.")
    flip_vertical: bool = Field(False, description="Flip up and down: reverse the last axis but one.")
    turn: bool = Field(False, description="Turn by one, two or three right angles; of squares.")
    rotate: float = Field(0.0, ge=0, le=180, description="Largest rotation either way, in degrees; 0 for none.")
    scale: float = Field(
        0.0, ge=0, le=2, description="Standard deviation of the logarithm (base 2) of the scale; 0 for none."
    )
    stretch: float = Field(
        0.0,
        ge=0,
        le=2,
        description="The same of a stretch along a random direction, and squeeze across it; 0 for none.",
    )
    translate: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Standard deviation of a shift, as a share of each side, between pixels too; 0 for none.",
    )
    brightness: float = Field(
        0.0, ge=0, le=2, description="Standard deviation of what is added, where black to white is 2; 0 for none."
    )
    contrast: float = Field(
        0.0,
        ge=0,
        le=2,
        description="Standard deviation of the logarithm (base 2) of a factor of all values; 0 for none.",
    )
    hue: float = Field(
        0.0, ge=0, le=1, description="Largest rotation of colours about grey, in half turns; 0 for none."
    )
    saturation: float = Field(
        0.0,
        ge=0,
        le=2,
        description="Standard deviation of the logarithm (base 2) of a factor of colourfulness; 0 for none.",
    )
    probabilities: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(
        default_factory=dict, description="Probabilities of single changes by name, in place of the common one."
    )
    mirror: bool = Field(
        False,
        description="Flip half of the examples left and right without telling the model: samples are mirrored too.",
    )

    @model_validator(mode="after")
    def _nothing_ignored(self) -> AugmentConfig:
        unknown = [name for name in self.probabilities if name not in MENU]
        if unknown:
            raise UsageError(f"there is no augmentation {unknown[0]!r}{nearest(unknown[0], MENU)}.")
        idle = [name for name in MENU if name != "shift" and getattr(self, name) and not self.probability_of(name)]
        idle += [name for name in self.probabilities if not getattr(self, name)]
        if idle:
            fix = f"give augment.probability, such as {USUAL_PROBABILITY}, and augment.{idle[0]}, or neither"
            raise UsageError(f"the augmentation {idle[0]!r} is asked for and would never happen: {fix}.")
        if self.probability and not self.chosen:
            raise UsageError(
                "augment.probability is above 0, and nothing is chosen that could happen: choose, such as augment.flip."
            )
        return self

    def probability_of(self, name: str) -> float:
        """Of one entry of the menu."""
        return self.probabilities.get(name, self.probability)

    @property
    def chosen(self) -> tuple[str, ...]:
        """The entries of the menu that happen and are told, in its order."""
        return tuple(name for name in MENU if getattr(self, name) and self.probability_of(name))

    @property
    def moves(self) -> bool:
        """Whether examples are moved, and what belongs to their places with them; new colours move nothing."""
        return self.mirror or any(name not in COLOUR for name in self.chosen)

    def numbers(self, axes: int) -> int:
        """How many numbers say what was done to an example of so many axes; 0 where nothing is told."""
        return sum(MENU[name].numbers(axes) for name in self.chosen)

    def check(self, shape: Sequence[int], colours: int, *, latents: bool = False) -> None:
        """Raises UsageError for what makes no sense of examples (C, *size).

        colours: how many of the channels are no alpha.   latents: whether what is trained on is an autoencoder's latents of them.
        """
        size = tuple(shape[1:])
        for name in (*self.chosen, *(["mirror"] if self.mirror else [])):
            entry = MENU.get(name, MENU["flip"])
            if name != "shift" and latents:
                why = "latents of a changed example are not its changed latents"
            elif name != "shift" and max(size) == 1:
                why = "the rows of a table have no places"
            elif len(size) < entry.least_axes:
                why = f"it is of {entry.least_axes} axes, and the examples have {len(size)}"
            elif name == "turn" and size[-1] != size[-2]:
                why = f"the examples are {'×'.join(map(str, size))}, no squares"
            elif entry.of_colour and colours != 3:
                why = f"it is of three colours, and the examples have {colours}"
            else:
                continue
            raise UsageError(f"the augmentation {name!r} does not fit the data, since {why}: leave it out.")


@dataclass(frozen=True)
class MenuEntry:
    """An entry of the menu.

    usual: its amount where it is chosen by name alone.   numbers: how many say what was done, by the number of axes.
    draw: (amount, n, axes, generator) → these numbers (n, numbers), 0 for nothing.   act: puts what they say into a Geometry and a Recolouring.
    least_axes: of examples that it makes sense of.   of_colour: whether it needs three colours.
    """

    usual: float
    numbers: Callable[[int], int]
    draw: Callable[[float, int, int, torch.Generator], Tensor]
    act: Callable[[Tensor, float, Geometry, Recolouring], None]
    least_axes: int = 1
    of_colour: bool = False


def _count(n: int) -> Callable[[int], int]:
    return lambda axes: n


def _normal(numbers: Callable[[int], int]) -> Callable[[float, int, int, torch.Generator], Tensor]:
    return lambda amount, n, axes, generator: torch.randn(n, numbers(axes), generator=generator)


def _half(amount: float, n: int, axes: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, (n, 1), generator=generator).float()


def _angle(half_turns: float, n: int, generator: torch.Generator) -> Tensor:
    """The cosine less 1, and the sine, of an angle up to so many half turns either way."""
    angle = (torch.rand(n, generator=generator) * 2 - 1) * half_turns * math.pi
    return torch.stack([angle.cos() - 1, angle.sin()], 1)


def _draw_shift(amount: float, n: int, axes: int, generator: torch.Generator) -> Tensor:
    most = int(amount)
    return torch.randint(-most, most + 1, (n, axes), generator=generator) / most


def _shift(told: Tensor, amount: float, move: Geometry, colour: Recolouring) -> None:
    move.shifts = (told * amount).round().long()


def _flip(axis: int) -> Callable[[Tensor, float, Geometry, Recolouring], None]:
    def act(told: Tensor, amount: float, move: Geometry, colour: Recolouring) -> None:
        move.flips[:, axis] ^= told[:, 0] > 0

    return act


def _draw_turn(amount: float, n: int, axes: int, generator: torch.Generator) -> Tensor:
    """As two numbers, so that one and three turns lie as near as one and two: 1 0, 1 1 and 0 1."""
    turns = torch.randint(0, 4, (n,), generator=generator)
    return torch.stack([(turns == 1) | (turns == 2), (turns == 2) | (turns == 3)], 1).float()


def _turn(told: Tensor, amount: float, move: Geometry, colour: Recolouring) -> None:
    first, second = (told > 0).unbind(1)
    move.turns = torch.where(first, torch.where(second, 2, 1), torch.where(second, 3, 0))


def _scale(told: Tensor, amount: float, move: Geometry, colour: Recolouring) -> None:
    move.after(2 ** -(told[:, 0].double() * amount)[:, None, None] * torch.eye(len(move.size), dtype=torch.float64))


def _rotate(told: Tensor, amount: float, move: Geometry, colour: Recolouring) -> None:
    move.after(planar(1 + told[:, 0], told[:, 1], len(move.size)))


def _draw_stretch(amount: float, n: int, axes: int, generator: torch.Generator) -> Tensor:
    angle = (torch.rand(n, generator=generator) * 2 - 1) * math.pi
    return torch.randn(n, 1, generator=generator) * torch.stack([angle.cos(), angle.sin()], 1)


def _stretch(told: Tensor, amount: float, move: Geometry, colour: Recolouring) -> None:
    """2^w along a direction and 2^-w across it: told are w cos and w sin of its angle, and w > 0, since (-w, -r) is (w, r)."""
    w, axes = told.double().norm(dim=1), len(move.size)
    cos, sin = (torch.where(w > 0, part / w.clamp(min=1e-30), 1 - k) for k, part in enumerate(told.double().unbind(1)))
    squeeze = torch.eye(axes, dtype=torch.float64).repeat(len(w), 1, 1)
    squeeze[:, -1, -1], squeeze[:, -2, -2] = 2 ** -(w * amount), 2 ** (w * amount)
    made = planar(cos, -sin, axes) @ squeeze @ planar(cos, sin, axes)
    move.after(torch.where((w > 0)[:, None, None], made, torch.eye(axes, dtype=torch.float64)))


def _translate(told: Tensor, amount: float, move: Geometry, colour: Recolouring) -> None:
    move.translation = told.double() * amount * torch.tensor(move.size)


def _colour(field: str) -> Callable[[Tensor, float, Geometry, Recolouring], None]:
    def act(told: Tensor, amount: float, move: Geometry, colour: Recolouring) -> None:
        setattr(colour, field, told if field == "hue" else told[:, 0] * amount)

    return act


def _axes(axes: int) -> int:
    return axes


MENU: dict[str, MenuEntry] = {
    "shift": MenuEntry(1, _axes, _draw_shift, _shift),
    "flip": MenuEntry(1, _count(1), _half, _flip(-1)),
    "flip_vertical": MenuEntry(1, _count(1), _half, _flip(-2), least_axes=2),
    "turn": MenuEntry(1, _count(2), _draw_turn, _turn, least_axes=2),
    "scale": MenuEntry(0.2, _count(1), _normal(_count(1)), _scale),
    "rotate": MenuEntry(15, _count(2), lambda a, n, _, g: _angle(a / 180, n, g), _rotate, least_axes=2),
    "stretch": MenuEntry(0.2, _count(2), _draw_stretch, _stretch, least_axes=2),
    "translate": MenuEntry(0.125, _axes, _normal(_axes), _translate),
    "brightness": MenuEntry(0.1, _count(1), _normal(_count(1)), _colour("brightness")),
    "contrast": MenuEntry(0.1, _count(1), _normal(_count(1)), _colour("contrast")),
    "hue": MenuEntry(0.1, _count(2), lambda a, n, _, g: _angle(a, n, g), _colour("hue"), of_colour=True),
    "saturation": MenuEntry(0.1, _count(1), _normal(_count(1)), _colour("saturation"), of_colour=True),
}
"""The entries by the names of their settings in AugmentConfig, in the order in which they are drawn."""
COLOUR = ("brightness", "contrast", "hue", "saturation")
SWITCHES = ("flip", "flip_vertical", "turn", "mirror")  # what has no amount
WHOLE_AMOUNTS = ("shift",)  # entries whose amount is a whole number


@dataclass(frozen=True)
class Augmented:
    """Examples that were changed.

    x: (B, C, *size).   told: (B, numbers), what was done to each, 0 for nothing.   also: the other fields, moved like x.   move: that did it.
    known: which numbers of x are known, where not all are.
    """

    x: Tensor
    told: Tensor
    also: tuple[Tensor, ...]
    move: Geometry
    known: Tensor | None = None


def augmented(
    x: Tensor,
    config: AugmentConfig,
    generator: torch.Generator,
    *,
    also: Sequence[Tensor] = (),
    alpha: bool = False,
    limits: tuple[Tensor, Tensor] | None = None,
    known: Tensor | None = None,
) -> Augmented:
    """x (B, C, *size), in the model's range, with each example changed as the menu says; the identity gives exactly x.

    generator: of the CPU, that everything is drawn from.   also: other fields (B, channels, *size) of the same things, moved by the same
    geometric transform, truth values by the nearest place; colour does not touch them.   alpha: whether the last channel of x is one.
    limits: of x, (C, 1, …) each, which colour keeps within; -1 and 1 when None.
    known: bool (B, C or 1, *size), False where x is 0 for a number that is missing.  Then values take the nearest place, since those in
    between would be made of missing ones too, and a colour is known where all of its channels are.
    """
    n, size = len(x), tuple(x.shape[2:])
    move, colour, told = Geometry.identity(n, size), Recolouring.none(n), []
    for name in config.chosen:
        entry, amount = MENU[name], float(getattr(config, name))
        numbers = entry.draw(amount, n, len(size), generator)
        numbers = torch.where(torch.rand(n, 1, generator=generator) < config.probability_of(name), numbers, 0.0)
        entry.act(numbers, amount, move, colour)
        told.append(numbers)
    if config.mirror:
        move.flips[:, -1] ^= torch.rand(n, generator=generator) < 0.5
    low, high = limits or (-torch.ones(x.shape[1], *[1] * len(size)), torch.ones(x.shape[1], *[1] * len(size)))
    moved = move(x, alpha=alpha) if known is None else move(x, nearest=True)
    changed = colour(moved, x.shape[1] - alpha, low.to(x.device), high.to(x.device))
    if known is not None:
        mixed = any(name in ("hue", "saturation") for name in config.chosen)
        known = move(known.all(1, keepdim=True).expand_as(known) if mixed else known)
        changed = torch.where(known, changed, 0.0)
    numbers = torch.cat(told, 1) if told else torch.zeros(n, 0)
    return Augmented(changed, numbers.to(x.device), tuple(move(field) for field in also), move, known)


def parse_augmentation(text: str, probability: float | None = None) -> dict[str, Any]:
    """Settings of a Design by dotted path, of "flip,rotate:15,colour:0.1": what is not named is off.

    "colour" stands for brightness, contrast, hue and saturation.   probability: of each; USUAL_PROBABILITY when None.
    Raises UsageError for a name that the menu does not have, or an amount that is none.
    """
    off = AugmentConfig(shift=0).model_dump()
    found: dict[str, Any] = {f"augment.{name}": value for name, value in off.items()}
    told = False
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, colon, amount = part.partition(":")
        known = [*MENU, "colour", "mirror"]
        if name not in known:
            fix = nearest(name, known) or f": choose of {', '.join(known)}."
            raise UsageError(f"there is no augmentation {name!r}{fix}")
        if name in SWITCHES:
            if colon:
                raise UsageError(f"the augmentation {name!r} has no amount: leave :{amount} out.")
            found[f"augment.{name}"] = True
            told |= name != "mirror"
            continue
        try:
            given = float(amount) if colon else None
            whole = None if given is None or name not in WHOLE_AMOUNTS else int(amount)
        except ValueError:
            raise UsageError(
                f"{amount!r} is no amount of the augmentation {name!r}: give a number, such as {name}:1."
            ) from None
        for each in COLOUR if name == "colour" else (name,):
            usual = int(MENU[each].usual) if each in WHOLE_AMOUNTS else MENU[each].usual
            found[f"augment.{each}"] = usual if given is None else given if whole is None else whole
        told = True
    if told or probability is not None:
        found["augment.probability"] = USUAL_PROBABILITY if probability is None else probability
    return found
