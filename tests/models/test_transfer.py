"""Right after a start the new model answers what the old one did, whatever is added; and what was added can be heard."""

from __future__ import annotations

import pytest
import torch

from tests.conditioning.instances import DROPPABLE, KIND_OF, WAYS
from tests.small import TINY, randomised, tiny_config
from undiffuse.conditioning.classes import ClassConfig
from undiffuse.conditioning.probe import require_sensitivity
from undiffuse.conditioning.texts import WordsEncoder
from undiffuse.models.transfer import transfer_weights
from undiffuse.networks.autoencoder import AutoencoderConfig
from undiffuse.networks.mlp import MLPConfig
from undiffuse.networks.transformer import TransformerConfig

SHAPE = (1, 8, 8)
OLD = {"class": ClassConfig(names=("cat", "dog"))}
UNET = TINY.model_copy(update={"attention": (2,), "heads": 2})
NETWORKS = {
    "unet": UNET,
    "unet without attention": TINY.model_copy(update={"middle_attention": False}),
    "transformer": TransformerConfig(patch=2, width=16, depth=2, heads=2),
    "mlp": MLPConfig(width=16, depth=2),
    "autoencoder": AutoencoderConfig(width=8, multipliers=(1, 2), depth=1, groups=4),
}


def built(conditions, network=UNET, seed=0, **changes):
    """A denoiser as it is before training: what starts at zero is at zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        denoiser, schedule = tiny_config(conditions=conditions, network=network, **changes).build()
    return denoiser.eval(), schedule


def trained(conditions, network=UNET, seed=0, **changes):
    denoiser, schedule = built(conditions, network, seed, **changes)
    return randomised(denoiser, seed), schedule


def carried(old, conditions, network=UNET, **changes):
    """(the new denoiser, which of its entries are new, a level)"""
    new, schedule = built(conditions, network, seed=1, **changes)
    level = schedule(torch.tensor(50.0, dtype=torch.float64))
    return new, transfer_weights(old, new, SHAPE, schedule), level


def x_t(n=6):
    return torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def answer(denoiser, level, asked, n=6):
    return denoiser(x_t(n), level, denoiser.conditions.encode(asked, n)).mean


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KIND_OF)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_new_condition_starts_as_nothing_and_is_heard(kind, way, network):
    network = NETWORKS[network]
    if kind == "image" and way == "attention" and network is not UNET:
        pytest.skip("64 tokens an example: once is enough")
    added = KIND_OF[kind].config(inject=way)
    old, _ = trained(OLD, network)
    new, fresh, level = carried(old, OLD | {"new": added}, network)
    values = [KIND_OF[kind].values[k % len(KIND_OF[kind].values)] for k in range(6)]
    classes = ["cat", "dog", None, "dog", "cat", None]
    before = answer(old, level, {"class": classes})
    torch.testing.assert_close(answer(new, level, {"class": classes, "new": values}), before, rtol=1e-4, atol=1e-5)
    if kind != "task":
        torch.testing.assert_close(answer(new, level, {"class": classes}), before, rtol=1e-4, atol=1e-5)
    told = new.conditions.encode({"class": classes, "new": values}, 6)
    parameters = {name: p.clone() for name, p in new.named_parameters()}
    require_sensitivity(new, lambda told: new(x_t(), level, told).mean, told, fresh)
    assert all(torch.equal(p, parameters[name]) for name, p in new.named_parameters()), (
        "the probe gives back what it lends"
    )


def test_without_the_entries_that_are_new_a_probe_would_take_new_channels_for_deaf():
    old, _ = trained(OLD)
    new, _, level = carried(old, OLD | {"new": DROPPABLE["image"].config()})
    told = new.conditions.encode({"new": list(DROPPABLE["image"].values)}, 3)
    with pytest.raises(ValueError, match="ignores new"):
        require_sensitivity(new, lambda told: new(x_t(3), level, told).mean, told)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", DROPPABLE)
def test_what_the_data_does_not_say_any_more_is_left_unsaid(kind, way):
    known = DROPPABLE[kind].config(inject=way, dropout=0.1)
    old, _ = trained(OLD | {"gone": known})
    new, _, level = carried(old, OLD | {"gone": known.retire()})
    torch.testing.assert_close(
        answer(new, level, {"class": "dog"}), answer(old, level, {"class": "dog"}), rtol=1e-5, atol=1e-6
    )
    assert new.conditions.settable == ["class"]
    assert new.conditions.droppable == ["class"]
    with pytest.raises(ValueError, match="has no condition 'gone'"):
        new.conditions.encode({"gone": DROPPABLE[kind].values[0]}, 1)


GROWN = {
    "class": {"names": ("cat", "emu", "horse", "ant")},
    "tags": {"names": ("red", "wild")},
    "number": {"mean": 1.0, "std": 9.0, "low": -5.0, "high": 50.0},
    "vector": {"mean": (0.0, 0.0), "std": (1.0, 1.0)},
    "image": {"shape": (2, 8, 8), "low": 0.0, "high": 200.0},
}


@pytest.mark.parametrize("drop", [0.0, 0.1])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", DROPPABLE)
def test_a_condition_that_goes_on_means_what_it_meant(kind, way, drop):
    known = DROPPABLE[kind].config(inject=way, dropout=drop)
    more = GROWN[kind] if kind in GROWN else {"encoder": known.encoder.model_copy(update={"most": 9})}
    grown = known.model_copy(update=more)
    after = known.merged_with(grown)
    old, _ = trained({"it": known})
    new, _, level = carried(old, {"it": after})
    values = list(DROPPABLE[kind].values)
    torch.testing.assert_close(
        answer(new, level, {"it": values}, 3), answer(old, level, {"it": values}, 3), rtol=1e-4, atol=1e-5
    )
    if drop:
        torch.testing.assert_close(answer(new, level, {}, 3), answer(old, level, {}, 3), rtol=1e-4, atol=1e-5)


def test_a_new_name_starts_as_not_said_and_keeps_the_order_of_the_old():
    known = DROPPABLE["class"].config()
    after = known.merged_with(ClassConfig(names=("ant", "dog")))
    assert after.names == ("cat", "dog", "horse", "ant")
    old, _ = trained({"it": known})
    new, fresh, level = carried(old, {"it": after})
    torch.testing.assert_close(answer(new, level, {"it": "ant"}), answer(old, level, {}), rtol=1e-4, atol=1e-5)
    assert fresh["conditions.each.it.table.weight"].any(1).tolist() == [False, False, False, True, False]


def test_a_new_tag_adds_nothing_at_first():
    known = DROPPABLE["tags"].config()
    old, _ = trained({"it": known})
    new, _, level = carried(old, {"it": known.merged_with(known.model_copy(update={"names": ("wild",)}))})
    torch.testing.assert_close(
        answer(new, level, {"it": "red;wild"}), answer(old, level, {"it": "red"}), rtol=1e-4, atol=1e-5
    )


def test_the_weights_of_every_part_are_copied_whatever_moved():
    """Attention to tokens comes in between, so the numbers of what follows move; every old weight is found again."""
    old, _ = trained(OLD)
    new, fresh, _ = carried(old, OLD | {"new": DROPPABLE["text"].config(inject="cross_attention")})
    values = {p.flatten()[0].item() for p in old.parameters()}
    found = {p.flatten()[0].item() for name, p in new.named_parameters() if not fresh[name].any()}
    assert values == found
    assert sum(not mask.any() for mask in fresh.values()) == len(list(old.parameters()))


def test_weights_of_another_size_are_refused_with_a_sentence():
    old, _ = trained(OLD, NETWORKS["mlp"])
    new, schedule = built(OLD, NETWORKS["mlp"], shape=(1, 6, 6))
    with pytest.raises(ValueError, match="keep the size"):
        transfer_weights(old, new, (1, 6, 6), schedule)


BUCKETS = {"encoder": WordsEncoder(buckets=5, most=4)}


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (DROPPABLE["class"].config(), DROPPABLE["class"].config(inject="cross_attention"), "it enters by 'embedding'"),
        (
            DROPPABLE["vector"].config(),
            DROPPABLE["vector"].make(mean=(0.0,), std=(1.0,)),
            "have 1 numbers, and the model takes 2",
        ),
        (
            DROPPABLE["image"].config(),
            DROPPABLE["image"].make(shape=(1, 8, 8), low=0.0, high=1.0),
            "1 channels, and the model takes 2",
        ),
        (DROPPABLE["text"].config(), DROPPABLE["text"].config().model_copy(update=BUCKETS), "another encoder"),
    ],
)
def test_conditions_that_cannot_go_on_are_refused(before, after, words):
    with pytest.raises(ValueError, match=words):
        before.merged_with(after)
