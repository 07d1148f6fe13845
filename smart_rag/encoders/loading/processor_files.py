"""The processor of a vision-language decoder whose files name a class that transformers does not have.

colpali-engine saves its own processors, and their names with them, such as ``BiQwen2_5_Processor`` of
nomic-embed-multimodal. transformers then reads the tokenizer alone, and says nothing, so the model reads no images.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from smart_rag.encoders.loading.lora_folder import link_all
from smart_rag.encoders.loading.repository import Repository

# transformers looks for the name in these files, in this order.
FILES_WITH_PROCESSOR = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")


@contextmanager
def with_known_processor(files: Repository, with_code: bool) -> Iterator[Repository]:
    """Yield ``files`` with the usual processor of their ``model_type``, if they name one that transformers lacks.

    Such files are laid into a temporary folder of links. ``files`` are yielded unchanged if they have no settings of
    images, or if ``with_code`` says that their own code may run.
    """
    import transformers
    from transformers.models.auto import processing_auto

    settings = {name: files.json(name) for name in FILES_WITH_PROCESSOR}
    foreign = [
        name
        for name, content in settings.items()
        if content.get("processor_class") and not hasattr(transformers, content["processor_class"])
    ]
    kind = str(files.json("config.json").get("model_type"))
    usual: str | None = processing_auto.PROCESSOR_MAPPING_NAMES.get(kind)  # type: ignore[attr-defined]
    is_for_text_alone = not any(settings[name] for name in FILES_WITH_PROCESSOR[:2])
    if not foreign or usual is None or with_code or is_for_text_alone:
        yield files
        return
    with TemporaryDirectory(prefix="smart_rag_processor_") as temporary:
        link_all(files.folder(), Path(temporary), with_code)
        for name in foreign:
            file = Path(temporary) / name
            file.unlink()  # a link
            file.write_text(json.dumps({**settings[name], "processor_class": usual}), encoding="utf-8")
        yield replace(files, path=temporary, revision=None, local=True)
