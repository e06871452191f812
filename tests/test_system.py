"""Files that are never half there, and folders that one process at a time works in."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from undiffuse.api import train
from undiffuse.data.config import DataConfig
from undiffuse.errors import Failure, UsageError
from undiffuse.runs.prepare import prepare
from undiffuse.runs.results import ResultsFolder
from undiffuse.system import (
    LOCK,
    FolderLock,
    inside,
    is_leftover,
    refuse_held,
    temporary_beside,
    write_atomically,
    write_text,
)

HOLD = """
import sys, time
from pathlib import Path
from undiffuse.system import FolderLock
with FolderLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(folder: Path) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_threads_that_write_one_file_do_not_take_each_others(tmp_path):
    path, meet, names = tmp_path / "a.txt", threading.Barrier(4), []

    def write(k: int) -> None:
        def slowly(temporary: Path) -> None:
            names.append(temporary)
            meet.wait(10)  # all four have their temporary file at the same time
            temporary.write_text(str(k) * 1000)
            meet.wait(10)

        write_atomically(path, slowly)

    threads = [threading.Thread(target=write, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(names)) == 4
    assert path.read_text() in {str(k) * 1000 for k in range(4)}
    assert list(tmp_path.iterdir()) == [path]


def test_the_name_is_flushed_as_well_as_the_content(tmp_path, monkeypatch):
    flushed = []
    fsync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: (flushed.append(os.fstat(descriptor).st_ino), fsync(descriptor))
    )
    write_text(tmp_path / "a", "x")
    assert flushed == [
        (tmp_path / "a").stat().st_ino,
        tmp_path.stat().st_ino,
    ]  # in this order: a name of nothing must not last


def test_a_folder_is_held_by_one_process_and_a_sentence_says_which(tmp_path):
    process = holder(tmp_path)
    try:
        with pytest.raises(Failure, match=f"process {process.pid} on "), FolderLock(tmp_path):
            pass
        with pytest.raises(Failure, match=f"process {process.pid} on "):
            refuse_held(tmp_path)
        with pytest.raises(Failure, match=f"process {process.pid} on "):
            prepare(DataConfig(source="nowhere"), tmp_path)  # before the data is looked at
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (tmp_path / LOCK).exists()
    refuse_held(tmp_path)
    with FolderLock(tmp_path):  # who held it is dead, however it died
        assert f"process {os.getpid()} on " in (tmp_path / LOCK).read_text()
    assert not (tmp_path / LOCK).exists()


def test_a_lock_is_taken_as_often_as_one_likes_by_whoever_has_it_and_by_nobody_else(tmp_path):
    mine, other = FolderLock(tmp_path), FolderLock(tmp_path)
    with mine, mine:
        with pytest.raises(Failure), other:
            pass
        assert (tmp_path / LOCK).exists()
    with other, pytest.raises(Failure), mine:
        pass


@pytest.mark.parametrize("name", ["../x", "..", ".", "", " ", "a/../../b", "/x"])
def test_a_name_that_leads_out_of_its_folder_is_refused(tmp_path, name):
    assert inside(tmp_path, "a") == tmp_path / "a"
    with pytest.raises(UsageError, match="outside"):
        inside(tmp_path, name)
    with pytest.raises(UsageError, match=r"outside|no data"):
        train(tmp_path / "nothing", name=name, runs=tmp_path / "runs")
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    left = [".model.safetensors.123.part", "state/.step-00000001.safetensors.77-0a1b2c3d.part"]
    kept = [
        "model.safetensors",
        ".notes.part",
        "x.12.part",
        "edited/.a.npy.5-00000000.part",
    ]  # edited/: another command may be at work there
    for name in left + kept:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    with FolderLock(tmp_path, ("state", "samples")):
        assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == {*kept, LOCK}
    assert [is_leftover(Path(name)) for name in (*left, LOCK, *kept[:3])] == [True, True, True, False, False, False]


def test_two_processes_never_get_the_same_folder_of_results(tmp_path, monkeypatch):
    def result(text):
        with ResultsFolder(tmp_path / "sampled") as place:
            (place.folder / "a").write_text(text)
        return place.final

    assert result("first").name == "001"
    exists = Path.exists
    monkeypatch.setattr(
        Path, "exists", lambda path: False if path.name == "001" else exists(path)
    )  # another makes it right after we looked
    assert result("second").name == "002"
    assert [(tmp_path / "sampled" / name / "a").read_text() for name in ("001", "002")] == ["first", "second"]


def test_results_are_written_whole(tmp_path):
    def half(place):
        (place.folder / "a.npy").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), ResultsFolder(tmp_path / "sampled") as place:
        half(place)
    assert not list(tmp_path.iterdir())


KILLED = """
import os, signal, sys
from pathlib import Path
from undiffuse.runs.results import ResultsFolder
with ResultsFolder(Path(sys.argv[1]) / "sampled") as place:
    (place.folder / "a.npy").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no way to ask for a process")
def test_results_of_a_killed_process_are_removed_by_the_next(tmp_path):
    """Those of a process that works still, and of another machine, whose process numbers say nothing here, stay."""
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    folder = tmp_path / "sampled"
    (killed,) = folder.iterdir()
    number, machine = killed.name.split(".")[-2].split("-")
    elsewhere = folder / f".001.{number}-{'0' * 8}{machine[8:]}.part"
    elsewhere.mkdir()
    working = temporary_beside(folder / "001")
    working.mkdir()
    with ResultsFolder(tmp_path / "sampled") as place:
        (place.folder / "a").write_text("whole")
    assert {path.name for path in folder.iterdir()} == {"001", working.name, elsewhere.name}
    with FolderLock(
        tmp_path, ("sampled",)
    ):  # of files it removes all that are half written, and of folders the same as above
        assert {path.name for path in folder.iterdir()} == {"001", working.name, elsewhere.name}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_who_may_read_a_file_is_as_for_any_other(tmp_path):
    """Whatever mode the library gives it that writes it: that of a new file by the umask, or of the file that was there."""

    def write(path):
        path.unlink()
        path.touch(0o600)

    (tmp_path / "plain").touch()
    write_atomically(tmp_path / "new", write)
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "new").chmod(0o640)
    write_atomically(tmp_path / "new", write)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
