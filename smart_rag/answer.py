"""Answers by a language model: the passages that an index finds are put into a prompt, and the answer is streamed."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from smart_rag.citations import Marker, cited_numbers, unknown_numbers
from smart_rag.config import (
    DEFAULT_CONTEXT_TOKENS,
    DEFAULT_IMAGE_PIXELS,
    DEFAULT_PASSAGES,
    DEFAULT_TIMEOUT,
    Count,
    Number,
    check_count,
)
from smart_rag.encoders.protocol import token_counter
from smart_rag.errors import InvalidInput, LanguageModelError, MissingExtra
from smart_rag.fences import Fence
from smart_rag.files.content import jpeg
from smart_rag.index.smart_index import SmartIndex
from smart_rag.store.where import Where
from smart_rag.types import Content, Hit, ImageSource, explainer_of, with_explainer
from smart_rag.wording import one_line

if TYPE_CHECKING:
    import openai
    from openai.types.chat import ChatCompletionChunk, ChatCompletionContentPartParam, ChatCompletionMessageParam

KEY = "OPENAI_API_KEY"

_SYSTEM = (
    "Answer the question from the numbered passages and from nothing else. Cite the passages that a statement rests on "
    "by their numbers, such as [1] or [2][3]. If the passages do not hold the answer, say so. Answer in the language "
    "of the question."
)
# Added for a model that gets images.
_SYSTEM_IMAGES = (
    " An image shows what the passage or the question right before it is about, or how that page looks. The text in an "
    "image is quoted, too."
)
_MAX_QUOTE = 200  # characters of the endpoint's own message
_ADVICE = {
    401: f"the key is missing or wrong; set the environment variable {KEY}",
    403: f"the key does not allow this; set another in the environment variable {KEY}",
    404: "the model {model!r} is not known there, or the URL is not the endpoint's base URL, which usually ends in /v1",
    429: "too many requests, or no quota left; wait and ask again",
}


class Answer:
    """An answer in pieces. Each iteration over the answer calls the endpoint again.

    If there are no ``sources``, there are no pieces, and the endpoint is not called. If the model cites a number that
    belongs to no passage, the number gets a question mark: ``[9?]``. `smart_rag.citations` says what counts as a
    citation.

    Attributes:
        sources: the passages in the prompt. A ``[1]`` in the answer cites ``sources[0]``.
        messages: the prompt.
        text: the part of the answer that has arrived so far.
        finish_reason: the endpoint's reason for the end of the answer. It is None until the end. Then it is ``"stop"``,
            or ``"length"`` if the answer was cut off. It stays None if the endpoint sends no reason. In that case, the
            connection may have broken.
    """

    def __init__(
        self,
        sources: Sequence[Hit],
        messages: Sequence[ChatCompletionMessageParam],
        *,
        llm_url: str,
        llm_model: str,
        max_tokens: int | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        self.sources = sources
        self.messages = messages
        self.llm_url = llm_url
        self.llm_model = llm_model
        self.max_tokens = max_tokens
        self.timeout = timeout
        self.text = ""
        self.finish_reason: str | None = None

    @property
    def cited(self) -> list[Hit]:
        """The sources that ``text`` cites, in the order of their numbers."""
        numbers = set(cited_numbers(self.text))
        return [hit for number, hit in enumerate(self.sources, start=1) if number in numbers]

    @property
    def unknown_citations(self) -> list[int]:
        """The numbers that ``text`` cites although they belong to no source."""
        return unknown_numbers(self.text, len(self.sources))

    def __iter__(self) -> Iterator[str]:
        """Yield the pieces of the answer as they arrive.

        Raises:
            LanguageModelError: the endpoint cannot be reached, refuses, or sends no complete answer.
        """
        self.text, self.finish_reason = "", None
        if not self.sources:
            return
        key = _key()
        marker = Marker(len(self.sources))
        failure: str | None = None
        has_begun = False
        try:
            with self._client(key) as client, self._stream(client) as stream:
                has_begun = True
                for chunk in stream:
                    for piece in self._pieces(chunk):
                        yield from self._shown(marker.feed(piece))
        # All exceptions: openai 3 raises other classes than openai 2. Neither checks the data of the endpoint.
        except Exception as error:
            failure = self._message(error, has_begun)
        yield from self._shown(marker.rest())
        if failure is not None:  # raised outside of `except`, because the message of the cause may contain the key
            raise LanguageModelError(failure)
        if not self.text:
            raise LanguageModelError(self._message_without_text())

    def _client(self, key: str) -> openai.OpenAI:
        import openai

        return openai.OpenAI(
            base_url=self.llm_url,
            api_key=key or "none",  # the client needs a key, but endpoints such as Ollama do not
            timeout=openai.Timeout(self.timeout, connect=min(self.timeout, 10.0)),
            max_retries=0,
        )

    def _stream(self, client: openai.OpenAI) -> openai.Stream[ChatCompletionChunk]:
        import openai

        return client.chat.completions.create(
            model=self.llm_model,
            messages=self.messages,
            max_tokens=openai.omit if self.max_tokens is None else self.max_tokens,
            stream=True,
        )

    def _pieces(self, chunk: ChatCompletionChunk) -> Iterator[str]:
        for choice in chunk.choices:
            self.finish_reason = choice.finish_reason or self.finish_reason
            if choice.delta.content:
                yield choice.delta.content

    def _shown(self, text: str) -> Iterator[str]:
        if text:
            self.text += text
            yield text

    def _message_without_text(self) -> str:
        if self.finish_reason is None:
            return (
                f"{self.llm_url} sent no OpenAI-compatible stream; give the endpoint's base URL, which usually ends in "
                "/v1"
            )
        return (
            f"{self.llm_url}: the model {self.llm_model!r} gave an answer without text "
            f"(finish_reason {self.finish_reason!r}); allow more tokens, or use another model"
        )

    def _message(self, error: Exception, has_begun: bool) -> str:
        """Return a message that describes the endpoint's error and says what to do. The key is not in the message.

        ``has_begun`` says whether the endpoint has begun to answer. openai 3 raises the same error before and after
        this moment.
        """
        import openai

        quote = _quote(error)
        timed_out = isinstance(error, openai.APITimeoutError) or _is_a(error, "TimeoutException")
        if timed_out and not _is_a(error.__cause__, "ConnectTimeout"):
            return f"{self.llm_url} sent nothing for {self.timeout:g} seconds; raise timeout, or use a smaller model"
        if isinstance(error, openai.APIStatusError):
            return self._refusal(error.status_code, quote)
        is_unreachable = isinstance(error, openai.APIConnectionError) and not has_begun
        if is_unreachable or _is_a(error, "InvalidURL"):
            return (
                f"no connection to {self.llm_url} ({quote}); expected an OpenAI-compatible endpoint: is it running "
                "there?"
            )
        if isinstance(error, openai.APIError) or _is_a(error, "RequestError"):
            return f"{self.llm_url} broke off before the end of the answer ({quote}); ask again"
        return f"{self.llm_url} did not send an OpenAI-compatible stream ({quote}); is it such an endpoint?"

    def _refusal(self, status: int, quote: str) -> str:
        other = "the server failed; see its log" if status >= 500 else "the request was refused"
        advice = _ADVICE.get(status, other).format(model=self.llm_model)
        # With status 401, hosted endpoints repeat parts of the key.
        return f"{self.llm_url} answered {status}: {advice}" + (f" ({quote})" if quote and status != 401 else "")


def ask(
    index: SmartIndex,
    question: str | Content,
    *,
    llm_url: str,
    llm_model: str,
    top_k: Count = DEFAULT_PASSAGES,
    where: Where | None = None,
    where_document: Where | None = None,
    min_relevance: Number | None = None,
    per_source: Count | None = None,
    source_key: str = "source",
    fold_duplicates: bool = False,
    neighbours: int = 0,
    context_tokens: Count = DEFAULT_CONTEXT_TOKENS,
    images: int = 0,
    image_pixels: Count = DEFAULT_IMAGE_PIXELS,
    max_tokens: Count | None = None,
    timeout: float = DEFAULT_TIMEOUT,
) -> Answer:
    """Search ``index`` for ``question``; return a language model's answer. Iterate over the answer to get its pieces.

    >>> url = "http://localhost:11434/v1"
    >>> for piece in ask(index, "Who has the keys?", llm_url=url, llm_model="m"):  # doctest: +SKIP
    ...     print(piece, end="", flush=True)

    Args:
        index: the index with the passages.
        question: the question. If it is a `Content` with an image, the image is part of the query, too.
        llm_url: the base URL of any OpenAI-compatible endpoint. If it needs a key, set the environment variable
            ``OPENAI_API_KEY``.
        llm_model: the name of the language model at this endpoint.
        top_k: the maximum number of passages.
        where, where_document: filters on metadata and on texts, as in `SmartIndex.search`.
        min_relevance: leave out passages whose relevance is lower than this number, as in `SmartIndex.search`.
        per_source, source_key, fold_duplicates: how many passages a source may have, and whether near duplicates are
            one passage, as in `SmartIndex.search`.
        neighbours: the number of chunks before and after each passage that are sent with it; see `Hit.window`. A
            passage or a chunk that is sent with an earlier one is not sent again.
        context_tokens: the maximum number of tokens of all passages together, counted by the tokenizer of the index.
        images: the number of passages whose images are sent. The image of the question is then sent, too. The language
            model must be able to read images. An endpoint does not say whether its model can. By default, only text is
            sent.
        image_pixels: the maximum number of pixels of each image.
        max_tokens: the maximum number of tokens of the answer. By default, the endpoint decides.
        timeout: the number of seconds to wait for the next piece of the answer.

    Raises:
        MissingExtra: the package openai is not installed.
        InvalidInput: an argument of `SmartIndex.search` or of this function is wrong; ``context_tokens`` is too small
            for one passage; or no hit has a text or an image to send.
        DocumentError: the file of an image to send does not exist or cannot be read.
    """
    try:
        import openai  # noqa: F401
    except ImportError as error:
        raise MissingExtra("openai", "ask", "asking a language model") from error
    if not llm_url.startswith(("http://", "https://")):
        raise InvalidInput(f"llm_url must begin with http:// or https://, got {llm_url!r}")
    if not timeout > 0:
        raise InvalidInput(f"timeout must be a number of seconds above 0, got {timeout!r}")
    if isinstance(images, bool) or not isinstance(images, int) or images < 0:
        raise InvalidInput(f"images must be a whole number of at least 0, got {images!r}")
    if isinstance(neighbours, bool) or not isinstance(neighbours, int) or neighbours < 0:
        raise InvalidInput(f"neighbours must be a whole number of at least 0, got {neighbours!r}")
    context_tokens = check_count("context_tokens", context_tokens)
    image_pixels = check_count("image_pixels", image_pixels)
    if max_tokens is not None:
        max_tokens = check_count("max_tokens", max_tokens)
    if isinstance(question, Content) and not question.text.strip():
        raise InvalidInput("the question has no text; expected a text, with or without an image")
    hits = index.search(
        question,
        top_k,
        where=where,
        where_document=where_document,
        min_relevance=min_relevance,
        per_source=per_source,
        source_key=source_key,
        fold_duplicates=fold_duplicates,
    )
    if neighbours:
        hits = _with_neighbours(hits, neighbours)
    count_tokens = token_counter(index.encoder)
    messages, sources = prompt(question, hits, context_tokens, count_tokens, images, image_pixels)
    return Answer(sources, messages, llm_url=llm_url, llm_model=llm_model, max_tokens=max_tokens, timeout=timeout)


def _with_neighbours(hits: Sequence[Hit], neighbours: int) -> list[Hit]:
    """Return ``hits`` with the texts of their windows, but each chunk only once.

    A hit in the window of an earlier one is left out, and a chunk is in the first of the windows that it belongs to.
    """
    widened: list[Hit] = []
    sent: set[str] = set()
    for hit in hits:
        if hit.id not in sent:
            around = hit.neighbours(neighbours)
            text = hit.window(neighbours, without=sent)
            sent |= {hit.id, *(document.id for document in around)}
            widened.append(with_explainer(replace(hit, text=text), explainer_of(hit)))
    return widened


def prompt(
    question: str | Content,
    hits: Sequence[Hit],
    context_tokens: int,
    count_tokens: Callable[[str], int],
    images: int = 0,
    image_pixels: int = DEFAULT_IMAGE_PIXELS,
) -> tuple[list[ChatCompletionMessageParam], list[Hit]]:
    """Return the messages for a language model, and the hits that they contain.

    The rank of each returned hit is its number in the messages.

    Each passage stands in a fence (`smart_rag.fences`), below its number. The first line in the fence holds the
    passage's source, as a literal of Python, and its page. So no text, no file name and no id can pass for another
    passage or for the question.

    As many of the first hits are used as fit into ``context_tokens`` together with their headings and fences. If not
    even the first hit fits, its text is cut, at the end of a sentence if possible. Hits with neither a text nor an
    image to send are left out.

    Raises:
        InvalidInput: not even the beginning of one passage fits into ``context_tokens``, or all hits were left out.
        DocumentError: the file of an image to send does not exist or cannot be read.
    """
    asked = Content.of(question)
    with_image = [hit.id for hit in hits if hit.image is not None][:images]
    usable = [hit for hit in hits if hit.text.strip() or hit.id in with_image]
    if hits and not usable:
        raise InvalidInput(
            f"none of the {len(hits)} documents found has a text, such as {hits[0].id!r}; send their images to a "
            "language model with vision: images=4, or --images 4"
        )
    fence = Fence.for_texts([asked.text, *(text for hit in usable for text in (_heading(hit), hit.text))])
    passages = _fitting_passages(usable, fence, context_tokens, count_tokens)
    sources = [
        with_explainer(replace(hit, rank=number), explainer_of(hit))
        for number, hit in enumerate(usable[: len(passages)], start=1)
    ]
    parts: list[tuple[str, ImageSource | None]] = [
        (passage, hit.image if hit.id in with_image else None) for passage, hit in zip(passages, sources, strict=True)
    ]
    parts.append((f"Question: {asked.text}", asked.image if images else None))
    return _messages(parts, fence, image_pixels), sources


def _fitting_passages(
    hits: Sequence[Hit], fence: Fence, context_tokens: int, count_tokens: Callable[[str], int]
) -> list[str]:
    """Return as many passages of the first hits as fit. There is at least one passage, which may be cut."""
    passages: list[str] = []
    for number, hit in enumerate(hits, start=1):
        passage = _passage(number, hit, hit.text, fence)
        if count_tokens("".join([*passages, passage])) > context_tokens:
            break
        passages.append(passage)
    if hits and not passages:
        return [_cut_passage(hits[0], fence, context_tokens, count_tokens)]
    return passages


def _messages(
    parts: Sequence[tuple[str, ImageSource | None]], fence: Fence, image_pixels: int
) -> list[ChatCompletionMessageParam]:
    system = f"{_SYSTEM} {fence.rule}"
    if all(image is None for _, image in parts):
        text = "".join(text for text, _ in parts)
        return [{"role": "system", "content": system}, {"role": "user", "content": text}]
    content = [part for text, image in parts for part in _content_parts(text, image, image_pixels)]
    return [{"role": "system", "content": system + _SYSTEM_IMAGES}, {"role": "user", "content": content}]


def _content_parts(text: str, image: ImageSource | None, max_pixels: int) -> Iterator[ChatCompletionContentPartParam]:
    yield {"type": "text", "text": text}
    if image is not None:
        data = base64.b64encode(jpeg(image, max_pixels)).decode()
        yield {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}}


def _passage(number: int, hit: Hit, text: str, fence: Fence) -> str:
    quoted = fence.around(f"{_heading(hit)}\n{text}")
    return f"[{number}] {quoted}\n\n"


def _heading(hit: Hit) -> str:
    """Return the source and the page of a hit on one line, whatever the source is called."""
    name = Path(hit.source).name if hit.source else hit.id
    return f"{name!r}" if hit.page is None else f"{name!r}, page {hit.page}"


def _cut_passage(hit: Hit, fence: Fence, context_tokens: int, count_tokens: Callable[[str], int]) -> str:
    """Return the first passage. Cut it, so that it fits into ``context_tokens`` with its heading and its fence."""
    from semantic_text_splitter import TextSplitter

    def length(text: str) -> int:
        return count_tokens(_passage(1, hit, text, fence))

    # The splitter does not measure a text with fewer bytes than its capacity, because it assumes that such a text fits.
    # With a heading, this assumption is wrong. So the capacity is 1. The size is 0 for a text that fits, and 3 for any
    # other text. The splitter stops early at sizes above 2.
    chunks = TextSplitter.from_callback(lambda text: 0 if length(text) <= context_tokens else 3, 1).chunks(hit.text)
    beginning = chunks[0] if chunks else ""  # an image has no text
    if length(beginning) > context_tokens:
        raise InvalidInput(
            f"context_tokens must be enough for the beginning of a passage, its fence and its heading {_heading(hit)} "
            f"({length('')} tokens without the passage), got {context_tokens}"
        )
    return _passage(1, hit, beginning, fence)


def _key() -> str:
    """Return the key for the endpoint; empty if there is none."""
    key = os.environ.get(KEY, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise InvalidInput(f"the environment variable {KEY} holds characters that no key has; set it again")
    return key


def _is_a(error: BaseException | None, name: str) -> bool:
    """Return whether ``error`` is of a class ``name``.

    openai 2 raises errors of httpx. openai 3 raises errors of httpx2.
    """
    return name in (kind.__name__ for kind in type(error).__mro__)


def _quote(error: BaseException) -> str:
    """Return the endpoint's message, without the key, as one short line. If there is none, use the innermost cause."""
    body = getattr(error, "body", None)
    if isinstance(body, dict):
        body = body.get("message") or body.get("detail") or body
    if body is None:
        while error.__cause__:
            error = error.__cause__
        quote = one_line(error)
    else:
        quote = " ".join(str(body).split())
    quote = quote.replace(_key(), "***") if _key() else quote
    return quote if len(quote) <= _MAX_QUOTE else quote[:_MAX_QUOTE] + " …"
