"""Classifiers of noisy examples: likelihoods against torch's distributions, what they know at which level, refusals, exact resume."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.small import TINY, TINY_SETTINGS, images, randomised, tiny_config, tiny_model
from undiffuse.conditioning.classes import ClassConfig
from undiffuse.conditioning.numbers import NumberConfig
from undiffuse.conditioning.spec import Condition
from undiffuse.conditioning.tags import TagsConfig
from undiffuse.conditioning.vectors import VectorConfig
from undiffuse.data.codec import Codec
from undiffuse.data.dataset import Dataset
from undiffuse.models.classifier import (
    Classifier,
    ClassifierConfig,
    load_classifier,
    log_likelihood,
    outputs,
    save_classifier,
)
from undiffuse.models.file import load, save_model
from undiffuse.networks.encoder import UNetEncoder
from undiffuse.process.config import ScheduleConfig
from undiffuse.runs.classifier import ClassifierRun, reading
from undiffuse.training.settings import TrainingConfig

TARGETS = {
    "class": ClassConfig(names=("a", "b", "c")),
    "number": NumberConfig(mean=3.0, std=2.0, low=0.0, high=9.0),
    "tags": TagsConfig(names=("red", "round")),
    "vector": VectorConfig(mean=(0.0, 1.0), std=(1.0, 2.0)),
}


def config(target=TARGETS["class"], **changes):
    model = tiny_config(**changes)
    return ClassifierConfig(codec=model.codec, network=TINY, schedule=model.schedule, name="kind", target=target)


def classifier(**changes) -> Classifier:
    return randomised(config(**changes).build()).eval()


def test_likelihoods_are_those_of_the_distributions_they_name():
    answer = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    k = torch.tensor([0, 1, 2, 1, 0])
    torch.testing.assert_close(
        log_likelihood(TARGETS["class"], answer[:, :3], k),
        torch.distributions.Categorical(logits=answer[:, :3]).log_prob(k),
    )
    z = torch.linspace(-1, 1, 5)
    said = torch.ones(5, 1)
    expected = torch.distributions.Normal(answer[:, 0], (answer[:, 1] / 2).exp()).log_prob(z)
    torch.testing.assert_close(
        log_likelihood(TARGETS["number"], answer[:, :2], torch.stack([z, said[:, 0]], 1)), expected
    )
    tags = torch.tensor([[0.0, 1], [1, 1], [0, 0], [1, 0], [1, 1]])
    expected = torch.distributions.Bernoulli(logits=answer[:, :2]).log_prob(tags).sum(1)
    torch.testing.assert_close(log_likelihood(TARGETS["tags"], answer[:, :2], torch.cat([tags, said], 1)), expected)
    expected = torch.distributions.Normal(answer[:, :2], 1.0).log_prob(tags).sum(1) + math.log(2 * math.pi)
    torch.testing.assert_close(log_likelihood(TARGETS["vector"], answer[:, :2], torch.cat([tags, said], 1)), expected)


def test_where_nothing_is_said_there_is_nothing_to_learn():
    for target in TARGETS.values():
        answer = torch.randn(2, outputs(target))
        nothing = (
            torch.tensor([3, 3]) if target.kind == "class" else torch.zeros(2, 2 if target.kind == "number" else 3)
        )
        assert (log_likelihood(target, answer, nothing) == 0).all()


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 9), (2, 13), (1, 4, 5, 6)])
def test_the_encoder_takes_any_size(shape):
    network = randomised(UNetEncoder(TINY.model_copy(update={"dims": len(shape) - 1}), shape, 5))
    x = torch.randn(3, *shape)
    out = network(x, torch.tensor([1.0, 2, 3]))
    assert out.shape == (3, 5)
    torch.testing.assert_close(
        network(x[1:2], torch.tensor([2.0])), out[1:2], rtol=1e-4, atol=1e-5
    )  # alone as in a batch
    assert not torch.allclose(network(x, torch.tensor([900.0, 2, 3]))[0], out[0])  # and it hears the clock


def test_guides_pull_each_example_to_its_own():
    c, level = classifier(), tiny_model().schedule(40.0)
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    several, index = c.guide(["a", "c", "b"], 3, 2.0), torch.tensor([2, 0, 1])
    pulled = several.gradient(x, level, index)
    for row, name in enumerate("bac"):
        alone = c.guide(name, 1, 2.0).gradient(x[row : row + 1], level, torch.tensor([0]))
        torch.testing.assert_close(pulled[row : row + 1], alone, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("d", "kind: there is no class 'd'"),
        (["a", "b"], "2 values of 'kind'"),
        (["a", None, "b"], "give one for every example"),
    ],
)
def test_what_cannot_be_guided_to_is_refused(asked, words):
    with pytest.raises(ValueError, match=words):
        classifier().guide(asked, 3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shape": (1, 6, 6)}, "of shape"),
        ({"schedule": ScheduleConfig(name="linear", T=100)}, "noise schedule 'cosine', the model on 'linear'"),
        ({"schedule": ScheduleConfig(name="cosine", T=50)}, "with other settings"),
    ],
)
def test_a_mismatched_model_is_refused_with_the_reason(changes, words):
    with pytest.raises(ValueError, match=words):
        classifier().refuse_other(tiny_config(**changes))
    classifier().refuse_other(tiny_config())
    codec = tiny_config().codec.model_copy(update={"high": (16.0,)})
    with pytest.raises(ValueError, match="another range"):
        classifier().refuse_other(tiny_config(codec=codec))


def test_the_file_says_what_it_is_and_comes_back(tmp_path):
    c = classifier()
    weights = {name: p.detach() for name, p in c.named_parameters()}
    save_classifier(
        tmp_path / "classifier.safetensors", c.config, {name: p + 1 for name, p in weights.items()}, weights
    )
    back = load_classifier(tmp_path)
    assert back.config == c.config
    # the weights to the bit; what is computed from them may differ in the last one, with where they lie in memory
    found = dict(back.named_parameters())
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], p) for name, p in weights.items())
    with pytest.raises(ValueError, match="is a classifier, where a model is needed"):
        load(tmp_path / "classifier.safetensors")
    model = tiny_model()
    weights = dict(model.denoiser.named_parameters())
    save_model(tmp_path / "model.safetensors", model.config, weights, {name: p.clone() for name, p in weights.items()})
    with pytest.raises(ValueError, match="is a model, where a classifier is needed"):
        load_classifier(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="undiffuse classifier RUN"):
        load_classifier(tmp_path / "nowhere")


def test_readings_by_hand():
    answer, truth = torch.tensor([[2.0, 0, 0], [0, 1, 0], [0, 0, 3], [5, 0, 0]]), torch.tensor([0, 1, 1, 0])
    found = reading(TARGETS["class"], answer, truth)
    assert (found.score, found.chance) == (0.75, 0.5)
    missing = reading(TARGETS["class"], torch.cat([answer, answer[:1]]), torch.cat([truth, torch.tensor([3])]))
    assert (missing.score, missing.chance) == (0.75, 0.5)  # an example that says nothing counts for nothing
    z, read = np.array([-1.0, 0.5, 2.0, 0.0]), np.array([-0.8, 0.4, 1.5, 0.3])
    found = reading(
        TARGETS["number"], torch.tensor(np.stack([read, 0 * read], 1)), torch.tensor(np.stack([z, 0 * z + 1], 1))
    )
    assert found.score == pytest.approx(1 - ((z - read) ** 2).sum() / ((z - z.mean()) ** 2).sum())
    tags = reading(TARGETS["tags"], torch.tensor([[1.0, -1], [1, 1]]), torch.tensor([[1.0, 0, 1], [0, 1, 1]]))
    assert tags.score == 0.75


def bright_or_dark(n=400, seed=0):
    """Pictures of one grey each, bright or dark, with a little grain: the class and the brightness are easy to read when clean."""
    rng = np.random.default_rng(seed)
    labels, level = rng.integers(0, 2, n), rng.uniform(20, 90, n)
    grey = np.where(labels == 1, 255 - level, level)
    values = (grey[:, None, None, None] + rng.normal(0, 4, (n, 1, 8, 8))).clip(0, 255).astype(np.uint8)
    return Dataset("grey", values, labels, ("dark", "bright"), columns={"grey": grey})


def trained(folder, target, name, data=None, steps=60, seed=0):
    data = bright_or_dark() if data is None else data
    training = TrainingConfig(steps=steps, batch_size=64, learning_rate=3e-3, warmup=5, seed=seed)
    rows = data.split_rows(0.4, 0)
    model = tiny_config(conditions={}, network=TINY)
    return ClassifierRun(folder, model, Codec(model.codec), data, rows, name, target, training, torch.device("cpu"))


def test_accuracy_goes_from_chance_in_noise_to_certain_when_clean(tmp_path):
    run = trained(tmp_path / "c", Condition(kind="class"), "class")
    for _ in run.updates():
        pass
    readings = run.readings()
    assert readings[-1].score > 0.97
    assert abs(readings[0].score - readings[0].chance) < 4 * readings[0].error + 0.1
    assert readings[-1].can_guide
    assert not readings[0].can_guide
    c = load_classifier(tmp_path / "c")
    assert c.config.can_guide[1] == max(r.ratio for r in readings if r.can_guide)
    assert c.guide("dark", 1).interval == (0.0, c.config.can_guide[1])
    assert c.guide("dark", 1, interval=(0.0, math.inf)).interval == (0.0, math.inf)


def test_a_number_is_read_with_a_regressor(tmp_path):
    run = trained(tmp_path / "c", Condition(kind="number"), "grey", steps=120)
    for _ in run.updates():
        pass
    assert run.readings()[-1].score > 0.9
    assert abs(run.readings()[0].score) < 0.3


def test_labels_that_say_nothing_guide_nowhere(tmp_path):
    data = bright_or_dark()
    noise = np.random.default_rng(5).permutation(data.labels)
    shuffled = Dataset("grey", data.values, noise, data.classes)
    run = trained(tmp_path / "c", Condition(kind="class"), "class", data=shuffled, steps=20)
    for _ in run.updates():
        pass
    assert load_classifier(tmp_path / "c").config.can_guide is None


def test_a_folder_of_another_classifier_is_refused_and_left_as_it_was(tmp_path):
    for _ in trained(tmp_path / "c", Condition(kind="class"), "class", steps=2).updates():
        pass
    before = {path: path.read_bytes() for path in (tmp_path / "c").rglob("*") if path.is_file()}
    others = [
        trained(tmp_path / "c", Condition(kind="class"), "class", steps=4, seed=1),
        trained(tmp_path / "c", Condition(kind="number", column="grey"), "class", steps=4),
        trained(tmp_path / "c", Condition(kind="class"), "class", data=bright_or_dark(seed=1), steps=4),
    ]
    for other, words in zip(others, ("training.seed: 0 there, 1 now", "kind", "the data has changed"), strict=True):
        with pytest.raises(ValueError, match=f"made with another configuration.*{words}.*give it another name"):
            next(other.updates())
    assert before == {path: path.read_bytes() for path in (tmp_path / "c").rglob("*") if path.is_file()}
    assert [update.step for update in trained(tmp_path / "c", Condition(kind="class"), "class", steps=4).updates()] == [
        3,
        4,
    ]


def test_stopping_and_resuming_changes_no_bit(tmp_path):
    whole = trained(tmp_path / "whole", Condition(kind="class"), "class", steps=12)
    for _ in whole.updates():
        pass
    first = trained(tmp_path / "parts", Condition(kind="class"), "class", steps=12)
    for update in first.updates():
        if update.step == 5:
            break
    first.save()
    second = trained(tmp_path / "parts", Condition(kind="class"), "class", steps=12)
    steps = [update.step for update in second.updates()]
    assert steps == list(range(6, 13))
    a, b = whole.loop.tensors(), second.loop.tensors()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_of_an_unconditional_run_it_is_said_what_is_missing(run, tmp_path):
    tiny = [f"--set={path}={json.dumps(value)}" for path, value in TINY_SETTINGS.items()]
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 255, (20, 8, 8)).astype(np.uint8))
    code, out = run("train", "x.npy", "--train-steps", "1", *tiny)
    assert code == 0, out
    code, out = run("classifier", "runs/x", "--train-steps", "1")
    assert code == 2
    assert "is unconditional and its data has no classes: say what to read" in " ".join(out.split())


def test_what_cannot_be_read_off_a_picture_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a classifier reads class, number, tags"):
        trained(tmp_path, Condition(kind="text"), "caption")


def test_where_no_held_out_example_says_it_nothing_is_read_and_training_goes_on(tmp_path):
    data = bright_or_dark()
    said = data.labels.astype(object)
    said[data.split_rows(0.4, 0)[1][1:]] = ""
    said = np.array([str(value) for value in said])
    run = trained(
        tmp_path / "c", Condition(kind="class", column="said"), "said", replace(data, columns={"said": said}), steps=2
    )
    for _ in run.updates():
        pass
    assert run.readings() == []
    assert load_classifier(tmp_path / "c").config.can_guide is None


def test_a_classifiers_target_is_measured_on_the_training_rows(tmp_path):
    values, ages = images(30)[:, None], np.arange(30.0)
    ages[20:] += 500
    rows = np.arange(20), np.arange(20, 30)
    model, data = tiny_model(), Dataset("d", values, columns={"age": ages})
    training = TrainingConfig(steps=1, batch_size=4)
    target = Condition(kind="number")

    def made(folder):
        return ClassifierRun(
            folder, model.config, model.codec, data, rows, "age", target, training, torch.device("cpu")
        )

    run = made(tmp_path / "new")
    assert run.config.target.mean == pytest.approx(ages[:20].mean(), rel=1e-12)
    for _ in run.updates():
        pass
    assert made(tmp_path / "new").config == run.config
    old = json.loads((tmp_path / "new" / "config.json").read_text())
    del old["measured_on"]
    old["classifier"]["target"] |= {
        "mean": torch.tensor(ages).mean().item(),
        "std": torch.tensor(ages).std().item(),
    }
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_text(json.dumps(old))
    again = made(tmp_path / "old")
    again.check()
    assert again.config.target.mean == pytest.approx(ages.mean(), rel=1e-12)
