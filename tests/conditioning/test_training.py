"""Several conditions at once, with what is missing, from a file through training to samples."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from PIL import Image

import undiffuse
from tests.small import TINY_SETTINGS
from undiffuse.conditioning.spec import Condition
from undiffuse.data.config import DataConfig
from undiffuse.runs.prepare import prepare
from undiffuse.training.cadence import Intervals

N, NAN, SELDOM = 40, float("nan"), Intervals(1e9, 1e9)
SETTINGS = TINY_SETTINGS | {"training.steps": 3, "training.batch_size": 8, "sampling.steps": 3}
DECLARED = {
    "type": Condition(kind="class"),
    "age": Condition(kind="number", inject="concat"),
    "looks": Condition(kind="tags", inject="cross_attention"),
    "emb": Condition(kind="vector", dropout=0.3),
}
ASKED = {"type": "cat", "age": 30, "looks": "0;2", "emb": [0.5, -1.0, 2.0]}


@pytest.fixture
def toys(tmp_path):
    """Examples of 8×8 with four columns; every seventh lacks one of them."""
    rng = np.random.default_rng(0)
    age, looks, emb = rng.uniform(10, 50, N), rng.integers(0, 2, (N, 3)).astype(float), rng.normal(size=(N, 3))
    kind = np.array(["cat", "dog", "owl", "cat"] * (N // 4), dtype="U8")
    age[::7], looks[1::7], emb[2::7], kind[3::7] = NAN, NAN, NAN, ""
    columns = {"type": kind, "age": age, "looks": looks, "emb": emb}
    np.savez(tmp_path / "toys.npz", x=rng.integers(0, 256, (N, 8, 8), dtype=np.uint8), **columns)
    return tmp_path / "toys.npz"


def trained(source, folder, declared=DECLARED, watch=SELDOM, **settings):
    run = prepare(
        DataConfig(source=str(source)), folder, settings=SETTINGS | settings, conditions=declared, watch=watch
    ).run()
    verdicts = [update.status for update in run.updates()]
    assert verdicts == ["fine"] * len(verdicts)
    return run


@pytest.mark.filterwarnings("error::undiffuse.conditioning.base.Note")
def test_four_conditions_train_save_load_and_sample(tmp_path, toys):
    run = trained(toys, tmp_path / "r", watch=Intervals(0.0, 0.0, share=1.0))
    assert run.loop.step == 3
    assert sorted(path.name for path in (tmp_path / "r/samples").iterdir()) == [f"step-{k:08d}.png" for k in (1, 2, 3)]
    model = undiffuse.load(tmp_path / "r")
    assert model.config.conditions == run.model_config.conditions
    assert {name: config.missing for name, config in model.config.conditions.items()} == dict.fromkeys(DECLARED, True)
    assert model.config.conditions["emb"].dropout == 0.3
    seen = []
    for count in range(5):
        for names in itertools.combinations(ASKED, count):
            values = model.sample(2, {name: ASKED[name] for name in names})
            assert values.shape == (2, 1, 8, 8)
            assert ((values >= 0) & (values <= 255)).all()
            seen.append(values)
    assert model.sample(2, ASKED, guidance=2.0).shape == (2, 1, 8, 8)
    mixed = model.sample(
        2, {"type": ["cat", None], "age": [30, None], "looks": ["0;2", None], "emb": [ASKED["emb"], None]}
    )
    torch.testing.assert_close(mixed[0], seen[-1][0], rtol=1e-3, atol=1e-2)  # of 255: everything said, and
    torch.testing.assert_close(mixed[1], seen[0][1], rtol=1e-3, atol=1e-2)  # nothing said, side by side


def test_what_is_told_in_training_is_what_the_columns_say(tmp_path, toys):
    """Every batch: the numbers beside an example are its own, whatever was held out and in whatever order it comes."""
    run = prepare(DataConfig(source=str(toys)), tmp_path / "r", settings=SETTINGS, conditions=DECLARED).run()
    content = np.load(toys)
    row_of = {x.tobytes(): row for row, x in enumerate(content["x"])}
    config, seen = run.model_config.conditions, set()
    for step in range(12):
        x, values = run.batch(step)
        for example, kind, age, looks, emb in zip(
            run.model.codec.decode(x).numpy().astype(np.uint8),
            values["type"],
            values["age"],
            values["looks"],
            values["emb"],
            strict=True,
        ):
            row = row_of[example.tobytes()]
            seen.add(row)
            assert [*config["type"].names, ""][kind] == content["type"][row]
            assert age[1] == (not np.isnan(content["age"][row]))
            np.testing.assert_array_equal(looks[:-1], np.nan_to_num(content["looks"][row]))
            assert looks[-1] == (not np.isnan(content["looks"][row]).any())
            if age[1]:
                assert age[0] * config["age"].std + config["age"].mean == pytest.approx(content["age"][row], abs=1e-4)
            if emb[-1]:
                np.testing.assert_allclose(
                    emb[:-1].numpy() * config["emb"].std + config["emb"].mean,
                    np.nan_to_num(content["emb"][row]),
                    atol=1e-5,
                )
            else:
                assert np.isnan(content["emb"][row]).all()
    assert len(seen) == N - 4  # a tenth is held out


def test_a_run_goes_on_and_refuses_other_columns_and_other_declarations(tmp_path, toys):
    trained(toys, tmp_path / "r")
    run = trained(toys, tmp_path / "r", **{"training.steps": 5})
    assert run.loop.step == 5
    with pytest.raises(ValueError, match=r"conditions\.age\.inject: 'concat' there, None now"):
        trained(toys, tmp_path / "r", DECLARED | {"age": Condition(kind="number")})
    content = dict(np.load(toys))
    content["age"][1] += 1
    np.savez(toys, **content)
    with pytest.raises(ValueError, match="the data has changed"):
        trained(toys, tmp_path / "r")


def test_a_run_refuses_other_vectors_in_a_file_of_their_own(tmp_path, toys):
    np.save(tmp_path / "emb.npy", np.load(toys)["emb"])
    declared = {"emb": Condition(kind="vector", column=str(tmp_path / "emb.npy"))}
    trained(toys, tmp_path / "r", declared)
    trained(toys, tmp_path / "r", declared)
    np.save(tmp_path / "emb.npy", np.load(toys)["emb"] + 1)
    with pytest.raises(ValueError, match=r"fingerprints\..*emb\.npy"):
        trained(toys, tmp_path / "r", declared)


def test_stopping_and_going_on_ends_in_the_same_bits(tmp_path, toys):
    """Dropping, of each and of all, is drawn from (seed, step)."""
    whole = trained(toys, tmp_path / "whole", **{"training.steps": 6, "training.cooldown": 0.0})
    trained(toys, tmp_path / "parts", **{"training.steps": 3, "training.cooldown": 0.0})
    parts = trained(toys, tmp_path / "parts", **{"training.steps": 6, "training.cooldown": 0.0})
    a, b = whole.loop.tensors(), parts.loop.tensors()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.filterwarnings("error::undiffuse.conditioning.base.Note")
def test_words_and_masks_of_a_table_of_images(tmp_path):
    rng, lines = np.random.default_rng(0), ["file,mask,caption,job"]
    for k in range(24):
        for kind in ("x", "m"):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3) if kind == "x" else (8, 8), dtype=np.uint8)).save(
                tmp_path / f"{kind}{k}.png"
            )
        lines.append(
            f"x{k}.png,m{k}.png,{'' if k % 5 == 0 else 'a red cat' if k % 2 else 'a dog'},{'paint' if k % 3 else 'enlarge'}"
        )
    (tmp_path / "t.csv").write_text("\n".join(lines))
    declared = {"mask": Condition(kind="image"), "caption": Condition(kind="text"), "job": Condition(kind="task")}
    trained(tmp_path / "t.csv", tmp_path / "r", declared)
    model = undiffuse.load(tmp_path / "r")
    mask = np.zeros((8, 8), np.uint8)
    for asked in (
        {"mask": mask, "caption": "a red dog"},
        {"mask": [mask, 255 - mask]},
        {"caption": ["a cat", None]},
        {},
    ):
        assert model.sample(2, {"job": "paint"} | asked).shape == (2, 3, 8, 8)
    with pytest.raises(ValueError, match=r"job: .*without ever dropping"):
        model.sample(1, {"caption": "a dog"})
    trained(tmp_path / "t.csv", tmp_path / "r", declared)  # goes on
    Image.fromarray(255 - np.asarray(Image.open(tmp_path / "m3.png"))).save(tmp_path / "m3.png")
    with pytest.raises(ValueError, match=r"fingerprints\.mask"):
        trained(tmp_path / "t.csv", tmp_path / "r", declared)


def test_declarations_are_kept_with_the_run(tmp_path, toys):
    trained(toys, tmp_path / "r")
    kept = json.loads((tmp_path / "r/config.json").read_text())["conditions"]
    assert {name: Condition(**condition) for name, condition in kept.items()} == DECLARED
