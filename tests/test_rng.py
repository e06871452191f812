"""No two streams of random numbers have anything in common: in training, sampling, cascades, validation and masks, and by their numbers.

Two sequences of n independent numbers, brought to mean 0 and variance 1, have at each of n shifts a correlation of about N(0, 1/n).
Over M shifts and pairs the largest stays below sqrt(2 log(2 M / p) / n) with probability 1 - p; p is 1e-6 here.  Magnitudes are
compared besides values, so that numbers made of the same bits in another way (a cosine, a uniform number) are found as well.
"""

from __future__ import annotations

import math
import traceback
from collections import defaultdict
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import undiffuse
from tests.small import TINY_SETTINGS
from undiffuse.conditioning.degradations import parse_tasks, second_stage
from undiffuse.data.config import DataConfig
from undiffuse.models import model as model_module
from undiffuse.models import restoration
from undiffuse.models.masks import read_mask
from undiffuse.process.philox import standard_normal
from undiffuse.process.schedules import Cosine
from undiffuse.runs.prepare import prepare
from undiffuse.sampling.noise import Independent
from undiffuse.training.cadence import Intervals
from undiffuse.training.validation import ValidationSet

SOURCE = Path(undiffuse.__file__).parent
FEWEST = 64
DRAWING = ("rand", "randn", "randint", "randperm", "bernoulli", "normal", "uniform", "native_dropout", "multinomial")


def views(sequence):
    """The values and their magnitudes, mean 0, variance 1, cut at 3 deviations; none of a sequence that is constant."""
    x = torch.as_tensor(sequence).double().flatten()
    for view in (x, (x - x.mean()).abs()):
        if view.std() > 1e-9:
            view = ((view - view.mean()) / view.std()).clamp(-3, 3)
            yield (view - view.mean()) / view.std()


def assert_apart(streams):
    """streams: sequences of random numbers by name."""
    streams = {name: torch.as_tensor(x).double().flatten() for name, x in streams.items()}
    compared = sum(4 * min(len(a), len(b)) for a, b in combinations(streams.values(), 2))
    alike = []
    for (first, a), (second, b) in combinations(streams.items(), 2):
        n = min(len(a), len(b))
        bound = math.sqrt(2 * math.log(2 * compared / 1e-6) / n)
        at_every_shift = [
            torch.fft.ifft(torch.fft.fft(x) * torch.fft.fft(y).conj()).real / n
            for x in views(a[:n])
            for y in views(b[:n])
        ]
        most = max(float(r.abs().max()) for r in at_every_shift)
        alike += [f"{first} and {second}: a correlation of {most:.2f}"] if most > bound else []
        if min(len(a.unique()), len(b.unique())) > n / 2:  # not numbers of which there are few
            # two floats of density p and 24 bits are equal with a chance of 2^-24 ∫ p², which is below 2^-24 for normal and uniform ones
            by_chance = len(a) * len(b) / 2**24
            equal = len(np.intersect1d(a.numpy(), b.numpy()))
            alike += (
                [f"{first} and {second}: {equal} equal numbers of {n}"]
                if equal > by_chance + 6 * math.sqrt(by_chance) + 6
                else []
            )
    assert not alike, alike


class Draws(TorchDispatchMode):
    """Everything that is drawn by PyTorch inside a `with`, by the line of the library that draws it."""

    def __init__(self):
        super().__init__()
        self.found = defaultdict(list)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function._schema.name.split("::")[1].removesuffix("_like").removesuffix("_")
        if name in DRAWING:
            line = next(f for f in reversed(traceback.extract_stack()) if f.filename.startswith(str(SOURCE)))
            drawn = result[1] if isinstance(result, tuple) else result
            self.found[f"{Path(line.filename).stem} {name} {line.lineno}"].append(
                drawn.detach().clone().double().flatten()
            )
        return result

    def sequences(self):
        return {line: x for line, parts in self.found.items() if len(x := torch.cat(parts)) >= FEWEST and x.std() > 0}


def prepared(folder, chosen, **settings):
    settings = (
        TINY_SETTINGS
        | {"training.steps": 24, "training.budget": None, "training.batch_size": 64, "training.stratified": False}
        | settings
    )
    return prepare(
        DataConfig(source="digits"), folder, settings=settings, watch=Intervals(1e9, 1e9), tasks=chosen
    ).run()


def test_what_a_run_draws_in_training_has_nothing_in_common(tmp_path):
    """Levels, dropped conditions, eps, latents, dropout, shifts, tasks; and initial weights. 8 updates of 64 digits."""
    network = {"kind": "autoencoder", "width": 8, "multipliers": [1, 2], "groups": 4, "dropout": 0.3}
    with Draws() as draws:
        run = prepared(
            tmp_path / "r",
            parse_tasks("inpaint,denoise"),
            **{"network": network, "augment.probability": 0.5, "condition_dropout": 0.5},
        )
        run.loop.learner.module.train()
        for step in range(8):
            run.loop.step = step
            run.loop._gradient(*run.batch(step))
    found = draws.sequences()
    drawn = {line.rsplit(" ", 1)[0] for line in found}
    assert {
        "loop randn",
        "gaussian randn",
        "blocks bernoulli",
        "augmentation randint",
        "degradations randn",
        "degradations rand",
    } <= drawn
    assert {"timesteps rand", "conditions rand", "blocks uniform"} <= drawn
    assert_apart(found)


class Walks:
    """The noise of every trajectory that models are sampled along: of the first level, and of its first steps."""

    def __init__(self, monkeypatch):
        self.found, plain = [], model_module.trajectory

        def watched(x, denoise, levels, solver, *, seed, index, **more):
            draws = Independent(x, seed, index, len(levels) - 1)
            self.found.append(
                {"initial": x, **{f"step {row}": draws.at(row) for row in range(2)}, "again": draws.at(0, 1)}
            )
            return plain(x, denoise, levels, solver, seed=seed, index=index, **more)

        monkeypatch.setattr(model_module, "trajectory", watched)


def test_the_stages_of_a_cascade_draw_nothing_in_common(tmp_path, monkeypatch):
    """Of one seed: three stages, 2×2 to 4×4 to 8×8, and the noise that later ones are shown their examples with."""
    size = {"training.steps": 1, "network.multipliers": [1], "network.attention": [], "training.batch_size": 4}
    stages = {}
    for name, shrink, chosen in (
        ("first", 4, None),
        ("second", 2, {"upscale:2": second_stage(2)}),
        ("third", None, {"upscale:2": second_stage(2)}),
    ):
        data = DataConfig(source="digits", shrink=shrink)
        run = prepare(
            data,
            tmp_path / name,
            settings=TINY_SETTINGS | size | {"training.budget": None},
            watch=Intervals(1e9, 1e9),
            tasks=chosen,
        ).run()
        stages[name] = run.model
    n, shown, plain = 300, [], restoration.observe
    walks = Walks(monkeypatch)
    monkeypatch.setattr(
        restoration, "observe", lambda *args, **kwargs: shown.append(kwargs["added"]) or plain(*args, **kwargs)
    )
    found, values = defaultdict(list), None
    for name, model in stages.items():
        values = (
            model.sample(n, seed=5, steps=2)
            if values is None
            else restoration.upscale_samples(model, values, augmentation=0.1, seed=5, steps=2)
        )
        for walk in walks.found:
            for kind, noise in walk.items():
                found[f"{name} stage, {kind}"].append(noise)
        walks.found.clear()
    found = {name: torch.cat(parts) for name, parts in found.items()} | {
        "shown the second": shown[0],
        "shown the third": shown[1],
    }
    assert_apart(found)
    for kind in (
        "initial",
        "step 0",
        "step 1",
    ):  # example by example, from its first number on: what a shared counter makes alike
        for one, other in combinations(stages, 2):
            a, b = (found[f"{name} stage, {kind}"].flatten(1) for name in (one, other))
            n = min(a.shape[1], b.shape[1])
            assert abs(torch.corrcoef(torch.stack([a[:, :n].flatten(), b[:, :n].flatten()]))[0, 1]) < 5 / math.sqrt(
                300 * n
            )


def test_a_random_mask_does_not_hide_by_the_noise_of_validation():
    """Both are made of (seed 0, example), and a mask hides where its normals are least."""
    size, n = (32, 32), 4
    eps = ValidationSet.of(torch.zeros(n, 1, *size), {}, Cosine()).eps
    mask = torch.from_numpy(read_mask("random:0.5", np.zeros((n, 1, *size)))).double()
    assert abs(torch.corrcoef(torch.stack([eps.double().flatten(), mask.flatten()]))[0, 1]) < 5 / math.sqrt(
        mask.numel()
    )


def test_what_is_simulated_of_an_example_is_not_that_of_another_seed(tmp_path):
    """Example 1 of seed 0 was example 0 of seed 1."""
    model = prepared(tmp_path / "r", parse_tasks("denoise"), **{"training.steps": 1}).model
    x = np.zeros((2, 1, 8, 8))
    a, b = (restoration.degrade(model, x, seed=seed).channels[:, 0] + 1 for seed in (0, 1))
    assert not torch.allclose(a[1], b[0])


# The numbers --------------------------------------------------------------------------------------------------------------


def test_all_noise_streams_are_apart():
    """Whichever there are, for one seed, example and step, and the next of each."""
    from undiffuse.rng import NoiseStream

    numbers = [*NoiseStream, *(NoiseStream.STEP_AGAIN + k for k in (1, 2))]
    assert len(set(numbers)) == len(numbers)
    index = torch.zeros(1, dtype=torch.int64)
    found = {f"{stream!r}": standard_normal((1024,), 0, index, 0, stream) for stream in numbers}
    found |= {
        f"{stream!r} {name}": standard_normal((1024,), *at, stream)
        for stream in list(NoiseStream)[:2]
        for name, at in {
            "next seed": (1, index, 0),
            "next example": (0, index + 1, 0),
            "next step": (0, index, 1),
        }.items()
    }
    assert_apart(found)


def test_all_generators_are_apart():
    """Whichever there are: of a step, of the next, and of the next seed; initial weights, which are drawn from the global one; NumPy's orders."""
    from undiffuse.rng import GeneratorStream, drawing, generator, permuted

    found = {}
    for stream in GeneratorStream:
        for name, at in {"": (0, 0), "next seed": (1, 0), "next step": (0, 1)}.items():
            found[f"{stream!r} {name}"] = torch.randn(512, generator=generator(stream, *at))
        with drawing(stream, 0):
            own = torch.randn(512)
        if stream is GeneratorStream.WEIGHTS:
            found["weights"] = own
        else:
            assert torch.equal(own, found[f"{stream!r} "])
    assert_apart(found)
    orders = {
        f"{stream!r} {seed}": torch.from_numpy(permuted(stream, 512, seed))
        for stream in GeneratorStream
        for seed in (0, 1)
    }
    compared = len(orders) ** 2 / 2
    table = torch.corrcoef(torch.stack([x.double() for x in orders.values()])) - torch.eye(len(orders))
    assert table.abs().max() < math.sqrt(2 * math.log(2 * compared / 1e-6) / 512)


def test_seeds_of_generators_do_not_meet():
    """The 63 bits of neighbouring seeds and steps of all streams; and of one step the 32 bits that PyTorch looks at on the CPU."""
    from undiffuse.rng import GeneratorStream, generator, seed_of

    a, b = (torch.rand(4, generator=torch.Generator().manual_seed(seed)) for seed in (3, 3 + 2**32))
    assert torch.equal(a, b)  # why the lower half matters
    seeds = [seed_of(stream, seed, step) for stream in GeneratorStream for seed in range(20) for step in range(200)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    for step in range(50):
        assert len({seed_of(stream, 0, step) % 2**32 for stream in GeneratorStream}) == len(GeneratorStream)
    assert generator(GeneratorStream.TASKS, 3, 4).initial_seed() == seed_of(GeneratorStream.TASKS, 3, 4)


def test_splitmix_gives_its_published_numbers():
    """The first numbers of the seed 1234567, as published with the generator (Vigna, splitmix64.c; Rosetta Code)."""
    from undiffuse.rng import GOLDEN, mix

    published = (
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    )
    assert tuple(mix((1234567 + GOLDEN * (k + 1)) % 2**64) for k in range(5)) == published


def test_every_stream_has_a_use():
    from undiffuse.rng import GeneratorStream, NoiseStream

    text = "".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py") if path.name != "streams.py")
    unused = [f"{type(stream).__name__}.{stream.name}" for stream in (*NoiseStream, *GeneratorStream)]
    assert not [name for name in unused if name not in text]
