"""Our models as models of text: labels of a classifier, continuations of a language model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from evals import Model, run
from evals.models.wording import rejoined
from evals.tasks.base import Source
from rmt import Reader
from rmt.answers import continue_text
from rmt.cli.models import reader
from rmt.cli.recurrent import Recalled, RecurrentModel, StopTexts
from rmt.errors import InputError
from rmt.models import RMTForQuestionAnswering
from tests.evals.models.texts import Plain
from tests.evals.words import Codes
from tests.rmt import tiny
from tests.rmt.test_associative import awake


def ids(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1000, 20_000, length)


@pytest.fixture(scope="module")
def speaks(language_model):
    return RecurrentModel(reader(language_model, "float32"), "tiny")


@pytest.fixture(scope="module")
def labels(classifier):
    return RecurrentModel(reader(classifier, "float32"))


def logits(model, text, memory=None) -> torch.Tensor:
    """All logits of a whole text, normalised."""
    with torch.inference_mode():
        out = model(input_ids=torch.from_numpy(text)[None], memory=memory, logits_to_keep=0)
    return out.logits[0].log_softmax(-1)


def naive(model, document, prompt, continuation, whole: bool) -> tuple[float, bool]:
    """Nats and greed out of all logits: of one forward over everything, or of the memory and what stands behind it."""
    text = np.concatenate([document, prompt, continuation])
    rows = logits(model, text)
    if not whole:
        with torch.inference_mode():
            memory = model(input_ids=torch.from_numpy(document)[None], logits_to_keep=1).memory
        behind = logits(model, text[len(document) :], memory)
        # What follows the document directly is said at its last token.
        rows = torch.cat([logits(model, document)[-1:], behind])[: len(prompt) + len(continuation)]
        rows = torch.cat([torch.zeros(len(document) - 1, rows.shape[1]), rows])
    at = torch.arange(len(document) + len(prompt) - 1, len(text) - 1)
    wanted = torch.from_numpy(continuation)
    return float(rows[at, wanted].sum()), bool((rows[at].argmax(-1) == wanted).all())


@pytest.mark.parametrize("asked", [0, 1, 7, 16, 20, 50])
@pytest.mark.parametrize("length", [48, 41, 16, 5])
def test_scores_are_those_of_all_logits(speaks, length, asked):
    document, prompt = ids(length), ids(asked, 1)
    (state,) = speaks.read([Plain(document)])
    continuations = [ids(1, 2), ids(40, 3), ids(5, 4), ids(16, 5)]
    scores = speaks.score(state, prompt, continuations)
    whole = length % speaks.segment == 0
    twins = [naive(speaks.reader.model, document, prompt, c, whole) for c in continuations]
    assert [s.nats for s in scores] == pytest.approx([nats for nats, _ in twins], abs=1e-4)
    assert [s.greedy for s in scores] == [greedy for _, greedy in twins]
    assert [s.tokens for s in scores] == [1, 40, 5, 16]
    assert speaks.score(state, prompt, continuations) == scores, "asking changed the state"


def test_parts_change_nothing_and_hold_few_logits(speaks, monkeypatch):
    (state,) = speaks.read([Plain(ids(48))])
    two = [ids(60, 3), ids(33, 4)]
    scores = speaks.score(state, ids(7, 1), two)
    vocabulary = speaks.reader.model.config.vocab_size
    monkeypatch.setattr("rmt.cli.recurrent.LOGITS", 2 * vocabulary * 9)
    made: list[int] = []
    hook = speaks.reader.model.get_output_embeddings().register_forward_hook(
        lambda module, inputs, output: made.append(output.numel() // vocabulary)
    )
    parts = speaks.score(state, ids(7, 1), two)
    hook.remove()
    assert [s.nats for s in parts] == pytest.approx([s.nats for s in scores], abs=1e-4)
    assert max(made) <= 2 * 9
    assert sum(made) == 1 + 59 + 32, "logits that nobody asked for"


def test_associative_memory(tokenizer):
    model = awake(tiny.causal(segment_size=8, memory="associative"))
    ours = RecurrentModel(Reader(model, tokenizer, dtype="float32"))
    document, prompt = (np.asarray(tiny.content(1, n, n)[0]) for n in (24, 5))
    (state,) = ours.read([Plain(document)])
    continuations = [np.asarray(tiny.content(1, n, n)[0]) for n in (3, 12)]
    twins = [naive(ours.reader.model, document, prompt, c, True)[0] for c in continuations]
    assert [s.nats for s in ours.score(state, prompt, continuations)] == pytest.approx(twins, abs=1e-4)


def test_what_is_generated_scores_as_greedy(speaks):
    assert isinstance(speaks, Model)
    (state,) = speaks.read([Plain(ids(41))])
    prompts = [ids(3, 1), ids(9, 2), ids(0)]
    texts = speaks.generate(state, prompts, 20)
    for prompt, text in zip(prompts, texts, strict=True):
        model, said = speaks.reader.model, np.zeros(0, dtype=np.int64)
        for _ in range(20):  # one whole forward a token
            with torch.inference_mode():
                memory = model(input_ids=torch.from_numpy(ids(41))[None], logits_to_keep=1)
            behind = np.concatenate([prompt, said])
            best = memory.logits[0, -1] if not len(behind) else logits(model, behind, memory.memory)[-1]
            said = np.append(said, int(best.argmax()))
        assert text == rejoined(speaks.reader.tokenizer.decode(said, skip_special_tokens=True))
        assert speaks.score(state, prompt, [said])[0].greedy
    stop = texts[1].split()[3]
    short = speaks.generate(state, prompts[1:2], 20, stop=(stop,))[0]
    assert short == texts[1][: texts[1].index(stop)]
    with pytest.raises(InputError, match="expected tokens to go on from"):
        speaks.generate(speaks.initial(), prompts, 3)


def test_nothing_before_is_uniform(speaks):
    one = ids(4, 3)
    (score,) = speaks.score(speaks.initial(), ids(0), [one])
    rest = logits(speaks.reader.model, one)
    nats = float(rest[torch.arange(3), torch.from_numpy(one[1:])].sum()) - np.log(rest.shape[1])
    assert score.nats == pytest.approx(nats, abs=1e-4)


def test_documents_together_are_as_alone(speaks):
    documents = [Plain(ids(41, seed)) for seed in range(3)]
    together = speaks.read(documents)
    for document, state in zip(documents, together, strict=True):
        (alone,) = speaks.read([document])
        for name, tensor in alone.memory.tensors.items():
            assert state.memory.tensors[name] == pytest.approx(tensor, abs=1e-5)
        whole = speaks.reader.read(document.ids, progress=False)
        assert alone.memory.tensors["tokens"] == pytest.approx(whole.tensors["tokens"], abs=1e-5)
        assert alone.after == pytest.approx(state.after, abs=1e-4)


def test_a_classifier_scores_its_labels(labels):
    assert isinstance(labels, Model)
    assert labels.answers == ("office", "kitchen", "hallway", "garden", "bedroom", "bathroom")
    (state,) = labels.read([Plain(ids(40))])
    prompt = labels.encode("Where is Mary?")
    said = ["garden", " Office", "bath room".replace(" ", "")]
    scores = labels.score(state, prompt, [labels.encode(text) for text in said])
    answer = labels.reader.ask(state.memory, ["Where is Mary?"])[0]
    wanted = [np.log(answer.probabilities[name]) for name in ("garden", "office", "bathroom")]
    assert [s.nats for s in scores] == pytest.approx(wanted, abs=1e-5)
    everything = labels.score(state, prompt, [labels.encode(name) for name in labels.answers])
    assert sum(np.exp([s.nats for s in everything])) == pytest.approx(1, abs=1e-5)
    assert [name for name, s in zip(labels.answers, everything, strict=True) if s.greedy] == [answer.text]
    assert labels.generate(state, [prompt, prompt], 1) == [answer.text] * 2
    with pytest.raises(InputError, match=r"expected one of the labels .*got 'cellar'"):
        labels.score(state, prompt, [labels.encode("cellar")])
    with pytest.raises(InputError, match="expected a question to classify"):
        labels.generate(state, [ids(0)], 1)
    mixed = labels.shuffled(state, 3).memory.tensors["tokens"]
    assert not torch.equal(mixed, state.memory.tensors["tokens"])
    assert torch.equal(mixed.sort(-1).values, state.memory.tensors["tokens"].sort(-1).values)


def test_spans_are_refused(tokenizer):
    inner = tiny.classifier().backbone
    spans = RMTForQuestionAnswering.from_backbone(inner, segment_size=4, num_memory_tokens=3)
    with pytest.raises(InputError, match="expected a classifier or a language model, got RMTForQuestionAnswering"):
        RecurrentModel(Reader(spans, tokenizer, dtype="float32"))


@pytest.mark.parametrize("method", ["generate", "choose"])
def test_the_harness_runs_it(speaks, tmp_path, method):
    text = Source(speaks.encode, speaks.decode, ids(2000), digest="x")
    cells = run(speaks, [Codes(method=method)], text, lengths=[60], n=2, folder=tmp_path)
    assert {cell.control for cell in cells} == {"memory", "zeroed", "shuffled", "swapped"}


def test_a_row_that_ends_says_no_more_while_others_go_on():
    """Rows are filled up with id 0, which many a tokenizer has a word for: "!" in GPT-2's and LLaMA 3's."""
    words = plain()
    ours = RecurrentModel(Reader(tiny.causal(segment_size=8), words, dtype="float32"))
    (state,) = ours.read([Plain(np.asarray(tiny.content(1, 24, 24)[0]))])
    prompts = [np.asarray(tiny.content(1, 3, seed)[0]) for seed in range(12)]
    whole = [words.convert_tokens_to_ids(said.split()) for said in ours.generate(state, prompts, 8)]
    end = whole[0][2]
    assert any(end not in ids for ids in whole)
    ours.reader.model.generation_config.eos_token_id = end
    together = ours.generate(state, prompts, 8)
    cut = [ids[: ids.index(end)] if end in ids else ids for ids in whole]
    assert together == [words.decode(ids) for ids in cut]
    assert together == [ours.generate(state, [prompt], 8)[0] for prompt in prompts]
    after = torch.nn.functional.one_hot(torch.tensor(end), tiny.VOCAB).float()
    assert ours.generate(Recalled(state.memory, after), [ids(0)], 8) == [""], "it goes on behind the end"


def test_text_is_filled_up_with_its_end():
    model = Reader(tiny.causal(segment_size=8), plain(), dtype="float32").model
    memory = Reader(model, plain(), dtype="float32").read(np.asarray(tiny.content(1, 24, 24)[0]), progress=False)
    prompts = [np.asarray(tiny.content(1, 3, seed)[0]) for seed in range(12)]
    whole = continue_text(model, memory, prompts, max_new_tokens=8).tolist()
    end = whole[0][2]
    model.generation_config.eos_token_id = [end]
    said = continue_text(model, memory, prompts, max_new_tokens=8).tolist()
    at = [row.index(end) if end in row else 8 for row in whole]
    assert min(at) < max(at)
    assert said == [(row[:n] + [end] * 8)[:8] for row, n in zip(whole, at, strict=True)]


def test_labels_may_have_punctuation(labels, monkeypatch):
    names = ("living-room", "n,w", "Ann's", "up", "down", "left")
    monkeypatch.setattr(labels.reader.model.config, "id2label", dict(enumerate(names)))
    ours = RecurrentModel(labels.reader)
    scores = ours.score(ours.initial(), ours.encode("Where?"), [ours.encode(" " + name) for name in names])
    assert sum(np.exp([s.nats for s in scores])) == pytest.approx(1, abs=1e-5)


def test_what_is_generated_has_no_spaces_around_hyphens(speaks, monkeypatch):
    uuid = "54c0a1b2-321e-4f00-9abc-0123456789ab"
    said = speaks.encode(f"{uuid}. more")
    assert " - " in speaks.decode(said)
    monkeypatch.setattr("rmt.cli.recurrent.continue_text", lambda *_, **__: torch.from_numpy(said)[None])
    (state,) = speaks.read([Plain(ids(41))])
    assert speaks.generate(state, [ids(3)], len(said)) == [f"{uuid}. more"]
    assert speaks.generate(state, [ids(3)], len(said), stop=("321e-4f",)) == ["54c0a1b2-"]
    stopped = StopTexts(speaks.reader.tokenizer, 2, ("321e-4f",))
    rows = torch.from_numpy(np.stack([np.append(ids(2), said), np.append(ids(2), said[::-1].copy())]))
    assert stopped(rows, None).tolist() == [True, False]


def plain() -> PreTrainedTokenizerFast:
    """A word for each id, 0 with them."""
    inner = Tokenizer(models.WordLevel({f"w{n}": n for n in range(tiny.VOCAB)}, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner)
