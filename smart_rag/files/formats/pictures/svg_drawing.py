"""Draw SVG pictures, in the worker process (`smart_rag.files.worker`). The functions are those of `formats.pdf`."""

from __future__ import annotations

import io
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from smart_rag.errors import DocumentError, MissingExtra
from smart_rag.files.formats.images import A4_PIXELS, fit, on_white
from smart_rag.files.formats.page import is_visible
from smart_rag.files.formats.pictures.svg import parsed
from smart_rag.files.formats.pictures.svg_safe import SVG, Safe
from smart_rag.files.formats.pictures.svg_text import Visible
from smart_rag.files.formats.readable import check_readable
from smart_rag.wording import one_line

if TYPE_CHECKING:
    from lxml.etree import _Element

_DPI = 96  # of a pixel of CSS
_SCALE = 300 / _DPI  # as pages of a PDF
_UNITS = {"": 1.0, "px": 1.0, "pt": 4 / 3, "pc": 16.0, "mm": 96 / 25.4, "cm": 96 / 2.54, "in": 96.0, "q": 96 / 101.6}
_LENGTH = re.compile(r"\s*\+?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?\s*([a-z]*)\s*", re.IGNORECASE)
_SHORTEST, _LONGEST = 1e-6, 1e9
_PROBED = 1024  # pixels of a side, to find the size of a picture that does not state it
# Fonts of Windows and macOS, then of Linux. resvg draws no word if it does not know a font for it.
_FONTS = {
    "serif_family": ("Times New Roman", "Liberation Serif", "DejaVu Serif", "Noto Serif", "FreeSerif", "Georgia"),
    "sans_serif_family": ("Arial", "Helvetica", "Liberation Sans", "DejaVu Sans", "Noto Sans", "FreeSans", "Roboto"),
    "monospace_family": ("Courier New", "Liberation Mono", "DejaVu Sans Mono", "Noto Sans Mono", "FreeMono", "Menlo"),
}
_KINDS = ("font_family", "cursive_family", "fantasy_family", *_FONTS)
_PROBE = f'<svg xmlns="{SVG}" width="20" height="20"><text y="18" font-size="20" font-family="%s">H</text></svg>'


def losses(path: str) -> list[str]:
    """Return phrases of what is in an SVG and not in the picture that `render` draws.

    Raises:
        DocumentError: the file is no SVG, or cannot be drawn.
        MissingExtra: lxml or resvg-py is not installed.
    """
    _resvg(Path(path))
    safe, damage = _safe(Path(path))
    has_words = is_visible(Visible(safe.root).text) and next(safe.root.iter("{*}text"), None) is not None
    no_fonts = ["its words are not drawn, because this system has no usual font"] if has_words and not _fonts() else []
    return [*damage, *safe.left_out, *no_fonts]


def render(path: str, number: int, max_pixels: int) -> Image.Image:
    """Return an SVG as an image with at most ``max_pixels``, at 300 dpi at most. ``number`` is 1.

    Raises:
        DocumentError, MissingExtra: as `losses`.
    """
    safe, _ = _safe(Path(path), number)
    width, height = _size(safe, path)
    return _drawn(safe, path, fit(width, height, min(max_pixels, A4_PIXELS), _SCALE))


def dots(path: str, number: int) -> list[int]:
    """Return the width and the height of an SVG in pixels, at 300 dpi at most; see `render`."""
    width, height = _size(_safe(Path(path), number)[0], path)
    return list(fit(width, height, A4_PIXELS, _SCALE))


def render_as(path: str, number: int, size: tuple[int, int]) -> Image.Image:
    """Return an SVG as an image of this ``size``; see `render`."""
    return _drawn(_safe(Path(path), number)[0], path, size)


def _safe(path: Path, number: int = 1) -> tuple[Safe, tuple[str, ...]]:
    """Return an SVG that is safe to draw, and phrases of what could not be read of it."""
    check_readable(path)
    if number != 1:
        raise DocumentError(path, f"it has no page {number}; an SVG is one picture")
    found = parsed(path.read_bytes(), path)
    return Safe(found.root, path), found.left_out


def _drawn(safe: Safe, path: str, size: tuple[int, int]) -> Image.Image:
    """Return the picture with this ``size``. It keeps its aspect ratio, so resvg may make a side a little shorter."""
    found = _rendered(safe, path, size)
    return found if found.size == size else found.resize(size, Image.Resampling.BICUBIC)


def _rendered(safe: Safe, path: str, size: tuple[int, int]) -> Image.Image:
    """Return the picture in the largest size within ``size``."""
    _state_size(safe.root)
    try:
        data = _resvg(Path(path)).svg_to_bytes(
            svg_string=safe.xml(), width=size[0], height=size[1], dpi=_DPI, **_fonts()
        )
    except BaseException as error:
        # A panic in Rust is no `Exception`, and the program must not end by it.
        if not isinstance(error, ValueError) and type(error).__name__ != "PanicException":
            raise
        raise DocumentError(Path(path), f"cannot be drawn ({one_line(error)})") from error
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        return on_white(image)


def _resvg(path: Path) -> Any:
    try:
        import resvg_py
    except ImportError as error:
        raise MissingExtra("resvg-py", "svg", f"drawing {path.name}") from error
    return resvg_py


@lru_cache(maxsize=1)
def _fonts() -> dict[str, str]:
    """Return a font of this system for each kind that an SVG can ask for. It is empty if there is none."""
    found = {kind: next(filter(_is_installed, families), "") for kind, families in _FONTS.items()}
    usual = found["sans_serif_family"] or found["serif_family"] or found["monospace_family"]
    if not usual:
        return {}
    return {kind: found.get(kind) or usual for kind in _KINDS}


def _is_installed(family: str) -> bool:
    import resvg_py

    # With fontconfig, each kind has a font that resvg takes for a family that is not there.
    fonts: Any = dict.fromkeys(_KINDS, family)
    data = resvg_py.svg_to_bytes(svg_string=_PROBE % family, **fonts)
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        return image.getbbox() is not None


def _size(safe: Safe, path: str) -> tuple[float, float]:
    """Return the width and the height of an SVG, in pixels of CSS. If it states none, resvg finds what is drawn."""
    return _stated_size(safe.root) or _rendered(safe, path, (_PROBED, _PROBED)).size


def _state_size(root: _Element) -> None:
    """Write the size of an SVG in plain pixels, because resvg does not know all units and has no window."""
    size = _stated_size(root)
    for key, length in zip(("width", "height"), size or (0.0, 0.0), strict=True):
        if size:
            root.set(key, f"{length:.9g}")
        else:
            root.attrib.pop(key, None)
    if size and not root.get("viewBox"):
        root.set("viewBox", f"0 0 {size[0]:.9g} {size[1]:.9g}")


def _stated_size(root: _Element) -> tuple[float, float] | None:
    """Return the width and the height that an SVG states, in pixels of CSS, or None."""
    box = [_plain(part) for part in re.split(r"[\s,]+", root.get("viewBox", "").strip())]
    view = (box[2], box[3]) if len(box) == 4 and box[2] > 0 and box[3] > 0 else None
    width, height = (_plain(root.get(key)) for key in ("width", "height"))
    if width > 0 and height > 0:
        return width, height
    if view is not None and (width > 0 or height > 0):
        scale = width / view[0] if width > 0 else height / view[1]
        return view[0] * scale, view[1] * scale
    return view


def _plain(text: str | None) -> float:
    """Return a length in pixels, or 0 if it depends on what is around the picture."""
    found = _LENGTH.fullmatch(text or "")
    unit = _UNITS.get(found[3].lower()) if found else None
    if found is None or unit is None:
        return 0.0
    length = float(f"{found[1]}{found[2] or ''}") * unit
    return min(max(length, _SHORTEST), _LONGEST) if length else 0.0
