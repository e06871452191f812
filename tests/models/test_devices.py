"""Devices: one without float64 gives the same bits, one that cannot be used is refused in a sentence, and GPUs resume exactly by a flag."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.small import tiny_model
from tests.training.test_loop import batches, finished, same, training_loop
from tests.without_float64 import MPS, apple, moved
from undiffuse.conditioning.probe import effect
from undiffuse.errors import Failure, UsageError
from undiffuse.evaluation.likelihood import likelihood
from undiffuse.models import inverse_problems
from undiffuse.models.devices import usable_device
from undiffuse.models.inverse_methods import InverseMethod
from undiffuse.process.levels import Level, broadcast_to
from undiffuse.process.likelihood.flow import flow_likelihood
from undiffuse.process.philox import standard_normal
from undiffuse.process.posteriors import FixedVariance, Posterior
from undiffuse.process.schedules import Flow
from undiffuse.runs.choose_design import design_settings
from undiffuse.sampling.inversion import slerp
from undiffuse.sampling.loop import trajectory
from undiffuse.sampling.noise_estimates import by_likelihood
from undiffuse.sampling.solvers.adaptive import Adaptive
from undiffuse.training.deterministic import deterministic
from undiffuse.training.timesteps import make_timestep_sampler
from undiffuse.training.validation import ValidationSet

X = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_the_played_device_refuses_float64_and_tensors_of_the_cpu():
    with apple():
        x = X.to("mps")
        assert x.device == (2 * x).device == torch.arange(3, device=x.device).device == MPS
        assert type(x.cpu()) is torch.Tensor
        with pytest.raises(TypeError, match="float64"):
            x.double()
        with pytest.raises(TypeError, match="float64"):
            torch.zeros(3, dtype=torch.float64, device=x.device)
        with pytest.raises(RuntimeError, match="same device"):
            x + X


@pytest.mark.parametrize("step", [3, torch.tensor([1, 2, 9])])
def test_noise_is_the_same_on_a_device_without_float64(step):
    index = torch.tensor([0, 5, 2])
    with apple():
        there = standard_normal((1, 5), 7, index.to("mps"), step if isinstance(step, int) else step.to("mps"), 4)
        assert there.device == MPS
        assert torch.equal(there.cpu(), standard_normal((1, 5), 7, index, step, 4))


@pytest.mark.parametrize(
    ("solver", "noise"),
    [
        ("adams", "independent"),
        ("ddpm", "independent"),
        ("sa", "brownian"),
        ("dpm++_sde", "brownian"),
        ("unipc", "independent"),
        ("pc", "independent"),
        ("plms", "independent"),
        ("edm", "independent"),
    ],
)
def test_sampling_is_the_same_on_a_device_without_float64(solver, noise):
    expected = tiny_model().sample(2, {"class": "dog"}, steps=3, solver=solver, noise_sampler=noise)
    model = tiny_model()
    moved(model.denoiser)
    with apple():
        assert model.device == MPS
        assert torch.equal(
            torch.as_tensor(model.sample(2, {"class": "dog"}, steps=3, solver=solver, noise_sampler=noise)), expected
        )


@pytest.mark.parametrize("method", ["chain", "continuous"])
def test_likelihood_is_the_same_on_a_device_without_float64(method):
    values = ((X[:1].clamp(-1, 1) + 1) * 127.5).to(torch.uint8).numpy()
    here, there = tiny_model(), tiny_model()
    moved(there.denoiser)
    expected = likelihood(here, values, method=method, steps=3).mean
    with apple():
        assert likelihood(there, values, method=method, steps=3).mean == expected


def test_adaptive_paths_are_near_the_same_on_a_device_without_float64():
    """Times are float32 there, so steps are chosen a little differently."""
    schedule = Flow()

    def denoise(x_t, level):  # exact for x ~ N(0, I)
        return Posterior(broadcast_to(level.alpha / (level.alpha**2 + level.sigma**2), x_t) * x_t, FixedVariance(0.0))

    def walked(x):
        levels = schedule([0.7, 0.3]).and_clean()
        *_, last = trajectory(
            x,
            denoise,
            levels,
            Adaptive(schedule),
            seed=0,
            index=torch.arange(len(x), device=x.device),
            noise="independent",
        )
        found = flow_likelihood(denoise, schedule, x, torch.ones_like(x)[None], rtol=1e-3, atol=1e-3)
        return last.x, found.total

    expected = walked(X[:1])
    with apple():
        for there, here in zip(walked(X[:1].to("mps")), expected, strict=True):
            assert there.device == MPS
            torch.testing.assert_close(there.cpu(), here, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", ["exact", "dps", "replace", "repaint"])
def test_inverse_problems_are_the_same_on_a_device_without_float64(method):
    hidden, values = torch.ones(8, 8, dtype=torch.bool).tril(), ((X[:2].clamp(-1, 1) + 1) * 127.5).to(torch.uint8)
    here, there = tiny_model(), tiny_model()
    moved(there.denoiser)
    approach = InverseMethod(method=method)
    expected = inverse_problems.inpaint(here, values, hidden, method=approach, steps=3).values
    with apple():
        assert torch.equal(
            torch.as_tensor(inverse_problems.inpaint(there, values, hidden, method=approach, steps=3).values),
            expected,
        )


def test_the_sphere_is_the_same_on_a_device_without_float64():
    with apple():
        there = slerp(X.to("mps"), X.flip(0).to("mps"), 0.3)
        assert there.device == MPS
        assert torch.equal(there.cpu(), slerp(X, X.flip(0), 0.3))


def test_what_is_measured_in_training_is_the_same_on_a_device_without_float64():
    model = tiny_model()
    values = {"class": torch.tensor([0, 1, 2])}
    bank = ValidationSet.of(X, values, model.schedule)

    def measured(model, bank):
        denoiser = model.denoiser
        level = model.schedule(40.0)
        sampler = make_timestep_sampler("loss_aware", model.schedule, True)
        sampler.update(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), bank.x.square().flatten(1).mean(1))
        with torch.no_grad():
            return (
                bank.errors(denoiser.bind(bank.values)),
                bank.effects(denoiser.bind, ["class"]),
                effect(lambda told: denoiser(bank.x, level, told).mean, bank.values, "class"),
                sampler.state,
                by_likelihood(
                    bank.x,
                    denoiser.bind(bank.values),
                    Level(*(v[[10, 40, 80]] for v in vars(model.schedule.levels).values())),
                ),
            )

    here = measured(model, bank)
    there_model = tiny_model()
    moved(there_model.denoiser)
    with apple():
        there = measured(
            there_model,
            ValidationSet(X.to("mps"), {"class": values["class"].to("mps")}, bank.eps.to("mps"), bank.levels),
        )
    assert torch.equal(here[0], there[0])
    assert here[1:3] == there[1:3]
    # a processor may add float32 in another order where memory lies otherwise; of a double that is 2^-24 of one of many addends
    torch.testing.assert_close(here[4], there[4], rtol=2**-24, atol=0)
    assert all(torch.equal(value, there[3][name]) for name, value in here[3].items())


@pytest.mark.parametrize("name", ["meta", "mps", "cuda:99", "nowhere"])
def test_a_device_that_does_not_work_is_refused_in_a_sentence(name):
    with pytest.raises(UsageError, match=f"the device '{name}' cannot be used here") as refused:
        usable_device(name)
    assert len(str(refused.value)) < 400


def test_trying_a_device_draws_nothing_of_the_global_generator():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    with pytest.raises(UsageError):
        usable_device("meta")
    assert usable_device("cpu") == torch.device("cpu")
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("before", [(False, False), (True, True), (True, False)])
def test_deterministic_algorithms_are_torchs_setting_during_a_step_alone(before):
    seen = []
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    try:
        t = training_loop(steps=2, deterministic=True)
        for _ in t.updates(lambda step: seen.append(torch.are_deterministic_algorithms_enabled()) or batches(step)):
            state = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
            assert state == before
        assert seen == [True, True]
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_deterministic_run_of_latents_trains_its_autoencoder_so_as_well():
    asked = {"training.deterministic": True}
    assert design_settings(asked, latent=4) == asked | {"latent.training.deterministic": True}
    assert design_settings(asked, latent=Path("sd-vae")) == design_settings(asked) == asked


def test_deterministic_algorithms_change_no_bit_on_a_cpu():
    assert same(finished(training_loop(steps=4))[0], finished(training_loop(steps=4, deterministic=True))[0])


def test_an_operation_without_a_deterministic_algorithm_ends_in_a_sentence():
    with (
        pytest.raises(
            Failure, match=r"^training.deterministic cannot be kept .*avg_pool3d_backward_cuda.*use the CPU\.$"
        ),
        deterministic(True),
    ):
        raise RuntimeError("avg_pool3d_backward_cuda does not have a deterministic implementation, but you set …")
    assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(RuntimeError, match="something else"), deterministic(True):
        raise RuntimeError("something else")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_resuming_on_a_gpu_changes_no_bit():
    def on_gpu():
        return training_loop(steps=12, deterministic=True, on="cuda")

    def there(step):
        x, values = batches(step)
        return x.cuda(), {name: value.cuda() for name, value in values.items()}

    whole, _ = finished(on_gpu(), there)
    first = on_gpu()
    for update in first.updates(there):
        if update.step == 5:
            break
    second = on_gpu()
    second.resume(first.tensors(), first.numbers())
    assert same(whole, finished(second, there)[0])
