"""Progress bars and reports of transformers while it loads a model."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from smart_rag.encoders.compatibility import AnyModel

# Names of classes that have a head for words or classes beside the model.
_WITH_HEAD = r"(For(PreTraining|\w*LM|\w*Classification|\w*Answering|\w*Choice|\w*Prediction|\w*Generation)|HeadModel)$"


@contextmanager
def no_loading_bar() -> Iterator[None]:
    """Hide the progress bars of transformers, and restore the user's setting afterwards."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging as transformers_logging

    shown, downloads_shown = transformers_logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    # This also hides the progress bars of the hub. A download can take minutes, so its bar is shown again.
    if downloads_shown:
        enable_progress_bars()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
        if not downloads_shown:
            disable_progress_bars()


@dataclass(frozen=True, slots=True)
class WeightsReport:
    """What transformers reports after it has loaded the weights of ``model``: names of tensors.

    ``missing`` tensors got random numbers. ``unexpected`` tensors are in the files, but not in the model.
    ``mismatched`` tensors have one shape in the files and another in the model. They got random numbers, too.
    """

    model: Any
    missing: frozenset[str]
    unexpected: frozenset[str]
    mismatched: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]


# The reports of each thread that wants them, by the thread's id.
_wanted_reports: dict[int, list[WeightsReport]] = {}
_reports_lock = threading.Lock()


@contextmanager
def reports_of_weights() -> Iterator[list[WeightsReport]]:
    """Collect the reports of all models that this thread loads, instead of logging them. Yield the growing list.

    transformers only logs these reports. ``from_pretrained`` can return them, but sentence-transformers does not pass
    them on. So the function that logs them is replaced while at least one thread wants reports.
    """
    from transformers import modeling_utils
    from transformers.integrations import peft

    thread, found = threading.get_ident(), list[WeightsReport]()
    with _reports_lock:
        outer = _wanted_reports.get(thread)
        _wanted_reports[thread] = found
        for home in (modeling_utils, peft):
            home.log_state_dict_report = _keep_report  # type: ignore[attr-defined]
    try:
        yield found
    finally:
        from transformers.utils.loading_report import log_state_dict_report

        with _reports_lock:
            if outer is None:
                del _wanted_reports[thread]
            else:
                _wanted_reports[thread] = outer
            if not _wanted_reports:
                for home in (modeling_utils, peft):
                    home.log_state_dict_report = log_state_dict_report  # type: ignore[attr-defined]


def _keep_report(**arguments: Any) -> None:
    """Do the work of ``log_state_dict_report``, which has these ``arguments``.

    They hold a ``loading_info``. In transformers 5.0, they hold its attributes one by one.
    """
    from transformers.utils.loading_report import log_state_dict_report

    info, found = arguments.get("loading_info"), _wanted_reports.get(threading.get_ident())
    of = dict(arguments) if info is None else vars(info)
    if found is None or of.get("error_msgs") or of.get("conversion_errors"):
        log_state_dict_report(**arguments)  # it raises these errors
        return
    shapes = {name: (tuple(in_file), tuple(in_model)) for name, in_file, in_model in of["mismatched_keys"]}
    found.append(
        WeightsReport(arguments["model"], frozenset(of["missing_keys"]), frozenset(of["unexpected_keys"]), shapes)
    )


def heads_beside(model: Any) -> tuple[str, ...]:
    """Return the starts of the names of those tensors that predict words or classes, and that ``model`` leaves out.

    The files of ``model`` may hold a model of another class, such as ``BertForMaskedLM``. Its config.json names this
    class. The parts of this class beside the base model are its heads. If config.json names no class, as that of
    DeBERTa-v3, it may be any class of this kind of model.
    """
    import torch
    import transformers

    inside = {name for name, _ in model.named_children()}
    heads = set()
    for name in getattr(model.config, "architectures", None) or _classes_with_heads(model.config.model_type):
        whole = getattr(transformers, name, None)
        if whole is not None and re.search(_WITH_HEAD, name):
            with torch.device("meta"):  # no memory, and no random numbers
                parts = whole(model.config).named_children()
            heads |= {f"{part}." for part, _ in parts if part != whole.base_model_prefix and part not in inside}
    return tuple(sorted(heads))


def _classes_with_heads(model_type: str) -> list[str]:
    """Return the names of transformers' classes of a kind of model that predict words or classes."""
    from transformers.models.auto import modeling_auto

    tasks = ("PRETRAINING", "MASKED_LM", "CAUSAL_LM", "SEQUENCE_CLASSIFICATION", "TOKEN_CLASSIFICATION")
    found = [getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES").get(model_type) for task in tasks]
    return [name for name in found if isinstance(name, str)]


def uses_pooler(model: AnyModel) -> bool:
    """Return whether an embedding of ``model`` comes from a transformers model's own pooler."""
    ways = getattr(model[0], "modality_config", {}).values()
    return any(way.get("method_output_name") == "pooler_output" for way in ways)


def knows_words(tokenizer: Any) -> bool:
    """Return whether the vocabulary of ``tokenizer`` has more than special tokens and tokens that were added to it."""
    if not hasattr(tokenizer, "all_special_ids"):
        return True
    added = set(tokenizer.all_special_ids) | set(tokenizer.get_added_vocab().values())
    return len(tokenizer) > len(added) or not set(tokenizer.get_vocab().values()) <= added
