"""Open the index of a command, with the encoder that the command's options ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smart_rag.config import DEFAULT_MODEL, IndexConfig
from smart_rag.embeddings.codec import get_codec
from smart_rag.encoders.loading import known_models
from smart_rag.errors import IndexMismatch, InvalidInput, ModelNotFound
from smart_rag.index.manifest import FILE_NAME, Manifest
from smart_rag.index.trust import check_model

if TYPE_CHECKING:
    from smart_rag.encoders.smart_encoder import SmartEncoder
    from smart_rag.index.smart_index import SmartIndex


def open_index(
    db: Path,
    model: str | None = None,
    *,
    config: IndexConfig | None = None,
    sources: Sequence[Path] | None = None,
    **options: object,
) -> SmartIndex:
    """Return the index in ``db``.

    Args:
        db: the folder of the index.
        model: a model to use instead of the index's model. It must give the same embeddings.
        config: if there is no index, create one with these settings. Without ``config``, a missing index is an error.
        sources: files and folders that the index may read, as in `SmartIndex.open`.
        options: arguments of `SmartEncoder`. If an option is None or False, its value is taken from the index.

    Raises:
        IndexNotFound: there is no index, and ``config`` is None.
        IndexMismatch: the index needs another encoder.
        ModelNotFound: the model cannot be loaded.
    """
    from smart_rag.encoders.smart_encoder import SmartEncoder
    from smart_rag.index.smart_index import SmartIndex

    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None and value is not False}
    if config is not None and not (db / FILE_NAME).exists():
        # Not `create`: another process may make the index at the same time.
        return SmartIndex.open_or_create(db, SmartEncoder(model or DEFAULT_MODEL, **given), config=config)
    if model is None and not given:
        return SmartIndex.open(db, sources=sources or ())
    description = Manifest.read(db).encoder or {}
    if "weights" not in description:  # the encoder of the index is not a SmartEncoder
        return SmartIndex.open(db, model, sources=sources or ())
    return SmartIndex.open(db, _encoder(db, description, model, given), sources=sources or ())


def _encoder(db: Path, description: Mapping[str, Any], model: str | None, given: Mapping[str, Any]) -> SmartEncoder:
    """Return the encoder of an index, with the options ``given``. ``model``, if given, replaces the index's."""
    from smart_rag.encoders.smart_encoder import SmartEncoder

    settings = {name: value for name, value in given.items() if name != "device"}
    own = {**description, **settings}
    if model is None:
        by_user = {"adapter": None} if "adapter" in given else {}
        check_model(db, {**description, **by_user}, runs_code="trust_remote_code" in given)
        return SmartEncoder.from_description(own, given.get("device"))
    own |= {"model": model, "revision": None, "trust_remote_code": "trust_remote_code" in given}
    own |= {"base_model": given.get("base_model")}  # the index's base model belongs to the index's model
    # What the user types is trusted. What the index adds to it must be harmless, or known.
    added = {**own, "model": DEFAULT_MODEL, "base_model": None} | ({"adapter": None} if "adapter" in given else {})
    if not known_models.is_known(description) and not known_models.is_known(added):
        check_model(db, own, runs_code=True)
    try:
        return SmartEncoder.from_description(own, given.get("device"))
    except InvalidInput as error:  # for example, the settings allow more tokens than this model takes
        raise IndexMismatch(
            f"{db}: the index was made with {description['model']!r} and cannot be used with {model!r}: {error}"
        ) from error
    except ModelNotFound as error:  # the network may be the reason, but the user may also have named a wrong model
        if model == description["model"]:
            raise
        raise ModelNotFound(
            f"{db}: the index was made with {description['model']!r} (leave out --model to use that); {error}"
        ) from error


def config_with_codec(name: str, db: Path) -> IndexConfig:
    """Return the settings of an index with the codec ``name``.

    Raises:
        InvalidInput: there is no such codec.
        IndexMismatch: there is an index in ``db``, and it has another codec.
    """
    wanted = get_codec(name).name
    found = Manifest.read(db).config.codec if (db / FILE_NAME).exists() else wanted
    if found != wanted:
        raise IndexMismatch(
            f"{db}: the index has the codec {found!r}, but --codec {name} asks for {wanted!r}; the codec of an index "
            "cannot change: index the documents into another folder"
        )
    return IndexConfig(codec=wanted)
