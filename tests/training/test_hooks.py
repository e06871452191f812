"""Hooks: called when they are due and once at the end, changing no bit, and ending no training by a failure of theirs."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from tests.small import TINY
from tests.training.test_loop import batches, same, training_loop
from undiffuse.conditioning.base import Note
from undiffuse.errors import UsageError
from undiffuse.training.fit import fit
from undiffuse.training.hooks import Every, Guarded, at_end

DROPOUT = TINY.model_copy(update={"dropout": 0.3})


def steps_of(hook_of, steps=12, **settings):
    """(step, done) of every call of a hook that is made of a function."""
    calls = []
    for _ in fit(
        training_loop(steps, **settings), batches, [hook_of(lambda _, update: calls.append((update.step, update.done)))]
    ):
        pass
    return calls


def test_a_hook_is_called_at_multiples_of_its_steps_and_once_at_the_end():
    assert [step for step, _ in steps_of(Every(steps=5), 12)] == [5, 10, 12]
    assert [step for step, _ in steps_of(Every(steps=5), 10)] == [5, 10]
    assert [step for step, _ in steps_of(lambda function: function, 4)] == [
        1,
        2,
        3,
        4,
    ]  # a plain function: every update
    assert steps_of(at_end) == [(12, 1.0)]


def test_the_end_is_marked_also_where_a_hook_uses_up_the_time():
    calls = steps_of(Every(steps=3), None, budget=0.4)
    assert [done for _, done in calls[:-1]] == [done for _, done in calls[:-1] if done < 1]
    assert calls[-1][1] == 1.0
    loop = training_loop(None, budget=1000.0)

    def slow(loop, update):
        if update.step == 2 and update.done < 1:
            loop.config = loop.config.model_copy(update={"budget": 1e-9})  # as if it had taken all the time there is
        seen.append(update.done >= 1)

    seen = []
    assert [update.step for update in fit(loop, batches, [slow])] == [1, 2]
    assert seen == [False, False, True]


def test_a_training_that_is_done_calls_the_hooks_of_its_end_alone():
    loop = training_loop(3)
    for _ in fit(loop, batches):
        pass
    calls = []
    assert list(fit(loop, batches, [lambda _, update: calls.append(update)])) == []
    (only,) = calls
    assert (only.step, only.done, math.isnan(only.loss)) == (3, 1.0, True)


def draws(loop, update):
    torch.manual_seed(update.step)
    torch.rand(3)


def trains(loop, update):
    loop.learner.module.train()


def samples(loop, update):
    with torch.no_grad(), loop.ema.swapped():
        loop.learner.denoiser(torch.randn(2, 1, 8, 8), loop.schedule([3.0]), {"class": torch.tensor([0, 1])})


def steps_backwards(loop, update):
    loop.learner.module.train()
    x, values = batches(update.step)
    loop.learner.denoiser(x, loop.schedule([3.0]), values).mean.square().mean().backward()


def cuts_gradients_loose(loop, update):
    loop.learner.module.zero_grad(set_to_none=True)
    loop.optimizer.zero_grad(set_to_none=True)


def records_nothing(loop, update):
    torch.set_grad_enabled(False)


def fails(loop, update):
    trains(loop, update)
    torch.rand(1)
    raise RuntimeError("out of memory")


HOOKS = [draws, trains, samples, steps_backwards, cuts_gradients_loose, records_nothing, fails]


@pytest.mark.parametrize("network", [None, DROPOUT], ids=["no dropout", "dropout"])
@pytest.mark.parametrize("hook", [*HOOKS, None], ids=lambda hook: getattr(hook, "__name__", "all"))
def test_hooks_change_no_bit(hook, network):
    alone, watched = training_loop(6, network), training_loop(6, network)
    for _ in fit(alone, batches):
        pass
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        for _ in fit(watched, batches, HOOKS if hook is None else [hook]):
            assert torch.is_grad_enabled()
            assert not any(module.training for module in watched.learner.module.modules())
            if network is None:  # otherwise every update seeds the generator anew
                assert torch.equal(torch.random.get_rng_state(), before)
    assert same(alone.tensors(), watched.tensors())
    assert not same(alone.tensors(), training_loop(6, network).tensors())


def test_a_hook_that_fails_is_reported_by_name_after_saving_and_the_others_are_called():
    events = []
    checkpoint = Every(seconds=1e9)(lambda _, update: events.append(("saved", update.step)))

    @Every(steps=2)
    def wandb(loop, update):
        events.append(("failed", update.step))
        raise KeyError("run")

    hooks = [wandb, Every(steps=2)(lambda _, update: events.append(("called", update.step)))]
    with pytest.warns(
        Note,
        match=r"the hook 'wandb' failed \(KeyError: 'run'; test_hooks.py, line \d+\); all that was trained is saved",
    ) as told:
        assert [update.step for update in fit(training_loop(4), batches, hooks, checkpoint)] == [1, 2, 3, 4]
    first = [("failed", 2), ("saved", 2), ("called", 2)]
    assert events == [*first, ("saved", 4), ("failed", 4), ("called", 4)]  # saved at the first failure, and at the end
    assert len(told) == 2


def test_a_hook_that_cannot_say_whether_it_is_due_is_reported_and_not_called():
    class Broken:
        name = "broken"

        def due(self, update):
            raise ZeroDivisionError("no")

        def __call__(self, loop, update):
            raise AssertionError("called although it was not due")

    with pytest.warns(Note, match="'broken' failed .ZeroDivisionError: no;"):
        assert not Guarded(Broken(), None).due(None)


def test_interrupts_pass_and_a_checkpoint_that_fails_ends_the_training():
    def interrupted(loop, update):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(fit(training_loop(2), batches, [interrupted]))

    def full(loop, update):
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        list(fit(training_loop(2), batches, [fails], Every(seconds=1e9)(full)))


@pytest.mark.parametrize("arguments", [{"steps": 0}, {"steps": 2.5}, {"seconds": -1}, {"share": 0}, {"share": 1.1}])
def test_what_is_no_cadence_or_no_hook_is_refused(arguments):
    with pytest.raises(UsageError, match="every 1 or more steps"):
        Every(**arguments)
    with pytest.raises(UsageError, match="a hook is a function"):
        fit(training_loop(2), batches, [5])


@pytest.mark.parametrize("hook", [lambda: 0, lambda loop: 0, lambda loop, update, more: 0])
def test_a_hook_that_cannot_be_called_is_refused_before_the_first_update(hook):
    with pytest.raises(UsageError, match="is called as hook\\(loop, update\\), and cannot be"):
        fit(training_loop(2), batches, [hook])
