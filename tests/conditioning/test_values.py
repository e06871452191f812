"""What numbers, vectors, tags, pictures and texts become: exact codes, whatever way they are written."""

from __future__ import annotations

import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
import torch

from tests.conditioning.instances import DROPPABLE, WIDTH
from tests.small import tiny_model
from undiffuse.conditioning.base import Note
from undiffuse.conditioning.conditions import Conditions
from undiffuse.conditioning.pictures import ImageConfig
from undiffuse.conditioning.texts import PARTS, TextConfig, WordsEncoder, hashed, words_of

# Numbers ----------------------------------------------------------------------------------------------------------------


def test_numbers_are_standardised_exactly():
    module = DROPPABLE["number"].module()
    assert module.encode([40, 50, "30", 0.0, 45.0, None]).tolist() == [
        [0, 1],
        [1, 1],
        [-1, 1],
        [-4, 1],
        [0.5, 1],
        [0, 0],
    ]
    vector = DROPPABLE["vector"].module()
    assert vector.encode([(1.0, -2.0), (3.0, -3.0), None]).tolist() == [[0, 0, 1], [1, -2, 1], [0, 0, 0]]


def test_a_number_outside_what_was_seen_is_noted_and_no_other():
    module = DROPPABLE["number"].module()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module.encode([0.0, 90.0, 40, None])
    for value, shown in ((90.5, "90.5"), (-1, "-1")):
        with pytest.warns(Note, match=f"{shown} lies outside 0 to 90"):
            module.encode([40, value])
    with pytest.warns(Note, match="-2, 90.5, 300 lie outside 0 to 90"):
        module.encode([300, -2, 40, 90.5, 300])


def test_numbers_between_those_seen_lie_between_their_neighbours():
    """The embedding is continuous, and no two numbers within 16 deviations, the longest period, share one."""
    module = DROPPABLE["number"].module()
    z = torch.linspace(-8, 8, 161)
    encoded = torch.stack([z, torch.ones_like(z)], 1)
    distances = torch.cdist(module(encoded), module(encoded))
    assert (distances + torch.eye(161)).min() > 1e-4
    step, tenth = torch.tensor([[0.1, 1.0]]), torch.tensor([[0.11, 1.0]])
    near, far = ((module(other) - module(step)).norm() for other in (tenth, torch.tensor([[1.1, 1.0]])))
    assert near < far / 3


# Tags -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "same", ["red;round", "round, red", "red|round", ("red", "round"), {"red", "round"}, " red ; round ;"]
)
def test_tags_are_a_set_however_they_are_written(same):
    assert DROPPABLE["tags"].module().encode([same]).tolist() == [[0, 1, 1, 1]]


def test_no_tags_is_something_else_than_nothing_said():
    module = DROPPABLE["tags"].module()
    encoded = module.encode(["-", (), [], None])
    assert encoded.tolist() == [[0, 0, 0, 1]] * 3 + [[0, 0, 0, 0]]
    embedding = module(encoded)
    assert torch.equal(embedding[0], embedding[1])
    assert (embedding[0] - embedding[3]).abs().max() > 1e-3


def test_a_list_is_the_tags_of_several_examples():
    conditions = Conditions({"tags": DROPPABLE["tags"].config()}, WIDTH)
    assert conditions.encode({"tags": ["red", ("big", "round"), None]}, 3)["tags"].tolist() == [
        [0, 1, 0, 1],
        [1, 0, 1, 1],
        [0, 0, 0, 0],
    ]
    assert conditions.encode({"tags": ("big", "round")}, 2)["tags"].tolist() == [[1, 0, 1, 1]] * 2
    assert conditions.encode({"tags": [["red"], ["red", "big"]]}, 2)["tags"].tolist() == [[0, 1, 0, 1], [1, 1, 0, 1]]


# Pictures ---------------------------------------------------------------------------------------------------------------


def test_pictures_are_scaled_to_one_and_say_that_they_are_there():
    module = DROPPABLE["image"].module()
    encoded = module.encode([torch.zeros(2, 8, 8), torch.full((2, 8, 8), 255.0), None])
    assert (encoded[0, :2] == -1).all()
    assert (encoded[1, :2] == 1).all()
    assert (encoded[:2, 2] == 1).all()
    assert (encoded[2] == 0).all()


def test_pictures_of_one_channel_may_leave_it_out():
    conditions = Conditions({"it": ImageConfig(shape=(1, 4, 4), low=0.0, high=1.0)}, WIDTH)
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 4, 4)).astype(np.float32)
    both = conditions["it"].encode([a[None], b[None]])
    for one in (a, a[None], torch.from_numpy(a), a.tolist()):
        assert torch.equal(conditions.encode({"it": one}, 2)["it"], both[[0, 0]])
    for two in (
        [a, b],
        np.stack([a, b]),
        [torch.from_numpy(a), torch.from_numpy(b)],
        [a[None], b],
        np.stack([a, b])[:, None],
    ):
        assert torch.equal(conditions.encode({"it": two}, 2)["it"], both)
    for one in ([a], [a[None]], [torch.from_numpy(a)]):
        assert torch.equal(conditions.encode({"it": one}, 1)["it"], both[:1])


# Words ------------------------------------------------------------------------------------------------------------------


def text(most, **common):
    return TextConfig(encoder=WordsEncoder(buckets=97, most=most), **common)


def test_words_are_found_by_the_crc_of_their_parts():
    parts = ["cat", "<ca", "cat", "at>"]
    assert hashed("cat", 4096) == [1 + zlib.crc32(part.encode()) % 4096 for part in parts] + [0] * (PARTS - 4)
    assert zlib.crc32(b"cat") == 0x9E5E43A8  # by a program of another house: gzip -c | tail
    long = hashed("élémentaire", 50)
    assert len(long) == PARTS
    assert all(1 <= row <= 50 for row in long)


def test_hashing_is_the_same_in_another_process():
    code = "from undiffuse.conditioning.texts import hashed; print(hashed('größer', 4096))"
    for seed in ("1", "2"):
        found = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        )
        assert found.stdout.strip() == str(hashed("größer", 4096))


def test_words_are_lower_case_and_signs_stand_alone():
    assert words_of("A red-brown Cat!") == ["a", "red", "-", "brown", "cat", "!"]
    module = DROPPABLE["text"].module()
    assert torch.equal(module.encode(["A RED cat"]), module.encode(["a red  cat "]))


def test_a_word_never_seen_shares_parts_with_its_kin_and_none_with_strangers():
    def shared(a, b):
        return len((set(hashed(a, 2**20)) & set(hashed(b, 2**20))) - {0})

    assert shared("cats", "cat") == 2  # <ca, cat, the latter also the whole word
    assert shared("walking", "walked") == 3  # <wa, wal, alk
    assert shared("cat", "dog") == 0


@pytest.mark.parametrize("inject", ["embedding", "concat", "cross_attention"])
def test_room_for_more_words_changes_nothing(inject):
    """The same weights with room for 3 words or for 9: tokens that are absent have no say."""
    few = tiny_model(conditions={"text": text(3, inject=inject)})
    many = tiny_model(conditions={"text": text(9, inject=inject)})
    weights = few.denoiser.state_dict()
    place = "conditions.each.text.words.place"
    weights[place] = torch.cat([weights[place], torch.full((6, 32), 7.0)])
    many.denoiser.load_state_dict(weights)
    x, level = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), few.schedule(40.0)
    with torch.no_grad():
        a, b = (
            m.denoiser(x, level, m.denoiser.conditions.encode({"text": ["a red cat", "dog", None]}, 3)).mean
            for m in (few, many)
        )
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert (a[0] - a[1]).abs().max() > 1e-3


def test_absent_are_the_tokens_past_the_text_and_only_they():
    module = DROPPABLE["text"].module(inject="cross_attention")
    assert module.padding_mask(module.encode(["a red cat", "!", None])).tolist() == [
        [False] * 3 + [True],
        [False] + [True] * 3,
        [True] * 4,
    ]


def test_the_order_of_words_is_heard_where_they_are_attended_to():
    module = DROPPABLE["text"].module(inject="cross_attention")
    a, b = module(module.encode(["red cat", "cat red"]))
    assert (a[:2] - b[:2].flip(0)).abs().max() > 1e-3


def test_nothing_said_falls_back_to_the_start_token():
    """Every token of the text is absent, so what is attended to is one learned token, whatever would have been there."""
    model = tiny_model(conditions={"text": text(4, inject="cross_attention")})
    conditions = model.denoiser.conditions
    told = conditions(conditions.encode({}, 2))
    assert told.padding_mask.tolist() == [[False, True, True, True, True]] * 2
    samples = model.sample(2)
    assert torch.isfinite(samples).all()
    with torch.no_grad():
        conditions["text"].words.place.fill_(9.0)
    assert torch.equal(model.sample(2), samples)
    with torch.no_grad():
        conditions.start.add_(torch.linspace(-3, 3, conditions.start.shape[-1]))
    assert not torch.equal(model.sample(2), samples)


@pytest.mark.parametrize("blank", ["", "  \n"])
def test_a_blank_text_says_nothing(blank):
    module = DROPPABLE["text"].module()
    assert torch.equal(module.encode([blank]), module.encode([None]))
    with pytest.raises(ValueError, match="without ever dropping"):
        DROPPABLE["text"].module(dropout=0.0).encode([blank])
