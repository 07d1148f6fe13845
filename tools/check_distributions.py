"""Install each wheel, and the library with each of its extras, alone in an empty environment, and try it.

    make dist-check
    python tools/check_distributions.py dist [--only core --only pdf ...] [--python 3.13]

Needs uv and the package index. Each environment has the versions of `constraints.txt`, and is removed afterwards.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]

# What an extra is there for, where more than its packages can be tried without a model.
COMMANDS = {
    "core": "smart-rag --help",
    "demo": "smart-rag demo",
    "serve": "smart-rag serve --help",
    "eval": 'python -c "from smart_rag.evaluation import *"',
    "train": "smart-rag train --help",
    "langchain": 'python -c "from langchain_smart_rag import *"',
    "langchain_smart_rag": 'python -c "from langchain_smart_rag import *"',
    "llama-index": 'python -c "from llama_index_smart_rag import *"',
    "llama_index_smart_rag": 'python -c "from llama_index_smart_rag import *"',
}


def trials(dist: Path) -> dict[str, str]:
    """Return what to install for each name: the library, with each extra, and the integrations."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    (core,) = dist.glob("smart_rag-*.whl")
    found = {"core": str(core)}
    found |= {extra: f"smart-rag[{extra}] @ {core.as_uri()}" for extra in extras}
    return found | {path.name.split("-")[0]: str(path) for path in sorted(dist.glob("l*_smart_rag-*.whl"))}


def check(name: str, requirement: str, dist: Path, python: str) -> None:
    """Install ``requirement`` in an empty environment and try it. Raises `CalledProcessError` if that fails."""
    with tempfile.TemporaryDirectory() as folder:
        uv = [Path(sys.executable).with_name("uv")]
        subprocess.run([*uv, "venv", "--quiet", "--python", python, f"{folder}/env"], check=True)
        binaries = Path(folder, "env", "Scripts" if os.name == "nt" else "bin")
        links = [dist, *os.environ.get("PIP_FIND_LINKS", "").split()]
        install = [*uv, "pip", "install", "--quiet", "--python", binaries / "python", requirement]
        install += ["--constraint", ROOT / "constraints.txt", *(f"--find-links={link}" for link in links)]
        subprocess.run(install, check=True)
        environment = os.environ | {
            "HF_HUB_OFFLINE": "1",
            "SMART_RAG_HOME": f"{folder}/home",
            "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        }
        extra = name if requirement.startswith("smart-rag[") else ""
        run = {"cwd": folder, "env": environment, "check": True, "stdout": subprocess.DEVNULL}
        subprocess.run([binaries / "python", ROOT / "tools/try_installed.py", extra], **run)
        subprocess.run(["smart-rag", "--version"], **run)
        if name in COMMANDS:
            subprocess.run(COMMANDS[name], shell=True, **run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dist", type=Path)
    parser.add_argument("--only", action="append", help="the name of an extra, core, or the name of an integration")
    parser.add_argument("--python", default=sys.executable)
    arguments = parser.parse_args()
    dist = arguments.dist.resolve()
    failed = []
    for name, requirement in trials(dist).items():
        if arguments.only and name not in arguments.only:
            continue
        start = time.monotonic()
        try:
            check(name, requirement, dist, arguments.python)
        except subprocess.CalledProcessError as error:
            failed.append(name)
            print(f"{name}: FAILED: {error}", flush=True)
        else:
            print(f"{name}: works ({time.monotonic() - start:.0f} s)", flush=True)
    if failed:
        sys.exit(f"{len(failed)} failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
