from __future__ import annotations

import json
import re

import numpy as np
import pytest

from evals import load_rows, run
from evals.tasks.registry import create
from evals.tasks.ruler import QuestionAnswering
from tests.evals.test_ruler_documents import source
from tests.evals.words import Remembers, Words
from tests.evals.words import source as words_source

TOWNS = ("Avery", "Brook", "Carden", "Dale", "Elm", "Ford", "Gale", "Hythe")


def squad(path, articles=4, parts=8):
    """The official layout: title, paragraphs, context, qas with is_impossible and answers."""
    data = [
        {
            "title": f"River {a}",
            "paragraphs": [
                {
                    "context": f"The {town} bridge over river {a} was built in {1700 + 10 * a + p}. It is of stone.",
                    "qas": [
                        {
                            "id": f"{a}-{p}",
                            "question": f"When was the {town} bridge over river {a} built?",
                            "is_impossible": False,
                            "answers": [{"text": str(1700 + 10 * a + p), "answer_start": 40}] * 2,
                        },
                        {"id": f"{a}-{p}-x", "question": "Who?", "is_impossible": True, "answers": []},
                    ],
                }
                for p, town in enumerate(TOWNS[:parts])
            ],
        }
        for a in range(articles)
    ]
    path.write_text(json.dumps({"version": "v2.0", "data": data}))
    return str(path)


def hotpot(path, count=6):
    """The official layout: context of [title, sentences], supporting_facts of [title, sentence]."""
    data = [
        {
            "_id": str(n),
            "question": f"In which country is the city where person {n} was born?",
            "answer": f"Land{n}",
            "supporting_facts": [[f"Person {n}", 0], [f"City {n}", 0]],
            "context": [
                [f"Person {n}", [f"Person {n} was born in City {n}.", " They write."]],
                [f"City {n}", [f"City {n} lies in Land{n}."]],
                *([f"Other {n} {k}", [f"Nothing of note is said of {n} {k}."]] for k in range(3)),
            ],
        }
        for n in range(count)
    ]
    path.write_text(json.dumps(data))
    return str(path)


def passages(text: str) -> list[str]:
    found = re.findall(r"Document (\d+):\n(.*?)(?=\n\nDocument|\Z)", text, re.DOTALL)
    assert [int(number) for number, _ in found] == list(range(1, len(found) + 1))
    return [said for _, said in found]


@pytest.mark.parametrize("bare", [False, True])
def test_squad(tmp_path, bare):
    given = source("byte_level", bare=bare)
    task = create(f"qa_1:files={squad(tmp_path / 'squad.json')}")
    depths = set()
    for length in (500, 901):
        for number, document in enumerate(task.documents(given, length, 12)):
            text = given.decode(document.tokens(0, length))
            assert len(document.tokens(0, length)) == length
            whole = document.tokens(0, length)
            assert np.array_equal(whole[33:202], document.tokens(33, 202))
            said = passages(text.rpartition("given documents.\n\n")[2])
            (question,) = document.questions
            a, p = divmod(number, 8)
            assert question.answers == (str(1700 + 10 * a + p),)
            gold = [n for n, passage in enumerate(said) if f"{TOWNS[p]} bridge over river {a} was" in passage]
            assert len(gold) == 1  # once, whole, and the others are not repeated
            assert (
                said[gold[0]].strip()
                == f"The {TOWNS[p]} bridge over river {a} was built in {question.answers[0]}. It is of stone."
            )
            assert len(set(said)) == len(said)
            ((start, stop),) = question.evidence
            assert given.decode(whole[start:stop]).startswith(f"Document {gold[0] + 1}:\nThe {TOWNS[p]}")
            assert question.answers[0] in given.decode(whole[start:stop])
            depths.add(gold[0])
            others = [int(river) for river in re.findall(r"over river (\d)", text)]
            assert others.count(a) == min(8, len(others)) or len(others) >= 8  # the same article's come first
            asked = given.decode(question.ids)
            if bare:
                assert asked == question.text
                assert text.startswith("Document 1:")
            else:
                assert text.startswith("Answer the question based on the given documents. Only give me the answer")
                assert asked.startswith("\n\nAnswer the question based on the given documents. Only give me")
                assert asked.endswith(f"\n\nQuestion: {question.text} Answer:")
    assert len(depths) > 3


def test_hotpot(tmp_path):
    given = source("byte_level")
    task = QuestionAnswering("qa_2", hotpot(tmp_path / "hotpot.json"))
    (document,) = task.documents(given, 600, 1, first=2)
    (question,) = document.questions
    said = [given.decode(document.tokens(*span)).partition("\n")[2].strip() for span in question.evidence]
    assert sorted(said) == ["City 2\nCity 2 lies in Land2.", "Person 2\nPerson 2 was born in City 2. They write."]
    assert (question.answers, question.scorer, question.max_tokens) == (("Land2",), "ruler_part", 32)
    text = given.decode(document.tokens(0, 600))
    assert all(f"Other 2 {k}\n" in text for k in range(3))


def test_files_that_will_not_do(tmp_path):
    given = source("words")
    with pytest.raises(ValueError, match=r"qa_1: expected files= the path of SQuAD's dev-v2.0.json, got 'nothing'"):
        create("qa_1").settings()
    with pytest.raises(ValueError, match=r"HotpotQA's hotpot_dev_distractor_v1.json, got '/not/here'"):
        list(create("qa_2:files=/not/here").documents(given, 500, 1))
    path = squad(tmp_path / "squad.json")
    with pytest.raises(ValueError, match="expected the layout of HotpotQA's"):
        list(QuestionAnswering("qa_2", path).documents(given, 500, 1))
    with pytest.raises(ValueError, match="expected at least 33 questions, got 32"):
        list(QuestionAnswering("qa_1", path).documents(given, 200, 33))
    with pytest.raises(ValueError, match="nothing is repeated"):
        list(QuestionAnswering("qa_1", path).documents(given, 20000, 1))
    with pytest.raises(ValueError, match="length: expected at least"):
        list(QuestionAnswering("qa_1", path).documents(given, 30, 1))
    (tmp_path / "other.json").write_text((tmp_path / "squad.json").read_text().replace("stone", "brick"))
    other = QuestionAnswering("qa_1", str(tmp_path / "other.json"))
    assert other.settings() != QuestionAnswering("qa_1", path).settings()


def test_the_runner_takes_them(tmp_path):
    words = Words()
    cells = run(
        Remembers(words),
        [QuestionAnswering("qa_1", squad(tmp_path / "s.json")), "vt", "cwe", "niah_single_2"],
        words_source(words, bare=True),
        lengths=[400],
        n=2,
        folder=tmp_path / "out",
    )
    assert {cell.task for cell in cells} == {"qa_1", "vt", "cwe", "niah_single_2"}
    assert all(cell.rate == 0 for cell in cells)


def test_a_document_that_holds_the_answering_paragraph_is_never_swapped_in(tmp_path):
    words = Words()
    task = QuestionAnswering("qa_1", squad(tmp_path / "dev.json"))
    made = list(task.documents(words_source(words), 200, 12))
    told = {document.questions[0].text: words.decode(document.tokens()) for document in made}
    run(Remembers(words), [task], words_source(words), lengths=[200], n=12, folder=tmp_path / "run")
    rows = load_rows(tmp_path / "run" / "rows.jsonl")
    asked = {row.digest: row.asked for row in rows}
    swapped = [row for row in rows if row.control == "swapped"]
    assert swapped
    assert not any(f"built in {row.expected[0]}." in told[asked[row.source]] for row in swapped)
