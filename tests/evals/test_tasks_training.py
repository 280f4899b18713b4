"""Training batches: all questions are answered by marked facts, and nothing else is marked."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from scipy import stats

from evals.tasks.memory import OPPOSITE, PEOPLE, PLACES
from evals.tasks.training import ELSEWHERE, SLICE, STRANGERS, MemoryTraining, Stage, concerned, near_fact

from .solver import FIRST, background, people_in, solve, tokenizer, words

STAGES = [
    Stage(segments=2, segment_size=64, near_facts=1.0),
    Stage(segments=6, segment_size=32, people=3, near_facts=2.0),
    Stage(segments=5, segment_size=32, near_facts=2.0, spread=True),
    Stage(segments=1, segment_size=128, rooms=1.0, people=8),
    Stage(segments=1, segment_size=64, rooms=1.0, spread=True),
]


@pytest.fixture(scope="module")
def tokens() -> Any:
    return tokenizer()


def training(tokens: Any, **fields: Any) -> MemoryTraining:
    return MemoryTraining(tokens, [background(3000)], batch_size=8, **fields)


def asked(tokens: Any, batch: dict[str, np.ndarray]) -> list[tuple[int, int, str]]:
    """Row, column and text of each question."""
    mask = batch["question_mask"].astype(bool)
    return [
        (row, column, words(tokens, batch["question_ids"][row, column][mask[row, column]]))
        for row, column in zip(*mask.any(axis=2).nonzero(), strict=True)
    ]


@pytest.mark.parametrize("stage", STAGES)
def test_marked_facts_answer_every_question(tokens: Any, stage: Stage) -> None:
    for number in range(12):
        batch = training(tokens).batch(number, stage)
        assert batch["input_ids"].shape == batch["salient"].shape == (8, stage.segments * stage.segment_size)
        assert batch["input_ids"].dtype == batch["question_ids"].dtype == batch["labels"].dtype == np.int64
        questions = asked(tokens, batch)
        assert {(r, c) for r, c, _ in questions} == set(zip(*(batch["labels"] >= 0).nonzero(), strict=True))
        assert {row for row, _, _ in questions} == set(range(8))  # each document asks something
        for row, column, text in questions:
            ids, keep = batch["input_ids"][row], batch["salient"][row]
            right = {PLACES[batch["labels"][row, column]]}
            assert solve(words(tokens, ids[keep]), text) == right
            assert solve(words(tokens, ids), text) == right  # near-facts contradict nothing
        assert (batch["labels"][batch["labels"] < 0] == -100).all()


@pytest.mark.parametrize("stage", STAGES)
def test_marks_are_exactly_the_facts_asked_about(tokens: Any, stage: Stage) -> None:
    for number in range(60):
        document = training(tokens).document(number, stage)
        ids, keep = document.tokens(), document.salient()
        expected = np.zeros(len(ids), dtype=bool)
        for insert in document.inserts:
            expected[insert.offset : insert.offset + len(insert.ids)] = insert.keep
            assert words(tokens, ids[insert.offset :][: len(insert.ids)]) == insert.text.lower()
            # Kept where, and only where, it alone answers one of the questions.
            if "of the" not in insert.text or insert.keep:
                answers = [solve(insert.text, q.text) for q in document.questions]
                assert any(answers) == insert.keep, insert.text
        assert keep.tolist() == expected.tolist()
        assert (ids[~keep] >= FIRST).any()


def test_all_told_people_and_both_room_facts_are_asked_about(tokens: Any) -> None:
    kinds = set()
    for number in range(80):
        document = training(tokens).document(number, STAGES[0])
        told = people_in(" ".join(i.text for i in document.inserts if i.keep))
        asked_of = [q.text.split()[-1].rstrip("?") for q in document.questions if q.task == "detect"]
        assert sorted(told) == sorted(asked_of)
        rooms = [i for i in document.inserts if i.keep and i.text.startswith("The")]
        about = [q for q in document.questions if q.task == "reasoning"]
        assert len(rooms) == len(about) in (0, 2)
        assert len(told) <= STAGES[0].people
        kinds.add((len(told), len(rooms)))
        for question in document.questions:
            assert question.key in (*PEOPLE, "north", "south", "east", "west")
            assert question.key in question.text or question.task == "reasoning"
    assert len(kinds) > 5


def test_spread_facts_stand_in_segments_of_their_own(tokens: Any) -> None:
    stage, cut = STAGES[2], 0
    for number in range(150):
        document = training(tokens).document(number, stage)
        homes = [i.offset // stage.segment_size for i in document.inserts]
        assert len(homes) == len(set(homes))
        for insert, home in zip(document.inserts, homes, strict=True):
            assert (insert.offset + len(insert.ids) - 1) // stage.segment_size == home
        loose = training(tokens).document(number, STAGES[1])
        size = STAGES[1].segment_size
        cut += sum(i.offset // size != (i.offset + len(i.ids) - 1) // size for i in loose.inserts)
    assert cut > 50  # the control: elsewhere borders do cut facts


def test_borders_cut_as_many_of_the_spread_facts_as_asked(tokens: Any) -> None:
    stage, cut, whole = Stage(segments=6, segment_size=64, near_facts=1.0, spread=True, cut=0.4), 0, 0
    for number in range(150):
        document = training(tokens).document(number, stage)
        ends = [i.offset + len(i.ids) for i in document.inserts]
        assert all(end <= later.offset for end, later in zip(ends, document.inserts[1:], strict=False))
        assert ends[-1] <= document.length
        for insert, end in zip(document.inserts, ends, strict=True):
            crosses = insert.offset // 64 != (end - 1) // 64
            cut, whole = cut + crosses, whole + (not crosses)
    assert 0.2 < cut / (cut + whole) < 0.45  # none is cut in the last segment


def test_a_lead_is_whole_segments_of_the_text(tokens: Any) -> None:
    made = training(tokens)
    stage = Stage(segments=2, segment_size=32, lead=3)
    lengths = []
    for index in range(20):
        lead = made.batch(index, stage).get("lead_ids")
        lengths.append(0 if lead is None else lead.shape[1])
        for row in [] if lead is None else lead:
            windows = np.lib.stride_tricks.sliding_window_view(background(3000), len(row))
            assert (windows == row).all(axis=1).any()
    assert set(lengths) == {0, 32, 64, 96}
    assert "lead_ids" not in made.batch(0, Stage(segments=2, segment_size=32))


def test_near_facts_come_as_often_as_asked_and_say_nothing(tokens: Any) -> None:
    rng = np.random.default_rng(0)
    free = ("Fred", "Jeff")
    for _ in range(400):
        text = near_fact(rng, free)
        for person in PEOPLE:
            assert not solve(text, f"Where is {person}?"), text
        assert not re.search(rf"the ({'|'.join(PLACES)}) is", text.lower())
        mover = people_in(text)
        assert not mover or mover[0] in free
    assert not set(STRANGERS) & set(PEOPLE)
    assert not set(ELSEWHERE) & set(PLACES)
    stage = Stage(segments=4, segment_size=128, near_facts=0.5)
    counts = [sum(not i.keep for i in training(tokens).document(n, stage).inserts) for n in range(300)]
    assert stats.poisson(300 * 4 * 0.5).cdf(sum(counts)) == pytest.approx(0.5, abs=0.499)


def test_answers_are_balanced(tokens: Any) -> None:
    maker = training(tokens)
    answers = np.concatenate([maker.batch(n, STAGES[0])["labels"].ravel() for n in range(60)])
    assert stats.chisquare(np.bincount(answers[answers >= 0], minlength=6)).pvalue > 1e-3


def test_offsets_reach_everywhere(tokens: Any) -> None:
    stage = Stage(segments=3, segment_size=64, people=1, rooms=0.0, near_facts=0.0)
    share = []
    for number in range(400):
        document = training(tokens).document(number, stage)
        (insert,) = document.inserts
        share.append(insert.offset / (document.length - len(insert.ids)))
    assert stats.kstest(share, "uniform").pvalue > 1e-3


def test_everything_follows_from_seed_and_number(tokens: Any) -> None:
    one, again = training(tokens, seed=3).batch(4, STAGES[0]), training(tokens, seed=3).batch(4, STAGES[0])
    assert one.keys() == again.keys()
    assert all(np.array_equal(one[key], again[key]) for key in one)
    for other in (training(tokens, seed=4).batch(4, STAGES[0]), training(tokens, seed=3).batch(5, STAGES[0])):
        assert not np.array_equal(one["input_ids"], other["input_ids"])
    rows = training(tokens, seed=3).batch(4, STAGES[0])["input_ids"]
    assert len({row.tobytes() for row in rows}) == 8


def test_spoken_answers_stand_behind_their_questions(tokens: Any) -> None:
    batch, classes = (training(tokens, spoken=s).batch(0, STAGES[0]) for s in (True, False))
    assert np.array_equal(batch["input_ids"], classes["input_ids"])
    labels = next(v for k, v in batch.items() if v.shape == batch["question_ids"].shape and (v == -100).any())
    for row, column, text in asked(tokens, batch):
        question, answer = text.split("? ") if "? " in text else text.split("?")
        place = PLACES[classes["labels"][row, column]]
        assert answer.strip() == place
        on = labels[row, column] != -100
        assert words(tokens, labels[row, column][on]) == place
        assert np.array_equal(labels[row, column][on], batch["question_ids"][row, column][on])
        assert not (on & ~batch["question_mask"][row, column].astype(bool)).any()
        assert solve(words(tokens, batch["input_ids"][row]), question + "?") == {place}


def test_keys_say_what_belongs_where(tokens: Any) -> None:
    keys = (*PEOPLE, "north", "south", "east", "west")
    batch = training(tokens, keys=keys).batch(0, STAGES[0])
    filed = next(v for v in batch.values() if v.shape == (8, len(keys)))
    assert (filed >= 0).any()
    for row in range(8):
        marks = batch["salient"][row]
        assert marks.shape == (len(batch["input_ids"][row]), len(keys))
        said = words(tokens, batch["input_ids"][row][marks.any(axis=1)])
        for column, person in enumerate(PEOPLE):
            own = words(tokens, batch["input_ids"][row][marks[:, column]])
            assert solve(own, f"Where is {person}?") == solve(said, f"Where is {person}?")
            assert {name.lower() for name in people_in(own)} <= {person.lower()}
            right = solve(said, f"Where is {person}?")
            assert ({PLACES[filed[row, column]]} if filed[row, column] >= 0 else set()) == right
        assert (filed[row, len(PEOPLE) :] >= 0).sum() in (0, 2)
        for way, other in OPPOSITE.items():
            told = said.count(f" {way} of the ") + said.count(f" {other} of the ")
            own = words(tokens, batch["input_ids"][row][marks[:, keys.index(way)]]).count(" of the ")
            # Of two facts along one line, the later one leaves alone what the earlier one filed.
            assert own + (marks[:, keys.index(other)].sum() < marks[:, keys.index(way)].sum()) <= told
            assert own >= told - 1


def test_a_share_of_the_tokens_is_to_be_predicted(tokens: Any) -> None:
    maker = training(tokens, spoken=True, predicted=0.25)
    batches = [maker.batch(n, STAGES[0]) for n in range(8)]
    labels, ids = (np.stack([b[name] for b in batches]) for name in ("labels", "input_ids"))
    assert (labels[labels >= 0] == ids[labels >= 0]).all()
    assert stats.binomtest(int((labels >= 0).sum()), labels.size, 0.25).pvalue > 1e-3
    assert (maker.batch(0, STAGES[0])["labels"] == labels[0]).all()
    assert "labels" not in training(tokens, spoken=True).batch(0, STAGES[0])


def test_backgrounds_are_drawn_by_their_length(tokens: Any) -> None:
    texts = [background(1000), background(3000) + 10**6]
    maker = MemoryTraining(tokens, texts, batch_size=4)
    stage = Stage(segments=1, segment_size=64)
    second = sum(int(maker.document(n, stage).tokens().max() > 10**6) for n in range(400))
    assert stats.binomtest(second, 400, 0.75).pvalue > 1e-3


def test_text_is_never_tiled(tokens: Any) -> None:
    maker = MemoryTraining(tokens, [background(100)], batch_size=2)
    with pytest.raises(ValueError, match=r"at least 128 tokens .* got 100;"):
        maker.batch(0, Stage())


def test_hot_text_is_looked_for_in_slices(tokens: Any) -> None:
    class Sliced:
        longest = 0

        def __init__(self, ids: np.ndarray) -> None:
            self.ids = ids

        def __len__(self) -> int:
            return len(self.ids)

        def __getitem__(self, part: slice) -> np.ndarray:
            self.longest = max(self.longest, len(self.ids[part]))
            return self.ids[part]

    hot = int(tokens(" kitchen", add_special_tokens=False)["input_ids"][0])
    text = np.full(2 * SLICE + 5, FIRST)
    wanted = [0, SLICE - 1, SLICE, 2 * SLICE + 4]  # on both sides of a border too
    text[wanted] = hot
    sliced = Sliced(text)
    (found, none) = MemoryTraining(tokens, [sliced, text[1:9]], batch_size=1).tempting
    assert found.tolist() == wanted
    assert found.dtype == none.dtype == np.uint32
    assert not len(none)
    assert sliced.longest <= SLICE


def test_hard_documents_hold_hot_text_at_both_ends_of_the_background(tokens: Any) -> None:
    text = background(300)
    text[[0, 299]] = int(tokens(" kitchen", add_special_tokens=False)["input_ids"][0])
    maker = MemoryTraining(tokens, [text], batch_size=1, hard=1.0)
    starts = [maker.document(n, Stage(segments=2, segment_size=64)).start for n in range(40)]
    assert {0, 300 - 128} <= set(starts)
    assert all(0 <= start <= 300 - 128 for start in starts)


def test_a_later_fact_does_not_concern_what_an_earlier_one_filed(tokens: Any) -> None:
    """Along one line: the first fact may be about either side of the middle, the second opens its own side only."""
    keys, seen = (*PEOPLE, "north", "south", "east", "west"), 0
    maker, stage = training(tokens, keys=keys), Stage(segments=4, segment_size=32, people=1, rooms=1.0, spread=True)
    for number in range(60):
        document = maker.document(number, stage)
        asked = {q.key: PLACES[q.answer] for q in document.questions if q.task == "reasoning"}
        first, second = (i for i in document.inserts if i.keep and " of the " in i.text)
        opened = [
            {key for key, open_here in zip(keys, maker.salient(document)[i.offset], strict=True) if open_here}
            for i in (first, second)
        ]
        assert opened[0] == concerned(first.text)
        if {OPPOSITE[key] for key in asked} == set(asked):
            seen += 1
            assert opened[1] == {key for key, room in asked.items() if room in second.text}
            assert len(opened[1]) == 1
        else:
            assert opened[1] == concerned(second.text)
    assert 5 < seen < 55


@pytest.mark.parametrize("apart", [True, False], ids=["spread", "anywhere"])
def test_a_fact_opens_a_share_of_the_documents(tokens: Any, apart: bool) -> None:
    def share(opens: float) -> float:
        stage = Stage(4, 32, people=4, rooms=0.0, near_facts=0.0, spread=apart, opens=opens)
        documents = [training(tokens).document(n, stage) for n in range(200)]
        return sum(d.inserts[0].offset == 0 for d in documents) / len(documents)

    # What finds no room in the first segment is left out, opening or not.
    tight = Stage(4, 8, people=0, rooms=1.0, near_facts=8.0, spread=True, opens=1.0)
    for n in range(40):
        inserts = training(tokens).document(n, tight).inserts if apart else ()
        assert all(i.keep or i.offset % 8 + len(i.ids) <= 8 for i in inserts)
    assert share(0.0) < 0.2
    assert share(1.0) > (0.5 if apart else 0.99)  # spread: where the first segment has a fact
