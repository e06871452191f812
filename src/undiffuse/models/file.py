"""The model file: written, read, and what a run folder or a path to one holds."""

from __future__ import annotations

import importlib
import operator
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from undiffuse.conditioning.texts import TextCondition
from undiffuse.config import changed, parsed
from undiffuse.errors import UsageError
from undiffuse.formats import name_in_1
from undiffuse.models import lora, storage
from undiffuse.models.config import ModelConfig
from undiffuse.models.devices import usable_device
from undiffuse.models.model import Model
from undiffuse.models.transfer import transfer_weights
from undiffuse.networks.building import title_of
from undiffuse.networks.foreign import Factory, ForeignConfig, offered
from undiffuse.networks.latents import Latents
from undiffuse.sampling.settings import SamplingConfig
from undiffuse.system import FolderLock

MODEL_FILE = "model.safetensors"


def save_model(
    path: Path,
    config: ModelConfig,
    online: Mapping[str, Tensor],
    ema: Mapping[str, Tensor],
    latents: Latents | None = None,
    buffers: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes a model file atomically and reads it back.   buffers: of the network, that belong to it as its weights do, by name.

    Raises OSError for a full disk or a file that reads back wrong.
    """
    own: dict[str, Mapping[str, Tensor]] = {} if latents is None else {"latent": dict(latents.named_parameters())}
    own |= {"buffer": buffers} if buffers else {}
    storage.write(path, "model", config.model_dump_json(), storage.named(online=online, ema=ema, **own))


def store_sampling(path: Path, sampling: SamplingConfig) -> None:
    """Makes `sampling` the default of the model file at `path`, which is written anew; its weights stay as they are.

    Raises Failure where the run is being trained.
    """
    with FolderLock(path.parent):  # a run that is being trained would write over it
        config, tensors = read_file(path)
        storage.write(path, "model", config.model_copy(update={"sampling": sampling}).model_dump_json(), tensors)


def weights_digest(model: Model) -> str:
    """SHA-256 of the weights that sample."""
    return storage.digest_of("", {name_in_1(name): p.detach().cpu() for name, p in model.denoiser.named_parameters()})


def load(
    path: str | Path,
    device: torch.device | str | None = None,
    weights: str | None = None,
    encoder: str | None = None,
    download: bool = False,
    adapters: str | Path | None = None,
    network: nn.Module | Factory | None = None,
) -> Model:
    """The model in a run folder or a model file.

    weights: "ema" or "online"; the better one by default.   encoder: where its text encoder lies now, if it has one.
    download: whether that may be fetched.   adapters: a folder of low-rank adapters to tune it by, a run's adapters/ or peft's.
    network: of a model of a network of your own, its class, a function that makes it, or one, which is then filled; a file never imports
    code by itself.
    Its parameters are frozen; to train them, `model.denoiser.requires_grad_()`.
    Raises UsageError, one sentence saying what is wrong, for anything that is not an intact model file.
    """
    path, device = file_of(path), usable_device(device)
    header = storage.read_header(path, "model")
    config = _config_of(header)
    if weights is not None:
        config = changed(config, {"weights": weights})
    if network is not None and not isinstance(config.network, ForeignConfig):
        raise UsageError(
            f"the network of {path} is a {title_of(config.network)}, of undiffuse itself: leave network out."
        )
    with offered(network), _own_network_named(config):
        denoiser, schedule = config.build()
    latents = None if config.latent is None else Latents.build(config.latent)
    of_latents = () if latents is None else ((dict(latents.named_parameters()), "latent", ("latent",)),)
    weights_, buffers = dict(denoiser.named_parameters()), (denoiser.buffers_to_store(), "buffer", ("buffer",))
    sets = storage.sets_in(header, config.weights)
    with _own_network_named(config):
        storage.fill(header, (weights_, config.weights, sets), *of_latents, buffers)
    model = Model(config, denoiser, schedule, latents)
    if adapters is not None:
        model = _adapted(model, Path(adapters))
    for _, module in model.denoiser.conditions.items():
        if isinstance(module, TextCondition):
            module.source, module.download = encoder, download
    for part in (model.denoiser, latents):
        if part is not None:  # gradients of x̂ are taken by x_t alone, and keep nothing that only weights would need
            part.to(device).requires_grad_(False)
    return model


@contextmanager
def _own_network_named(config: ModelConfig) -> Iterator[None]:
    """Inside a `with`, what is refused of a network of the user's own is followed by which one the file was written with."""
    try:
        yield
    except UsageError as error:
        if not isinstance(config.network, ForeignConfig) or config.network.name in str(error):
            raise
        raise UsageError(
            f"{str(error).removesuffix('.')}; the model was trained with {config.network.name}: hand over that, with the layers it had."
        ) from None


def _adapted(model: Model, folder: Path) -> Model:
    """A model tuned by the adapters in a folder. Raises UsageError for those of another model."""
    rest = lora.read_rest(folder)
    if rest is not None:
        header, tensors = rest
        if header.start.sha256 != weights_digest(model):
            raise UsageError(
                f"the adapters in {folder} tune the weights of {header.start.name}, which are not these: give the model they are of."
            )
        denoiser, schedule = header.model.build()
        transfer_weights(model.denoiser, denoiser, header.model.shape, model.config.build_trained_schedule())
        parameters = dict(denoiser.named_parameters())
        with torch.no_grad():
            for name, tensor in tensors.items():
                parameters[name].copy_(tensor)
        latents = model.latents.of_shape(header.model.codec.shape) if model.latents else None
        model = Model(header.model, denoiser, schedule, latents)
    lora.add(model.denoiser.network, folder)
    return model


def file_of(path: str | Path) -> Path:
    """The model file that a run folder holds, or the path itself. Raises UsageError where there is none."""
    path = Path(path)
    folder, path = path, path / MODEL_FILE if path.is_dir() else path
    if not path.exists():
        if (folder / "config.json").exists() and not any(folder.glob("*.safetensors")):
            raise UsageError(
                f"the run in {folder} has not saved a model yet: wait for its first checkpoint, or train on."
            )
        runs = sorted(found.parent.name for found in folder.glob(f"*/{MODEL_FILE}"))
        if runs:
            raise UsageError(f"{folder} is no run, but holds some: name one, such as {folder / runs[0]}.")
        raise UsageError(
            f"there is no model at {path}: give a run folder made by 'undiffuse train', or its {MODEL_FILE}."
        )
    return path


def stored_config(folder: Path) -> ModelConfig | None:
    """What the model file of a run folder says of itself, None where there is none that says anything. Its weights are not looked at."""
    content = storage.config_of(folder / MODEL_FILE)
    try:
        return None if content is None else parsed(ModelConfig, content, "")
    except UsageError:
        return None


def read_file(path: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The configuration and all tensors of a model file. Raises UsageError."""
    header = storage.read_header(path, "model")
    return _config_of(header), dict(storage.tensors_in(header))


def _config_of(header: storage.Header) -> ModelConfig:
    return parsed(ModelConfig, header.content, f"{header.path} has a header this version cannot use")


def network_class(name: str) -> Factory:
    """The class or function "module:name" that makes a network, imported, for it is the user who names it; never called for what a file says.

    Modules in the current folder are found too.   Raises UsageError where there is none.
    """
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise UsageError(f"{name!r} names no class: write module:class, such as my_networks:Net.")
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    try:
        found = operator.attrgetter(attribute)(importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"{name} cannot be imported ({error}): name a module that Python finds here, and a class in it."
        ) from error
    if not callable(found):
        raise UsageError(f"{name} is a {type(found).__name__}, and not a class or function that makes a network.")
    return cast(Factory, found)
