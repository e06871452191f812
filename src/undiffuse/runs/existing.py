"""What a run's folder holds already, and whether a run may go on there.

The same settings in the same folder resume; other settings are refused with a list of what differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from undiffuse.config import changed, stored
from undiffuse.data.dataset import Dataset
from undiffuse.errors import UsageError
from undiffuse.models.config import ModelConfig, with_sampling_completed
from undiffuse.models.file import stored_config
from undiffuse.runs.autoencoder import AutoencoderRunConfig
from undiffuse.runs.design import Design, RunConfig
from undiffuse.runs.folder import CONFIG, RunFolder
from undiffuse.runs.inventory import Inventory
from undiffuse.system import is_leftover

FREE_TO_CHANGE = (
    "design.training.steps",
    "design.training.budget",
    "design.sampling",
    "data.source",
    "data.max_pixels",
    "design.latent.training.steps",
    "design.latent.training.budget",
    "design.latent.source",
    "design.latent.extractor",
    "examples",
)
AUTOENCODER, CACHE = "autoencoder", "cache"
ANOTHER_NAME = "choose another `name`"


@dataclass(frozen=True)
class ExistingRun:
    """What a folder holds: nothing, a run, or the autoencoder of one that was stopped before anything else.

    config: of the run, or of its autoencoder.   model: of the run's model file.
    """

    folder: Path
    config: RunConfig | AutoencoderRunConfig | None
    model: ModelConfig | None

    @staticmethod
    def read(folder: Path) -> ExistingRun:
        """Reads the configurations. Raises UsageError for one that is damaged or of a newer version."""
        config = stored(folder / CONFIG, RunConfig, ANOTHER_NAME) or stored(
            folder / AUTOENCODER / CONFIG, AutoencoderRunConfig, ANOTHER_NAME
        )
        return ExistingRun(folder, config, stored_config(folder))

    @property
    def legacy(self) -> bool:
        """Whether it is of older code, which measured means and deviations on all examples."""
        if isinstance(self.config, RunConfig):
            return self.config.measured_on == "all"
        return self.config is not None and self.config.split is None

    def keep_sampling(self, design: Design, settings: Mapping[str, Any]) -> Design:
        """The design with the way of sampling that the folder's model has, as by a sweep, or its run was begun with.

        So what new models sample with does not reach those that go on.   settings: of the design, by dotted path.
        """
        kept = self.model.sampling if self.model is not None else None
        if kept is None and isinstance(self.config, RunConfig):
            kept = self.config.design.sampling
        if kept is None:
            return design
        own = {path: value for path, value in settings.items() if path.split(".")[0] == "sampling"}
        return changed(design.model_copy(update={"sampling": kept}), with_sampling_completed(kept, own))

    def changes(self, data: Dataset, now: RunConfig) -> str:
        """What is different in the data since the run was begun, in words; empty where nothing is, or it is not known."""
        if not isinstance(self.config, RunConfig) or self.config.fingerprint == now.fingerprint:
            return ""
        before = Inventory.read(self.folder)
        return "" if before is None else before.changes(Inventory.of(data, before.seed))

    def refuse_other(self, config: RunConfig, override: bool, changes: str = "") -> None:
        """Raises UsageError where the folder holds another run than this, or something that is no run.

        override: whether to go on with the training settings and the data of now.   changes: of the data, in words.
        """
        ours = (CACHE, AUTOENCODER)
        found = list(self.folder.iterdir()) if self.folder.exists() and not (self.folder / CONFIG).exists() else []
        if any(path.name not in ours and not is_leftover(path) for path in found):
            raise UsageError(f"{self.folder} is not empty and holds no run: {ANOTHER_NAME}.")
        # what was trained on can not be held out any more, so which examples are stays as it was
        fixed = ("data.held_out", "design.training.seed") if config.split is None else ("data.held_out",)
        RunFolder(self.folder).refuse_other(
            config,
            ANOTHER_NAME,
            FREE_TO_CHANGE,
            overridable=("design.training", "data", "fingerprint"),
            override=override,
            fixed=fixed,
            told={"fingerprint": changes} if changes else {},
        )
