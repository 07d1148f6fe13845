"""Recognition of a model: its family, by its name and by the files that it is published with, and what cannot be used.

The sources of the signs are public: the code that trained or measured the models writes these files. Where a sign is
used, a comment names the code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from smart_rag.encoders.loading.repository import Repository
from smart_rag.encoders.profiles import GENERAL, PROFILES, UNKNOWN, Decision, Profile, is_hub_name_of, profile_of
from smart_rag.errors import EncoderError, InvalidInput, ModelNotFound

# Only these kinds of models have families whose signs are known.
_KINDS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
_LAMRA = {"qwen2_vl": "lamra-ret-qwen2", "qwen2_5_vl": "lamra-ret-qwen2", "qwen3_vl": "lamra-ret"}
# The classes that LamRA's code (Code-kunkun/LamRA, models/ and merge_lora/merge.py) and the paper's code (train_lamra)
# save. transformers writes the name of the class into config.json, and peft writes it into adapter_config.json.
_LAMRA_CLASS = re.compile(r"Qwen\w*VLRet(Finetune)?ForConditionalGeneration")
# Classes that are built on a vision-language decoder, and that no profile is for.
_OTHER_CLASS = re.compile(r"Col[A-Z]|JinaEmbeddings")
_CLASSES = {
    "GmeQwen2VL": "gme-qwen2-vl",
    # colpali-engine, models/qwen2_5/biqwen2_5. nomic-embed-multimodal was trained with these two classes.
    "BiQwen2_5": "nomic-embed-multimodal",
    "BiQwen2_5_Processor": "nomic-embed-multimodal",
    "Qwen3VLForEmbedding": "qwen3-vl-embedding",  # QwenLM/Qwen3-VL-Embedding, src/models/qwen3_vl_embedding.py
}
# GME's model card runs the code in these files, which are part of its repository. mteb refers to the script of
# Qwen3-VL-Embedding in the same way (models/model_implementations/qwen3_vl_embedding_models.py).
_SCRIPTS = {
    "qwen2_vl": (("modeling_gme_qwen2vl.py", "gme-qwen2-vl"), ("gme_inference.py", "gme-qwen2-vl")),
    "qwen3_vl": (("scripts/qwen3_vl_embedding.py", "qwen3-vl-embedding"),),
}
# VLM2Vec-V2's training (TIGER-AI-Lab/VLM2Vec, src/model/model.py) names no task type. So peft writes the module of the
# model's class into adapter_config.json.
_VLM2VEC_LIBRARY = "src.model.vlm_backbone."
_VLM2VEC_KINDS = ("qwen2_vl",)
# The instruction that Qwen3-VL-Embedding was trained with (src/models/qwen3_vl_embedding.py).
_QWEN3_PROMPT = "Represent the user's input."
_FILES_WITH_PROMPTS = ("config_sentence_transformers.json", "chat_template.jinja", "chat_template.json")

_Sign = tuple[str, str]  # the name of a profile, and what shows it


def family_of(
    model: str, files: Repository, given: str | None = None, lora: Mapping[str, Any] | None = None
) -> Decision:
    """Choose the profile of a model. The source of the decision says what the model was recognised by.

    The profile that the caller names comes first. Then come classes that only one family has, then the name, and then
    weaker signs in the files. The kind of model in ``config.json`` tells apart families that share a name.

    Args:
        model: the name that the caller gave to the model.
        files: the files of the model.
        given: the name of a profile, if the caller has named one.
        lora: ``adapter_config.json``, if the model is published as a LoRA. Then ``files`` are those of its base model
            with the files of the LoRA over them.

    Raises:
        InvalidInput: there is no profile called ``given``, or it is for another kind of vision-language decoder.
    """
    config = files.json("config.json")
    kind = str(config.get("model_type", ""))
    if given is not None:
        named = profile_of(model, given)
        is_other = any(_OTHER_CLASS.match(str(name)) for name in config.get("architectures") or [])
        if (kind in _KINDS or "vision_config" in config) and not is_other:
            _check_kind(model, kind, named.value)
        return named
    if kind not in _KINDS:
        return profile_of(model, model_type=kind or None)
    for find in (_classes, _by_name, _weaker_signs):
        for name, shown_by in find(model, kind, config, files, lora or {}):
            return Decision("profile", profile_of(model, name).value, shown_by)
    return UNKNOWN


def by_architecture(files: Repository, of: str = "") -> Decision:
    """Return the kind of a model that its config.json shows by the name of its class."""
    name = str(files.json("config.json")["architectures"][0])
    return Decision("kind", f"{name}{of}", f"config.json: architectures {name}")


def late_interaction(files: Repository) -> Decision | None:
    """Return the kind of a model for late interaction, in a format that `MultiVectorEncoder` reads, and what shows it.

    Return None if it is another kind of model.
    """
    kind = files.json("config_sentence_transformers.json").get("model_type")
    if kind is not None:
        is_late = kind in ("MultiVectorEncoder", "ColBERT")
        shown_by = f"config_sentence_transformers.json: model_type {kind}"
        return Decision("kind", "late interaction", shown_by) if is_late else None
    architectures = files.json("config.json").get("architectures") or []
    is_late = any(name == "HF_ColBERT" or name.endswith("ForRetrieval") for name in architectures)
    return by_architecture(files) if is_late else None


def check_static(name: str, files: Repository) -> None:
    """Raise `EncoderError` if the model is static."""
    kinds = [module.get("type") for module in files.modules()[:1]]
    kinds.append(files.json("config.json").get("model_type"))  # model2vec writes one that transformers does not have
    if any(str(kind).endswith(("StaticEmbedding", "model2vec")) for kind in kinds):
        raise EncoderError(
            f"{name} gives no token embeddings: it is a static model, with one vector for each token of a vocabulary, "
            "the same in every text; late interaction needs states that know their text, so use a transformer model"
        )


def check_architecture(files: Repository) -> None:
    """Raise `ModelNotFound` if the model is a class of its own repository or of another one, not of transformers.

    If transformers knows the ``model_type``, it would otherwise load a similar class, with other numbers.
    """
    import transformers

    config = files.json("config.json")
    unknown = [name for name in config.get("architectures") or [] if not hasattr(transformers, name)]
    code = (config.get("auto_map") or {}).get("AutoModel")
    if unknown and code:
        raise ModelNotFound(
            f"the model {files.path!r} is a {unknown[0]}, which transformers {transformers.__version__} does not have: "
            f"it is code of its own ({code}); read that code, and if you trust it, pass trust_remote_code=True, on the "
            "command line --trust-remote-code"
        )


def check_config(files: Repository) -> None:
    """Raise `ModelNotFound` if the configuration is of another kind of model, or has a gap that would be filled."""
    task = files.json("config_sentence_transformers.json").get("model_type")
    if task in ("SparseEncoder", "CrossEncoder"):
        raise ModelNotFound(
            f"the model {files.path!r} is a {task} of sentence-transformers, which gives no embeddings of tokens in "
            "the space of a pooled embedding; use an embedding model"
        )
    pooling = files.json("1_Pooling/config.json")
    modes = sorted(key for key in pooling if key.startswith("pooling_mode"))
    if modes and not any(pooling[mode] for mode in modes):  # sentence-transformers would take the mean
        raise ModelNotFound(
            f"{files.find('1_Pooling/config.json')} names no way of pooling: {', '.join(modes)} are all off; take the "
            "file again"
        )
    config = files.json("config.json")
    for name in ("text_config", "vision_config"):
        if not isinstance(config.get(name, {}), Mapping):  # transformers would make the largest model of the kind
            raise ModelNotFound(
                f"{files.find('config.json')}: {name} is {config[name]!r:.40}, expected an object; take all files of "
                "the model again"
            )


def check_model_type(files: Repository) -> None:
    """Raise `ModelNotFound` if transformers does not know the kind of model, and its files bring no code for it."""
    import transformers
    from transformers import CONFIG_MAPPING

    config = files.json("config.json")
    kind = config.get("model_type")
    if kind is None or kind in CONFIG_MAPPING or config.get("auto_map"):
        return
    saved_by = config.get("transformers_version")
    raise ModelNotFound(
        f"the model {files.path!r} is of the model_type {kind!r}, which transformers {transformers.__version__} on "
        f"this machine does not know{f'; transformers {saved_by} saved it' if saved_by else ''}; install a newer "
        "version: pip install --upgrade transformers. If the newest one does not know it either, the model needs code "
        "of its own; run it as an encoder of your own (docs/own_encoder.md)"
    )


def _check_kind(model: str, kind: str, profile: Profile) -> None:
    """Raise `InvalidInput` if ``profile`` is for models of another kind, such as a Qwen3-VL's for a Qwen2-VL."""
    if not profile.model_types or kind in profile.model_types:
        return
    fitting = [each.name for each in (*PROFILES, GENERAL) if kind in each.model_types or not each.model_types]
    raise InvalidInput(
        f"profile {profile.name!r} is for models of the type {' or '.join(profile.model_types)}, but {model!r} is of "
        f"the type {kind} (config.json: model_type); name one of the profiles that fit, {', '.join(fitting)}, or leave "
        f"profile out; if an index names this profile, open it with the model that it was made with"
    )


def _classes(
    model: str, kind: str, config: Mapping[str, Any], files: Repository, lora: Mapping[str, Any]
) -> Iterator[_Sign]:
    mapping = lora.get("auto_mapping") or {}
    yield from _of_class(kind, str(mapping.get("base_model_class")), "adapter_config.json: base_model_class")
    library = str(mapping.get("parent_library"))
    if library.startswith(_VLM2VEC_LIBRARY) and kind in _VLM2VEC_KINDS:
        yield "vlm2vec-v2", f"adapter_config.json: parent_library {library}"
    for name in config.get("architectures") or []:
        yield from _of_class(kind, str(name), "config.json: architectures")
    for file in ("processor_config.json", "preprocessor_config.json"):
        yield from _of_class(kind, str(files.json(file).get("processor_class")), f"{file}: processor_class")
    for name in _auto_classes(config):
        yield from _of_class(kind, name, "config.json: auto_map")
    if config.get("emb_token_ids"):  # both LamRA codes set it (loaders/)
        yield _LAMRA[kind], "config.json: emb_token_ids"


def _of_class(kind: str, name: str, where: str) -> Iterator[_Sign]:
    if _LAMRA_CLASS.fullmatch(name):
        yield _LAMRA[kind], f"{where} {name}"
    elif name in _CLASSES:
        yield _CLASSES[name], f"{where} {name}"


def _auto_classes(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of the classes in ``auto_map``, such as ``GmeQwen2VL`` of ``modeling_gme_qwen2vl.GmeQwen2VL``."""
    for value in dict(config.get("auto_map") or {}).values():
        for name in value if isinstance(value, list) else [value]:
            yield str(name).rpartition(".")[2]


def _by_name(
    model: str, kind: str, config: Mapping[str, Any], files: Repository, lora: Mapping[str, Any]
) -> Iterator[_Sign]:
    chosen = profile_of(model, model_type=kind)
    if chosen.value.models:
        yield chosen.value.name, chosen.source


def _weaker_signs(
    model: str, kind: str, config: Mapping[str, Any], files: Repository, lora: Mapping[str, Any]
) -> Iterator[_Sign]:
    """Yield the families that files show which other models could also have."""
    for name, where in (
        (lora.get("base_model_name_or_path"), "adapter_config.json: base_model_name_or_path"),
        (config.get("_name_or_path"), "config.json: _name_or_path"),
    ):
        for profile in PROFILES:
            if kind in profile.model_types and is_hub_name_of(str(name), profile):
                yield profile.name, f"{where} {name}"
    for script, family in _SCRIPTS.get(kind, ()):
        if files.find(script) is not None:
            yield family, f"the file {script}"
    if _has_emb_token(files):
        yield _LAMRA[kind], "the tokenizer's token <emb>"
    if kind == "qwen3_vl":
        for name in _FILES_WITH_PROMPTS:
            file = files.find(name)
            if file is not None and _QWEN3_PROMPT in file.read_text(encoding="utf-8").replace("\\", ""):
                yield "qwen3-vl-embedding", f"{name}: {_QWEN3_PROMPT!r}"


def _has_emb_token(files: Repository) -> bool:
    return "<emb>" in files.json("added_tokens.json") or any(
        token.get("content") == "<emb>" for token in _added_tokens(files)
    )


def _added_tokens(files: Repository) -> Iterator[Mapping[str, Any]]:
    yield from dict(files.json("tokenizer_config.json").get("added_tokens_decoder") or {}).values()
    yield from files.json("tokenizer.json").get("added_tokens") or []
