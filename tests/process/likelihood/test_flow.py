"""The flow's likelihood against exact log-densities, matrix logarithms and sums over every probe."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy import stats

from undiffuse.process import betas as B
from undiffuse.process.chains import Chain
from undiffuse.process.levels import Level
from undiffuse.process.likelihood.flow import dequantised, flow_likelihood
from undiffuse.process.oracles import Mixture
from undiffuse.process.posteriors import Posterior
from undiffuse.process.probability_flow import angle_of, norm_of
from undiffuse.process.schedules import EDM, VP, Cosine, Flow, Schedule, SubVP

d = torch.float64
MIXTURE = Mixture(
    torch.tensor([0.3, 0.5, 0.2], dtype=d),
    torch.tensor([[-0.7, 0.2], [0.5, 0.6], [0.1, -0.8]], dtype=d),
    torch.tensor([[[0.09, 0.03], [0.03, 0.05]], [[0.04, -0.02], [-0.02, 0.08]], [[0.2, 0.0], [0.0, 0.02]]], dtype=d),
)
CORRELATED = Mixture.gaussian(torch.tensor([0.2, -0.1], dtype=d), torch.tensor([[0.5, 0.3], [0.3, 0.4]], dtype=d))
SCHEDULES: dict[str, Schedule] = {
    "linear": Chain(B.linear_betas(1000)),
    "cosine-50": Chain(B.cosine_betas(50)),
    "vp": VP(),
    "sub_vp": SubVP(),
    "edm": EDM(),
    "flow": Flow(),
    "continuous cosine": Cosine(),
}
TIGHT = {"rtol": 1e-8, "atol": 1e-8}


def ends(schedule: Schedule) -> tuple[Level, Level]:
    return schedule(schedule.t_min), schedule(schedule.t_max)


def density_of_y(mixture: Mixture, level: Level):
    """The exact log-density of y = x_t / norm."""
    return lambda y: mixture.log_density(y * norm_of(level), level) + y.shape[1] * norm_of(level).log()


@pytest.mark.parametrize("name", SCHEDULES)
def test_it_is_the_exact_log_density_of_a_mixture(name):
    """With the mixture's own density at the noisiest level: p(x) = p(x_t = alpha x) alpha^d at the least noisy one."""
    schedule = SCHEDULES[name]
    least, most = ends(schedule)
    x = MIXTURE.sample(40, torch.Generator().manual_seed(0))
    found = flow_likelihood(MIXTURE, schedule, x, log_prior=density_of_y(MIXTURE, most), **TIGHT)
    exact = (MIXTURE.log_density(least.alpha * x, least) + 2 * least.alpha.log()) / 2
    assert (found.total[0] + exact).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["linear", "edm", "flow"])
def test_what_the_gaussian_prior_costs_is_predicted(name):
    """On Gaussian data the flow is linear: y_1 = cos(phi_1) m + sqrt(C_1/C_0) (y_0 - cos(phi_0) m), C = cos² s² + sin²."""
    schedule = SCHEDULES[name]
    mean, deviation = 0.6, 0.3
    exact = Mixture.gaussian(torch.tensor([mean], dtype=d), torch.tensor([[deviation**2]], dtype=d))
    (cos0, C0), (cos1, C1) = [
        (p.cos(), (p.cos() * deviation) ** 2 + p.sin() ** 2) for p in map(angle_of, ends(schedule))
    ]
    x = torch.linspace(-0.5, 1.5, 9, dtype=d)[:, None]
    y_1 = cos1 * mean + (C1 / C0).sqrt() * cos0 * (x - mean)
    predicted = torch.from_numpy(stats.norm.logpdf(y_1.numpy())) + 0.5 * (C1 / C0).log() + cos0.log()
    assert (flow_likelihood(exact, schedule, x, **TIGHT).total[0] + predicted[:, 0]).abs().max() < 1e-5


def test_the_mean_over_all_probes_is_the_exact_divergence():
    """In two dimensions there are four vectors of signs, and the mean of e'Ae over them is the trace."""
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=2)), dtype=d)
    x = MIXTURE.sample(10, torch.Generator().manual_seed(1))
    probed = flow_likelihood(MIXTURE, VP(), x, signs[:, None].expand(4, 10, 2), **TIGHT).total
    exact = flow_likelihood(MIXTURE, VP(), x, **TIGHT).total[0]
    assert (probed.mean(0) - exact).abs().max() < 1e-5  # other steps, each within what the test above allows
    assert probed.std(0).max() > 1e-3  # one probe is an estimate


def test_the_probe_is_held_along_the_whole_path():
    """On Gaussian data the integral of e'(dv/dy)e for a fixed e is e'[log C_1 - log C_0]e / 2, C = cos² S + sin² I.

    S has off-diagonal elements, so each probe has an integral of its own; one redrawn on the way would give something else.
    """
    schedule, x = VP(), CORRELATED.sample(6, torch.Generator().manual_seed(2))
    s, V = torch.linalg.eigh(CORRELATED.covariances[0])
    phi = [angle_of(level) for level in ends(schedule)]
    logs = [V @ torch.diag((p.cos() ** 2 * s + p.sin() ** 2).log()) @ V.T for p in phi]
    before = torch.random.get_rng_state()
    for probe in (torch.tensor([1.0, 1.0], dtype=d), torch.tensor([1.0, -1.0], dtype=d)):
        found = flow_likelihood(CORRELATED, schedule, x, probe.expand(1, 6, 2), **TIGHT)
        integral = 0.5 * probe @ (logs[1] - logs[0]) @ probe
        assert (found.path.sum(0) + integral / 2).abs().max() < 1e-6
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_path_is_read_off_between_the_ends_and_adds_up():
    """On Gaussian data each stretch is -[log C_k+1 - log C_k]/2 per dimension."""
    deviation, schedule = 0.4, Flow()
    exact = Mixture.gaussian(torch.zeros(1, dtype=d), torch.tensor([[deviation**2]], dtype=d))
    found = flow_likelihood(exact, schedule, torch.tensor([[0.3]], dtype=d), stops=9, **TIGHT)
    phi = angle_of(found.levels)
    log_C = ((phi.cos() * deviation) ** 2 + phi.sin() ** 2).log()
    assert found.path.shape == (8, 1, 1)
    assert (found.path[:, 0, 0] - 0.5 * log_C.diff()).abs().max() < 1e-6
    assert phi[0].item() == pytest.approx(math.pi / 2)
    assert found.scale == -phi[-1].cos().log().item()


def test_gradients_are_found_without_anyone_asking_for_them():
    """Frozen parameters, no_grad around it, float32: a linear network with dv/dy known.

    x̂ = w x_t gives v = [cos/sin (1 - cos w) - sin w] y, whose divergence per dimension is the factor itself.
    """
    w = torch.nn.Parameter(torch.tensor(0.2), requires_grad=False)
    schedule = Cosine(logsnr_max=4.0)
    x, probe = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.ones(1, 3, 1, 4, 4)
    with torch.no_grad():
        found = flow_likelihood(lambda x_t, level: Posterior(w * x_t), schedule, x, probe)
    phi = torch.linspace(*[float(angle_of(level)) for level in ends(schedule)], 100_001, dtype=d)
    factor = phi.cos() / phi.sin() * (1 - 0.2 * phi.cos()) - 0.2 * phi.sin()
    assert found.path.sum(0) == pytest.approx(
        torch.full((1, 3), -torch.trapezoid(factor, phi).item()), abs=1e-3
    )  # 100 times the tolerance
    assert not found.total.requires_grad


def test_an_example_does_not_depend_on_the_others_beyond_the_tolerance():
    x = MIXTURE.sample(8, torch.Generator().manual_seed(3))
    together = flow_likelihood(MIXTURE, VP(), x, **TIGHT).total[0]
    alone = torch.stack([flow_likelihood(MIXTURE, VP(), x[i : i + 1], **TIGHT).total[0, 0] for i in range(8)])
    assert (together - alone).abs().max() < 1e-6


def test_progress_is_told_from_start_to_end():
    heard: list[float] = []
    flow_likelihood(MIXTURE, VP(), MIXTURE.means, watch=heard.append)
    assert heard == sorted(heard)
    assert heard[0] < 0.05
    assert heard[-1] > 0.99


def test_dequantisation_fills_each_bin_and_no_other():
    x, width = torch.linspace(-1, 1, 5, dtype=d), 0.5
    low, high = (dequantised(x, torch.full((5,), share, dtype=d), width) for share in (0.0, 1.0))
    assert torch.allclose(high[:-1], low[1:])
    assert torch.allclose((low + high) / 2, x)
