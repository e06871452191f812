"""-log p of stored values, and its parts, from the three methods of process/likelihood/, in the data's units.

The three methods of likelihood/ work on x in the model's range.  Here their answers get the units of the data as stored.
With value = offset + scale · x, densities obey p(value) = p(x)/scale, so

    -log p(value)/d = -log p(x)/d + mean log scale.                                                               (1)

    quantised data   a probability.  Chain and continuous: the decoder integrates over bins and the answer is one already.
                     Flow: the density of values dequantised over bins of width 1, by (1).  All three are upper bounds.
    float data       a density, by (1), in nats: its bits per dimension would depend on the unit of measurement alone.

Every draw of noise, of dequantisation and of probes is a function of (seed, example, draw).  The error bar is the standard
error of the mean over the examples, which holds both how much they differ and the noise drawn; from two draws on, the
part of it that is due to the noise is known as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from undiffuse.data.codec import Codec
from undiffuse.errors import UsageError
from undiffuse.process.chains import Chain
from undiffuse.process.levels import Level
from undiffuse.process.likelihood.bound import Bins, Bound, Decoder, Density, chain_bound, normal_cdf
from undiffuse.process.likelihood.continuous import continuous_bound, edges, levels_at
from undiffuse.process.likelihood.flow import dequantised, flow_likelihood
from undiffuse.process.philox import standard_normal
from undiffuse.process.posteriors import DenoiserFn
from undiffuse.process.schedules import Schedule
from undiffuse.rng import NoiseStream

LikelihoodMethod = Literal["chain", "flow", "continuous"]
Unit = Literal["bits", "nats"]
STRATA = 64
LIKELIHOOD_CHUNK = 256
METHODS = ("chain", "flow", "continuous")


@dataclass(frozen=True)
class Term:
    """A summand of -log p in nats/dim, the mean over examples and draws.

    kind: prior, step, path (of a flow), decoder, or units (eq. 1, and a flow's last rescaling).
    ratio: sigma/alpha of the level it belongs to, between the ends of a stretch.   label: what the network's clock says there.
    """

    kind: str
    ratio: float
    label: float
    nats: float


@dataclass(frozen=True)
class Likelihood:
    """-log p of N examples.

    estimates: nats/dim, float64 (draws, N).    terms: noisiest first; their sum is `mean` in nats.
    quantised: a probability if True, a density if False (see `in_unit`).    decoder: tanh, exact or density; None for a flow.
    evaluations: of the denoiser, for each example and draw.
    """

    method: LikelihoodMethod
    estimates: Tensor
    terms: tuple[Term, ...]
    quantised: bool
    decoder: str | None
    evaluations: int

    @property
    def examples(self) -> Tensor:
        """The mean over draws for each example, nats/dim (N,)."""
        return self.estimates.mean(0)

    @property
    def mean(self) -> float:
        """The mean over examples, in the unit."""
        return self.examples.mean().item()

    @property
    def error(self) -> float | None:
        """Standard error of `mean` over the examples, nats/dim; None for a single one."""
        n = len(self.examples)
        return self.examples.std().item() / math.sqrt(n) if n > 1 else None

    @property
    def noise_error(self) -> float | None:
        """The part of `error` that more draws would remove; None for a single draw."""
        draws, n = self.estimates.shape
        return (self.estimates.var(0).sum() / draws).sqrt().item() / n if draws > 1 else None

    def sums(self) -> dict[str, float]:
        """The terms added up by kind, nats/dim, in order."""
        return {
            kind: math.fsum(term.nats for term in terms) for kind, terms in groupby(self.terms, lambda term: term.kind)
        }


def estimate(
    given: Callable[[slice], DenoiserFn],
    schedule: Schedule,
    codec: Codec,
    values: np.ndarray | Tensor,
    *,
    method: LikelihoodMethod,
    draws: int = 1,
    seed: int = 0,
    decoder: Literal["tanh", "exact"] | None = None,
    steps: int | None = None,
    exact_divergence: bool = False,
    device: torch.device | None = None,
    progress: Callable[[float, float], None] | None = None,
) -> Likelihood:
    """-log p of stored values (N, C, *size), under the denoiser that `given` returns for a slice of them.

    draws: repetitions with other noise.   decoder: the bins' form, tanh (published numbers, the default) or exact.
    steps: of a chain, evenly respaced (all of them by default), or the strata of the integral in continuous time (64).
    exact_divergence: one derivative per dimension instead of a probe, for flows.   progress: called with (done, total).

    Raises UsageError for values of another shape or range, that are not finite, or not whole where the model's are;
    and for settings that the method does not have.
    """
    _refuse(method, schedule, codec, draws, decoder, steps, exact_divergence)
    raw = _checked(codec, values)
    quantised = codec.config.bins is not None
    form = None if method == "flow" else (decoder or "tanh") if quantised else "density"
    units = sum(math.log(scale) for scale in codec.config.scale) / len(codec.config.scale)
    total = draws * -(-len(raw) // LIKELIHOOD_CHUNK)
    estimates, terms, evaluations = torch.zeros(draws, len(raw), dtype=torch.float64), [], 0
    with torch.no_grad():
        for start in range(0, len(raw), LIKELIHOOD_CHUNK):
            rows = slice(start, min(start + LIKELIHOOD_CHUNK, len(raw)))
            x, index = codec.encode(raw[rows]).to(device), torch.arange(rows.start, rows.stop, device=device)
            for draw in range(draws):
                done = (start // LIKELIHOOD_CHUNK) * draws + draw

                def watch(share: float, done: int = done) -> None:
                    if progress:
                        progress(done + share, total)

                source = _Source(tuple(x.shape[1:]), seed, index, draw, watch)
                if method == "flow":
                    part, found, calls = _by_flow(given(rows), schedule, codec, x, source, exact_divergence)
                else:
                    bins: Decoder = (
                        Density()
                        if codec.bins is None
                        else Bins(codec.bins, form="exact" if form == "exact" else "tanh")
                    )
                    part, found, calls = _by_bound(given(rows), schedule, x, source, method, bins, steps)
                estimates[draw, rows] = part.cpu().double() + (0.0 if quantised and method != "flow" else units)
                terms.append((len(x), found))
                evaluations = max(evaluations, calls)
                watch(1.0)
    averaged = _averaged(terms)
    if not quantised or method == "flow":
        averaged.append(Term("units", 0.0, -1.0, units))
    return Likelihood(method, estimates, tuple(averaged), quantised, form, evaluations)


def _refuse(
    method: str,
    schedule: Schedule,
    codec: Codec,
    draws: int,
    decoder: str | None,
    steps: int | None,
    exact_divergence: bool,
) -> None:
    """Settings that contradict each other, each in a sentence."""
    if method not in METHODS:
        raise UsageError(f"there is no likelihood by {method!r}: choose chain, flow or continuous.")
    if method == "chain" and not isinstance(schedule, Chain):
        raise UsageError("this model's schedule is continuous and has no chain: use the method continuous, or flow.")
    if draws < 1:
        raise UsageError(f"{draws} draws give no estimate: take at least 1.")
    if decoder not in (None, "tanh", "exact"):
        raise UsageError(f"there is no decoder {decoder!r}: choose tanh or exact.")
    if decoder and method == "flow":
        raise UsageError("a flow has no decoder, it is the density of dequantised values: leave the decoder out.")
    if decoder and codec.config.bins is None:
        raise UsageError("float data has no bins, so its decoder has one form alone: leave the decoder out.")
    if exact_divergence and method != "flow":
        raise UsageError(f"the method {method} has no divergence: use the method flow, or leave it out.")
    if steps is not None and method == "flow":
        raise UsageError("a flow takes the steps its tolerance asks for: leave the steps out.")
    most = len(schedule) if method == "chain" and isinstance(schedule, Chain) else None
    if steps is not None and (steps < 1 or (most and steps > most)):
        raise UsageError(
            f"{steps} steps cannot be taken: choose at least 1{f' and at most the {most} of the chain' if most else ''}."
        )


def _checked(codec: Codec, values: np.ndarray | Tensor) -> Tensor:
    """The values as a tensor, all of them such that the codec's x stands for exactly them."""
    raw = codec.config.carried(values)
    if not len(raw):
        raise UsageError("there are no examples to find the likelihood of: give at least 1.")
    codec.encode(raw)
    if not raw.isfinite().all():
        raise UsageError(f"the data holds {int((~raw.isfinite()).sum())} values that are NaN or infinite: remove them.")
    if codec.config.bins is not None and (raw != raw.round()).any():
        odd = raw[raw != raw.round()][0].item()
        raise UsageError(
            f"the model's values are whole numbers, but these hold {odd:g}: give the data as it was stored, before any scaling."
        )
    return raw


@dataclass(frozen=True)
class _Source:
    """What is random in one draw of some examples, and the function that its progress is reported to."""

    shape: Sequence[int]
    seed: int
    index: Tensor
    draw: int
    watch: Callable[[float], None]

    def noises(self, count: int) -> Iterator[Tensor]:
        for k in range(count):
            self.watch(k / count)
            yield standard_normal(
                self.shape, self.seed, self.index, self.draw * count + k, NoiseStream.LIKELIHOOD_NOISE
            )

    def shares(self, count: int) -> Iterator[Tensor]:
        """Uniform numbers in (0, 1), (B,) each: the normal integral of normals."""
        for k in range(count):
            yield normal_cdf(
                standard_normal((1,), self.seed, self.index, self.draw * count + k, NoiseStream.LIKELIHOOD_PLACE)
            )[:, 0]

    def places(self) -> Tensor:
        """Uniform numbers in (0, 1), (B, *shape)."""
        return normal_cdf(standard_normal(self.shape, self.seed, self.index, self.draw, NoiseStream.LIKELIHOOD_PLACE))

    def signs(self) -> Tensor:
        """One probe of independent signs for each example, (1, B, *shape)."""
        normals = standard_normal(self.shape, self.seed, self.index, self.draw, NoiseStream.LIKELIHOOD_PROBE)
        return torch.where(normals < 0, -1.0, 1.0)[None]


def _by_bound(
    denoise: DenoiserFn,
    schedule: Schedule,
    x: Tensor,
    source: _Source,
    method: LikelihoodMethod,
    decoder: Decoder,
    steps: int | None,
) -> tuple[Tensor, list[Term], int]:
    """(-log p in nats/dim (B,), the terms, evaluations) of a bound."""
    if method == "chain":
        assert isinstance(schedule, Chain)  # `_refuse` saw to it
        levels = schedule.levels
        if steps is not None:
            rows = torch.linspace(0, len(schedule) - 1, steps, dtype=torch.float64).round().long()
            levels = levels[torch.cat([rows, rows.new_tensor([len(schedule)])])]
        count = len(levels) - 1
        bound = chain_bound(denoise, x, levels, source.noises(count), decoder)
        return bound.total, _terms(bound, levels[0], levels[:-1]), count
    strata = steps or STRATA
    bound = continuous_bound(denoise, schedule, x, source.shares(strata), source.noises(strata + 1), decoder, strata)
    logsnrs = edges(schedule, strata)
    middles = levels_at(schedule, torch.cat([(logsnrs[1:] + logsnrs[:-1]) / 2, logsnrs[-1:]]))
    return bound.total, _terms(bound, levels_at(schedule, logsnrs[0]), middles), strata + 1


def _terms(bound: Bound, noisiest: Level, levels: Level) -> list[Term]:
    """levels: of each row of the bound's steps, the last the decoder's."""
    ratios, labels, nats = (
        levels.sigma_edm.tolist(),
        levels.timestep.tolist(),
        bound.steps.cpu().double().mean(1).tolist(),
    )
    steps = [Term("step", *row) for row in zip(ratios[:-1], labels[:-1], nats[:-1], strict=True)]
    prior = Term("prior", noisiest.sigma_edm.item(), noisiest.timestep.item(), bound.prior.cpu().double().mean().item())
    return [prior, *steps, Term("decoder", ratios[-1], labels[-1], nats[-1])]


def _by_flow(
    denoise: DenoiserFn, schedule: Schedule, codec: Codec, x: Tensor, source: _Source, exact_divergence: bool
) -> tuple[Tensor, list[Term], int]:
    """The same of the flow's density of x, of dequantised x where the data is quantised."""
    if codec.config.bins is not None:
        x = dequantised(x, source.places(), 1 / codec.scale.to(x))
    found = flow_likelihood(denoise, schedule, x, None if exact_divergence else source.signs(), watch=source.watch)
    between = levels_at(schedule, (found.levels.logsnr[1:].clamp(max=60) + found.levels.logsnr[:-1].clamp(min=-60)) / 2)
    nats = found.path.cpu().double().mean((1, 2)).tolist()
    path = [Term("path", *row) for row in zip(between.sigma_edm.tolist(), between.timestep.tolist(), nats, strict=True)]
    noisiest = found.levels[0]
    prior = Term("prior", noisiest.sigma_edm.item(), noisiest.timestep.item(), found.prior.cpu().double().mean().item())
    return found.total[0], [prior, *path, Term("units", 0.0, -1.0, found.scale)], found.evaluations


def _averaged(parts: Sequence[tuple[int, list[Term]]]) -> list[Term]:
    """The mean of the terms of several draws and chunks, each weighted by its number of examples."""
    count = sum(n for n, _ in parts)
    rows = zip(*(terms for _, terms in parts), strict=True)
    return [
        Term(
            row[0].kind,
            row[0].ratio,
            row[0].label,
            math.fsum(n * term.nats for (n, _), term in zip(parts, row, strict=True)) / count,
        )
        for row in rows
    ]
