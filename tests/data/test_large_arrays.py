"""Large data lies in files, reads to the same values as small data, and what was decoded once is not decoded again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from undiffuse.data import images, kept, large_arrays
from undiffuse.data.config import DataConfig
from undiffuse.data.large_arrays import allocated, cache_folder, in_type
from undiffuse.data.readers import archives
from undiffuse.data.sources import open_data
from undiffuse.errors import UsageError
from undiffuse.system import temporary_beside

RNG = np.random.default_rng(0)


@pytest.fixture
def small_memory(monkeypatch, tmp_path):
    """Everything of more than 1000 bytes is large; the cache is the test's own."""
    monkeypatch.setattr(large_arrays, "IN_MEMORY", 1000)
    monkeypatch.setenv("UNDIFFUSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def mapped(values: np.ndarray) -> bool:
    """Whether an array is a file's."""
    while values is not None:
        if isinstance(values, np.memmap):
            return True
        values = values.base
    return False


ARRAYS = {
    "uint8": RNG.integers(0, 256, (50, 6, 7, 3)).astype(np.uint8),
    "big-endian": RNG.integers(0, 2000, (50, 6, 7)).astype(">u2"),
    "float16": RNG.normal(size=(50, 6, 7)).astype(np.float16),
    "float32": RNG.normal(size=(50, 6, 7)).astype(np.float32),
    "float64": RNG.normal(size=(50, 6, 7)),
    "far": 1e9 + RNG.normal(size=(50, 6, 7)),
    "fortran": np.asfortranarray(RNG.normal(size=(50, 6, 7)).astype(np.float32)),
    "bool": RNG.integers(0, 2, (200, 6, 7)).astype(bool),
    "table": RNG.normal(size=(100, 5)),
}


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_a_large_array_is_mapped_and_read_to_the_same(tmp_path, monkeypatch, name, suffix):
    path = tmp_path / f"a{suffix}"
    np.save(path, ARRAYS[name]) if suffix == ".npy" else np.savez(
        path, x=ARRAYS[name], y=np.arange(len(ARRAYS[name])) % 3
    )
    monkeypatch.setenv("UNDIFFUSE_CACHE", str(tmp_path / "cache"))
    config = DataConfig(source=str(path))
    small = open_data(config)
    monkeypatch.setattr(large_arrays, "IN_MEMORY", 1000)
    large = open_data(config)
    assert mapped(large.values) or name == "bool"
    assert not mapped(small.values)
    assert large.values.dtype == small.values.dtype
    assert np.array_equal(large.values, small.values)
    assert large.fingerprint() == small.fingerprint()
    assert large.notes == small.notes


def test_what_is_done_to_a_mapped_array_does_not_reach_its_file(tmp_path, small_memory):
    np.save(tmp_path / "a.npy", ARRAYS["uint8"])
    before = (tmp_path / "a.npy").read_bytes()
    open_data(DataConfig(source=str(tmp_path / "a.npy"))).values[...] = 0
    assert (tmp_path / "a.npy").read_bytes() == before


def test_a_file_of_a_large_array_goes_with_it(small_memory):
    values = allocated((100, 100), np.uint8)
    view = values[3:]
    assert mapped(view)
    assert not view.any()
    assert len(list(small_memory.iterdir())) == 1
    del values
    assert len(list(small_memory.iterdir())) == 1  # there is still a view of it
    del view
    assert not list(small_memory.iterdir())


def test_what_a_killed_process_left_is_removed(small_memory):
    small_memory.mkdir()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    name = temporary_beside(small_memory / "array.npy").name.replace(f".{os.getpid()}-", f".{gone.pid}-")
    (small_memory / name).write_bytes(b"left")
    kept = allocated((2000,), np.uint8)
    assert not (small_memory / name).exists()
    assert kept.nbytes == 2000


def test_where_nothing_can_be_written_arrays_are_in_memory(monkeypatch, tmp_path, small_memory):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("UNDIFFUSE_CACHE", str(tmp_path / "file"))
    assert not mapped(allocated((2000,), np.uint8))

    def full(*args):
        raise OSError(28, "no space left on device")

    monkeypatch.setenv("UNDIFFUSE_CACHE", str(small_memory))
    monkeypatch.setattr(os, "posix_fallocate", full)
    assert not mapped(allocated((2000,), np.uint8))
    assert not list(small_memory.iterdir())


def test_a_type_is_changed_part_by_part(small_memory):
    values = RNG.normal(size=(3000, 1000))  # of more than one part
    found = in_type(values, np.float32)
    assert mapped(found)
    assert np.array_equal(found, values.astype(np.float32))
    assert in_type(values, np.float64) is values


@pytest.mark.parametrize("damage", ["cut", "objects", "nothing"])
def test_a_large_file_that_is_damaged_is_one_sentence(tmp_path, small_memory, damage):
    path = tmp_path / "a.npy"
    if damage == "objects":
        np.save(path, np.array([{"a": 1}] * 2000, dtype=object), allow_pickle=True)
    else:
        np.save(path, ARRAYS["float64"])
        path.write_bytes(path.read_bytes()[:9000] if damage == "cut" else b"\0" * 2000)
    with pytest.raises(UsageError, match=r"a\.npy"):
        open_data(DataConfig(source=str(path)))


def test_the_cache_is_where_the_variables_say(monkeypatch, tmp_path):
    monkeypatch.setenv("UNDIFFUSE_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("UNDIFFUSE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "undiffuse"


# Images -------------------------------------------------------------------------------------------------------------------


def pictures(folder, n=12):
    for k in range(n):
        (folder / "ab"[k % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (9, 8, 3)).astype(np.uint8)).save(folder / "ab"[k % 2] / f"{k:02d}.png")


@pytest.fixture
def decoding(monkeypatch):
    """How many files were decoded; decoding always counts as slow."""
    counted = []
    original = images.read_image
    monkeypatch.setattr(images, "read_image", lambda *args: counted.append(args[0]) or original(*args))
    monkeypatch.setattr(images, "SLOW", -1.0)
    return counted


def test_images_are_decoded_once(tmp_path, small_memory, decoding):
    pictures(tmp_path / "data", 150)
    (tmp_path / "data" / "a" / "broken.png").write_bytes(b"no")
    config = DataConfig(source=str(tmp_path / "data"))
    first, second = open_data(config), open_data(config)
    assert len(decoding) == 151
    assert mapped(first.values)
    assert np.array_equal(first.values, second.values)
    assert (first.notes, first.classes, first.mode) == (second.notes, second.classes, second.mode)
    assert first.columns["file"].tolist() == second.columns["file"].tolist()
    assert any("broken.png" in note for note in second.notes)


@pytest.mark.parametrize("change", ["content", "new", "gone", "size", "fit", "channels"])
def test_other_images_or_the_same_read_otherwise_are_decoded_anew(tmp_path, small_memory, decoding, change):
    pictures(tmp_path / "data")
    config = DataConfig(source=str(tmp_path / "data"), size=(6, 6))
    open_data(config)
    path = tmp_path / "data" / "a" / "00.png"
    if change == "content":
        Image.fromarray(np.zeros((9, 8, 3), np.uint8)).save(path)
    elif change == "new":
        Image.fromarray(np.zeros((9, 8, 3), np.uint8)).save(path.with_name("new.png"))
    elif change == "gone":
        path.unlink()
    else:
        config = config.model_copy(
            update={"size": {"size": (5, 5)}, "fit": {"fit": "pad"}, "channels": {"channels": "grey"}}[change]
        )
    decoding.clear()
    again = open_data(config)
    assert len(decoding) == len(again)


def test_a_cache_that_is_damaged_is_made_anew(tmp_path, small_memory, decoding):
    pictures(tmp_path / "data")
    config = DataConfig(source=str(tmp_path / "data"))
    first = open_data(config)
    (entry,) = small_memory.glob("images-*")
    whole = (entry / "values.npy").read_bytes()
    damaged = [
        ("about.json", b"{"),
        ("about.json", b"[]"),
        ("about.json", None),
        ("values.npy", None),
        ("values.npy", b""),
        ("values.npy", b"x"),
        ("values.npy", b"PK\x03\x04" + whole[4:]),  # an archive by its first bytes
        ("values.npy", whole[:9]),
        ("values.npy", whole[:20]),
        ("values.npy", whole[:-1]),
        ("values.npy", whole[:12] + bytes(len(whole) - 12)),
        ("values.npy", whole[:10] + b"((((" + whole[14:]),
        ("values.npy", whole.replace(b"'|u1'", b"'|i1'")),
        ("values.npy", whole.replace(b"'fortran_order': False", b"'fortran_ordeR': False")),
    ]
    for file, content in damaged:
        (entry / file).write_bytes(content) if content is not None else (entry / file).unlink()
        decoding.clear()
        assert np.array_equal(open_data(config).values, first.values)
        assert len(decoding) == 12, (file, content)
    about = json.loads(json.loads((entry / "about.json").read_text())["about"])
    assert len(about["which"]) == 12


@pytest.mark.parametrize("large", [True, False])
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda whole: whole[:-1], "cut short"),
        (lambda whole: whole[:9], "cannot be read as a NumPy file"),
        (lambda whole: whole[:10] + b"((((" + whole[14:], "header"),
        (lambda whole: whole.replace(b"'<f8'", b"'|O' "), "pickled"),
        (lambda whole: b"", "cannot be read as a NumPy file"),
    ],
)
def test_a_damaged_array_is_refused_in_the_same_words_whatever_its_size(tmp_path, monkeypatch, large, damage, words):
    np.save(tmp_path / "a.npy", np.arange(400.0).reshape(100, 4))
    (tmp_path / "a.npy").write_bytes(damage((tmp_path / "a.npy").read_bytes()))
    monkeypatch.setattr("undiffuse.data.large_arrays.IN_MEMORY", 0 if large else 2**28)
    with pytest.raises(UsageError, match=words):
        open_data(DataConfig(source=str(tmp_path / "a.npy")))


@pytest.mark.parametrize("large", [True, False])
def test_what_is_no_array_in_an_archive_of_arrays_is_passed_over(tmp_path, monkeypatch, large):
    values = np.random.default_rng(0).normal(size=(20, 3))
    np.savez(tmp_path / "a.npz", x=values)
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("README.txt", "how these were measured")
    monkeypatch.setattr("undiffuse.data.large_arrays.IN_MEMORY", 0 if large else 2**28)
    found = open_data(DataConfig(source=str(tmp_path / "a.npz")))
    assert np.allclose(found.values[..., 0], values)
    assert not found.columns
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("README.txt", "nothing else")
    with pytest.raises(UsageError, match="no array"):
        open_data(DataConfig(source=str(tmp_path / "b.npz")))


def test_a_picture_that_was_unreadable_for_a_moment_is_tried_again(tmp_path, small_memory, decoding, monkeypatch):
    pictures(tmp_path / "data", 120)
    config, whole = DataConfig(source=str(tmp_path / "data")), Path.open

    def forbidden(path, *args, **kwargs):
        if path.name == "03.png":
            raise PermissionError(13, "Permission denied")
        return whole(path, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", forbidden)
        assert len(open_data(config)) == 119
    assert len(open_data(config)) == 120


def test_the_cache_takes_no_more_than_it_leaves_free(tmp_path, small_memory, decoding, monkeypatch):
    entries = []
    for k in range(4):
        pictures(tmp_path / f"data{k}")
        open_data(DataConfig(source=str(tmp_path / f"data{k}")))
        entries += [entry for entry in small_memory.glob("images-*") if entry not in entries]
        os.utime(entries[-1], (k, k))
    open_data(DataConfig(source=str(tmp_path / "data0")))  # used again: now the oldest is data1's
    each = sum(file.stat().st_size for file in entries[0].iterdir())
    usage = type("usage", (), {"free": 4 * each})
    monkeypatch.setattr("undiffuse.data.cache.disk_usage", lambda path: usage)
    pictures(tmp_path / "data4")
    open_data(DataConfig(source=str(tmp_path / "data4")))
    assert entries[0].exists()
    assert not entries[1].exists()


def test_members_of_archives_and_bytes_in_tables_are_kept_too(tmp_path, small_memory, decoding):
    pictures(tmp_path / "data")
    files = sorted((tmp_path / "data").rglob("*.png"))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in files:
            archive.write(file, file.relative_to(tmp_path / "data"))
    table = pyarrow.table({"image": [file.read_bytes() for file in files]})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    for name in ("a.zip", "t.parquet"):
        config = DataConfig(source=str(tmp_path / name))
        decoding.clear()
        first, second = open_data(config), open_data(config)
        assert len(decoding) == 12
        assert np.array_equal(first.values, second.values)


@pytest.mark.parametrize("kind", ["zip", "shards"])
def test_data_sets_of_archives_are_kept_whole(tmp_path, small_memory, decoding, monkeypatch, kind):
    pictures(tmp_path / "data")
    files = sorted((tmp_path / "data").rglob("*.png"))
    for k, file in enumerate(files):
        file.with_suffix(".txt").write_text(f"caption {k}")
        if kind == "shards":
            file.with_suffix(".json").write_text(json.dumps({"age": k, "class": "ab"[k % 2]}))
    if kind == "zip":
        source = tmp_path / "a.zip"
        with zipfile.ZipFile(source, "w") as archive:
            for file in sorted((tmp_path / "data").rglob("*.*")):
                archive.write(file, file.relative_to(tmp_path / "data"))
    else:
        source = tmp_path / "shards"
        source.mkdir()
        for folder in ("a", "b"):
            with tarfile.open(source / f"{folder}.tar", "w") as archive:
                archive.add(tmp_path / "data" / folder, ".")
    config = DataConfig(source=str(source))
    monkeypatch.setattr(kept, "SLOW", -1.0)
    first = open_data(config)
    decoding.clear()
    monkeypatch.setattr(archives, "members", lambda path: pytest.fail("the archive was searched again"))
    second = open_data(config)
    assert not decoding
    assert second.fingerprint() == first.fingerprint()
    assert (second.notes, second.classes, second.mode, second.root) == (
        first.notes,
        first.classes,
        first.mode,
        first.root,
    )
    assert second.columns["caption"].tolist() == first.columns["caption"].tolist()
    assert (second.labels is None) == (first.labels is None)
    assert len([*small_memory.glob("dataset-*/values.npy")]) == 1
    (held,) = small_memory.glob("dataset-*/values.npy")
    assert held.stat().st_nlink == 2  # one file for the images and the data set
    with (source if kind == "zip" else source / "a.tar").open("ab") as file:
        file.write(b"\0" * 10_240)
    with pytest.raises(pytest.fail.Exception):
        open_data(config)


def test_memory_is_what_is_asked_for(tmp_path):
    """A process that reads an array of 400 MB holds little of it: the pages are the file's."""
    values = np.lib.format.open_memmap(tmp_path / "a.npy", mode="w+", dtype=np.float32, shape=(100_000, 1000))
    values[::1000] = 1
    del values
    code = (
        "import sys\nfrom undiffuse.data.config import DataConfig\nfrom undiffuse.data.sources import open_data\n"
        "data = open_data(DataConfig(source=sys.argv[1], layout='NL')); data.fingerprint()\n"
        "print(next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('RssAnon')))"
    )
    if not os.path.exists("/proc/self/status"):
        pytest.skip("only Linux says what memory is a process's own")
    found = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.npy")], capture_output=True, text=True, check=True
    )
    assert int(found.stdout) * 1024 < 400e6 / 2
