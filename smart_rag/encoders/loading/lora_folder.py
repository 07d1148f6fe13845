"""`LoraFolder`: a model that is published as a LoRA alone. Its base model is another repository or folder.

The file ``adapter_config.json`` names the base model. The files of the LoRA are laid over those of the base model, in a
temporary folder of links. The result is loaded like any other model, and peft adds the LoRA to the weights.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from smart_rag.encoders.compatibility import AnyModel, transformer_config
from smart_rag.encoders.loading.repository import Repository
from smart_rag.encoders.loading.weights import is_finite
from smart_rag.errors import MissingExtra, ModelNotFound
from smart_rag.wording import first_line

_SETTINGS = "adapter_config.json"
# A folder with one of these files holds a whole model.
_WHOLE = ("model.safetensors.index.json", "pytorch_model.bin.index.json", "model.safetensors", "pytorch_model.bin")
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
# Files of the LoRA that never replace one of the base model: they describe its weights, or they are the LoRA.
_OF_BASE = ("config.json", "generation_config.json")
_HOW = "base_model=, on the command line --base-model"


@dataclass(frozen=True, slots=True)
class LoraFolder:
    """A repository with a LoRA and without a model. ``settings`` is the content of its ``adapter_config.json``."""

    name: str
    files: Repository
    settings: Mapping[str, Any]

    @classmethod
    def find(cls, name: str, files: Repository) -> LoraFolder | None:
        """Return the LoRA in ``files``. Return None if there is none.

        Raises:
            MissingExtra: there is one, and peft is not installed.
            ModelNotFound: there is a whole model beside it, to which transformers would add the LoRA without a word.
        """
        settings = files.json(_SETTINGS)
        if not settings:
            return None
        whole = next((weights for weights in _WHOLE if files.find(weights) is not None), None)
        if whole is not None:
            raise ModelNotFound(
                f"{name!r} has a whole model ({whole}) and the settings of a LoRA ({_SETTINGS}); if the LoRA was "
                f"merged into the model, it would be added twice; move {_SETTINGS} away to use the model alone, or "
                f"{whole} to use the LoRA on its base model"
            )
        if not any(files.find(weights) is not None for weights in _WEIGHTS):
            raise ModelNotFound(
                f"{name!r} has the settings of a LoRA ({_SETTINGS}) and no weights; expected {' or '.join(_WEIGHTS)}; "
                "take all files of the LoRA again"
            )
        try:
            import peft  # noqa: F401
        except ImportError as error:
            raise MissingExtra("peft", "lora", f"the model {name!r}, which is a LoRA of another model,") from error
        return cls(name, files, settings)

    def check_start(self, *, is_plain: bool) -> None:
        """Raise `ModelNotFound` if the LoRA needs base weights that cannot be had.

        When peft loads such a LoRA, it first takes a part out of the base weights. With ``pissa_niter``, this part is
        another one each time. With ``is_plain``, nothing is taken out.
        """
        start = self.settings.get("init_lora_weights", True)
        unknown = ("pissa", "olora", "loftq", "corda") if is_plain else ("pissa_niter", "loftq", "corda")
        if isinstance(start, str) and start.lower().startswith(unknown):
            raise ModelNotFound(
                f"the LoRA {self.name!r} cannot be added to its base model: its {_SETTINGS} has "
                f"init_lora_weights={start!r}, so peft would compute other base weights first; merge it into its base "
                "model where it was trained, or save it as a plain LoRA (peft: save_pretrained(folder, "
                "path_initial_model_for_weight_conversion=...))"
            )

    def base(self, given: str | None) -> tuple[str, str | None]:
        """Return the name or the folder of the base model, and its revision. ``given`` comes first.

        The file of the LoRA may name a repository of the hub, or a folder of this machine by its full path.

        Raises:
            ModelNotFound: the file names no such model.
        """
        named, revision = str(self.settings.get("base_model_name_or_path") or ""), self.settings.get("revision")
        if given is not None and given != named:
            return given, None
        if _HUB_NAME.fullmatch(named) and Path(named).exists():
            raise ModelNotFound(
                f"the model {self.name!r} is a LoRA, and its {_SETTINGS} names the base model {named!r}. There is a "
                f"folder of this name here, and a model of this name may be on the hub; say which by {_HOW}"
            )
        if _HUB_NAME.fullmatch(named):
            return named, None if revision is None else str(revision)
        if Path(named).is_absolute() and not named.startswith(("//", r"\\")) and Path(named).is_dir():
            return named, None
        raise ModelNotFound(
            f"the model {self.name!r} is a LoRA, and its {_SETTINGS} names the base model {named!r}, which is neither "
            f"the name of a model nor a folder on this machine; name the base model by {_HOW}"
        )

    @contextmanager
    def over(self, base: Repository, *, with_code: bool) -> Iterator[Repository]:
        """Yield the files of ``base`` with those of the LoRA over them, as one folder.

        Tokenizer, processor, templates and modules of the LoRA replace those of the base model. Its ``config.json``
        does not. Without ``with_code``, Python files are left out.

        Raises:
            ModelNotFound: the base model cannot be had, or it is a LoRA itself.
        """
        if base.json(_SETTINGS) and LoraFolder.find(base.path, base) is not None:
            raise ModelNotFound(
                f"the base model {base.path!r} of {self.name!r} is a LoRA itself; merge it into its own base model, "
                f"and name the result by {_HOW}"
            )
        with TemporaryDirectory(prefix="smart_rag_lora_") as temporary:
            folder = Path(temporary)
            try:
                link_all(base.folder(), folder, with_code)
            except Exception as error:  # the HTTP client and the hub decide which
                raise ModelNotFound(
                    f"the model {self.name!r} is a LoRA of {base.path!r}, which this machine does not have and cannot "
                    f"download; if you have it in a folder, name it by {_HOW}"
                ) from error
            link_all(self.files.folder(), folder, with_code, but=_OF_BASE)
            try:
                yield replace(base, path=str(folder), revision=None, local=True)
            except OSError as error:  # transformers names the temporary folder
                if str(folder) not in str(error):
                    raise
                raise ModelNotFound(
                    f"the base model {base.path!r} of the LoRA {self.name!r} lacks a file: "
                    f"{first_line(error).replace(str(folder), base.path)}; take all its files again"
                ) from error

    def add_to(self, model: AnyModel) -> None:
        """Add the LoRA to the weights of ``model``, which are float32 on the CPU.

        Raises:
            ModelNotFound: a tensor of the LoRA fits no weight of the model, or a tensor is missing.
        """
        problem = _add(model.transformers_model, self.files.folder())
        if problem:
            raise ModelNotFound(f"the LoRA {self.name!r} does not fit its base model: {problem}")


def link_all(source: Path, folder: Path, with_code: bool, but: tuple[str, ...] = ()) -> None:
    """Link the files in ``source`` and below it into ``folder``, over those that are there."""
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source)
        is_hidden = any(part.startswith(".") or part.startswith("checkpoint-") for part in name.parts)
        is_left_out = str(name) in but or name.name.startswith("adapter_") or (path.suffix == ".py" and not with_code)
        if is_hidden or is_left_out or not path.is_file():
            continue
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            os.symlink(path.resolve(), target)
        except OSError:  # Windows lets only some users make links
            shutil.copyfile(path, target)


def _add(model: Any, folder: Path) -> str:
    """Add the LoRA in ``folder`` to the weights of ``model``, in place. Return what does not fit, or an empty text.

    transformers knows the names that weights had in its older releases. The sum is computed in float64 and then rounded
    to float32, so that it is the same on every machine.
    """
    from peft import PeftConfig, load_peft_weights
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    config: Any = PeftConfig.from_pretrained(str(folder))
    if getattr(config, "trainable_token_indices", None):
        return (
            "it has rows of single tokens (trainable_token_indices), so it must be merged into its base model by peft; "
            "then name the result in place of the LoRA"
        )
    saved = load_peft_weights(str(folder), device="cpu")
    broken = sorted(name for name, tensor in saved.items() if not is_finite(tensor))
    if broken:
        return f"its file is damaged, NaN or infinity is in {_some(broken)}; take all files of the LoRA again"
    weights = {_name_in(model, name): tensor for name, tensor in saved.items()}
    report = model.load_adapter(peft_config=config, adapter_state_dict=weights)
    heads = ("lm_head.", "model.lm_head.")  # an embedding does not need the head that predicts words
    unused = sorted(name for name in report.unexpected_keys if not name.startswith(heads))
    missing = sorted(report.missing_keys)
    for what, names in (
        ("the LoRA has {}, which fits no weight of it", unused),
        ("{} has another shape", sorted(str(key) for key in report.mismatched_keys)),
        ("the LoRA has nothing for its {}", missing if len(missing) >= len(saved) else []),
    ):
        if names:
            return f"{what.format(_some(names))}; name the model that it was trained on by {_HOW}"
    if missing:
        return (
            f"its file lacks {_some(missing)}, and has the other {len(saved)} tensors; take all files of the LoRA "
            f"again, or, if it was trained on a smaller model, name that one by {_HOW}"
        )
    if not any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        return f"it changes no weight of it; name the model that it was trained on by {_HOW}"
    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            layer: Any = module
            layer.double().merge(safe_merge=True)
            whole = layer.get_base_layer().float()
        elif isinstance(module, AuxiliaryTrainingWrapper):  # a module that was trained as a whole
            whole = module.unload_and_optionally_merge_module(merge=True, safe_merge=True, adapter_names=None)
        else:
            continue
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, whole)
    model.delete_adapter("default")
    return ""


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _name_in(model: Any, name: str) -> str:
    """Return the name of a saved tensor without the parts that ``model`` does not have.

    The LoRA of a model with a head has one part more than the model without a head, which makes embeddings. The norms
    of a DoRA have an old name, which peft knows, but transformers does not.
    """
    name = name.removeprefix("base_model.model.")
    name = f"{name}.weight" if name.endswith("lora_magnitude_vector") else name
    parts = {part for part, _ in model.named_children()}
    first, _, rest = name.partition(".")
    return rest if first not in parts and rest.partition(".")[0] in parts else name


def round_weights(model: AnyModel, dtype: str) -> None:
    """Round the weights of ``model`` to ``dtype``, such as ``"bfloat16"``. Buffers keep their precision."""
    import torch

    wanted = getattr(torch, dtype)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(wanted)
    transformer_config(model).dtype = wanted


def dtype_of(wanted: Any, files: Repository) -> str:
    """Return the name of the precision ``wanted``. ``"auto"`` means the one in the ``config.json`` of ``files``."""
    name = str(wanted).removeprefix("torch.")
    if name != "auto":
        return name
    config = files.json("config.json")
    return str(config.get("dtype") or config.get("torch_dtype") or "float32")
