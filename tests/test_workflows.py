"""The workflows: what they may do, what they run, and on what. `make lint` checks their syntax."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
TEXTS = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / ".github" / "workflows").glob("*.yml")}
WORKFLOWS = {name: yaml.safe_load(text) for name, text in TEXTS.items()}
JOBS = {(name, job): content for name, flow in WORKFLOWS.items() for job, content in flow["jobs"].items()}


def test_only_the_upload_may_do_more_than_read():
    assert all(flow["permissions"] == {} for flow in WORKFLOWS.values())
    more = {
        job: content["permissions"] for job, content in JOBS.items() if content["permissions"] != {"contents": "read"}
    }
    assert more == {("release", "publish"): {"id-token": "write"}}
    assert "secrets." not in "".join(TEXTS.values())


def test_the_upload_runs_no_code_of_the_repository():
    steps = JOBS["release", "publish"]["steps"]
    assert [step["uses"].partition("@")[0] for step in steps] == [
        "actions/download-artifact",
        "pypa/gh-action-pypi-publish",
    ]


def test_only_a_tag_releases():
    (event,) = WORKFLOWS["release"][True].items()  # YAML takes the key `on` for a truth value
    assert event == ("push", {"tags": ["v*"]})


@pytest.mark.parametrize("name", TEXTS)
def test_actions_are_pinned_to_a_commit_whose_version_stands_beside_it(name):
    """One is not: its documentation names a branch."""
    used = re.findall(r"uses: (.+)$", TEXTS[name], re.MULTILINE)
    assert used
    for action in used:
        assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", action) or action.startswith(
            "pypa/gh-action-pypi-publish@release/v1 "
        )


def test_three_systems_and_each_supported_python_are_tested():
    matrix = JOBS["tests", "test"]["strategy"]["matrix"]
    assert [name.partition("-")[0] for name in matrix["os"]] == ["ubuntu", "macos", "windows"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    supported = {found[1] for name in project["classifiers"] if (found := re.search(r":: (3\.\d+)$", name))}
    assert supported <= set(matrix["python"])
    assert min(supported, key=lambda version: int(version[2:])) == project["requires-python"].removeprefix(">=")


@pytest.mark.parametrize("name", TEXTS)
def test_what_a_workflow_makes_can_be_made(name):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r"run: make ([\w-]+)", TEXTS[name])) <= set(targets)
