"""The folder of a run: one process at a time, other configurations refused, checkpoints; and runs that do nothing until asked."""

from __future__ import annotations

import os

import pytest
import torch

from tests.small import TINY_SETTINGS
from tests.training.test_loop import batches, same, training_loop
from undiffuse.config import Config
from undiffuse.data.config import DataConfig
from undiffuse.data.loader import Loader
from undiffuse.errors import Failure, UsageError
from undiffuse.models.config import ModelConfig
from undiffuse.runs import measurements
from undiffuse.runs.folder import RunFolder
from undiffuse.runs.prepare import prepare
from undiffuse.training.fit import fit


class Numbers(Config):
    """A configuration of two numbers."""

    steps: int
    width: int


def test_a_folder_in_use_says_by_which_process(tmp_path):
    first, second = RunFolder(tmp_path / "r"), RunFolder(tmp_path / "r")
    with first:
        with pytest.raises(Failure, match=f"process {os.getpid()} on .*: wait until it is done or stop it"), second:
            pass
        with first:  # whoever has the object may enter again
            pass
    with second:
        pass


def test_what_a_killed_process_left_half_written_is_removed_in_all_its_folders(tmp_path):
    left = [tmp_path / "r" / name / ".x.4242.part" for name in (".", "state", "samples")]
    kept = tmp_path / "r" / "other" / ".x.4242.part"
    for path in (*left, kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    with RunFolder(tmp_path / "r", ("samples",)):
        assert not any(path.exists() for path in left)
    assert kept.exists()


def test_another_configuration_is_refused_but_for_what_is_free_to_change(tmp_path):
    folder = RunFolder(tmp_path / "r")
    folder.refuse_other(Numbers(steps=1, width=8), "choose another --name")
    folder.write_config(Numbers(steps=1, width=8))
    folder.refuse_other(Numbers(steps=2, width=8), "choose another --name", ("steps",))
    with pytest.raises(UsageError, match=r"width: 8 there, 9 now.*choose another --name"):
        folder.refuse_other(Numbers(steps=2, width=9), "choose another --name", ("steps",))


def test_a_training_goes_on_from_the_newest_checkpoint(tmp_path):
    folder, whole, part, again = RunFolder(tmp_path / "r"), training_loop(6), training_loop(6), training_loop(6)
    folder.resume(part)
    assert part.step == 0
    for _ in fit(whole, batches):
        pass
    for update in fit(part, batches):
        if update.step in (2, 4):
            folder.save(part)
        if update.step == 5:
            break
    folder.resume(again)
    assert again.step == 4
    for _ in fit(again, batches):
        pass
    assert same(whole.tensors(), again.tensors())


def test_a_run_does_nothing_until_it_is_asked(tmp_path, monkeypatch):
    """No network is built, no example encoded, no covariance measured and nothing written."""

    class Asked(Exception):
        pass

    def asked(*_, **__):
        raise Asked

    for owner, name in ((ModelConfig, "build"), (Loader, "__init__"), (measurements.Baseline, "of")):
        monkeypatch.setattr(owner, name, asked)
    settings = TINY_SETTINGS | {"training.steps": 2, "training.batch_size": 8}
    run = prepare(DataConfig(source="digits"), tmp_path / "r", settings=settings, device=torch.device("cpu")).run()
    assert len(run.held_out) == 180
    assert not (tmp_path / "r").exists()
    with pytest.raises(Asked):
        next(run.updates())
    assert not (tmp_path / "r").exists()
