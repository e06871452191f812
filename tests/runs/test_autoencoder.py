"""Training an autoencoder and diffusing in its latents: the loss by hand, statistics, exact resume, one file that holds both."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

import undiffuse
from tests.small import TINY_SETTINGS, randomised
from undiffuse.data.codec import Codec, fitted_codec
from undiffuse.data.config import DataConfig
from undiffuse.data.dataset import Dataset
from undiffuse.evaluation.autoencoder import reconstruction_quality
from undiffuse.evaluation.likelihood import likelihood
from undiffuse.models import denoising, editing
from undiffuse.models.file import load, store_sampling
from undiffuse.networks.discriminator import Discriminator
from undiffuse.networks.kl_autoencoder import KLAutoencoderConfig
from undiffuse.networks.latents import Latents, build_autoencoder, encode, measure_latents
from undiffuse.networks.tiny_autoencoder import TinyAutoencoderConfig
from undiffuse.process.levels import Level
from undiffuse.runs.autoencoder import (
    AutoencoderLearner,
    AutoencoderRun,
    AutoencoderRunConfig,
    VAEAndDiscriminator,
    is_trained,
    load_latents,
    perceptual_distance,
)
from undiffuse.runs.choose_design import design_settings
from undiffuse.runs.design import LatentDesign
from undiffuse.runs.prepare import prepare
from undiffuse.training.settings import TrainingConfig

AUTOENCODER = KLAutoencoderConfig(channels=(8, 8), groups=4, latent_channels=2)
LATENT = {
    "latent.autoencoder": AUTOENCODER.model_dump(mode="json"),
    "latent.training.steps": 30,
    "latent.training.batch_size": 16,
    "latent.training.warmup": 5,
    "training.steps": 4,
    "training.batch_size": 16,
}


def blobs(n=120, size=(13, 10), seed=0):
    """Grey pictures of one bright blob each."""
    rng = np.random.default_rng(seed)
    centre, width = rng.uniform(0.25, 0.75, (n, len(size))), rng.uniform(0.1, 0.25, n)
    axes = np.meshgrid(*(np.linspace(0, 1, k) for k in size), indexing="ij")
    distance2 = sum((axis - centre[:, k].reshape(-1, *[1] * len(size))) ** 2 for k, axis in enumerate(axes))
    return (20 + 220 * np.exp(-distance2 / width.reshape(-1, *[1] * len(size)) ** 2)).astype(np.uint8)[:, None]


def stage(folder, data=None, **changes):
    data = Dataset("blobs", blobs()) if data is None else data
    training = TrainingConfig(steps=changes.pop("steps", 30), batch_size=16, learning_rate=3e-3, warmup=5)
    design = LatentDesign(**({"autoencoder": AUTOENCODER, "training": training} | changes))
    config = AutoencoderRunConfig(
        design=design, codec=fitted_codec(data), fingerprint=data.fingerprint(), held_out=0.2, seed=0
    )
    return AutoencoderRun(folder, config, data, data.split_rows(0.2, 0), torch.device("cpu"))


def run(work):
    for _ in work.updates():
        pass
    return work


def losses(design, x, autoencoder=None, discriminator=None, features=None):
    both = VAEAndDiscriminator(autoencoder or randomised(build_autoencoder(AUTOENCODER, 1)), discriminator)
    learner = AutoencoderLearner(design, both, features)
    torch.manual_seed(3)
    return learner.losses(x, x, Level.clean(), {}, nullcontext), both


def test_the_loss_is_difference_and_divergence_per_number():
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    tiny = randomised(
        build_autoencoder(TinyAutoencoderConfig(channels=8, encoder_blocks=(1, 1), decoder_blocks=(1, 1)), 1)
    )
    back = tiny.decode(tiny.encode(x)[0])
    for difference, expected in (("absolute", (x - back).abs()), ("squared", (x - back) ** 2)):
        found, _ = losses(LatentDesign(difference=difference), x, tiny)
        torch.testing.assert_close(found, expected.flatten(1).mean(1))
    none, more = (losses(LatentDesign(autoencoder=AUTOENCODER, kl=weight), x) for weight in (0.0, 2.0))
    mean, log_variance = more[1].autoencoder.encode(x)
    of = torch.distributions.Normal(mean, (log_variance / 2).exp())
    divergence = torch.distributions.kl_divergence(of, torch.distributions.Normal(0.0, 1.0)).flatten(1).sum(1)
    torch.testing.assert_close(more[0] - none[0], 2 * divergence / 64)


def test_the_discriminator_and_the_autoencoder_pull_against_each_other_in_one_step():
    """Each one's gradient is that of its own loss, the other's weights held."""
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    judge = randomised(Discriminator(2, 1, width=4, halvings=2), 1)
    loss, both = losses(LatentDesign(autoencoder=AUTOENCODER, kl=0.0, adversarial=0.7), x, discriminator=judge)
    loss.sum().backward()
    of_judge, of_autoencoder = (
        [p.grad.clone() for p in module.parameters()] for module in (both.discriminator, both.autoencoder)
    )
    both.zero_grad()
    torch.manual_seed(3)
    mean, log_variance = both.autoencoder.encode(x)
    y = both.autoencoder.decode(mean + (log_variance / 2).exp() * torch.randn_like(mean))
    hinge = (torch.relu(1 - judge(x)).flatten(1).mean(1) + torch.relu(1 + judge(y.detach())).flatten(1).mean(1)) / 2
    for p, expected in zip(judge.parameters(), torch.autograd.grad(hinge.sum(), list(judge.parameters())), strict=True):
        torch.testing.assert_close(of_judge.pop(0), expected, msg=str(p.shape))
    own = ((y - x).abs().flatten(1).mean(1) - 0.7 * judge(y).flatten(1).mean(1)).sum()
    for expected in torch.autograd.grad(own, list(both.autoencoder.parameters())):
        torch.testing.assert_close(of_autoencoder.pop(0), expected, rtol=1e-4, atol=1e-6)


def test_a_perceptual_distance_knows_directions_and_no_lengths():
    x, y = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    assert perceptual_distance(lambda x: [x], x, 3 * x).max() < 1e-6
    turned = torch.nn.functional.cosine_similarity(x, y, dim=1).flatten(1).mean(1)
    torch.testing.assert_close(perceptual_distance(lambda x: [x], x, y), 2 - 2 * turned)


@pytest.mark.parametrize("size", [(21,), (10, 7), (6, 5, 7)])
def test_latents_of_the_training_set_have_mean_nought_and_deviation_one(size):
    codec = Codec(fitted_codec(Dataset("blobs", blobs(150, size))))
    x = codec.encode(blobs(150, size))
    autoencoder = randomised(build_autoencoder(AUTOENCODER.model_copy(update={"dims": len(size)}), 1))
    latents = Latents(measure_latents(autoencoder, lambda rows: x[rows], len(x)), autoencoder)
    z, axes = latents.encode(x).double(), (0, *range(2, 2 + len(size)))
    assert z.mean(axes).abs().max() < 1e-4
    assert (z.std(axes) - 1).abs().max() < 1e-4
    low, high = latents.limits()
    torch.testing.assert_close(z.amin(axes).float(), low.flatten(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(z.amax(axes).float(), high.flatten(), rtol=1e-4, atol=1e-4)
    assert latents.decode(latents.encode(x[:3])).shape == x[:3].shape


def test_training_brings_reconstructions_nearer_and_says_how_near(tmp_path):
    short, long = run(stage(tmp_path / "short", steps=2)), run(stage(tmp_path / "long", steps=150))
    assert reconstruction_quality(long).psnr > reconstruction_quality(short).psnr + 3
    found, latents = reconstruction_quality(long), load_latents(tmp_path / "long")
    back = latents.decode(latents.encode(long.held_out))
    expected = 10 * torch.log10(4 / (back - long.held_out).double().square().mean())  # x lies in [-1, 1]
    assert found.psnr == pytest.approx(expected.item(), abs=0.01)
    assert all(abs(value - 1) < 0.3 for value in found.stds)  # 24 held-out examples
    assert (tmp_path / "long" / "reconstructions.png").exists()
    assert is_trained(tmp_path / "long", long.config)
    assert not is_trained(tmp_path / "nowhere", long.config)


def test_stopping_and_resuming_changes_no_bit(tmp_path):
    whole = run(stage(tmp_path / "whole", steps=12, adversarial=0.1))
    part = stage(tmp_path / "part", steps=12, adversarial=0.1)
    for update in part.updates():
        if update.step == 5:
            part.save()
            break
    again = run(stage(tmp_path / "part", steps=12, adversarial=0.1))
    a, b = whole.loop.tensors(), again.loop.tensors()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    with pytest.raises(ValueError, match=r"design\.kl.*choose another `name`"):
        next(stage(tmp_path / "part", kl=0.5).updates())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with data and a run of latents."""
    folder = tmp_path_factory.mktemp("latent")
    np.savez(folder / "blobs.npz", x=blobs(), y=np.arange(120) % 2)
    settings = TINY_SETTINGS | LATENT | {"latent.training.learning_rate": 3e-3}
    undiffuse.train(str(folder / "blobs.npz"), runs=folder / "runs", latent=2, settings=settings)
    return folder


def test_a_budget_is_for_all_and_a_third_of_it_trains_the_autoencoder():
    """One law for Python and the command line; an end of the autoencoder's own leaves the budget to the model."""
    split = {"latent.training.steps": None, "latent.training.budget": 30.0, "training.budget": 60.0}
    assert design_settings({"training.budget": 90.0}, latent=4) == split
    whole = {"training.budget": 90.0}
    own = {"latent.training.steps": 5, "latent.training.budget": None}
    assert design_settings(whole, latent=4, latent_steps=5) == whole | own
    assert design_settings(whole | {"latent.training.steps": 5}, latent=4) == whole | {"latent.training.steps": 5}
    assert design_settings(whole, latent=Path("sd-vae")) == design_settings(whole) == whole


def test_one_file_holds_both(trained, tmp_path):
    model = load(trained / "runs" / "blobs")
    assert model.codec.shape == (2, 7, 5)
    x = model.sample(3, {"class": "1"}, steps=3)
    assert x.shape == (3, 1, 13, 10)
    shutil.copy(trained / "runs" / "blobs" / "model.safetensors", tmp_path / "alone.safetensors")
    alone = load(tmp_path / "alone.safetensors")
    assert (alone.sample(3, {"class": "1"}, steps=3) - x).abs().max() <= 1  # of 255, from float rounding
    store_sampling(tmp_path / "alone.safetensors", alone.config.sampling.model_copy(update={"steps": 3}))
    again = load(tmp_path / "alone.safetensors")
    assert again.config.sampling.steps == 3
    assert (again.sample(3, {"class": "1"}) - x).abs().max() <= 1
    assert "by latents of (2, 7, 5)" in repr(model)


def test_its_examples_are_walked_up_and_down_as_others(trained):
    model, values = load(trained / "runs" / "blobs"), blobs(3, seed=5)
    recorded = editing.reconstruct(model, values, method="ddpm_inversion", steps=6)
    ceiling = model.codec.decode(model.codec.encode(values))  # what latents keep of them
    assert (recorded.values - ceiling).abs().max() <= 1
    through = editing.interpolate(model, values[0], values[1], 3, steps=6)
    assert through.values.shape == (3, 1, 13, 10)
    assert [moment.x.shape for moment in model.trajectory(2, steps=2)] == [(2, 2, 7, 5)] * 2


@pytest.mark.parametrize(
    "asked",
    [
        lambda model: likelihood(model, blobs(2)),
        lambda model: denoising.denoise(model, blobs(2).astype(np.float32), level=0.1),
    ],
)
def test_what_latents_cannot_say_is_refused(trained, asked):
    with pytest.raises(ValueError, match="without `latent`"):
        asked(load(trained / "runs" / "blobs"))


def test_a_second_run_takes_the_autoencoder_and_its_channels_are_checked(trained, tmp_path):
    first = load(trained / "runs" / "blobs")
    taken = undiffuse.train(
        str(trained / "blobs.npz"),
        name="second",
        runs=tmp_path,
        latent=str(trained / "runs" / "blobs"),
        settings=TINY_SETTINGS | {"training.steps": 2, "training.batch_size": 8},
    )
    x = first.codec.in_plain(first.codec.encode(blobs(2)))
    torch.testing.assert_close(taken.codec.in_plain(taken.codec.encode(blobs(2))), x, rtol=1e-3, atol=1e-3)
    np.save(tmp_path / "coloured.npy", np.repeat(blobs(30), 3, 1))
    with pytest.raises(ValueError, match="takes 1 channels, and the data has 3"):
        prepare(
            DataConfig(source=str(tmp_path / "coloured.npy"), layout="NCHW"),
            tmp_path / "r",
            latent=trained / "runs" / "blobs",
        )


def test_too_small_examples_and_odd_factors_are_refused(tmp_path):
    with pytest.raises(ValueError, match="leave nothing to diffuse in"):
        prepare(DataConfig(source="digits"), tmp_path / "r", latent=4)
    with pytest.raises(ValueError, match="choose 2, 4 or 8"):
        prepare(DataConfig(source="digits"), tmp_path / "r", latent=3)
    with pytest.raises(ValueError, match="add `latent`"):
        prepare(DataConfig(source="digits"), tmp_path / "r", settings={"latent.kl": 1.0})


def test_latents_are_measured_part_by_part_as_of_all_together(monkeypatch):
    """Mean, deviation and range equal those of all latents at once, and no more than a part of the examples is ever asked for."""
    monkeypatch.setattr("undiffuse.networks.latents.CHUNK", 7)
    torch.manual_seed(0)
    x = torch.randn(50, 1, 8, 8) * torch.linspace(0.1, 3, 50).reshape(-1, 1, 1, 1) + 5
    autoencoder, asked = build_autoencoder(AUTOENCODER, 1), []

    def rows(part):
        asked.append(len(x[part]))
        return x[part]

    found = measure_latents(autoencoder, rows, len(x))
    with torch.no_grad():
        z = encode(autoencoder, x).double().transpose(0, 1).flatten(1)
    # sums of 50 * 16 doubles, each of which was made in float32 by convolutions over parts of other sizes
    torch.testing.assert_close(torch.tensor(found.mean).double(), z.mean(1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(torch.tensor(found.std).double(), z.std(1), rtol=1e-5, atol=0)
    whole = (z - z.mean(1, keepdim=True)) / z.std(1, keepdim=True)
    torch.testing.assert_close(torch.tensor(found.low).double(), whole.amin(1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.tensor(found.high).double(), whole.amax(1), rtol=1e-5, atol=1e-5)
    assert max(asked) <= 7
