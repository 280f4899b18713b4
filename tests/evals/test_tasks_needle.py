"""Needles: where they stand, searched for token by token; what is asked of them; and how answers are scored."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals import MEMORY, load_rows, run
from evals.positions import by_depth, by_tokens
from evals.scorers import score
from evals.tasks.base import Source, Task
from evals.tasks.memory import MOVES, PLACES
from evals.tasks.needle import SAN_FRANCISCO, Needle
from evals.tasks.registry import create
from tests.evals.solver import background, tokenizer
from tests.evals.words import Remembers, Words, source

FIRST = 1 << 40  # background ids begin here and count up: each names its own place


def counted(words: Words, length: int = 5000, **settings) -> Source:
    return Source(words.encode, words.decode, np.arange(FIRST, FIRST + length), digest="n", **settings)


def find(ids: np.ndarray, part: np.ndarray) -> list[int]:
    """Every place at which ``part`` stands in ``ids``, looked for at each token."""
    return [i for i in range(len(ids) - len(part) + 1) if ids[i : i + len(part)].tolist() == part.tolist()]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([("numbers", 12), ("san_francisco", 8), ("places", 8)]).flatmap(
        lambda kind: st.tuples(st.just(kind[0]), st.integers(1, kind[1]))
    ),
    st.integers(1, 12),
    st.integers(400, 700),
    st.integers(0, 30),
    st.integers(0, 3),
)
def test_the_needle_is_at_its_depth_to_the_token(kind, depths, length, index, seed):
    words = Words()
    text = counted(words, seed=seed)
    task = Needle(needles=kind[1], depths=depths, kind=kind[0])
    (document,) = task.documents(text, length, 1, first=index)
    ids = document.tokens(0, length)
    assert len(ids) == document.length == length
    (question,) = document.questions
    ((start, stop),) = question.evidence
    assert find(ids, ids[start:stop]) == [start]
    wanted = 0.0 if depths == 1 else (index % depths) / (depths - 1)
    assert abs(start - wanted * (length - (stop - start))) <= 0.5
    assert wanted != 1 or stop == length
    said = words.decode(ids[start:stop])
    assert question.text.split()[-1].strip("?") in said
    assert all(" ".join(answer.split()) in said for answer in question.answers)
    # What is not background is the needles, each of them whole; the background is in order, nothing left out.
    inserted = ids < FIRST
    assert len(document.inserts) == kind[1]
    assert sum(len(insert.ids) for insert in document.inserts) == inserted.sum()
    assert np.array_equal(np.diff(ids[~inserted]), np.ones((~inserted).sum() - 1))
    assert words.decode(ids[inserted]) == " ".join(" ".join(insert.text.split()) for insert in document.inserts)


def test_other_needles_stand_anywhere_and_borders_cut_them():
    words = Words()
    shares, cut = [], 0
    for document in Needle(needles=3, depths=11).documents(counted(words), 600, 220):
        ((at, _),) = document.questions[0].evidence
        others = [insert for insert in document.inserts if insert.offset != at]
        assert len(others) == 2
        shares += [other.offset / (600 - len(other.ids)) for other in others]
        cut += sum(other.offset // 100 != (other.offset + len(other.ids) - 1) // 100 for other in others)
    assert min(shares) < 0.02
    assert max(shares) > 0.98
    assert np.histogram(shares, 4, (0, 1))[0].min() > 80  # 110 each, if they were drawn alone
    assert 15 < cut < 70  # about 9 tokens in 100 are cut: 40 of 440


@dataclass
class Reader(Remembers):
    """Answers a needle's question with what the text says of it; "nothing" where it does not."""

    def generate(self, state, prompts, max_tokens, stop=(), sampling=None):
        return [self._find(state, self.decode(prompt)) for prompt in prompts]

    def _find(self, text, prompt):
        if found := re.search(r"magic number for (.*?)\?", prompt):
            said = re.search(rf"magic number for {found[1]} is (\d+\.)", text)
        elif found := re.search(r"Where is (\w+)\?", prompt):
            said = re.search(rf"{found[1]} (?:{'|'.join(MOVES)}) the (\w+\.)", text)
        else:
            said = re.search(r"in San Francisco is (.*? day)", text)
        return said[1] if said else "nothing"


@pytest.mark.parametrize("bare", [True, False])
@pytest.mark.parametrize("kind", ["numbers", "places", "san_francisco"])
def test_a_model_that_reads_is_right_at_all_depths_and_a_window_near_the_end(tmp_path, kind, bare):
    words = Words()
    text = source(words, bare=bare)
    task = Needle(needles=4, depths=5, kind=kind)
    once = {"lengths": [300, 500], "n": 10}
    whole = run(Reader(words), [task], text, folder=tmp_path / "a", **once)
    assert all(c.rate == 1 for c in whole if c.control == MEMORY)
    # Another document may send the same person to the same place, as one of the others.
    assert all(c.rate <= (0.2 if kind == "places" else 0) for c in whole if c.control != MEMORY)
    assert any(c.control == "swapped" for c in whole) == (kind != "san_francisco")  # the same answer everywhere
    rows = load_rows(tmp_path / "a" / "rows.jsonl")
    bins = by_depth(rows, depths=5)
    assert [(b.length, b.place, b.n, b.rate) for b in bins] == [
        (length, i / 4, 2, 1.0) for length in (300, 500) for i in range(5)
    ]
    run(Reader(words, window=160), [task], text, folder=tmp_path / "b", **once)
    seen = by_depth(load_rows(tmp_path / "b" / "rows.jsonl"), depths=5)
    assert {(b.length, b.place): b.rate for b in seen} == {
        (length, i / 4): float(length * (1 - i / 4) < 160) for length in (300, 500) for i in range(5)
    }
    assert all(b.rate == (b.low < 160) for b in by_tokens(load_rows(tmp_path / "b" / "rows.jsonl"), [0, 120, 160]))


def test_one_number_a_key_and_everything_follows_from_the_seed():
    words = Words()
    task = create("needle:needles=30,depths=3")
    assert isinstance(task, Task)
    assert task.settings() == {"needles": 30, "depths": 3, "kind": "numbers", "name": "needle"}
    made = [list(task.documents(source(words, seed=seed), 900, 4)) for seed in (0, 0, 1)]
    digests = [[document.digest() for document in documents] for documents in made]
    assert digests[0] == digests[1]
    assert len(set(digests[0] + digests[2])) == 8
    assert [d.digest() for d in task.documents(source(words), 900, 2, first=2)] == digests[0][2:]
    for document in made[0]:
        facts = re.findall(r"number for (\w+ \w+) is (\d{7})\.", words.decode(document.tokens()))
        assert len(facts) == len(dict(facts)) == len({number for _, number in facts}) == 30
        asked = document.questions[0]
        assert dict(facts)[asked.text[len("What is the special magic number for ") : -1]] == asked.answers[0]


def test_places_may_be_chosen_and_have_a_chance():
    words = Words()
    (document,) = Needle(kind="places", needles=8).documents(source(words), 300, 1)
    assert document.questions[0].choices == PLACES
    assert document.questions[0].answers[0] in PLACES
    assert Needle(kind="places").chance == pytest.approx(1 / 6)
    assert Needle().chance is None


def test_a_real_tokenizer_and_a_million_tokens():
    made = tokenizer()

    def encode(text):
        return np.asarray(made(text, add_special_tokens=False)["input_ids"], dtype=np.int64)

    text = Source(encode, made.decode, background(1_100_000), digest="r")
    documents = list(Needle(needles=20, depths=5).documents(text, 1_000_000, 5))
    for number, document in enumerate(documents):
        ((start, stop),) = document.questions[0].evidence
        assert abs(start - number / 4 * (1_000_000 - (stop - start))) <= 0.5
        said = made.decode(document.tokens(start, stop)).replace(" ", "")
        assert document.questions[0].answers[0] in said
    ids = documents[2].tokens(0, 1_000_000)
    assert len(ids) == 1_000_000
    assert (ids < 100_000).sum() == sum(len(insert.ids) for insert in documents[2].inserts)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"kind": "words"}, "kind: expected one of numbers, san_francisco, places"),
        ({"needles": 0}, "needles: expected 1 to 1600"),
        ({"needles": 9, "kind": "places"}, "needles: expected 1 to 8 of places, got 9"),
        ({"depths": 0}, "depths: expected at least 1"),
    ],
)
def test_bad_settings_are_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        Needle(**fields)


def test_what_does_not_fit_is_refused():
    words = Words()
    with pytest.raises(ValueError, match=r"at least 600 tokens .*never tiled\), got 500"):
        Needle().documents(source(words, 500), 600, 1)
    with pytest.raises(ValueError, match="length: expected room for a fact of 9 tokens, got 5"):
        list(Needle().documents(source(words), 5, 1))
    with pytest.raises(ValueError, match=r"expected room for 9 facts \(81 tokens\) around token 0, got 80"):
        list(Needle(needles=9).documents(source(words), 80, 1))
    (full,) = Needle(needles=9).documents(source(words), 81, 1)  # needles and nothing else
    assert len(full.tokens()) == 81


NUMBER = "What is the special magic number for quiet lantern?"


@pytest.mark.parametrize(
    ("answered", "right"),
    [
        ("4821337", 1),
        ("4821337.", 1),
        (" 4,821,337", 1),
        ("The special magic number for quiet lantern is 4821337.", 1),
        ("THE SPECIAL MAGIC NUMBER IS 4821337", 1),  # case says nothing
        ("4821337, I repeat, 4821337.", 1),
        ("", 0),
        (NUMBER, 0),  # the question again
        ("4821337 1000001 5550123", 0),  # all numbers of the document
        ("The number is 4821337. The number for green apple is 1000001.", 0),  # a second sentence with another
        ("4821337 or 4821338", 0),
        ("48213370", 0),
        ("14821337", 0),
        ("4821337.5", 0),
        ("4821 337", 0),
        ("x4821337", 0),
        ("482133", 0),
        ("four million", 0),
    ],
)
def test_a_number_is_right_as_a_whole_and_alone(answered, right):
    assert score("needle", answered, ("4821337",), NUMBER) == right


@pytest.mark.parametrize(
    ("answered", "right"),
    [
        ("kitchen", 1),
        ("KITCHEN", 1),
        ("Mary is in the kitchen.", 1),
        ("", 0),
        ("Where is Mary?", 0),
        (" ".join(PLACES), 0),
        ("The kitchen. John is in the garden.", 0),
        ("kitchens", 0),
        ("the garden", 0),
        ("THE GARDEN", 0),
    ],
)
def test_a_place_is_right_alone(answered, right):
    assert score("needle_place", answered, ("kitchen",), "Where is Mary?") == right


# Answers that the benchmark published, with the marks it gave (10 or 1): original_results/Anthropic_Original_Results,
# token_len_1000_depth_0, _10000, token_len_147324_depth_5000 and token_len_200000_depth_5000.
KAMRADT = [
    (
        " Based on the context provided, the most fun thing to do in San Francisco is:\n\nEat a sandwich and sit in "
        'Dolores Park on a sunny day.\n\nThe context states: "The best thing to do in San Francisco is eat a sandwich '
        'and sit in Dolores Park on a sunny day." This directly answers the question of what is the most fun thing to '
        "do in San Francisco.",
        10,
    ),
    (
        " Based on the context provided, the most fun thing to do in San Francisco is:\n\neat a sandwich and sit in "
        "Dolores Park on a sunny day.",
        10,
    ),
    (
        " Unfortunately the context does not mention the most fun thing to do in San Francisco. The context discusses "
        "a variety of topics related to programming languages, wealth inequality, history, and more, but does not "
        "specifically mention any fun activities to do in San Francisco. Without additional information not present in "
        "the context, I cannot definitively state what the most fun thing to do in San Francisco is. I apologize that "
        "I cannot provide a more direct answer.",
        1,
    ),
    (
        " Unfortunately, the context does not mention anything about fun things to do in San Francisco. The context is "
        "an essay about the history and significance of the Lisp programming language. It does not discuss San "
        "Francisco or activities there. I do not have enough information in the context to provide a substantive "
        "answer to the question asked.",
        1,
    ),
]


@pytest.mark.parametrize(("answered", "mark"), KAMRADT)
def test_published_answers_get_the_published_mark(answered, mark):
    assert score("needle_phrases", answered, SAN_FRANCISCO[2], SAN_FRANCISCO[1]) == (mark == 10)


@pytest.mark.parametrize(
    "answered",
    ["", SAN_FRANCISCO[1], "Eat a sandwich.", "Sit in Dolores Park on a sunny day.", "It is a sunny day in the park."],
)
def test_a_part_of_the_sentence_is_not_enough(answered):
    assert score("needle_phrases", answered, SAN_FRANCISCO[2], SAN_FRANCISCO[1]) == 0
