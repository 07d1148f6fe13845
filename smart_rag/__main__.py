"""Run the command line with ``python -m smart_rag``, for shells that do not find the script ``smart-rag``."""

from smart_rag.cli.app import main

if __name__ == "__main__":
    main()
