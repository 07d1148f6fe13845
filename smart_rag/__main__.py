"""``python -m smart_rag``: the command line, where its script is not on the path."""

from smart_rag.cli.app import main

if __name__ == "__main__":
    main()
