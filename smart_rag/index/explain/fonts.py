"""Fonts of this machine: `fonts_of` finds those that have the letters of a word.

Pillow's own font has no umlaut and no section sign. No font has all letters. So the letters of a text may need several
fonts.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import unicodedata
from functools import cache
from itertools import islice
from pathlib import Path

from PIL import ImageFont

Font = ImageFont.FreeTypeFont

_SUFFIXES = (".ttf", ".otf", ".ttc")
_MOST_FILES = 10_000
# The beginnings of names of fonts that have many letters and are easy to read, best first.
_PREFERRED = ("dejavusans", "notosans-regular", "segoeui", "arial", "helvetica", "liberationsans-regular", "notosans")
_UNUSUAL = re.compile(
    r"bold|italic|oblique|light|thin|black|heavy|medium|condensed|cond|narrow|mono|serif|display|icon|symbol"
)
# Fonts that have every letter, but only boxes for them.
_OF_BOXES = ("lastresort", "adobeblank")
_USUAL_LETTERS = "aÄé§ŁΩЖ"
# After so many letters of a block that no font has, the others of the block are not looked for.
_MOST_MISSES = 4
_BLOCK_BITS = 7
_CHECKED = 32  # pixels
# No font has the last code point, so its picture is that of a missing letter.
_NO_LETTER = "\U0010ffff"
_misses: dict[int, int] = {}


def fonts_of(word: str, size: int) -> list[Font]:
    """Return the font of each letter of ``word``, in this ``size`` in pixels. If one font has all, it is used for all.

    A letter that no font has gets the usual font, which draws a box.
    """
    numbers = list(map(_number_of, word))
    rare = {number for number in numbers if number is not None and number != _usual()}
    if len(rare) == 1:
        (other,) = rare
        if all(_is_unseen(letter) or _has(other, letter) for letter in word):
            return [_loaded(other, size)] * len(word)
    return [_loaded(_usual() if number is None else number, size) for number in numbers]


def is_missing(letter: str) -> bool:
    """Return whether no font here has ``letter``."""
    return _number_of(letter) is None


def usual_font(size: int) -> Font:
    """Return the font for letters that most fonts have."""
    return _loaded(_usual(), size)


@cache
def _loaded(number: int, size: int, layout: ImageFont.Layout | None = None) -> Font:
    """Return the font with this number in the order in which fonts are tried, in this ``size``."""
    path = _files()[number]
    if path is not None:
        return ImageFont.truetype(path, size, layout_engine=layout)
    own = ImageFont.load_default(size)
    assert isinstance(own, Font), "Pillow was built without FreeType, which its wheels have"
    return own


@cache
def _number_of(letter: str) -> int | None:
    if _is_unseen(letter) or _has(_usual(), letter):
        return _usual()
    block = ord(letter) >> _BLOCK_BITS
    if _misses.get(block, 0) >= _MOST_MISSES:
        return None
    found = next((number for number in range(len(_files())) if _has(number, letter)), None)
    if found is None:
        _misses[block] = _misses.get(block, 0) + 1
    return found


def _is_unseen(letter: str) -> bool:
    """Return whether nothing is drawn for ``letter``: a space, or a character that changes how others are drawn."""
    return unicodedata.category(letter) in ("Cc", "Cf", "Zs", "Zl", "Zp") or "\ufe00" <= letter <= "\ufe0f"


@cache
def _usual() -> int:
    counts = [
        sum(_has(number, letter) for letter in _USUAL_LETTERS) for number in range(min(len(_files()), len(_PREFERRED)))
    ]
    return counts.index(max(counts)) if max(counts) == len(_USUAL_LETTERS) else _first_with_all(counts)


def _first_with_all(counts: list[int]) -> int:
    """Return the first font with all usual letters. If there is none, return the best of the first ones."""
    for number in range(len(counts), len(_files())):
        if all(_has(number, letter) for letter in _USUAL_LETTERS):
            return number
    return counts.index(max(counts))


@cache
def _has(number: int, letter: str) -> bool:
    """Return whether a font has a picture of ``letter`` of its own."""
    none = _picture(number, _NO_LETTER)
    found = _picture(number, letter)
    return found is not None and found != none


@cache
def _picture(number: int, letter: str) -> bytes | None:
    """Return what a font draws for ``letter``. Return None if the font cannot be used."""
    try:
        mask = _loaded(number, _CHECKED, ImageFont.Layout.BASIC).getmask(letter)
    except (OSError, ValueError):  # a damaged file, or one that has only pictures of another size
        return None
    return bytes(mask) + repr(mask.size).encode()


@cache
def _files() -> tuple[str | None, ...]:
    """Return the files of fonts, in the order in which they are tried. None stands for Pillow's own font."""
    paths = (path for folder in _folders() for path in islice(sorted(folder.rglob("*")), _MOST_FILES))
    fonts = (path for path in paths if path.suffix.lower() in _SUFFIXES)
    found = sorted((path for path in fonts if not path.name.lower().startswith(_OF_BOXES)), key=_order)
    return (*map(str, found), None)


def _order(path: Path) -> tuple[bool, int, int, str]:
    name = path.stem.lower()
    rank = next((i for i, start in enumerate(_PREFERRED) if name.startswith(start)), len(_PREFERRED))
    return bool(_UNUSUAL.search(name)), rank, len(name), name


def _folders() -> list[Path]:
    """Return the folders in which this system keeps fonts, and that of matplotlib's fonts, if it is installed."""
    home = Path.home()
    if sys.platform == "win32":
        system = Path(os.environ.get("WINDIR", r"C:\Windows")) / "Fonts"
        own = Path(os.environ.get("LOCALAPPDATA", home)) / "Microsoft" / "Windows" / "Fonts"
        folders = [system, own]
    elif sys.platform == "darwin":
        folders = [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library" / "Fonts"]
    else:
        shared = [Path("/usr/share/fonts"), Path("/usr/local/share/fonts")]
        folders = [*shared, home / ".local" / "share" / "fonts", home / ".fonts"]
    plots = importlib.util.find_spec("matplotlib")
    if plots is not None and plots.origin is not None:
        folders.append(Path(plots.origin).parent / "mpl-data" / "fonts" / "ttf")
    return [folder for folder in folders if folder.is_dir()]
