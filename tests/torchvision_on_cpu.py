"""Makes torchvision importable where only a torch without CUDA is at hand; import it before anything else.

Processors of images and videos need torchvision. The registry has no build of it for Linux without CUDA: that build's
operators do not load beside a CPU torch, so that `import torchvision` fails, and so does the import of any library
that looks whether it is there. Therefore `make install` puts it into a folder beside site-packages, which only these
tests know, and here its operators get names that do nothing. Transforms of images need none of them.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

FOLDER = Path(sys.prefix) / "torchvision"


class _DeclareFirst(MetaPathFinder):
    """Finds nothing, but declares the operators when someone looks for torchvision: nobody else waits for torch."""

    _looked_for = False

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        if fullname != "torchvision" or self._looked_for:
            return
        self._looked_for = True
        import torch

        try:
            torch.ops.load_library(str(FOLDER / "torchvision" / "_C.so"))
        except OSError:
            # Kept, as names go with the library that declared them. These two it asks for while it is imported.
            self._library = torch.library.Library("torchvision", "DEF")
            for name in ("nms", "qnms"):
                self._library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


if FOLDER.exists() and importlib.util.find_spec("torchvision") is None:
    sys.path.append(str(FOLDER))
    sys.meta_path.insert(0, _DeclareFirst())
