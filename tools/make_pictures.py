"""Draw the pictures of README and docs from the bundled samples. ``make pictures`` runs it.

docs/pictures/heat_map.png shows why smart_rag finds a passage. docs/pictures/inspector.png shows the same question in
the inspector. It needs the system's Chromium, which the environment variable CHROMIUM can name.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from smart_rag import SmartIndex
from smart_rag.demo import sample_folder

QUESTION = "What should I do with a swollen lithium battery?"
PICTURES = Path(__file__).parent.parent / "docs/pictures"


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "station.index"
        with SmartIndex.create(folder, "minilm") as index:
            index.add_files([sample_folder()])
            hit = index.search(QUESTION, top_k=1)[0]
            print(hit.source, hit.text, sep="\n")
            save(hit.explain().picture(), "heat_map.png")
        save(inspector(folder), "inspector.png")


def inspector(folder: Path) -> Image.Image:
    """Return the inspector page of the index in ``folder``, with the question asked and the first hit chosen."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    assert chromium, "no Chromium found; install the system's package, or name the program in CHROMIUM"
    command = [sys.executable, "-m", "smart_rag", "serve", "--db", str(folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as started:
        try:
            assert server.stdout is not None
            address = re.search(r"http://\S+(?=;)", server.stdout.readline())
            assert address, "the server did not start"
            # As root, as in a container, Chromium runs only without its sandbox.
            sandbox = [] if sys.platform == "win32" or os.geteuid() else ["--no-sandbox"]
            browser = started.chromium.launch(executable_path=chromium, args=sandbox)
            page = browser.new_page(viewport={"width": 1280, "height": 860}, color_scheme="light")
            page.goto(f"{address[0]}/")
            for question in ("Who fuels the boats?", QUESTION):  # the first search of a server takes longer
                page.fill("#question", question)
                page.keyboard.press("Enter")
                page.wait_for_selector('.results[aria-busy="false"] .hit')
                page.wait_for_timeout(1000)
            page.click('[data-column="hybrid"] .hit')
            page.wait_for_selector(".why-body mark")
            page.wait_for_timeout(1000)
            data = page.screenshot()
            browser.close()
        finally:
            server.terminate()
    return Image.open(io.BytesIO(data))


def save(picture: Image.Image, name: str) -> None:
    """Write ``picture`` with 256 colours, which are enough for letters and surfaces."""
    path = PICTURES / name
    picture.convert("RGB").quantize(256).save(path, optimize=True)
    print(f"wrote {path.name}, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
