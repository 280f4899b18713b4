"""LLaVA's format and messages: every sample checked by itself, none dropped without a word."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from multimodal.documents import llava_json, parse_sample, read_samples
from multimodal.documents.llava_json import Skipped
from multimodal.documents.records import read_records
from multimodal.images import ImageFile
from rmt.errors import InputError


def llava(*values: str, image=None, roles=("human", "gpt"), **more) -> dict:
    turns = [{"from": roles[n % len(roles)], "value": value} for n, value in enumerate(values)]
    return {"id": "x", "conversations": turns} | ({} if image is None else {"image": image}) | more


def content(sample) -> list:
    return [
        (turn.role, [part if isinstance(part, str) else part.path.name for part in turn.content])
        for turn in sample.turns
    ]


def test_llava():
    sample = parse_sample(
        llava("<image>\nWhat?", "Red.", "And <image><image>?", "An <image> is no image here.", image=["a", "b/b", "c"]),
        Path("f"),
    )  # fmt: skip
    assert content(sample) == [
        ("user", ["a", "\nWhat?"]),
        ("assistant", ["Red."]),
        ("user", ["And ", "b", "c", "?"]),
        ("assistant", ["An <image> is no image here."]),
    ]
    assert [image.path for image in sample.images] == [Path("f/a"), Path("f/b/b"), Path("f/c")]
    assert sample.id == "x"
    assert content(parse_sample(llava("Hi", ""), Path()))[1] == ("assistant", [])
    assert (
        content(parse_sample(llava("S", "Hi", "Ho", roles=("system", "user", "assistant")), Path()))[0][0] == "system"
    )


def test_messages():
    image, text = {"type": "image"}, {"type": "text", "text": "one <image> two"}
    given_in_items = {"messages": [{"role": "user", "content": [{**image, "path": "a"}, text, {**image, "url": "b"}]}]}
    given_beside = {"messages": [{"role": "user", "content": [image, text, image]}], "images": ["a", "b"]}
    for record in (given_in_items, given_beside):
        assert content(parse_sample(record, Path("f"))) == [("user", ["a", "one <image> two", "b"])]
    assert content(parse_sample({"messages": [{"role": "user", "content": "<image>"}]}, Path())) == [
        ("user", ["<image>"])
    ]


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (llava("<image><image>", "a", image="a"), "as many images as <image> tags, got 1 for 2 <image> tags"),
        (llava("<image>", "a", image=["a", "b"]), "got 2 for 1 <image> tag in"),
        (llava("<image>", "a"), "got 0 for 1"),
        (llava("hi", "<image>", image="a"), "got 1 for 0"),
        (llava("a", "b", roles=("gpt", "human")), "the user first, got assistant user"),
        (llava("a", "b", roles=("human",)), "in turn, the user first, got user user"),
        (llava("a", "b", roles=("human", "system")), "got user system"),
        (llava("a", "b", roles=("human", "bot")), "turn 1: expected one of .* got 'bot'"),
        (llava("a", "b", roles=("human", 7)), "turn 1: expected one of"),
        (llava(), "without turns"),
        (llava("a", roles=("system",)), "without turns"),
        (llava("a", None), "turn 1: expected text, got nothing"),
        ({"id": "x", "conversations": ["a"]}, "turn 0: expected an object"),
        ({"id": "x", "conversations": [{"from": "human"}]}, "turn 0: expected an object"),
        ({"id": "x", "text": "a"}, r'"conversations" or "messages", got the keys \[.id., .text.\]'),
        ([1], "expected a JSON object, got a list"),
        (llava("<image>", "a", image=7), "expected the name of an image, got a int"),
        (llava("<image>", "a", image=""), "got an empty text"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "turn 0: expected items"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "turn 0: expected items"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "got 0 for 1"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": [{"type": "image"}]}]},
            "turn 1: expected items",
        ),
    ],
)
def test_bad_samples(record, words):
    with pytest.raises(InputError, match=words) as caught:
        parse_sample(record, Path(), where="file.json, index 4")
    assert str(caught.value).startswith("file.json, index 4")
    assert "\n" not in str(caught.value)


def test_files_are_looked_for_and_bad_samples_counted(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (2, 2)).save(folder / "a.png")
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:40])
    names = ["a.png", "none.png", "a.png", "broken.png", "https://example.org/a.png", ""]
    records = [llava("<image>", "x", image=name) for name in names]
    path = tmp_path / "data.json"
    path.write_text(json.dumps(records))

    with pytest.raises(
        InputError, match=r"data\.json, index 1 \(id 'x'\): .*none\.png: expected an image, got nothing"
    ):
        list(read_samples(path, images=folder))
    skipped = Skipped()
    kept = list(read_samples(path, images=folder, skip=skipped))
    assert len(kept) == 3  # whether an image is whole is seen when it is decoded
    assert skipped.count == 3
    assert [("none.png" in r, "download it" in r, "empty text" in r) for r in skipped.reasons] == [
        (True, False, False), (False, True, False), (False, False, True),
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"data\.json, index 3 .*broken\.png: expected"):
        kept[2].images[0].load()
    skipped = Skipped()
    assert len(list(read_samples(path, images=folder, skip=skipped, decode=True))) == 2
    assert skipped.count == 4
    assert len(list(read_samples(path, images=folder, skip=Skipped(), check_files=False))) == 5
    assert all(isinstance(image, ImageFile) for sample in kept for image in sample.images)


json_values = st.recursive(
    st.one_of(st.integers(), st.text(max_size=5), st.booleans(), st.none(), st.floats(allow_nan=False)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=6,
)


@given(st.lists(st.dictionaries(st.text(max_size=4), json_values, max_size=3), max_size=6), st.booleans(), st.data())
def test_records_are_those_of_json(tmp_path_factory, records, lines, data):
    path = tmp_path_factory.mktemp("records") / "a.json"
    indent = data.draw(st.sampled_from([None, 1]))
    if lines:
        path.write_text("\n\n".join(map(json.dumps, records)) + "\n" * data.draw(st.integers(0, 1)))
    else:
        path.write_text(json.dumps(records, indent=indent, ensure_ascii=False) + "\n ")
    assert list(read_records(path)) == list(enumerate(records))
    whole = path.read_text()
    if not lines and records:
        path.write_text(whole.rstrip()[:-1])
        with pytest.raises(InputError, match=f"index {len(records)}: expected"):
            list(read_records(path))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"a": 1} {"a": 2}]', "index 1: expected a comma"),
        ('[{"a": 1}] more', "index 1: expected nothing behind"),
        ("[1, 2]", "index 0: expected a JSON object"),
        ('[{"a": 1}, 2]', "index 1: expected a JSON object"),
        ('[{"a": tru}]', "index 0: expected JSON"),
        ('{"a": 1}\n{"a":', "line 2: expected JSON"),
        ('[{"a": ' + "[" * 100_000, "nested too deep|cut short"),
    ],
)
def test_broken_json(tmp_path, text, words):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=words):
        list(read_records(tmp_path / "a.json"))


def test_long_records_and_long_files(tmp_path):
    path = tmp_path / "a.json"
    record = {"text": "x" * 300_000}
    path.write_text(json.dumps([record, {"b": 1}]))
    assert list(read_records(path)) == [(0, record), (1, {"b": 1})]

    def peak(count: int) -> int:
        path.write_text(json.dumps([{"text": "y" * 1000}] * count))
        tracemalloc.start()
        assert sum(1 for _ in read_records(path)) == count
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(10)
    assert peak(4_000) < peak(800) + 200_000  # the files are 3 MB apart


def test_what_is_a_conversation(tmp_path):
    path = tmp_path / "a.json"
    for text, expected in (
        (json.dumps([llava("a", "b")]), True),
        (json.dumps({"messages": []}), True),
        (json.dumps({"text": "a"}), False),
        ("[]", False),
        ("", False),
        ("no json", False),
    ):
        path.write_text(text)
        assert llava_json.is_conversations(path) is expected, text
