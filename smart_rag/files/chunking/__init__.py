"""Texts of any length become chunks: `chunks.Chunker` for pages, `splitter.Splitter` for plain texts.

``layout`` finds the parts of Markdown and code, and ``unbroken`` cuts lines without a blank. ``token_places`` counts
the tokens of parts of a text.
"""
