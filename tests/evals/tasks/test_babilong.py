"""BABILong's documents: exact, in order, with evidence, from made stories, from files and from a dataset."""

from __future__ import annotations

import json
import weakref
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from evals import MEMORY, load_rows, run
from evals.tasks.babi import make, parse, solve
from evals.tasks.babilong import CONFIGS, BABILong
from evals.tasks.babilong_prompts import before, behind
from evals.tasks.base import Source, Task
from evals.tasks.registry import create
from tests.evals.tasks.babi.test_babi import EXCERPTS
from tests.evals.words import Remembers, Words


def source(words: Words, length: int = 6000, **settings) -> Source:
    """Background of made-up sentences of seven words."""
    text = " ".join(f"w{i}." if i % 7 == 6 else f"w{i}" for i in range(length))
    return Source(words.encode, words.decode, words.encode(text), digest="w", **settings)


def read(words: Words, document) -> list[str]:
    """A document's words, read in uneven pieces."""
    cuts = [*range(0, document.length, 97), document.length]
    return [words.names[i] for a, b in pairwise(cuts) for i in document.tokens(a, b)]


@pytest.mark.parametrize("number", range(1, 11))
@pytest.mark.parametrize("bare", [True, False])
def test_the_facts_of_a_document_answer_its_question(number, bare):
    words = Words()
    text = source(words, bare=bare, seed=5)
    task = create(f"qa{number}")
    assert isinstance(task, Task)
    for index, document in enumerate(task.documents(text, 3000, 4)):
        said = read(words, document)
        assert len(said) == document.length == 3000
        (question,) = document.questions
        prefix = "" if bare else before(number)
        assert " ".join(said).startswith(" ".join(prefix.split()))
        facts = [insert for insert in document.inserts if insert.keep]
        for fact in facts:
            assert " ".join(said[fact.offset : fact.offset + len(fact.ids)]) == fact.text
        story = make(number, 5, index)
        assert tuple(fact.text for fact in facts) == story.facts  # all of the story, in order
        answer, support = solve(number, [fact.text for fact in facts], question.text)
        assert (answer,) == question.answers
        spans = tuple((facts[n].offset, facts[n].offset + len(facts[n].ids)) for n in support)
        assert question.evidence == spans
        assert words.decode(question.ids) == " ".join((question.text if bare else behind(question.text)).split())
        most = 1 if bare and number != 8 else 20  # a label is a word here
        assert (question.max_tokens, question.stop, question.choices) == (most, (), task.labels)
        assert question.scorer == f"babilong:qa{number}"


def test_the_text_around_the_facts_is_the_background_once_and_unbroken():
    words = Words()
    for align in ("token", "sentence"):
        for document in BABILong(3, align=align).documents(source(words, 4000), 3500, 3):
            said = read(words, document)
            rest = [
                w
                for n, w in enumerate(said)
                if not any(i.offset <= n < i.offset + len(i.ids) for i in document.inserts)
            ]
            numbers = [int(word.strip("w.")) for word in rest]
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_facts_stand_between_sentences_or_anywhere():
    words = Words()

    def before_facts(align: str) -> list[str]:
        made = BABILong(2, align=align).documents(source(words, bare=True), 2000, 10)
        near = []
        for document in made:
            behind_text = document.length - document.inserts[-1].offset - len(document.inserts[-1].ids) == 0
            facts = [i for i in document.inserts if i.offset and not (behind_text and i.offset > 1900)]
            near += [words.decode(document.tokens(i.offset - 1, i.offset)) for i in facts]
        return near

    assert all(word.endswith(".") for word in before_facts("sentence"))
    anywhere = before_facts("token")
    assert 0.3 < np.mean([not word.endswith(".") for word in anywhere]) < 0.95


def test_a_quotation_mark_that_closes_stays_with_its_sentence():
    words = Words()
    text = " ".join("” w" if i % 7 == 0 and i else f"w{i}." if i % 7 == 6 else f"w{i}" for i in range(3000))
    made = Source(words.encode, words.decode, words.encode(text), digest="w", bare=True)
    before_facts = set()
    for document in BABILong(1).documents(made, 1500, 10):
        ends = {fact.offset + len(fact.ids) for fact in document.inserts}  # a fact may stand behind another
        alone = [fact.offset for fact in document.inserts if 0 < fact.offset < 1400 and fact.offset not in ends]
        before_facts |= {words.decode(document.tokens(at - 1, at)) for at in alone}
    assert before_facts == {"”"}


def test_facts_are_spread_over_the_whole_text():
    words = Words()
    made = list(BABILong(1).documents(source(words, bare=True), 2000, 60))
    places = [i.offset / 2000 for d in made for i in d.inserts]
    assert 0.4 < np.mean(places) < 0.6
    assert min(places) < 0.05
    assert max(places) > 0.95
    assert len({i.offset % 64 for d in made for i in d.inserts}) > 40  # at any place of a segment


def test_documents_follow_from_seed_length_and_number():
    words = Words()
    first = [read(words, d) for d in BABILong(2).documents(source(words), 1500, 3)]
    assert first[1:] == [read(words, d) for d in BABILong(2).documents(source(words), 1500, 2, first=1)]
    other = [read(words, d) for d in BABILong(2).documents(source(words, seed=1), 1500, 3)]
    assert all(a != b for a, b in zip(first, other, strict=True))
    assert first[0] != first[1]


def test_what_does_not_fit_is_refused():
    words = Words()
    with pytest.raises(ValueError, match=r"never tiled.*got 500"):
        next(BABILong(1).documents(source(words, 500), 3000, 1))
    with pytest.raises(ValueError, match="tokens of the prompt"):
        BABILong(1).documents(source(words), 50, 1)
    with pytest.raises(ValueError, match="ask for more"):
        next(BABILong(3).documents(source(words, bare=True), 20, 1))
    # A story with less than 8 tokens of text a fact is left out, as in the benchmark.
    for document in BABILong(3).documents(source(words, bare=True), 200, 5):
        assert len(document.inserts) <= 200 // 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"number": 21}, "1 to 20"),
        ({"number": 11}, "files=FOLDER"),
        ({"number": 1, "align": "word"}, "sentence, token"),
        ({"number": 1, "scoring": "exact"}, "strict, words, loose"),
        ({"number": 1, "files": "a", "hub": "b"}, "leave one out"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        BABILong(**settings)


def test_stories_come_from_files_each_once(tmp_path):
    words = Words()
    (tmp_path / "qa7_counting_test.txt").write_text(EXCERPTS[7])
    (tmp_path / "qa15_basic-deduction_test.txt").write_text(
        "1 Mice are afraid of cats.\n2 Emily is a mouse.\n3 What is emily afraid of?\tcat\t2 1\n"
    )
    task = create(f"qa7:files={tmp_path}")
    made = list(task.documents(source(words), 900, 3))
    told = {(d.questions[0].text, d.questions[0].answers) for d in made}
    assert told == {(s.question, (s.answer,)) for s in parse(EXCERPTS[7].splitlines())}
    with pytest.raises(ValueError, match="expected questions for 4 documents, got 3"):
        task.documents(source(words), 900, 4)
    (last,) = create(f"qa15:files={tmp_path}").documents(source(words), 900, 1)
    (question,) = last.questions
    assert (question.answers, question.choices) == (("cat",), ("cat", "mouse", "sheep", "wolf"))
    assert [words.decode(last.tokens(*span)) for span in question.evidence] == [
        "Mice are afraid of cats.",
        "Emily is a mouse.",
    ]
    before_change = task.settings()
    (tmp_path / "qa7_counting_test.txt").write_text(EXCERPTS[7].replace("apple", "football"))
    assert task.settings() != before_change  # other stories are another task
    with pytest.raises(ValueError, match="qa8"):
        create(f"qa8:files={tmp_path}").documents(source(words), 900, 1)


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """A folder in the layout of the benchmark's dataset, with a configuration of each of two lengths."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "hub"
    names, head = ("4k", "1M"), ["---", "configs:"]
    for name in names:
        (folder / "data" / "qa1").mkdir(parents=True, exist_ok=True)
        rows = [
            {
                "input": f" Once it was {name}. {who} went to the {room}. It rained.",
                "question": f"Where is {who}? ",
                "target": room,
            }
            for who, room in (("Mary", "office"), ("John", "garden"), ("Sandra", "big kitchen"))
        ]
        (folder / "data" / "qa1" / f"{name}.json").write_text(json.dumps(rows))
        head += [f"- config_name: {name}", "  data_files:", "  - split: qa1", f"    path: data/qa1/{name}.json"]
    (folder / "README.md").write_text("\n".join([*head, "---", ""]))
    return folder


def test_documents_come_from_a_dataset_as_long_as_they_are(dataset, tmp_path):
    words = Words()
    task = create(f"qa1:hub={dataset}")
    made = list(task.documents(source(words), 4000, 3))
    told = " ".join(read(words, made[1]))
    assert told == " ".join((before(1) + "Once it was 4k. John went to the garden. It rained.").split())
    (question,) = made[1].questions
    assert (question.text, question.answers, question.evidence) == ("Where is John?", ("garden",), ())
    (bare,) = task.documents(source(words, bare=True), 1_000_000, 1)
    assert " ".join(read(words, bare)) == "Once it was 1M. Mary went to the office. It rained."
    # Rows are filed under the length that was asked for, whatever length the documents have.
    assert len({document.length for document in made}) == 2
    cells = run(Remembers(words), [task], source(words), lengths=[4000], n=3, folder=tmp_path / "run")
    assert {(cell.length, cell.n) for cell in cells} == {(4000, 3)}
    assert {row.scorer for row in load_rows(tmp_path / "run" / "rows.jsonl") if row.control == MEMORY} == {
        "babilong:qa1"
    }
    assert any(cell.control == "swapped" for cell in cells)


def test_what_a_dataset_does_not_have_is_refused(dataset):
    words = Words()
    task = BABILong(1, hub=str(dataset))
    with pytest.raises(ValueError, match="4000 means 4k"):
        list(task.documents(source(words), 3000, 1))
    with pytest.raises(ValueError, match="hub: expected qa1 of 8k"):
        list(task.documents(source(words), 8192, 1))
    with pytest.raises(ValueError, match="got 3; ask for fewer"):
        list(task.documents(source(words), 4096, 4))
    with pytest.raises(ValueError, match="hub: expected qa1 of 4k in"):
        list(BABILong(1, hub=str(dataset / "none")).documents(source(words), 4000, 1))
    assert list(CONFIGS)[:3] == ["1k", "2k", "4k"]


def test_settings_name_all_that_changes_documents_and_scores():
    said = [BABILong(1).settings(), BABILong(2).settings(), BABILong(1, align="token").settings()]
    said += [BABILong(1, scoring="loose").settings(), BABILong(1, hub="RMT-team/babilong").settings()]
    assert len({json.dumps(dict(one), sort_keys=True) for one in said}) == 5
    assert BABILong(5).chance == 1 / 7
    assert BABILong(10).chance == 1 / 3


def test_of_a_dataset_no_more_than_two_texts_are_held(dataset, monkeypatch):
    words = Words()
    monkeypatch.setattr("evals.tasks.babilong._load", lambda *_: [
        {"input": f"The {n} th text.", "question": "Where is Mary?", "target": "office"} for n in range(20)
    ])  # fmt: skip
    held: list[weakref.ref] = []

    def encode(text):
        ids = words.encode(text)
        if "text." in text:
            held.append(weakref.ref(ids))
        return ids

    made = list(BABILong(1, hub=str(dataset)).documents(replace(source(words, bare=True), encode=encode), 4000, 20))
    assert sum(ids() is not None for ids in held) <= 2
    assert [words.decode(document.tokens()) for document in made] == [f"The {n} th text." for n in range(20)]
    assert sum(ids() is not None for ids in held) <= 2
