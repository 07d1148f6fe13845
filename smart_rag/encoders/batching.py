"""`BatchEncoder`: encodes contents with a model in batches, on one device or on several."""

from __future__ import annotations

import copy
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from smart_rag.embeddings.tokens import Codec, TokenIds
from smart_rag.encoders.models.inputs import Prepared
from smart_rag.encoders.models.pooled import PooledModel
from smart_rag.encoders.models.positions import Mask, Positions
from smart_rag.encoders.profiles import TokenPolicy
from smart_rag.encoders.vocabulary import Vocabulary
from smart_rag.errors import EncoderError
from smart_rag.types import Content, Task
from smart_rag.wording import first_line, number

if TYPE_CHECKING:
    import torch

    from smart_rag.encoders.adapter import Adapter

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Output:
    """What to return per token: its embedding, its states after ``layers`` (side by side) or its code by ``codec``."""

    layers: Sequence[int] | None = None
    codec: Codec | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Pooled embeddings, token embeddings and vocabulary ids of n inputs, on the CPU.

    ``pooled`` is (n, dimension) float32. ``norms`` (n) are the norms of the vectors as the model returns them. Each
    input has one entry in ``tokens`` and one in ``ids``. The entry in ``tokens`` has one row for each token: its
    embedding or its code. The entry in ``ids`` has the vocabulary ids of the tokens.
    """

    pooled: NDArray[np.float32]
    norms: NDArray[np.float32]
    tokens: list[NDArray[Any]]
    ids: list[TokenIds]


class BatchEncoder:
    """Runs forward passes over many contents, and chooses the token embeddings to keep.

    Args:
        models: the same model on each of its devices. The devices take batches in turn.
        policies: the policies that decide which tokens of queries and of documents to keep.
        batch_size: maximum number of contents in one forward pass. It shrinks when a GPU runs out of memory.
        batch_tokens: maximum number of tokens in one forward pass, including padding.
    """

    def __init__(
        self,
        models: Sequence[PooledModel],
        policies: Mapping[Task, TokenPolicy],
        batch_size: int,
        batch_tokens: int,
    ) -> None:
        self.batch_size = batch_size
        self.batch_tokens = batch_tokens
        self.models = models
        self._inputs = models[0].inputs
        self._policies = policies
        self._adapter: Adapter | None = None
        self._adapters: dict[torch.device, Adapter] = {}
        self._vocabulary = Vocabulary(self._inputs.tokenizer.decode)

    def use_adapter(self, adapter: Adapter) -> None:
        """Use ``adapter`` for token embeddings from now on."""
        self._adapter = adapter
        devices = {model.model.device for model in self.models}
        self._adapters = {device: copy.deepcopy(adapter).to(device) for device in devices}

    def with_prompts(self, prompts: Mapping[Task, str]) -> BatchEncoder:
        """Return a copy with other ``prompts``. It shares the weights with this object."""
        other = copy.copy(self)
        other.models = [model.with_prompts(prompts) for model in self.models]
        other._inputs = other.models[0].inputs
        return other

    def encode(
        self,
        contents: Sequence[Content],
        task: Task,
        output: Output,
        batch_size: int | None = None,
        show_progress_bar: bool = False,
    ) -> Batch:
        """Return the embeddings of ``contents`` in their order. There must be at least one content.

        For this call, ``batch_size`` replaces the attribute ``batch_size``.

        Raises:
            InvalidInput: a text has no token.
        """
        from tqdm.auto import tqdm

        started = time.perf_counter()
        pooled: list[NDArray[np.float32]] = [np.empty(0, dtype=np.float32)] * len(contents)
        norms = np.empty(len(contents), dtype=np.float32)
        tokens: list[NDArray[Any]] = [*pooled]
        ids: list[TokenIds] = [np.empty(0, dtype=np.int32)] * len(contents)
        device = self.models[0].model.device
        unit = "text" if all(content.modality in ("text", "") for content in contents) else "item"
        with tqdm(
            total=len(contents), desc=f"encoding on {device}", unit=unit, disable=not show_progress_bar
        ) as progress:
            for indices, batch in self._run(contents, task, output, batch_size or self.batch_size):
                for i, *numbers in zip(indices, batch.pooled, batch.tokens, batch.ids, strict=True):
                    pooled[i], tokens[i], ids[i] = numbers
                norms[indices] = batch.norms
                progress.update(len(indices))
        seconds = time.perf_counter() - started
        logger.info(
            "encoded %s, %s, on %s in %.2f s (%.0f %ss/s)",
            *(number(len(contents), f"{task} {unit}"), number(sum(map(len, tokens)), "token")),
            *(device, seconds, len(contents) / seconds, unit),
        )
        return Batch(np.stack(pooled), norms, tokens, ids)

    def _run(
        self, contents: Sequence[Content], task: Task, output: Output, batch_size: int
    ) -> Iterator[tuple[list[int], Batch]]:
        """For each batch, yield the positions of its contents in ``contents``, and its embeddings."""
        batches = list(self._batches(contents, task, batch_size))
        is_visual = any(content.plain != content.text for content in contents)
        if is_visual and len(batches) == 1 and len(batches[0]) > 1:  # two half batches can overlap in time
            middle = (len(batches[0]) + 1) // 2
            batches = [batches[0][:middle], batches[0][middle:]]
        if is_visual or len(self.models) > 1:
            yield from self._run_in_threads(batches, contents, task, output)
            return
        for batch in batches:  # texts are prepared at once, so no thread is needed
            yield batch, self._encode_batch(self.models[0], [contents[i] for i in batch], task, output)

    def _run_in_threads(
        self, batches: list[list[int]], contents: Sequence[Content], task: Task, output: Output
    ) -> Iterator[tuple[list[int], Batch]]:
        """Prepare the next batches while others are in a forward pass."""
        devices = len(self.models)
        parts = [[contents[i] for i in batch] for batch in batches]
        context = copy_context()  # the caller's limits for reading files hold there, too
        # Only one thread prepares, because two threads must not use a tokenizer at the same time.
        with ThreadPoolExecutor(1, "smart_rag") as preparer, ThreadPoolExecutor(devices, "smart_rag") as runner:
            preparing = deque(preparer.submit(context.run, self._prepare, part, task) for part in parts[:devices])
            running: deque[Future[Batch]] = deque()
            finished = iter(batches)
            for i, part in enumerate(parts):
                ready = preparing.popleft().result()
                if i + devices < len(parts):
                    preparing.append(preparer.submit(context.run, self._prepare, parts[i + devices], task))
                running.append(runner.submit(self._encode_batch, self.models[i % devices], part, task, output, ready))
                if len(running) == devices:
                    yield next(finished), running.popleft().result()
            for batch in finished:
                yield batch, running.popleft().result()

    def kept(self, positions: Positions, task: Task) -> Mask:
        """Return the positions (n, length) of the tokens that take part in late interaction."""
        return positions.kept(self._policies[task])

    def _batches(self, contents: Sequence[Content], task: Task, batch_size: int) -> Iterator[list[int]]:
        """Yield indices of contents of similar length. The longest come first, so memory runs out early or never."""
        lengths = self._inputs.lengths(contents, task)
        is_apart = not self._inputs.combines_modalities
        is_image = np.asarray([is_apart and content.image is not None for content in contents])
        batch: list[int] = []
        for i in np.lexsort((-lengths, is_image)).tolist():
            if batch and self._is_full(batch, i, contents, lengths, is_image, batch_size):
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def _is_full(
        self,
        batch: list[int],
        i: int,
        contents: Sequence[Content],
        lengths: NDArray[np.int64],
        is_image: NDArray[np.bool_],
        batch_size: int,
    ) -> bool:
        """Return whether there is no room for content ``i`` in ``batch``."""
        first = batch[0]
        return (
            len(batch) >= batch_size
            or (len(batch) + 1) * lengths[first] > self.batch_tokens
            or bool(is_image[i] != is_image[first])
            # Each video has its own frame size. All contents of a batch would get this size.
            or any(contents[j].video is not None for j in (i, first))
        )

    def _prepare(self, contents: list[Content], task: Task) -> tuple[Prepared, TokenIds]:
        """Return the inputs of a forward pass, and their vocabulary ids (n, length)."""
        prepared = self._inputs.prepare(contents, task)
        return prepared, self._vocabulary_ids(prepared.positions)

    def _vocabulary_ids(self, positions: Positions) -> TokenIds:
        """Return the vocabulary ids (n, length). Punctuation and tokens outside the content's text have -1."""
        words = self._vocabulary.ids(positions.ids)
        words[positions.visual | positions.template] = -1
        return words

    def _encode_batch(
        self,
        model: PooledModel,
        contents: list[Content],
        task: Task,
        output: Output,
        ready: tuple[Prepared, TokenIds] | None = None,
    ) -> Batch:
        """Return the results for ``contents``. If a GPU runs out of memory, encode one half after the other."""
        if not model.uses_torch:
            return self._forward(model, *(ready or self._prepare(contents, task)), output)
        import torch

        try:
            with torch.inference_mode():
                return self._forward(model, *(ready or self._prepare(contents, task)), output)
        except torch.OutOfMemoryError:
            if len(contents) == 1:
                raise
        # This is outside of the except clause, because its traceback would keep the failed batch in memory.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        middle = (len(contents) + 1) // 2
        self.batch_size = min(self.batch_size, middle)
        logger.warning(
            "%s ran out of memory with %d inputs; going on with %d", model.model.device, len(contents), middle
        )
        halves = [self._encode_batch(model, half, task, output) for half in (contents[:middle], contents[middle:])]
        return Batch(
            np.concatenate([half.pooled for half in halves]),
            np.concatenate([half.norms for half in halves]),
            [matrix for half in halves for matrix in half.tokens],
            [ids for half in halves for ids in half.ids],
        )

    def _forward(self, model: PooledModel, prepared: Prepared, words: TokenIds, output: Output) -> Batch:
        adapter = self._adapter if output.layers is None else None
        layers = output.layers or ((-1,) if adapter is None else adapter.layers)
        try:
            found = model.unit_states(prepared, layers, partial(self.kept, task=prepared.task))
        except (IndexError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            is_memory = "memory" in f"{type(error).__name__} {error}".lower()
            if isinstance(error, RuntimeError) and (is_memory or str(model.model.device) != "cpu"):
                raise  # the device has no memory left, or has failed
            raise EncoderError(
                f"the forward pass of {model.name} fails: {first_line(error)}; its config.json may not fit its other "
                "files, so take all files of the model again"
            ) from error
        if found.positions is not prepared.positions:  # tokens were merged, so they are no longer words
            words = np.full(found.positions.ids.shape, -1, dtype=np.int32)
        keep = self.kept(found.positions, prepared.task)
        of_layers = (found.tokens, found.fallbacks)
        if adapter is None:
            width = found.tokens.shape[1] * found.tokens.shape[2]
            tokens, fallbacks = (each.reshape(len(each), width) / len(layers) ** 0.5 for each in of_layers)
        else:
            tokens, fallbacks = (self._adapters[found.pooled.device](each) for each in of_layers)
        to_cpu = _to_cpu if output.codec is None else output.codec.encode
        starts = np.cumsum(keep.sum(axis=1))[:-1]
        rows, ids = np.split(to_cpu(tokens), starts), np.split(words[keep], starts)
        instead, no_word = to_cpu(fallbacks), np.full(1, -1, dtype=np.int32)
        # Each content gets a copy. So to keep one content in memory does not keep the whole batch there.
        return Batch(
            _to_cpu(found.pooled),
            _to_cpu(found.norms),
            [row.copy() if len(row) else instead[i : i + 1].copy() for i, row in enumerate(rows)],
            [row.copy() if len(row) else no_word for row in ids],
        )


def _to_cpu(rows: torch.Tensor | NDArray[np.float32]) -> NDArray[np.float32]:
    return rows if isinstance(rows, np.ndarray) else rows.cpu().numpy()


def _use_one_thread() -> None:
    """Make torch use one thread in a forked process, because the threads of the parent process do not exist there."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_use_one_thread)
