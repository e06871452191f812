"""Standard normal noise as a function of (seed, index, step): the same bits in any batch and on any device.

Image k of a seed must not depend on which images were drawn beside it.  A counter-based generator has no state to
share: each random word is a hash of a counter under a key.  This is Philox-4x32-10 (Salmon et al. 2011, "Parallel
random numbers: as easy as 1, 2, 3", SC '11) in integer tensor operations, with

    key     = seed (64 bits)
    counter = (block of four words within the example, example index, step, stream).

The words become normals by Box & Muller: r = sqrt(-2 log u), (r cos 2 pi v, r sin 2 pi v).  Library logarithms and
cosines differ in the last bit between devices and even between the vectorised body and the tail of one array, so the
three functions are evaluated here from +, ×, ÷ and sqrt alone, one rounding each, which IEEE 754 fixes to the bit.
Their error is below 1e-6, and u >= 2^-25 bounds |z| by 5.9.  Libraries round single-precision roots carelessly, too (one in 150
is a bit off on Intel's processors), so the root is taken in double precision: the root of a 24-bit number lies so far from
any midpoint of two single-precision numbers that an error in the last bit of the double cannot change what it rounds to.
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

    One round multiplies words 0 and 2 by constants, and mixes the high halves of the products with words 1 and 3 and the
    key; the low halves are the next words 1 and 3.  The two products are one operation on stacked words.  64-bit products
    wrap around as signed integers; only words about to be multiplied need their upper half cleared.
    """
    c0, c1, c2, c3 = counter
    even, odd = torch.stack([c0, c2]), (c1, c3)
    multipliers = torch.tensor(MULTIPLIERS, device=even.device).reshape(2, *[1] * c0.ndim)
    k0, k1 = key & MASK, (key >> 32) & MASK
    for _ in range(10):
        product = even * multipliers
        high = product >> 32
        even = torch.stack([high[1] ^ odd[0] ^ k0, high[0] ^ odd[1] ^ k1]).bitwise_and_(MASK)
        odd = (product[1], product[0])
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return even[0], odd[0] & MASK, even[1], odd[1] & MASK


def _log(u: Tensor) -> Tensor:
    """log u for u in (0, 1): u = m 2^e with m near 1, log m = 2 artanh((m - 1)/(m + 1)) by its series."""
    m, e = torch.frexp(u)
    low = m < math.sqrt(0.5)
    m, e = torch.where(low, 2 * m, m), (e - low.to(e.dtype)).to(u.dtype)
    z = (m - 1) / (m + 1)
    z2 = z * z
    series = z2 * (1 / 9) + 1 / 7
    for coefficient in (1 / 5, 1 / 3, 1.0):
        series = series * z2 + coefficient
    return e * math.log(2) + 2 * z * series


def _cos_sin(word: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of the turn (word + 1/2)/2^24 - 1/2: Taylor series of a quarter of the angle, doubled twice."""
    a = (word.float() + (0.5 - 2**23)) * (2 * math.pi / 4 / 2**24)
    a2 = a * a
    sin = a * (a2 * (a2 * (a2 * (a2 * (1 / 362880) + -1 / 5040) + 1 / 120) + -1 / 6) + 1)
    cos = a2 * (a2 * (a2 * (a2 * (a2 * (-1 / 3628800) + 1 / 40320) + -1 / 720) + 1 / 24) + -1 / 2) + 1
    sin, cos = 2 * sin * cos, 1 - 2 * (sin * sin)
    return 1 - 2 * (sin * sin), 2 * sin * cos


def box_muller(radius_word: Tensor, angle_word: Tensor) -> tuple[Tensor, Tensor]:
    """Two independent standard normals, float32, of two independent words of 24 bits."""
    u = (radius_word.float() + 0.5) * 2.0**-24
    r = torch.sqrt((-2 * _log(u)).double()).float()
    cos, sin = _cos_sin(angle_word)
    return r * cos, r * sin


def standard_normal(
    shape: Sequence[int], seed: int, index: Tensor, step: int | Tensor = 0, stream: int = 0
) -> Tensor:
    """Independent standard normals for each example, float32 (len(index), *shape), on the device of `index`.

    seed:   any integer of 64 bits.    index: int64 (B,), which example of that seed each row is, 0 <= index < 2^32.
    step:   which draw of the trajectory, one for all rows or int64 (B,).
    stream: tells apart draws for different purposes.
    """
    if index.device.type == "mps":  # Apple's GPUs have neither float64 nor frexp
        step = step.cpu() if isinstance(step, Tensor) else step
        return standard_normal(shape, seed, index.cpu(), step, stream).to(index.device)
    size = math.prod(shape)
    blocks = -(-size // 4)
    index = index.to(torch.int64)
    block = torch.arange(blocks, device=index.device)[None].expand(len(index), blocks)
    rows = index[:, None].expand_as(block)
    steps = torch.as_tensor(step, device=index.device).reshape(-1, 1).expand_as(block)
    words = philox((block, rows, steps, torch.full_like(block, stream)), seed)
    radius_word, angle_word = torch.stack(words[::2], -1), torch.stack(words[1::2], -1)
    normals = torch.stack(box_muller(radius_word >> 8, angle_word >> 8), -1)
    return normals.reshape(len(index), -1)[:, :size].reshape(len(index), *shape)
