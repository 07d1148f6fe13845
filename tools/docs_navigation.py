"""The navigation of the documentation site, and llms.txt, which is made from it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from urllib.parse import urljoin

ROOT = Path(__file__).parent.parent
CONFIG = ROOT / "zensical.toml"
# Files outside of docs/ that are pages of the site.
COPIED = {
    "integrations/llama_index/README.md": "llama_index.md",
    "integrations/langchain/README.md": "langchain.md",
    "CHANGELOG.md": "changelog.md",
}
# Pages that are made when the site is built.
GENERATED = ("figures.md", "reference/")


def navigation(config: Path = CONFIG) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the sections of the navigation, each with the titles and files of its pages. The first has no name."""
    first: list[tuple[str, str]] = []
    sections = [("", first)]
    for entry in tomllib.loads(config.read_text(encoding="utf-8"))["project"]["nav"]:
        for title, target in entry.items():
            if isinstance(target, str):
                first.append((title, target))
            else:
                sections.append((title, [pair for page in target for pair in page.items()]))
    return sections


def summary(page: str) -> str:
    """Return the first sentence of a page, as plain text.

    >>> summary("# Filters\\n\\n`where` filters by [metadata](x.md). More.")
    'where filters by metadata.'
    """
    paragraphs = [
        part
        for part in re.split(r"\n\s*\n", page)
        if (part.strip() and part.strip()[0].isalnum()) or part.startswith(("`", "**"))
    ]
    text = re.sub(r"\[([^]]+)\]\([^)]*\)", r"\1", " ".join(paragraphs[0].split())) if paragraphs else ""
    return re.split(r"(?<=[.:])\s", re.sub(r"[`*]", "", text))[0]


def llms(folder: Path, base: str = "") -> str:
    """Return llms.txt (https://llmstxt.org): the pages in ``folder``, in the order of the navigation."""
    project = tomllib.loads(CONFIG.read_text(encoding="utf-8"))["project"]
    lines = [f"# {project['site_name']}", "", f"> {project['site_description']}", ""]
    for section, pages in navigation():
        lines += [f"## {section}", ""] if section else []
        for title, name in pages:
            if (folder / name).is_file():
                text = summary((folder / name).read_text(encoding="utf-8"))
                lines.append(f"- [{title}]({urljoin(base, name)}): {text}")
        lines.append("")
    return "\n".join(lines)
