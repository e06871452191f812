"""Folders of images: everything that is image is read, and whatever is left out is counted and named."""

from __future__ import annotations

import os
import tracemalloc
import warnings

import numpy as np
import pytest
from PIL import Image, features

from undiffuse.data.config import DataConfig
from undiffuse.data.pixels import IMAGE_SUFFIXES
from undiffuse.data.sources import open_data
from undiffuse.errors import UsageError
from undiffuse.runs.prepare import default_name


def picture(seed=0, size=(6, 5)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def save(path, seed=0, size=(6, 5), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(seed, size)).save(path, **options)


def opened(path, **options):
    return open_data(DataConfig(source=str(path), **options))


def said(data, *words):
    """The one note with these words."""
    found = [note for note in data.notes if all(word in note for word in words)]
    assert len(found) == 1, data.notes
    return found[0]


def test_links_to_files_are_followed_wherever_they_lead_and_it_is_said(tmp_path):
    """Snapshots of the hub, DVC and datalad are folders of links."""
    for k in range(3):
        save(tmp_path / "blobs" / f"{k}", k, format="PNG")
        (tmp_path / "D").mkdir(exist_ok=True)
        (tmp_path / "D" / f"{k}.png").symlink_to(tmp_path / "blobs" / f"{k}")
    save(tmp_path / "D" / "3.png", 3)
    (tmp_path / "D" / "4.png").symlink_to(tmp_path / "gone")
    data = opened(tmp_path / "D")
    assert np.array_equal(data.values, np.stack([np.moveaxis(picture(k), -1, 0) for k in range(4)]))
    said(data, "3 of 4 images", "outside")
    said(data, "1 link", "4.png", "nowhere")


def test_linked_class_folders_are_classes_and_loops_end(tmp_path):
    save(tmp_path / "all" / "cat" / "0.png", 0)
    save(tmp_path / "D" / "dog" / "1.png", 1)
    (tmp_path / "D" / "cat").symlink_to(tmp_path / "all" / "cat")
    (tmp_path / "D" / "dog" / "up").symlink_to(tmp_path / "D")
    data = opened(tmp_path / "D")
    assert (data.classes, data.labels.tolist()) == (("cat", "dog"), [0, 1])
    said(data, "dog/up", "read already")


def test_folders_that_may_not_be_read_are_counted(tmp_path, monkeypatch):
    for name in ("cat", "dog"):
        save(tmp_path / name / "0.png")
    scandir = os.scandir

    def refusing(folder):
        if str(folder).endswith("dog"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refusing)
    said(opened(tmp_path), "1 folder", "dog", "may not be read")


def test_folders_of_other_programs_are_no_classes(tmp_path):
    for name in ("cat", "dog", "@eaDir", ".thumbnails", "__MACOSX"):
        save(tmp_path / name / "0.png")
    (tmp_path / "Thumbs.db").write_bytes(b"x")
    (tmp_path / ".DS_Store").write_bytes(b"x")
    data = opened(tmp_path)
    assert data.classes == ("cat", "dog")
    said(data, "3 folders", ".thumbnails", "@eaDir", "__MACOSX")
    assert len(data.notes) == 1


def test_a_folder_of_parts_says_that_its_classes_are_the_parts(tmp_path):
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            save(tmp_path / part / name / "0.png")
    data = opened(tmp_path)
    assert data.classes == ("test", "train")
    note = said(data, "test, train", "train/cat", f"give {tmp_path / 'test'}")
    assert note not in opened(tmp_path / "train").notes
    assert opened(tmp_path / "train").classes == ("cat", "dog")


def test_every_suffix_that_is_read_is_read_and_the_others_are_counted(tmp_path):
    kept = ["a.png", "b.JPG", "c.jfif", "d.tga", "e.TIFF"]
    kept += ["f.avif"] if features.check("avif") else []
    kept += ["g.jp2"] if features.check("jpg_2000") else []
    for name in kept:
        kind = {"jfif": "JPEG", "tga": "TGA", "jp2": "JPEG2000", "jpg": "JPEG"}.get(name[2:].lower())
        save(tmp_path / name, size=(16, 16), format=kind)
    (tmp_path / "h.heic").write_bytes(b"x")
    (tmp_path / "i.txt").write_bytes(b"x")
    data = opened(tmp_path)
    assert data.columns["file"].tolist() == kept
    said(data, "2 files", "h.heic, i.txt", "1 .heic, 1 .txt")
    assert ".heic" not in IMAGE_SUFFIXES


def test_runs_are_never_data(tmp_path, monkeypatch, run):
    """`cd photos; undiffuse train .` puts its run below the data."""
    monkeypatch.chdir(tmp_path)
    for k in range(12):
        save(tmp_path / "photos" / "ab"[k % 2] / f"{k}.png", k, (8, 8))
    monkeypatch.chdir(tmp_path / "photos")
    small = (
        "--train-steps",
        "2",
        "--set",
        "network.width=8",
        "--set",
        "network.groups=4",
        "--set",
        "network.multipliers=[1,2]",
        "--batch-size",
        "4",
    )
    for _ in range(2):
        code, text = run_in(monkeypatch, tmp_path / "photos", run, "train", ".", *small)
        assert code == 0, text
        assert "11 examples" in text
    assert "runs/photos" in text
    assert "already trained" in text
    assert (tmp_path / "photos" / "runs" / "photos" / "model.safetensors").exists()
    with pytest.raises(UsageError, match="is a run"):
        opened(tmp_path / "photos" / "runs" / "photos")


def run_in(monkeypatch, folder, run, *arguments):
    monkeypatch.chdir(folder)
    return run(*arguments)


def test_the_name_of_a_run_is_that_of_the_folder(tmp_path, monkeypatch):
    (tmp_path / "photos" / "deeper").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "photos")
    assert default_name(".") == "photos"
    assert default_name("deeper/..") == "photos"
    monkeypatch.chdir(tmp_path / "photos" / "deeper")
    assert default_name("..") == "photos"
    assert default_name(".hidden") == "hidden"
    assert default_name("a/b.npy") == "b"
    assert default_name("digits") == "digits"


def test_a_local_folder_called_digits_is_told_from_the_built_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "digits" / "0.png")
    assert opened("digits").shape == (1, 8, 8)
    said(opened("digits"), "'digits' is the data set that comes with undiffuse", "./digits")
    assert opened("./digits").shape == (3, 6, 5)


def test_pages_and_frames_beyond_the_first_are_counted(tmp_path):
    pages = [Image.fromarray(picture(k)) for k in range(8)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    save(tmp_path / "one.png")
    note = said(opened(tmp_path), "1 of 2 images", "the first is used", "stack.tif (8)")
    pages[0].quantize().save(tmp_path / "moving.gif", save_all=True, append_images=[p.quantize() for p in pages[1:4]])
    assert "moving.gif (4)" in said(opened(tmp_path, channels="rgb"), "the first is used")
    assert "moving" not in note


def test_a_crop_that_throws_most_of_a_picture_away_is_said(tmp_path):
    save(tmp_path / "thin.png", size=(12, 600))
    save(tmp_path / "photo.png", 1, size=(40, 60))
    save(tmp_path / "wide.png", 1, size=(48, 64))  # a quarter of it is cut away, as of most photos
    note = said(opened(tmp_path, size=(8, 8)), "2 of 3 images", "cropping", "`fit` pad")
    assert "photo.png (33%), thin.png (98%)" in note
    assert not any("cropping" in note for note in opened(tmp_path, size=(8, 8), fit="pad").notes)


def test_images_beyond_the_limit_are_named_with_the_option_that_allows_them(tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for side in (40, 60):  # beyond the limit, and beyond twice the limit
        save(tmp_path / f"{side}.png", size=(side, side))
        with pytest.raises(UsageError, match=rf"{side}\.png .*`max_pixels`"):
            opened(tmp_path)
        assert opened(tmp_path, max_pixels=10**4, size=(8, 8)).shape == (3, 8, 8)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
        (tmp_path / f"{side}.png").unlink()


def test_reading_leaves_the_filters_of_warnings_alone(tmp_path, monkeypatch):
    """They are the process's, not a thread's: threads that set them and set them back leave them as another one had them."""
    for k in range(4):
        save(tmp_path / f"{k}.png", k)
    touched = []
    for name in ("catch_warnings", "simplefilter", "filterwarnings"):
        own = getattr(warnings, name)
        monkeypatch.setattr(warnings, name, lambda *a, own=own, **k: touched.append(own) or own(*a, **k))
    opened(tmp_path)
    assert not touched


def test_images_are_read_into_the_one_array_that_is_kept(tmp_path):
    side, n = 128, 40
    for k in range(n):
        save(tmp_path / f"{k:03d}.bmp", k, (side, side))
    opened(tmp_path)  # what is allocated once
    tracemalloc.start()
    data = opened(tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    one = side * side * 3
    assert data.values.nbytes == n * one
    assert peak < 1.1 * n * one + 16 * one * (os.cpu_count() or 1)  # and a few images for each thread that reads
