"""Formats of text with a structure: tables, records, notebooks and mails."""
