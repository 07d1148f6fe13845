"""Sheets: those of Excel, in its formats from 1997 on, and how it shows numbers."""
