"""Makes torchvision importable where only a torch without CUDA is at hand; import it before anything else.

Processors of images and videos need torchvision. The registry has no build of it for Linux without CUDA: that build's
operators do not load beside a CPU torch, so that `import torchvision` fails, and so does the import of any library
that looks whether it is there. Therefore `make install` puts it into a folder beside site-packages. Here it is found,
in this process only, and its operators get names that do nothing: transforms of images need none of them.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

FOLDER = Path(sys.prefix) / "torchvision"


class _Finder(MetaPathFinder):
    """Finds torchvision in its folder, and no sooner than someone looks for it: nobody else waits for torch."""

    _library: Any = None

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname != "torchvision" or not FOLDER.exists():
            return None
        import torch

        try:
            torch.ops.load_library(str(FOLDER / "torchvision" / "_C.so"))
        except OSError:
            if self._library is None:
                # Kept, as names go with the library that declared them. These two it asks for while it is imported.
                self._library = torch.library.Library("torchvision", "DEF")
                for name in ("nms", "qnms"):
                    self._library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return PathFinder.find_spec(fullname, [str(FOLDER)], target)


# Last: one that lies in site-packages is found there.
sys.meta_path.append(_Finder())
