"""The paper's table: datasets as they are published, ranked as in the paper, beside the published figures.

``tables`` reads files into tables. ``layouts`` turns the tables of each kind of dataset into documents, queries and
judgements, ``media`` opens their images and videos, and ``published`` finds the datasets in a folder. ``evaluation``
ranks them, and ``table`` holds the figures of others.
"""
