"""The words that a viewer shows of an SVG. Elements may be nested to any depth, so nothing here is recursive."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from smart_rag.files.formats.office.archive import local, value
from smart_rag.files.formats.pictures.svg_style import Styles

if TYPE_CHECKING:
    from lxml.etree import _Element

_WORD = re.compile(r"\w+")
_SPACE = re.compile(r"\s+")
_NUMBER = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(em|%|[a-z]*)")

# What holds no words of the picture.
_UNSEEN = frozenset(("script", "style", "metadata"))
# What is drawn only where an element <use> names it.
_DEFINITIONS = frozenset(("defs", "symbol"))
# What shapes other elements, and is not drawn itself.
_SHAPES = frozenset(("clipPath", "mask", "filter", "linearGradient", "radialGradient", "marker", "pattern"))
_TEXTS = frozenset(("text", "title", "desc", "foreignObject"))
_BLOCKS = """
    address article body dd div dl dt figcaption footer form h1 h2 h3 h4 h5 h6 header hr html li ol p pre section table
    tr ul
"""
# Elements of HTML that begin and end lines.
_LINES = frozenset(_BLOCKS.split())
_CELLS = frozenset(("td", "th"))
# The extensions of SVG that viewers have: HTML in the picture.
_EXTENSIONS = ("", "http://www.w3.org/1999/xhtml")
# If a letter is so much further right than the widest letters before it could reach, something else begins there.
_WIDEST_LETTER = 0.9


@dataclass(frozen=True, slots=True)
class _State:
    """What the elements around a text say of it.

    Attributes:
        drawn: whether it is in the picture, and not only in a definition that nothing uses.
        visible: whether it is visible.
        in_text: whether it is within an element that shows text.
        font_size: in units of the picture.
    """

    drawn: bool = True
    visible: bool = True
    in_text: bool = False
    font_size: float = 16.0


class Visible:
    """The words of an SVG, or of a part of it.

    Attributes:
        text: the words that a viewer shows, with titles and descriptions, in the order of the file. Each text is a
            line.
        hidden: the number of words that no viewer shows.
    """

    def __init__(self, root: _Element) -> None:
        self.hidden = 0
        self._styles = Styles(root)
        self._used = {value(element, "href") for element in root.iter("{*}use")}
        self._lines: list[str] = []
        self._line: list[str] = []
        self._x: float | None = None
        self._y: float | None = None
        self._walk(root)
        self._end_line()
        self.text = "\n".join(self._lines)

    def _walk(self, root: _Element) -> None:
        import lxml.etree

        states = [_State()]
        skipped: _Element | None = None
        walk = lxml.etree.iterwalk(root, events=("start", "end"), tag="{*}*")
        for event, element in walk:
            if event == "start":
                if self._skips(element, states[-1].in_text):
                    walk.skip_subtree()
                    skipped = element
                    continue
                states.append(self._inside(element, states[-1]))
                self._open(element, states[-1])
                self._add(element.text, states[-1])
            else:
                if element is not skipped:
                    self._close(element)
                    states.pop()
                skipped = None
                if element is not root:
                    self._add(element.tail, states[-1])

    def _skips(self, element: _Element, in_text: bool) -> bool:
        """Return whether no part of an element is shown. Count its words, unless others stand in for them."""
        name = local(element)
        if name in _UNSEEN:
            return True
        parent = element.getparent()
        if parent is not None and local(parent) == "switch" and not is_chosen(element):
            return True
        if self._styles.of(element).get("display") != "none":
            return False
        texts = [element] if in_text else [part for part in element.iter("{*}*") if local(part) in _TEXTS]
        self.hidden += sum(len(_WORD.findall(" ".join(text.itertext("{*}*")))) for text in texts)
        return True

    def _inside(self, element: _Element, state: _State) -> _State:
        """Return the state inside of an element."""
        name, styles = local(element), self._styles.of(element)
        drawn = state.drawn and name not in _SHAPES and name not in _DEFINITIONS
        if f"#{element.get('id')}" in self._used:
            drawn = True
        return _State(
            drawn,
            styles.get("visibility", "visible" if state.visible else "hidden") not in ("hidden", "collapse"),
            state.in_text or name in _TEXTS,
            _length(styles.get("font-size"), state.font_size) or state.font_size,
        )

    def _open(self, element: _Element, state: _State) -> None:
        name = local(element)
        if name in _TEXTS or name in _LINES or name == "br":
            self._end_line()
            self._x = self._y = None
        elif name in _CELLS and self._line:
            self._line.append(" ")
        if name in ("text", "tspan"):
            self._move(element, state.font_size)

    def _move(self, element: _Element, size: float) -> None:
        """Begin a new line or word if an element of text moves away from the text before it."""
        x, y, down = (_length(element.get(key), size) for key in ("x", "y", "dy"))
        lowered = abs(down or 0.0)
        if self._line:
            to_other_line = y is not None and self._y is not None and abs(y - self._y) > size / 2
            if to_other_line or lowered > (0.0 if x is not None else 0.9 * size):
                self._end_line()
            elif x is not None and self._x is not None and " " not in (element.get("x") or "").strip():
                reached = self._x + _WIDEST_LETTER * size * sum(map(len, self._line))
                if not self._x <= x <= reached:
                    self._line.append(" ")
        self._y = self._y if y is None else y
        if x is not None and not self._line:
            self._x = x

    def _close(self, element: _Element) -> None:
        name = local(element)
        if name in _TEXTS or name in _LINES:
            self._end_line()

    def _add(self, text: str | None, state: _State) -> None:
        if not text or not state.in_text:
            return
        if state.drawn and state.visible:
            self._line.append(text)
        else:
            self.hidden += len(_WORD.findall(text))

    def _end_line(self) -> None:
        line = _SPACE.sub(" ", "".join(self._line)).strip()
        self._lines += [line] * bool(line)
        self._line = []


def html_lines(element: _Element) -> list[str]:
    """Return the lines of the HTML in an element <foreignObject>."""
    return Visible(element).text.splitlines()


def is_chosen(element: _Element) -> bool:
    """Return whether a viewer shows a child of an element <switch>: the first that it can, for some language."""
    if not _is_shown_by_viewers(element):
        return False
    before = element.itersiblings("{*}*", preceding=True)
    return not any(_is_shown_by_viewers(other) and not other.get("systemLanguage") for other in before)


def _is_shown_by_viewers(element: _Element) -> bool:
    return element.get("requiredExtensions", "").strip() in _EXTENSIONS


def _length(text: str | None, font_size: float) -> float | None:
    """Return the first length in a text, in units of the picture."""
    found = _NUMBER.match(text or "")
    if not found:
        return None
    return float(found[1]) * {"em": font_size, "%": font_size / 100}.get(found[2], 1.0)
