"""LoRA by peft: low-rank additions to a model's linear layers. At the end, they are merged into the weights.

Hu et al., 2022, "LoRA: low-rank adaptation of large language models".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch

from smart_rag.errors import InvalidInput, MissingExtra

if TYPE_CHECKING:
    from peft import LoraConfig
    from sentence_transformers import SentenceTransformer

# Names of vision modules in transformers' models. They are not trained, as in the paper's fine-tuning.
_VISION = r".*\b(visual|vision_tower|vision_model|multi_modal_projector|embed_vision)\b.*"
_DROPOUT = 0.05


def config(model: SentenceTransformer, rank: int, alpha: int | None = None) -> LoraConfig:
    """Return a configuration with additions of this ``rank`` to all linear layers of the language model.

    The additions are scaled by ``alpha`` / ``rank``. Without ``alpha``, they are scaled by 2, as in the
    paper, where the rank is 128 and alpha is 256.

    Raises:
        InvalidInput: ``rank`` exceeds the rank of every weight matrix.
        MissingExtra: peft is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise MissingExtra("peft", "train", "training with LoRA") from error
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    highest = max((min(module.in_features, module.out_features) for module in linear), default=rank)
    if rank > highest:
        raise InvalidInput(
            f"lora_rank must be at most {highest}, the highest rank of the model's weight matrices, got {rank}"
        )
    transformer: Any = model.transformers_model
    has_vision = any(re.fullmatch(_VISION, name) for name, _ in transformer.named_modules())
    return LoraConfig(
        r=rank,
        lora_alpha=alpha or 2 * rank,  # the paper: rank 128, alpha 256
        lora_dropout=_DROPOUT,
        target_modules="all-linear",
        exclude_modules=_VISION if has_vision else None,
    )


def merge(model: SentenceTransformer) -> None:
    """Merge the additions into the weights of ``model``, in place, and remove peft's layers from the model."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    transformer: Any = model.transformers_model
    for name, module in list(transformer.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
            parent, _, own = name.rpartition(".")
            setattr(transformer.get_submodule(parent), own, module.get_base_layer())
    transformer.delete_adapter("default")
