"""What the poster of a trained run shows."""

from __future__ import annotations

import torch

from undiffuse.models.file import load
from undiffuse.pictures.images import to_rgb
from undiffuse.pictures.poster import Poster
from undiffuse.pictures.views import forward_pictures, reverse_pictures
from undiffuse.runs.diffusion import Run
from undiffuse.sampling.spacings import uniform

STRIP, PER_CLASS = 10, 4
GUIDANCE = 2.0  # of the one reverse trajectory that is shown; the samples by class are plain
SHOWN_CLASS = "3"


def poster_of(run: Run) -> Poster:
    """The poster of a trained run of a data set with classes, of which the first ten are shown."""
    model = load(run.folder, run.device)
    codec, data = model.codec, run.held_out
    classes = list(model.classes)[:10]
    assert data.labels is not None
    of_class = [torch.from_numpy(data.values[data.labels == k]).float() for k in range(len(classes))]
    shown = classes.index(SHOWN_CLASS) if SHOWN_CLASS in classes else 0
    levels = getattr(model.schedule, "levels", None) or uniform(model.schedule, 200)
    # the held-out example nearest to the mean of its class: a typical one
    typical = (of_class[shown] - of_class[shown].mean(0)).flatten(1).norm(dim=1).argmin()
    forward, forward_labels = forward_pictures(
        codec.encode(of_class[shown][typical][None])[0], levels, codec, seed=0, count=STRIP
    )
    moments = list(model.trajectory(1, {"class": classes[shown]}, seed=0, guidance=GUIDANCE))
    x_t, clean, reverse_labels = reverse_pictures(moments, codec, count=STRIP)
    made = model.sample(
        PER_CLASS * len(classes), {"class": [name for name in classes for _ in range(PER_CLASS)]}, seed=1
    )
    return Poster(
        title="How noise becomes a digit",
        subtitle=(
            f"A diffusion model trained for {run.loop.seconds:.0f} seconds on {len(run.prepared.training):,} handwritten digits "
            f"of {data.shape[1]}×{data.shape[2]} pixels, on {run.device.type.upper()}."
        ),
        forward=forward,
        forward_labels=forward_labels,
        x_t=x_t,
        clean=clean,
        reverse_labels=reverse_labels,
        reverse_title=f"2  Reverse: told to make a {classes[shown]}, a network turns pure noise into a new one",
        classes=classes,
        real=[list(to_rgb(of[:PER_CLASS], codec.config)) for of in of_class],
        made=[list(to_rgb(part, codec.config)) for part in made.split(PER_CLASS)],
        ratio=run.measurements.validation.levels.sigma_edm.tolist(),
        errors=run.measurements.curves() | {"model": run.measurements.scores()[model.config.weights]["errors"]},
        held_out=len(run.measurements.measured() or ()),
    )
