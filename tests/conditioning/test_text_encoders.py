"""Models that are told texts by a transformer: trained, taken up again without encoding anew, and asked."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import undiffuse
from tests.conditioning.encoders import MADE, TEXTS
from tests.small import TINY_SETTINGS, randomised
from undiffuse.conditioning.spec import Condition
from undiffuse.conditioning.texts import TextCondition
from undiffuse.data.config import DataConfig
from undiffuse.runs.prepare import prepare
from undiffuse.training.cadence import Intervals

SETTINGS = TINY_SETTINGS | {"training.steps": 2, "training.batch_size": 8, "sampling.steps": 2}


@pytest.fixture
def captioned(tmp_path):
    """Thirty pictures with a caption each, some with none."""
    rng = np.random.default_rng(0)
    captions = np.array([TEXTS[k % 5] if k % 6 else "" for k in range(30)])
    np.savez(tmp_path / "x.npz", x=rng.integers(0, 256, (30, 8, 8), dtype=np.uint8), caption=captions)
    return tmp_path / "x.npz"


def run_in(folder, source, **declared):
    condition = Condition(kind="text", **declared)
    return prepare(
        DataConfig(source=str(source)),
        folder,
        settings=SETTINGS,
        conditions={"caption": condition},
        watch=Intervals(1e9, 1e9),
    ).run()


@pytest.mark.parametrize("pooling", [None, "tokens"])
def test_a_model_trains_saves_loads_and_samples_by_text(folder, captioned, tmp_path, pooling):
    run = run_in(tmp_path / "r", captioned, encoder=str(folder), pooling=pooling)
    for update in run.updates():
        assert update.status == "fine"
    model = undiffuse.load(tmp_path / "r")
    assert model.config.conditions["caption"].inject == ("cross_attention" if pooling else "embedding")
    one = model.sample(2, {"caption": ["a dog", None]}, guidance=2.0)
    assert one.shape == (2, 1, 8, 8)
    moved = shutil.copytree(folder, tmp_path / "moved")
    elsewhere = undiffuse.load(tmp_path / "r", encoder=str(moved))
    assert torch.equal(elsewhere.sample(2, {"caption": ["a dog", None]}, guidance=2.0), one)
    with torch.random.fork_rng(devices=[]):
        other = MADE[folder.name](tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match="not the one the model was trained with"):
        undiffuse.load(tmp_path / "r", encoder=str(other)).sample(1, {"caption": "a dog"})
    randomised(model.denoiser)  # two steps are too few to see by
    assert not torch.equal(model.sample(1, {"caption": "a red cat"}), model.sample(1, {"caption": "owl!"}))
    assert undiffuse.load(tmp_path / "r", encoder=str(other)).sample(1).shape == (
        1,
        1,
        8,
        8,
    )  # nothing said needs no encoder


def test_texts_are_encoded_once_and_kept(folder, captioned, tmp_path, monkeypatch):
    """Taken up again, even before its first step, a run finds what was encoded; told of other texts, it asks anew."""
    first = run_in(tmp_path / "r", captioned, encoder=str(folder))
    (kept,) = (tmp_path / "r/cache").iterdir()
    assert {path.name for path in (tmp_path / "r").iterdir()} == {"cache"}
    parts = TextCondition.parts
    monkeypatch.setattr(TextCondition, "parts", lambda self, texts: pytest.fail("the texts were encoded again"))
    second = run_in(tmp_path / "r", captioned, encoder=str(folder))
    monkeypatch.setattr(TextCondition, "parts", parts)
    assert torch.equal(second.loader.values["caption"], first.loader.values["caption"])
    direct = first.model.denoiser.conditions["caption"].encode([TEXTS[k % 5] if k % 6 else None for k in range(30)])
    torch.testing.assert_close(first.loader.values["caption"], direct[first.prepared.training], rtol=1e-4, atol=1e-5)
    kept.write_bytes(kept.read_bytes()[:40])  # one that a full disk cut short is made anew
    third = run_in(tmp_path / "r", captioned, encoder=str(folder))
    assert torch.equal(third.loader.values["caption"], first.loader.values["caption"])
    content = dict(np.load(captioned))
    content["caption"][1] = "a red dog"
    np.savez(captioned, **content)
    fourth = run_in(tmp_path / "r", captioned, encoder=str(folder))
    assert len(list((tmp_path / "r/cache").iterdir())) == 2
    changed = (fourth.loader.values["caption"] != first.loader.values["caption"]).flatten(1).any(1)
    assert changed.any()


def test_a_table_of_images_is_told_its_captions(folders, tmp_path):
    rng = np.random.default_rng(0)
    for k in range(12):
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(tmp_path / f"{k}.png")
    (tmp_path / "t.csv").write_text("file,caption\n" + "".join(f'{k}.png,"{TEXTS[k % 5]}"\n' for k in range(12)))
    run = run_in(tmp_path / "r", tmp_path / "t.csv", encoder=str(folders["gpt"]), pooling="mean", inject="concat")
    assert [update.status for update in run.updates()] == ["fine"] * 2
    assert undiffuse.load(tmp_path / "r").sample(2, {"caption": "a round roof"}).shape == (2, 1, 8, 8)
