"""`Manifest`: ``manifest.json``, with the settings and the model that an index was made with.

An index is opened with the settings of its manifest. An argument that contradicts them is an error.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from smart_rag._version import __version__
from smart_rag.config import DEFAULT_WEIGHTS, IndexConfig, check_count
from smart_rag.embeddings.codec import get_codec
from smart_rag.encoders.protocol import Encoder, default_weights_of, modalities_of, token_dimension_of
from smart_rag.errors import IndexMismatch, IndexNotFound, InvalidInput
from smart_rag.paths import write_whole
from smart_rag.values import is_unicode
from smart_rag.wording import one_line

FORMAT_VERSION = 4
# From this format on, lists have columns, so filters can search lists.
_VERSION_OF_LISTS = 3
_OLDEST_VERSION = 2
_READABLE = f"{_OLDEST_VERSION} to {FORMAT_VERSION}"
FILE_NAME = "manifest.json"
# A larger file is not read. The largest manifests that smart_rag writes have some ten thousand bytes.
_MAX_BYTES = 1 << 20
_TYPES: dict[str, tuple[type, ...]] = {
    "format_version": (int,),
    "created_with": (str,),
    "dimension": (int,),
    "token_dimension": (int,),
    "encoder": (dict, type(None)),
    "fingerprint": (str, type(None)),
    "collection": (str,),
    "own_chroma": (bool,),
    "config": (dict,),
    "modalities": (list,),
    "id": (str, type(None)),
    "data": (str,),
    "owners": (list,),
}
# A folder of stores. No other path may come from a manifest, because the folder may be removed later.
DATA_NAME = re.compile("data-[0-9a-f]{16}")
# The settings of an encoder that a caller chooses. If all of them are the same, the model itself has changed.
_CHOSEN = (
    *("model", "revision", "query_prompt", "document_prompt", "max_length"),
    *("document_tokens", "max_pixels", "adapter", "paper", "profile", "base_model", "precision"),
)
# The settings of an encoder that its adapter decides.
_OF_ADAPTER = {"adapter", "layer", "token_dimension"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The identity of an index.

    ``encoder`` describes the encoder, and is None if the caller brings vectors. ``dimension`` is the width of the
    pooled embeddings. ``token_dimension`` is the width of the token embeddings. Old manifests do not have it. In this
    case, the width is ``dimension``. ``modalities`` are the kinds of content that the encoder takes. If ``"image"`` is
    among them, pages of PDFs were encoded as images. ``relevance`` is the scale of relevance, in the form in which
    `smart_rag.index.relevance.Calibration` records it. ``id`` is a random name. Only copies of the index have the same
    name. Indexes of older versions have no ``id``. ``data`` is the folder of the stores, inside the index's folder. It
    is empty if the stores are in the index's folder itself. ``owners`` are the tokens that the collection may have, if
    the caller brings the Chroma client (see `smart_rag.store.chroma.owner`).
    """

    format_version: int = FORMAT_VERSION
    created_with: str
    dimension: int
    encoder: Mapping[str, Any] | None
    fingerprint: str | None
    collection: str
    own_chroma: bool
    config: IndexConfig
    modalities: Sequence[str] = ("text",)
    token_dimension: int = 0
    relevance: Mapping[str, Any] | None = None
    id: str | None = None
    data: str = ""
    owners: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.data and not DATA_NAME.fullmatch(self.data):
            raise InvalidInput(f"data: expected data- and 16 hexadecimal digits, found {self.data!r:.80}")
        check_count("dimension", self.dimension)
        object.__setattr__(self, "token_dimension", self.token_dimension or self.dimension)
        object.__setattr__(self, "modalities", tuple(self.modalities))  # JSON gives a list
        object.__setattr__(self, "owners", tuple(self.owners))
        if self.config.weights is None:
            object.__setattr__(self, "config", replace(self.config, weights=DEFAULT_WEIGHTS))

    @classmethod
    def new(
        cls,
        encoder: Encoder | None,
        config: IndexConfig,
        *,
        dimension: int | None,
        token_dimension: int | None,
        collection: str,
        own_chroma: bool,
    ) -> Manifest:
        """Return the manifest of a new index. Without an encoder, the dimensions are those of the caller's vectors.

        Raises:
            InvalidInput: there is no encoder, and ``dimension`` is not a whole number of at least 1.
        """
        if encoder is not None:
            dimension, token_dimension = encoder.dimension, token_dimension_of(encoder)
        if dimension is None:
            raise InvalidInput("without an encoder, the dimension of the vectors must be given")
        dimension = check_count("dimension", dimension)
        token_dimension = None if token_dimension is None else check_count("token_dimension", token_dimension)
        # A preset may mean another codec in a later release, but the index keeps the codec that it was made with.
        codec, weights = get_codec(config.codec).name, config.weights or default_weights_of(encoder)
        return cls(
            id=secrets.token_hex(16),
            created_with=__version__,
            dimension=dimension,
            token_dimension=token_dimension or dimension,
            encoder=None if encoder is None else encoder.describe(),
            fingerprint=None if encoder is None else encoder.fingerprint,
            collection=collection,
            own_chroma=own_chroma,
            config=replace(config, codec=codec, weights=weights),
            modalities=("text",) if encoder is None else sorted(modalities_of(encoder)),
        )

    @property
    def weights(self) -> tuple[float, float]:
        """The weights of the pooled and the late score."""
        return self.config.weights or DEFAULT_WEIGHTS

    @property
    def has_lists(self) -> bool:
        """Whether filters can search lists in the metadata."""
        return self.format_version >= _VERSION_OF_LISTS

    @property
    def collection_name(self) -> str:
        """The name of the collection in Chroma. In a client of the caller, each ``data`` has its own collection."""
        return f"{self.collection}-{self.data}" if self.data and not self.own_chroma else self.collection

    def write(self, folder: Path) -> None:
        """Write the manifest into ``folder``. After a crash, it is the old or the new file, never a part of one."""
        write_whole(folder / FILE_NAME, json.dumps(asdict(self), indent=2, ensure_ascii=False))

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Return the manifest in ``folder``.

        Raises:
            IndexNotFound: there is no manifest, or the file is not a manifest of smart_rag.
            IndexMismatch: this version of smart_rag cannot read the index's format.
        """
        path = folder / FILE_NAME
        if not path.is_file():
            found = "does not exist" if not folder.exists() else f"holds no {FILE_NAME}"
            raise IndexNotFound(
                f"no index at {folder}: the folder {found}; make one with SmartIndex.create or `smart-rag index`"
            )
        try:
            values = _checked(path)
            version = values["format_version"]
            if version > FORMAT_VERSION:
                raise IndexMismatch(
                    f"{path}: the index has format {version}, this smart_rag reads formats {_READABLE}; "
                    "upgrade with: pip install -U smart-rag"
                )
            if version < _OLDEST_VERSION:
                raise IndexMismatch(
                    f"{path}: the index has format {version}, this smart_rag reads formats {_READABLE}; "
                    "index the documents again into another folder"
                )
            return cls(**{**values, "config": IndexConfig(**values["config"])})
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise IndexNotFound(
                f"{path} is not the manifest of an index: {_reason(error)}; restore the file from a backup, or index "
                "the documents again into another folder"
            ) from error

    def check_settings(self, folder: Path, config: IndexConfig | None, asked: Mapping[str, Any]) -> None:
        """Raise `IndexMismatch` unless the index in ``folder`` has the settings of ``config`` and ``asked``.

        Values that are None are not compared. ``weights`` and ``weighting`` are not compared either, because they can
        change. Neither are the defaults of the graph, because older versions had others.
        """
        if config is not None:
            asked = {**asked, **asdict(config), "codec": get_codec(config.codec).name}
        own = {**asdict(self), **asdict(self.config)}
        graph = {name: value for name, value in asdict(IndexConfig()).items() if name.startswith("hnsw_")}
        for name, value in asked.items():
            if value == graph.get(name):
                continue
            if name not in ("weights", "weighting") and value is not None and value != own[name]:
                raise IndexMismatch(
                    f"{folder}: the index was made with {name}={own[name]!r}, but {name}={value!r} is asked for; open "
                    "it with SmartIndex.open, or choose another folder for an index with this setting"
                )

    def converted(self, encoder: Encoder | None, codec: str) -> Manifest:
        """Return the manifest with another ``encoder``, if one is given, and with another ``codec``."""
        converted = replace(self, config=replace(self.config, codec=codec))
        if encoder is None or encoder.fingerprint == self.fingerprint:
            return converted
        config = replace(converted.config, weights=None)
        new = Manifest.new(
            encoder,
            config,
            dimension=None,
            token_dimension=None,
            collection=self.collection,
            own_chroma=self.own_chroma,
        )
        return replace(new, id=self.id, data=self.data)

    def with_new_data(self, data: str | None = None) -> Manifest:
        """Return the manifest of new stores, in the folder ``data``. By default, the folder has a new name."""
        return replace(self, data=data or f"data-{secrets.token_hex(8)}", format_version=FORMAT_VERSION)

    def found_again(self, encoder: Encoder) -> Manifest:
        """Return the manifest, with what of ``encoder`` concerns this machine alone.

        If the folder of its model or adapter is gone, the result names the model or adapter of ``encoder`` instead. If
        something else runs the model to the same numbers, the result names it, so that later searches need it, too.
        """
        known, now = self.encoder or {}, encoder.describe()
        gone = {
            name: now[name]
            for name in ("model", "adapter", "base_model")
            if now.get(name) and known.get(name) and Path(known[name]).is_absolute() and not Path(known[name]).exists()
        }
        runs = {name: now.get(name) for name in ("backend", "dtype") if now.get(name) != known.get(name)}
        if self.fingerprint != encoder.fingerprint or "weights" not in now:
            runs = {}
        changed = {**known, **gone, **runs}
        kept = {name: value for name, value in changed.items() if value is not None or name not in runs}
        return replace(self, encoder=kept) if gone or runs else self

    def check_encoder(self, folder: Path, encoder: Encoder) -> None:
        """Raise `IndexMismatch` unless the index in ``folder`` was made with ``encoder``."""
        if self.fingerprint != encoder.fingerprint:
            made_with = self.encoder.get("model") if self.encoder else "vectors of the caller's own"
            mine, other = self.encoder or {}, encoder.describe()
            theirs = json.loads(json.dumps(other))  # in the form in which the manifest stores it
            differ = [name for name in sorted({*mine, *theirs} - {"model"}) if mine.get(name) != theirs.get(name)]
            if differ == ["images"]:
                settings = {*mine.get("images", {}), *theirs.get("images", {})}
                changed = [name for name in sorted(settings) if _of_images(mine, name) != _of_images(theirs, name)]
                raise IndexMismatch(
                    f"{folder}: the index was made by smart_rag {self.created_with}, which gave {made_with!r} other "
                    f"images and positions than this one ({', '.join(changed)}); encode the documents again with "
                    "SmartIndex.convert(encoder) or `smart-rag convert --model`"
                )
            if differ == ["pooling"] and self.created_with == __version__:
                raise IndexMismatch(
                    f"{folder}: the index was made with {made_with!r}, pooled by {mine.get('pooling')}, and "
                    f"{other.get('model')!r} is pooled by {theirs.get('pooling')}; without files for "
                    "sentence-transformers, the name of a folder can decide it, so give the folder the name that it had"
                )
            if differ and set(differ) <= {"pooling", "modules"}:
                raise IndexMismatch(
                    f"{folder}: the index was made by smart_rag {self.created_with}, which pooled the model in "
                    f"{made_with!r} in another way; encode the documents again with SmartIndex.convert(encoder) or "
                    "`smart-rag convert --model`"
                )
            if all(mine.get(name) == other.get(name) for name in _CHOSEN):
                raise IndexMismatch(
                    f"{folder}: the model in {made_with!r}{_with(mine)} has changed since the index was made; put the "
                    "old one back, or index the documents again into another folder"
                )
            if mine.get("model") == other.get("model") and "adapter" in differ and _OF_ADAPTER.issuperset(differ):
                advice = "leave the adapter out" if mine.get("adapter") is None else "use the adapter of the index"
                raise IndexMismatch(
                    f"{folder}: the index was made with {made_with!r}{_adapter(mine)} and cannot be used"
                    f"{_adapter(other)}; {advice}, or index the documents again into another folder"
                )
            advice = "use the model that it was made with"
            then = (
                [f"profile={mine['profile']!r}"] if "profile" in differ and isinstance(mine.get("profile"), str) else []
            )
            then += [f"paper={mine.get('paper') is True}"] if "paper" in differ else []
            then += [f"dtype={mine.get('dtype')!r}"] if "precision" in differ else []
            then += [f"max_pixels={mine.get('max_pixels')}"] if "max_pixels" in differ else []
            if then:
                advice += f", as it was used then: SmartEncoder(..., {', '.join(then)})"
            raise IndexMismatch(
                f"{folder}: the index was made with {made_with!r}{_with(mine)} and cannot be used with "
                f"{other.get('model')!r}{_with(other)} as it is set up here (other {', '.join(differ) or 'numbers'}); "
                f"{advice}, or index the documents again into another folder"
            )


def _checked(path: Path) -> dict[str, Any]:
    """Return the values in the file ``path``.

    Raises:
        ValueError: the file is too large, is not JSON, or a value has another type.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"it has more than {_MAX_BYTES:,} bytes")
    text = path.read_text(encoding="utf-8")
    if not text.strip():
        raise ValueError("it is empty")
    values: dict[str, Any] = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError("it holds no JSON object")
    if "format_version" in values and values["format_version"] not in range(_OLDEST_VERSION, FORMAT_VERSION + 1):
        types = {"format_version": _TYPES["format_version"]}  # another format may have other types
    else:
        types = _TYPES
    for name, allowed in types.items():
        if name in values and type(values[name]) not in allowed:
            expected = " or ".join("null" if kind is type(None) else kind.__name__ for kind in allowed)
            raise ValueError(f"{name}: expected {expected}, found {values[name]!r:.80}")
    if types is _TYPES:
        _check_strings(values)
    return values


def _of_images(description: Mapping[str, Any], name: str) -> Any:
    return (description.get("images") or {}).get(name)


def _check_strings(values: Mapping[str, Any]) -> None:
    """Raise `ValueError` if a list of strings has other items, or if a string is no Unicode."""
    for name in ("modalities", "owners"):
        if not all(isinstance(item, str) for item in values.get(name, ())):
            raise ValueError(f"{name}: expected a list of str, found {values[name]!r:.80}")
    for name in ("model", "adapter", "base_model"):
        found = (values.get("encoder") or {}).get(name)
        if not isinstance(found, str | None):
            raise ValueError(f"encoder: expected a str for {name!r}, found {found!r:.80}")
    if not is_unicode(json.dumps(values, ensure_ascii=False)):
        raise ValueError("expected Unicode, found half of a surrogate pair")


def _reason(error: BaseException) -> str:
    match error:
        case json.JSONDecodeError():
            return f"it is no whole JSON object (line {error.lineno}, column {error.colno})"
        case UnicodeDecodeError():
            return "it is not UTF-8"
        case KeyError():
            return f"it has no {error.args[0]!r}"
        case RecursionError():
            return "it is nested too deeply"
    return one_line(error)


def _with(description: Mapping[str, Any]) -> str:
    return "" if description.get("adapter") is None else _adapter(description)


def _adapter(description: Mapping[str, Any]) -> str:
    adapter = description.get("adapter")
    return " without an adapter" if adapter is None else f" with the adapter {adapter!r}"
