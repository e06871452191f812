"""Held-out examples: by what they are, so that none is ever trained on, whatever becomes of the others."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from undiffuse.data.dataset import Dataset
from undiffuse.data.splitting import SplitConfig, drawn_split, keys_of, split_rows, with_clusters_whole, with_names_kept
from undiffuse.errors import UsageError


def pictures(n=200, seed=0):
    return Dataset("x", np.random.default_rng(seed).integers(0, 256, (n, 1, 6, 6), dtype=np.uint8))


def out(data, split):
    return {example.tobytes() for example in data.values[split.rows(data)[1]]}


def all_of(data):
    return {example.tobytes() for example in data.values}


def test_a_key_is_the_keyed_hash_of_the_values():
    data = pictures(3)
    wanted = [hashlib.blake2b(x.tobytes(), digest_size=8, key=(7).to_bytes(8, "big")).hexdigest() for x in data.values]
    assert [f"{key:016x}" for key in keys_of(data, 7).tolist()] == wanted


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1),
    held_out=st.sampled_from([0.0, 0.1, 0.35, 7.0]),
    lost=st.sets(st.integers(0, 199), max_size=150),
    gained=st.integers(0, 60),
)
def test_no_example_ever_changes_sides(seed, held_out, lost, gained):
    """Whatever is taken out or added, and in whatever order: what was trained on is not held out, and the other way round."""
    data, rng = pictures(), np.random.default_rng(seed % 2**32)
    split = drawn_split(keys_of(data, seed), held_out, seed)
    assert len(out(data, split)) == (round(held_out * 200) if held_out < 1 else held_out)
    left = np.setdiff1d(np.arange(200), sorted(lost))
    later = Dataset("x", rng.permutation(np.concatenate([data.values[left], pictures(gained, seed=1).values])))
    assert out(later, split) & all_of(data) == out(data, split) & all_of(later)


def test_of_new_examples_the_same_share_is_held_out():
    split = drawn_split(keys_of(pictures(), 3), 0.25, 3)
    new = pictures(4000, seed=1)
    share = len(out(new, split)) / 4000
    assert abs(share - 0.25) < 4 * np.sqrt(
        0.25 * 0.75 * (1 / 4000 + 1 / 200)
    )  # of a threshold that is itself the quantile of 200


def test_equal_pictures_stay_together_and_equal_points_do_not():
    twice = Dataset("x", np.repeat(pictures(100).values, 2, axis=0))
    split = drawn_split(keys_of(twice, 0), 0.2, 0)
    training, held_out = split.rows(twice)
    assert len(held_out) == 40
    assert not {x.tobytes() for x in twice.values[training]} & {x.tobytes() for x in twice.values[held_out]}
    points = Dataset("t", np.random.default_rng(0).integers(0, 3, (1000, 2, 1)).astype(np.int64))  # nine different ones
    training, held_out = drawn_split(keys_of(points, 0), 0.1, 0).rows(points)
    assert len(held_out) == 100
    assert len(np.unique(points.values[training], axis=0)) == 9


def test_no_names_last_example_is_held_out():
    data = pictures(80)
    said = [[f"own-{k}"] if k < 40 else ["many", f"pair-{k // 2}"] for k in range(80)]
    for seed in range(5):
        keys = keys_of(data, seed)
        plain = drawn_split(keys, 0.5, seed)
        split = with_names_kept(plain, keys, said)
        training, held_out = split.rows(data)
        assert {name for k in training for name in said[k]} == {name for names in said for name in names}
        assert set(held_out) <= set(plain.rows(data)[1])  # nothing else is held out instead
        assert SplitConfig.model_validate_json(split.model_dump_json()) == split
        # a new example that says the name does not push the kept one out again
        both = Dataset("x", np.concatenate([data.values, pictures(30, seed=9).values]))
        again = with_names_kept(split, keys_of(both, seed), said + [["own-0"]] * 30)
        assert not out(both, again) & {x.tobytes() for x in data.values[training]}


@pytest.mark.parametrize(
    ("held_out", "values"), [(10.0, pictures(10).values), (1.0, np.repeat(pictures(1).values, 5, axis=0))]
)
def test_something_must_be_left(held_out, values):
    data = Dataset("x", values)
    with pytest.raises(UsageError, match="hold out fewer"):
        drawn_split(keys_of(data, 0), held_out, 0)


def test_a_run_of_before_keeps_its_rows():
    data = pictures(50)
    order = np.random.Generator(np.random.Philox(4)).permutation(50)  # as it was drawn then
    training, held_out = split_rows(data, None, 0.2, 4)
    assert held_out.tolist() == sorted(order[:10])
    assert training.tolist() == sorted(order[10:])


def films(groups=30, seed=0):
    rng = np.random.default_rng(seed)
    names = np.repeat([f"film {k}" for k in range(groups)], rng.integers(1, 12, groups))
    data = pictures(len(names), seed)
    return Dataset("films", data.values, columns={"film": names})


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**63 - 1), held_out=st.sampled_from([0.1, 0.35, 20.0]), lost=st.sets(st.integers(0, 100)))
def test_a_group_is_on_one_side_also_when_the_data_changes(seed, held_out, lost):
    data = films()
    split = drawn_split(keys_of(data, seed, "film"), held_out, seed, "film")
    training, out_ = split.rows(data)
    names = data.columns["film"]
    assert not set(names[training]) & set(names[out_])
    wanted = held_out * len(data) if held_out < 1 else held_out
    assert abs(len(out_) - wanted) <= 6  # half of the largest group
    left = np.setdiff1d(np.arange(len(data)), sorted(lost))
    fewer = data[left]
    assert {*fewer.columns["film"][split.rows(fewer)[1]]} == {*names[out_]} & {*fewer.columns["film"]}


def test_examples_without_a_group_go_by_themselves_and_columns_that_are_none_are_refused():
    data = films()
    names = data.columns["film"].astype(object)
    names[:40] = ""
    split = drawn_split(keys_of(Dataset("x", data.values, columns={"film": names}), 1, "film"), 0.5, 1, "film")
    sides = split.out(keys_of(Dataset("x", data.values, columns={"film": names}), 1, "film"))[:40]
    assert 0 < sides.sum() < 40
    with pytest.raises(UsageError, match="no column 'patient' to group by: the columns of the data are film"):
        keys_of(data, 0, "patient")
    one = Dataset("x", data.values, columns={"film": np.full(len(data), "a")})
    with pytest.raises(UsageError, match="'film' has 1 values"):
        drawn_split(keys_of(one, 0, "film"), 0.1, 0, "film")


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1),
    held_out=st.sampled_from([0.1, 0.3, 0.6]),
    parts=st.lists(st.sets(st.integers(0, 199), min_size=2, max_size=6), max_size=12),
)
def test_near_duplicates_are_on_one_side_and_what_was_trained_on_is_never_held_out(seed, held_out, parts):
    data, taken, joined = pictures(), set(), []
    for part in parts:
        rows = sorted(part - taken)
        taken |= part
        joined += [np.array(rows)] if len(rows) > 1 else []
    keys = keys_of(data, seed)
    plain = drawn_split(keys, held_out, seed)
    split = with_clusters_whole(plain, keys, joined, new=True)
    out_, before = split.out(keys), plain.out(keys)
    assert all(len(set(out_[cluster])) == 1 and out_[cluster[0]] == before[cluster[0]] for cluster in joined)
    alone = np.setdiff1d(np.arange(200), sorted(taken))
    assert (out_[alone] == before[alone]).all()
    later = with_clusters_whole(split, keys, [np.arange(0, 200, 3)], new=False).out(keys)  # they turn out to be one
    assert not (later & ~out_).any()
    assert len(set(later[::3])) == 1


def test_the_share_that_is_held_out_does_not_depend_on_how_large_clusters_are():
    shares = []
    for seed in range(40):
        keys = keys_of(pictures(300), seed)
        bursts = [np.arange(k, k + 10) for k in range(0, 300, 10)]
        shares.append(with_clusters_whole(drawn_split(keys, 0.2, seed), keys, bursts, new=True).out(keys).mean())
    assert abs(np.mean(shares) - 0.2) < 4 * np.sqrt(0.2 * 0.8 / 30 / 40)
