"""Encoded columns of whole data sets: rows as the values alone would be encoded, in as much memory as what is said takes."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.conditioning.instances import DROPPABLE, WIDTH
from undiffuse.conditioning.columns import encode_columns, fit_conditions
from undiffuse.conditioning.conditions import Conditions
from undiffuse.conditioning.encoded import Part
from undiffuse.conditioning.spec import Condition
from undiffuse.data.codec import Codec, fitted_codec
from undiffuse.data.dataset import Dataset
from undiffuse.data.loader import Loader, batch_indices
from undiffuse.data.tables import text_column

N = 2500  # more than are encoded at once


def values_of(kind, n=N):
    generator = random.Random(0)
    return [generator.choice([None, *kind.values]) for _ in range(n)]


def rows_asked():
    return np.random.default_rng(0).integers(0, N, 300)


@pytest.mark.parametrize("kind", DROPPABLE.values(), ids=DROPPABLE)
def test_rows_are_what_the_values_alone_would_be(kind):
    module, values = kind.module(dropout=0.1), values_of(kind)
    column, rows = module.encode_all(values), rows_asked()
    expected = module.encode([values[row] for row in rows])
    found = column[rows]
    assert len(column) == N
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert torch.equal(found, expected)
    part = Part(column, rows)
    assert torch.equal(part[torch.arange(300).flip(0)], expected.flip(0))
    assert part.nbytes == expected.nbytes
    with pytest.raises(ValueError, match="without ever dropping"):
        kind.module(dropout=0.0).encode_all(values)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float32])
def test_pictures_stay_as_they_are_stored(dtype):
    module = DROPPABLE["image"].module(dropout=0.1)
    stored = torch.randint(0, 256, (50, 2, 8, 8), generator=torch.Generator().manual_seed(0)).to(dtype)
    if dtype == torch.float32:
        stored[7, 1, 3, 3] = torch.nan
    column = module.encode_all(stored)
    assert column.stored.data_ptr() == stored.data_ptr()
    expected = module.encode([None if k == 7 and dtype == torch.float32 else stored[k] for k in range(50)])
    assert torch.equal(column[torch.arange(50)], expected)
    with pytest.raises(ValueError, match="values lie in"):
        module.encode_all(stored.float() + 300)


@pytest.mark.parametrize("pooling", ["mean", "tokens"])
def test_states_of_a_transformer_are_kept_once_each_in_a_file(folders, tmp_path, pooling):
    texts = ["a red cat", "a dog", "", "a red cat", "one of the longer texts here", "a dog"] * 30
    data = Dataset("d", np.zeros((len(texts), 1, 2, 2), np.uint8), columns={"t": text_column(texts)})
    declared = {"t": Condition(kind="text", encoder=str(folders["bert"]), pooling=pooling)}
    conditions = Conditions(fit_conditions(data, declared, 0.1), WIDTH)
    rows = np.arange(len(texts))
    plain = encode_columns(data, declared, conditions)["t"][rows]
    expected = conditions["t"].encode(texts)
    kept = encode_columns(data, declared, conditions, tmp_path)["t"]
    again = encode_columns(data, declared, conditions, tmp_path)["t"]
    (file,) = tmp_path.glob("*.safetensors")
    for found in (plain, kept[rows], again[rows]):
        assert torch.equal(found, expected)
    width = conditions["t"].config.encoder.width + 1
    tokens = (
        sum(conditions["t"].encoder.length([text]) for text in dict.fromkeys(texts) if text)
        if pooling == "tokens"
        else 3
    )
    assert file.stat().st_size == 8 + 512 + 4 * width * tokens + 4 * 3
    file.write_bytes(file.read_bytes()[:600])  # cut short
    assert torch.equal(encode_columns(data, declared, conditions, tmp_path)["t"][rows], expected)


@pytest.mark.parametrize("kept", [2**28, 100])
def test_the_loader_takes_rows_of_any_column(monkeypatch, kept):
    monkeypatch.setattr(Loader, "KEPT_ENCODED", kept)
    data = Dataset("d", np.arange(N * 4, dtype=np.uint16).reshape(N, 1, 2, 2))
    codec, part = Codec(fitted_codec(data)), np.sort(np.random.default_rng(1).permutation(N)[:2000])
    for name in ("tags", "text", "class"):
        kind = DROPPABLE[name]
        module, values = kind.module(dropout=0.1), values_of(kind)
        loader = Loader(data[part], codec, 6, 3, torch.device("cpu"), {"it": Part(module.encode_all(values), part)})
        for step in range(3):
            rows = part[batch_indices(len(part), 6, 3, step)]
            assert torch.equal(loader(step)[1]["it"], module.encode([values[row] for row in rows]))


MEASURED = """
import resource, sys
import numpy as np
from undiffuse.conditioning.columns import encode_columns, fit_conditions
from undiffuse.conditioning.conditions import Conditions
from undiffuse.conditioning.spec import Condition
from undiffuse.data.dataset import Dataset
from undiffuse.data.tables import text_column
kind, n = sys.argv[1], 20_000
if kind == "tags":
    texts = [";".join(f"tag{(7 * k + 131 * j) % 5000}" for j in range(10)) for k in range(n)]
else:
    texts = [f"picture {k} of a cat" for k in range(n - 1)] + ["word " * 2000]
data = Dataset("d", np.zeros((n, 1), np.uint8), columns={"it": text_column(texts)})
declared = {"it": Condition(kind=kind)}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
conditions = Conditions(fit_conditions(data, declared, 0.1), 8)
column = encode_columns(data, declared, conditions)["it"]
assert column[np.arange(64)].shape[0] == 64
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.parametrize("kind", ["tags", "text"])
def test_what_is_said_takes_as_much_memory_as_is_said(kind):
    """20,000 examples: 10 of 5,000 tags each were a matrix of 400 MB; captions beside one of 2,000 words 2.6 GB."""
    done = subprocess.run([sys.executable, "-c", MEASURED, kind], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 60
