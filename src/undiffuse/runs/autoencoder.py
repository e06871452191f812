"""Training the autoencoder whose latents a model diffuses in (Rombach et al. 2022, section 3.1; Esser et al. 2021, section 3.2).

    runs/<name>/autoencoder/
      autoencoder.safetensors   the better of its weights, and the statistics of its latents
      config.json               what it is and how it is trained
      state/                    checkpoints for exact resume
      reconstructions.png       held-out examples, what came back, and the difference

The loss of an example x and its reconstruction y, per number of x:

    |x - y|  +  kl · KL( q(z|x) | N(0, I) )  +  perceptual · |features(x) - features(y)|²  -  adversarial · D(y)           (1)

Features are those of a classifier that was trained here, each position's brought to length 1 (Zhang et al. 2018, eq. 1 with
w = 1).  The discriminator D learns by the hinge loss at the same time, in the same step of the same optimizer: in (1) its
weights are held, and in its own loss y is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from undiffuse.conditioning.conditions import EncodedConditions
from undiffuse.config import Config, changed, parsed
from undiffuse.data.codec import Codec, CodecConfig
from undiffuse.data.dataset import Dataset
from undiffuse.data.loader import Loader
from undiffuse.data.splitting import SplitConfig
from undiffuse.errors import UsageError
from undiffuse.models import storage
from undiffuse.models.classifier import load_classifier
from undiffuse.models.interop.diffusers_vae import read_diffusers
from undiffuse.networks.discriminator import Discriminator
from undiffuse.networks.gaussian import divergence, sample_gaussian
from undiffuse.networks.kl_autoencoder import KLAutoencoder
from undiffuse.networks.latents import (
    LatentConfig,
    Latents,
    build_autoencoder,
    decode,
    encode,
    measure_latents,
    pad_replicate,
)
from undiffuse.networks.tiny_autoencoder import TinyAutoencoder
from undiffuse.pictures.edits import Row, difference, draw_rows
from undiffuse.process.levels import Level
from undiffuse.process.schedules import Cosine
from undiffuse.rng import GeneratorStream, drawing, permuted
from undiffuse.runs.design import LatentDesign
from undiffuse.runs.folder import RunFolder
from undiffuse.training.cadence import SHARE
from undiffuse.training.fit import fit
from undiffuse.training.hooks import Every, HookLike
from undiffuse.training.learners import Computing, Learner
from undiffuse.training.loop import TrainingLoop, Update
from undiffuse.training.timesteps import make_timestep_sampler

AUTOENCODER_FILE = "autoencoder.safetensors"
MOST_JUDGED, SHOWN = 1000, 10
AUTOENCODER_FREE_TO_CHANGE = ("design.training.steps", "design.training.budget", "design.source", "design.extractor")
Features = Callable[[Tensor], list[Tensor]]


class VAEAndDiscriminator(nn.Module):
    """An autoencoder, and its discriminator if any."""

    def __init__(self, autoencoder: KLAutoencoder | TinyAutoencoder, discriminator: Discriminator | None) -> None:
        super().__init__()
        self.autoencoder, self.discriminator = autoencoder, discriminator


class AutoencoderLearner(Learner):
    """Eq. 1. Noise, levels and conditions do not come into it."""

    def __init__(self, design: LatentDesign, both: VAEAndDiscriminator, features: Features | None) -> None:
        self.design, self.module, self.features = design, both, features
        self.autoencoder, self.discriminator = both.autoencoder, both.discriminator

    @property
    def draws(self) -> bool:
        return True

    def prepared(self, values: EncodedConditions, generator: torch.Generator) -> EncodedConditions:
        return values

    def losses(self, x: Tensor, eps: Tensor, level: Level, values: EncodedConditions, computing: Computing) -> Tensor:
        with computing():
            mean, log_variance = self.autoencoder.encode(pad_replicate(x, self.autoencoder.config.factor))
            z = mean if log_variance is None else sample_gaussian(mean, log_variance)
            y = decode(self.autoencoder, z, tuple(x.shape[2:]))
        numbers = x[0].numel()
        apart = (y - x).abs() if self.design.difference == "absolute" else (y - x) ** 2
        loss = apart.flatten(1).mean(1)
        if log_variance is not None:
            loss = loss + self.design.kl / numbers * divergence(mean, log_variance)
        if self.features is not None:
            loss = loss + self.design.perceptual * perceptual_distance(self.features, x, y)
        if self.discriminator is not None:
            held = {name: p.detach() for name, p in self.discriminator.named_parameters()}
            fooled = functional_call(self.discriminator, held, (y,)).flatten(1).mean(1)
            apart = torch.relu(1 - self.discriminator(x)).flatten(1).mean(1) + torch.relu(
                1 + self.discriminator(y.detach())
            ).flatten(1).mean(1)
            loss = loss - self.design.adversarial * fooled + apart / 2
        return loss


def perceptual_distance(features: Features, x: Tensor, y: Tensor) -> Tensor:
    """How far apart the features of x and y are, each position's of length 1; the mean over positions and layers, (B,)."""
    each = [
        (nn.functional.normalize(a, dim=1) - nn.functional.normalize(b, dim=1)).square().sum(1).flatten(1).mean(1)
        for a, b in zip(features(x), features(y), strict=True)
    ]
    return torch.stack(each).mean(0)


class AutoencoderRunConfig(Config):
    """config.json of an autoencoder's folder."""

    design: LatentDesign = Field(description="The autoencoder and its training.")
    codec: CodecConfig = Field(description="How stored values become the model's range and back.")
    fingerprint: str = Field(description="Hash of the data.")
    held_out: float = Field(
        description="Share of the examples that are held out (below 1), or their number (from 1 on)."
    )
    seed: int = Field(description="Seed of the split in runs of older versions.")
    split: SplitConfig | None = Field(None, description="Which examples are held out; None in runs of older versions.")


class AutoencoderRun:
    """An autoencoder being trained, or a pretrained one. `updates` does the work.

    rows: of the data, to train on and held out.
    """

    def __init__(
        self,
        folder: Path,
        config: AutoencoderRunConfig,
        data: Dataset,
        rows: tuple[np.ndarray, np.ndarray],
        device: torch.device,
    ) -> None:
        self.folder, self.config, self.data, self.device = folder, config, data, device
        self.codec, self.training_rows = Codec(config.codec), rows[0]
        self._held_out_rows = rows[1] if len(rows[1]) else rows[0]
        self._folder = RunFolder(folder)

    @cached_property
    def both(self) -> VAEAndDiscriminator:
        """The autoencoder and its discriminator, with their first weights or the pretrained ones. Raises UsageError as `load_autoencoder` does."""
        design, (channels, *size) = self.config.design, self.config.codec.shape
        with drawing(GeneratorStream.WEIGHTS, design.training.seed):
            autoencoder = (
                build_autoencoder(design.autoencoder, channels)
                if design.source is None
                else load_autoencoder(Path(design.source), channels)
            )
            discriminator = Discriminator(len(size), channels) if design.adversarial else None
        return VAEAndDiscriminator(autoencoder, discriminator).to(self.device)

    @cached_property
    def features(self) -> Features | None:
        """The features of the perceptual loss. Raises UsageError for a classifier of other data."""
        extractor = self.config.design.extractor
        if extractor is None:
            return None
        classifier = load_classifier(extractor, self.device)
        if classifier.config.codec != self.config.codec or classifier.config.latent is not None:
            raise UsageError(
                f"the extractor {extractor} reads other data than this: train one with 'undiffuse classifier' on this."
            )
        return classifier.features

    @cached_property
    def loader(self) -> Loader:
        """Batches of the training examples."""
        training = self.config.design.training
        return Loader(self.data, self.codec, training.batch_size, training.seed, self.device, rows=self.training_rows)

    @cached_property
    def held_out(self) -> Tensor:
        """x (N, C, *size) of held-out examples on the CPU, at most MOST_JUDGED; of those that are trained on, where none are held out."""
        judged = permuted(GeneratorStream.JUDGED, len(self._held_out_rows))[:MOST_JUDGED]
        return self.codec.encode_parts(self.data.values, self._held_out_rows[judged])

    @cached_property
    def loop(self) -> TrainingLoop:
        """The training loop, several times as large as a pretrained autoencoder."""
        schedule = Cosine()  # the loop draws levels, which an autoencoder does not look at
        learner = AutoencoderLearner(self.config.design, self.both, self.features)
        return TrainingLoop(
            learner, schedule, make_timestep_sampler("uniform", schedule, True), self.config.design.training
        )

    @property
    def pretrained(self) -> bool:
        """Whether the autoencoder was trained elsewhere, so that only its latents are to be measured."""
        return self.config.design.source is not None

    def description(self) -> str:
        """What is about to be trained, in a line."""
        design, parameters = self.config.design, sum(p.numel() for p in self.both.autoencoder.parameters())
        shape = "×".join(str(n) for n in LatentConfig.shape_of(design.autoencoder, self.config.codec.shape))
        what = f"pretrained, from {design.source}" if self.pretrained else "trained"
        return f"autoencoder {self.folder}: latents of {shape}, {parameters:,} parameters, {what} on {self.device}"

    def updates(self, hooks: Iterable[HookLike] = ()) -> Iterator[Update]:
        """Trains to the end, resuming from the newest checkpoint; saves every minute; then writes the autoencoder.

        hooks: called between updates, see training/hooks.py.
        A consumer that stops early should call `save`.  Raises UsageError where the folder holds another autoencoder, Failure
        where another process trains in it.
        """
        _ = self.both if self.pretrained else self.loop  # what cannot be made is refused before anything is written
        with self._folder:
            is_trained(self.folder, self.config)
            self._folder.write_config(self.config)
            if not self.pretrained:
                self._folder.resume(self.loop)
                yield from fit(self.loop, self.loader, hooks, Every(seconds=60.0, share=SHARE)(lambda *_: self.save()))
            self.finish()

    def save(self) -> None:
        """Writes a checkpoint."""
        self._folder.save(self.loop)

    @torch.no_grad()
    def finish(self) -> None:
        """Chooses between raw and averaged weights, measures latents, writes the file and the picture."""
        autoencoder = self.both.autoencoder.eval()
        loss = self._error()
        if not self.pretrained:
            with self.loop.ema.swapped():
                averaged = self._error()
                better = (
                    {name: p.detach().clone() for name, p in autoencoder.named_parameters()} if averaged <= loss else {}
                )
            for name, value in better.items():
                autoencoder.get_parameter(name).copy_(value)
            loss = min(loss, averaged)
        config = measure_latents(
            autoencoder,
            lambda rows: self.codec.encode(self.data.values[self.training_rows[rows]]),
            len(self.training_rows),
        )
        low, high = self.codec.limits(torch.device("cpu"))
        ratio = float((((high - low) ** 2).mean() / loss).log10()) * 10
        config = changed(config, {"psnr": round(ratio, 3)})
        latents = Latents(config, autoencoder)
        write_latents(self.folder / AUTOENCODER_FILE, latents)
        if len(self.config.codec.shape) == 3:
            self._draw(latents)

    def _error(self) -> float:
        """Mean squared error of reconstructions of held-out examples, over numbers, in units of x."""
        total = 0.0
        for part in self.held_out.split(64):
            x = part.to(self.device)
            y = decode(self.both.autoencoder, encode(self.both.autoencoder, x), tuple(x.shape[2:]))
            total += (y - x).cpu().double().square().sum().item()
        return total / self.held_out.numel()

    def _draw(self, latents: Latents) -> None:
        x = self.held_out[:SHOWN]
        y = latents.decode(latents.encode(x)).cpu()
        apart, label = difference(x, y, self.codec)
        rows: list[Row] = [
            ("held out", self.codec.decode(x)),
            ("through latents", self.codec.decode(y)),
            (label, apart),
        ]
        title = f"What latents of {'×'.join(map(str, latents.shape))} keep: {latents.config.psnr:.1f} dB"
        draw_rows(rows, title, [""] * len(x), self.codec).save(self.folder / "reconstructions.png")


def is_trained(folder: Path, config: AutoencoderRunConfig) -> bool:
    """Whether a folder holds the trained autoencoder of this configuration. Raises UsageError where it holds another."""
    RunFolder(folder).refuse_other(config, "choose another `name`", AUTOENCODER_FREE_TO_CHANGE)
    return (folder / AUTOENCODER_FILE).exists()


def write_latents(path: Path, latents: Latents) -> None:
    """Writes an autoencoder with the statistics of its latents atomically, and reads it back."""
    storage.write(
        path, "autoencoder", latents.config.model_dump_json(), storage.named(latent=dict(latents.named_parameters()))
    )


def load_latents(path: str | Path, device: torch.device | str = "cpu") -> Latents:
    """The autoencoder in a file, or in a folder that training made. Raises UsageError."""
    path = Path(path)
    path = path / AUTOENCODER_FILE if path.is_dir() else path
    if not path.exists():
        raise UsageError(f"there is no autoencoder at {path}: train one with `latent`.")
    header = storage.read_header(path, "autoencoder")
    latents = Latents.build(parsed(LatentConfig, header.content, f"{path} has a header this version cannot use"))
    storage.fill(header, (dict(latents.named_parameters()), "latent", ("latent",)))
    return latents.to(device)


def load_autoencoder(folder: Path, channels: int) -> KLAutoencoder | TinyAutoencoder:
    """A trained autoencoder of ours (a run of latents, its autoencoder/ or the file there) or of diffusers.

    Raises UsageError for another number of channels, or where there is none.
    """
    folder = folder.expanduser()
    for place in (folder, folder / AUTOENCODER_FILE, folder / "autoencoder" / AUTOENCODER_FILE):
        if place.is_file():
            latents = load_latents(place)
            if (found := latents.config.shape[0]) != channels:
                raise UsageError(
                    f"the autoencoder in {place} takes {found} channels, and the data has {channels}: train one with `latent`."
                )
            return latents.autoencoder.requires_grad_(True)
    if (folder / "config.json").exists():
        return read_diffusers(folder, channels)
    raise UsageError(
        f"there is no autoencoder in {folder}: give a folder that a training with `latent`, or diffusers, wrote."
    )
