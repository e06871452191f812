"""Fine-tuning from the command line and from Python: what is kept, what may change, resume, refusals."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import undiffuse
from tests.small import TINY_SETTINGS, images
from undiffuse.data.config import DataConfig
from undiffuse.data.sources import open_digits
from undiffuse.evaluation.likelihood import likelihood
from undiffuse.process.config import ScheduleConfig
from undiffuse.process.forward import add_noise
from undiffuse.runs.prepare import prepare
from undiffuse.training.cadence import Intervals

SCHEDULES = [
    {"schedule.name": "linear"},
    {"schedule.T": 50},
    {"schedule.name": "flow"},
    {"schedule.name": "edm", "sampling.grid": "karras"},
    {"schedule.name": "linear", "schedule.beta_end": 0.03},
    {"schedule.shift": -1.0},
]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    settings = TINY_SETTINGS | {"augment.probability": 0.0}
    undiffuse.train("digits", runs=folder, name="base", steps=40, batch_size=16, settings=settings)
    return folder / "base"


def started(folder, base, steps=4, source="digits", watch=Intervals(1e9, 1e9), conditions=None, **settings):  # noqa: B008
    chosen = {"training.steps": steps, "training.batch_size": 8} | settings
    return prepare(
        DataConfig(source=str(source)), folder, settings=chosen, start=base, watch=watch, conditions=conditions
    ).run()


def trained(run):
    for _ in run.updates():
        pass
    return run


@pytest.mark.parametrize("settings", SCHEDULES)
def test_the_first_step_on_another_schedule_denoises_already(tmp_path, base, settings):
    """Error at equal SNR within 5 % of before, where the network was trained at such SNRs."""
    run, old = started(tmp_path / "r", base, **settings), undiffuse.load(base)
    own, new = old.schedule, run.model.schedule
    x = old.codec.encode(run.held_out.values)
    told = old.denoiser.conditions.encode({}, len(x))
    eps = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    level = new(new.nearest(new.at(torch.linspace(3, -3, 7, dtype=torch.float64))))
    known = own(own.at(level.logsnr))
    with torch.no_grad():
        for here, there in zip(level.rows(), known.rows(), strict=True):
            before, after = (
                (m.denoiser(add_noise(x, at, eps), at, told).mean - x).square().mean()
                for m, at in ((old, there), (run.model, here))
            )
            assert after < 1.05 * before
    assert run.model.config.trained_schedule == old.config.schedule
    assert run.model.sample(2, {"class": "3"}, steps=4).isfinite().all()


def test_another_schedule_and_back(tmp_path, base):
    trained(started(tmp_path / "r", base, **{"schedule.name": "linear", "schedule.T": 40}))
    model = undiffuse.load(tmp_path / "r")
    assert model.config.schedule == ScheduleConfig(name="linear", T=40)
    assert model.config.trained_schedule == ScheduleConfig(name="cosine")
    for settings in (
        {"schedule.name": "cosine"},
        {"schedule": {"name": "cosine"}},
    ):  # nothing is left of the other, such as its T
        back = started(tmp_path / "back", tmp_path / "r", **settings)
        assert back.model.config.schedule == ScheduleConfig(name="cosine")
        assert back.model.config.trained_schedule is None


def test_a_model_goes_on_another_schedule_without_training(base, run, tmp_path):
    out = tmp_path / "m.safetensors"
    code, said = run("reschedule", str(base), "linear", "--T", "100", "--betas", "0.0002,0.03", "--out", str(out))
    assert code == 0, said
    written, model = undiffuse.load(out), undiffuse.load(base)
    target = ScheduleConfig(name="linear", T=100, beta_start=0.0002, beta_end=0.03)
    assert written.config.schedule == target
    torch.testing.assert_close(
        written.sample(3, {"class": "1"}, seed=2), model.with_schedule(target).sample(3, {"class": "1"}, seed=2)
    )
    assert likelihood(model.with_schedule(target), open_digits().values[:3]).mean > 0
    code, said = run("reschedule", str(base), "cosine", "--betas", "0.1,0.2", "--out", str(tmp_path / "n"))
    assert code == 2
    assert "not made from a range of betas" in said
    assert run("reschedule", str(base), "linear", "--out", str(out))[0] == 2


def test_betas_are_those_of_a_schedule_of_1000_steps():
    chain = ScheduleConfig(name="linear", T=500, beta_start=2e-4, beta_end=0.03).build()
    assert chain.betas[0].item() == pytest.approx(4e-4)
    assert chain.betas[-1].item() == pytest.approx(0.06)
    vp = ScheduleConfig(name="vp", beta_start=2e-4, beta_end=0.03).build()
    fine = ScheduleConfig(name="linear", T=100_000, beta_start=2e-4, beta_end=0.03).build()
    index = torch.tensor([20_000.0, 50_000.0, 99_000.0], dtype=torch.float64)
    torch.testing.assert_close(
        vp(index / 100_000).logsnr, fine(index).logsnr, rtol=1e-3, atol=1e-3
    )  # the chain's limit


def test_a_start_is_the_base_to_float_rounding_and_its_sampling_too(tmp_path, base):
    run, old = started(tmp_path / "r", base), undiffuse.load(base)
    torch.testing.assert_close(run.model.sample(4, {"class": "7"}), old.sample(4, {"class": "7"}), rtol=1e-4, atol=1e-3)
    average = run.loop.ema.values
    for name, parameter in old.denoiser.named_parameters():
        torch.testing.assert_close(average[name], parameter)


def test_one_new_class_and_another_size(tmp_path, base):
    folder = tmp_path / "new" / "ant"
    folder.mkdir(parents=True)
    from PIL import Image

    for k, image in enumerate(images(12, (10, 12))):
        Image.fromarray(image).save(folder / f"{k}.png")
    trained(started(tmp_path / "r", base, source=tmp_path / "new"))
    model = undiffuse.load(tmp_path / "r")
    assert model.classes == (*"0123456789", "ant")
    assert model.sample(2, {"class": "ant"}).shape == (2, 1, 10, 12)


def test_images_are_brought_to_the_size_of_the_model_unless_another_is_asked_for(tmp_path):
    for name, size in (("before", (8, 12)), ("after", (20, 16))):
        (tmp_path / name).mkdir()
        for k in range(12):
            Image.fromarray(np.full((*size, 3), 20 * k, np.uint8)).save(tmp_path / name / f"{k}.png")
    undiffuse.train(str(tmp_path / "before"), name="base", runs=tmp_path, steps=2, settings=TINY_SETTINGS)
    run = prepare(DataConfig(source=str(tmp_path / "after")), tmp_path / "r", start=tmp_path / "base").run()
    assert run.training_data.shape == (3, 8, 12)
    assert "brought to 8×12" in run.prepared.data.notes[-1]
    assert run.config.data.size == (8, 12)
    asked = prepare(
        DataConfig(source=str(tmp_path / "after"), size=(20, 16)), tmp_path / "s", start=tmp_path / "base"
    ).run()
    assert asked.training_data.shape == (3, 20, 16)
    assert not asked.prepared.data.notes


def test_data_that_says_no_class_any_more(tmp_path, base):
    np.save(tmp_path / "x.npy", images(20))
    trained(started(tmp_path / "r", base, source=tmp_path / "x.npy"))
    model = undiffuse.load(tmp_path / "r")
    assert model.classes == ()
    assert "unconditional" in repr(model)
    assert model.sample(2).shape == (2, 1, 8, 8)
    with pytest.raises(ValueError, match="has no condition 'class'"):
        model.sample(1, {"class": "3"})


def test_latents_stay_those_of_the_model(tmp_path):
    tiny = {
        "latent.training.steps": 2,
        "latent.training.batch_size": 8,
        "latent.autoencoder.channels": [8, 8],
        "latent.autoencoder.groups": 4,
    }
    undiffuse.train("digits", runs=tmp_path, name="l", steps=2, batch_size=8, latent=2, settings=TINY_SETTINGS | tiny)
    np.save(tmp_path / "x.npy", images(20, (12, 8)))
    run = trained(started(tmp_path / "r", tmp_path / "l", source=tmp_path / "x.npy"))
    before, after = undiffuse.load(tmp_path / "l"), undiffuse.load(tmp_path / "r")
    channels, height, width = before.config.shape  # of examples of 8×8
    assert run.model.codec.shape == after.config.shape == (channels, height * 12 // 8, width)
    assert after.config.latent.mean == before.config.latent.mean
    assert all(torch.equal(a, b) for a, b in zip(before.latents.parameters(), after.latents.parameters(), strict=True))
    assert after.sample(2).shape == (2, 1, 12, 8)


def test_integers_keep_their_unit_within_the_range_of_the_model_and_go_from_black_to_white_beyond(tmp_path, base):
    np.save(tmp_path / "within.npy", images(20) // 16)  # the digits' values go from 0 to 16
    np.save(tmp_path / "beyond.npy", images(20))
    np.save(tmp_path / "other.npy", images(20).astype(np.uint16) * 257)
    for name, high in (("within", 16.0), ("beyond", 255.0), ("other", 65535.0)):
        codec = started(tmp_path / name, base, source=tmp_path / f"{name}.npy").model.codec
        assert codec.config.high == (high,)
        assert codec.limits(torch.device("cpu"))[1].item() == 1


def test_floats_keep_their_unit(tmp_path):
    values = np.random.default_rng(0).normal(50, 10, (40, 1, 8, 8)).astype(np.float32)
    np.save(tmp_path / "a.npy", values)
    np.save(tmp_path / "b.npy", values * 1.5 - 20)
    np.save(tmp_path / "c.npy", values * 1000)
    np.save(tmp_path / "d.npy", values + 1000)
    undiffuse.train(str(tmp_path / "a.npy"), runs=tmp_path, name="a", steps=3, batch_size=8, settings=TINY_SETTINGS)
    run = started(tmp_path / "b", tmp_path / "a", source=tmp_path / "b.npy")
    old = undiffuse.load(tmp_path / "a").codec
    torch.testing.assert_close(run.model.codec.encode(values), old.encode(values))
    assert run.model.config.codec.low[0] == pytest.approx((values * 1.5 - 20).min())
    for other in "cd":
        with pytest.raises(ValueError, match="same unit"):
            started(tmp_path / "c", tmp_path / "a", source=tmp_path / f"{other}.npy")


@pytest.mark.parametrize("adapters", [None, {"rank": 2}])
def test_resume_is_exact(tmp_path, base, adapters):
    extra = {"adapters": adapters} if adapters else {}
    whole = trained(started(tmp_path / "whole", base, steps=5, **extra))
    part = started(tmp_path / "part", base, steps=5, **extra)
    for update in part.updates():
        if update.step == 3:
            part.save()
            break
    resumed = trained(started(tmp_path / "part", base, steps=5, **extra))
    a, b = whole.loop.tensors(), resumed.loop.tensors()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    "lost",
    ["adapters", "adapters/adapter_model.safetensors", "adapters/adapter_config.json", "adapters/start.safetensors"],
)
def test_a_run_that_is_trained_writes_the_adapters_that_are_not_there(tmp_path, base, lost):
    before = trained(started(tmp_path / "r", base, steps=2, adapters={"rank": 2}))
    path = tmp_path / "r" / lost
    kept = (tmp_path / "r/adapters/adapter_model.safetensors").read_bytes()
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    again = trained(started(tmp_path / "r", base, steps=2, adapters={"rank": 2}))
    assert again.loop.step == before.loop.step == 2
    assert (tmp_path / "r/adapters/adapter_model.safetensors").read_bytes() == kept
    undiffuse.load(base, adapters=tmp_path / "r/adapters")


def test_where_adapters_cannot_be_written_no_model_file_says_that_all_is(tmp_path, base, monkeypatch):
    """A kill between the two: the run is not taken for finished, and the next writes both."""

    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("undiffuse.runs.diffusion.save_adapters", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(started(tmp_path / "r", base, steps=2, adapters={"rank": 2}))
    assert not (tmp_path / "r/model.safetensors").exists()
    trained(started(tmp_path / "r", base, steps=2, adapters={"rank": 2}))
    tuned, joined = undiffuse.load(tmp_path / "r"), undiffuse.load(base, adapters=tmp_path / "r/adapters")
    assert joined.config == tuned.config


def test_what_is_written_is_what_is_there(run, base, tmp_path):
    arguments = [
        "train",
        "digits",
        "--runs",
        str(tmp_path),
        "--name",
        "r",
        "--from",
        str(base),
        "--adapter-rank",
        "2",
        "--train-steps",
        "2",
    ]
    code, said = run(*arguments)
    assert code == 0, said
    assert "adapters/" in said.split("wrote ")[1].split("\n")[0]
    shutil.rmtree(tmp_path / "r/samples")
    code, said = run(*arguments)
    assert code == 0, said
    assert "already trained" in said
    assert "samples/" not in said.split("wrote ")[1].split("\n")[0]


def test_a_base_that_changed_is_another_configuration(tmp_path, base):
    undiffuse.train("digits", runs=tmp_path, name="b", start=base, steps=2, batch_size=8)
    trained(started(tmp_path / "r", tmp_path / "b"))
    provenance = undiffuse.load(tmp_path / "r").config.provenance["started_from"]
    assert provenance["name"] == "b"
    assert provenance == json.loads((tmp_path / "r/config.json").read_text())["start"]
    undiffuse.train("digits", runs=tmp_path, name="b", start=base, steps=4, batch_size=8)
    with pytest.raises(ValueError, match=r"start\.sha256"):
        started(tmp_path / "r", tmp_path / "b")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--width", "16"), "network.width: 8 there, 16 now"),
        (("--prediction", "epsilon"), "prediction: 'v' there, 'epsilon' now"),
        (("--variance-type", "learned_range", "--objective", "hybrid"), "variance"),
        (("--preset", "digits"), "keeps the network"),
        (("--number", "class"), "as a class, not as a number"),
        (("--class", "class", "--inject", "class=cross_attention"), "enters by 'embedding'"),
        (("--adapter-rank", "0"), "rank"),
        (("--betas", "fast"), "first and the last beta"),
        (("--betas", "0.1,0.2"), "not made from a range"),
        (("--T", "0"), "T = 0"),
        (("--latent",), "keeps the network"),
    ],
)
def test_what_a_fine_tuning_cannot_change_is_one_sentence(run, base, tmp_path, arguments, words):
    code, out = run("train", "digits", "--from", str(base), "--train-steps", "2", *arguments)
    assert code == 2, out
    assert words in " ".join(out.split()), out
    assert not (tmp_path / "runs").exists()


def test_other_bad_starts(run, base, tmp_path):
    np.save(tmp_path / "rgb.npy", images(20, (8, 8, 3)))
    np.save(tmp_path / "signal.npy", images(20, (1, 64)))
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes((base / "model.safetensors").read_bytes()[:-50])
    for arguments, words in (
        (
            ("rgb.npy", "--from", str(base), "--layout", "NHWC"),
            "makes examples of 1 channel and 2 axes, and the data has 3 channels",
        ),
        (("signal.npy", "--from", str(base), "--layout", "NCL"), "the data has 1 channel and 1 axes"),
        (("digits", "--from", "nowhere"), "there is no model at nowhere"),
        (("digits", "--from", str(damaged)), "not an intact model file"),
        (("digits", "--adapter-rank", "4"), "say whose"),
    ):
        code, out = run("train", *arguments, "--train-steps", "2")
        assert code == 2, out
        assert words in " ".join(out.split()), out
    assert not (tmp_path / "runs").exists()


def test_the_command_line_names_the_run_and_reads_adapters(run, base, tmp_path):
    code, out = run(
        "train", "digits", "--from", str(base), "--adapter-rank", "2", "--train-steps", "3", "--batch-size", "8"
    )
    assert code == 0, out
    folder = tmp_path / "runs/digits-from-base"
    assert "adapters/" in out
    assert f"starting from {base.name}" in out
    code, out = run(
        "sample",
        str(base),
        "--adapters",
        str(folder / "adapters"),
        "-n",
        "2",
        "--class",
        "3",
        "--out",
        str(tmp_path / "s"),
    )
    assert code == 0, out
    sampled = np.load(tmp_path / "s/samples.npy")
    assert (
        np.abs(
            sampled.astype(float) - undiffuse.load(folder).sample(2, {"class": "3"}).numpy().reshape(sampled.shape)
        ).max()
        <= 1
    )
