"""The model file: what goes in comes out, and nothing that is not one gets in."""

from __future__ import annotations

import json
import pickle
import struct
import weakref
import zipfile

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tests.small import tiny_model
from undiffuse.errors import UsageError
from undiffuse.models import storage
from undiffuse.models.file import load, read_file, save_model
from undiffuse.networks.unet_config import UNetConfig
from undiffuse.sampling.settings import SamplingConfig


def saved(path, model=None):
    model = model or tiny_model()
    raw = dict(model.denoiser.named_parameters())
    save_model(path, model.config, raw, {name: p + 0.5 for name, p in raw.items()})
    return model


@pytest.fixture
def path(tmp_path):
    saved(tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_a_loaded_model_samples_what_the_saved_one_did(tmp_path):
    model = tiny_model(weights="online")
    saved(tmp_path / "model.safetensors", model)
    for where in (tmp_path, tmp_path / "model.safetensors"):
        loaded = load(where)
        assert loaded.config == model.config
        assert torch.equal(loaded.sample(3, {"class": "dog"}, seed=4), model.sample(3, {"class": "dog"}, seed=4))


def test_both_sets_of_weights_are_there(path):
    raw, averaged = load(path, weights="online"), load(path, weights="ema")
    for a, b in zip(raw.denoiser.parameters(), averaged.denoiser.parameters(), strict=True):
        torch.testing.assert_close(a + 0.5, b)


@pytest.mark.parametrize("kind", ["ema", "online"])
def test_a_model_saves_the_one_set_of_weights_that_it_has(tmp_path, kind):
    """Half of a run's file; the other set is refused by name, never made up of the first."""
    model = tiny_model(weights=kind)
    path, both = model.save(tmp_path / "own.safetensors"), tmp_path / "model.safetensors"
    saved(both, model)
    assert {name.split(".")[0] for name in safe_open(path, "pt").keys()} == {kind}  # noqa: SIM118  not a dict
    assert both.stat().st_size > 1.5 * path.stat().st_size
    assert torch.equal(load(path).sample(2, {"class": "dog"}), model.sample(2, {"class": "dog"}))
    other = {"ema": "online", "online": "ema"}[kind]
    with pytest.raises(UsageError, match=f"has no '{other}' weights, only '{kind}'"):
        load(path, weights=other)
    again = load(path).save(tmp_path / "again.safetensors")
    assert storage.read_header(again, "model").sha256 == storage.read_header(path, "model").sha256


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 33, 20), (7, 9, 9), (2, 50), (1, 5, 6, 7)])
@pytest.mark.parametrize(
    ("variance", "prediction"), [("fixed_small", "epsilon"), ("learned_range", "edm"), ("learned", "posterior_mean")]
)
def test_any_shape_and_kind_survives_the_file(tmp_path, shape, variance, prediction):
    model = tiny_model(shape=shape, variance_type=variance, prediction=prediction)
    saved(tmp_path / "m.safetensors", model)
    values = load(tmp_path / "m.safetensors", weights="online").sample(2, steps=2)
    assert values.shape == (2, *shape)
    assert ((values >= 0) & (values <= 255)).all()


def test_a_loaded_model_is_frozen_so_that_gradients_by_x_keep_nothing_for_its_weights(path):
    """What dps and exact differentiate: x̂ by x_t. A linear layer keeps its input for its weights' gradient alone."""
    model = load(path, "cpu")
    assert not any(p.requires_grad for p in model.denoiser.parameters())
    x_t, level = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)), model.schedule(50.0)
    denoise = model.denoiser.bind(model.denoiser.conditions.encode({}, 4))

    def differentiated():
        kept = {}

        def keep(tensor):
            kept[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        x = x_t.clone().requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            mean = denoise(x, level).mean
        weights = {p.untyped_storage().data_ptr() for p in model.denoiser.parameters()}
        kept_bytes = sum(t.untyped_storage().nbytes() for place, t in kept.items() if place not in weights)
        return torch.autograd.grad(mean.square().sum(), x)[0], kept_bytes

    frozen, few = differentiated()
    model.denoiser.requires_grad_()
    free, many = differentiated()
    assert torch.equal(frozen, free)
    assert few < 0.9 * many


def rewritten(path, change):
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(metadata, tensors)
    save_file(tensors, path, metadata)


def test_one_changed_number_is_noticed(path):
    def change(metadata, tensors):
        tensors[next(iter(tensors))].view(-1)[0] += 1e-3

    rewritten(path, change)
    with pytest.raises(ValueError, match="SHA-256"):
        load(path)


def test_one_changed_setting_is_noticed(path):
    def change(metadata, tensors):
        metadata["config"] = metadata["config"].replace('"v"', '"x0"')

    rewritten(path, change)
    with pytest.raises(ValueError, match="changed after it was written"):
        load(path)


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, -1])
def test_truncated_files(path, kept):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept) if isinstance(kept, float) else kept])
    with pytest.raises(ValueError, match="truncated"):
        load(path)


def test_pickles_under_another_name_are_refused_unopened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    path = tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match="pickle"):
        load(path)
    torch.save({"a": Trap()}, path)
    assert zipfile.is_zipfile(path)
    with pytest.raises(ValueError, match="never loaded"):
        load(path)
    assert not (tmp_path / "sprung").exists()


def test_other_peoples_safetensors(tmp_path):
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="not an undiffuse model"):
        load(tmp_path / "other.safetensors")


def forged(path, **changes):
    """A file whose hash is right although its content is not ours: what the later checks are for."""
    from undiffuse.models.storage import digest_of

    def change(metadata, tensors):
        content = json.loads(metadata["config"])
        content.update(changes.get("config", {}))
        for name in changes.get("without", ()):
            del tensors[name]
        tensors.update(changes.get("tensors", {}))
        metadata["config"] = json.dumps(content)
        head = {"format": changes.get("format", 1), "sha256": digest_of(metadata["config"], tensors)}
        metadata["undiffuse"] = json.dumps(head)

    rewritten(path, change)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 99}, "upgrade"),
        ({"config": {"surprise": 1}}, "no setting 'surprise'"),
        ({"config": {"prediction": "magic"}}, "prediction"),
        ({"config": {"schedule": {"name": "linear", "T": 5}}}, "smallest T"),
        ({"without": ["online.network.last.bias"]}, "lacks tensor online.network.last.bias"),
        ({"tensors": {"online.extra": torch.zeros(2)}}, "unknown tensor online.extra"),
        ({"tensors": {"ema.network.last.bias": torch.zeros(2)}}, r"is \(2,\)"),
        ({"tensors": {"online.network.last.bias": torch.zeros(1, dtype=torch.float16)}}, "float16"),
    ],
)
def test_a_header_and_tensors_that_do_not_belong_together(path, changes, words):
    forged(path, **changes)
    with pytest.raises(ValueError, match=words):
        load(path)


def test_a_header_length_beyond_the_file(path):
    path.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    with pytest.raises(ValueError, match="truncated"):
        load(path)


def test_a_missing_model(tmp_path):
    with pytest.raises(ValueError, match="undiffuse train"):
        load(tmp_path)


def test_new_defaults_do_not_change_old_models(path):
    """The file spells out every option, so no default is consulted when it is read."""
    with safe_open(path, "pt") as file:
        stored = json.loads(file.metadata()["config"])
    assert set(stored["network"]) == set(UNetConfig.model_fields)
    assert set(stored["sampling"]) == set(SamplingConfig.model_fields)


def test_a_full_disk_leaves_the_old_file(path, monkeypatch):
    import shutil

    before = path.read_bytes()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1000})())
    with pytest.raises(OSError, match="not enough disk space"):
        saved(path, tiny_model(1))
    assert path.read_bytes() == before


def test_a_write_cut_short_by_the_system_leaves_the_old_file(tmp_path):
    """A real limit on the size of files (RLIMIT_FSIZE), in a process of its own."""
    import subprocess
    import sys

    script = f"""
import resource, signal
from pathlib import Path
from undiffuse.system import write_atomically
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path({str(tmp_path)!r}) / "file"
path.write_bytes(b"old")
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomically(path, lambda p: p.write_bytes(b"n" * 5000))
except OSError as error:
    print(error)
print(path.read_bytes() == b"old", sorted(p.name for p in path.parent.iterdir()))
"""
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "the disk is full" in out
    assert "True ['file']" in out


def test_sampling_is_independent_of_batch_and_chunk():
    model = tiny_model(sampling=tiny_model().config.sampling.model_copy(update={"steps": 10}))
    together = model.sample(12, {"class": ["cat", "dog", "7"] * 4}, seed=3, guidance=2.0, clip="none")
    alone = torch.cat(
        [
            model.sample(1, {"class": ["cat", "dog", "7"][k % 3]}, seed=3, first=k, guidance=2.0, clip="none")
            for k in range(12)
        ]
    )
    chunked = model.sample(12, {"class": ["cat", "dog", "7"] * 4}, seed=3, guidance=2.0, clip="none", batch_size=5)
    # decoded integers are 127.5 per unit of x: 1e-4 of float rounding can move a value by one at a boundary, rarely
    for other in (alone, chunked):
        assert (other - together).abs().max() <= 1
        assert (other != together).double().mean() < 0.01


@pytest.mark.parametrize(
    "settings", [{}, {"solver": "ddim", "eta": 0.5}, {"solver": "ddpm", "grid": "50"}, {"guidance": 2.0}]
)
def test_an_image_alone_is_itself_in_a_batch_to_float_rounding(settings):
    """The noise is the same to the bit; the network's sums may round differently, 1e-4 over a whole trajectory."""
    model = tiny_model()
    settings = {"grid": "uniform", "steps": 25} | settings
    labels = ["cat", "dog", "7"] * 5
    batch = list(model.trajectory(15, {"class": labels}, seed=3, **settings))
    for k in (0, 7, 14):
        alone = list(model.trajectory(1, {"class": labels[k]}, seed=3, first=k, **settings))
        assert torch.equal(alone[0].x_t[0], batch[0].x_t[k])
        torch.testing.assert_close(alone[-1].x[0], batch[-1].x[k], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("n", "asked", "settings", "words"),
    [
        (0, {}, {}, "at least 1"),
        (2, {"class": "bird"}, {}, "cat, dog, 7"),
        (2, {"age": 3}, {}, "has no condition"),
        (2, {}, {"solver": "magic"}, "no solver"),
        (2, {}, {"steps": 0}, "steps"),
        (2, {}, {"grid": "1001"}, "levels"),
        (2, {}, {"speed": 3}, "no setting 'speed'"),
        (2, {}, {"steps": 101}, "100 levels"),
        (2, {}, {"clip": "hard"}, "clip"),
    ],
)
def test_bad_requests_are_one_sentence(n, asked, settings, words):
    with pytest.raises(ValueError, match=words) as caught:
        tiny_model().sample(n, asked, **settings)
    assert "\n" not in str(caught.value)


def test_guidance_needs_conditions():
    with pytest.raises(ValueError, match="nothing to guide"):
        tiny_model(conditions={}).sample(1, guidance=2.0)


def test_guidance_zero_is_unconditional_and_one_is_plain():
    model = tiny_model()
    torch.testing.assert_close(model.sample(3, {"class": "dog"}, guidance=0.0), model.sample(3))
    torch.testing.assert_close(model.sample(3, {"class": "dog"}, guidance=1.0), model.sample(3, {"class": "dog"}))
    assert not torch.equal(model.sample(3, {"class": "dog"}, guidance=3.0), model.sample(3, {"class": "dog"}))


def test_reading_checks_what_was_written(path):
    config, tensors = read_file(path)
    assert config.conditions["class"].names == ("cat", "dog", "7")
    assert all(isinstance(t, torch.Tensor) for t in tensors.values())
    assert np.isfinite([t.abs().max().item() for t in tensors.values()]).all()


def test_what_is_written_is_hashed_once_and_compared_to_the_byte(tmp_path, monkeypatch):
    hashed, digest_of, save_file = [], storage.digest_of, storage.save_file
    monkeypatch.setattr(storage, "digest_of", lambda *given: hashed.append(1) or digest_of(*given))
    tensors = {"a": torch.tensor([1.0, float("nan")]), "b": torch.arange(5, dtype=torch.int64), "c": torch.zeros(0)}
    storage.write(tmp_path / "x", "model", "{}", tensors)
    assert len(hashed) == 1
    before = (tmp_path / "x").read_bytes()

    def wrongly(plain, path, header):
        save_file(plain, path, header)
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(bytes(content))

    monkeypatch.setattr(storage, "save_file", wrongly)
    with pytest.raises(OSError, match="reads back wrong"):
        storage.write(tmp_path / "x", "model", "{}", tensors)
    assert (tmp_path / "x").read_bytes() == before


def test_the_configuration_is_read_without_the_tensors(tmp_path):
    storage.write(tmp_path / "x", "model", '{"a": 1}', {"a": torch.zeros(3)})
    assert storage.config_of(tmp_path / "x") == {"a": 1}
    (tmp_path / "y").write_bytes(b"no")
    assert storage.config_of(tmp_path / "y") is storage.config_of(tmp_path / "nowhere") is None


def test_kind_and_version_are_told_before_tensors_are_read(tmp_path):
    """Both tensors and header are wrong here: whoever read the tensors first would speak of their hash."""
    for number, (header, words) in enumerate(
        [
            ({"format": 1, "kind": "classifier", "sha256": "0"}, "is a classifier"),
            ({"format": 99, "kind": "model", "sha256": "0"}, "format 99"),
        ]
    ):
        path = tmp_path / f"{number}.safetensors"
        save_file({"online.x": torch.zeros(1)}, path, {"undiffuse": json.dumps(header), "config": "{}"})
        with pytest.raises(UsageError, match=words):
            load(path)


def test_loading_holds_one_tensor_of_the_file_at_a_time(tmp_path, monkeypatch):
    model = tiny_model()
    weights = dict(model.denoiser.named_parameters())
    save_model(tmp_path / "m.safetensors", model.config, weights, {name: p.clone() for name, p in weights.items()})
    seen, most, add = [], [0], storage._add

    def counting(digest, name, tensor):
        seen.append(weakref.ref(tensor))
        most[0] = max(most[0], sum(ref() is not None for ref in seen))
        return add(digest, name, tensor)

    monkeypatch.setattr(storage, "_add", counting)
    load(tmp_path / "m.safetensors")
    assert len(seen) == 2 * len(weights)
    assert most[0] <= 2  # the one at hand, and the one before it until its name is taken


def test_a_folder_without_a_model_says_what_it_is(tmp_path):
    (tmp_path / "young").mkdir()
    (tmp_path / "young/config.json").touch()
    with pytest.raises(UsageError, match="has not saved a model yet"):
        load(tmp_path / "young")
    saved(tmp_path / "old" / "model.safetensors")
    with pytest.raises(UsageError, match=r"holds some: name one, such as .*old"):
        load(tmp_path)
