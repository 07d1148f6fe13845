"""A plain reader of prompts: it knows the tag from the system message, and nothing else of what is quoted."""

from __future__ import annotations

import ast
import re


def tag_of(rule):
    """Return the name of the tag that a rule announces."""
    opened, closed = re.findall(r"<(/?[0-9a-f]{8})>", rule)
    assert closed == f"/{opened}"
    return opened


def read_text(text, tag):
    """Return the passages as (what stands before the tag, what the tag encloses), and what stands after them."""
    *passages, rest = text.split(f"\n</{tag}>\n")
    pairs = [passage.split(f"<{tag}>\n") for passage in passages]
    assert all(len(pair) == 2 for pair in pairs)
    assert tag not in rest
    return [(before.strip("\n"), inside) for before, inside in pairs], rest.removeprefix("\n")


def read(messages):
    """Return the passages in the messages of `ask` as (number, source, page, text), and the question."""
    system, user = messages
    content = user["content"]
    if not isinstance(content, str):
        content = "".join(part["text"] for part in content if part["type"] == "text")
    passages, question = read_text(content, tag_of(system["content"]))
    assert question.startswith("Question: ")
    return [_passage(*pair) for pair in passages], question.removeprefix("Question: ")


def _passage(before, inside):
    number = re.fullmatch(r"\[(\d+)\] ", before)[1]
    heading, text = inside.split("\n", 1)
    name, page = re.fullmatch(r"(.*?['\"])(?:, page (-?\d+))?", heading).groups()
    return int(number), ast.literal_eval(name), None if page is None else int(page), text
