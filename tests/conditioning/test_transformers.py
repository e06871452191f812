"""Frozen text encoders: read as the library reads them, whatever stands beside a text, and refused where they are others."""

from __future__ import annotations

import json
import os
import shutil
import socket

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conditioning.encoders import MOST, TEXTS, transformers
from undiffuse import system
from undiffuse.conditioning.texts import TextCondition, TextConfig
from undiffuse.conditioning.transformers import TextEncoder, describe_encoder, open_encoder


def alone(folder, text):
    """The states of the tokens of one text, run by the library with nothing else beside it: (tokens, 16)."""
    tokenizer, model = (
        transformers.AutoTokenizer.from_pretrained(folder),
        transformers.AutoModel.from_pretrained(folder).eval(),
    )
    with torch.no_grad():
        return model(torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state[0]


def states(folder, pooling, texts):
    config = describe_encoder(str(folder), pooling, TEXTS)
    return open_encoder(config).states(texts, config), config


def near(found, expected):
    """Float32 through two layers, padded and batched or not; states are of size 1."""
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


# What is answered -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:1], [TEXTS[1], TEXTS[2], TEXTS[1]]])
def test_the_mean_is_over_the_tokens_of_the_text_and_of_no_other(folder, texts):
    found, config = states(folder, "mean", texts)
    assert (found[:, -1] == 1).all()
    near(found[:, :-1] * config.scale, torch.stack([alone(folder, text).mean(0) for text in texts]))


@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:1], [TEXTS[1], TEXTS[2], TEXTS[1]]])
def test_the_last_is_the_state_of_the_last_token_whatever_stands_beside(folder, texts):
    found, config = states(folder, "last", texts)
    near(found[:, :-1] * config.scale, torch.stack([alone(folder, text)[-1] for text in texts]))


def test_tokens_are_all_states_and_zeros_where_none_is(folder):
    found, config = states(folder, "tokens", TEXTS)
    lengths = [len(alone(folder, text)) for text in TEXTS]
    assert found.shape == (5, max(lengths), 17)
    assert config.most == max(lengths)
    for row, text, length in zip(found, TEXTS, lengths, strict=True):
        near(row[:length, :-1] * config.scale, alone(folder, text))
        assert row[:, -1].tolist() == [1.0] * length + [0.0] * (max(lengths) - length)
        assert (row[length:] == 0).all()


@pytest.mark.parametrize("pooling", ["mean", "last", "tokens"])
def test_states_are_scaled_to_size_1_over_the_texts(folder, pooling):
    found, _ = states(folder, pooling, TEXTS)
    said = found[..., -1] > 0
    assert found[..., :-1][said].square().mean().sqrt().item() == pytest.approx(1, rel=1e-5)


def test_more_texts_than_a_batch_are_the_same_texts(folder, monkeypatch):
    many = [TEXTS[k % 5] for k in range(12)]
    whole, _ = states(folder, "tokens", many)
    monkeypatch.setattr("undiffuse.conditioning.transformers.BATCH", 5)
    parts, _ = states(folder, "tokens", many)
    near(parts, whole)


def test_each_architecture_has_its_pooling(folders):
    assert describe_encoder(str(folders["gpt"]), None, TEXTS).pooling == "last"
    assert describe_encoder(str(folders["bert"]), None, TEXTS).pooling == "mean"
    assert describe_encoder(str(folders["gpt"]), "mean", TEXTS).pooling == "mean"
    assert {describe_encoder(str(folder), None, TEXTS).architecture for folder in folders.values()} == {
        "BertModel",
        "GPT2Model",
    }
    assert describe_encoder(str(folders["bert"]), None, TEXTS).source == str(folders["bert"].resolve())


@pytest.mark.parametrize("pooling", ["mean", "last", "tokens"])
@pytest.mark.parametrize("inject", ["embedding", "concat", "cross_attention"])
def test_every_pooling_goes_in_by_every_way(folder, pooling, inject):
    module = TextCondition(TextConfig(encoder=describe_encoder(str(folder), pooling, TEXTS), inject=inject), 12)
    encoded = module.encode(["a dog", None, "a red cat", "a dog"])
    assert torch.equal(encoded[1], module.null_token())
    assert torch.equal(encoded[0], encoded[3])
    embedding, absent = module(encoded), module.padding_mask(encoded)
    tokens = module.config.encoder.most if pooling == "tokens" else 1
    assert embedding.shape == ((4, tokens, 12) if inject == "cross_attention" else (4, 8 if inject == "concat" else 12))
    distances = [(embedding[a] - embedding[b]).abs().max() for a, b in ((0, 1), (0, 2), (1, 2))]
    assert min(distances) > 1e-3
    if pooling == "tokens":
        assert (~absent).sum(1).tolist() == [
            len(alone(folder, "a dog")),
            0,
            len(alone(folder, "a red cat")),
            len(alone(folder, "a dog")),
        ]
    else:
        assert absent is None


@pytest.mark.parametrize(("name", "kind"), [("bert", "BertForMaskedLM"), ("gpt", "GPT2LMHeadModel")])
def test_a_model_with_a_head_is_read_without_it(folders, tmp_path, name, kind):
    copy = shutil.copytree(folders[name], tmp_path / "copy")
    with torch.random.fork_rng(devices=[]):
        model = getattr(transformers, kind)(transformers.AutoConfig.from_pretrained(copy)).eval()
    model.save_pretrained(copy)
    with torch.no_grad():
        tokens = torch.tensor([transformers.AutoTokenizer.from_pretrained(copy)("a red cat")["input_ids"]])
        expected = model(tokens, output_hidden_states=True).hidden_states[-1][0]
    found, config = states(copy, None, ["a red cat"])
    assert config.pooling == {"bert": "mean", "gpt": "last"}[name]
    near(found[0, :-1] * config.scale, expected.mean(0) if name == "bert" else expected[-1])


def test_the_encoder_is_no_part_of_the_model_s_weights(folder):
    module = TextCondition(TextConfig(encoder=describe_encoder(str(folder), None, TEXTS)), 12)
    before = set(module.state_dict())
    module.encode(["a dog"])
    assert set(module.state_dict()) == before
    assert sum(p.numel() for p in module.parameters()) == 17 * 12 + 12 + 12 * 12 + 12
    assert not any(p.grad_fn or p.requires_grad for p in [module.encode(["a dog"])])


# What is refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["model.safetensors", "tokenizer.json", "config.json"])
def test_another_encoder_under_the_same_name_is_refused(folder, tmp_path, change):
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = describe_encoder(str(copy), None, TEXTS)
    assert (
        config.sha256 == describe_encoder(str(folder), None, TEXTS).sha256
    )  # of what is in the files, wherever they lie
    assert open_encoder(config, str(folder)).width == 16
    (copy / "README.md").write_text("what is said of it changes nothing")
    open_encoder(config)
    if change == "model.safetensors":
        content = bytearray((copy / change).read_bytes())
        content[-1] ^= 1  # the last bit of the last weight
        (copy / change).write_bytes(content)
    else:
        (copy / change).write_text((copy / change).read_text() + "\n")
    with pytest.raises(ValueError, match=r"not the one the model was trained with \(copy, SHA-256 .*`encoder`"):
        open_encoder(config)


@pytest.mark.parametrize("pooling", ["last", "tokens"])
def test_texts_that_are_too_long_are_refused(folder, pooling):
    long = "a dog and " * 20
    with pytest.raises(
        ValueError, match=rf"'a dog and .* tokens, and the text encoder takes at most {MOST}: shorten it"
    ):
        describe_encoder(str(folder), pooling, ["a dog", long])
    config = describe_encoder(str(folder), pooling, TEXTS[:2])
    most = max(len(alone(folder, text)) for text in TEXTS[:2]) if pooling == "tokens" else MOST
    with pytest.raises(ValueError, match=rf"at most {most} \(2 texts are too long\)"):
        open_encoder(config).states(["owl", long, long], config)


def test_the_length_that_a_tokenizer_knows_counts_too(folder, tmp_path):
    """RoBERTa has two positions more than it can use, and its tokenizer says so."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    told = json.loads((copy / "tokenizer_config.json").read_text()) | {"model_max_length": 6}
    (copy / "tokenizer_config.json").write_text(json.dumps(told))
    assert describe_encoder(str(copy), None, ["a dog"]).most == 6


def test_what_is_not_on_this_machine_is_not_looked_for_elsewhere(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: asked.append(a) or pytest.fail("asked for an address"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    for source, words in (
        (str(tmp_path / "gone"), rf"encoder gone is not in {tmp_path}: give its folder as `encoder`"),
        ("./gone", "encoder gone is not in"),
        ("someone/not-here", "someone/not-here is not on this machine, .*`download`"),
        ("not-here", "not-here is not on this machine"),
    ):
        with pytest.raises(RuntimeError, match=words) as caught:
            TextEncoder(source)
        assert "pip install 'undiffuse[text]'" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not asked


def test_without_the_library_it_says_what_to_install(folder, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(system.importlib, "import_module", missing)
    with pytest.raises(
        RuntimeError, match=r"needs transformers, which is not installed: pip install 'undiffuse\[text\]'"
    ):
        TextEncoder(str(folder))


class Trap:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def test_weights_in_a_pickle_are_never_opened(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "model.safetensors").unlink()
    torch.save({"weight": Trap(str(tmp_path / "sprung"))}, copy / "pytorch_model.bin")
    with pytest.raises(ValueError, match="holds no text encoder that can be opened safely, with safetensors") as caught:
        TextEncoder(str(copy))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "sprung").exists()
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever torch makes of it: the trap works
        torch.load(copy / "pytorch_model.bin", weights_only=False)["weight"].shape  # noqa: B018
    assert (tmp_path / "sprung").exists()


def test_code_in_a_folder_is_never_run(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "own.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'sprung')!r})\nclass Own: pass\n")
    told = json.loads((copy / "config.json").read_text()) | {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Own"},
    }
    (copy / "config.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match="holds no text encoder that can be opened safely"):
        TextEncoder(str(copy))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "spoil", ["empty", "no tokenizer", "cut short", "a layer short", "of another width", "reads and writes"]
)
def test_folders_that_hold_no_encoder_are_refused(folders, tmp_path, spoil):
    copy = tmp_path / "copy"
    shutil.copytree(folders["bert"], copy)
    if spoil == "empty":
        shutil.rmtree(copy)
        copy.mkdir()
    elif spoil == "no tokenizer":
        for path in copy.glob("tokenizer*"):
            path.unlink()
    elif spoil == "cut short":
        content = (copy / "model.safetensors").read_bytes()
        (copy / "model.safetensors").write_bytes(content[: len(content) // 2])
    elif spoil == "a layer short":  # which the library would fill with random weights, others every time
        tensors = load_file(copy / "model.safetensors")
        save_file(
            {name: tensor for name, tensor in tensors.items() if "layer.1." not in name},
            copy / "model.safetensors",
            {"format": "pt"},
        )
    elif spoil == "of another width":
        told = json.loads((copy / "config.json").read_text()) | {"hidden_size": 32}
        (copy / "config.json").write_text(json.dumps(told))
    else:
        small = {"d_model": 8, "d_ff": 8, "d_kv": 4, "num_layers": 1, "num_heads": 2}
        transformers.T5Model(transformers.T5Config(vocab_size=50, **small)).save_pretrained(copy)
    with pytest.raises(ValueError, match=str(copy)) as caught:
        TextEncoder(str(copy))
    assert "\n" not in str(caught.value)
