"""Images in Markdown: what is one, what is not, and nothing of the text lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multimodal.documents.markdown import Shown, definitions, locate, scan


def shown(text: str) -> list[tuple[str, str, str]]:
    return [(s.target, s.alt, s.title) for s in scan([text], definitions([text])) if isinstance(s, Shown)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("![a](b.png)", [("b.png", "a", "")]),
        ("![](b.png)", [("b.png", "", "")]),
        ("![a](<b c.png> 'T')", [("b c.png", "a", "T")]),
        ("![a]( b.png\n  (T) )", [("b.png", "a", "T")]),
        ("![a](b(1).png \"x 'y' z\")", [("b(1).png", "a", "x 'y' z")]),
        ("![a [b] \\] *c*](d.png)", [("d.png", "a [b] ] *c*", "")]),
        ("![a\nb](c.png)", [("c.png", "a b", "")]),
        ("![a &amp; b](c&amp;d.png)", [("c&d.png", "a & b", "")]),
        ("[![a](b.png)](page.html)", [("b.png", "a", "")]),
        ("![a](b.png)![c](d.png)", [("b.png", "a", ""), ("d.png", "c", "")]),
        ("![a][R]\n\n[ r ]: b.png 'T'", [("b.png", "a", "T")]),
        ("![r][]\n\n[R]: <b c.png>", [("b c.png", "r", "")]),
        ("![r] x\n\n[r]: b.png\n[r]: second.png", [("b.png", "r", "")]),
        ("![r]\n\n```\n[r]: code.png\n```\n", []),
        ("![no such]", []),
        ("![no](un closed", []),
        ("![no](a b.png)", []),
        ("\\![no](b.png)", []),
        ("!\\[no](b.png)", []),
        ("`![no](b.png)` ``![no](b`.png)``", []),
        ("` ![a](b.png)", [("b.png", "a", "")]),
        ("<!-- ![no](b.png) -->![a](b.png)", [("b.png", "a", "")]),
        ("text\n\n<!--\n\n![no](b.png)\n\n-->\n![a](b.png)", [("b.png", "a", "")]),
        ("<pre>\n\n![no](b.png)\n</pre>", []),
        ("~~~~\n![no](b.png)\n~~~\n![no](b.png)\n~~~~\n![a](b.png)", [("b.png", "a", "")]),
        ("> ```\n> ![no](b.png)\n> ```\n> ![a](b.png)", [("b.png", "a", "")]),
        ("- ```\n  ![no](b.png)\n  ```\n", []),
        ("> ```\n> ![no](b.png)\n\n![a](b.png)", [("b.png", "a", "")]),  # the quote ends, and the fence in it
        ("    ```\n\n![a](b.png)", [("b.png", "a", "")]),  # code that shows a fence
        ("- item\n\n    ```\n    ![no](b.png)\n    ```\n", []),
        ("```not a fence``` ![a](b.png)", [("b.png", "a", "")]),
        ("    ![no](b.png)", []),
        ("para\n    ![a](b.png)", [("b.png", "a", "")]),
        ("1. item\n\n    ![a](b.png)", [("b.png", "a", "")]),
        ("<img src='b.png' alt=\"a > c\"/>", [("b.png", "a > c", "")]),
        ("<IMG\n  SRC=b.png title=T>", [("b.png", "", "T")]),
        ("<img alt='none'> <image src='b.png'> <img src='unclosed", []),
    ],
)
def test_what_is_an_image(text, expected):
    assert shown(text) == expected


pieces = st.sampled_from(
    ["![a](b.png)", "![", "](", ")", "`", "```\n", "\n", "\n\n", "    ", "<!--", "-->", "<img src=b>", "<img '",
     "[r]: b\n", "![r]", "\\", "x", "é\u2028", "- ", "> ", "~~~\n", "<pre>"]
)  # fmt: skip


@given(st.lists(pieces, max_size=25).map("".join), st.integers(1, 7))
def test_nothing_is_lost_and_cuts_do_not_matter(text, size):
    cut = [text[start : start + size] for start in range(0, len(text), size)]
    found = list(scan(cut, definitions(cut)))
    assert "".join(part if isinstance(part, str) else part.raw for part in found) == text
    images = [part for part in found if isinstance(part, Shown)]
    assert images == [part for part in scan([text], definitions([text])) if isinstance(part, Shown)]
    at = 0
    for part in found:
        if isinstance(part, Shown):
            assert part.line == 1 + text.count("\n", 0, at)
        at += len(part if isinstance(part, str) else part.raw)


@pytest.mark.parametrize("text", ["![" * 200_000, "<img " * 100_000, "`" * 3 + "``` ` " * 100_000, "![](" * 20_000])
def test_hostile_texts_take_no_time_in_the_square(text):
    # A search in the square of these lengths would run into the limit of a test.
    assert "".join(part if isinstance(part, str) else part.raw for part in scan([text], {})) == text


def test_locate(tmp_path):
    for name in ("a b.png", "q?x.png", "100%.png"):
        (tmp_path / name).touch()
    assert locate("a%20b.png", tmp_path) == tmp_path / "a b.png"
    assert locate("a%20b.png?raw=true#top", tmp_path) == tmp_path / "a b.png"
    assert locate("q?x.png", tmp_path) == tmp_path / "q?x.png"
    assert locate("100%.png", tmp_path) == tmp_path / "100%.png"
    assert locate("none%20.png", tmp_path) == tmp_path / "none .png"
    assert locate((tmp_path / "a%20b.png").as_uri().replace("%25", "%"), Path("/")) == tmp_path / "a b.png"
    assert locate("HTTPS://x.org/a.png", tmp_path) == "HTTPS://x.org/a.png"
    assert locate("//x.org/a.png", tmp_path) == "https://x.org/a.png"
    assert locate("data:image/png;base64,AAEC", tmp_path) == b"\0\1\2"
    assert locate("data:image/svg+xml,%3Csvg/%3E", tmp_path) == b"<svg/>"
