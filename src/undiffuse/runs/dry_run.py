"""A dry run: the first batches as pictures, as the network will see them, and what a training takes.  Nothing is trained."""

from __future__ import annotations

from pathlib import Path

import torch

from undiffuse.conditioning.columns import column_values
from undiffuse.data.loader import batch_indices
from undiffuse.pictures.batches import MOST_BATCH_ROWS, batch_sheet
from undiffuse.pictures.views import label_of
from undiffuse.process.levels import Level
from undiffuse.runs.diffusion import Run
from undiffuse.system import write_atomically

BATCHES = 2
NOISE_SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the way from clean to noise


def draw_batches(run: Run, folder: Path) -> list[Path]:
    """Writes the first batches as pictures into a folder. Returns their paths."""
    schedule, training, prepared = run.model.schedule, run.config.design.training, run.prepared
    times = schedule.nearest(schedule.time(torch.tensor(NOISE_SHARES, dtype=torch.float64)))
    levels = Level.of_rows([schedule(t) for t in times])
    written = []
    for step in range(BATCHES):
        x, values = run.batch(step)
        rows = prepared.training[
            batch_indices(len(prepared.training), training.batch_size, training.seed, step, run.loader.balanced)
        ]
        shown = rows[:MOST_BATCH_ROWS]
        told = [column_values(prepared.data, name, of, shown) for name, of in prepared.declared.items()]
        texts = [label_of(each) for each in zip(*told, strict=True)] if told else [""] * len(shown)
        labels = [f"{name}  {text}".strip() for name, text in zip(prepared.data.names(shown), texts, strict=True)]
        observed = values["observation"][:, : x.shape[1]] if "observation" in values else None
        title = f"batch {step + 1} of {training.batch_size}: the first examples, as the network sees them"
        image = batch_sheet(x, levels, run.codec, labels, title, observed)
        path = folder / f"batch-{step + 1}.png"
        write_atomically(path, lambda temporary, image=image: image.save(temporary, "png"))  # type: ignore[misc]
        written.append(path)
    return written
