"""What benchmarks/memory.py measures.  Modules of ours are imported where they are used, so that older code can be measured as well."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

Work = tuple[Callable[[], Any], int]


class Subject(NamedTuple):
    """prepare: (examples, size) → (the work, bytes that its result keeps).   size: what the second number means.   settings: to measure.

    warm: of how many examples the work is done first, of so many in all, so that what a batch takes is not counted; not at all when None.
    """

    prepare: Callable[[int, int], Work]
    size: str
    settings: tuple[tuple[int, int], ...]
    warm: Callable[[int], int] | None = None


def one_batch(n: int) -> int:
    return min(n, 256)


# What examples are told -------------------------------------------------------------------------------------------------


def _encoded(n: int, column: np.ndarray, condition: Any, shape: tuple[int, ...] = (1,)) -> Any:
    from undiffuse.conditioning.columns import encode_columns, fit_conditions
    from undiffuse.conditioning.conditions import Conditions
    from undiffuse.data.dataset import Dataset

    data = Dataset("measured", np.zeros((n, *shape), np.uint8), columns={"it": column})
    declared = {"it": condition}
    conditions = Conditions(fit_conditions(data, declared, 0.1), 8)
    values = encode_columns(data, declared, conditions)["it"]
    values[np.arange(64)]  # one batch
    return values


def _column(texts: list[str]) -> np.ndarray:
    """Texts as a column of the data: of older code, in cells as wide as the longest."""
    try:
        from undiffuse.data.tables import as_column
    except ImportError:
        return np.array(texts)
    return as_column(texts)


def tags(n: int, size: int) -> Work:
    """10 tags each, of a vocabulary of `size`."""
    from undiffuse.conditioning.spec import Condition

    texts = [";".join(f"tag{(7 * k + 131 * j) % size}" for j in range(10)) for k in range(n)]
    return lambda: _encoded(n, _column(texts), Condition(kind="tags")), n * (10 * 4 + 16) + 4 * n * max(map(len, texts))


def texts(n: int, size: int) -> Work:
    """Captions of 6 words, all different, and one of `size` words."""
    from undiffuse.conditioning.spec import Condition

    captions = [f"picture {k} of a cat" for k in range(n - 1)] + [" ".join(["word"] * size)]
    words = 5 * (n - 1) + size
    return lambda: _encoded(n, _column(captions), Condition(kind="text")), words * 8 * 4 + 16 * n + 8 * n


class _Stub:
    """In place of a transformer: states of 8 to 20 tokens a text."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def batches(self, texts: list[str], config: Any) -> Any:
        for start in range(0, len(texts), 64):
            states = torch.ones(len(texts[start : start + 64]), 20, config.width + 1)
            for row in range(len(states)):
                states[row, 8 + (start + row) % 13 :] = 0
            yield states

    def states(self, texts: list[str], config: Any) -> torch.Tensor:
        return torch.cat(
            [torch.nn.functional.pad(part, (0, 0, 0, config.most - 20)) for part in self.batches(texts, config)]
        )


def states(n: int, size: int) -> Work:
    """States of `size` numbers of all tokens of captions, a third of which are different."""
    from undiffuse.conditioning.texts import TextCondition, TextConfig
    from undiffuse.conditioning.transformers import TransformerEncoder

    captions = [f"caption {k % (n // 3)}" for k in range(n)]
    encoder = TransformerEncoder(source="-", sha256="-", architecture="-", pooling="tokens", width=size, most=77)
    module = TextCondition(TextConfig(encoder=encoder, inject="cross_attention"), 8)
    module.__dict__["encoder"] = _Stub(encoder)

    def work() -> Any:
        values = module.encode_all(captions) if hasattr(module, "encode_all") else module.encode(captions)
        values[np.arange(64)]
        return values

    return work, n // 3 * 14 * (size + 1) * 4 + 8 * n


def pictures(n: int, size: int) -> Work:
    """Pictures of 3 x size x size that are conditions, as an array of the user's."""
    from undiffuse.conditioning.spec import Condition

    column = np.random.default_rng(0).integers(0, 256, (n, 3, size, size), dtype=np.uint8)
    return lambda: _encoded(n, column, Condition(kind="image"), (3, size, size)), 0


# Data, models and what they make ------------------------------------------------------------------------------------------


def _images(n: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 1, size, size), dtype=np.uint8)


def _codec(size: int) -> Any:
    from undiffuse.data.codec import CodecConfig

    return CodecConfig(
        shape=(1, size, size),
        kind="integer",
        dtype="uint8",
        mode="L",
        offset=(127.5,),
        scale=(127.5,),
        low=(0.0,),
        high=(255.0,),
    )


def _model(size: int, width: int = 4, steps: int = 2) -> Any:
    """An untrained model of grey images, whose network answers at once: what is measured is what lies around it."""
    from undiffuse.models.config import ModelConfig
    from undiffuse.models.model import Model
    from undiffuse.networks.unet_config import UNetConfig
    from undiffuse.process.config import ScheduleConfig
    from undiffuse.sampling.settings import SamplingConfig

    config = ModelConfig(
        codec=_codec(size),
        network=UNetConfig(width=width, multipliers=(1,), depth=1, groups=4),
        schedule=ScheduleConfig(name="cosine", T=1000),
        prediction="v",
        variance_type="fixed_small",
        sigma_data=0.5,
        conditions={},
        sampling=SamplingConfig(steps=steps),
    )
    _answer_at_once()
    return Model(config, *config.build())


def _answer_at_once() -> None:
    """Replaces the work of every U-Net of this process."""
    from undiffuse.networks.unet import UNet

    UNet.forward = lambda self, x, *rest: 0.5 * x  # type: ignore[method-assign]


def encoding(n: int, size: int) -> Work:
    """Stored grey images into the model's range."""
    from undiffuse.data.codec import Codec

    codec, values = Codec(_codec(size)), _images(n, size)
    return lambda: getattr(codec, "encode_parts", codec.encode)(values), n * size**2 * 4


def latents(n: int, size: int) -> Work:
    """Statistics of the latents of an autoencoder that halves each side."""
    from undiffuse.networks.kl_autoencoder import KLAutoencoderConfig
    from undiffuse.networks.latents import build_autoencoder, measure_latents

    autoencoder = build_autoencoder(KLAutoencoderConfig(channels=(8, 8), depth=1, latent_channels=4, groups=4), 1)
    x = torch.rand(1, 1, size, size)
    return lambda: measure_latents(
        autoencoder,
        lambda rows: x.expand(len(range(n)[rows]), -1, -1, -1) * torch.rand(len(range(n)[rows]), 1, 1, 1),
        n,
    ), 0


def training(n: int, size: int) -> Work:
    """Opening an array, preparing a run, and two updates.   Kept: the values as they are stored, and x where that is small."""
    import undiffuse.runs.prepare
    from undiffuse.data.config import DataConfig
    from undiffuse.data.loader import Loader

    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / "values.npy"
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": (n, 1, size, size)}
        )
        for start in range(0, n, 256):
            file.write(_images(min(256, n - start), size).tobytes())

    def work() -> Any:
        settings = {
            "training.steps": 2,
            "training.batch_size": 8,
            "network.width": 8,
            "network.multipliers": [1],
            "network.depth": 1,
            "network.groups": 4,
            "network.embedding_width": None,
        }
        run = undiffuse.runs.prepare.prepare(
            DataConfig(source=str(path), layout="NCHW"), Path(folder.name) / "run", settings=settings
        ).run()
        for _ in run.loop.updates(run.batch):
            if run.loop.done >= 1:
                break
        return run, folder

    encoded = n * size**2 * 4
    return work, n * size**2 + (encoded if encoded <= Loader.KEPT_ENCODED else 0)


def noise(n: int, size: int) -> Work:
    """The noise of n colour pictures, as every step of sampling draws it."""
    from undiffuse.process.philox import standard_normal

    return lambda: standard_normal((3, size, size), 0, torch.arange(n)), n * 3 * size**2 * 4


def sampling(n: int, size: int) -> Work:
    """`Model.sample`."""
    model = _model(size)
    return lambda: model.sample(n), n * size**2 * 4


def editing(n: int, size: int) -> Work:
    """`editing.reconstruct` by Heun, which returns what was given, x, x_t and what came back."""
    from undiffuse.models import editing as module

    model, values = _model(size), _images(n, size)
    return lambda: module.reconstruct(model, values, steps=2), 4 * n * size**2 * 4


def recorded(n: int, size: int) -> Work:
    """The same by recording the noise of 20 steps, which is not returned."""
    from undiffuse.models import editing as module

    model, values = _model(size), _images(n, size)
    return lambda: module.reconstruct(model, values, method="ddpm_inversion", steps=20), 4 * n * size**2 * 4


def _command(arguments: list[str]) -> Any:
    from undiffuse.cli.main import main

    sys.argv = ["undiffuse", *arguments]
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.suppress(SystemExit),
    ):
        main()


def _saved(size: int, width: int = 4) -> tempfile.TemporaryDirectory[str]:
    """A folder with a model, written by another process, so that its memory is not this one's, whose network answers at once here."""
    _answer_at_once()
    folder = tempfile.TemporaryDirectory()
    code = f"from benchmarks.memory_subjects import _save; _save({folder.name!r}, {size}, {width})"
    subprocess.run([sys.executable, "-c", code], check=True)
    return folder


def _save(folder: str, size: int, width: int) -> None:
    from undiffuse.models.file import save_model

    model = _model(size, width)
    raw = {name: parameter.detach() for name, parameter in model.denoiser.named_parameters()}
    save_model(
        Path(folder) / "model.safetensors",
        model.config,
        raw,
        {name: parameter.clone() for name, parameter in raw.items()},
    )


def samples(n: int, size: int) -> Work:
    """The command `sample -n`, of which nothing is kept."""
    folder = _saved(size)
    return lambda: (_command(["sample", folder.name, "-n", str(n), "--device", "cpu"]), folder), 0


def trajectory(n: int, size: int) -> Work:
    """The command `sample --trajectory` of so many steps (in the place of examples): a strip and an animation."""
    folder = _saved(size)
    return lambda: (
        _command(
            [
                "sample",
                folder.name,
                "-n",
                "8",
                "--trajectory",
                "--steps",
                str(n),
                "--grid",
                "uniform",
                "--device",
                "cpu",
            ]
        ),
        folder,
    ), 0


def loading(n: int, size: int) -> Work:
    """`load` of a model file of so many channels (in the place of examples).   Kept: one of its two sets of weights."""
    from undiffuse.models.file import load

    folder = _saved(size, n)
    return lambda: (load(folder.name, device="cpu"), folder), (
        Path(folder.name) / "model.safetensors"
    ).stat().st_size // 2


SUBJECTS = {
    "tags": Subject(tags, "tags in all", ((5_000, 1_000), (20_000, 1_000), (20_000, 5_000))),
    "texts": Subject(texts, "words of the longest", ((5_000, 50), (20_000, 50), (20_000, 1_000))),
    "states": Subject(states, "numbers of a state", ((3_000, 128), (9_000, 128), (9_000, 384))),
    "pictures": Subject(pictures, "pixels a side", ((2_000, 32), (8_000, 32), (2_000, 64))),
    "encoding": Subject(encoding, "pixels a side", ((4_000, 64), (16_000, 64), (4_000, 128)), one_batch),
    "latents": Subject(latents, "pixels a side", ((4_000, 16), (16_000, 16), (4_000, 32)), one_batch),
    "training": Subject(training, "pixels a side", ((8_000, 64), (32_000, 64), (8_000, 128)), one_batch),
    "noise": Subject(noise, "pixels a side", ((16, 256), (64, 256), (64, 512)), lambda n: 1),
    "sampling": Subject(sampling, "pixels a side", ((1_000, 64), (4_000, 64), (1_000, 128)), one_batch),
    "samples": Subject(samples, "pixels a side", ((1_000, 64), (3_000, 64)), one_batch),
    "trajectory": Subject(trajectory, "pixels a side", ((50, 64), (400, 64)), lambda n: 4),
    "editing": Subject(editing, "pixels a side", ((500, 64), (2_000, 64), (500, 128)), one_batch),
    "recorded": Subject(recorded, "pixels a side", ((250, 32), (1_000, 32)), one_batch),
    "loading": Subject(loading, "pixels a side", ((256, 8), (512, 8)), lambda n: 8),
}
