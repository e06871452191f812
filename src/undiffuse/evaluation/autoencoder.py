"""What an autoencoder leaves for a model of its latents to reach."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from undiffuse.evaluation.distances import frechet_distance
from undiffuse.rng import GeneratorStream, drawing
from undiffuse.runs.autoencoder import AutoencoderRun, load_latents

COMPONENTS = 64


@dataclass(frozen=True)
class ReconstructionQuality:
    """How well the autoencoder reconstructs n held-out examples: the limit for any model of its latents.

    psnr: of reconstructions, in dB.   frechet: distance between examples and reconstructions, over the principal components
    of the examples.   stds: of the latents, channel by channel, 1 where the training set's statistics hold.
    """

    psnr: float
    frechet: float | None
    components: int
    stds: tuple[float, ...]
    n: int

    def description(self) -> str:
        """The same in words, in two or three lines."""
        limit = "no sample can be nearer to an example than that"
        lines = [f"reconstructions of {self.n} held-out examples: {self.psnr:.1f} dB; {limit}"]
        if self.frechet is not None:
            over = f"over {self.components} principal components"
            lines.append(
                f"their Fréchet distance to the examples, {over}, is {self.frechet:.3g}: the floor of later ones"
            )
        low, high = min(self.stds), max(self.stds)
        return "\n".join([*lines, f"latents have standard deviations of {low:.3f} to {high:.3f}, channel by channel"])


def reconstruction_quality(run: AutoencoderRun) -> ReconstructionQuality:
    """What the written autoencoder leaves to reach."""
    latents = load_latents(run.folder, run.device)
    z = latents.encode(run.held_out)
    back = latents.decode(z).cpu()
    x, y = run.held_out.flatten(1).double(), back.flatten(1).double()
    k = min(COMPONENTS, x.shape[1], len(x) // 4)
    frechet = None
    if k:
        with drawing(GeneratorStream.COMPONENTS):
            _, _, directions = torch.pca_lowrank(x, k, niter=4)
        frechet = frechet_distance(x @ directions, y @ directions)
    axes = (0, *range(2, z.ndim))
    assert latents.config.psnr is not None  # `finish` measured it
    return ReconstructionQuality(latents.config.psnr, frechet, k, tuple(z.cpu().double().std(axes).tolist()), len(x))
