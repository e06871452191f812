"""Options: one meaning a name in every command, made of the settings' fields, in panels, completed, and refused in a sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from inspect import signature
from pathlib import Path

import pytest
import typer
from typer.models import OptionInfo

from undiffuse.cli import reference
from undiffuse.cli.main import _of_typer, app
from undiffuse.cli.options import flags_of
from undiffuse.cli.place import results_folder
from undiffuse.cli.shared import with_flags
from undiffuse.runs.results import ResultsFolder

ROOT = Path(__file__).parents[2]
COMMANDS = {each.callback.__name__: each.callback for each in app.registered_commands}
GROUP = typer.main.get_command(app)
# Columns are declared in training, values given elsewhere; MEANINGS says so.
CONDITIONS = {"--class", "--tags", "--number", "--text", "--vector", "--image", "--task", "--condition"}
KINDS = {"INTEGER": "int", "NUMBER": "float", "TEXT": "str"}


def options_of(command):
    """{flag: what kind of value it takes} of a command."""
    found, flags = {}, {each.name: max(each.opts, key=len) for each in GROUP.commands[command].params}
    for parameter in signature(COMMANDS[command], eval_str=True).parameters.values():
        kind, *declared = getattr(parameter.annotation, "__metadata__", ()), parameter.annotation
        option = kind[0]
        if not isinstance(option, OptionInfo):
            continue
        flag = flags[parameter.name]
        plain = str(declared[0].__origin__).replace(" | None", "").removeprefix("<class '").removesuffix("'>")
        found[flag] = KINDS.get(option.metavar, option.metavar) if option.parser else plain
    return found


def test_an_option_takes_the_same_kind_of_value_in_every_command():
    seen = {}
    for command in COMMANDS:
        for flag, kind in options_of(command).items():
            if flag not in CONDITIONS:
                seen.setdefault(flag, {}).setdefault(kind, []).append(command)
    assert {flag: kinds for flag, kinds in seen.items() if len(kinds) > 1} == {}


def test_words_that_had_two_meanings_have_one():
    """--steps is of samplers, --train-steps of training; a kind of variance, a factor, and a degradation have names of their own."""
    training = {command for command in COMMANDS if "--train-steps" in options_of(command)}
    assert training == {"train", "classifier"}
    assert not any("--steps" in options_of(command) for command in training)
    for flag in ("--variance", "--upscaler", "--noise", "--adapters"):
        assert flag not in options_of("train"), flag
    assert "--noise" not in options_of("sample")
    assert "--degradation" in options_of("train")
    assert "--degradation" in options_of("restore")


def test_every_option_in_the_table_of_meanings_exists():
    every = {flag for command in COMMANDS for flag in options_of(command)}
    assert {flag for line in reference.MEANINGS for flag in line.split(", ")} <= every


def test_the_schema_and_the_page_are_what_the_code_says():
    script = "import json; from undiffuse.cli.reference import schema_of_code; print(json.dumps(schema_of_code()))"
    code = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert json.loads(reference.FILE.read_text(encoding="utf-8")) == json.loads(code), "run `make reference`"
    page = (ROOT / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
    assert page == reference.markdown(), "run `make reference`"


def test_schema_of_one_group_resolves(run):
    code, out = run("schema", "sampling")
    assert code == 0
    schema = json.loads(out)
    fields = schema["$defs"][schema["$ref"].rpartition("/")[2]]["properties"]
    assert fields["steps"]["minimum"] == 1
    assert fields["guidance"]["description"].startswith("Guidance scale")
    code, out = run("schema", "samplin")
    assert code == 2
    assert "did you mean 'sampling'?" in out


@pytest.mark.parametrize("command", ["train", "sample", "inpaint"])
def test_help_has_panels_and_at_most_a_dozen_options_come_first(command):
    shown = (p.annotation.__metadata__[0] for p in signature(COMMANDS[command], eval_str=True).parameters.values())
    options = [option for option in shown if isinstance(option, OptionInfo)]
    first = [option for option in options if option.rich_help_panel is None]
    assert len(first) <= 16
    assert {option.rich_help_panel for option in options} >= {None, "Conditions"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("sample", "x", "--steps", "twenty"), "--steps takes a whole number ≥ 1, not 'twenty'."),
        (("sample", "x", "-n", "q"), "-n takes a whole number"),
        (("sample", "x", "--stps", "3"), "there is no option --stps: did you mean --steps?"),
        (("train", "digits", "--steps", "3"), "there is no option --steps: did you mean --train-steps?"),
        (("train", "digits", "--bugdet", "3s"), "there is no option --bugdet: did you mean --budget?"),
        (("train", "digits", "--zzzz", "3"), "there is no option --zzzz."),
        (("sample", "x", "--clip", "dynamc"), "not 'dynamc': did you mean 'dynamic'?"),
        (("sample", "x", "--sigma-max", "0"), "--sigma-max takes a number > 0, not '0'."),
        (("train", "digits", "--budget", "soon"), "--budget takes a duration, such as 90s, 15m, 2h or 1d, not 'soon'."),
        (("train", "digits", "--set", "training.clp=3"), "clip'?"),
        (("train", "digits", "--learning-rate", "3"), "there is no option --learning-rate: did you mean --lr?"),
        (("sample", "x", "--cfg-scale", "3"), "there is no option --cfg-scale: did you mean --guidance?"),
        (("schedule", "cosine", "--out", ""), "--out names no file"),
        (("sample",), "Missing argument 'RUN'."),
    ],
)
def test_a_wrong_option_is_one_sentence(run, arguments, sentence):
    code, out = run(*arguments)
    assert code == 2, out
    said = " ".join(out.split())
    assert said.startswith("undiffuse: ")
    assert sentence in said
    assert len(out.strip().splitlines()) == 1


def test_a_library_names_settings_and_the_command_adds_its_flags():
    flags = {"range": "--range", "more": "--set"}
    assert with_flags("`range` is for whole numbers", flags) == "range (--range) is for whole numbers"
    assert with_flags("set `training.clip`", flags) == "set training.clip (--set training.clip=…)"
    assert with_flags("set `training.clip`", {}) == "set training.clip"
    assert with_flags("a plain sentence", flags) == "a plain sentence"
    assert flags_of(app, "train")["learning_rate"] == "--lr"
    assert flags_of(app, "train")["range"] == "--range"


def test_a_sentence_of_another_kind_is_kept():
    class Refusal(Exception):
        def format_message(self):
            return "No such\n  command."

    assert _of_typer(Refusal()) == "No such command."


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_and_options(shell):
    line = "undiffuse sample --guidance-"
    environment = os.environ | {
        "_UNDIFFUSE_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": line,
        "COMP_CWORD": "2",
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "_TYPER_COMPLETE_WORD_TO_COMPLETE": "--guidance-",
    }
    command = [sys.executable, "-m", "undiffuse"]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout
    assert "--guidance-interval" in out
    assert "--steps" not in out


# Results are whole or not there ----------------------------------------------------------------------------------------


def test_results_are_there_when_everything_is(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for number in ("001", "002"):
        with ResultsFolder(run / "edited") as place:
            (place.folder / "a.txt").write_text("a")
            assert not place.final.exists() or place.final.name != number
        assert place.final == run / "edited" / number
        assert [path.name for path in place.final.iterdir()] == ["a.txt"]
    assert sorted(path.name for path in (run / "edited").iterdir()) == ["001", "002"]


@pytest.mark.parametrize("out", [None, "there/deep"])
def test_nothing_stays_of_results_that_failed(tmp_path, out):
    run = tmp_path / "run"
    run.mkdir()
    place = results_folder(run, "edited", None if out is None else tmp_path / out)
    with pytest.raises(KeyboardInterrupt), place:
        (place.folder / "images").mkdir()
        (place.folder / "images" / "0.png").write_text("half")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.rglob("*")] == ["run"]


def test_an_empty_folder_that_is_named_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    place = results_folder(tmp_path, "edited", tmp_path / "out")
    with place:
        (place.folder / "a.txt").write_text("a")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.txt"]
