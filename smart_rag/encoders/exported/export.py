"""`export`: writes a text model that torch has loaded as ONNX files, and compares their numbers with torch's."""

from __future__ import annotations

import copy
import errno
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from smart_rag.encoders.batching import BatchEncoder, Output
from smart_rag.encoders.compatibility import module_settings, pooling_of, transformer_config
from smart_rag.encoders.exported.folder import ExportFolder
from smart_rag.encoders.exported.model import POOLINGS, ExportedModel, ExportedTextModel
from smart_rag.encoders.exported.runner import private_onnxruntime
from smart_rag.encoders.exported.tokenizer import settings_of
from smart_rag.encoders.fingerprint import weights_digest
from smart_rag.encoders.loading.loader import LoadedModel
from smart_rag.encoders.models.pooled import PooledModel
from smart_rag.encoders.profiles import ARGUMENT, UNKNOWN, TokenPolicy
from smart_rag.errors import EncoderError
from smart_rag.types import Content, Task
from smart_rag.wording import first_line

logger = logging.getLogger(__name__)

# Each number of an embedding may differ from torch's by this much.
TOLERANCE = 1e-5
# The inputs that a text model can have.
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# Texts that are compared: short and long ones, several scripts, blanks, marks, and code.
_PROBES = (
    "The pump needs new bearings.",
    "a",
    "Which documents explain how the reserve pump is started after a power failure, and who has to be told?",
    "  Two blanks\n\nand a\ttab, at the start and in the middle ",
    "Zw\u00f6lf Boxk\u00e4mpfer jagen Viktor quer \u00fcber den gro\u00dfen Sylter Deich \u2013 f\u00fcr 3,50 \u20ac!",
    "\u041d\u0430\u0441\u043e\u0441 \u6cf5\u9700\u8981\u65b0\u3002 \ud38c\ud504 \u0627\u0644\u0645\u0636",
    "def add(a: int, b: int) -> int:\n    return a + b  # x_1 != y",
    "na\u00efve caf\u00e9 \ufb01ne \U0001f600 e\u0301 \u200b\u00ad",
    "A pump moves a liquid from one place to another. " * 12,
)
# With less room than this, in bytes, a file that cannot be written is the fault of the disk.
_LEAST_FREE = 1 << 20
# A text of at most this many tokens is compared, because a forward pass of a very long text takes long.
_LONGEST = 1024
# Names under which onnxscript counts what it makes of attention.
_ATTENTION = ("attention", "gqa", "mha1", "mha2")
_LONG = "word and number 7, "
_PROMPTS: dict[Task, str] = {"query": "query: ", "document": ""}
_POLICIES: dict[Task, TokenPolicy] = {"query": "content", "document": "content"}


def obstacle(loaded: LoadedModel) -> str | None:
    """Return why this model cannot be exported, or None if nothing speaks against it."""
    model: Any = loaded.model
    if loaded.kind != "pooled":
        return "it is trained for late interaction or reads images"
    if set(model.modalities) != {"text"}:
        return "it reads images or chats"
    if not getattr(model.tokenizer, "is_fast", False):
        return "its tokenizer is not a fast one"
    modes = pooling_of(model).modes
    if len(modes) != 1 or modes[0] not in POOLINGS:
        return f"its pooling is {' and '.join(modes)}"
    if loaded.base_model is not None:
        return "it is a LoRA"
    return None


def export(loaded: LoadedModel, files: Path, folder: ExportFolder) -> dict[str, Any]:
    """Write ``loaded`` into ``folder``, check its numbers, and return its settings.

    ``files`` is the folder of the model. If it has an ONNX file of its own with the same numbers, this one is used.

    Raises:
        EncoderError: the model cannot be exported, or its numbers differ from torch's.
    """
    model: Any = loaded.model
    beside = folder.begin()
    model.tokenizer.backend_tokenizer.save(str(beside.tokenizer))
    pooling = pooling_of(model)
    config = transformer_config(model)
    profile = UNKNOWN if loaded.profile.source == ARGUMENT else loaded.profile
    settings: dict[str, Any] = {
        "prompts": dict(model.prompts or {}),
        "default_prompt_name": model.default_prompt_name,
        "family_prompts": dict(loaded.prompts),
        "pooling": pooling.modes[0],
        "include_prompt": pooling.include_prompt,
        "config": {
            "model_type": config.model_type,
            "max_position_embeddings": getattr(config, "max_position_embeddings", None),
        },
        "max_seq_length": model.max_seq_length,
        "tokenizer": settings_of(model.tokenizer),
        "normalizes": any(type(module).__name__ == "Normalize" for module in pooling.after),
        "has_head": _write_head(pooling.after, model, beside.head),
        "dimension": _full_dimension(model),
        "weights": weights_digest(model),
        "modules": module_settings(model),
        "has_own_files": loaded.has_own_files,
        # Text models show no family by their files. What the caller has named is not kept.
        "profile": [profile.value.name, profile.source],
        "pooling_source": loaded.pooling_source,
        "own_file": None,
        "fused": False,
    }
    own = files / "onnx" / "model.onnx"
    if own.is_file():
        try:
            settings["own_file"] = str(own)
            settings["difference"] = _difference(loaded, beside, settings)
        except Exception as error:  # another program wrote this file. Whatever is wrong with it, we write our own
            logger.info("%s is not used: %s", own, first_line(error))
            settings["own_file"] = None
    if settings["own_file"] is None:
        _write_model(model, beside.model)
        settings["difference"] = _difference(loaded, beside, settings)
        settings |= _fused(loaded, beside, settings)
    folder.finish(beside, settings)
    return settings


def _fused(loaded: LoadedModel, folder: ExportFolder, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Write the export a second time, with attention as one step, which ONNX Runtime computes faster.

    Return the settings that change. If the numbers differ from torch's, or this form has no attention, there are none.
    """
    import onnx_ir
    from onnxscript.rewriter.ort_fusions import optimize_for_ort

    try:
        with _quiet():
            # The weights stay where they are: in the file of the first form.
            model, counts = optimize_for_ort(onnx_ir.load(folder.model))
            if not any(counts.get(name) for name in _ATTENTION):
                return {}
            onnx_ir.save(model, folder.fused_model)
        fused = {**settings, "fused": True}
        return {"fused": True, "difference": max(settings["difference"], _difference(loaded, folder, fused))}
    except Exception as error:  # the rewriter raises errors of many classes, and the first form is right
        logger.info("%s: attention stays in several steps: %s", loaded.name, first_line(error))
        folder.fused_model.unlink(missing_ok=True)
        return {}


def write_int8(folder: ExportFolder, settings: Mapping[str, Any]) -> None:
    """Write the export a second time, with weights of 8 bits for each channel, if this has not been done before."""
    quantization = private_onnxruntime("onnxruntime.quantization")

    if folder.has_int8_model():
        return
    beside = folder.int8_model.with_name(f"{folder.int8_model.name}.{os.getpid()}.new")
    with _quiet(), _without_advice():
        quantization.quantize_dynamic(
            folder.model_file(settings), beside, per_channel=True, weight_type=quantization.QuantType.QInt8
        )
    folder.take_int8_model(beside)


@contextmanager
def _without_advice() -> Iterator[None]:
    """Drop the advice that the quantization logs. It concerns images."""

    def keep(record: logging.LogRecord) -> bool:
        return "pre-processing before quantization" not in record.getMessage()

    root = logging.getLogger()
    root.addFilter(keep)
    try:
        yield
    finally:
        root.removeFilter(keep)


def _full_dimension(model: Any) -> int:
    """Return the width of the pooled embeddings before they are truncated."""
    truncated, model.truncate_dim = model.truncate_dim, None
    try:
        return int(model.get_embedding_dimension())
    finally:
        model.truncate_dim = truncated


def _write_model(model: Any, path: Path) -> None:
    import torch

    first = copy.copy(model[0])
    names = [name for name in _INPUTS if name in model.preprocess(["a b c", "d"], task="document")]

    class States(torch.nn.Module):
        """The transformer alone, from ids to states."""

        def __init__(self) -> None:
            super().__init__()
            self.first = first

        def forward(self, *arrays: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.first({**dict(zip(names, arrays, strict=True)), "modality": "text"})[
                "token_embeddings"
            ]
            return found

    features = model.preprocess(list(_PROBES[:3]), task="document")
    axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with _eager(model):
        given = tuple(features[name] for name in names)
        _write(States(), given, names, (tuple(axes for _ in names),), path, weights_apart=True)


def _write_head(modules: Sequence[Any], model: Any, path: Path) -> bool:
    """Write the modules after the pooling, unless they only normalise. Return whether there are any."""
    import torch

    changing = [module for module in modules if type(module).__name__ != "Normalize"]
    if not changing:
        return False
    if len(changing) < len([*modules]) and type(modules[-1]).__name__ != "Normalize":
        raise EncoderError("a module follows the one that normalises")

    class Head(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.changing = torch.nn.ModuleList(changing)

        def forward(self, states: torch.Tensor) -> torch.Tensor:
            for module in self.changing:
                states = module({"sentence_embedding": states})["sentence_embedding"]
            return states

    width = transformer_config(model).hidden_size
    states = torch.zeros(3, width)
    _write(Head(), (states,), ["states"], ({0: torch.export.Dim.DYNAMIC},), path)
    return True


def _write(
    module: Any,
    arguments: tuple[Any, ...],
    names: list[str],
    axes: tuple[Any, ...],
    path: Path,
    *,
    weights_apart: bool = False,
) -> None:
    import torch

    try:
        with torch.inference_mode(False), torch.no_grad(), _quiet():
            program = torch.onnx.export(
                module.eval(), arguments, dynamo=True, dynamic_shapes=axes, input_names=names, verbose=False
            )
            assert program is not None
            program.save(path, external_data=weights_apart)
    except ImportError:
        raise
    except Exception as error:  # the exporter raises errors of many classes, and the torch model still works
        full = _full_disk(error, path.parent)
        if full is not None:
            raise full from error
        raise EncoderError(f"torch.onnx does not export it: {first_line(error)}") from error


def _full_disk(error: BaseException, folder: Path) -> OSError | None:
    """Return an error of the disk with ``folder`` if it is full, which is no fault of the model. ``error`` was raised.

    The exporter gives the error of the disk as a cause, or only says that an element cannot be written.
    """
    cause: BaseException | None = error
    while cause is not None and not (isinstance(cause, OSError) and cause.errno == errno.ENOSPC):
        cause = cause.__cause__ or cause.__context__
    if cause is None and shutil.disk_usage(folder).free > _LEAST_FREE:
        return None
    return OSError(errno.ENOSPC, "no space left on the disk", str(folder))


@contextmanager
def _eager(model: Any) -> Iterator[None]:
    """Compute attention by plain products, which the exporter knows for every family."""
    config = transformer_config(model)
    before = config._attn_implementation
    model.transformers_model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.transformers_model.set_attn_implementation(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks, which concern its own developers, from the user."""
    names = ("torch.onnx", "torch.__trace", "onnxscript", "onnx_ir")
    noisy = {logging.getLogger(name): logging.getLogger(name).level for name in names}
    for log in noisy:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in noisy.items():
            log.setLevel(level)


def _difference(loaded: LoadedModel, folder: ExportFolder, settings: dict[str, Any]) -> float:
    """Return the largest difference between the embeddings of torch and those of the export.

    Raises:
        EncoderError: it is greater than `TOLERANCE`, or tokens differ.
    """
    profile = loaded.profile.value
    truncate_dim = loaded.model.truncate_dim
    exported = LoadedModel(
        loaded.name,
        ExportedModel(folder, settings, "onnx", truncate_dim=truncate_dim),  # type: ignore[arg-type]
        loaded.has_own_files,
        "exported",
    )
    pair = [
        BatchEncoder([kind(each, profile, _PROMPTS, None)], _POLICIES, 4, 1 << 14)
        for kind, each in ((PooledModel, loaded), (ExportedTextModel, exported))
    ]
    length = loaded.model.max_seq_length or _LONGEST
    texts = [*_PROBES, _LONG * (min(length, _LONGEST) // 4)]
    worst = 0.0
    for task in _PROMPTS:
        ours, theirs = (each.encode([Content(text) for text in texts], task, Output()) for each in reversed(pair))
        for text, mine, other in zip(texts, ours.ids, theirs.ids, strict=True):
            if not np.array_equal(mine, other):
                raise EncoderError(f"its tokenizer.json gives other tokens than transformers, such as of {text[:40]!r}")
        differences = [np.abs(ours.pooled - theirs.pooled).max(), np.abs(ours.norms / theirs.norms - 1).max()]
        differences += [np.abs(mine - other).max() for mine, other in zip(ours.tokens, theirs.tokens, strict=True)]
        worst = max(worst, *map(float, differences))
    too_long = Content(_LONG * length)
    cut = [each.models[0].inputs.prepare([too_long], "query").positions.ids for each in pair]
    if not np.array_equal(cut[0], cut[1]):
        raise EncoderError("its tokenizer.json cuts a long text in another way than transformers")
    if not worst <= TOLERANCE:
        raise EncoderError(f"its ONNX file gives other numbers than torch: they differ by up to {worst:.1e}")
    return worst
