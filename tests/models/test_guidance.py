"""Guiding a model: what is asked, negative conditions, scales of their own, a weaker model, one batched evaluation, refusals."""

from __future__ import annotations

import pytest
import torch

from tests.small import randomised, tiny_config, tiny_model
from undiffuse.conditioning.classes import ClassConfig, TaskConfig
from undiffuse.conditioning.numbers import NumberConfig
from undiffuse.models.guidance import Guidance, build_denoiser, encode_request, validate
from undiffuse.process.config import ScheduleConfig
from undiffuse.sampling.classifier_guidance import Guide

TWO = {
    "class": ClassConfig(names=("cat", "dog", "7")),
    "age": NumberConfig(mean=10.0, std=2.0, low=5.0, high=15.0),
}


def walked(model, asked, pull=None, n=3, **overrides):
    config, pull = model.sampling_config(**({"clip": "none"} | overrides)), pull or Guidance()
    validate(model, config, pull)
    return build_denoiser(model, encode_request(model, asked, n, pull), config, pull)


def noise(n=3):
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def plain(model, asked, n=3):
    level = model.schedule(40.0)
    with torch.no_grad():
        return model.denoiser(noise(n), level, model.denoiser.conditions.encode(asked, n)).mean


def answer(model, *arguments, **named):
    with torch.no_grad():
        return walked(model, *arguments, **named)(noise(), model.schedule(40.0)).mean


def near(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_guidance_extrapolates_from_nothing_said():
    model = tiny_model(conditions=TWO)
    told, nothing = plain(model, {"class": "dog", "age": 12}), plain(model, {})
    near(answer(model, {"class": "dog", "age": 12}, guidance=3.0), nothing + 3 * (told - nothing))
    near(answer(model, {"class": "dog", "age": 12}), told)
    near(answer(model, {"class": "dog", "age": 12}, guidance=0.0), nothing)


def test_a_negative_condition_takes_the_place_of_nothing_said():
    model = tiny_model(conditions=TWO)
    told, away = plain(model, {"class": "dog", "age": 12}), plain(model, {"class": "cat"})
    near(
        answer(model, {"class": "dog", "age": 12}, Guidance(negative={"class": "cat"}), guidance=2.5),
        away + 2.5 * (told - away),
    )


def test_each_condition_can_have_a_scale_of_its_own():
    model = tiny_model(conditions=TWO)
    nothing, age, both = (plain(model, asked) for asked in ({}, {"age": 12}, {"class": "dog", "age": 12}))
    near(
        answer(model, {"class": "dog", "age": 12}, guidance_scales={"class": 4.0}),
        nothing + 1.0 * (age - nothing) + 4.0 * (both - age),
    )
    first = plain(model, {"class": "dog"})
    near(
        answer(model, {"class": "dog", "age": 12}, guidance_scales={"class": 4.0, "age": 2.0}),
        nothing + 4.0 * (first - nothing) + 2.0 * (both - first),
    )
    near(
        answer(model, {"class": "dog", "age": 12}, guidance_scales={"class": 3.0, "age": 3.0}),
        nothing + 3.0 * (both - nothing),
    )


def test_conditions_that_are_never_dropped_stay_in_both_halves():
    model = tiny_model(
        conditions={"class": ClassConfig(names=("cat", "dog")), "job": TaskConfig(names=("paint", "enlarge"))}
    )
    told, untold = plain(model, {"class": "dog", "job": "enlarge"}), plain(model, {"job": "enlarge"})
    near(answer(model, {"class": "dog", "job": "enlarge"}, guidance=2.0), untold + 2 * (told - untold))


def test_a_weaker_model_takes_the_place_of_nothing_said():
    model, weaker = tiny_model(0, conditions=TWO), tiny_model(1, conditions={"class": TWO["class"]})
    told, weak = plain(model, {"class": "dog", "age": 12}), plain(weaker, {"class": "dog"})
    near(
        answer(model, {"class": "dog", "age": 12}, Guidance(autoguidance=weaker), guidance=2.0),
        weak + 2 * (told - weak),
    )


class Counted(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network, self.batches = network, []

    def forward(self, x, *rest):
        self.batches.append(len(x))
        return self.network(x, *rest)


@pytest.mark.parametrize(
    ("sampling", "batches"),
    [
        ({}, [3]),
        ({"guidance": 0.0}, [3]),
        ({"guidance": 2.0}, [6]),
        ({"guidance_scales": {"class": 2.0}}, [9]),
        ({"guidance": 2.0, "guidance_scales": {"class": 2.0}}, [6]),
        ({"guidance": 2.0, "guidance_interval": [50.0, 60.0]}, [3]),
        ({"guidance": 2.0, "guidance_method": "apg"}, [6]),
        ({"guidance": 0.6, "guidance_method": "cfg++"}, [6]),
    ],
)
def test_guidance_is_one_batched_evaluation_and_costs_no_more_than_it_compares(sampling, batches):
    model = tiny_model(conditions=TWO)
    model.denoiser.network = counted = Counted(model.denoiser.network)
    answer(model, {"class": "dog", "age": 12}, **sampling)
    assert counted.batches == batches


def test_an_example_is_the_same_alone_and_in_any_batch_with_gradients_too():
    model = tiny_model()
    wanted = torch.tensor([0.3, -0.2, 0.8, 0.1, 0.5])

    def guide(index=slice(None)):
        target = wanted[index]
        return [Guide(lambda x, level, i: -((x.mean((1, 2, 3)) - target[i]) ** 2), 5.0)]

    together = model.sample(5, {"class": ["cat", "dog", "7", "cat", "dog"]}, guides=guide(), guidance=2.0)
    for k, name in enumerate(["cat", "dog", "7", "cat", "dog"]):
        alone = model.sample(1, {"class": name}, index=[k], guides=guide([k]), guidance=2.0)
        assert (together[k] - alone[0]).abs().max() <= 1  # of 255, by rounding


def test_a_gradient_moves_the_clipped_belief_which_is_then_clipped_again():
    """By scale · sigma²/alpha · gradient."""
    model, level = tiny_model(), tiny_model().schedule(40.0)
    guide = Guide(lambda x, level, index: x.mean((1, 2, 3)), 30.0)
    plain, pulled = (
        answer(model, {"class": "cat"}, Guidance(guides=guides), clip="range") for guides in ((), (guide,))
    )
    assert plain.abs().max() == 1
    near(pulled, (plain + 30.0 * (level.sigma**2 / level.alpha / 64).item()).clamp(-1, 1))
    unclipped = [answer(model, {"class": "cat"}, Guidance(guides=guides)) for guides in ((), (guide,))]
    near(unclipped[1], unclipped[0] + 30.0 * (level.sigma**2 / level.alpha / 64).item())


def test_a_guide_pulls_only_in_its_interval():
    model, level = tiny_model(), tiny_model().schedule(40.0)
    ratio = level.sigma_edm.item()
    plain = answer(model, {"class": "cat"})
    for interval, same in (((0.0, ratio * 1.01), False), ((0.0, ratio * 0.99), True), ((ratio * 1.01, 99.0), True)):
        guide = Guide(lambda x, level, index: x.mean((1, 2, 3)), 30.0, interval=interval)
        moved = (answer(model, {"class": "cat"}, Guidance(guides=(guide,))) - plain).abs().max().item()
        assert moved < 1e-5 if same else moved > 0.1  # the pull is 30 sigma²/alpha/64


@pytest.mark.parametrize("solver", ["ddpm", "ddim", "adams", "heun", "dpm++"])
def test_gradients_work_with_any_solver_and_the_mean_form_with_ancestral_steps(solver):
    model = tiny_model()
    forms = ("score", "mean") if solver == "ddpm" else ("score",)
    for form in forms:
        guides = [Guide(lambda x, level, i: x.mean((1, 2, 3)), form=form)]
        assert model.sample(2, {"class": "cat"}, guides=guides, solver=solver).shape == (2, 1, 8, 8)


UNCONDITIONAL = {"conditions": {}}


@pytest.mark.parametrize(
    ("model", "pulls", "sampling", "words"),
    [
        (UNCONDITIONAL, {}, {"guidance": 2.0}, "nothing to guide"),
        (
            {"conditions": {"class": ClassConfig(names=("cat", "dog"), dropout=0)}},
            {},
            {"guidance": 2.0},
            "without ever dropping",
        ),
        ({}, {"negative": {"class": "cat"}}, {}, "keeps away from nothing"),
        ({}, {"negative": {"class": "cat"}}, {"guidance_scales": {"class": 2.0}}, "leave one out"),
        ({}, {"negative": {"class": "cow"}}, {"guidance": 2.0}, "no class 'cow'"),
        ({}, {}, {"guidance_scales": {"age": 2.0}}, "cannot be guided by 'age': it can guide by class"),
        ({}, {}, {"guidance_scales": {"class": 2.0}, "guidance_method": "apg"}, "method cfg"),
        (
            {},
            {"guides": [Guide(lambda x, level, i: x.sum((1, 2, 3)), form="mean")]},
            {"solver": "heun"},
            "use ddpm, or 'score'",
        ),
    ],
)
def test_contradictions_are_refused_in_a_sentence(model, pulls, sampling, words):
    made = tiny_model(**model)
    asked = {} if "class" not in made.denoiser.conditions.settable else {"class": "dog"}
    with pytest.raises(ValueError, match=words):
        made.sample(1, asked, **pulls, **sampling)


def test_a_weaker_model_of_other_data_or_another_schedule_is_refused():
    model = tiny_model()
    for changes, words in (
        ({"shape": (1, 6, 6)}, "other data"),
        ({"schedule": ScheduleConfig(name="linear", T=100)}, "noise schedule"),
    ):
        other = tiny_model(**changes)
        with pytest.raises(ValueError, match=words):
            model.sample(1, {"class": "dog"}, autoguidance=other, guidance=2.0)
    with pytest.raises(ValueError, match="one of them"):
        model.sample(1, {"class": "dog"}, negative={"class": "cat"}, autoguidance=model, guidance=2.0)


def test_the_same_index_is_the_same_noise_whatever_is_asked():
    model = tiny_model()
    model.denoiser.conditions.each["class"].table.weight.data.zero_()  # a model that cannot tell its classes apart
    found = model.sample(4, {"class": ["cat", "dog", "cat", "dog"]}, index=[7, 7, 8, 8])
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[2], found[3])
    assert not torch.equal(found[0], found[2])
    assert torch.equal(found[0], model.sample(1, {"class": "7"}, first=7)[0])
    with pytest.raises(ValueError, match="3 indices"):
        model.sample(4, index=[1, 2, 3])


def test_old_configurations_without_the_new_settings_still_load():
    content = tiny_config().model_dump(mode="json")
    classes, shifts = (
        {"kind": "class", "names": ["cat", "dog", "7"], "dropout": 0.1},
        {"kind": "augmentation", "numbers": 2},
    )
    content["conditions"] = {"class": classes, "augmentation": shifts}
    del content["sampling"]["guidance_scales"], content["network"]["cross_attention"]
    from undiffuse.config import parsed
    from undiffuse.models.config import ModelConfig

    denoiser, _ = parsed(ModelConfig, content, "old").build()
    randomised(denoiser)
    assert denoiser.conditions.settable == ["class"]
    assert dict(denoiser.conditions.named_parameters()).keys() == {
        "each.class.table.weight",
        "each.augmentation.linear.weight",
    }


@pytest.mark.parametrize(
    "how",
    [
        {"guidance": 3.0},
        {"guidance": 3.0, "guidance_rescale": 0.7},
        {"guidance": 3.0, "guidance_method": "apg", "apg_norm_threshold": 2.0},
        {"guidance": 0.6, "guidance_method": "cfg++"},
        {"guidance_scales": {"class": 4.0}},
        {"guidance": 3.0, "guidance_interval": (0.05, 0.5)},
        {"guidance": 0.6, "guidance_method": "cfg++", "guidance_interval": (0.05, 0.5)},
        {"guidance": 3.0, "clip": "dynamic", "epsilon_from": "unclipped"},
    ],
    ids=str,
)
@pytest.mark.parametrize("of", [None, "x_t", "clean"])
def test_every_example_may_have_a_level_of_its_own(how, of):
    """The beliefs are those of three calls with one example each."""
    model, x = tiny_model(conditions=TWO), noise()
    guides = (
        ()
        if of is None
        else (Guide(lambda x, level, index: -(x**2).flatten(1).sum(1), 0.3, of=of, interval=(0.2, 50.0)),)
    )
    levels = model.schedule([2.0, 40.0, 70.0])
    asked = {"class": ["dog", "cat", "dog"], "age": [12, 8, 9]}
    with torch.no_grad():
        together = walked(model, asked, Guidance(guides=guides), **({"clip": "none"} | how))(x, levels)
        for k in range(3):
            one = {name: values[k] for name, values in asked.items()}
            alone = walked(model, one, Guidance(guides=guides), n=1, **({"clip": "none"} | how))(
                x[k : k + 1], levels.rows()[k]
            )
            near(together.mean[k : k + 1], alone.mean)
            near(together.eps(x, levels)[k : k + 1], alone.eps(x[k : k + 1], levels.rows()[k]))


def test_the_noise_of_an_unclipped_estimate_is_kept_but_not_by_ancestral_steps():
    """diffusers' DDPMScheduler makes its step of the clipped x̂ and x_t alone; its DDIMScheduler keeps the network's eps."""
    model, level = tiny_model(conditions=TWO), tiny_model(conditions=TWO).schedule(60.0)
    with torch.no_grad():
        clipped = walked(model, {}, clip="range", solver="ddim")(noise(), level)
        for solver, kept in (("ddim", True), ("adams", True), ("ddpm", False)):
            posterior = walked(model, {}, clip="range", epsilon_from="unclipped", solver=solver)(noise(), level)
            assert torch.equal(posterior.mean, clipped.mean)
            assert torch.allclose(posterior.eps(noise(), level), clipped.eps(noise(), level)) != kept
