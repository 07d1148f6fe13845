"""Office formats: text documents, slides, sheets and books, each a container of several parts."""
