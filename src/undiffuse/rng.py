"""Every stream of random numbers of the package: what each is for, and how it is kept apart from all others.

Nothing here draws from a generator that someone else has drawn from before.  There are two kinds of streams.

NoiseStream      noise of examples, a hash of (seed, example, step, stream): process/noise.py.  The stream is one word of the
                 counter that is hashed, so streams of different numbers are apart by construction.
GeneratorStream  generators of PyTorch and NumPy, seeded anew for every (seed, stream, step), so that what is drawn is a function of
                 these three and a run can be taken up anywhere.  Their seed is

                     mix(seed + G (step + 1))  XOR  mix(stream),      mix: the finaliser of SplitMix64 (Steele et al. 2014)

                 `seed + 1`, the next step and another stream all lead elsewhere.  PyTorch's generator on the CPU looks at the
                 lower 32 bits of a seed alone, so that of any 2^32 two are now and then alike; the XOR is there so that the streams
                 of one step never are, in these bits either: mix(stream) differs in them from stream to stream, which a test shows.

Numbers are never changed and never given again: samples of a seed, held-out examples and runs that are taken up depend on
them.  Three streams are older than the formula and keep what they had: the split, the order of the data and initial weights.

Nowhere else is a generator made or seeded (a test reads the source for it).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum, unique

import numpy as np
import torch

GOLDEN = 0x9E3779B97F4A7C15  # G: 2^64 over the golden ratio, so that the states of a sequence lie far apart


@unique
class NoiseStream(IntEnum):
    """Noise of examples. Numbers from STEP_AGAIN on belong to the further draws of a step, one each."""

    INITIAL = 0  # x at the first level of a trajectory
    STEP = 1  # a step of it
    BROWNIAN = 2  # the nodes of its Brownian path, in place of STEP
    FORWARD = 3  # pictures of the forward process
    RECORDING = 4  # the forward path that ancestral sampling is made to take
    NOISE_LEVEL_PROBE = 5  # signs, for the trace in how noisy an example is
    RAISE = 6  # a step back up to a noisier level
    VALIDATION = 7  # of the held-out examples of a bank
    LIKELIHOOD_NOISE = 8
    LIKELIHOOD_PROBE = 9  # signs, for the divergence of a flow
    LIKELIHOOD_PLACE = 10  # uniform: where in a bin, or between two levels
    NOISE_CONDITIONING = 11  # added to what a second stage is shown
    MASK = 12  # which places a random mask hides
    LENGTH = 13  # of a sequence that is sampled
    STEP_AGAIN = 16


@unique
class GeneratorStream(IntEnum):
    """Generators. TRAINING is 0, and mix(0) = 0: its seeds are what they were when it was the only stream."""

    TRAINING = 0  # the levels of a batch, which conditions are dropped, and on the CPU its noise
    DEVICE_NOISE = 1  # the noise of a batch, on another device
    NETWORK = 2  # what networks draw in training: dropout, latents
    SHIFTS = 3  # augmentation
    TASKS = 4  # what tasks by training hide of a batch
    HELD_OUT_TASKS = 5  # what they hide of the examples that a run is judged by
    LATER_STAGE = 6  # the seed of all noise of a later stage of a cascade; its step is how many numbers the stage makes
    SIMULATED = 7  # what a task hides of someone's example; its step is which
    WEIGHTS = 8  # initial weights
    SPLIT = 9  # which examples are held out
    ORDER = 10  # of the data; its step is the epoch
    JUDGED = 11  # which held-out examples a run is judged by
    LOOKED_AT = 12  # which training examples references and the probe of conditions look at
    CHOSEN = 13  # which examples a command takes of many
    PREDICTORS = 14  # which held-out examples the predictors of adherence learn from
    MISMATCHED = 15  # samples beside other conditions than theirs, for adherence's floor
    CANDIDATES = 16  # among which adherence looks for what was requested
    DIRECTIONS = 17  # that a sweep aligns its grid by
    COMPONENTS = 18  # where the search for principal components begins
    CARRIED = 19  # examples by which the network that is carried over is compared
    LENT = 20  # values lent to parameters that are zero, while the probe listens
    DISCARDED = 21  # drawn only to see whether a task fits, and thrown away
    PROBED_TASKS = 22  # what tasks hide of the training examples by which the probe listens
    COMPARED = 23  # which held-out examples a sweep compares samples with
    BALANCED = 32  # where in an epoch balanced groups are drawn
    ROUND = 33  # the order of a balanced group's examples; its step is which round of which group


def mix(z: int) -> int:
    """The finaliser of SplitMix64: a one-to-one map of 64-bit numbers that keeps 0, and scatters all others."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def seed_of(stream: GeneratorStream, seed: int, step: int = 0) -> int:
    """The 63-bit seed of a stream at a step of a run with this seed."""
    return (mix((seed + GOLDEN * (step + 1)) % 2**64) ^ mix(stream)) >> 1


def generator(
    stream: GeneratorStream, seed: int = 0, step: int = 0, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A generator of a device at the beginning of a stream."""
    return torch.Generator(device).manual_seed(seed_of(stream, seed, step))


def seed_global(stream: GeneratorStream, seed: int, step: int) -> None:
    """Puts PyTorch's global generators, of every device, at the beginning of a stream."""
    torch.manual_seed(seed_of(stream, seed, step))


@contextmanager
def drawing(stream: GeneratorStream, seed: int = 0) -> Iterator[None]:
    """PyTorch's global generator of the CPU at the beginning of a stream inside a `with`, and where it was afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed if stream is GeneratorStream.WEIGHTS else seed_of(stream, seed))
        yield


def permuted(stream: GeneratorStream, of: int | np.ndarray, seed: int = 0, step: int = 0) -> np.ndarray:
    """Rows `of`, or the numbers below it, in a random order."""
    if stream is GeneratorStream.SPLIT:
        source = np.random.Philox(seed % 2**64)
    elif stream is GeneratorStream.ORDER:
        source = np.random.Philox(key=[seed % 2**64, step])
    else:
        source = np.random.Philox(key=[seed_of(stream, seed, step), stream])
    return np.random.Generator(source).permutation(of)
