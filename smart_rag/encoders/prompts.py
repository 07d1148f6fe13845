"""Copies of an encoder with other prompts, and what the prompts of an encoder are. Evaluations need both."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

from smart_rag.encoders.profiles import ARGUMENT, Profile
from smart_rag.encoders.settings import ModelSettings
from smart_rag.types import Task

# The families whose code puts a full stop after an instruction (https://github.com/HanSolo9682/SMART, eval/src/models).
_STOPPED = ("qwen3-vl-embedding", "lamra-ret")


def with_instruction(encoder: Any, instruction: str) -> Any:
    """Return a copy of ``encoder``, a `SmartEncoder`, with another prompt of queries. The two share the model.

    The code of some families puts a full stop after an instruction without punctuation at its end. `copy.copy` would
    load the model a second time.
    """
    prompt = instruction.strip()
    if prompt and encoder._settings.profile.value.name in _STOPPED and unicodedata.category(prompt[-1])[0] != "P":
        prompt += "."
    return with_prompts(encoder, {"query": prompt})


def with_prompts(encoder: Any, prompts: Mapping[Task, str]) -> Any:
    """Return a copy of ``encoder``, a `SmartEncoder`, with other prompts, exactly as given. The two share the model."""
    other = object.__new__(type(encoder))
    vars(other).update(vars(encoder))
    other._settings = encoder._settings.with_prompts(prompts)
    other._batches = encoder._batches.with_prompts(other._settings.prompts)
    other._model, other._description = other._batches.models[0], None
    return other


def takes_instructions(encoder: Any) -> bool:
    """Return whether the prompt of queries is an instruction that says what to find.

    It is so for the families of the paper, unless the caller has given a prompt. For any other encoder, the answer is
    no.
    """
    settings = getattr(encoder, "_settings", None)
    if not isinstance(settings, ModelSettings):
        return False
    profile: Profile = settings.profile.value
    return profile.takes_instructions and settings.prompt_decisions[0].source != ARGUMENT


def named_prompts(encoder: Any) -> Mapping[str, str] | None:
    """Return the prompts in the files of a model by their names, such as "query" or "STS". None if they do not decide.

    If the caller has given prompts, these are all. They do not decide for a model of the paper's families, which has a
    prompt for each task of retrieval, or for an encoder of another class.
    """
    settings = getattr(encoder, "_settings", None)
    if not isinstance(settings, ModelSettings) or settings.profile.value.models:
        return None
    if any(each.source == ARGUMENT for each in settings.prompt_decisions):
        return {str(task): prompt for task, prompt in settings.prompts.items()}
    return {name: prompt or "" for name, prompt in (encoder._model.model.prompts or {}).items()}


def default_prompt_name(encoder: Any) -> str | None:
    """Return the name of the prompt that a model's own files choose by default, or None."""
    model = getattr(encoder, "_model", None)
    name: str | None = getattr(getattr(model, "model", None), "default_prompt_name", None)
    return name
