"""Answer a question from a folder of documents, with a vector store on disk. Arguments: FOLDER MODEL QUESTION."""

import sys

import chromadb
from llama_index.core import SimpleDirectoryReader, StorageContext, VectorStoreIndex
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import NodeWithScore
from llama_index.vector_stores.chroma import ChromaVectorStore
from llama_index_smart_rag import SmartEmbedding, SmartRerank


class Application:
    """The documents of a folder, in a vector store on disk."""

    def __init__(self, folder: str, model: str, storage: str = "storage") -> None:
        embed_model = SmartEmbedding(model_name=model, token_store=f"{storage}/tokens")
        documents = SimpleDirectoryReader(folder, required_exts=[".md", ".txt"]).load_data()
        collection = chromadb.PersistentClient(path=storage).get_or_create_collection("documents")
        index = VectorStoreIndex.from_documents(
            documents,
            storage_context=StorageContext.from_defaults(vector_store=ChromaVectorStore(chroma_collection=collection)),
            transformations=[SentenceSplitter(chunk_size=128, chunk_overlap=16)],
            embed_model=embed_model,
        )
        self.retriever = index.as_retriever(similarity_top_k=50)
        self.postprocessors = [SmartRerank(embed_model, top_n=10)]

    def find(self, question: str) -> list[NodeWithScore]:
        """Return passages, best first."""
        nodes = self.retriever.retrieve(question)
        for postprocessor in self.postprocessors:
            nodes = postprocessor.postprocess_nodes(nodes, query_str=question)
        return nodes[:10]


if __name__ == "__main__":
    application = Application(sys.argv[1], sys.argv[2])
    for node in application.find(sys.argv[3]):
        print(f"{node.score:.3f}  {node.metadata['file_name']}: {' '.join(node.text.split())[:100]}")
