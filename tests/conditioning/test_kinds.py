"""Laws of every kind of condition, by every way into the network: nothing said, dropping, shapes, and nothing ignored."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.conditioning.instances import DROPPABLE, KIND_OF, WAYS, WIDTH, picture
from tests.small import tiny_model
from undiffuse.conditioning.augmentation import AugmentationConfig
from undiffuse.conditioning.conditions import Conditions

droppable = pytest.mark.parametrize("kind", DROPPABLE.values(), ids=DROPPABLE)
every = pytest.mark.parametrize("kind", KIND_OF.values(), ids=KIND_OF)
by_every_way = pytest.mark.parametrize("inject", WAYS)


def rows_equal(a, b):
    """(B,), whether all numbers of a row are the same."""
    return (a == b).reshape(len(a), -1).all(1)


# Encoding ---------------------------------------------------------------------------------------------------------------


@droppable
def test_what_is_not_said_is_the_null_token_and_what_is_said_never_is(kind):
    module = kind.module(dropout=0.1)
    said = kind.values[0]
    encoded = module.encode([None, said, None])
    assert rows_equal(encoded, module.null_tokens(3, torch.device("cpu"))).tolist() == [True, False, True]
    assert torch.equal(module.null_token(), encoded[0])
    assert torch.equal(encoded[1], module.encode([said])[0])
    assert encoded.dtype == module.read([said]).dtype
    different = module.encode(list(kind.values))
    assert not any(torch.equal(a, b) for i, a in enumerate(different) for b in [*different[:i], module.null_token()])


@droppable
def test_one_that_was_never_dropped_must_be_said_unless_the_data_lacked_it(kind):
    with pytest.raises(ValueError, match="without ever dropping") as caught:
        kind.module(dropout=0.0).encode([kind.values[0], None])
    assert "\n" not in str(caught.value)
    assert len(kind.module(dropout=0.0, missing=True).encode([kind.values[0], None])) == 2


def test_a_task_is_always_said_and_never_dropped():
    conditions = Conditions({"job": KIND_OF["task"].config(), "class": DROPPABLE["class"].config(dropout=0.5)}, WIDTH)
    with pytest.raises(ValueError, match=r"job: .*without ever dropping"):
        conditions.encode({"class": "cat"}, 2)
    values = conditions.encode({"job": "enlarge", "class": "cat"}, 1000)
    dropped = conditions.dropped(values, torch.Generator().manual_seed(0))
    assert torch.equal(dropped["job"], values["job"])
    assert not torch.equal(dropped["class"], values["class"])
    assert torch.equal(conditions.without(values)["job"], values["job"])
    assert conditions.droppable == ["class"]


@every
def test_one_value_is_for_all_examples_and_a_list_is_one_each(kind):
    conditions = Conditions({"it": kind.config()}, WIDTH)
    a, b = kind.values[:2]
    each = conditions["it"].encode([a, b])
    assert torch.equal(conditions.encode({"it": a}, 3)["it"], each[[0, 0, 0]])
    assert torch.equal(conditions.encode({"it": [a, b]}, 2)["it"], each)
    for count in (1, 3):
        with pytest.raises(ValueError, match=f"2 values of 'it' were given for {count} examples"):
            conditions.encode({"it": [a, b]}, count)


@droppable
def test_a_list_may_leave_some_unsaid(kind):
    conditions = Conditions({"it": kind.config()}, WIDTH)
    encoded = conditions.encode({"it": [kind.values[1], None]}, 2)["it"]
    assert torch.equal(encoded, conditions["it"].encode([kind.values[1], None]))


def test_arrays_serve_as_lists_of_numbers_vectors_and_pictures():
    conditions = Conditions({name: DROPPABLE[name].config() for name in ("number", "vector", "image")}, WIDTH)
    vectors, numbers = np.array([[3.0, 1.0], [0.0, 5.0]]), np.array([3, 40])
    pictures = torch.stack([picture(0), picture(1)])
    as_arrays = conditions.encode({"number": numbers, "vector": vectors, "image": pictures}, 2)
    as_lists = conditions.encode(
        {"number": [3, 40], "vector": [[3.0, 1.0], [0.0, 5.0]], "image": [picture(0), picture(1)]}, 2
    )
    for name, value in as_arrays.items():
        assert torch.equal(value, as_lists[name])


def test_any_name_will_do():
    """Names that torch's ModuleDict refuses: its own methods', and dots."""
    names = ("type", "values", "items", "my.column", "my%2Ecolumn", "half", "a name", "train", "training", "type%", "0")
    conditions = Conditions({name: DROPPABLE["class"].config() for name in names}, WIDTH)
    assert conditions.settable == list(names)
    told = conditions.encode({name: ["cat", "dog"] for name in names}, 2)
    expected = sum(conditions[name](told[name]) for name in names)
    torch.testing.assert_close(conditions(told).embedding, expected)
    assert len({id(conditions[name]) for name in names}) == len(names)


# Dropping ---------------------------------------------------------------------------------------------------------------


@droppable
@pytest.mark.parametrize("drop", [0.1, 0.5])
def test_each_example_is_dropped_on_its_own_at_the_asked_rate(kind, drop):
    n = 20_000 if kind is not DROPPABLE["image"] else 4_000
    conditions = Conditions({"it": kind.config(dropout=drop)}, WIDTH)
    module = conditions["it"]
    values = module.encode(list(kind.values)).repeat_interleave(n // 3 + 1, 0)[:n]
    dropped = conditions.dropped({"it": values}, torch.Generator().manual_seed(1))["it"]
    null, kept = rows_equal(dropped, module.null_tokens(n, torch.device("cpu"))), rows_equal(dropped, values)
    assert (null ^ kept).all()  # the null token or as it was, nothing between
    hit = null.double()
    assert abs(hit.mean() - drop) < 4 * (drop * (1 - drop) / n) ** 0.5
    # neighbours, independently: pairs overlap, which at most triples the variance of a mean of n products
    assert abs((hit[1:] * hit[:-1]).mean() - drop**2) < 4 * (3 * drop**2 / n) ** 0.5


@pytest.mark.parametrize("drops", [(0.1, 0.1), (0.2, 0.05, 0.4), (0.3, 0.0, 0.1)])
def test_several_are_dropped_one_by_one_and_now_and_then_all_together(drops):
    """With j = min(drop) of those that are dropped at all: one alone with 1 - (1 - d)(1 - j), all with j + (1 - j) Π d."""
    n = 40_000
    conditions = Conditions(
        {str(k): DROPPABLE["class"].config(dropout=drop, missing=True) for k, drop in enumerate(drops)}, WIDTH
    )
    values = {name: torch.zeros(n, dtype=torch.int64) for name in conditions.names}
    dropped = conditions.dropped(values, torch.Generator().manual_seed(2))
    hit = {k: (dropped[str(k)] == 3).double() for k, drop in enumerate(drops)}
    shares = [drop for drop in drops if drop]
    j = min(shares)

    def agrees(measured, p):
        assert abs(measured.mean().item() - p) < 4 * (p * (1 - p) / n) ** 0.5

    for k, drop in enumerate(drops):
        if drop:
            agrees(hit[k], 1 - (1 - drop) * (1 - j))
        else:
            assert not hit[k].any()
    together = torch.stack([hit[k] for k, drop in enumerate(drops) if drop]).prod(0)
    agrees(together, j + (1 - j) * math.prod(shares))
    p = j + (1 - j) * math.prod(shares)  # and of one example all, whatever its neighbours do
    assert abs((together[1:] * together[:-1]).mean() - p**2) < 4 * (3 * p**2 / n) ** 0.5


def test_augmentation_is_neither_dropped_nor_asked_for():
    conditions = Conditions(
        {"augmentation": AugmentationConfig(numbers=2), "class": DROPPABLE["class"].config(dropout=0.9)}, WIDTH
    )
    assert conditions.settable == ["class"]
    values = {
        "augmentation": torch.randn(500, 2, generator=torch.Generator().manual_seed(0)),
        "class": torch.zeros(500, dtype=torch.int64),
    }
    assert torch.equal(
        conditions.dropped(values, torch.Generator().manual_seed(0))["augmentation"], values["augmentation"]
    )
    assert (conditions.encode({}, 3)["augmentation"] == 0).all()
    with pytest.raises(ValueError, match="has no condition 'augmentation'"):
        conditions.encode({"augmentation": [0.0, 0.0]}, 1)


# Embedding --------------------------------------------------------------------------------------------------------------


@every
@by_every_way
def test_the_embedding_has_the_shape_of_its_way_in_and_ignores_nothing(kind, inject):
    module = kind.module(inject=inject)
    said = list(kind.values) + ([None] if module.config.droppable else [])
    embedding = module(module.encode(said))
    assert len(embedding) == len(said)
    if inject == "embedding":
        assert embedding.shape[1:] == (WIDTH,)
    elif inject == "cross_attention":
        assert embedding.shape[1:] == (kind.tokens, WIDTH)
    else:
        assert embedding.shape[1] == module.config.concat_channels == kind.beside
    distances = [(a - b).abs().max() for i, a in enumerate(embedding) for b in embedding[:i]]
    assert min(distances) > 1e-3  # float32 noise is 1e-6


@every
@by_every_way
def test_told_is_put_where_it_is_to_go(kind, inject):
    conditions = Conditions({"it": kind.config(inject=inject)}, WIDTH)
    values = conditions.encode({"it": list(kind.values)}, len(kind.values))
    told, embedding = conditions(values), conditions["it"](values["it"])
    assert (told.embedding is None) == (inject != "embedding")
    assert (told.concat == ()) == (inject != "concat")
    assert (told.tokens is None) == (told.padding_mask is None) == (inject != "cross_attention")
    if inject == "embedding":
        assert torch.equal(told.embedding, embedding)
    elif inject == "concat":
        assert torch.equal(told.concat[0], embedding)
    else:
        assert torch.equal(told.tokens[:, 1:], embedding)
        assert not told.padding_mask[:, 0].any()  # the start token is always there
        assert told.padding_mask.shape == told.tokens.shape[:2]


def test_all_kinds_together_add_up_and_line_up():
    configs = {f"{name} {inject}": kind.config(inject=inject) for name, kind in KIND_OF.items() for inject in WAYS}
    conditions = Conditions(configs, WIDTH)
    asked = {f"{name} {inject}": kind.values[0] for name, kind in KIND_OF.items() for inject in WAYS}
    values = conditions.encode(asked, 2)
    told = conditions(values)
    layers = sum(conditions[f"{name} embedding"](values[f"{name} embedding"]) for name in KIND_OF)
    torch.testing.assert_close(told.embedding, layers)
    assert sum(part.shape[1] for part in told.concat) == sum(kind.beside for kind in KIND_OF.values())
    assert told.tokens.shape == (2, 1 + sum(kind.tokens for kind in KIND_OF.values()), WIDTH)


# What is refused --------------------------------------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")
REFUSED = {
    "class, a near miss": ("class", "hrse", "did you mean horse"),
    "class, a number": ("class", 3, "cat, dog, horse"),
    "task, a near miss": ("task", "paimt", "did you mean paint"),
    "tags, a near miss": ("tags", "red;rond", "did you mean round"),
    "tags, in a tuple": ("tags", ("red", "rund"), "there is no tag 'rund': did you mean round"),
    "number, a word": ("number", "old", "'old' is no number"),
    "number, NaN": ("number", NAN, "no finite number"),
    "number, infinite": ("number", "inf", "no finite number"),
    "vector, too long": ("vector", [1.0, 2.0, 3.0], r"\(3,\), but the model takes \(2,\)"),
    "vector, a number": ("vector", 1.0, r"\(\), but the model takes \(2,\)"),
    "vector, words": ("vector", ("a", "b"), "is no vector"),
    "vector, NaN": ("vector", [1.0, NAN], "NaN or infinite"),
    "text, too long": ("text", "one two three four five", "has 5 words, and .* at most 4"),
    "image, another size": ("image", torch.zeros(2, 8, 7), r"\(2, 8, 7\), but the model takes \(2, 8, 8\)"),
    "image, other channels": ("image", torch.zeros(3, 8, 8), r"the model takes \(2, 8, 8\)"),
    "image, too bright": (
        "image",
        torch.full((2, 8, 8), 256.0),
        r"in \[256, 256\], but in training they lay in \[0, 255\]",
    ),
    "image, too dark": ("image", torch.full((2, 8, 8), -1.0), "scale it as there"),
    "image, NaN": ("image", torch.full((2, 8, 8), NAN), "NaN or infinite"),
    "image, a word": ("image", "cat.png", "is no picture"),
}


@pytest.mark.parametrize(("name", "value", "words"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("listed", [False, True])
def test_what_cannot_be_understood_is_refused_in_one_sentence(name, value, words, listed):
    model = tiny_model(conditions={"it": KIND_OF[name].config()})
    asked = [KIND_OF[name].values[0], value] if listed else value
    with pytest.raises(ValueError, match=words) as caught:
        model.sample(2, {"it": asked})
    sentence = str(caught.value)
    assert sentence.startswith("it: ")
    assert sentence.endswith(".")
    assert "\n" not in sentence


@every
def test_other_conditions_and_other_numbers_of_values_are_refused(kind):
    model = tiny_model(conditions={"it": kind.config(), "age": DROPPABLE["number"].config()})
    with pytest.raises(ValueError, match="has no condition 'species': its conditions are: it, age"):
        model.sample(1, {"species": "cat"})
    for values in ([kind.values[0]] * 3, [kind.values[0]]):
        with pytest.raises(ValueError, match=f"{len(values)} values of 'it' were given for 2 examples"):
            model.sample(2, {"it": values})
    with pytest.raises(ValueError, match=r"\['it'\] were given to a model whose conditions are \['age', 'it'\]"):
        model.denoiser(
            torch.zeros(1, 1, 8, 8),
            model.schedule(5.0),
            {"it": model.denoiser.conditions["it"].encode([kind.values[0]])},
        )


def test_an_unconditional_model_says_that_it_is_one():
    with pytest.raises(ValueError, match="has no condition 'class': it is unconditional"):
        tiny_model(conditions={}).sample(1, {"class": "cat"})


@every
def test_the_null_token_is_made_once_and_is_no_part_of_a_file(kind, monkeypatch):
    """Dropping and guidance ask for it at every step: on a GPU, making it anew is a copy that waits for all before it."""
    module, made = kind.module(dropout=0.0), []
    expected = module.null_token()
    monkeypatch.setattr(type(module), "null_token", lambda self: made.append(self) or expected)
    encoded = module.read(kind.values[:2]) if module.settable else expected.expand(2, *expected.shape)
    for _ in range(3):
        assert rows_equal(
            module.dropped(encoded, torch.tensor([True, True])), expected.expand(2, *expected.shape)
        ).all()
        assert torch.equal(module.null_tokens(2, encoded.device)[1], expected)
    assert len(made) == 1
    assert not any("null" in name for name in module.state_dict())
