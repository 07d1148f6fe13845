"""`single_file`: why a hit was found, as one HTML file that needs no server.

The file has the component of the page (``why.js``), its style and its data. It sends no request, and its policy lets
the browser run no other script. So it can be sent to others, and opened by a click.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from typing import Any

from smart_rag.files import jpeg
from smart_rag.index.explain.explanation import Explanation
from smart_rag.serving.inspector.matches import packed, words_on_page
from smart_rag.serving.inspector.page import files
from smart_rag.types import Hit

_PIXELS = 1_000_000
_EXPORTS = re.compile(r"export\s*\{([^}]*)\};?\s*$")
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./lit-html\.js";$', re.MULTILINE)
_START = """
const data = (id) => Uint8Array.from(atob(document.getElementById(id).textContent), (letter) => letter.charCodeAt(0));
const context = JSON.parse(new TextDecoder().decode(data("context")));
document.title = context.title;
render(html`<h1><bdi>${context.query}</bdi></h1><p class="fine"><bdi>${context.title}</bdi></p>`,
  document.getElementById("head"));
new Why(document.getElementById("why")).show(readMatches(data("matches").buffer), context);
"""
_STYLE = """
main.single { max-width: 860px; margin: 0 auto; padding: 24px 16px 60px; display: grid; gap: 16px; }
main.single, main.single .why-body { grid-template-columns: minmax(0, 1fr); }
main.single h1 { font-size: 1.4rem; margin: 0; overflow-wrap: anywhere; }
"""
_FILE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>smart_rag</title>
<style>{style}</style>
</head>
<body>
<main class="single">
<header id="head"><noscript>This page needs JavaScript. It loads nothing from other hosts.</noscript></header>
<section class="why-body card" id="why"></section>
</main>
<script type="text/plain" id="context">{context}</script>
<script type="text/plain" id="matches">{matches}</script>
<script type="module">{script}</script>
</body>
</html>
"""


def single_file(hit: Hit, explanation: Explanation) -> str:
    """Return the HTML of a file that shows why ``hit`` was found.

    Raises:
        DocumentError: the image of the hit can no longer be read.
    """
    page = None if hit.image is None else base64.b64encode(jpeg(hit.image, _PIXELS)).decode()
    source = hit.source or hit.id
    context: dict[str, Any] = {
        "query": explanation.query.text or "(an image)",
        "title": source if hit.page is None else f"{source}, page {hit.page}",
        "imageUrl": None if page is None else f"data:image/jpeg;base64,{page}",
        "pageWords": words_on_page(hit),
        "weights": list(explanation.weights),
        "pooled": hit.pooled_score,
        "late": hit.late_score,
    }
    script, style = _script(), _text_of("style.css") + _STYLE
    policy = f"default-src 'none'; img-src data:; script-src {_hash(script)}; style-src {_hash(style)}; base-uri 'none'"
    return _FILE.format(
        policy=html.escape(f"{policy}; form-action 'none'"),
        style=style,
        script=script,
        context=base64.b64encode(json.dumps(context).encode()).decode(),
        matches=base64.b64encode(packed(hit, explanation)).decode(),
    )


def _script() -> str:
    """Return lit-html, the component and its start as one script, because a file cannot import another one."""
    library, component = _text_of("lit-html.js"), _text_of("why.js")
    exports = _EXPORTS.search(library)
    assert exports, "lit-html.js ends in another way"
    assert _IMPORT.search(component), "why.js imports something else"
    names = [name.split(" as ") for name in exports[1].split(",")]
    returned = ", ".join(f"{outer.strip()}: {inner.strip()}" for inner, outer in names)
    library = (
        f"const {{ html, nothing, render }} = (() => {{{library[: exports.start()]}\nreturn {{ {returned} }}; }})();"
    )
    component = re.sub(r"^export ", "", _IMPORT.sub("", component), flags=re.MULTILINE)
    return f"\n{library}\n{component}\n{_START}"


def _text_of(name: str) -> str:
    return files()[name].content.decode()


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
