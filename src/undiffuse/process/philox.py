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
A device without double precision gets its noise from the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor

from undiffuse.rng import NoiseStream

BLOCKS = 2**16  # of four numbers, made at once: 16 MB of 64-bit words
WITHOUT_FLOAT64 = ("mps",)
MASK = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)


def exact_device(device: torch.device) -> torch.device:
    """Where noise for a device is computed: there, or on the CPU for one that has neither float64 nor rounding as IEEE 754 says."""
    return torch.device("cpu") if device.type in WITHOUT_FLOAT64 else device


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
    shape: Sequence[int], seed: int, index: Tensor, step: int | Tensor = 0, stream: int = NoiseStream.INITIAL
) -> Tensor:
    """Independent standard normals for each example, float32 (len(index), *shape), on the device of `index`.

    seed:   any integer of 64 bits.    index: int64 (B,), which example of that seed each row is, 0 <= index < 2^32.
    step:   which draw of the trajectory, one for all rows or int64 (B,).
    stream: what the noise is for, a NoiseStream.

    Beside the result it needs the memory of BLOCKS blocks alone: they are made part by part.
    """
    where = exact_device(index.device)
    size = math.prod(shape)
    rows, steps = index.to(where, torch.int64), torch.as_tensor(step).to(where).reshape(-1, 1)
    result = torch.empty(len(index), size, dtype=torch.float32, device=where)
    count = -(-size // 4)
    at_once = max(1, BLOCKS // max(1, count))
    for row, first in product(range(0, len(index), at_once), range(0, count, BLOCKS)):
        some = slice(row, row + at_once)
        block = torch.arange(first, min(first + BLOCKS, count), device=where)[None].expand(len(rows[some]), -1)
        step_ = (steps if len(steps) == 1 else steps[some]).expand_as(block)
        words = philox((block, rows[some, None].expand_as(block), step_, torch.full_like(block, stream)), seed)
        radius_word, angle_word = torch.stack(words[::2], -1), torch.stack(words[1::2], -1)
        normals = torch.stack(box_muller(radius_word >> 8, angle_word >> 8), -1).flatten(1)
        result[some, 4 * first : 4 * first + normals.shape[1]] = normals[:, : size - 4 * first]
    return result.reshape(len(index), *shape).to(index.device)
