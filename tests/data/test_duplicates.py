"""Copies are found whatever was done to them, and different pictures are left apart."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.duplicates import ALTERED, altered, plain
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from undiffuse.data.dataset import Dataset
from undiffuse.data.inspection.duplicates import clusters, equal_examples, find_duplicates
from undiffuse.data.sources import open_digits
from undiffuse.data.watching import watched_by


def scenes(n, channels=3, size=48, seed=0):
    """Pictures with coarse structure in colour and fine in grey, as photographs have, no two alike."""
    rng = np.random.default_rng(seed)
    coarse = gaussian_filter(rng.normal(size=(n, channels, size, size)), (0, 0, 7, 7))
    fine = gaussian_filter(rng.normal(size=(n, 1, size, size)), (0, 0, 1.5, 1.5))
    mixed = coarse / coarse.std() + 0.5 * fine / fine.std()
    return (128 + 45 * mixed).clip(0, 255).astype(np.uint8)


def images(values, mode):
    return Dataset("x", values, mode=mode)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ALTERED)
def test_altered_copies_are_found_and_others_are_left_apart(kind, channels):
    base, rng = scenes(60, channels), np.random.default_rng(1)
    copies = [np.asarray(altered(plain(base[k]), kind, rng)) for k in range(12)]
    stacked = np.stack([each[None] if channels == 1 else np.moveaxis(each, -1, 0) for each in copies])
    found = find_duplicates(images(np.concatenate([base, stacked]), "L" if channels == 1 else "RGB"))
    assert [cluster.tolist() for cluster in found.near] == [[k, 60 + k] for k in range(12)]


def test_the_same_frame_with_something_else_in_it_is_another_picture():
    frame = scenes(1)[0]
    other = frame.copy()
    other[:, 14:26, 14:26] = scenes(1, seed=9)[0][:, 14:26, 14:26]
    assert not find_duplicates(images(np.concatenate([np.stack([frame, other]), scenes(20, seed=3)]), "RGB")).near


def test_alpha_is_laid_over_white():
    """What lies under full transparency is not seen."""
    shown, hidden = scenes(2, 3)
    alpha = np.zeros((1, 48, 48), np.uint8)
    alpha[:, :, 20:] = 255
    pair = [np.concatenate([np.where(alpha > 0, shown, under), alpha]) for under in (shown, hidden)]
    found = find_duplicates(
        images(
            np.stack([*pair, *np.concatenate([scenes(9, seed=4), np.full((9, 1, 48, 48), 255, np.uint8)], 1)]), "RGBA"
        )
    )
    assert [cluster.tolist() for cluster in found.near] == [[0, 1]]


def test_equal_ones_are_counted_and_all_of_a_cluster_are_in_it():
    values = scenes(10)
    data = images(values[[0, 1, 2, 1, 3, 1, 4, 0, 5, 6]], "RGB")
    found = find_duplicates(data)
    assert [c.tolist() for c in found.exact] == [[0, 7], [1, 3, 5]]
    assert [c.tolist() for c in found.near] == [[0, 7], [1, 3, 5]]
    assert found.repeated == 3
    assert found.labels(10).tolist() == [0, 1, 2, 1, 4, 1, 6, 0, 8, 9]


def test_pictures_of_one_colour_are_compared_by_their_colour():
    plainly = np.stack([np.full((3, 16, 16), value, np.uint8) for value in (10, 10, 90, 91, 180)])
    found = find_duplicates(images(plainly, "RGB"))
    assert [c.tolist() for c in found.near] == [[0, 1], [2, 3]]


def test_digits_hold_no_copies():
    """Each was written by hand: among 1,797 there are no two alike."""
    found = find_duplicates(open_digits())
    assert (found.exact, found.near) == ((), ())


@pytest.mark.parametrize("shape", [(1, 200), (5, 12, 12), (1, 6, 8, 8)])
def test_arrays_are_compared_by_distance(shape):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(80, *shape)).astype(np.float32) * 7 + 3
    values[70] = values[3] + rng.normal(size=shape) * 7 * 0.01
    values[71] = values[4] + rng.normal(size=shape) * 7 * 0.3
    assert [c.tolist() for c in find_duplicates(Dataset("x", values)).near] == [[3, 70]]


def test_equal_rows_of_a_table_are_no_cluster():
    rows = np.array([[1.0, 2], [1, 2], [3, 4], [1, 2.0001]], np.float32)[:, :, None]
    found = find_duplicates(Dataset("x", rows))
    assert [c.tolist() for c in found.exact] == [[0, 1]]
    assert found.near == ()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)).filter(lambda p: p[0] != p[1]), max_size=30))
def test_clusters_are_the_connected_components(pairs):
    edges = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(20, 20))
    _, label = connected_components(graph, directed=False)
    expected = [np.flatnonzero(label == k).tolist() for k in dict.fromkeys(label)]
    assert [c.tolist() for c in clusters(20, edges)] == [rows for rows in expected if len(rows) > 1]


def test_progress_goes_from_nothing_to_all():
    shares = []
    with watched_by(lambda what, total: lambda done: shares.append((what, done / total))):
        find_duplicates(images(scenes(12), "RGB"))
    assert shares == sorted(shares)
    assert shares[-1] == ("comparing", 1)


def test_few_examples_and_one_are_no_trouble():
    assert find_duplicates(images(scenes(1), "RGB")).near == ()
    assert find_duplicates(images(scenes(2), "RGB")).near == ()
    assert equal_examples(Dataset("none", np.zeros((0, 1, 2, 2)))) == ()
