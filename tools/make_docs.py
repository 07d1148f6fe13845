"""Build the documentation site in build/site: `make docs`, or `python tools/make_docs.py`.

It needs Zensical and Griffe (the dependency group `docs`), and no network. The pages come from docs/, from the READMEs of
the integrations, from the docstrings of the public names, and from the results in benchmarks/results/. Zensical stops at
a link or an anchor that does not exist.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from docs_figures import figures_page
from docs_navigation import CONFIG, COPIED, ROOT, llms
from docs_reference import reference_page

SOURCES, SITE = ROOT / "build/docs", ROOT / "build/site"
REFERENCE = {
    "smart_rag": "smart_rag",
    "evaluation": "smart_rag.evaluation",
    "training": "smart_rag.training",
    "files": "smart_rag.files",
    "serving": "smart_rag.serving",
    "llama_index": "llama_index_smart_rag",
    "langchain": "langchain_smart_rag",
}
_LINK = re.compile(r"\]\(([^)\s#]+)(#[^)\s]*)?\)")
_MENTION = re.compile(r"`docs/(\w+\.md)`")


def collect() -> None:
    """Write all pages to build/docs."""
    shutil.rmtree(SOURCES, ignore_errors=True)
    shutil.copytree(ROOT / "docs", SOURCES)
    for source, name in COPIED.items():
        (SOURCES / name).write_text(_placed((ROOT / source).read_text(encoding="utf-8"), source), encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        text = _placed(page.read_text(encoding="utf-8"), f"docs/{page.name}")
        (SOURCES / page.name).write_text(text, encoding="utf-8")
    (SOURCES / "figures.md").write_text(figures_page(ROOT / "benchmarks/results"), encoding="utf-8")
    (SOURCES / "reference").mkdir()
    for name, package in REFERENCE.items():
        (SOURCES / f"reference/{name}.md").write_text(reference_page(package, ROOT), encoding="utf-8")


def _placed(text: str, source: str) -> str:
    """Return the text of ``source`` with links that hold in the site. A file that is no page becomes its bare name."""
    folder = (ROOT / source).parent

    def link(match: re.Match[str]) -> str:
        target, anchor = match[1], match[2] or ""
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        path = (folder / target).resolve().relative_to(ROOT).as_posix()
        if path in COPIED:
            return f"]({COPIED[path]}{anchor})"
        if path.startswith("docs/"):
            return f"]({path.removeprefix('docs/')}{anchor})"
        return f"](#{_OUTSIDE}{path})"

    placed = _LINK.sub(link, text)
    placed = re.sub(rf"\[([^]]+)\]\(#{_OUTSIDE}([^)]+)\)", r"\1 (`\2`)", placed)
    if source.startswith("docs/"):
        return placed
    return _MENTION.sub(r"[\1](\1)", placed)


_OUTSIDE = "outside-of-the-site:"


def configured() -> Path:
    """Write the configuration with paths from the folder of the built site, and return its path."""
    path = ROOT / "build/zensical.toml"
    text = CONFIG.read_text(encoding="utf-8")
    path.write_text(text.replace('"build/docs"', '"docs"').replace('"build/site"', '"site"'), encoding="utf-8")
    return path


def check_hosts() -> None:
    """Raise `SystemExit` if a page of the site loads anything from another host."""
    loads = re.compile(r"<(?:script|img|iframe)[^>]+src=\"(https?://[^\"]+)|<link[^>]+href=\"(https?://[^\"]+)")
    for page in sorted(SITE.rglob("*.html")):
        for match in loads.finditer(page.read_text(encoding="utf-8")):
            if "canonical" not in match[0]:
                raise SystemExit(f"{page} loads from another host: {match[0]}")


def main() -> None:
    collect()
    config = configured()
    shutil.rmtree(SITE, ignore_errors=True)
    zensical = Path(sys.executable).with_name("zensical")
    built = subprocess.run([zensical, "build", "--clean", "--strict", "--config-file", config], check=False)
    if built.returncode:
        raise SystemExit(f"the site was not built; its pages are in {SOURCES}")
    check_hosts()
    base = tomllib.loads(CONFIG.read_text(encoding="utf-8"))["project"].get("site_url", "")
    (SITE / "llms.txt").write_text(llms(SOURCES, base), encoding="utf-8")
    for page in SOURCES.rglob("*.md"):  # what llms.txt names
        shutil.copy(page, SITE / page.relative_to(SOURCES))
    print(f"built {SITE}: {len(list(SITE.rglob('*.html')))} pages")


if __name__ == "__main__":
    main()
