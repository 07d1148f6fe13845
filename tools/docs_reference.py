"""Pages of the API reference, from the docstrings of public names. Griffe reads the code and does not run it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import griffe

_SECTIONS = {"parameters": "Arguments", "attributes": "Attributes", "raises": "Raises", "returns": "Returns"}
_DUNDERS = ("__call__", "__getitem__", "__iter__", "__len__")


@cache
def _loaded(folder: Path) -> griffe.ModulesCollection:
    """Return the packages of the repository in ``folder``, read once."""
    loader = griffe.GriffeLoader(
        search_paths=[folder, *(folder / "integrations").iterdir()],
        docstring_parser="google",
        docstring_options={"warnings": False},  # several arguments may share a line
        allow_inspection=False,
    )
    for package in ("smart_rag", "llama_index_smart_rag", "langchain_smart_rag"):
        loader.load(package)
    loader.resolve_aliases(implicit=True, external=False)
    return loader.modules_collection


def reference_page(package: str, folder: Path) -> str:
    """Return the page of ``package`` in the repository ``folder``: each name in its ``__all__``, with its members."""
    module = _loaded(folder)[package]
    lines = [f"# {package}", "", *_text(module), ""]
    for name in sorted(map(str, module.exports or ())):
        if not name.startswith("_"):
            found = module.members[name]
            lines += _entry(found.final_target if found.is_alias else found, name, 2)
    page = "\n".join(lines) + "\n"
    anchors = set(re.findall(r"\{ #([\w.]+) \}", page))
    # A name of this page is a link.
    return re.sub(r"(?<![`\[])`([\w.]+)`(?!`)", lambda name: _linked(name[1], anchors), page)


def _linked(name: str, anchors: set[str]) -> str:
    """Return ``name`` as code, and as a link if it is a heading of the page."""
    anchor = next((anchor for anchor in (name, f"errors.{name}") if anchor in anchors), None)
    return f"[`{name}`](#{anchor})" if anchor else f"`{name}`"


def _entry(target: Any, name: str, level: int) -> Iterator[str]:
    """Yield the lines of a name: heading, signature, docstring, and public members."""
    yield f"{'#' * level} {name.rpartition('.')[2]} {{ #{name} }}"
    yield ""
    made_otherwise = target.docstring and "To get one, use" in target.docstring.value
    if (target.is_function or target.is_class) and not made_otherwise:
        constructor = target.members.get("__init__") if target.is_class else target
        if target.is_class and constructor is None and "dataclass" in str(target.decorators):
            signature = f"{name}({', '.join(_field(member) for member in _fields(target))})"
        else:
            signature = f"{name}({_parameters(constructor)})"
            if target.is_function and target.returns is not None:
                signature += f" -> {target.returns}"
        yield from ("```python", _wrapped(signature), "```", "")
    elif target.is_attribute and target.value is not None and len(str(target.value)) < 80:
        yield from ("```python", f"{name} = {target.value}", "```", "")
    yield from _text(target)
    if target.is_class or (target.is_module and level == 2):
        for member_name, member in target.members.items():
            hidden = member_name.startswith("_") and member_name not in _DUNDERS
            if not hidden and not member.is_alias and member.docstring:  # an alias is an import
                yield from _entry(member, f"{name}.{member_name}", level + 1)


def _fields(target: Any) -> list[Any]:
    return [m for n, m in target.members.items() if m.is_attribute and m.annotation and not n.startswith("_")]


def _field(member: Any) -> str:
    value = "" if member.value is None else f" = {member.value}"
    return f"{member.name}: {member.annotation}{value if 'field(' not in value else ' = ...'}"


def _parameters(function: Any) -> str:
    """Return the parameters as in the code, without ``self`` and ``cls``."""
    if function is None or not function.is_function:
        return ""
    text = str(function.signature())
    inner = text[text.index("(") + 1 : text.rindex(")")] if "(" in text else ""
    inner = re.sub(r"(?<== )_?[A-Z][A-Z_]+\b", lambda name: _constant(function, name[0]), inner)
    return re.sub(r"^(?:self|cls)(?:, )?", "", inner)


def _constant(function: Any, name: str) -> str:
    """Return the value of the constant ``name`` of the module of ``function``, or the name if it is not simple."""
    found: Any = function.module.members.get(name)
    value = str(found.final_target.value if found is not None and found.is_alias else getattr(found, "value", name))
    return value if len(value) < 30 else name


def _wrapped(signature: str) -> str:
    """Return a signature with a line for each parameter if it is too long for one."""
    if len(signature) < 100:
        return signature
    opened = signature.index("(")
    depth, parts, last = 0, [], opened + 1
    end = len(signature)
    for i in range(opened, len(signature)):
        depth += (signature[i] in "([{") - (signature[i] in ")]}")
        if depth == 0:
            end = i
            break
        if depth == 1 and signature[i] == ",":
            parts.append(signature[last:i].strip())
            last = i + 1
    parts.append(signature[last:end].strip())
    return signature[: opened + 1] + "\n" + "".join(f"    {part},\n" for part in parts if part) + signature[end:]


def _text(target: Any) -> Iterator[str]:
    """Yield the docstring as Markdown."""
    if not target.docstring:
        return
    for section in target.docstring.parsed:
        kind = section.kind.value
        if kind == "text":
            yield _markdown(section.value)
        elif kind == "examples":
            for part, text in section.value:
                yield f"```python\n{text}\n```" if part.value == "examples" else _markdown(text)
        elif kind in _SECTIONS:
            yield f"**{_SECTIONS[kind]}**\n"
            for item in section.value:
                label = getattr(item, "name", "") or str(item.annotation or "")
                yield f"- `{label}`: {_markdown(item.description)}"
        elif kind == "admonition":
            yield f"**{section.title}** {_markdown(section.value.description)}"
        yield ""


def _markdown(text: str) -> str:
    """Return reStructuredText of a docstring as Markdown: ``code``, and doctests between fences."""
    lines, fenced = [], False
    for line in text.splitlines():
        if line.lstrip().startswith(">>>") and not fenced:
            lines.append("```python")
            fenced = True
        elif fenced and not line.strip():
            lines.append("```")
            fenced = False
        lines.append(re.sub(r" +# doctest: .*", "", line) if fenced else _prose(line))
    return "\n".join([*lines, "```"] if fenced else lines)


def _prose(line: str) -> str:
    """Return a line of words with single backticks, and with ``<`` outside of them as text."""
    parts = line.replace("``", "`").split("`")
    return "`".join(part if i % 2 else part.replace("<", "&lt;") for i, part in enumerate(parts))
