"""Bodies of requests, which the OpenAPI document describes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from smart_rag.config import DEFAULT_CANDIDATES, DEFAULT_TOP_K, FirstStageName, Weighting

_WeightPair = Annotated[list[float], Field(min_length=2, max_length=2)]
_Filter = dict[str, Any]


class _Strict(BaseModel):
    """A body of our own. A misspelled name is an error, and so is a number in quotation marks."""

    model_config = ConfigDict(strict=True, extra="forbid")


class SearchOptions(_Strict):
    """Options of a search. They are those of `SmartIndex.search`, and have its defaults."""

    top_k: Annotated[int, Field(ge=1, description="Number of passages.")] = DEFAULT_TOP_K
    candidates: Annotated[int, Field(ge=1, description="Number of passages that are scored.")] = DEFAULT_CANDIDATES
    first_stage: Annotated[FirstStageName, Field(description="How candidates are chosen.")] = "auto"
    where: Annotated[_Filter | None, Field(description='Filter on metadata, such as {"page": 3}.')] = None
    where_document: Annotated[_Filter | None, Field(description='Filter on texts, such as {"$contains": "pump"}.')] = (
        None
    )
    weights: Annotated[_WeightPair | None, Field(description="Weights of the pooled and of the late score.")] = None
    weighting: Annotated[Weighting | None, Field(description="Which words of a query count more.")] = None
    min_relevance: Annotated[
        float | None, Field(ge=0, le=1, description="Leave out passages of a lower relevance.")
    ] = None
    per_source: Annotated[int | None, Field(ge=1, description="Number of passages that a source may have.")] = None
    source_key: Annotated[str, Field(description="The metadata that names the source.")] = "source"
    fold_duplicates: Annotated[bool, Field(description="Return texts that say nearly the same only once.")] = False
    neighbours: Annotated[
        int, Field(ge=0, le=20, description="Number of passages of the file before and after each passage.")
    ] = 0

    def of_search(self) -> dict[str, Any]:
        """Return the options as arguments of `SmartIndex.search_many`, without ``top_k``."""
        return self.model_dump(exclude={"query", "queries", "top_k", "neighbours"})


class SearchBody(SearchOptions):
    """A query and how to search for it."""

    query: Annotated[str, Field(description="A text.")]


class SearchManyBody(SearchOptions):
    """Several queries and how to search for them."""

    queries: Annotated[list[str], Field(description="Texts.")]


class RerankBody(_Strict):
    """A query, and what to rank by it: texts, or documents of the index by their ids."""

    query: str
    documents: Annotated[list[str] | None, Field(description="Texts from anywhere.")] = None
    ids: Annotated[list[str] | None, Field(description="Ids of documents of the index.")] = None
    top_k: Annotated[int | None, Field(ge=1, description="Number of hits; by default all.")] = None
    weights: _WeightPair | None = None
    weighting: Weighting | None = None


class DocumentBody(_Strict):
    """A document. Without an id, the id is a hash of the text and the metadata."""

    id: Annotated[str | None, Field(min_length=1)] = None
    text: str
    metadata: dict[str, Any] = Field(default_factory=dict)


class DocumentsBody(_Strict):
    """Documents to write. A document with the id of another replaces it."""

    documents: list[DocumentBody]


class IdsBody(_Strict):
    """Ids of documents to remove."""

    ids: list[str]


class CohereRerankBody(BaseModel):
    """The body that Cohere, Jina, vLLM and llama.cpp take. Further names in it are ignored."""

    model: str | None = None
    query: str
    documents: list[str | dict[str, Any]]
    top_n: Annotated[int | None, Field(ge=1)] = None
    return_documents: bool = False


class OpenAIEmbeddingsBody(BaseModel):
    """The body that OpenAI takes, and ``input_type`` as Cohere has it. Further names in it are ignored."""

    model: str | None = None
    input: Any
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    input_type: Annotated[Literal["query", "document"], Field(description="Which prompt of the model to use.")] = (
        "document"
    )
