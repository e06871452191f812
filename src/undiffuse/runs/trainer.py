"""Trainer: a network of a user's own trained on a data set of a user's own, in a run folder like any other.

trainer = undiffuse.Trainer(network, dataset, steps=2000)
for update in trainer: ...              or  trainer.fit()
images = trainer.model.sample(16)
"""

from __future__ import annotations

import copy
import signal
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import nn

from undiffuse.conditioning.base import Note
from undiffuse.conditioning.spec import Condition
from undiffuse.config import parsed
from undiffuse.data.config import DataConfig, share_or_count
from undiffuse.data.dataset import Dataset
from undiffuse.data.items import as_dataset
from undiffuse.data.sources import HANDED_OVER, with_settings
from undiffuse.errors import UsageError
from undiffuse.models.devices import usable_device
from undiffuse.models.file import load
from undiffuse.models.model import Model
from undiffuse.networks.foreign import Factory, ForeignConfig, embedding_width_of, made, name_of, offered, unwrapped
from undiffuse.runs.prepare import prepare
from undiffuse.runs.progress import train_to_end
from undiffuse.system import inside
from undiffuse.training.cadence import DEFAULT_INTERVALS, Intervals, parse_duration
from undiffuse.training.hooks import HookLike, as_hook
from undiffuse.training.loop import Update
from undiffuse.training.overrides import TrainingOverrides, training_paths


class Trainer:
    """Trains `network` on `dataset` in runs/<name>; the same again goes on where it was.

    network: a torch.nn.Module, which is trained itself, or a class or function that makes one, whose first weights are then those of the
    seed.  It is called as (x, t, embedding), or with fewer of these: x float32 (B, C, *size), about of unit length; t float32 (B,), the
    timestep; embedding (B, embedding_width), the sum of the embeddings of the conditions, None without any.  It returns a tensor of the shape
    of x, of twice the channels where the variance is learned.
    dataset: anything with a length whose items are read by their number, such as a torch Dataset, a Hugging Face data set, a list of tensors
    or a NumPy array; see data/items.py.  It is read once: what it draws at random is drawn once.
    schedule, prediction: of ScheduleConfig and Design.
    conditions: by name a Condition, which reads an entry of the items ("label" of tuples), or the names of the classes, of which the labels
    are numbers; the labels as classes when None, and {} for an unconditional model.
    embedding_width: of the embedding that the network takes, its attribute of that name when None.
    name: of the run, the network's class when None.   held_out: a share of the examples below 1, or a whole number of them.
    layout: the axes of all items in one array, such as "NHWC".   range: what whole numbers black and white are.
    settings: other fields of Design by dotted path.   training: fields of TrainingConfig, such as steps=2000, budget="10m" or batch_size=64.
    device, change_settings, download, checkpoint_every, preview_every: as in `undiffuse.train`.

    Raises UsageError for a network that takes or returns other shapes, items that are not alike, and whatever else cannot be used; nothing
    is trained or written before.
    """

    def __init__(
        self,
        network: nn.Module | Factory,
        dataset: Any,
        *,
        schedule: str = "cosine",
        prediction: str = "v",
        conditions: Mapping[str, Condition | Sequence[str]] | None = None,
        embedding_width: int | None = None,
        name: str | None = None,
        runs: str | Path = "runs",
        held_out: float | None = None,
        layout: str | None = None,
        range: tuple[float, float] | None = None,
        settings: Mapping[str, Any] | None = None,
        device: torch.device | str | None = None,
        change_settings: bool = False,
        download: bool = False,
        checkpoint_every: float | str = DEFAULT_INTERVALS.checkpoint,
        preview_every: float | str = DEFAULT_INTERVALS.preview,
        **training: Unpack[TrainingOverrides],
    ) -> None:
        self.network, self._device = network, usable_device(device)
        declared, names = _declared(conditions)
        config = _config(network, embedding_width)
        data, source = _data(dataset, names, held_out, layout, range)
        chosen: dict[str, Any] = {"network": config.model_dump(), "schedule.name": schedule, "prediction": prediction}
        chosen |= training_paths(training, Trainer.__init__) | dict(settings or {})
        self.folder = inside(Path(runs), name or config.name.rpartition(":")[2].rpartition(".")[2])
        with offered(network):
            self._run = prepare(
                source,
                self.folder,
                settings=chosen,
                conditions=declared,
                override=change_settings,
                device=self._device,
                download=download,
                watch=Intervals(parse_duration(checkpoint_every), parse_duration(preview_every)),
                dataset=data,
            ).run()
            _ = self._run.loop  # the network is made, and refused, here
        for note in self._run.prepared.data.notes:
            warnings.warn(note, Note, stacklevel=2)
        self._model: tuple[int, Model] | None = None

    def __iter__(self) -> Iterator[Update]:
        """Trains, an update at a time, from where the folder's newest checkpoint left off; a loop that is left early saves."""
        ended = False
        try:
            yield from self._run.updates()
            ended = True
        finally:
            if not ended and self.step:
                self.save()
                if isinstance(sys.exception(), KeyboardInterrupt):
                    self._note_saved()

    def fit(self, hooks: Iterable[HookLike] = (), progress: bool = False) -> Model:
        """Trains to the end and returns the model. An interrupt (Ctrl-C) ends the update that is under way, saves, and then acts as usual.

        hooks: functions (loop, update) or hooks that are called between updates, see training/hooks.py.   progress: whether to show a bar.
        Raises UsageError for something that is no hook, before the first update.
        """
        _, interrupt = train_to_end(self._run.updates([as_hook(hook) for hook in hooks]), self._run, progress=progress)
        if interrupt is not None:
            self._note_saved()
            signal.raise_signal(interrupt)
        return self.model

    def _note_saved(self) -> None:
        text = f"stopped and saved at step {self.step} in {self.folder}; the same lines go on from there"
        warnings.warn(text, Note, stacklevel=3)

    @property
    def step(self) -> int:
        """How many updates are done, those of an earlier process in the same folder among them."""
        self._run.resume()
        return self._run.loop.step

    def verdict(self) -> str:
        """One or two sentences: the error on held-out examples beside the best linear denoiser's, and what the conditions change."""
        self._run.resume()
        return self._run.measurements.verdict()

    def save(self) -> None:
        """Writes a checkpoint and the model file into the run folder."""
        self._run.save()

    @property
    def model(self) -> Model:
        """The model as it is after the updates that are done, with the weights that are better on held-out examples: averaged or not.

        A copy, which later updates do not change; it is written into the run folder first.
        """
        if self._model is None or self._model[0] != self.step:
            if not self._run.is_saved:
                self.save()
            network = copy.deepcopy(unwrapped(self.network)) if isinstance(self.network, nn.Module) else self.network
            self._model = (self.step, load(self.folder, self._device, network=network))
        return self._model[1]

    def __repr__(self) -> str:
        return f"Trainer({self._run.description()})"


def _config(network: nn.Module | Factory, embedding_width: int | None) -> ForeignConfig:
    """What a model file says of the network."""
    if not isinstance(network, nn.Module) and not callable(network):
        raise UsageError(
            f"a network is a torch.nn.Module, or a class or function that makes one, and not a {type(network).__name__}."
        )
    with torch.random.fork_rng(devices=[]):
        one = network if isinstance(network, nn.Module) else made(network, name_of(network))
    return parsed(
        ForeignConfig,
        {"name": name_of(network), "embedding_width": embedding_width_of(one, embedding_width)},
        "the network cannot be used so",
    )


def _declared(
    conditions: Mapping[str, Condition | Sequence[str]] | None,
) -> tuple[dict[str, Condition] | None, Sequence[str] | None]:
    """(the conditions, the names of the classes). Raises UsageError for anything else than these."""
    if conditions is None:
        return None, None
    if not isinstance(conditions, Mapping):
        raise UsageError(f"conditions are given by name, as {{'class': ('cat', 'dog')}}, and not as {conditions!r}.")
    found, names = dict[str, Condition](), None
    for name, given in conditions.items():
        if isinstance(given, Condition):
            found[name] = given
            continue
        listed = [] if isinstance(given, str) or not isinstance(given, Sequence) else [str(each) for each in given]
        if not listed or names is not None:
            raise UsageError(
                f"the condition {name!r} is a Condition, or, of one condition, the names of its classes, and not {given!r}."
            )
        found[name], names = Condition(kind="class", column="class"), listed
    return found, names


def _data(
    dataset: Any,
    names: Sequence[str] | None,
    held_out: float | None,
    layout: str | None,
    range_: tuple[float, float] | None,
) -> tuple[Dataset, DataConfig]:
    """The data set in memory, and what a run's configuration says of it."""
    kind = type(dataset).__name__
    data = as_dataset(dataset, kind, names=names, layout=layout)
    described: dict[str, Any] = {"source": f"{HANDED_OVER}{kind}", "layout": layout, "range": range_}
    described |= {} if held_out is None else {"held_out": share_or_count(held_out)}
    source = parsed(DataConfig, described, "these settings of the data do not work")
    if names is not None and data.labels is None:
        raise UsageError("names of classes belong to labels, and the items have none: let an item be (example, label).")
    return with_settings(data, source), source
