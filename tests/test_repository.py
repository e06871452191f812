"""The files around the code: they parse, and agree with pyproject.toml and with each other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import undiffuse

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
YAML = sorted(
    path for pattern in (".github/**/*.yml", ".pre-commit-config.yaml", "CITATION.cff") for path in ROOT.glob(pattern)
)
COMMANDS = {"pip", "undiffuse", "ruff", "mypy", "python", "python3"}


def loaded(name: str):
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", YAML, ids=lambda path: str(path.relative_to(ROOT)))
def test_yaml_parses_to_a_mapping(path):
    assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)


def test_ci_tests_the_oldest_python_and_torch_that_the_package_supports():
    matrix = loaded(".github/workflows/ci.yml")["jobs"]["tests"]["strategy"]["matrix"]
    assert f">={matrix['python'][0]}" == PROJECT["project"]["requires-python"]
    assert matrix["python"] == [f"3.{minor}" for minor in range(11, 15)]
    oldest = next(name for name in PROJECT["project"]["dependencies"] if name.startswith("torch"))
    assert oldest == f"torch>={matrix['torch'][0].removesuffix('.*')}"
    assert set(matrix["os"]) == {"ubuntu-latest", "macos-latest"}


def test_ci_runs_what_make_test_runs():
    jobs = loaded(".github/workflows/ci.yml")["jobs"]
    steps = {step.get("run", "") for job in jobs.values() for step in job["steps"]}
    recipe = re.findall(r"^\t\$\(BIN\)/(.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    wanted = {line for line in recipe if re.match(r"ruff|mypy|python -m pytest", line)}
    assert wanted
    assert wanted <= steps


def test_ci_has_a_gpu_job_by_label_alone():
    gpu = loaded(".github/workflows/ci.yml")["jobs"]["gpu"]
    assert "labels" in gpu["if"]
    assert "gpu" in gpu["runs-on"]


def test_every_step_of_ci_uses_an_action_or_runs_a_command_we_have():
    for job in loaded(".github/workflows/ci.yml")["jobs"].values():
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step), step
            if "run" in step:
                assert Path(step["run"].split()[0]).name in COMMANDS, step


def test_pre_commit_runs_what_ci_runs():
    hooks = [hook for repository in loaded(".pre-commit-config.yaml")["repos"] for hook in repository["hooks"]]
    assert {"ruff-check", "ruff-format", "mypy"} <= {hook["id"] for hook in hooks}
    for hook in hooks:
        assert hook["entry"].split()[0] in COMMANDS
        for path in re.findall(r"tests/\w+\.py", hook["entry"]):
            assert (ROOT / path).exists(), path
        if "files" in hook:
            re.compile(hook["files"])


@pytest.mark.parametrize(
    "path",
    sorted(set((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")) - {ROOT / ".github/ISSUE_TEMPLATE/config.yml"}),
    ids=lambda path: path.name,
)
def test_issue_templates_are_forms(path):
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= set(form)
    names = [field["id"] for field in form["body"]]
    assert len(names) == len(set(names))
    for field in form["body"]:
        assert field["type"] in ("textarea", "input", "dropdown", "checkboxes")
        assert field["attributes"]["label"]


def test_the_citation_is_of_this_version_and_license():
    citation = loaded("CITATION.cff")
    assert citation["version"] == undiffuse.__version__
    assert citation["license"] == PROJECT["project"]["license"]
    assert {"cff-version", "message", "title", "authors"} <= set(citation)


def test_the_changelog_keeps_its_form():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (.*)$", changelog, re.M)
    assert all(
        re.fullmatch(r"\[Unreleased\]( \d+\.\d+\.\d+)?|\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", each) for each in versions
    )
    assert any(undiffuse.__version__ in version for version in versions)
    for section in re.split(r"^## ", changelog, flags=re.M)[1:]:
        kinds = re.findall(r"^### (.*)$", section, re.M)
        assert len(kinds) == len(set(kinds))
        assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
