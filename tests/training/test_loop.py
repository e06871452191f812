"""The training loop: exact resume, accumulation, clipping order, NaN, precision, and nobody watching changes it."""

from __future__ import annotations

import math

import pytest
import torch

from tests.small import tiny_config
from undiffuse.errors import Failure, UsageError
from undiffuse.process.bridges import Bridge
from undiffuse.process.likelihood.bound import Bins
from undiffuse.training.learners import DenoiserLearner
from undiffuse.training.loop import TrainingLoop
from undiffuse.training.objectives import Hybrid, Simple, VariationalBound, make_weight
from undiffuse.training.settings import TrainingConfig
from undiffuse.training.timesteps import make_timestep_sampler

DATA = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def batches(step, bad=()):
    rows = (torch.arange(8) + 8 * step) % 40
    x = DATA[rows].clone()
    if step in bad:
        x[3] = float("nan")
    return x, {"class": rows % 3}


def training_loop(steps=12, network=None, on="cpu", **settings):
    settings = {"steps": steps, "warmup": 2, "learning_rate": 1e-2, "batch_size": 8} | settings
    learned = settings.get("objective") == "hybrid"
    changes = {"variance_type": "learned_range"} if learned else {}
    config = tiny_config(**changes, **({"network": network} if network else {}))
    torch.manual_seed(0)
    denoiser, schedule = config.build()
    denoiser.to(on)
    objective = Simple(make_weight("unit", denoiser.prediction, 0.5))
    if learned:
        objective = Hybrid(objective, VariationalBound(schedule, Bridge.table(schedule.levels), Bins(256)))
    training = TrainingConfig(**settings)
    sampler = make_timestep_sampler(training.timestep_sampling, schedule, training.stratified)
    return TrainingLoop(DenoiserLearner(denoiser, objective), schedule, sampler, training)


def finished(t, source=batches):
    updates = list(t.updates(source))
    return t.tensors(), updates


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    "settings", [{}, {"timestep_sampling": "loss_aware"}, {"objective": "hybrid"}, {"accumulate": 2}]
)
@pytest.mark.parametrize("stop", [1, 5, 11])
def test_stopping_and_resuming_changes_no_bit(settings, stop):
    whole, _ = finished(training_loop(**settings))
    first = training_loop(**settings)
    for update in first.updates(batches):
        if update.step == stop:
            break
    second = training_loop(**settings)
    second.resume(first.tensors(), first.numbers())
    resumed, updates = finished(second)
    assert updates[0].step == stop + 1
    assert same(whole, resumed)


def test_the_level_sampler_hears_every_loss():
    t = training_loop(steps=5, timestep_sampling="loss_aware")
    _, updates = finished(t)
    assert int(t.sampler.state["seen"].sum()) == 5 * 8
    assert float(t.sampler.state["losses"].sum()) == pytest.approx(8 * sum(u.loss for u in updates), rel=1e-5)


def test_dropout_is_a_function_of_seed_and_step():
    from tests.small import TINY

    network = TINY.model_copy(update={"dropout": 0.3})
    whole, _ = finished(training_loop(network=network))
    torch.manual_seed(99)  # what others draw meanwhile does not matter
    again, _ = finished(training_loop(network=network))
    assert same(whole, again)


def test_micro_batches_give_the_same_update():
    """8×1 and 2×4 examples: gradients are sums of the same numbers in another order; clipped once, after the sum."""
    a, _ = finished(training_loop(steps=1, clip=1e-3))
    b, _ = finished(training_loop(steps=1, clip=1e-3, accumulate=4))
    for name in a:
        if name.startswith("exp_avg."):
            torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-9)


def test_the_gradient_is_clipped_to_the_norm_asked_for():
    t = training_loop(clip=1e-3)
    _, norm = t._gradient(*batches(0))
    assert norm > 1e-3
    clipped = math.sqrt(sum(float(p.grad.square().sum()) for p in t.learner.module.parameters()))
    assert clipped == pytest.approx(1e-3, rel=1e-3)


def test_one_bad_batch_is_skipped_and_leaves_no_trace():
    t = training_loop(steps=6)
    weights = []
    for update in t.updates(lambda step: batches(step, bad={3})):
        weights.append(t.tensors())
        assert (update.status == "skip") == (update.step == 4)
    assert same(weights[2], weights[3])
    assert not same(weights[3], weights[4])
    assert all(torch.isfinite(tensor).all() for tensor in weights[-1].values())


def test_three_bad_batches_return_to_the_snapshot_at_half_the_rate():
    t = training_loop(steps=10)
    for update in t.updates(lambda step: batches(step, bad={4, 5, 6})):
        if update.step == 2:
            kept = t.snapshot()
        if update.step == 7:
            assert update.status == "rollback"
            assert same(t.tensors(), kept)
            assert t.rate_scale == 0.5
    assert t.step == 10


def test_lasting_nan_stops_with_a_diagnosis():
    with pytest.raises(Failure, match="`learning_rate`"):
        finished(training_loop(steps=50), lambda step: batches(step, bad=range(50)))


def test_a_nan_gradient_is_never_zeroed_into_an_update():
    t = training_loop()
    before = t.tensors()
    with torch.no_grad():
        next(iter(t.learner.module.parameters())).fill_(float("nan"))
    loss, norm = t._gradient(*batches(0))
    assert not math.isfinite(loss)
    assert not math.isfinite(norm)
    assert before.keys() == t.tensors().keys()  # no optimizer state was made


def test_the_learning_rate_warms_up_and_cools_down():
    config = TrainingConfig(steps=100, learning_rate=1.0, warmup=10, cooldown=0.5)
    assert [config.learning_rate_at(step, 0.0) for step in (0, 4, 9, 50)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert [config.learning_rate_at(99, done) for done in (0.5, 0.75, 1.0)] == pytest.approx([1.0, 0.5, 0.0])


def test_a_budget_ends_the_run():
    t = training_loop(steps=None, budget=0.5)
    _, updates = finished(t)
    assert 0.5 <= t.seconds < 0.5 + 5 * updates[-1].seconds / len(updates) + 0.2
    assert updates[-1].done == 1


def test_everything_but_the_network_is_float32_under_bf16():
    t = training_loop(precision="bf16", steps=2)
    tensors, updates = finished(t)
    assert all(tensor.dtype == torch.float32 for name, tensor in tensors.items() if not name.startswith("sampler."))
    assert math.isfinite(updates[-1].loss)
    assert t.schedule.betas.dtype == torch.float64


def test_every_parameter_receives_a_gradient_also_the_variance_head():
    t = training_loop(objective="hybrid", steps=40)
    finished(t)
    head = t.learner.module.network.last.weight
    assert (head[:1] != 0).any()
    assert (head[1:] != 0).any()


def test_it_learns_one_image():
    x = DATA[:1].expand(8, 1, 8, 8)
    t = training_loop(steps=300, cooldown=0.5)
    _, updates = finished(t, lambda step: (x, {"class": torch.zeros(8, dtype=torch.int64)}))
    assert updates[-1].loss < 0.1 * updates[0].loss


def test_snapshots_are_kept_once_in_the_memory_of_the_host():
    t = training_loop(steps=6)
    before = t.snapshot()
    for update in t.updates(batches):
        if update.step == 3:
            first = {name: value.data_ptr() for name, value in t.snapshot().items()}
    kept = t.snapshot()
    assert same(kept, t.tensors())
    assert {name: value.data_ptr() for name, value in kept.items()} == first  # renewed in place: never twice in memory
    assert all(kept[name].data_ptr() == before[name].data_ptr() for name in before)
    assert all(value.device.type == "cpu" for value in kept.values())
    assert not {value.untyped_storage().data_ptr() for value in kept.values()} & {
        t.flat.parameter.data_ptr(),
        t.ema.buffer.data_ptr(),
    }


def test_a_checkpoint_of_another_network_is_refused_and_changes_nothing():
    t, before = training_loop(), training_loop().tensors()
    name = next(name for name in before if name.startswith("online.") and before[name].ndim == 2)
    for changed in (before | {name: torch.zeros(9, 9)}, {n: value for n, value in before.items() if n != name}):
        with pytest.raises(UsageError, match="another network"):
            t.resume(changed, t.numbers())
        assert same(t.tensors(), before)
