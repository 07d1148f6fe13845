"""The Python snippets of a page of Markdown, as one module that a type checker can read."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
# What a page says in words only: the first line of its module.
_CHAT_MODEL = (
    "from typing import cast; from langchain_core.language_models import BaseChatModel; llm = cast(BaseChatModel, ...)"
)
_LLAMA = (
    "from typing import cast; from llama_index.core import Document, StorageContext; "
    "from llama_index.core.llms import LLM; llm = cast(LLM, ...); documents = cast(list[Document], ...); "
    "storage_context = cast(StorageContext, ...)"
)
_INDEX = (
    "from typing import cast; from llama_index.core import VectorStoreIndex; "
    "vector_index = cast(VectorStoreIndex, ...); model = 'minilm'"
)
_PREAMBLES = {
    "docs_migration": _INDEX,
    "integrations_langchain_readme": _CHAT_MODEL,
    "integrations_llama_index_readme": _LLAMA,
}
_SNIPPET = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_RUN = re.compile(
    r"(<!-- not run: [^>]+ -->\n)?^```python\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?", re.DOTALL | re.MULTILINE
)
# A comment at the end of a line says what the line prints, or what its expression is.
_PRINTED = re.compile(r"^( *)print\((.+)\) +# (.+)$", re.MULTILINE)
_VALUE = re.compile(r"^( *)((?:index|copy|rerank)\b.*?) +# ('.*'|\d+)$", re.MULTILINE)


def pages():
    """The pages that have Python snippets."""
    found = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "integrations").glob("*/README.md")]
    return sorted(page for page in found if _SNIPPET.search(page.read_text(encoding="utf-8")))


def name_of(page):
    """The name of the module of ``page``."""
    return re.sub(r"\W", "_", str(page.relative_to(ROOT).with_suffix(""))).lower()


def module_of(page):
    """The snippets of ``page`` as one module. Each line has the number that it has on the page."""
    text = page.read_text(encoding="utf-8")
    lines = [""] * (text.count("\n") + 1)
    lines[0] = _PREAMBLES.get(name_of(page), "")
    for snippet in _SNIPPET.finditer(text):
        start = text.count("\n", 0, snippet.start(1))
        code = snippet[1].splitlines()
        lines[start : start + len(code)] = code
    return "\n".join(lines) + "\n"


def runnable(page):
    """Return the snippets of ``page`` that a test can run, each with its output, or None.

    Each comment that says a value is an assertion in them, which calls ``shows``.
    """
    found = []
    for skipped, code, output in _RUN.findall(page.read_text(encoding="utf-8")):
        if not skipped:
            code = _PRINTED.sub(lambda line: f"{line[1]}shows({line[3]!r}, {line[2]})", code)
            found.append((_VALUE.sub(r"\1assert \2 == \3, \2", code), output or None))
    return found


def shows(expected, *values):
    """Raise `AssertionError` unless ``values`` are printed as ``expected``. Three dots stand for anything.

    Words after a colon explain the value.
    """
    pattern = ".*".join(map(re.escape, expected.partition(": ")[0].split("...")))
    printed = " ".join(map(str, values))
    assert re.fullmatch(pattern, printed), f"printed {printed!r}; the page says {expected!r}"


def write(folder):
    """Write a module for each page into ``folder``, and return their files."""
    files = [folder / f"{name_of(page)}.py" for page in pages()]
    for file, page in zip(files, pages(), strict=True):
        file.write_text(module_of(page), encoding="utf-8")
    return files
