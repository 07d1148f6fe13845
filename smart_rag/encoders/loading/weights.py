"""Check that a model has all weights of its files, and that its files have all weights of the model.

transformers fills a missing weight with random numbers, and only logs a warning. The ranking of such a model still
looks plausible. So here, each weight that takes part in an embedding must be in the files, with the right shape, and
the files must hold no weight that is left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from smart_rag.encoders.compatibility import AnyModel
from smart_rag.encoders.loading.weights_report import WeightsReport, heads_beside, knows_words, uses_pooler
from smart_rag.errors import ModelNotFound

if TYPE_CHECKING:
    import torch

# Tensors of published files that no embedding needs, even if config.json does not name the class that has them: heads
# that predict words, sentences or classes, layers that predict further words, a pooler, and buffers that older releases
# of transformers saved. Any other name may be a projection, so it is an error.
_HEADS = re.compile(
    r"(^|\.)lm_head\.|^(cls|classifier|score|mtp|pooler|embed_out|lm_predictions|mask_predictions)\."
    r"|(^|\.)(position_ids|token_type_ids|final_logits_bias)$|(^|\.)rotary_(pos_)?emb\.inv_freq$"
)
_POOLER = "pooler."
_SHOWN = 3


def check_weights(
    path: str, model: AnyModel, reports: Sequence[WeightsReport], read_elsewhere: Sequence[str] = ()
) -> None:
    """Raise `ModelNotFound` if ``reports`` name a weight that takes part in the embeddings of ``model``.

    A BERT without its pooler is no error, because no embedding needs the pooler. But its random numbers would be part
    of the fingerprint, which would then differ after each loading. So such a pooler is taken out of the model.

    Args:
        path: the folder or the name of the model, for the message.
        model: the model that was loaded.
        reports: what transformers reports of each part of the model.
        read_elsewhere: names of tensors that our own code has read from the files.

    Raises:
        ModelNotFound: a weight is missing, is left over, or has another shape. The message names the tensors.
    """
    for report in reports:
        missing = set(report.missing)
        if not uses_pooler(model):
            poolers = {name for name in missing if name.startswith(_POOLER)}
            missing -= poolers
            if poolers:
                report.model.pooler = None
        unexpected = [name for name in report.unexpected if not _HEADS.search(name)]
        if unexpected:
            heads = heads_beside(report.model)
            unexpected = [name for name in unexpected if name not in read_elsewhere and not name.startswith(heads)]
        shapes = [
            f"{name!r} {in_file} instead of {in_model}" for name, (in_file, in_model) in report.mismatched.items()
        ]
        found = {
            "missing in the files": [repr(name) for name in missing],
            "in the files, but not in the model": [repr(name) for name in unexpected],
            "of another shape": shapes,
        }
        problems = [f"{what}: {_some(names)}" for what, names in found.items() if names]
        if problems:
            raise ModelNotFound(
                f"the weights in {path!r} do not fit the model {type(report.model).__name__} that its config.json "
                f"states. Tensors {'; '.join(problems)}. transformers would go on with random numbers, or without "
                "these tensors, so the embeddings would be wrong; take all files of the model again, or the model in "
                "the format of sentence-transformers or transformers"
            )


def check_numbers(path: str, model: AnyModel) -> None:
    """Raise `ModelNotFound` if a weight of ``model`` that takes part in its embeddings has no number somewhere.

    A damaged file or a training that failed gives such weights. Then all embeddings are NaN, or only some of them.
    """
    broken = []
    for name, weight in model.named_parameters():
        is_unused = f".{_POOLER}" in name and not uses_pooler(model)
        if weight.is_floating_point() and weight.element_size() > 1 and not is_unused and not is_finite(weight):
            broken.append(repr(name))
    if broken:
        raise ModelNotFound(
            f"the weights in {path!r} are damaged: NaN or infinity is in {_some(broken)}; take all files of the model "
            "again, or another revision of it"
        )


def check_length(path: str, model: AnyModel) -> None:
    """Raise `ModelNotFound` if the maximum length of a text in the model's files is no length."""
    length = model.max_seq_length
    if length is not None and (isinstance(length, bool) or not isinstance(length, int | float) or length < 1):
        raise ModelNotFound(
            f"the files in {path!r} say max_seq_length={length!r}, expected a whole number of at least 1 "
            "(sentence_bert_config.json, tokenizer_config.json); take all files of the model again"
        )


def is_finite(weight: torch.Tensor) -> bool:
    """Return whether all values of ``weight`` are numbers. One sum says so, without a copy of the weight."""
    import torch

    return bool(torch.isfinite(weight.detach().sum(dtype=torch.float32)))


def check_tokenizer(path: str, model: AnyModel) -> None:
    """Raise `ModelNotFound` if the tokenizer of ``model`` has no word.

    If the file of the vocabulary is missing, transformers makes a tokenizer without words, and does not say so.
    """
    if not knows_words(model.tokenizer):
        raise ModelNotFound(
            f"the tokenizer of {path!r} has only {len(model.tokenizer)} special tokens and no words; expected a file "
            "such as tokenizer.json, vocab.txt or vocab.json; take all files of the model again"
        )


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(sorted(names)[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
