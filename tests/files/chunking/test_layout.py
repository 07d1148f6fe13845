"""What belongs together in Markdown and in source code: nothing is lost, and lines are joined where they should be."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smart_rag.files.chunking.layout import HIDDEN, parts_of

LINES = st.lists(
    st.sampled_from(
        [
            "# One\n",
            "===\n",
            "---\n",
            "\n",
            "words\n",
            "```\n",
            "~~~~\r\n",
            "| a | b |\n",
            "|---|---|\n",
            "|-\n",
            "  inner\n",
            "    deeper\n",
            "}\n",
            "@decorated\n",
            "# comment",
            "\r",
            "\u2028",
            "\x0c",
        ]
    ),
    max_size=40,
).map("".join)


@settings(max_examples=300, deadline=None)
@given(LINES, st.sampled_from([".md", ".py", ".txt"]), st.integers(1, 60))
def test_the_parts_are_the_text(text, suffix, most):
    parts = list(parts_of(text, suffix, lambda part: len(part) <= most))
    assert "".join(part.header + part.text for part in parts) == text
    for part in parts:
        assert len(part.joined) == len(part.text)
        for character, joined in zip(part.text, part.joined, strict=True):
            assert joined == character or (joined == HIDDEN and character in "\r\n")


def joined_lines(text: str, suffix: str, most: int = 60) -> list[str]:
    """Return the lines as the splitter sees them, with a slash for a hidden line break."""
    parts = parts_of(text, suffix, lambda part: len(part) <= most)
    return "".join(part.joined for part in parts).replace(HIDDEN, "/").split("\n")


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a\nb", ["a", "b"]),
        ("# A\n\n## B\n\nb\nc", ["# A//## B//b", "c"]),
        ("A\n===\nb\nc", ["A/===/b", "c"]),
        ("```\na\n\nb\n```\nc", ["```/a//b/```", "c"]),
        ("~~~\na\n```\n~~~\nc", ["~~~/a/```/~~~", "c"]),
        ("# A\n\n```\nb\n```\nc", ["# A//```/b/```", "c"]),
        ("|a|b|\n|-|-|\n|1|2|\nc", ["|a|b|/|-|-|/|1|2|", "c"]),
        ("#no heading\nb", ["#no heading", "b"]),
        ("a\n# A\n", ["a", "# A", ""]),
    ],
)
def test_markdown(text, lines):
    assert joined_lines(text, ".md") == lines
    assert joined_lines(text, ".txt") == text.split("\n")


def test_code():
    text = (
        "import a\n\n@b\n# c\ndef d(\n    e,\n):\n    return e\n\nclass F:\n    g = 1\n\n"
        "    def h(self):\n        return 1\n    # i\n    def j(self):\n        return 2\n"
    )
    assert joined_lines(text, ".py", 44) == [
        "import a",
        "",
        "@b/# c/def d(/    e,/):/    return e",
        "",
        "class F:",
        "    g = 1",
        "",
        "    def h(self):/        return 1",
        "    # i/    def j(self):/        return 2",
        "",
    ]


def test_a_long_table_is_a_part_of_its_own():
    table = "".join(f"| {i} | words |\n" for i in range(9))
    text = f"a\n\n# B\n\n| c | d |\n|-----|---|\n{table}\ne"
    before, rows, after = parts_of(text, ".md", lambda part: len(part) <= 60)
    assert (before.text, after.text) == ("a\n\n", "\ne")
    assert (rows.text, rows.header) == (table, "# B\n\n| c | d |\n|---|---|\n")
