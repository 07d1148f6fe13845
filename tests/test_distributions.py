"""The three distributions agree with each other, have all that they need, and each can be published by itself."""

from __future__ import annotations

import email
import importlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import typer
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import smart_rag
from smart_rag.cli.app import app

ROOT = Path(__file__).parents[1]
INTEGRATIONS = [ROOT / "integrations" / name for name in ("langchain", "llama_index")]
FOLDERS = [ROOT, *INTEGRATIONS]
VERSION = Version(smart_rag.__version__)
PYPROJECTS = {folder: tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8")) for folder in FOLDERS}
each_integration = pytest.mark.parametrize("folder", INTEGRATIONS, ids=lambda folder: folder.name)
each_distribution = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: project(folder)["name"])


def project(folder: Path) -> dict:
    return PYPROJECTS[folder]["project"]


def package(folder: Path) -> str:
    """The name of the package in a distribution."""
    return project(folder)["name"].replace("-", "_")


def tracked(folder: Path) -> set[str]:
    """The files of the repository under ``folder``, as paths relative to it."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=folder, capture_output=True, encoding="utf-8")
    if listed.returncode:
        pytest.skip("these tests need the repository, to know which files belong to it")
    return {path for path in listed.stdout.split("\0") if (folder / path).is_file()}


class Built:
    """A wheel and a source distribution."""

    def __init__(self, source: Path, out: Path) -> None:
        command = [sys.executable, "-m", "hatchling", "build", "-d", str(out)]
        subprocess.run(command, cwd=source, check=True, capture_output=True)
        self.sdist = next(out.glob("*.tar.gz"))
        self.wheel = zipfile.ZipFile(next(out.glob("*.whl")))
        self.files = {path: self.wheel.read(path) for path in self.wheel.namelist()}
        self.info = next(path for path in self.files if path.endswith("/METADATA")).removesuffix("METADATA")
        self.metadata = email.message_from_bytes(self.files[self.info + "METADATA"])


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """What is built from the files of the repository, without those that only lie in the working directory."""
    source = tmp_path_factory.mktemp("source")
    for path in tracked(ROOT):
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, source / path)
    out = tmp_path_factory.mktemp("dist")
    return {folder: Built(source / folder.relative_to(ROOT), out / folder.name) for folder in FOLDERS}


@each_integration
def test_an_integration_is_published_as_the_library_is(folder):
    ours, core = project(folder), project(ROOT)
    for key in ("classifiers", "requires-python", "authors"):
        assert ours[key] == core[key]
    assert ours["license"] == core["license"].split(" AND ")[0] == "Apache-2.0"
    assert (folder / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert any(ours["name"] in extra for extra in core["optional-dependencies"].values())


@each_distribution
def test_a_wheel_has_each_file_of_its_package_and_no_other(built, folder):
    inside = {path for path in built[folder].files if not path.startswith(built[folder].info)}
    assert inside == {path for path in tracked(folder) if path.startswith(package(folder) + "/")}
    assert f"{package(folder)}/py.typed" in inside


@each_distribution
def test_a_source_distribution_has_each_file_of_its_folder(built, folder):
    with tarfile.open(built[folder].sdist) as archive:
        inside = {path.partition("/")[2] for path in archive.getnames()}
    assert tracked(folder) - inside == set()


@each_distribution
def test_the_licences_are_in_the_wheel(built, folder):
    metadata = built[folder].metadata
    assert metadata["License-Expression"] == project(folder)["license"]
    files = metadata.get_all("License-File")
    assert "LICENSE" in files
    for path in files:
        assert built[folder].files[f"{built[folder].info}licenses/{path}"] == (folder / path).read_bytes()


def test_what_others_wrote_is_there_with_its_licence(built):
    """A ``vendor.json`` lists the files of its folder that come from others."""
    expression = project(ROOT)["license"].split(" AND ")
    for path in (path for path in tracked(ROOT) if path.endswith("/vendor.json")):
        for vendored in json.loads((ROOT / path).read_text(encoding="utf-8")).values():
            assert vendored["license"] in expression
            assert f"licenses/{vendored['package']}.txt" in built[ROOT].metadata.get_all("License-File")


@each_distribution
def test_the_metadata_of_a_wheel(built, folder):
    metadata = built[folder].metadata
    assert metadata["Name"] == project(folder)["name"]
    assert metadata["Version"] == str(VERSION)
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert {"Repository", "Documentation", "Changelog", "Issues"} == {
        url.partition(",")[0] for url in metadata.get_all("Project-URL")
    }


@each_distribution
def test_each_link_of_a_description_works_outside_of_the_repository(built, folder):
    """Links into the repository lead to the version that is described, and to a file that is there."""
    description = built[folder].metadata.get_payload()
    links = re.findall(r'(?:\]\(|(?:src|srcset|href)=")([^)"]+)', re.sub(r"(?ms)^```.*?^```$", "", description))
    assert [link for link in links if not re.match(r"https://|#", link)] == []
    repository = project(ROOT)["urls"]["Repository"]
    ours = [link.removeprefix(repository) for link in links if link.startswith(repository)]
    for link in ours:
        kind, tag, path = re.fullmatch(r"/(blob|raw)/([^/]+)/([^#]+)(?:#.*)?", link).groups()
        assert tag == f"v{VERSION}"
        assert (ROOT / path).is_file()
        assert (kind == "raw") == (Path(path).suffix in {".png", ".svg", ".jpg", ".gif"})
    assert folder != ROOT or len(ours) > 10


@each_integration
def test_a_wheel_from_the_source_distribution_is_the_same(built, folder, tmp_path):
    """The source distribution of an integration lacks the file that has the version."""
    with tarfile.open(built[folder].sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    again = Built(source, tmp_path / "dist")
    assert again.files == built[folder].files


@each_integration
def test_an_integration_requires_the_library_of_its_version(folder):
    (core,) = (needed for needed in map(Requirement, project(folder)["dependencies"]) if needed.name == "smart-rag")
    major, minor = VERSION.release[:2]
    assert {(part.operator, part.version) for part in core.specifier} == {
        (">=", str(VERSION)),
        ("<", f"{major}.{minor + 1}"),
    }
    assert VERSION in core.specifier


def test_the_address_of_the_repository_is_the_same_everywhere():
    repository = project(ROOT)["urls"]["Repository"]
    for folder in FOLDERS:
        assert all(url.startswith(repository) for url in project(folder)["urls"].values())
    hook = PYPROJECTS[ROOT]["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    assert all(f"{repository}/" in rule["replacement"] for rule in hook["substitutions"])


def test_llamahub_lists_the_classes_of_the_integration():
    hub = PYPROJECTS[INTEGRATIONS[1]]["tool"]["llamahub"]
    module = importlib.import_module(hub["import_path"])
    components = {name for name in module.__all__ if hasattr(getattr(module, name), "class_name")}
    assert set(hub["class_authors"]) == components
    assert len(components) == 4


def test_the_citation_is_that_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == str(VERSION)
    assert citation["license"] == "Apache-2.0"
    assert citation["repository-code"] == project(ROOT)["urls"]["Repository"]
    assert ("date-released" in citation) == (not VERSION.is_prerelease)


def test_the_changelog_has_this_version():
    newest = re.search(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)[1]
    assert newest == "Unreleased" if VERSION.is_devrelease else newest.startswith(f"{VERSION} - 20")


def test_each_extra_that_the_pages_and_messages_name_exists():
    named = set()
    for path in tracked(ROOT):
        if path.endswith((".md", ".py", ".ipynb", ".toml")) and not path.startswith("tests/"):
            for extras in re.findall(r"smart-rag\[([a-z0-9,-]+)\]", (ROOT / path).read_text(encoding="utf-8")):
                named.update(extras.split(","))
    assert {"demo", "vision", "langchain"} <= named <= set(project(ROOT)["optional-dependencies"])


def test_the_container_is_built_from_the_wheels_and_is_not_root():
    lines = (ROOT / "tools" / "Containerfile").read_text(encoding="utf-8").splitlines()
    (install,) = (line for line in lines if "pip install" in line)
    extras = re.search(r"whl\)\[([a-z,-]+)\]", install)[1].split(",")
    assert {"serve", "mcp"} <= set(extras) <= set(project(ROOT)["optional-dependencies"])
    (user,) = (line.split()[1] for line in lines if line.startswith("USER "))
    assert user != "root"
    (command,) = (json.loads(line.removeprefix("CMD ")) for line in lines if line.startswith("CMD "))
    known = {option for one in typer.main.get_command(app).commands["serve"].params for option in one.opts}
    assert {part for part in command if part.startswith("--")} <= known
    assert lines[0].startswith("# ")
    assert not [line for line in lines if "TOKEN=" in line]
