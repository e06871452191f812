"""A network of one schedule on another: asked at its own level of the same SNR, its belief is the same."""

from __future__ import annotations

import itertools

import pytest
import torch

from tests.process.instances import SCHEDULES
from undiffuse.process.betas import linear_betas
from undiffuse.process.chains import Chain
from undiffuse.process.levels import broadcast_to
from undiffuse.process.oracles import Mixture
from undiffuse.process.predictions import PREDICTIONS, make_prediction

MIXTURE = Mixture(
    torch.tensor([0.3, 0.7], dtype=torch.float64),
    torch.tensor([[1.0, -0.5], [-0.6, 0.4]], dtype=torch.float64),
    torch.tensor([[[0.2, 0.1], [0.1, 0.3]], [[0.05, 0.0], [0.0, 0.1]]], dtype=torch.float64),
)
NAMES = (
    "linear-1000",
    "cosine-1000",
    "cosine-100",
    "sigmoid-1000",
    "linear-zero",
    "vp",
    "sub_vp",
    "ve",
    "edm",
    "flow",
    "laplace",
    "flow-shifted",
)


class Exact:
    """The network that a perfect training on a schedule would give: it knows (c_in · x_t, label) and nothing else."""

    def __init__(self, prediction, schedule, clock_of):
        self.prediction, self.schedule, self.clock_of = prediction, schedule, clock_of

    def __call__(self, scaled, label):
        level = self.schedule(self.clock_of(label))
        row = self.prediction.affine(level)
        x_t = scaled / broadcast_to(row.c_in, scaled)
        return (MIXTURE(x_t, level).mean - broadcast_to(row.c_skip, x_t) * x_t) / broadcast_to(row.c_out, x_t)


def believed(prediction, network, x_t, level):
    row = prediction.affine(level)
    return broadcast_to(row.c_skip, x_t) * x_t + broadcast_to(row.c_out, x_t) * network(
        broadcast_to(row.c_in, x_t) * x_t, prediction.network_level(level).timestep
    )


def time_of(name):
    """From the label that the clock shows to the time."""
    if name in ("edm", "edm-shifted"):
        return lambda label: (label / 250).exp()
    return (lambda label: label) if isinstance(SCHEDULES[name], Chain) else (lambda label: label / 1000)


@pytest.mark.parametrize(("old", "new"), list(itertools.permutations(NAMES, 2)))
def test_a_network_denoises_on_another_schedule_as_it_did(old, new):
    before, after = SCHEDULES[old], SCHEDULES[new]
    share = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)
    level = after(after.nearest(after.time(share)))
    ends = before([before.t_max, before.t_min]).logsnr
    within = (level.logsnr > ends[0]) & (level.logsnr < ends[1])
    assert within.any()
    level = level[within]
    generator = torch.Generator().manual_seed(0)
    x, eps = MIXTURE.sample(len(level), generator), torch.randn(len(level), 2, generator=generator, dtype=torch.float64)
    x_t = level.alpha[:, None] * x + level.sigma[:, None] * eps
    for name in ("epsilon", "x0", "v", "flow", "edm"):
        if name == "epsilon" and before(before.t_max).alpha == 0:
            continue
        plain = make_prediction(name, before)
        network = Exact(plain, before, time_of(old))
        found = believed(make_prediction(name, after, trained_schedule=before), network, x_t, level)
        # float64, times 1/c_in · c_out of the least signal: 1e9 roundings in the worst pair
        torch.testing.assert_close(found, MIXTURE(x_t, level).mean, rtol=1e-6, atol=1e-6)


def test_levels_beyond_what_it_was_trained_on_are_asked_at_the_nearest_end():
    before, after = SCHEDULES["ve"], SCHEDULES["edm"]  # sigma from 0.01 to 50, and from 0.002 to 80
    prediction = make_prediction("v", after, trained_schedule=before)
    asked = prediction.network_level(after([after.t_max, after.t_min]))
    torch.testing.assert_close(asked.timestep, torch.tensor([1000.0, 0.0], dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", PREDICTIONS)
def test_on_its_own_schedule_nothing_changes(name):
    schedule = Chain(linear_betas(50))
    level = schedule(torch.arange(50.0))
    plain, translated = make_prediction(name, schedule), make_prediction(name, schedule, trained_schedule=schedule)
    torch.testing.assert_close(translated.network_level(level).timestep, level.timestep, rtol=0, atol=1e-9)
    for coefficient in ("c_skip", "c_out", "c_in"):
        torch.testing.assert_close(
            getattr(translated.affine(level), coefficient),
            getattr(plain.affine(level), coefficient),
            rtol=1e-9,
            atol=1e-9,
        )


def test_pure_noise_is_asked_at_the_noisiest_level_the_network_knows():
    before, after = SCHEDULES["linear-1000"], SCHEDULES["flow"]
    prediction = make_prediction(
        "epsilon", after, trained_schedule=before
    )  # undefined on flow itself, whose last level is nothing but noise
    row = prediction.affine(after(1.0))
    assert all(torch.isfinite(getattr(row, name)) for name in ("c_skip", "c_out", "c_in"))
    asked = before(999.0)
    assert (
        abs(row.c_in * 1.0 - torch.hypot(asked.alpha, asked.sigma)) < 1e-12
    )  # x_t has length 1 there, as everywhere on linear


def test_a_mean_is_asked_at_a_level_of_its_chain():
    """mu belongs to transitions of one chain: the label is one of its own, and the belief that of the nearest level."""
    before, after = Chain(linear_betas(200)), SCHEDULES["cosine-1000"]
    prediction = make_prediction("posterior_mean", after, trained_schedule=before)
    label = prediction.network_level(after(torch.arange(100.0, 900.0, 7.0))).timestep
    assert (label == label.round()).all()
