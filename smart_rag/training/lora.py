"""Low-rank additions to a model's linear layers, by peft: where they go, and how they become part of the weights.

LoRA: Hu et al., 2022, "LoRA: low-rank adaptation of large language models".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch

from smart_rag.errors import InvalidInput, MissingExtra

if TYPE_CHECKING:
    from peft import LoraConfig
    from sentence_transformers import SentenceTransformer

# What sees, in the models of transformers: it is left as it is, as the paper's fine-tuning does.
_VISION = r".*\b(visual|vision_tower|vision_model|multi_modal_projector|embed_vision)\b.*"
_DROPOUT = 0.05


def config(model: SentenceTransformer, rank: int, alpha: int | None = None) -> LoraConfig:
    """Return additions of ``rank`` to all linear layers of the language model, by default scaled as the paper's are.

    Raises:
        InvalidInput: ``rank`` is greater than any weight's own.
        MissingExtra: peft is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise MissingExtra("peft", "train", "training with LoRA") from error
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    most = max((min(module.in_features, module.out_features) for module in linear), default=rank)
    if rank > most:
        raise InvalidInput(f"lora_rank must be at most {most}, the rank of the model's widest weights, got {rank}")
    transformer: Any = model.transformers_model
    sees = any(re.fullmatch(_VISION, name) for name, _ in transformer.named_modules())
    return LoraConfig(
        r=rank,
        lora_alpha=alpha or 2 * rank,  # the paper has 128 and 256
        lora_dropout=_DROPOUT,
        target_modules="all-linear",
        exclude_modules=_VISION if sees else None,
    )


def merge(model: SentenceTransformer) -> None:
    """Add what was learnt to the weights, and leave the model as one that never had additions."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    transformer: Any = model.transformers_model
    for name, module in list(transformer.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
            parent, _, own = name.rpartition(".")
            setattr(transformer.get_submodule(parent), own, module.get_base_layer())
    transformer.delete_adapter("default")
