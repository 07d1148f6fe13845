"""`FileTokenizer`: a tokenizer from its ``tokenizer.json``, with the calls of transformers that smart_rag uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Names of the ids that a tokenizer of transformers has.
_NAMED = ("bos", "eos", "cls", "sep", "pad", "mask", "unk")


def settings_of(tokenizer: Any) -> dict[str, Any]:
    """Return, as JSON values, what a ``tokenizer`` of transformers knows and its ``tokenizer.json`` does not say."""
    return {
        "special_ids": sorted(tokenizer.all_special_ids),
        "named_ids": {name: getattr(tokenizer, f"{name}_token_id", None) for name in _NAMED},
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
        "pad_type": tokenizer.pad_token_type_id,
    }


class FileTokenizer:
    """A tokenizer that needs no transformers.

    It holds the tokenizer twice, because the length at which texts are cut is a state of a tokenizer, and other threads
    may use it.

    Args:
        path: the file ``tokenizer.json``.
        settings: what `settings_of` returned.
        max_length: the number of tokens after which a text is cut, including special tokens. None for no limit.
    """

    is_fast = True

    def __init__(self, path: Path, settings: Mapping[str, Any], max_length: int | None) -> None:
        from tokenizers import Tokenizer

        self.backend_tokenizer, self._cutting = Tokenizer.from_file(str(path)), Tokenizer.from_file(str(path))
        for tokenizer in (self.backend_tokenizer, self._cutting):
            tokenizer.no_padding()
            tokenizer.no_truncation()
        self._settings = settings
        self.all_special_ids: list[int] = list(settings["special_ids"])
        for name, id in settings["named_ids"].items():
            setattr(self, f"{name}_token_id", id)
        self.limit_length(max_length)

    def limit_length(self, max_length: int | None) -> None:
        """Cut texts after ``max_length`` tokens, including special tokens, where a caller asks for it."""
        if max_length is None:
            self._cutting.no_truncation()
        else:
            self._cutting.enable_truncation(max_length, direction=self._settings["truncation_side"])

    def encodings(self, texts: Sequence[str]) -> list[Any]:
        """Return for each text its ids, tokens and places, as the library tokenizers gives them."""
        found: list[Any] = self._cutting.encode_batch(list(texts))
        return found

    def __call__(
        self,
        text: str | Sequence[str],
        *,
        add_special_tokens: bool = True,
        truncation: bool = False,
        return_offsets_mapping: bool = False,
        max_length: int | None = None,
        verbose: bool = True,
    ) -> dict[str, Any]:
        """Return ``input_ids``, and with ``return_offsets_mapping`` also ``offset_mapping``, of a text or of several.

        ``max_length`` and ``verbose`` are the arguments of a tokenizer of transformers. This one is cut at the length
        that was set, and it never warns.
        """
        texts = [text] if isinstance(text, str) else text
        tokenizer = self._cutting if truncation else self.backend_tokenizer
        # Without the places of tokens, the library needs a quarter less time.
        read = tokenizer.encode_batch if return_offsets_mapping else tokenizer.encode_batch_fast
        found = read(list(texts), add_special_tokens=add_special_tokens)
        encoded: dict[str, Any] = {"input_ids": [each.ids for each in found]}
        if return_offsets_mapping:
            encoded["offset_mapping"] = [each.offsets for each in found]
        return {name: values[0] for name, values in encoded.items()} if isinstance(text, str) else encoded

    def get_vocab(self) -> dict[str, int]:
        """Return the ids of all tokens by their names."""
        vocabulary: dict[str, int] = self.backend_tokenizer.get_vocab()
        return vocabulary

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids``."""
        text: str = self.backend_tokenizer.decode(list(ids), skip_special_tokens=False)
        return text

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """Return the names of the tokens with these ``ids``."""
        tokens: list[Any] = [self.backend_tokenizer.id_to_token(id) for id in ids]
        return tokens
