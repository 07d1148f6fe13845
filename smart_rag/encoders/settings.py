"""`ModelSettings`: how a model is used. Arguments, the model's files, its profile and general rules decide this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from smart_rag.config import check_choice, nearest
from smart_rag.encoders.compatibility import AnyModel
from smart_rag.encoders.loading.loader import LoadedModel
from smart_rag.encoders.loading.text_pooling import lacks_prompts
from smart_rag.encoders.profiles import (
    ARGUMENT,
    BY_NAME,
    GENERAL_RULE,
    OWN_FILES,
    Decision,
    Profile,
    TokenPolicy,
    profile_of,
)
from smart_rag.encoders.protocol import warn_once
from smart_rag.errors import InvalidInput
from smart_rag.types import Task

# Names of prompts in a model's files. Of those that exist, sentence-transformers takes the first one.
_PROMPT_NAMES: dict[Task, tuple[str, ...]] = {"query": ("query",), "document": ("document", "passage", "corpus")}


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """The decisions on profile, prompts, token policies and length of a model. Each has a source.

    ``max_length`` has the value None if the model's own length is used. ``remark`` says how the family was recognised,
    if the user may not expect it. ``base_model`` is the model that a LoRA was added to. ``recognised`` says which kind
    of model it is, if it is used in another way than other models.
    """

    profile: Decision
    prompt_decisions: tuple[Decision, Decision]
    policy_decisions: tuple[Decision, Decision]
    max_length: Decision
    remark: str | None = None
    base_model: Decision | None = None
    recognised: Decision | None = None

    @classmethod
    def decide(
        cls,
        loaded: LoadedModel,
        profile_decision: Decision,
        prompts: Mapping[Task, str | None],
        prompt_names: Mapping[Task, str | None] | None,
        policies: Mapping[Task, TokenPolicy | None],
        max_length: int | None,
    ) -> ModelSettings:
        """Decide how ``loaded`` is used. An argument is None if the caller left it out.

        Raises:
            InvalidInput: the profile is for another kind of model, or there is no such policy or prompt.
        """
        _check_profile(profile_decision, loaded)
        profile: Profile = profile_decision.value
        if prompts["document"] and profile.prompts_for_images_only:
            warn_once(
                f"document_prompt={prompts['document']!r:.80} stands before documents with an image or a video alone, "
                f"as in the own code of {profile.name}"
            )
        length = Decision.first(
            "max_length",
            (max_length, ARGUMENT),
            (None if loaded.has_own_files else profile.max_length, profile.source),
            (None, OWN_FILES),
        )
        return cls(
            profile_decision,
            (
                _decide_prompt("query", prompts["query"], prompt_names, loaded, profile),
                _decide_prompt("document", prompts["document"], prompt_names, loaded, profile),
            ),
            (
                _decide_policy("query", policies["query"], loaded, profile),
                _decide_policy("document", policies["document"], loaded, profile),
            ),
            length,
            _remark(profile_decision, loaded, has_prompts=any(value is not None for value in prompts.values())),
            loaded.base_model,
            loaded.recognised,
        )

    def with_prompts(self, prompts: Mapping[Task, str]) -> ModelSettings:
        """Return the same settings with other prompts. A task that is not in ``prompts`` keeps its own."""
        own = zip(self.prompts, self.prompt_decisions, strict=True)
        query, document = (
            Decision(each.name, prompts[task], ARGUMENT) if task in prompts else each for task, each in own
        )
        return replace(self, prompt_decisions=(query, document))

    def describe(self) -> dict[str, Any]:
        """Return the settings that are a part of an encoder's description, as JSON values."""
        prompts, policies = self.prompts, self.policies
        return {
            "tokens": policies["document"],
            "query_prompt": prompts["query"],
            "document_prompt": prompts["document"],
            "query_tokens": policies["query"],
            "document_tokens": policies["document"],
            "profile": self.profile.value.name,
            **({} if self.base_model is None else {"base_model": self.base_model.value}),
        }

    @property
    def family_decisions(self) -> tuple[Decision, ...]:
        """The family of the model, with the sign that it was recognised by, the base model of a LoRA, and the kind."""
        family = Decision("profile", self.profile.value.name, self.profile.source)
        return tuple(each for each in (family, self.base_model, self.recognised) if each is not None)

    def log_family(self) -> None:
        """Log the ``remark``, once in this process."""
        if self.remark is not None:
            warn_once(self.remark)

    @property
    def prompts(self) -> dict[Task, str]:
        """The prompts of queries and of documents."""
        query, document = self.prompt_decisions
        return {"query": query.value, "document": document.value}

    @property
    def policies(self) -> dict[Task, TokenPolicy]:
        """The tokens of queries and of documents that take part in late interaction."""
        query, document = self.policy_decisions
        return {"query": query.value, "document": document.value}


def _remark(profile: Decision, loaded: LoadedModel, has_prompts: bool) -> str | None:
    """Return what to say about a family that neither an argument nor the model's name shows, or without its prompts.

    ``has_prompts`` says whether the caller has named a prompt.
    """
    how = "name another profile by profile=, on the command line --profile; docs/families.md lists them"
    is_named = profile.source in (ARGUMENT, BY_NAME) or profile_of(loaded.name).value is profile.value
    if profile.value.models and not is_named:
        return f"{loaded.name} is used as a model of the family {profile.value.name} ({profile.source}); {how}"
    is_decoder = loaded.kind == "pooled" and "image" in loaded.model.modalities
    if profile.source == GENERAL_RULE and is_decoder and not loaded.has_own_files:
        return f"{loaded.name} shows no known family, so the last token is pooled, and it gets no prompts; {how}"
    base = None if loaded.base_model is None else str(loaded.base_model.value)
    is_bare_text_model = loaded.kind in ("pooled", "exported") and not loaded.has_own_files and not is_decoder
    if is_bare_text_model and not has_prompts and lacks_prompts(loaded.name, loaded.pooling_source, base):
        return (
            f"{loaded.name} has no files for sentence-transformers, which would name its prompts, so it gets none; "
            "models of this kind were trained with prompts, and are worse without; give those of its model card by "
            "query_prompt= and document_prompt=, or download the whole repository of the model"
        )
    return None


def _check_profile(profile: Decision, loaded: LoadedModel) -> None:
    """Raise `InvalidInput` if the caller named a profile of vision-language decoders for another kind of model."""
    is_decoder = loaded.kind == "pooled" and "image" in loaded.model.modalities
    if profile.source == ARGUMENT and profile.value.models and not is_decoder:
        raise InvalidInput(
            f"profile {profile.value.name!r} is for vision-language decoders, which {loaded.name!r} is not; leave "
            "profile out"
        )


def _decide_prompt(
    task: Task,
    given: str | None,
    names: Mapping[Task, str | None] | None,
    loaded: LoadedModel,
    profile: Profile,
) -> Decision:
    """Decide on a prompt: the given one, or the one that sentence-transformers would use, or that of the profile."""
    own = _retrieval_prompt(task, loaded.model) if names is None else _named_prompt(names.get(task), loaded)
    decision = Decision.first(
        f"{task}_prompt",
        (given, ARGUMENT),
        (own, OWN_FILES if names is None else ARGUMENT),
        (loaded.prompts.get(task), BY_NAME),
        (profile.prompts[task], profile.source),
    )
    if given is None and names is None and not decision.value:
        _warn_of_unused_prompt(task, loaded)
    return decision


def _retrieval_prompt(task: Task, model: AnyModel) -> str | None:
    """Return the prompt by the rule of `encode_query` and `encode_document` in sentence-transformers.

    The model's default prompt is not used, because it is neither for queries nor for documents. The names of prompts
    are tried in a fixed order. The first name that exists decides, even if its prompt is empty.
    """
    prompts = model.prompts or {}
    return next((prompts[name] for name in _PROMPT_NAMES[task] if name in prompts), None) or None


def _warn_of_unused_prompt(task: Task, loaded: LoadedModel) -> None:
    """Warn if the model's files name a prompt that the rule of sentence-transformers passes over.

    This happens to models with the prompts "query" and "passage", such as E5. When sentence-transformers loads them, it
    adds an empty prompt "document", and its `encode_document` uses this one. It also happens if no prompt is called
    "query", as in e5-mistral, whose prompt of queries is "web_search_query".
    """
    prompts = {name: prompt for name, prompt in (loaded.model.prompts or {}).items() if prompt}
    for name in _PROMPT_NAMES[task]:
        prompt = prompts.get(name)
        if prompt:
            warn_once(
                f"{loaded.name}: the model's files name a prompt {name!r} that encode_{task} of sentence-transformers "
                f"does not use, so smart_rag does not use it either; if the model needs it, as E5 models do, give "
                f"{task}_prompt={prompt!r}"
            )
            return
    if task == "query" and prompts and not any(name in prompts for names in _PROMPT_NAMES.values() for name in names):
        names = ", ".join(map(repr, prompts))
        warn_once(
            f"{loaded.name}: of the prompts {names} in the model's files, none has the name 'query', so queries get no "
            f"prompt, as in sentence-transformers; if the model needs one, choose it, for example by "
            f"prompt_names={{'query': {next(iter(prompts))!r}}}, or give its text by query_prompt=, on the command "
            "line --query-prompt"
        )


def _named_prompt(name: str | None, loaded: LoadedModel) -> str | None:
    """Return the prompt by the rule of `SentenceTransformer.encode`: the prompt ``name``, or the default prompt."""
    prompts = loaded.model.prompts or {}
    if name is not None and name not in prompts:
        raise InvalidInput(f"{loaded.name} has no prompt {name!r}; {nearest(name, prompts)}")
    chosen = loaded.model.default_prompt_name if name is None else name
    prompt = "" if chosen is None else prompts[chosen] or ""
    # If a model has no files of its own, it needs the prompt of its profile.
    return prompt if loaded.has_own_files else prompt or None


def _decide_policy(task: Task, given: TokenPolicy | None, loaded: LoadedModel, profile: Profile) -> Decision:
    # A model that was trained for late interaction knows which of its tokens count.
    own = "content" if loaded.kind in ("multi-vector", "jina-v4") else None
    of_profile = profile.query_tokens if task == "query" else profile.document_tokens
    decision = Decision.first(f"{task}_tokens", (given, ARGUMENT), (own, OWN_FILES), (of_profile, profile.source))
    check_choice(decision.name, decision.value, TokenPolicy)
    return decision
