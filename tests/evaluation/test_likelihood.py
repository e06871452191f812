"""Likelihood in the data's units: against closed forms in those units, and the same whatever is judged beside it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from tests.small import images, tiny_model
from undiffuse.data.codec import Codec, CodecConfig
from undiffuse.evaluation import likelihood_estimate as measures
from undiffuse.evaluation.likelihood import in_unit, likelihood
from undiffuse.evaluation.likelihood_estimate import Likelihood, estimate
from undiffuse.process import betas as B
from undiffuse.process.chains import Chain
from undiffuse.process.likelihood.bound import LOG_2, Bins, chain_bound
from undiffuse.process.oracles import Mixture
from undiffuse.process.posteriors import ExactVariance, Posterior
from undiffuse.process.schedules import VP, Flow
from undiffuse.rng import NoiseStream
from undiffuse.sampling.guidance import clipped

FLOATS = CodecConfig(
    shape=(2, 1),
    kind="float",
    dtype="float32",
    mode=None,
    offset=(10.0, -1.0),
    scale=(4.0, 0.1),
    low=(0.0, -2.0),
    high=(20.0, 0.0),
)
WHOLE = CodecConfig(
    shape=(1, 1), kind="integer", dtype="uint8", mode=None, offset=(8.0,), scale=(8.0,), low=(0.0,), high=(16.0,)
)
DEVIATION = 0.5  # of x in the model's range


def exact(size: int):
    """The exact denoiser of N(0, DEVIATION²) in the model's range, for examples of any shape."""
    mixture = Mixture.gaussian(torch.zeros(size), DEVIATION**2 * torch.eye(size))

    def denoise(x_t, level):
        posterior = mixture(x_t.flatten(1), level)
        assert isinstance(posterior.variance, ExactVariance)
        return Posterior(
            posterior.mean.reshape(x_t.shape),
            ExactVariance(posterior.variance.variance.expand(len(x_t), -1).reshape(x_t.shape)),
        )

    return lambda rows: denoise


@pytest.mark.parametrize(
    ("method", "schedule"),
    [
        ("chain", Chain(B.linear_betas(1000))),
        ("continuous", VP()),
        ("flow", VP()),
        ("flow", Chain(B.cosine_betas(100))),
    ],
)
def test_floats_get_the_density_of_the_values_as_stored(method, schedule):
    """For N(offset, (scale/2)²) per channel the mean of -log p(value) is the entropy, whatever the units of the channels.

    Prior mismatches are below alpha_T² / 2 = 2e-5 here; the rest is the standard error, four of them.
    """
    n = 1500 if method == "chain" else 4000
    z = np.random.default_rng(0).normal(size=(n, 2, 1)).astype(np.float32)
    values = np.array(FLOATS.offset, np.float32)[:, None] + np.array(FLOATS.scale, np.float32)[:, None] * DEVIATION * z
    found = estimate(exact(2), schedule, Codec(FLOATS), values, method=method, steps=50 if method == "chain" else None)
    entropy = np.mean([stats.norm(0, DEVIATION * scale).entropy() for scale in FLOATS.scale])
    assert found.error is not None
    assert found.mean == pytest.approx(entropy, abs=4 * found.error + 1e-4)
    assert not found.quantised


def test_the_flow_of_quantised_data_is_that_of_dequantised_values():
    """-E_u log p(value + u) by quadrature, at least -log of the bin's probability, and both per bin of width 1."""
    value, n, deviation = 11.0, 6000, DEVIATION * 8
    found = estimate(exact(1), VP(), Codec(WHOLE), np.full((n, 1, 1), value), method="flow", seed=3)
    law = stats.norm(8, deviation)
    expected = -integrate.quad(law.logpdf, value - 0.5, value + 0.5)[0]
    assert found.error is not None
    assert found.mean == pytest.approx(expected, abs=4 * found.error + 1e-4)
    assert expected > -math.log(law.cdf(value + 0.5) - law.cdf(value - 0.5))
    assert found.quantised


def test_units():
    """A bit is log 2 nats; a density has none."""
    assert in_unit(None, True) == in_unit("bits", True) == ("bits", LOG_2)
    assert in_unit(None, False) == in_unit("nats", False) == in_unit("nats", True) == ("nats", 1.0)
    with pytest.raises(ValueError, match="no bits/dim"):
        in_unit("bits", False)
    with pytest.raises(ValueError, match="bits or nats"):
        in_unit("bytes", True)


@pytest.mark.parametrize("method", ["chain", "continuous"])
def test_bounds_of_quantised_data_are_near_the_probability_of_the_bin(method):
    """A Gaussian ten bins wide: for each value the bound is above -log P(bin) on average, by little.

    The data's model is the Gaussian itself; that values are whole is unknown to it, so the bound approaches the dequantised
    density, not the bin's probability, as SNR_0 grows; the chain here ends at sigma = 0.1, a bin being 1/8 wide.
    """
    n, rng = 3000, np.random.default_rng(1)
    values = np.clip(np.round(8 + DEVIATION * 8 * rng.normal(size=(n, 1, 1))), 0, 16)
    chain = Chain(B.linear_betas(100)[3:])
    found = estimate(exact(1), chain, Codec(WHOLE), values, method=method, decoder="exact")
    edges = np.arange(-0.5, 17)
    edges[0], edges[-1] = -np.inf, np.inf
    P = np.diff(stats.norm(8, DEVIATION * 8).cdf(edges))
    true = -np.log(P[values.ravel().astype(int)])
    difference = found.examples.numpy() - true
    error = difference.std() / math.sqrt(n)
    assert -4 * error < difference.mean() < 0.1


def test_the_terms_add_up_and_the_kinds_are_named():
    for method, kinds in (("chain", ["prior", "step", "decoder", "units"]), ("flow", ["prior", "path", "units"])):
        values = np.random.default_rng(0).normal(size=(7, 2, 1))
        found = estimate(exact(2), Chain(B.linear_betas(50)), Codec(FLOATS), values, method=method, draws=2)
        assert list(found.sums()) == kinds
        assert math.fsum(found.sums().values()) == pytest.approx(found.mean, abs=1e-5)
        assert found.estimates.shape == (2, 7)
        # other noise in each draw; the flow's divergence is here the same for every probe
        assert torch.equal(found.estimates[0], found.estimates[1]) == (method == "flow")


@pytest.mark.parametrize("method", ["chain", "continuous", "flow"])
def test_examples_do_not_depend_on_how_they_are_batched(monkeypatch, method):
    """To float rounding; a flow to its tolerance of 1e-5, times a hundred for what its path makes of it."""
    model, values = tiny_model(), images(7)[:, None]
    settings = {"method": method, "steps": None if method == "flow" else 6}
    together = likelihood(model, values, {"class": "dog"}, **settings).estimates
    monkeypatch.setattr(measures, "LIKELIHOOD_CHUNK", 3)
    apart = likelihood(model, values, {"class": "dog"}, **settings).estimates
    assert torch.allclose(together, apart, rtol=1e-3 if method == "flow" else 1e-5, atol=1e-5)
    assert torch.equal(apart, likelihood(model, values, {"class": ["dog"] * 7}, **settings).estimates)


def test_the_probe_of_a_flow_is_drawn_once(monkeypatch):
    """Not once for each of the dozens of evaluations: one probe and one place in the bin for each draw."""
    calls = []

    def counted(*arguments):
        calls.append(arguments)
        return drawn(*arguments)

    drawn = measures.standard_normal
    monkeypatch.setattr(measures, "standard_normal", counted)
    found = estimate(exact(1), VP(), Codec(WHOLE), np.full((4, 1, 1), 5.0), method="flow", draws=3)
    assert found.evaluations > 50
    assert len(calls) == 2 * 3


def test_error_bars_know_the_noise_from_the_examples():
    """Examples differ by deviation 2, draws by 1: of n = 4000 and 5 draws, sqrt((4 + 1/5)/n) and sqrt(1/5/n), to 5 %."""
    generator = torch.Generator().manual_seed(0)
    of_example, of_draw = (
        torch.randn(*shape, 4000, dtype=torch.float64, generator=generator) for shape in ((1,), (5,))
    )
    found = Likelihood("chain", 2 * of_example + of_draw, (), True, "tanh", 1)
    assert found.error == pytest.approx(math.sqrt(4.2 / 4000), rel=0.05)
    assert found.noise_error == pytest.approx(math.sqrt(0.2 / 4000), rel=0.05)
    single = Likelihood("chain", of_draw[:1, :1], (), True, "tanh", 1)
    assert single.error is None
    assert single.noise_error is None


def test_a_learned_variance_is_the_models_own():
    """The chain's bound of the denoiser itself, with x̂ clipped; another variance only where asked for."""
    model, values = tiny_model(variance_type="learned_range"), images(3)[:, None]
    found = likelihood(model, values, {"class": "cat"}, seed=4)
    noises = (
        measures.standard_normal((1, 8, 8), 4, torch.arange(3), k, NoiseStream.LIKELIHOOD_NOISE) for k in range(100)
    )
    told = {"class": torch.zeros(3, dtype=torch.int64)}
    assert isinstance(model.schedule, Chain)
    expected = chain_bound(
        clipped(model.denoiser.bind(told), -1, 1), model.codec.encode(values), model.schedule.levels, noises, Bins(256)
    )
    assert torch.allclose(found.estimates[0], expected.total.double(), rtol=1e-5)
    fixed = likelihood(model, values, {"class": "cat"}, seed=4, variance=0.0)
    assert (fixed.estimates - found.estimates).abs().min() > 1e-3


def test_a_respaced_chain_keeps_both_ends():
    found = estimate(exact(2), Chain(B.linear_betas(1000)), Codec(FLOATS), np.zeros((2, 2, 1)), method="chain", steps=5)
    labels = [term.label for term in found.terms if term.kind in ("step", "decoder")]
    assert labels == [999, 749, 499, 250, 0]  # rows 0, 249.75, 499.5, 749.25, 999 of the table, rounded, half to even


@pytest.mark.parametrize(
    ("codec", "schedule", "values", "settings", "words"),
    [
        (FLOATS, Flow(), np.zeros((1, 2, 1)), {"method": "chain"}, "continuous and has no chain"),
        (FLOATS, Flow(), np.zeros((1, 2, 1)), {"method": "guess"}, "choose chain, flow or continuous"),
        (FLOATS, Flow(), np.zeros((0, 2, 1)), {"method": "flow"}, "give at least 1"),
        (FLOATS, Flow(), np.zeros((1, 3, 1)), {"method": "flow"}, r"shape \(2, 1\).*\(3, 1\)"),
        (FLOATS, Flow(), np.full((1, 2, 1), np.nan), {"method": "flow"}, "2 values that are NaN"),
        (FLOATS, Flow(), np.zeros((1, 2, 1)), {"method": "continuous", "decoder": "tanh"}, "no bins"),
        (FLOATS, Flow(), np.zeros((1, 2, 1)), {"method": "flow", "draws": 0}, "at least 1"),
        (FLOATS, Flow(), np.zeros((1, 2, 1)), {"method": "flow", "steps": 3}, "leave the steps out"),
        (WHOLE, Flow(), np.zeros((1, 1, 1)), {"method": "flow", "decoder": "exact"}, "no decoder"),
        (WHOLE, Flow(), np.zeros((1, 1, 1)), {"method": "continuous", "decoder": "soft"}, "tanh or exact"),
        (WHOLE, Flow(), np.zeros((1, 1, 1)), {"method": "continuous", "exact_divergence": True}, "no divergence"),
        (WHOLE, Flow(), np.full((1, 1, 1), 17), {"method": "flow"}, r"\[17, 17\].*\[0, 16\]"),
        (WHOLE, Flow(), np.full((1, 1, 1), 0.25), {"method": "flow"}, "whole numbers, but these hold 0.25"),
        (WHOLE, Chain([0.1, 0.2]), np.zeros((1, 1, 1)), {"method": "chain", "steps": 3}, "at most the 2"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(codec, schedule, values, settings, words):
    with pytest.raises(ValueError, match=words) as raised:
        estimate(exact(2), schedule, Codec(codec), values, **settings)
    assert str(raised.value).endswith(".")
    assert "\n" not in str(raised.value)


def test_a_variance_belongs_to_the_chain():
    with pytest.raises(ValueError, match="from 0"):
        likelihood(tiny_model(), images(1)[:, None], method="flow", variance=0.5)
