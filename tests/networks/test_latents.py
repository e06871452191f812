"""Autoencoders against diffusers' own, whose weights they take; folding; the bottleneck's KL against torch's distributions."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.small import randomised
from undiffuse.models.interop.diffusers_vae import DIFFUSERS_FILE, read_diffusers
from undiffuse.networks.discriminator import Discriminator
from undiffuse.networks.gaussian import divergence, sample_gaussian
from undiffuse.networks.kl_autoencoder import KLAutoencoderConfig, folded, unfolded
from undiffuse.networks.latents import build_autoencoder, decode, encode, pad_replicate
from undiffuse.networks.tiny_autoencoder import TinyAutoencoderConfig

SMALL = {
    "kl": KLAutoencoderConfig(channels=(8, 12), groups=4, latent_channels=3),
    "kl-folded": KLAutoencoderConfig(
        channels=(8, 12), groups=4, latent_channels=3, patch=2, depth=2, middle_attention=False, bottleneck=False
    ),
    "tiny": TinyAutoencoderConfig(channels=8, encoder_blocks=(1, 2), decoder_blocks=(2, 1), latent_channels=2),
}


def uniform(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


def diffusers_kl(**changes):
    from diffusers import AutoencoderKL

    described = {
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "block_out_channels": (8, 16, 24),
        "layers_per_block": 2,
        "latent_channels": 4,
        "norm_num_groups": 4,
    }
    return randomised(AutoencoderKL(**(described | changes)))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_quant_conv": False, "use_post_quant_conv": False, "mid_block_add_attention": False},
        {"layers_per_block": 1},
    ],
)
def test_a_kl_autoencoder_of_diffusers_answers_as_there(tmp_path, changes):
    theirs = diffusers_kl(**changes)
    theirs.save_pretrained(tmp_path)
    ours, x = read_diffusers(tmp_path, 3), uniform(2, 3, 16, 24)
    with torch.no_grad():
        mean, log_variance = ours.encode(x)
        expected = theirs.encode(x).latent_dist
        torch.testing.assert_close(mean, expected.mean, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(log_variance, expected.logvar, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours.decode(mean), theirs.decode(mean).sample, rtol=1e-4, atol=1e-4)


def test_a_tiny_autoencoder_of_diffusers_answers_as_there(tmp_path):
    from diffusers import AutoencoderTiny

    theirs = randomised(AutoencoderTiny(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4))
    theirs.save_pretrained(tmp_path)
    ours, x = read_diffusers(tmp_path, 3), uniform(2, 3, 16, 24)
    with torch.no_grad():
        z, _ = ours.encode(x)
        torch.testing.assert_close(z, theirs.encode(x).latents, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours.decode(z), theirs.decode(z).sample, rtol=1e-4, atol=1e-4)


def test_names_and_shapes_of_older_files_are_understood(tmp_path):
    diffusers_kl().save_pretrained(tmp_path)
    ours, tensors = read_diffusers(tmp_path, 3), load_file(tmp_path / DIFFUSERS_FILE)
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def renamed(name, tensor):
        for new, old in older.items():
            if f".{new}." in name:
                return name.replace(new, old), tensor[..., None, None].contiguous() if tensor.ndim == 2 else tensor
        return name, tensor

    save_file(dict(renamed(*item) for item in tensors.items()), tmp_path / DIFFUSERS_FILE)
    again = read_diffusers(tmp_path, 3)
    for (name, a), (_, b) in zip(ours.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"_class_name": "VQModel"}, "holds a VQModel, where"),
        ({"in_channels": 4, "out_channels": 4}, "takes 4 channels, and the data has 3"),
        ({"act_fn": "gelu"}, "variant not known here: its act_fn is 'gelu'"),
        ({"layers_per_block": 3}, "lacks tensor|unknown tensor"),
        ({"down_block_types": ["AttnDownEncoderBlock2D"] * 3}, "down_block_types"),
    ],
)
def test_what_is_not_known_is_refused_in_a_sentence(tmp_path, change, words):
    diffusers_kl().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=words):
        read_diffusers(tmp_path, 3)


def test_pickles_and_damaged_weights_are_refused(tmp_path):
    diffusers_kl().save_pretrained(tmp_path)
    (tmp_path / DIFFUSERS_FILE).write_bytes((tmp_path / DIFFUSERS_FILE).read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged"):
        read_diffusers(tmp_path, 3)
    (tmp_path / DIFFUSERS_FILE).rename(tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match="never loaded"):
        read_diffusers(tmp_path, 3)


@pytest.mark.parametrize("shape", [(2, 3, 8), (2, 3, 4, 6), (1, 2, 4, 8, 2)])
def test_folding_loses_nothing_and_keeps_neighbours_together(shape):
    x = uniform(*shape)
    y = folded(x, 2)
    assert y.shape == (shape[0], shape[1] * 2 ** (len(shape) - 2), *(n // 2 for n in shape[2:]))
    assert torch.equal(unfolded(y, 2), x)
    if len(shape) == 4:
        assert torch.equal(y, torch.nn.functional.pixel_unshuffle(x, 2))
    corner = tuple([slice(None)] * 2 + [slice(0, 2)] * (len(shape) - 2))
    assert set(y[0, :, *[0] * (len(shape) - 2)].tolist()) == set(x[corner][0].flatten().tolist())


def test_the_bottlenecks_divergence_is_torchs():
    mean, log_variance = uniform(3, 2, 4), uniform(3, 2, 4)
    of = torch.distributions.Normal(mean, (log_variance / 2).exp())
    expected = torch.distributions.kl_divergence(of, torch.distributions.Normal(0.0, 1.0)).flatten(1).sum(1)
    torch.testing.assert_close(divergence(mean, log_variance), expected)


def test_draws_have_the_mean_and_the_variance():
    torch.manual_seed(0)
    n = 40_000
    z = sample_gaussian(torch.full((n, 1), 0.7), torch.full((n, 1), -1.2))
    deviation = torch.tensor(-0.6).exp().item()
    assert abs(z.mean().item() - 0.7) < 5 * deviation / n**0.5
    assert abs(z.std().item() - deviation) < 5 * deviation / (2 * n) ** 0.5


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size", [(13,), (9, 14), (8, 8), (5, 6, 7)])
def test_any_size_goes_in_and_comes_back(name, size):
    config = SMALL[name].model_copy(update={"dims": len(size)})
    autoencoder, x = randomised(build_autoencoder(config, 2)), uniform(2, 2, *size)
    z = encode(autoencoder, x)
    assert z.shape == (2, config.latent_channels, *(-(-n // config.factor) for n in size))
    back = decode(autoencoder, z, size)
    assert back.shape == x.shape
    torch.testing.assert_close(decode(autoencoder, z[1:], size), back[1:], rtol=1e-3, atol=1e-4)  # alone as in a batch


def test_padding_repeats_the_last_values():
    x = torch.arange(6.0).reshape(1, 1, 2, 3)
    assert pad_replicate(x, 4)[0, 0].tolist() == [[0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5], [3, 4, 5, 5]]
    assert pad_replicate(x, 1) is x


@pytest.mark.parametrize("size", [(32,), (17, 24), (8, 9, 10)])
def test_a_discriminator_judges_every_example_alone(size):
    judge, x = randomised(Discriminator(len(size), 2, width=8)), uniform(3, 2, *size)
    torch.testing.assert_close(judge(x)[1:2], judge(x[1:2]), rtol=1e-3, atol=1e-4)
