"""Contents through a model: batches by token budget, one pass after the other, on one device or several."""

from __future__ import annotations

import copy
import logging
import os
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from smart_rag.embeddings.representation import Codec, TokenIds
from smart_rag.encoders.models.pooled import UNLIMITED, Backbone, Mask, Positions, Prepared
from smart_rag.encoders.profiles import TokenPolicy
from smart_rag.encoders.vocabulary import Vocabulary
from smart_rag.errors import InvalidInput
from smart_rag.types import Content, Task

if TYPE_CHECKING:
    import torch

    from smart_rag.encoders.adapter import Adapter

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Output:
    """What of each token is wanted of a forward pass: its embedding, or its states after ``layers``; by ``codec``."""

    layers: Sequence[int] | None = None
    codec: Codec | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """The numbers of one forward pass, already on the CPU; those of tokens may be codes."""

    pooled: NDArray[np.float32]
    tokens: list[NDArray[Any]]
    ids: list[TokenIds]


class Passes:
    """Forward passes of a model, and which token embeddings are taken from them.

    ``backbones`` are one model on each of its devices, which take batches in turn. A batch is of at most
    ``batch_size`` contents and ``batch_tokens`` tokens, padding included; where a GPU's memory runs out, ``batch_size``
    becomes less.
    """

    def __init__(
        self,
        backbones: Sequence[Backbone],
        policies: Mapping[Task, TokenPolicy],
        batch_size: int,
        batch_tokens: int,
    ) -> None:
        self.batch_size = batch_size
        self.batch_tokens = batch_tokens
        self._backbones = backbones
        self._backbone = backbones[0]
        self._policies = policies
        self._adapter: Adapter | None = None
        self._adapters: dict[torch.device, Adapter] = {}
        self._vocabulary = Vocabulary(self._backbone.tokenizer.decode)

    def adapt(self, adapter: Adapter) -> None:
        """Make token embeddings by ``adapter`` from here on."""
        self._adapter = adapter
        devices = {backbone.model.device for backbone in self._backbones}
        self._adapters = {device: copy.deepcopy(adapter).to(device) for device in devices}

    def run(self, contents: Sequence[Content], task: Task, output: Output) -> Iterator[tuple[list[int], Batch]]:
        """Yield the positions of each batch and its numbers."""
        batches = list(self._batches(contents, task))
        sees = any(content.plain != content.text for content in contents)
        if not sees and len(self._backbones) == 1:  # texts are read in no time
            for batch in batches:
                yield batch, self._forward([contents[i] for i in batch], task, output)
            return
        # While images of one batch are in the forward pass, those of the next are opened; one batch alone becomes two.
        if sees and len(batches) == 1 and len(batches[0]) > 1:
            middle = (len(batches[0]) + 1) // 2
            batches = [batches[0][:middle], batches[0][middle:]]
        parts = [[contents[i] for i in batch] for batch in batches]
        devices = len(self._backbones)
        # One thread reads, not more: a tokenizer can be used by one at a time.
        with ThreadPoolExecutor(1, "smart_rag") as reader, ThreadPoolExecutor(devices, "smart_rag") as runner:
            reading = deque(reader.submit(self._prepared, part, task) for part in parts[:devices])
            running: deque[Future[Batch]] = deque()
            done = iter(batches)
            for i, part in enumerate(parts):
                ready = reading.popleft().result()
                if i + devices < len(parts):
                    reading.append(reader.submit(self._prepared, parts[i + devices], task))
                running.append(runner.submit(self._forward, part, task, output, ready, self._backbones[i % devices]))
                if len(running) == devices:
                    yield next(done), running.popleft().result()
            for batch in done:
                yield batch, running.popleft().result()

    def kept(self, positions: Positions, task: Task) -> Mask:
        """Return which positions (n, length) take part in late interaction."""
        policy = self._policies[task]
        keep = positions.attended & ~positions.special & ~positions.pooled
        if policy == "text":
            keep &= ~positions.visual
        elif policy == "input":
            keep &= ~positions.template
        elif policy == "patches":
            keep &= positions.visual & ~positions.template
        return keep

    def _batches(self, contents: Sequence[Content], task: Task) -> Iterator[list[int]]:
        """Yield positions of contents of like length, longest first, so that memory runs out at once or never."""
        prompt = self._backbone.prompts[task]
        encoded = self._backbone.tokenizer(
            [prompt + content.text for content in contents], truncation=False, verbose=False
        )
        most = min(self._backbone.max_length or UNLIMITED, UNLIMITED)
        lengths = np.minimum([len(ids) for ids in encoded["input_ids"]], most)
        is_empty = (lengths == 0) & [content.image is None for content in contents]
        if is_empty.any() and not self._backbone.has_template:
            empty = int(np.argmax(is_empty))
            raise InvalidInput(
                f"text {empty} ({contents[empty].text!r}) gives {self._backbone.name} no token at all; "
                "leave such texts out"
            )
        lengths += [self._backbone.visual_tokens(content) for content in contents]
        batch: list[int] = []
        apart = not self._backbone.combines
        kinds = np.asarray([apart and content.image is not None for content in contents])
        for i in np.lexsort((-lengths, kinds)).tolist():
            longest = lengths[batch[0]] if batch else 0
            full = len(batch) == self.batch_size or (len(batch) + 1) * longest > self.batch_tokens
            full = full or (len(batch) > 0 and bool(kinds[i] != kinds[batch[0]]))
            # A video has a size of its own, which all of a batch would get.
            if batch and (full or any(contents[j].video is not None for j in (i, batch[0]))):
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def _prepared(self, contents: list[Content], task: Task) -> tuple[Prepared, TokenIds]:
        """Return what the forward pass reads of ``contents``, and the vocabulary ids (n, length)."""
        prepared = self._backbone.prepare(contents, task)
        return prepared, self._vocabulary_ids(prepared.positions)

    def _forward(
        self,
        contents: list[Content],
        task: Task,
        output: Output,
        ready: tuple[Prepared, TokenIds] | None = None,
        backbone: Backbone | None = None,
    ) -> Batch:
        """Return the numbers of ``contents``; when a GPU runs out of memory, of one half after the other."""
        import torch

        backbone = backbone or self._backbone
        try:
            with torch.inference_mode():
                return self._forward_once(backbone, *(ready or self._prepared(contents, task)), output)
        except torch.OutOfMemoryError:
            if len(contents) == 1:
                raise
        # Outside of the except clause: there the traceback still holds the failed batch's memory.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        middle = (len(contents) + 1) // 2
        self.batch_size = min(self.batch_size, middle)
        logger.warning(
            "%s ran out of memory with %d inputs; going on with %d", backbone.model.device, len(contents), middle
        )
        halves = [
            self._forward(half, task, output, backbone=backbone) for half in (contents[:middle], contents[middle:])
        ]
        return Batch(
            np.concatenate([half.pooled for half in halves]),
            [matrix for half in halves for matrix in half.tokens],
            [ids for half in halves for ids in half.ids],
        )

    def _forward_once(self, backbone: Backbone, prepared: Prepared, words: TokenIds, output: Output) -> Batch:
        import torch
        from torch.nn.functional import normalize

        adapter = self._adapter if output.layers is None else None
        layers = output.layers or ((-1,) if adapter is None else adapter.layers)
        states = backbone.forward(prepared, layers)
        if states.positions is not prepared.positions:  # tokens were merged, and are no words any more
            words = np.full(states.positions.ids.shape, -1, dtype=np.int32)
        keep = self.kept(states.positions, prepared.task)
        where = torch.from_numpy(keep).to(states.pooled.device)
        # Of the tokens that are kept, (total, layers, dimension).
        pooled, hidden = backbone.comparable(states.pooled, [of_layer[where] for of_layer in states.hidden])
        alone = pooled if states.summary is None else normalize(states.summary.float(), dim=1)
        alone = alone[:, None].expand(-1, len(layers), -1)  # for what has no token left
        if adapter is not None:
            on_device = self._adapters[pooled.device]
            flat, alone = on_device(hidden), on_device(alone)
        else:
            flat, alone = (part.flatten(1) / len(layers) ** 0.5 for part in (hidden, alone))
        # A copy for each text, so that keeping one keeps no other alive.
        starts = np.cumsum(keep.sum(axis=1))[:-1]
        copied = _copied if output.codec is None else output.codec.encode
        rows, ids = np.split(copied(flat), starts), np.split(words[keep], starts)
        substitutes, none = copied(alone), np.full(1, -1, dtype=np.int32)
        return Batch(
            pooled.cpu().numpy(),
            [row.copy() if len(row) else substitutes[i : i + 1].copy() for i, row in enumerate(rows)],
            [row.copy() if len(row) else none for row in ids],
        )

    def _vocabulary_ids(self, positions: Positions) -> TokenIds:
        """Return the vocabulary ids (n, length), -1 for punctuation and for what is not the content's text."""
        words = self._vocabulary.ids(positions.ids)
        words[positions.visual | positions.template] = -1
        return words


def _one_thread() -> None:
    """Have torch use one thread in a forked process: it would wait for the parent's, of which there are none."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_one_thread)


def _copied(rows: torch.Tensor) -> NDArray[np.float32]:
    return rows.cpu().numpy()
