"""What README, docs/ and the other pages say exists: links, files, commands, options, settings; and blocks marked `run` do run."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import pytest
import typer

from tests.test_layers import ALLOWED
from undiffuse.cli import main as entry

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
ROOMS = ("start", "how-to", "reference", "explanation", "measurements")
APP = typer.main.get_command(entry.app)
OPTIONS = {
    name: {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for name, command in APP.commands.items()
}
EVERYWHERE = {"--help", "--debug", "--network-class"}  # of every command, read before it
RUN = [
    (page, block)
    for page in PAGES
    for block in re.findall(r"^```python run\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M)
]


def ids(page: Path) -> str:
    return str(page.relative_to(ROOT))


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.*)$", text_of(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_relative_links_and_pictures_exist(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = page.parent / path if path else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


@pytest.mark.parametrize("room", ROOMS)
def test_every_page_is_listed_in_its_room(room):
    folder = ROOT / "docs" / room
    listed = set(re.findall(r"\]\(([\w-]+\.md)\)", text_of(folder / "README.md")))
    assert listed >= {page.name for page in folder.glob("*.md")} - {"README.md"}


def test_docs_have_five_rooms_and_their_pictures():
    assert {path.name for path in (ROOT / "docs").iterdir()} == {*ROOMS, "images"}


def test_every_picture_is_shown():
    shown = {
        (page.parent / target).resolve()
        for page in PAGES
        for target in re.findall(r"!\[[^\]]*\]\((.*?)\)", text_of(page))
    }
    assert {path.resolve() for path in (ROOT / "docs" / "images").iterdir()} == shown


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_commands_and_their_options_exist(page):
    commands = re.findall(r"^    undiffuse ([a-z]+)(.*?)(?:  +#.*)?$", text_of(page), re.M)
    commands += re.findall(r"`undiffuse\s+([a-z]+)([^`]*)`", text_of(page))
    for name, arguments in commands:
        assert name in OPTIONS, name
        for option in re.findall(r"(?<=\s)--?[a-z][\w-]*", arguments):
            assert option in OPTIONS[name] | EVERYWHERE, f"undiffuse {name} {option}"


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=ids)
def test_options_that_are_named_alone_exist(page):
    known = set().union(*OPTIONS.values()) | EVERYWHERE | {"--version"}
    for code in re.findall(r"`(--[^`]*)`", text_of(page)):
        for option in re.findall(r"(?:^|\s)(--[A-Za-z][\w-]*)", code):
            assert option in known or f"{option}".lower() in known or named_with_benchmark(page, option), option


def named_with_benchmark(page: Path, option: str) -> bool:
    """Whether the option is one of a benchmark that the page names."""
    scripts = [ROOT / "benchmarks" / f"{name}.py" for name in re.findall(r"benchmarks\.(\w+)", text_of(page))]
    return any(option in text_of(script) for script in scripts if script.exists())


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=ids)
def test_files_and_modules_that_are_named_exist(page):
    for name in re.findall(r"`((?:src|tests|benchmarks|[a-z_]+)/[\w/]+\.py)`", text_of(page)):
        assert (ROOT / name).exists() or (ROOT / "src" / "undiffuse" / name).exists(), name
    for module in re.findall(r"python -m (benchmarks\.\w+)", text_of(page)):
        assert (ROOT / (module.replace(".", "/") + ".py")).exists(), module


@pytest.mark.parametrize(("page", "block"), RUN, ids=[ids(page) for page, _ in RUN])
def test_blocks_marked_run_do_run(page, block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block.replace("steps=2000", "steps=2"), str(page), "exec"), {"__name__": "__main__"})


def test_some_blocks_run():
    assert {page.parent.name for page, _ in RUN} >= {"start", "how-to"}


def test_the_table_of_rooms_is_that_of_the_layer_test():
    page = text_of(ROOT / "docs" / "explanation" / "architecture.md")
    rows = re.findall(r"^\| `([a-z]+)(?:\.py|/)` \|.*?\| ([^|]*) \|$", page, re.M)
    stated = {
        room: set(re.findall(r"[a-z]+", re.sub(r"\(.*?\)", "", allowed))) for room, allowed in rows if room != "cli"
    }
    stated = {room: names - {"everything"} for room, names in stated.items()}
    assert stated == ALLOWED


def test_the_page_on_your_own_module_works_as_written(tmp_path, monkeypatch):
    page = ROOT / "docs" / "start" / "your-own-module.md"
    network, *blocks = re.findall(r"^```python\n(.*?)^```", text_of(page), re.S | re.M)
    (tmp_path / "my_net.py").write_text(network, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    names: dict = {"__name__": "__main__"}
    script = "\n".join(blocks).replace("steps=2000", "steps=2")
    exec(compile(script, str(page), "exec"), names)
    assert names["images"].shape == (16, 1, 16, 16)
    again = names["model"].sample(16, {"class": "large"}, guidance=2.0)
    assert (again == names["images"]).all()
    (command,) = re.findall(r"^    undiffuse (sample .*)$", text_of(page), re.M)
    arguments = ["undiffuse", *command.split(), "--out", "drawn"]
    monkeypatch.setattr("sys.argv", arguments)
    with suppress(SystemExit):
        entry.main()
    assert len(list((tmp_path / "drawn" / "images").iterdir())) == 16
