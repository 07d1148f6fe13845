"""`answer_chain`: from a question to an answer with its passages and citations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from langchain_core.documents import Document
from langchain_core.language_models import LanguageModelLike
from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import BasePromptTemplate, ChatPromptTemplate
from langchain_core.retrievers import RetrieverLike
from langchain_core.runnables import Runnable, RunnableLambda, RunnablePassthrough

from langchain_smart_rag.documents import RELEVANCE_SCORE
from langchain_smart_rag.messages import message_content
from smart_rag.errors import InvalidInput

_SYSTEM = (
    "Answer the question from the numbered passages alone, and name the passages you used, like [1]. "
    "If they do not hold the answer, say so."
)
# For a model that is sent images.
_LOOK = " An image shows what the passage right before it is about, or how that page looks."
_PROMPT = ChatPromptTemplate.from_messages(
    [
        ("system", _SYSTEM),
        ("human", "Passages:\n\n{context}\n\nQuestion: {question}"),
    ]
)


def answer_chain(
    retriever: RetrieverLike,
    llm: LanguageModelLike,
    *,
    prompt: BasePromptTemplate[Any] | None = None,
    images: int = 0,
) -> Runnable[str | Mapping[str, str], dict[str, Any]]:
    """Return a chain from a question to ``question``, ``context``, ``citations`` and ``answer``.

    >>> chain = answer_chain(SmartRetriever(index="my.index"), llm)     # doctest: +SKIP
    >>> chain.invoke("Where are the boat keys?")["citations"][0]        # doctest: +SKIP
    {'number': 1, 'source': 'station.md', 'page': None, 'score': 1.23, 'id': 'b2'}

    The passages stand in the prompt in the retriever's order, best first, numbered as the
    citations are. ``stream`` gives the answer as the model writes it.

    Args:
        retriever: gives the passages; with scores under ``relevance_score``, as those of
            smart_rag do, citations have one, else None.
        llm: a chat model or another language model.
        prompt: one with the variables ``question`` and ``context``.
        images: of so many passages the image is sent as well, to a model that takes images; then
            `message_content` writes the message, and no other prompt.

    Raises:
        InvalidInput: a prompt without these variables, or along with ``images``; when called, a
            question without text.
    """
    if not callable(retriever) and not isinstance(retriever, Runnable):
        raise InvalidInput(f"expected a retriever, such as store.as_retriever(), got a {type(retriever).__name__}")
    if images and prompt is not None:
        raise InvalidInput("images go with the prompt of message_content; leave out images or prompt")
    prompt = prompt or _PROMPT
    missing = {"question", "context"} - set(prompt.input_variables)
    if missing:
        raise InvalidInput(f"the prompt needs the variables question and context; it lacks {sorted(missing)}")
    written = {"question": itemgetter("question"), "context": itemgetter("context") | RunnableLambda(_passages)}
    asking: Runnable[Any, Any] = written | prompt

    def message(given: Mapping[str, Any]) -> list[BaseMessage]:
        content: Any = message_content(given["question"], given["context"], images=images)
        return [SystemMessage(_SYSTEM + _LOOK), HumanMessage(content=content)]

    if images:
        asking = RunnableLambda(message)
    return (
        RunnableLambda(_question)
        | RunnablePassthrough.assign(context=itemgetter("question") | retriever)
        | RunnablePassthrough.assign(
            citations=itemgetter("context") | RunnableLambda(_citations),
            answer=asking | llm | StrOutputParser(),
        )
    )


def _question(given: str | Mapping[str, str]) -> dict[str, str]:
    question = given.get("question") if isinstance(given, Mapping) else given
    if not isinstance(question, str) or not question.strip():
        raise InvalidInput(f"a question must be a text that is not empty, got {question!r}")
    return {"question": question}


def _passages(documents: Sequence[Document]) -> str:
    return "\n\n".join(f"[{number}] {document.page_content}" for number, document in enumerate(documents, start=1))


def _citations(documents: Sequence[Document]) -> list[dict[str, Any]]:
    return [
        {
            "number": number,
            "source": document.metadata.get("source"),
            "page": document.metadata.get("page"),
            "score": document.metadata.get(RELEVANCE_SCORE),
            "id": document.id,
        }
        for number, document in enumerate(documents, start=1)
    ]
