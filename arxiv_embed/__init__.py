"""arxiv_embed: arXiv metadata as a searchable vector store. `arxiv_embed.search("words")` searches it."""

from arxiv_embed.api import performance, search

__all__ = ["performance", "search"]
