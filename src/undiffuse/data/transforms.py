"""Transforms of examples (B, C, *size), each with its own: flips, turns, shifts, resampling by an affine map, and colour.

A `Geometry` is geometric.  It is made of what is exact on the grid (reversed axes, quarter turns, shifts by whole places) and of an affine
map, which resamples once.  With p the place of a value, counted in places from the centre of the example,

    p_in = M (p_out - t),      M = S⁻¹ R⁻¹ A⁻¹,

says where the value of the result at p_out comes from: the example is scaled (S), turned (R), stretched (A) and moved by t, in this
order (Karras et al. 2022, appendix F.2).  In shares g = 2p/n of the size, from -1 to 1, it is D⁻¹ M D g_out - D⁻¹ M t with D = diag(n/2),
which is the same for a field of the same things in another number of places.

Between places, values are interpolated along each axis by cubic convolution of the four nearest (Keys 1981, a = -1/2), which keeps quadratic
functions as they are: of a value f beyond the second of them, the weights are

    (-f + 2f² - f³)/2,   (2 - 5f² + 3f³)/2,   (f + 4f² - 3f³)/2,   (-f² + f³)/2.

PyTorch's own has a = -3/4, and bends even a ramp.  Masks take the nearest value.  What lies beyond an edge is the reflection of what lies
before it.  A cubic overshoots: the result keeps within the range that each channel of the example has.  Colours are resampled times their
alpha, or those of what cannot be seen would bleed into what can.

Colour is an affine map of the channels of each place, in the model's range with grey at 0; v = (1, 1, 1)/√3 is the direction of grey:

    brightness  x + b          hue         rotation about v
    contrast    2^c x          saturation  (v vᵀ + 2^s (I - v vᵀ)) x
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

SEEN = 1 / 512  # of alpha: half a step of 8 bits


@dataclass
class Geometry:
    """A geometric transform of each of B examples of some size; the identity, until something is put in.

    flips: (B, axes), axes that are reversed.   turns: (B,), quarter turns of the last two axes, counter-clockwise.   shifts: (B, axes),
    whole places.   linear: (B, axes, axes), M of the affine map.   translation: (B, axes), t in places.
    """

    size: tuple[int, ...]
    flips: Tensor
    turns: Tensor
    shifts: Tensor
    linear: Tensor
    translation: Tensor

    @classmethod
    def identity(cls, n: int, size: tuple[int, ...]) -> Geometry:
        """Of n examples of a size."""
        axes = len(size)
        whole = torch.zeros(n, axes, dtype=torch.int64)
        linear = torch.eye(axes, dtype=torch.float64).repeat(n, 1, 1)
        return cls(size, whole.bool(), whole[:, 0].clone(), whole, linear, torch.zeros(n, axes, dtype=torch.float64))

    def after(self, linear: Tensor) -> None:
        """Puts a linear map after those that are there.   linear: (B, axes, axes), from places of the result to those before it."""
        self.linear = self.linear @ linear

    def __call__(self, field: Tensor, *, nearest: bool = False, alpha: bool = False) -> Tensor:
        """The field (B, C, *size) moved; exactly itself where nothing is to be done.

        The field may have another size than the examples: it is moved by as much of its own.   nearest: for masks and labels, which
        have no values in between; truth values are always moved so.   alpha: whether the last channel is one, from -1 to 1.
        """
        size = tuple(field.shape[2:])
        found = _turned(_flipped(field, self.flips), self.turns)
        shares = torch.zeros_like(self.translation)
        if size == self.size:
            found = shifted(found, self.shifts)
        else:
            shares = self.shifts / torch.tensor(self.size)
        half = torch.tensor(self.size, dtype=torch.float64) / 2
        linear = self.linear * half / half[:, None]  # D⁻¹ M D
        offset = -(linear @ (self.translation / half)[..., None])[..., 0] - 2 * shares
        still = (linear == torch.eye(len(size), dtype=torch.float64)).all((1, 2)) & (offset == 0).all(1)
        which = (~still).nonzero()[:, 0]
        if not len(which):
            return found
        linear, offset, which = linear[which], offset[which], which.to(field.device)
        part, nearest = found[which], nearest or field.dtype == torch.bool
        moved = _with_alpha(part, linear, offset) if alpha else _resampled(part, linear, offset, nearest)
        found = found.clone() if found is field else found
        found[which] = moved
        return found


def _flipped(x: Tensor, flips: Tensor) -> Tensor:
    for axis in range(flips.shape[1]):
        which = flips[:, axis].to(x.device)
        if which.any():
            x = torch.where(which.reshape(-1, *[1] * (x.ndim - 1)), x.flip(2 + axis), x)
    return x


def _turned(x: Tensor, turns: Tensor) -> Tensor:
    for k in range(1, 4):
        which = (turns == k).to(x.device)
        if which.any():
            x = torch.where(which.reshape(-1, *[1] * (x.ndim - 1)), torch.rot90(x, k, (-2, -1)), x)
    return x


def shifted(x: Tensor, shifts: Tensor) -> Tensor:
    """x (B, C, *size) with each example shifted by whole places, (B, axes) int64; what is shifted in at an edge repeats the edge."""
    which = shifts.any(1).nonzero()[:, 0]
    if not len(which):
        return x
    axes = x.ndim - 2
    index = [which.reshape(-1, 1, *[1] * axes), torch.arange(x.shape[1]).reshape(1, -1, *[1] * axes)]
    for axis, n in enumerate(x.shape[2:]):
        place = (torch.arange(n) - shifts[which, axis, None]).clamp(0, n - 1)
        index.append(place.reshape(len(which), 1, *[n if other == axis else 1 for other in range(axes)]))
    moved = x.clone()
    moved[which.to(x.device)] = x[tuple(i.to(x.device) for i in index)]
    return moved


def _resampled(x: Tensor, linear: Tensor, offset: Tensor, nearest: bool) -> Tensor:
    """x (B, C, *size) where g_in = linear g_out + offset, (B, axes, axes) and (B, axes), in shares of the size."""
    size, axes = x.shape[2:], x.ndim - 2
    shares = [(2 * torch.arange(n, dtype=torch.float32, device=x.device) + 1) / n - 1 for n in size]
    grid = torch.stack([part.flatten() for part in torch.meshgrid(*shares, indexing="ij")])  # (axes, places)
    g_in = linear.float().to(x.device) @ grid + offset.float().to(x.device)[..., None]
    taps = [_taps((g_in[:, axis] + 1) * (n / 2) - 0.5, n, nearest) for axis, n in enumerate(size)]
    values = x.flatten(2).float()
    found = torch.zeros_like(values)
    for each in product(*taps):
        place, weight = each[0]
        for axis in range(1, axes):
            place, weight = place * size[axis] + each[axis][0], weight * each[axis][1]
        found += weight[:, None] * values.gather(2, place[:, None].expand_as(values))
    if x.dtype == torch.bool:
        return (found > 0.5).reshape(x.shape)
    return found.clamp(values.amin(2, keepdim=True), values.amax(2, keepdim=True)).reshape(x.shape).to(x.dtype)


def _taps(place: Tensor, n: int, nearest: bool) -> list[tuple[Tensor, Tensor]]:
    """What a value at each place (B, places) of an axis of n is made of: (indices, weights)."""
    if nearest:
        return [(_reflected(place.round().long(), n), torch.ones_like(place))]
    first = place.floor()
    f = place - first
    weights = ((-f + 2 * f**2 - f**3), (2 - 5 * f**2 + 3 * f**3), (f + 4 * f**2 - 3 * f**3), (-(f**2) + f**3))
    return [(_reflected(first.long() + k - 1, n), weight / 2) for k, weight in enumerate(weights)]


def _reflected(index: Tensor, n: int) -> Tensor:
    """An index beyond the edges of an axis of n as the one that it is a reflection of: … 1 0 | 0 1 … n-1 | n-1 n-2 …"""
    around = index % (2 * n)
    return torch.minimum(around, 2 * n - 1 - around)


def _with_alpha(x: Tensor, linear: Tensor, offset: Tensor) -> Tensor:
    """As `_resampled`, of colours with alpha in the last channel, all from -1 to 1."""
    seen = (x[:, -1:] + 1) / 2
    weighted = torch.cat([(x[:, :-1] + 1) / 2 * seen, seen, x[:, :-1]], 1)
    found = _resampled(weighted, linear, offset, False)
    n = x.shape[1]
    colour, seen, plain = found[:, : n - 1], found[:, n - 1 : n], found[:, n:]
    share = (colour / seen.clamp(min=SEEN)).clamp(0, 1)
    return torch.cat([torch.where(seen < SEEN, plain, share * 2 - 1), seen * 2 - 1], 1)


def planar(angle_cos: Tensor, angle_sin: Tensor, axes: int) -> Tensor:
    """(B, axes, axes): where the result's places come from when the plane of the last two axes turns counter-clockwise by an angle."""
    found = torch.eye(axes, dtype=torch.float64).repeat(len(angle_cos), 1, 1)
    found[:, -2, -2] = found[:, -1, -1] = angle_cos.double()
    found[:, -2, -1], found[:, -1, -2] = angle_sin.double(), -angle_sin.double()
    return found


@dataclass
class Recolouring:
    """A change of the colours of each of B examples; none, until something is put in.

    brightness, contrast, saturation: (B,), b, c and s.   hue: (B, 2), the cosine of its angle less 1, and the sine.
    """

    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor

    @classmethod
    def none(cls, n: int) -> Recolouring:
        """Of n examples."""
        return cls(torch.zeros(n), torch.zeros(n), torch.zeros(n), torch.zeros(n, 2))

    def __call__(self, x: Tensor, colours: int, low: Tensor, high: Tensor) -> Tensor:
        """x (B, C, *size) with its first `colours` channels changed, within low and high, (C, 1, …) each; the others as they are."""
        numbers = torch.cat(
            [self.brightness[:, None], self.contrast[:, None], self.saturation[:, None], self.hue], 1
        )  # (B, 5)
        which = numbers.any(1).nonzero()[:, 0]
        if not len(which):
            return x
        column = (-1, *[1] * (x.ndim - 1))
        part = x[which.to(x.device), :colours]
        brightness, contrast = (n[which].reshape(column).to(x) for n in (self.brightness, self.contrast))
        part = (part + brightness) * 2**contrast
        if numbers[which, 2:].any():
            map_ = self._map()[which].to(x)
            part = torch.einsum("bij,bj...->bi...", map_, part)
        found = x.clone()
        found[which.to(x.device), :colours] = part.clamp(low[:colours], high[:colours])
        return found

    def _map(self) -> Tensor:
        """(B, 3, 3): saturation after hue. A rotation about v: cos I + sin [v]× + (1 - cos) v vᵀ (Rodrigues)."""
        v = torch.full((3,), 3**-0.5)
        grey, eye = torch.outer(v, v), torch.eye(3)
        cross = torch.linalg.cross(v.expand(3, 3), eye, dim=1).T  # [v]×: its columns are v × e
        less, sine = (part[:, None, None] for part in self.hue.unbind(1))
        turn = eye + less * (eye - grey) + sine * cross
        found: Tensor = (grey + 2 ** self.saturation[:, None, None] * (eye - grey)) @ turn
        return found
