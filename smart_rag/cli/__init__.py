"""The command line `smart-rag`."""

from smart_rag.cli.app import main

__all__ = ["main"]
