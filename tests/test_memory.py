"""What is held at once: of samples, walks, recordings and sheets, whatever number of them is asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tests.small import images, tiny_model
from undiffuse.models import denoising, editing, inverse_problems
from undiffuse.models.file import save_model
from undiffuse.models.model import BATCH_EXAMPLES, BATCH_NUMBERS, at_once
from undiffuse.pictures.edits import FRAMES, MOST_COLUMNS, MOST_KEPT_NUMBERS, TrajectoryRecorder
from undiffuse.pictures.stored import MOST_SHOWN, shown_examples
from undiffuse.sampling import ddpm_inversion as recording
from undiffuse.sampling.loop import SamplerStep


def batches_of(model, monkeypatch):
    """The number of examples in each call of the network."""
    seen, network = [], model.denoiser.network
    forward = network.forward
    monkeypatch.setattr(network, "forward", lambda x, *rest: seen.append(len(x)) or forward(x, *rest))
    return seen


def test_a_batch_is_bounded_by_examples_and_by_numbers():
    assert at_once((1, 8, 8)) == BATCH_EXAMPLES
    assert at_once((3, 256, 256)) == BATCH_NUMBERS // (3 * 256**2)
    assert at_once((3, 4096, 4096)) == 1


@pytest.mark.parametrize(
    "work",
    [
        lambda m, x: m.sample(len(x), steps=1),
        lambda m, x: editing.reconstruct(m, x, steps=2),
        lambda m, x: editing.vary(m, x[:3], 0.5, 7, steps=2),
        lambda m, x: editing.interpolate(m, x[0], x[1], len(x), steps=2),
        lambda m, x: denoising.denoise(m, x, level=0.4, steps=2),
        lambda m, x: editing.reconstruct(m, x, method="ddpm_inversion", steps=3),
        lambda m, x: inverse_problems.inpaint(m, x, np.arange(256)[None].repeat(256, 0) < 9, method="replace", steps=2),
    ],
)
def test_large_examples_go_through_the_network_a_few_at_a_time(monkeypatch, work):
    """20 examples of 2^16 numbers: at most 2^20 of them at once."""
    model = tiny_model(shape=(1, 256, 256))
    network = model.denoiser.network
    seen = []
    monkeypatch.setattr(network, "forward", lambda x, *rest: seen.append(len(x)) or 0.5 * x)
    work(model, np.zeros((20, 1, 256, 256), np.uint8))
    assert max(seen) == 16
    assert sum(seen) >= 20


def test_batches_change_no_example(monkeypatch):
    model, values = tiny_model(), images(5)[:, None]

    def all_three():
        restored = denoising.denoise(model, values, level=0.3, steps=4)
        return editing.reconstruct(model, values, steps=4), editing.vary(model, values, n=2, steps=4), restored

    before = all_three()
    monkeypatch.setattr(editing, "at_once", lambda *_, **__: 2)
    after = all_three()
    torch.testing.assert_close(after[0].back, before[0].back)
    torch.testing.assert_close(after[1].back, before[1].back)
    assert (after[2].sample - before[2].sample).abs().max() <= 1


def test_examples_of_one_noise_are_restored_together(monkeypatch):
    """One call for x̂ and one for each of 3 steps, of all 6 examples."""
    model = tiny_model()
    seen = batches_of(model, monkeypatch)
    denoising.denoise(model, images(6)[:, None], level=0.4, steps=3)
    assert seen == [6, 6, 6, 6]
    seen.clear()
    denoising.denoise(model, images(3)[:, None], level=torch.tensor([0.4, 0.2, 0.4]), steps=3)
    assert seen == [2, 2, 2, 2, 1, 1, 1, 1]


def test_a_recording_makes_its_states_one_by_one(monkeypatch):
    model, drawn = tiny_model(), []
    levels = model.config.sampling.model_copy(update={"grid": "uniform", "steps": 50}).build_levels(model.schedule)
    standard_normal = recording.standard_normal
    monkeypatch.setattr(recording, "standard_normal", lambda *a, **k: drawn.append(1) or standard_normal(*a, **k))
    path = recording.forward_path(torch.zeros(2, 1, 8, 8), levels, "independent", 0, torch.arange(2))
    next(path)
    assert len(drawn) == 1
    assert len(list(path)) == 50
    assert len(drawn) == 50


def moment(row, total, n):
    level = tiny_model().schedule([total - row - 0.0])
    x = torch.arange(n).reshape(n, 1, 1, 1).expand(n, 1, 8, 8) + 0.0
    return SamplerStep(row, total, level[0], x, x, x, object())


def test_a_recorder_keeps_a_bounded_number_of_moments_and_examples():
    recorder = TrajectoryRecorder((1, 8, 8), focus=30)
    for part in torch.arange(40).split(5):
        for row in range(99):
            one = moment(row, 99, 40)
            recorder.record(
                "down", SamplerStep(row, 99, one.level, one.x_t[part], one.x0[part], one.x[part], one.state), part
            )
    assert len(recorder.moments) == FRAMES
    assert [recorder.moments[k][1].row for k in (0, -1)] == [0, 98]
    for _, kept in recorder.moments:
        assert kept.state is None
        assert kept.x_t[:, 0, 0, 0].tolist() == [*range(MOST_COLUMNS), 30]
    assert TrajectoryRecorder((3, 256, 256)).examples == (0,)
    assert 2 * FRAMES * 3 * len(TrajectoryRecorder((3, 64, 64)).examples) * 3 * 64**2 <= MOST_KEPT_NUMBERS


def test_a_sheet_shows_a_stated_number(run, tmp_path):
    assert shown_examples(["a"] * 1000) == list(range(MOST_SHOWN))
    assert shown_examples(["a"] * 500 + ["b"] * 500) == [*range(100), *range(500, 600)]
    assert shown_examples([str(k) for k in range(1000)]) == list(range(MOST_SHOWN))
    assert shown_examples(["a", "b"]) == [0, 1]
    model = tiny_model(conditions={})
    weights = dict(model.denoiser.named_parameters())
    save_model(
        tmp_path / "m/model.safetensors", model.config, weights, {name: p.clone() for name, p in weights.items()}
    )
    code, out = run("sample", "m", "-n", str(MOST_SHOWN + 60), "--steps", "1")
    assert code == 0, out
    values = np.load(tmp_path / "m/sampled/001/samples.npy")
    assert values.shape == (MOST_SHOWN + 60, 1, 8, 8)
    assert np.array_equal(values, model.sample(MOST_SHOWN + 60, steps=1).numpy())
    assert "1 of 1 steps, batch 2 of 2" in " ".join(out.split())  # of 256 and 4
    assert len(list((tmp_path / "m/sampled/001/images").iterdir())) == MOST_SHOWN + 60
    with Image.open(tmp_path / "m/sampled/001/grid.png") as sheet:
        assert 20 * 64 <= sheet.height < 21 * 72  # 20 rows of 10 pictures of 64 pixels


def test_a_small_strength_is_a_step_and_the_bar_says_so(run, tmp_path):
    model = tiny_model()
    weights = dict(model.denoiser.named_parameters())
    save_model(
        tmp_path / "m/model.safetensors", model.config, weights, {name: p.clone() for name, p in weights.items()}
    )
    np.save(tmp_path / "a.npy", images(1)[:, None])
    for strength, said in (("0.0001", "1 of 1 steps"), ("0.5", "3 of 3 steps"), ("1", "5 of 5 steps")):
        code, out = run("vary", "m", "a.npy", "--strength", strength, "--steps", "5", "-n", "1")
        assert code == 0, out
        assert said in " ".join(out.split()), (strength, out)
