"""Which solver, grid and number of steps suit a model: distance to the exact flow, and a score against real examples, against cost.

Every setting starts from the same noise.  The reference is where `REFERENCE` ends, a trajectory of many steps; the distance to
it is the median over the examples of the root mean square over an example's numbers, in the model's range, where values
lie between about -1 and 1.  (A median, because now and then an example falls to the other side of a divide and becomes
another picture, which says little about the solver.)  Solvers that draw noise have no one place to end at, and only a score.

The score is the Fréchet distance of the samples, as they are given (rounded, and clipped to the data's range), to examples
the model was not trained on, in a few fixed random directions, which small sets of samples can estimate.  A few samples have a large
distance even where they are perfect: the floor is that of as many real examples.  To be near to the flow is not to have a
good score: a young network knows small noise badly, and a grid that jumps over it leaves that out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from undiffuse.config import changed
from undiffuse.errors import UsageError
from undiffuse.evaluation.distances import frechet_distance
from undiffuse.evaluation.jackknife import Estimate, jackknife
from undiffuse.models.model import Model
from undiffuse.process.levels import Level
from undiffuse.process.posteriors import DenoiserFn, Posterior
from undiffuse.rng import GeneratorStream, generator
from undiffuse.sampling.fitted_grids import fitted_logsnrs
from undiffuse.sampling.loop import SamplerStep, initial, trajectory
from undiffuse.sampling.overrides import SamplingOverrides
from undiffuse.sampling.settings import ONE_WAY, OWN_ENDS, OWN_SOLVER, SamplingConfig

PLAIN_SETTINGS: dict[str, Any] = {"logsnrs": None} | OWN_SOLVER | ONE_WAY | OWN_ENDS
REFERENCE: dict[str, Any] = PLAIN_SETTINGS | {"solver": "adams", "grid": "angle_beta"}
REFERENCE_SOLVER_STEPS = 120
DEFAULT_SOLVERS = ("adams", "unipc", "dpm++", "heun", "ddim")
DEFAULT_GRIDS = ("angle_beta", "trailing", "aligned")
DEFAULT_STEPS = (4, 6, 8, 10, 13, 16, 24)
FITTED_NUMBERS = 2**25  # of the reference trajectory, held to align grids
DIRECTIONS, EACH_DIRECTION = 32, 4  # at most, and samples to each at least


@dataclass(frozen=True)
class Tried:
    """A setting and what it gave.

    evaluations: of the network, for each example.   seconds: for all examples.   to_reference: see the top of this file,
    None for a solver that draws noise.   score: None without data.
    """

    sampling: SamplingConfig
    evaluations: int
    seconds: float
    to_reference: float | None
    score: Estimate | None


@dataclass(frozen=True)
class Sweep:
    """What a sweep found.

    tried: in the order requested.   n: examples.   reference: evaluations of the reference.   directions: of the score.
    floor: the score of n real examples, None where there are none to spare.   compared: real examples that the score is against.
    """

    tried: tuple[Tried, ...]
    n: int
    reference: int
    directions: int
    floor: Estimate | None = None
    compared: int = 0

    @property
    def few(self) -> bool:
        """Whether the real examples are fewer to a direction than samples must be: their own chance then counts in the score."""
        return self.compared < EACH_DIRECTION * self.directions

    def front(self) -> list[Tried]:
        """The settings that no cheaper one is as near to the reference as, cheapest first."""
        best, found = math.inf, []
        for each in sorted(
            self.tried, key=lambda t: (t.evaluations, math.inf if t.to_reference is None else t.to_reference)
        ):
            if each.to_reference is not None and each.to_reference < best:
                best = each.to_reference
                found.append(each)
        return found

    def recommended(self, tolerance: float) -> Tried | None:
        """The cheapest setting no farther than `tolerance` from the reference; the nearest of all where none is."""
        front = self.front()
        return next(
            (each for each in front if each.to_reference is not None and each.to_reference <= tolerance),
            front[-1] if front else None,
        )

    def best_score(self) -> Tried | None:
        """The cheapest setting whose score is not above the lowest by more than the standard error of the difference; None without data.

        (The rule of one standard error, Breiman et al. 1984, section 3.4.3: the samples do not tell it from the lowest.)
        """
        scored = [(t, t.score) for t in self.tried if t.score is not None]
        if not scored:
            return None
        lowest = min((score for _, score in scored), key=lambda score: score.value)
        as_good = [
            (t, score) for t, score in scored if score is lowest or (over := score.above(lowest)).value <= over.error
        ]
        return min(as_good, key=lambda each: (each[0].evaluations, each[1].value))[0]


def settings_for(
    model: Model,
    solvers: Sequence[str] = DEFAULT_SOLVERS,
    grids: Sequence[str] = DEFAULT_GRIDS,
    steps: Sequence[int] = DEFAULT_STEPS,
    guidance: float | None = None,
    lasts: Sequence[float | None] = (None,),
) -> list[SamplingOverrides]:
    """Every combination, as changes to the model's own sampling configuration; "aligned" still without its levels.

    lasts: sigma/alpha of the last noisy level, None for the grid's own, which "aligned" alone has.
    """
    common = PLAIN_SETTINGS if guidance is None else PLAIN_SETTINGS | {"guidance": guidance}
    ends = {grid: (None,) if grid == "aligned" else lasts for grid in grids}
    return [
        cast("SamplingOverrides", common | {"solver": s, "grid": g, "steps": k, "sigma_min": last})
        for s in solvers
        for g in grids
        for last in ends[g]
        for k in steps
    ]


def sweep(
    model: Model,
    settings: Sequence[SamplingOverrides] | None = None,
    *,
    n: int = 64,
    conditions: Mapping[str, object] | None = None,
    seed: int = 0,
    data: Tensor | None = None,
    others: Tensor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Sweep:
    """Tries settings on n examples of one seed.

    settings: each such as {"solver": "heun", "grid": "aligned", "steps": 8}, the grid "aligned" being fitted to the model; those of
    `settings_for`, several solvers, grids and steps, when None.
    conditions: as for Model.sample.
    data: real examples in the model's range, (N, C, *size), best held-out ones, for the score.   others: as many real
    examples as samples, for the floor.
    progress: called with (done, total) settings, the reference included.
    Raises UsageError for n < 2, no settings, or one that contradicts itself or the model, before anything is run.
    """
    settings = settings_for(model) if settings is None else settings
    if n < 2 or not settings:
        raise UsageError("a sweep needs at least 2 examples and 1 setting: ask for more.")
    guidance = {"guidance": settings[0]["guidance"]} if "guidance" in settings[0] else {}
    for each in settings:  # contradictions are found before the work begins
        model.sampling_config(**(each | {"grid": "trailing"} if each.get("grid") == "aligned" else each))
    index = torch.arange(n, device=model.device)

    def sampled(
        sampling: SamplingConfig, watch: Callable[[SamplerStep], None] | None = None
    ) -> tuple[Tensor, int, float]:
        denoise = _Counted(model.denoiser_fn(conditions or {}, n, sampling))
        levels = sampling.build_levels(model.schedule)
        began = time.perf_counter()
        for step in trajectory(
            initial(levels, model.codec.shape, seed, index),
            denoise,
            levels,
            sampling.build_solver(model.schedule),
            seed=seed,
            index=index,
            noise=sampling.noise_sampler,
            s_noise=sampling.s_noise,
        ):
            if watch:
                watch(step)
            end = step.x
        end = end.cpu()
        return end.double(), denoise.calls, time.perf_counter() - began

    steps = min(REFERENCE_SOLVER_STEPS, len(getattr(model.schedule, "levels", range(REFERENCE_SOLVER_STEPS + 1))) - 1)
    reference_config = changed(model.config.sampling, REFERENCE | guidance | {"steps": steps})
    few = max(2, min(n, FITTED_NUMBERS // (steps * math.prod(model.codec.shape))))
    kept: list[SamplerStep] = []
    reference, calls, _ = sampled(reference_config, lambda m: kept.append(_first(m, few)))
    mesh = reference_config.build_levels(model.schedule)
    directions = min(DIRECTIONS, max(2, n // EACH_DIRECTION), math.prod(model.codec.shape))
    basis = _directions(math.prod(model.codec.shape), directions)
    real = None if data is None else data.flatten(1).double() @ basis

    def score(x: Tensor) -> Estimate | None:
        return (
            None
            if real is None
            else jackknife(lambda rows: frechet_distance(rows, real), x.flatten(1).double() @ basis)
        )

    def given(end: Tensor) -> Tensor:
        """As the samples are given; latents as they are, since decoding costs more than sampling."""
        return end if model.codec.space else model.codec.encode(model.codec.decode(end))

    tried = []
    for done, each in enumerate(settings, start=1):
        if progress:
            progress(done, len(settings) + 1)
        sampling = model.sampling_config(**_levelled(each, kept, mesh))
        end, evaluations, seconds = sampled(sampling)
        apart = (end - reference).flatten(1).pow(2).mean(1).sqrt().median().item()
        tried.append(
            Tried(
                sampling,
                evaluations,
                seconds,
                None if sampling.build_solver(model.schedule).stochastic else apart,
                score(given(end)),
            )
        )
    if progress:
        progress(len(settings) + 1, len(settings) + 1)
    return Sweep(
        tuple(tried), n, calls, directions, None if others is None else score(others), 0 if real is None else len(real)
    )


class _Counted:
    """A Denoise that counts its evaluations."""

    def __init__(self, denoise: DenoiserFn) -> None:
        self.denoise, self.calls = denoise, 0

    def __call__(self, x_t: Tensor, level: Level) -> Posterior:
        self.calls += 1
        return self.denoise(x_t, level)


def _first(step: SamplerStep, n: int) -> SamplerStep:
    """What a fitted grid needs of a step: x̂ of its first n examples."""
    empty = step.x[:0]
    return SamplerStep(step.row, step.total, step.level, empty, step.x0[:n].cpu(), empty, None)


def _levelled(setting: SamplingOverrides, steps: list[SamplerStep], mesh: Level) -> SamplingOverrides:
    if setting.get("grid") != "aligned":
        return setting
    return {**setting, "logsnrs": tuple(fitted_logsnrs(steps, mesh, setting.get("steps", SamplingConfig().steps)))}


def _directions(size: int, count: int) -> Tensor:
    """Fixed random orthonormal directions, float64 (size, count)."""
    random = torch.randn(size, count, dtype=torch.float64, generator=generator(GeneratorStream.DIRECTIONS))
    out: Tensor = torch.linalg.qr(random)[0]
    return out
