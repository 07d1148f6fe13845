"""Styles of an SVG: the values that its attributes and its style sheets give to an element."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from smart_rag.files.formats.office.archive import inner, local

if TYPE_CHECKING:
    from lxml.etree import _Element

_COMMENT = re.compile(r"/\*.*?(?:\*/|\Z)", re.DOTALL)
# Rules for print, for dark screens and so on.
_CONDITIONAL = re.compile(r"@[^{;@]*\{(?:[^{}]*\{[^{}]*\})*+[^{}]*\}")
_SELECTOR = re.compile(r"(?:[\w-]+|\*)?(?:[.#][\w-]+)*")
_PART = re.compile(r"[.#]?[\w-]+")
# What is asked of a style.
_KNOWN = ("display", "visibility", "font-size")
# A hostile file could have so many rules and elements that to compare each with each takes for ever.
_MOST_RULES = 2_000


@dataclass(frozen=True, slots=True)
class _Rule:
    parts: frozenset[str]  # of the selector: "rect", ".name", "#id"
    values: dict[str, str]


class Styles:
    """The style sheets of an SVG. Selectors of more than one element, such as ``g > .label``, are not known."""

    def __init__(self, root: _Element) -> None:
        self._rules: list[_Rule] = []
        for sheet in root.iter("{*}style"):
            css = _CONDITIONAL.sub("", without_comments(inner(sheet)))
            for rule in css.split("}"):
                selectors, _, body = rule.partition("{")
                values = _values(body)
                for selector in selectors.split(",") if values else ():
                    if _SELECTOR.fullmatch(selector.strip()) and selector.strip():
                        self._rules.append(_Rule(frozenset(_PART.findall(selector)), values))
        del self._rules[_MOST_RULES:]

    def of(self, element: _Element) -> dict[str, str]:
        """Return the known values of an element: those of its attributes, of the style sheets, of its style."""
        found = {key: value for key in _KNOWN if (value := element.get(key))}
        if self._rules:
            marks = {
                local(element),
                f"#{element.get('id')}",
                *(f".{name}" for name in element.get("class", "").split()),
            }
            for rule in self._rules:
                if rule.parts <= marks:
                    found |= rule.values
        return found | _values(element.get("style", ""))


def without_comments(css: str) -> str:
    """Return a style sheet with its comments replaced by spaces."""
    return _COMMENT.sub(" ", css)


def _values(body: str) -> dict[str, str]:
    found = {}
    for declaration in without_comments(body).split(";"):
        key, _, value = declaration.partition(":")
        if (key := key.strip().lower()) in _KNOWN:
            found[key] = value.lower().replace("!important", "").strip()
    return found
