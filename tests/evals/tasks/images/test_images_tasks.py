"""Image tasks: what is seen answers everything, text answers nothing, and controls fall to where they belong."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from evals import MEMORY, Model, load_rows, run
from evals.breakdowns import breakdowns
from evals.tasks.base import Source, Task
from evals.tasks.images.documents import ImageDocument
from evals.tasks.images.scoring import NUMBERS
from evals.tasks.images.world import DIGITS, NAMES
from evals.tasks.registry import create, names

from .seeing import PER, Seeing, source
from .small import FIRST, IMAGE, Words, background

SPECS = [
    "image_needle",
    "image_needle:ask=digit,depths=1,distractors=0,sentences=0",
    "image_tagged",
    "image_tagged:tag=text,images=4,asked=2",
    "image_counting",
    "image_counting:ask=color,images=20,most=20",
    "image_unanswerable",
    "image_unanswerable:images=7,ask=digit",
]


def made(spec: str, count: int, length: int = 400, words: Words | None = None, **settings: Any) -> list[ImageDocument]:
    return list(create(spec).documents(source(words or Words(), **settings), length, count))


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("bare", [False, True])
def test_a_model_that_sees_is_right_and_controls_are_not(spec: str, bare: bool, tmp_path: Any) -> None:
    words = Words()
    model = Seeing(words, eyes=not bare)
    assert isinstance(model, Model)
    assert isinstance(create(spec), Task)
    cells = {c.control: c for c in run(
        model, [spec], source(words, bare=bare), lengths=[400], n=12, folder=tmp_path
    )}  # fmt: skip
    assert cells[MEMORY].rate == 1
    asked = sum(len(d.questions) for d in made(spec, 12))
    assert cells[MEMORY].n == asked
    if "unanswerable" in spec:
        assert cells["zeroed"].rate == 0.5  # "unknown" where there is nothing to know
    elif "counting" in spec:
        assert cells["zeroed"].rate < 0.5  # "zero", which is right at times
    else:
        assert cells["zeroed"].rate == 0
    # Another document's memory is wrong whatever it says: documents that would be right lend nothing.
    assert "swapped" in cells
    assert cells["swapped"].rate == 0
    again = run(Seeing(words), [spec], source(words, bare=bare), lengths=[400], n=12, folder=tmp_path)
    assert [c.rate for c in again] == [c.rate for c in cells.values()]


@pytest.mark.parametrize("spec", SPECS)
def test_documents_have_their_length_and_follow_from_seed_and_number(spec: str) -> None:
    words = Words()
    one, two = made(spec, 4, words=words), made(spec, 4, words=words)
    for document, twin in zip(one, two, strict=True):
        ids = document.tokens()
        assert len(ids) == document.length == 400
        assert np.array_equal(ids, twin.tokens())
        text = ids[ids >= FIRST]
        assert np.array_equal(text, np.arange(text[0], text[0] + len(text)))  # in order, never tiled
        for figure, other in zip(document.figures(), twin.figures(), strict=True):
            assert np.array_equal(figure.image(), other.image())
        assert document.recipe == twin.recipe
        for question in document.questions:
            for start, stop in question.evidence:
                assert (start, stop) in [(f.start, f.stop) for f in document.figures()]
    third = list(create(spec).documents(source(words), 400, 1, first=2))
    assert third[0].recipe == one[2].recipe
    assert len({d.recipe for d in [*one, *made(spec, 4, words=words, seed=1), *made(spec, 4, 401, words)]}) == 12


def blind_score(documents: Sequence[ImageDocument], words: Words) -> tuple[float, int]:
    """Accuracy of the best guess from the question and any one word of the text, learned on the first half.

    For each attribute a guesser that takes the answer which went most often with the rarest word of the document that
    names a colour or a digit, one that takes the most frequent answer, and one that repeats a word of the text.
    """
    half = len(documents) // 2
    votes: dict[Any, Counter[str]] = defaultdict(Counter)
    best: dict[str, list[float]] = defaultdict(list)

    def cues(document: ImageDocument, question: Any) -> dict[str, Any]:
        ids = document.tokens()
        told = Counter(words.decode(ids[(ids < FIRST) & (ids != IMAGE)]).replace(".", "").split())
        digits = tuple(sorted(w for w in told if w in DIGITS))
        colours = tuple(sorted(w for w in told if w in NAMES))
        kind = question.about["attribute"]
        return {
            "nothing": kind,
            "question": question.text,
            "digit most": (kind, max(digits, key=told.__getitem__, default="")),
            "colour most": (kind, max(colours, key=told.__getitem__, default="")),
            "asked is told": (kind, sum(told[w] for w in question.text.rstrip("?").split() if w in NAMES)),
            "empty": (kind, told["empty"]),
            "pictures": (kind, int((ids == IMAGE).sum())),
            "first token": (kind, int(ids[0] == IMAGE)),
        }

    for document in documents[:half]:
        for question in document.questions:
            for name, cue in cues(document, question).items():
                votes[name, cue][question.answers[0]] += 1
    asked = 0
    for document in documents[half:]:
        for question in document.questions:
            asked += 1
            for name, cue in cues(document, question).items():
                guess = votes[name, cue].most_common(1)
                best[name].append(float(bool(guess) and guess[0][0] in question.answers))
    return max(float(np.mean(hits)) for hits in best.values()), asked


@pytest.mark.parametrize("spec", ["image_needle:sentences=12", "image_tagged:images=2,sentences=12",
                                  "image_tagged:tag=text,images=2", "image_counting:distractors=1",
                                  "image_unanswerable:sentences=12"])  # fmt: skip
def test_text_and_questions_give_nothing_away(spec: str) -> None:
    words, task = Words(), create(spec)
    score, asked = blind_score(list(task.documents(source(words), 300, 500)), words)
    sigma = (task.chance * (1 - task.chance) / asked) ** 0.5
    assert score < task.chance + 5 * sigma  # the best of eight guessers, questions of a document not independent


def test_the_blind_guesser_finds_what_is_given_away() -> None:
    words, task = Words(), create("image_needle:ask=color,sentences=0")

    class Telling:
        """A document that says its answer."""

        def __init__(self, document: ImageDocument) -> None:
            self.questions, self.document = document.questions, document

        def tokens(self) -> np.ndarray:
            return np.concatenate([self.document.tokens(), words.encode(self.questions[0].answers[0])])

    told: Any = [Telling(d) for d in task.documents(source(words), 200, 400)]
    assert blind_score(told, words)[0] > 0.9


def test_needles_stand_at_their_depths_among_distractors() -> None:
    task = create("image_needle:depths=5,distractors=30,sentences=30")
    for document in task.documents(source(Words()), 500, 10):
        depth = task.depth(document.index)
        ((start, stop),) = {question.evidence[0] for question in document.questions}
        assert start == int(depth * (500 - PER) + 0.5)
        assert stop - start == PER
        framed = [f for f in document.figures() if f.image.seen.get("frame")]
        assert [f.start for f in framed] == [start]
        assert len(document.figures()) > 5
        assert {f.image.seen["kind"] for f in document.figures()} == {"digit", "scene"}


def test_tags_come_in_turn_and_keep_their_label() -> None:
    words = Words()
    sizes = []
    for document in made("image_tagged:tag=text,images=2+4+8+16", 8, 600, words):
        labelled = [f for f in document.figures() if f.at > f.start]
        sizes.append(len(labelled))
        said = [words.decode(document.tokens(f.start, f.at)) for f in labelled]
        assert len(set(said)) == len(said)
        assert all(text.startswith("Picture of the ") and text.endswith(":") for text in said)
        assert len(document.questions) == 2 * len(labelled)
        assert {q.about["images"] for q in document.questions} == {len(labelled)}
    assert sizes == [2, 4, 8, 16] * 2


def test_counts_are_even_and_so_are_places() -> None:
    counts = Counter()
    for document in made("image_counting", 400):
        counts.update(q.answers[0] for q in document.questions)
    assert set(counts) == set(NUMBERS[:7])
    assert all(70 < counts[word] < 165 for word in NUMBERS[:7])  # 800 / 7 and four standard deviations


def test_half_of_the_unanswerable_are() -> None:
    answers = [d.questions[0].answers[0] for d in made("image_unanswerable", 40)]
    assert answers.count("unknown") == 20
    assert [d.questions[0].about["answerable"] for d in made("image_unanswerable:absent=0.25", 8)].count(False) == 2
    for document in made("image_unanswerable:images=7", 20):
        frames = {f.image.seen.get("frame") for f in document.figures()}
        asked = next(name for name in NAMES if f" {name} frame" in document.questions[0].text)
        assert (asked in frames) == document.questions[0].about["answerable"]


def test_breakdowns_say_what_a_mean_does_not(tmp_path: Any) -> None:
    words = Words()
    specs = ["image_tagged", "image_counting", "image_unanswerable", "image_needle"]
    run(Seeing(words), specs, source(words), lengths=[400, 500], n=6, folder=tmp_path, controls=())
    tables = {(t.task, t.title): t for t in breakdowns(load_rows(tmp_path / "rows.jsonl"))}
    by = tables["image_tagged", "Accuracy by images and attribute"]
    assert [line[:3] for line in by.lines[:6]] == [
        (400, images, attribute) for images in (2, 4, 8) for attribute in ("color", "digit")
    ]
    assert all(line[-1].value == 1 for line in by.lines)
    counting = tables["image_counting", "Counting"]
    assert [(line[0], line[1], line[3].value, line[4].value, line[5]) for line in counting.lines] == [
        (length, attribute, 1, 0, 0) for length in (400, 500) for attribute in ("color", "digit")
    ]
    assert ("image_counting", "Counting, by the right number") in tables
    refused = tables["image_unanswerable", "Answers and refusals"]
    assert [[entry.value for entry in line[2:]] for line in refused.lines] == [[1, 0, 1, 1]] * 2
    assert ("image_needle", "Accuracy by attribute") in tables


def test_always_saying_unknown_is_half_right_and_shows(tmp_path: Any) -> None:
    class Silent(Seeing):
        def solve(self, state: Any, asked: str) -> str:
            return "unknown"

    words = Words()
    (cell,) = run(
        Silent(words), ["image_unanswerable"], source(words), lengths=[300], n=10, folder=tmp_path, controls=()
    )
    assert cell.rate == create("image_unanswerable").chance == 0.5
    (table,) = breakdowns(load_rows(tmp_path / "rows.jsonl"))
    assert [entry.value for entry in table.lines[0][2:]] == [0, 1, 1, 0.5]


def test_the_group_and_the_chances() -> None:
    assert names("images") == ("image_needle", "image_tagged", "image_counting", "image_unanswerable")
    chances = [create(spec).chance for spec in ("image_needle", "image_needle:ask=digit", "image_counting:most=9")]
    assert chances == pytest.approx([0.1125, 0.1, 0.1])
    assert create("image_unanswerable:absent=0").chance == pytest.approx(0.1125)
    assert create("image_open").chance is None


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("image_needle:ask=size", "expected one of both, digit, color, got 'size'"),
        ("image_needle:depths=0", "at least 1, got 0"),
        ("image_needle:distractors=-1", "rates from 0 to 1,000 a thousand tokens, got -1"),
        ("image_needle:sentences=1e9", "got 4.0 and 1000000000.0"),
        ("image_needle:kinds=film", "got film"),
        ("image_tagged:images=9", "1 to 8 with a tag of frame, got 9"),
        ("image_tagged:images=a", r"numbers joined by \+, such as 2\+4\+8, got 'a'"),
        ("image_tagged:tag=smell", "one of frame, text, got 'smell'"),
        ("image_tagged:asked=-1", "at least 0, got -1"),
        ("image_counting:most=13", "expected 1 to 12, got 13"),
        ("image_counting:kinds=digit", "got digit, which would count"),
        ("image_counting:framed=2", "a share from 0 to 1, got 2"),
        ("image_unanswerable:images=8", "expected 1 to 7, got 8"),
        ("image_unanswerable:absent=3", "a share from 0 to 1, got 3"),
    ],
)
def test_bad_settings_are_refused(spec: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        create(spec)


@pytest.mark.parametrize("spec", SPECS)
def test_what_cannot_be_made_is_one_clear_error(spec: str) -> None:
    words, task = Words(), create(spec)
    blind = Source(words.encode, words.decode, background(500))
    with pytest.raises(ValueError, match=r"expected an ImageSource, .* got text alone; take such a model"):
        next(iter(task.documents(blind, 400, 1)))
    with pytest.raises(ValueError, match="text is never tiled"):
        next(iter(task.documents(source(words, 300), 400, 1)))
    with pytest.raises(ValueError, match=r"length: expected at least \d+ tokens for the \d+ pictures of image_"):
        next(iter(task.documents(source(words), 3, 1)))


class Pieces(Words):
    """Some words are several tokens, one of them beginning like another: "purple", "sixteen"."""

    parts = (("purple", "pur ple"), ("sixteen", "six teen"))

    def encode(self, text: str) -> np.ndarray:
        return super().encode(" ".join(dict(self.parts).get(word, word) for word in text.split(" ")))

    def decode(self, ids: Any) -> str:
        text = super().decode(ids)
        for word, parts in self.parts:
            text = text.replace(parts, word)
        return text


@pytest.mark.parametrize("spec", ["image_needle", "image_tagged:tag=text", "image_unanswerable:ask=color,absent=0.2"])
def test_a_model_that_learned_no_end_is_not_wrong_for_it(spec: str, tmp_path: Any) -> None:
    class Endless(Seeing):
        def generate(
            self, state: Any, prompts: Any, max_tokens: int, stop: Any = (), sampling: Any = None
        ) -> list[str]:
            said = [f"{self.solve(state, self.decode(prompt))} five five five" for prompt in prompts]
            return [self.decode(self.encode(text)[:max_tokens]) for text in said]

    words = Pieces()
    cells = run(Endless(words), [spec], source(words, bare=True), lengths=[400], n=33, folder=tmp_path, controls=())
    rows = load_rows(tmp_path / "rows.jsonl")
    assert ("purple",) in {row.expected for row in rows}
    assert [cell.rate for cell in cells] == [1]


def test_a_choice_that_begins_like_another_may_be_said_whole() -> None:
    words = Pieces()
    questions = [d.questions[0] for d in made("image_counting:most=20,images=20", 60, 600, words, bare=True)]
    most = {question.answers[0]: question.max_tokens for question in questions}
    assert most["six"] == most["sixteen"] == 2
    assert most["seven"] == 1
