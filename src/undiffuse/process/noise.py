"""Standard normal noise as a function of (seed, index, step): the same bits in any batch and on any device.

Image k of a seed must not depend on which images were drawn beside it.  A counter-based generator has no state to
share: each random word is a hash of a counter under a key.  This is Philox-4x32-10 (Salmon et al. 2011, "Parallel
random numbers: as easy as 1, 2, 3", SC '11) in integer tensor operations, with

    key     = seed (64 bits)
    counter = (block of four words within the example, example index, step, stream).

The words become normals by Box & Muller: r = sqrt(-2 log u), (r cos 2 pi v, r sin 2 pi v).  Library logarithms and
cosines differ in the last bit between devices and even between the vectorised body and the tail of one array, so the
three functions are evaluated here from +, ×, ÷ and sqrt alone, one rounding each, which IEEE 754 fixes to the bit.
Their error is below 1e-6 relative, and u >= 2^-25 bounds |z| by 5.9.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MASK = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox-4x32-10: four 32-bit words, held in int64 tensors of one shape, for each 128-bit counter.

    The 64-bit products wrap around as signed integers; shifting and masking recovers their unsigned halves.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key & MASK, (key >> 32) & MASK
    for _ in range(10):
        product0, product2 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1 = (product2 >> 32 & MASK) ^ c1 ^ k0, product2 & MASK
        c2, c3 = (product0 >> 32 & MASK) ^ c3 ^ k1, product0 & MASK
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return c0, c1, c2, c3


def _log(u: Tensor) -> Tensor:
    """log u for u in (0, 1): u = m 2^e with m near 1, log m = 2 artanh((m - 1)/(m + 1)) by its series."""
    m, e = torch.frexp(u)
    low = m < math.sqrt(0.5)
    m, e = torch.where(low, 2 * m, m), torch.where(low, e - 1, e).to(u.dtype)
    z = (m - 1) / (m + 1)
    z2 = z * z
    series = z2 * (1 / 9) + 1 / 7
    for coefficient in (1 / 5, 1 / 3, 1.0):
        series = z2 * series + coefficient
    return e * math.log(2) + 2 * z * series


def _cos_sin(word: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of a turn chosen by 24 bits: two for the quadrant, the rest for an angle within ±pi/4 of its middle."""
    quadrant, rest = word >> 22, word & 0x3FFFFF
    angle = (rest.float() + (0.5 - 2**21)) * (math.pi / 2 / 2**22)
    a2 = angle * angle
    sin = angle * (a2 * (a2 * (a2 * (a2 * (1 / 362880) + -1 / 5040) + 1 / 120) + -1 / 6) + 1)
    cos = a2 * (a2 * (a2 * (a2 * (a2 * (-1 / 3628800) + 1 / 40320) + -1 / 720) + 1 / 24) + -1 / 2) + 1
    swap, flip_cos, flip_sin = quadrant % 2 == 1, (quadrant + 1) // 2 % 2 == 1, quadrant >= 2
    x, y = torch.where(swap, sin, cos), torch.where(swap, cos, sin)
    return torch.where(flip_cos, -x, x), torch.where(flip_sin, -y, y)


def standard_normal(
    shape: Sequence[int], seed: int, index: Tensor, step: int | Tensor = 0, stream: int = 0
) -> Tensor:
    """Independent standard normals for each example, float32 (len(index), *shape), on the device of `index`.

    seed:   any integer of 64 bits.    index: int64 (B,), which example of that seed each row is, 0 <= index < 2^32.
    step:   which draw of the trajectory, one for all rows or int64 (B,).
    stream: tells apart draws for different purposes.
    """
    size = math.prod(shape)
    blocks = -(-size // 4)
    index = index.to(torch.int64)
    block = torch.arange(blocks, device=index.device)[None].expand(len(index), blocks)
    rows = index[:, None].expand_as(block)
    steps = torch.as_tensor(step, device=index.device).reshape(-1, 1).expand_as(block)
    words = philox((block, rows, steps, torch.full_like(block, stream)), seed)
    normals = []
    for radius_word, angle_word in (words[:2], words[2:]):
        u = ((radius_word >> 8).float() + 0.5) * 2.0**-24
        r = torch.sqrt(-2 * _log(u))
        cos, sin = _cos_sin(angle_word >> 8)
        normals += [r * cos, r * sin]
    return torch.stack(normals, -1).reshape(len(index), -1)[:, :size].reshape(len(index), *shape)
