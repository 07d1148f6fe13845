"""`Engine`: a model that is ready to encode, by torch or from an ONNX file. `start` chooses between the two."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from smart_rag.config import DEFAULT_MODEL, Backend, check_choice, nearest
from smart_rag.encoders.batching import BatchEncoder
from smart_rag.encoders.exported.folder import ExportFolder, local_files, stored_precision
from smart_rag.encoders.exported.model import ExportedModel, ExportedTextModel
from smart_rag.encoders.exported.runner import Precision
from smart_rag.encoders.fingerprint import PRECISIONS
from smart_rag.encoders.loading.devices import device_names, has_accelerator
from smart_rag.encoders.loading.loader import LoadedModel, load
from smart_rag.encoders.loading.repository import bundled
from smart_rag.encoders.models.clip import ClipModel
from smart_rag.encoders.models.col_qwen import ColQwenModel
from smart_rag.encoders.models.jina_v4 import JinaV4Model
from smart_rag.encoders.models.multi_vector import MultiVectorModel
from smart_rag.encoders.models.pooled import PooledModel
from smart_rag.encoders.profiles import ARGUMENT, Decision, TokenPolicy, profile_of
from smart_rag.encoders.settings import ModelSettings
from smart_rag.errors import EncoderError, InvalidInput
from smart_rag.types import Task

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

_MODEL_CLASSES: dict[str, type[PooledModel]] = {
    "pooled": PooledModel,
    "multi-vector": MultiVectorModel,
    "clip": ClipModel,
    "jina-v4": JinaV4Model,
    "col-qwen": ColQwenModel,
    "exported": ExportedTextModel,
}
# With "auto", models with fewer or more weights run on torch. To export a smaller one takes longer than it saves, and a
# larger one would take gigabytes of the disk.
_LEAST_WEIGHTS, _MOST_WEIGHTS = 5_000_000, 1_000_000_000
_PRECISIONS_OF: dict[str, dict[str | None, Precision]] = {
    "onnx": {None: "float32", "auto": "float32", "float32": "float32", "int8": "int8"},
    "openvino": {None: "float32", "auto": "float32", "float32": "float32", "bfloat16": "bfloat16"},
}
_DTYPES = ("auto", "float32", "float16", "bfloat16", "float64", "int8")
# Options of a model that change nothing in its export.
_OF_PROMPTS = ("prompts", "default_prompt_name")
_NOT_IN_EXPORT = (*_OF_PROMPTS, "token", "truncate_dim", "similarity_fn_name", "local_files_only", "cache_folder")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelArguments:
    """Those arguments of `SmartEncoder` that decide how a model is loaded and used; see there."""

    model: str
    device: str | torch.device | Sequence[str] | None
    dtype: str | None
    attn_implementation: str | None
    batch_size: int
    batch_tokens: int
    revision: str | None
    trust_remote_code: bool
    prompts: Mapping[Task, str | None]
    prompt_names: Mapping[Task, str | None] | None
    max_length: int | None
    profile: str | None
    policies: Mapping[Task, TokenPolicy | None]
    max_pixels: int | None
    paper: bool
    has_adapter: bool
    model_options: Mapping[str, Any]
    base_model: str | None
    backend: Backend


@dataclass(frozen=True, slots=True)
class Engine:
    """A model with its settings, and what runs batches of it. ``backend`` says why it runs on what it runs on."""

    settings: ModelSettings
    model: PooledModel
    batches: BatchEncoder
    backend: Decision


def start(arguments: ModelArguments) -> Engine:
    """Return the engine for ``arguments``. A text model on a CPU runs from an ONNX file, other models run on torch.

    The file is made once, which takes seconds, and needs torch. Later starts need no torch.

    Raises:
        ModelNotFound: the model cannot be loaded.
        EncoderError: the model gives no token embeddings, or it cannot run on the backend that was asked for.
        InvalidInput: an argument cannot be used with this model, this backend or this machine.
    """
    check_choice("backend", arguments.backend, Backend)
    if arguments.dtype is not None and str(arguments.dtype).removeprefix("torch.") not in _DTYPES:
        raise InvalidInput(f"dtype must be one of {', '.join(_DTYPES)}, got {arguments.dtype!r}")
    reason = _why_torch(arguments)
    if reason is not None:
        return start_on_torch(arguments, reason)
    loaded, files, plain = None, _files(arguments), _as_exported(arguments)
    if files is None:
        loaded = _load(plain)  # this downloads the files
        files = _files(arguments)
    if files is None:
        why = "its files are not in the cache of the hub"
    elif arguments.dtype == "auto" and (stored := stored_precision(files)) != "float32":
        why = f"the precision of its weights is {stored or 'unknown'}"
    else:
        folder = ExportFolder.of(files, _loading(arguments))
        settings: Mapping[str, Any] | None = folder.settings()
        if settings is None:
            loaded = loaded or _load(plain)
            settings = _export(arguments, loaded, files, folder)
        if "refused" not in settings:
            return _from_export(arguments, folder, settings)
        why = settings["refused"]
    if arguments.backend != "auto":
        raise EncoderError(f"{arguments.model} cannot run on backend={arguments.backend!r}: {why}; leave backend out")
    if loaded is None or arguments.dtype not in (None, "float32") or replace(arguments, dtype=None) != plain:
        loaded = _load(arguments)
    return _on_torch(arguments, loaded, why)


def _as_exported(arguments: ModelArguments) -> ModelArguments:
    """Return the arguments with which a model is loaded for its export, which serves all prompts."""
    options = {name: value for name, value in arguments.model_options.items() if name not in _OF_PROMPTS}
    return replace(arguments, dtype=None, model_options=options)


def start_on_torch(arguments: ModelArguments, reason: str) -> Engine:
    """Return the engine that torch runs, with the model loaded anew. ``reason`` says why."""
    return _on_torch(arguments, _load(arguments), reason)


def moved_to_torch(arguments: ModelArguments, settings: ModelSettings, batches: BatchEncoder) -> Engine:
    """Return the engine that torch runs, with the same ``settings`` and the same sizes of batches."""
    engine = start_on_torch(arguments, "the caller has taken the model")
    moved = engine.batches.with_prompts(settings.prompts)  # `with_instruction` may have changed the prompts
    moved.batch_size, moved.batch_tokens = batches.batch_size, batches.batch_tokens
    return Engine(settings, moved.models[0], moved, engine.backend)


def describe_backend(arguments: ModelArguments, uses_torch: bool) -> dict[str, Any]:
    """Return the entries of an encoder's description that say what runs the model, as JSON values."""
    described: dict[str, Any] = {} if arguments.backend == "auto" else {"backend": arguments.backend}
    if uses_torch or arguments.dtype not in PRECISIONS:
        return described
    described["dtype"] = arguments.dtype
    # bfloat16 gives nearly the same numbers as float32, and may be mixed with it. int8 may not.
    return described | ({"precision": "int8"} if arguments.dtype == "int8" else {})


def _why_torch(arguments: ModelArguments) -> str | None:
    """Return why the arguments ask for torch, or None if they do not.

    Raises:
        InvalidInput: they ask for another backend, too.
    """
    reason = _reason(arguments)
    if reason is None or arguments.backend in ("auto", "torch"):
        return reason
    other = ", or give dtype='float32', too" if reason.startswith("dtype is ") else ""
    raise InvalidInput(f"backend={arguments.backend!r} cannot be used: {reason}; leave backend out{other}")


def _reason(arguments: ModelArguments) -> str | None:
    device = arguments.device
    if arguments.backend == "torch":
        return ARGUMENT
    if arguments.has_adapter:
        return "an adapter runs on torch"
    if arguments.attn_implementation is not None or "model_kwargs" in arguments.model_options:
        return "attn_implementation and model_kwargs are settings of torch"
    if arguments.base_model is not None:
        return "a LoRA runs on torch"
    if not (device is None or str(device) == "cpu") or (device is None and has_accelerator()):
        return "only a CPU runs ONNX files here"
    precisions = _PRECISIONS_OF["openvino" if arguments.backend == "openvino" else "onnx"]
    if arguments.dtype not in precisions:
        return f"dtype is {arguments.dtype!r}"
    return None


def _files(arguments: ModelArguments) -> Path | None:
    """Return the folder of the model on this machine. Return None if it must be downloaded first."""
    if arguments.model == DEFAULT_MODEL:
        return Path(bundled())
    return local_files(arguments.model, arguments.revision, arguments.model_options.get("cache_folder"))


def _loading(arguments: ModelArguments) -> dict[str, Any]:
    """Return the arguments that can change the export of a model."""
    options = {name: value for name, value in arguments.model_options.items() if name not in _NOT_IN_EXPORT}
    return {
        "model": arguments.model,
        "revision": arguments.revision,
        "trust_remote_code": arguments.trust_remote_code,
        "options": options,
    }


def _load(arguments: ModelArguments) -> LoadedModel:
    if arguments.dtype == "int8":
        raise InvalidInput(
            f'dtype="int8" is for text models on backend="onnx"; {arguments.model} runs on torch: name another dtype'
        )
    loaded = load(
        arguments.model,
        device_names(arguments.device)[0],
        arguments.dtype,
        arguments.revision,
        arguments.trust_remote_code,
        arguments.attn_implementation,
        arguments.model_options,
        arguments.profile,
        arguments.base_model,
    )
    loaded.model.eval()
    return loaded


def _export(arguments: ModelArguments, loaded: LoadedModel, files: Path, folder: ExportFolder) -> Mapping[str, Any]:
    """Export a model, and return the settings of the export, or why there is none: ``{"refused": reason}``."""
    from smart_rag.encoders.exported.export import export, obstacle

    is_asked = arguments.backend != "auto"
    reason = obstacle(loaded) or (None if is_asked else _size_obstacle(loaded))
    if reason is None:
        logger.info("writing %s as an ONNX file, once", loaded.name)
        try:
            return export(loaded, files, folder)
        except EncoderError as error:
            reason = str(error)
            folder.refuse(reason)  # it would fail again, and take as long
        except ImportError as error:
            reason = f"{error.name} is not installed"
        except OSError as error:
            reason = f"the export cannot be written to {folder.path}: {error.strerror}"
    return {"refused": reason}


def _size_obstacle(loaded: LoadedModel) -> str | None:
    weights = sum(parameter.numel() for parameter in loaded.model.parameters())
    if _LEAST_WEIGHTS <= weights <= _MOST_WEIGHTS:
        return None
    return f'of {weights:,} weights, it is too {"small" if weights < _LEAST_WEIGHTS else "large"} for backend="auto"'


def _from_export(arguments: ModelArguments, folder: ExportFolder, settings: Mapping[str, Any]) -> Engine:
    backend: Literal["onnx", "openvino"] = "openvino" if arguments.backend == "openvino" else "onnx"
    precision = _PRECISIONS_OF[backend][arguments.dtype]
    if precision == "int8":
        from smart_rag.encoders.exported.export import write_int8

        write_int8(folder, settings)
    name, source = settings["profile"] if arguments.profile is None else (arguments.profile, ARGUMENT)
    exported: Any = ExportedModel(
        folder,
        settings,
        backend,
        precision,
        arguments.model_options.get("truncate_dim"),
    )
    _set_prompts(exported, arguments.model_options)
    loaded = LoadedModel(
        arguments.model,
        exported,
        settings["has_own_files"],
        "exported",
        Decision("profile", profile_of(arguments.model, name).value, source),
        pooling_source=settings["pooling_source"],
        prompts=settings["family_prompts"],
    )
    by = "" if backend == "onnx" else "the ONNX file, run by ONNX Runtime, "
    why = f"{by}differs from torch by at most {settings['difference']:.0e}" if precision == "float32" else precision
    return _engine(arguments, loaded, Decision("backend", backend, why))


def _set_prompts(model: Any, options: Mapping[str, Any]) -> None:
    """Give ``model`` the prompts of the caller over its own, as `SentenceTransformer` does.

    Raises:
        InvalidInput: there is no prompt of the default name.
    """
    given = {name: prompt for name, prompt in (options.get("prompts") or {}).items() if prompt is not None}
    model.prompts = {**model.prompts, **given}
    name = options.get("default_prompt_name") or model.default_prompt_name
    if name is not None and name not in model.prompts:
        raise InvalidInput(f"default_prompt_name is {name!r}; {nearest(name, model.prompts)}")
    model.default_prompt_name = name


def _on_torch(arguments: ModelArguments, loaded: LoadedModel, reason: str) -> Engine:
    """Return the engine that torch runs. ``reason`` says why."""
    return _engine(arguments, loaded, Decision("backend", "torch", reason))


def _engine(arguments: ModelArguments, loaded: LoadedModel, backend: Decision) -> Engine:
    settings = ModelSettings.decide(
        loaded,
        loaded.profile,
        arguments.prompts,
        arguments.prompt_names,
        arguments.policies,
        arguments.max_length,
    )
    profile = replace(loaded.profile.value, paper=arguments.paper)
    model = _MODEL_CLASSES[loaded.kind](loaded, profile, settings.prompts, arguments.max_pixels)
    if settings.max_length.value is not None:
        model.inputs.limit_length(settings.max_length.value)
    others = device_names(arguments.device)[1:]
    copies = [copy.deepcopy(model) for _ in others]
    for copied, name in zip(copies, others, strict=True):
        copied.model.to(name)
    batches = BatchEncoder([model, *copies], settings.policies, arguments.batch_size, arguments.batch_tokens)
    return Engine(settings, model, batches, backend)
