"""Is one picture the other, resized, compressed, cropped by a little, or made brighter?

Picture B is laid over picture A by a scale and a shift along each axis, p = (s_x, s_y, t_x, t_y), and made as bright by a gain and an offset,

    A(x, y)  ~  clip( gain · B((1 + s_x) x + t_x, (1 + s_y) y + t_y) + offset, 0, 1 ),        x, y in [-1, 1]                    (1)

p by Gauss-Newton steps on the squared difference (Lucas & Kanade 1981; Baker & Matthews 2004), from coarse pictures to fine ones; gain and
offset by least squares over what is not clipped in A.  Pairs that still differ much are left at each size, so the fine ones are few.

Two pictures are near-duplicates where what is left of the difference is small everywhere: over the whole picture, and in each of its 16 and of
its 64 parts, so that another face in the same frame is another picture.  The limits are of pixels in 0 … 255:  python -m benchmarks.duplicates
plants resized, compressed, cropped and brightened copies among emoji and counts what is found, and what is joined that was not planted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

PYRAMID, NEWTON_STEPS = (8, 16, 32, 64), (8, 5, 4, 3)  # sides of pictures, and Gauss-Newton steps at each
LEFT = (12.0, 10.0, 9.0)  # of 255, the most that may be left at the coarse sizes
# of 255, root mean square of what may be left at the finest, averaged in pairs of pixels
WHOLE, SIXTEENTH, SIXTY_FOURTH = 8.5, 13.0, 16.0
FARTHEST = 0.12  # scale and shift
GAIN, OFFSET = (0.7, 1.4), 0.15
CLIPPED = 0.02  # from 0 and 1
STEP_DAMPING = 2e-3
PAIRS_AT_ONCE = 2**23  # numbers
LEAST_COVERED = 0.25  # of a part, that both pictures show


@dataclass(frozen=True)
class _Fit:
    """p: (n, 4).   error: mean square of what is left, (n,).   left: (n, C, S, S).   shown: what both show, (n, 1, S, S)."""

    p: Tensor
    error: Tensor
    left: Tensor
    shown: Tensor


def same_pictures(pictures: Callable[[Tensor, int], Tensor], pairs: Tensor) -> Tensor:
    """Whether the two pictures of each pair are near-duplicates, bool (P,).

    pictures: (rows (n,), size) → uint8 (n, C, size, size).   pairs: rows, int64 (P, 2).
    """
    found = torch.zeros(len(pairs), dtype=torch.bool)
    # both ways: only the brighter of two is clipped, and only the larger shows all of the other
    index, rows = torch.arange(len(pairs)).repeat(2), torch.cat([pairs, pairs.flip(1)])
    p = torch.zeros(len(rows), 4)
    for size, steps, limit in zip(PYRAMID, NEWTON_STEPS, (*LEFT, math.inf), strict=True):
        kept = [torch.empty(0, dtype=torch.int64)]
        for part in torch.arange(len(index)).split(max(1, PAIRS_AT_ONCE // (12 * size**2))):
            a, b = (_softened(pictures(rows[part, side], size)) for side in (0, 1))
            fit = _aligned(a, b, p[part], steps)
            p[part] = fit.p
            good = 255 * fit.error.sqrt() <= limit
            if size == PYRAMID[-1]:
                half = _halved(fit)
                good = (_worst_part(half, 1) <= WHOLE) & (_worst_part(half, 4) <= SIXTEENTH)
                good &= _worst_part(half, 8) <= SIXTY_FOURTH
            kept.append(part[good])
        at = torch.cat(kept)
        index, rows, p = index[at], rows[at], p[at]
    found[index] = True
    return found


def _halved(fit: _Fit) -> _Fit:
    """What is left at half the size: what remains of single pixels is the noise of compressing and resizing."""
    return _Fit(fit.p, fit.error, F.avg_pool2d(fit.left, 2), F.avg_pool2d(fit.shown, 2))


def _softened(pictures: Tensor) -> Tensor:
    """Pictures of bytes in 0 … 1, a little blurred, so that their gradients say where to go."""
    pictures = pictures.float() / 255
    line = torch.tensor([0.25, 0.5, 0.25])
    kernel = (line[:, None] * line).expand(pictures.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), kernel, groups=pictures.shape[1])


def _aligned(a: Tensor, b: Tensor, p: Tensor, steps: int) -> _Fit:
    """The best of (1) among the Gauss-Newton steps from p."""
    n, size = len(a), a.shape[-1]
    axis = torch.linspace(-1 + 1 / size, 1 - 1 / size, size)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    best = _Fit(p.clone(), torch.full((n,), torch.inf), torch.zeros_like(a), torch.ones(n, 1, size, size))
    for step in range(steps + 1):
        at_x, at_y = (axis * (1 + p[:, k, None, None]) + p[:, k + 2, None, None] for k, axis in ((0, x), (1, y)))
        warped = F.grid_sample(b, torch.stack([at_x, at_y], -1), align_corners=False, padding_mode="border")
        shown = ((at_x.abs() <= 1) & (at_y.abs() <= 1)).float()[:, None]
        gain, offset = _brightness(a, warped, shown)
        unclipped = gain * warped + offset
        left = (a - unclipped.clamp(0, 1)) * shown
        error = left.square().sum((1, 2, 3)) / (a.shape[1] * shown.sum((1, 2, 3))).clamp(min=1)
        better = error < best.error
        for store, new in ((best.p, p), (best.error, error), (best.left, left), (best.shown, shown)):
            store[better] = new[better]
        if step == steps:
            break
        slope_x, slope_y = torch.zeros_like(warped), torch.zeros_like(warped)
        slope_x[..., 1:-1] = (warped[..., 2:] - warped[..., :-2]) * size / 4
        slope_y[..., 1:-1, :] = (warped[..., 2:, :] - warped[..., :-2, :]) * size / 4
        moves = gain * ((unclipped > 0) & (unclipped < 1)) * shown
        jacobian = torch.stack([slope_x * x * moves, slope_y * y * moves, slope_x * moves, slope_y * moves], 1).flatten(
            2
        )
        normal = jacobian @ jacobian.transpose(1, 2)
        damping = STEP_DAMPING * normal.diagonal(dim1=1, dim2=2).mean(1) + 1e-9
        normal = normal + damping[:, None, None] * torch.eye(4)
        p = (p + torch.linalg.solve(normal, jacobian @ left.flatten(1)[..., None])[..., 0]).clamp(-FARTHEST, FARTHEST)
    return best


def _brightness(a: Tensor, b: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
    """(gain, offset), (n, 1, 1, 1) each, by which b is as bright as a where a is not clipped."""
    everywhere = shown.expand_as(a)
    open_ = everywhere * ((a > CLIPPED) & (a < 1 - CLIPPED))
    few = open_.sum((1, 2, 3), keepdim=True) < 0.1 * everywhere.sum((1, 2, 3), keepdim=True)
    weight = torch.where(few, everywhere, open_)
    weight = weight / weight.sum((1, 2, 3), keepdim=True).clamp(min=1)
    mean_a, mean_b = ((each * weight).sum((1, 2, 3), keepdim=True) for each in (a, b))
    together = ((b - mean_b) * (a - mean_a) * weight).sum((1, 2, 3), keepdim=True)
    alone = ((b - mean_b).square() * weight).sum((1, 2, 3), keepdim=True).clamp(min=1e-5)
    gain = (together / alone).clamp(*GAIN)
    return gain, (mean_a - gain * mean_b).clamp(-OFFSET, OFFSET)


def _worst_part(fit: _Fit, parts: int) -> Tensor:
    """Root mean square, of 255, of what is left in the worst of parts × parts fields, (n,)."""
    side = fit.left.shape[-1] // parts
    covered = F.avg_pool2d(fit.shown, side).clamp(min=LEAST_COVERED)
    return 255 * (F.avg_pool2d(fit.left.square().mean(1, keepdim=True), side) / covered).flatten(1).amax(1).sqrt()
