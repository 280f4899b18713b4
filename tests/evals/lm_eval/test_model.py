"""The model plug-in against one plain forward, against lm-eval's own HFLM, and against the recurrent model itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("lm_eval", reason="lm-eval is not installed")

from lm_eval.api.instance import Instance

from evals.lm_eval.model import Loaded, RecurrentLM, register
from evals.lm_eval.texts import Context, Ids
from evals.models import CausalModel
from tests.evals.lm_eval.kit import (
    Plain,
    Remembering,
    joined,
    likelihood,
    llama,
    random_ids,
    recurrent,
    text,
    tokenizer,
)

CLOSE = 1e-4  # the bar of the issue; float32 sums of some ten log-likelihoods


def asked(kind: str, *arguments) -> Instance:
    return Instance(kind, doc={}, arguments=arguments, idx=0, metadata=("t", 0, 1))


def pairs() -> list[Instance]:
    """Contexts of several lengths, with several choices each; one without a context, one with a space at its end."""
    made = []
    for count in (1, 5, 8, 9, 23):
        for choice in range(3):
            made.append(asked("loglikelihood", text(random_ids(count)), " " + text(random_ids(1 + choice, choice))))
    made.append(asked("loglikelihood", "", text(random_ids(4, 1))))
    made.append(asked("loglikelihood", "w1 w2 ", "w3"))
    return made


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("cached", [False, True])
def test_likelihoods_are_those_of_lm_evals_own_model_and_of_a_plain_forward(bos, cached):
    from lm_eval.models.huggingface import HFLM

    inner, words = llama(), tokenizer(bos)
    model = CausalModel(inner, words) if cached else Plain(lambda ids: joined(inner, ids), words)
    ours = RecurrentLM(model).loglikelihood(pairs(), disable_tqdm=True)
    theirs = HFLM(pretrained=inner, tokenizer=words, batch_size=1).loglikelihood(pairs(), disable_tqdm=True)
    for (got, greedy), (wanted, best) in zip(ours, theirs, strict=True):
        assert abs(got - wanted) <= CLOSE
        assert greedy == best
    start = [0] if bos else []
    expected = likelihood(inner, [*start, *random_ids(5)], random_ids(2, 1))
    assert abs(ours[4][0] - expected) <= CLOSE


@pytest.mark.parametrize("memory", ["tokens", "associative"])
def test_a_recurrent_model_scores_what_its_own_forward_over_all_of_it_gives(memory):
    model, words = recurrent(memory), tokenizer(False)
    lm = RecurrentLM(Remembering(model, words))
    for count in (1, 7, 8, 9, 16, 17, 40, 43):
        context = random_ids(count)
        for length in (1, 2, 11):  # some run on across a border
            end = random_ids(length, 7)
            ((got, _),) = lm.loglikelihood([asked("loglikelihood", text(context), " " + text(end))], disable_tqdm=True)
            assert abs(got - likelihood(model, context, end)) <= CLOSE, (count, length)


def test_a_memory_that_is_empty_leaves_short_texts_to_the_backbone():
    model, words = recurrent("associative"), tokenizer(False)
    lm = RecurrentLM(Remembering(model, words))
    context, end = random_ids(5), random_ids(3, 2)
    ((got, _),) = lm.loglikelihood([asked("loglikelihood", text(context), " " + text(end))], disable_tqdm=True)
    assert abs(got - likelihood(llama(), context, end)) <= CLOSE
    # What a test of memory needs: behind a border it is no longer the backbone's.
    context = random_ids(20)
    ((got, _),) = lm.loglikelihood([asked("loglikelihood", text(context), " " + text(end))], disable_tqdm=True)
    assert abs(got - likelihood(llama(), context, end)) > 100 * CLOSE


def test_each_context_is_read_once_and_those_of_one_length_together():
    inner = llama()
    model = Plain(lambda ids: joined(inner, ids), tokenizer(False), segment=8)
    lm = RecurrentLM(model, batch_size=2, keep_states=2)
    requests = [
        asked("loglikelihood", text(random_ids(20, seed)), f" w{choice}") for choice in range(3) for seed in range(3)
    ]
    lm.loglikelihood(requests, disable_tqdm=True)
    assert model.reads == [[16, 16], [16]]  # 20 tokens are two segments and 4 tokens, three contexts, two at a time
    lm.loglikelihood(requests[2:3] + requests[1:2], disable_tqdm=True)
    assert model.reads == [[16, 16], [16]]  # both are still there
    lm.loglikelihood(requests[:1], disable_tqdm=True)
    assert model.reads == [[16, 16], [16], [16]]  # this one is not: two are kept


def test_nothing_but_continuations_is_scored():
    inner = llama()
    model = Plain(lambda ids: joined(inner, ids), tokenizer(False), segment=8)
    RecurrentLM(model).loglikelihood([asked("loglikelihood", text(random_ids(50)), " w1 w2")] * 3, disable_tqdm=True)
    assert model.scored == 6


def test_question_tokens_are_asked_by_themselves():
    inner = llama()
    model = Plain(lambda ids: joined(inner, ids), tokenizer(False), segment=8)
    prompts = []
    model.score = lambda state, prompt, ends: prompts.append(len(prompt)) or Plain.score(model, state, prompt, ends)
    for tokens in (3, 30):
        lm = RecurrentLM(model, question_tokens=tokens)
        lm.loglikelihood([asked("loglikelihood", text(random_ids(20)), " w1")], disable_tqdm=True)
    assert prompts == [3, 20]
    assert model.reads == [[17]]


@pytest.mark.parametrize("count", [1, 7, 8, 9, 30])
@pytest.mark.parametrize("grows", [True, False])
def test_a_whole_text_is_scored_as_in_one_forward(count, grows):
    model = recurrent("associative")
    spoken = Remembering(model, tokenizer(False))
    if not grows:
        spoken.extend, lonely = None, spoken.extend
        spoken.read = lambda documents: [lonely(None, d.tokens(0, d.length)) for d in documents]
    ids = random_ids(count)
    (got,) = RecurrentLM(spoken).loglikelihood_rolling([asked("loglikelihood_rolling", text(ids))], disable_tqdm=True)
    assert abs(got - likelihood(model, [0], ids)) <= CLOSE


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("cached", [False, True])
def test_a_whole_text_of_a_model_without_memory_is_one_forward_too(bos, cached, monkeypatch):
    monkeypatch.setattr("evals.lm_eval.model.WINDOW", 4)
    inner, ids, words = llama(), random_ids(11), tokenizer(bos)
    lm = RecurrentLM(CausalModel(inner, words) if cached else Plain(lambda ids: joined(inner, ids), words))
    (got,) = lm.loglikelihood_rolling([asked("loglikelihood_rolling", text(ids))], disable_tqdm=True)
    assert abs(got - likelihood(inner, [0], ids)) <= CLOSE
    if not bos:
        from lm_eval.models.huggingface import HFLM

        (theirs,) = HFLM(pretrained=inner, tokenizer=tokenizer(False), batch_size=1).loglikelihood_rolling(
            [asked("loglikelihood_rolling", text(ids))], disable_tqdm=True
        )
        assert abs(got - theirs) <= CLOSE


def test_texts_are_generated_up_to_a_stop_text_or_so_many_tokens():
    inner = llama()
    model = Plain(lambda ids: joined(inner, ids), tokenizer(False))
    lm = RecurrentLM(model, max_gen_toks=6)
    context = text(random_ids(9))
    greedy = {"do_sample": False, "until": []}
    (whole,) = lm.generate_until([asked("generate_until", context, greedy)], disable_tqdm=True)
    assert len(whole.split()) == 6
    third = whole.split()[2]
    settings = [{"until": [third], "do_sample": False}, {"until": third}, {"max_gen_toks": 2, **greedy}, greedy]
    said = lm.generate_until([asked("generate_until", context, each) for each in settings], disable_tqdm=True)
    before = whole[: whole.index(third)]
    assert said == [before, before, " ".join(whole.split()[:2]), whole]
    with pytest.raises(ValueError, match="do_sample: expected False"):
        lm.generate_until([asked("generate_until", context, {"do_sample": True, "temperature": 1.0})])


def test_a_bos_token_stands_before_a_text_where_it_is_asked_for():
    model, words = recurrent("tokens"), tokenizer(False)
    context, end = random_ids(12), random_ids(2, 1)
    request = [asked("loglikelihood", text(context), " " + text(end))]
    ((got, _),) = RecurrentLM(Remembering(model, words), add_bos_token=True).loglikelihood(request, disable_tqdm=True)
    assert abs(got - likelihood(model, [0, *context], end)) <= CLOSE
    ((got, _),) = RecurrentLM(Remembering(model, words)).loglikelihood(request, disable_tqdm=True)
    assert abs(got - likelihood(model, context, end)) <= CLOSE
    with pytest.raises(ValueError, match="puts it itself"):
        RecurrentLM(Plain(lambda ids: torch.zeros(len(ids), 64), tokenizer(True)), add_bos_token=False)
    words.bos_token = None
    with pytest.raises(ValueError, match="add_bos_token: expected a tokenizer with a bos token"):
        RecurrentLM(Remembering(model, words), add_bos_token=True)


def test_a_text_without_context_needs_a_token_before_it():
    model, words = recurrent("tokens"), tokenizer(False)
    words.bos_token = words.eos_token = None
    request, end = [asked("loglikelihood", "", text(random_ids(3)))], random_ids(3)
    with pytest.raises(ValueError, match="give prefix_token_id="):
        RecurrentLM(Remembering(model, words)).loglikelihood(request, disable_tqdm=True)
    ((got, _),) = RecurrentLM(Remembering(model, words), prefix_token_id=9).loglikelihood(request, disable_tqdm=True)
    assert abs(got - likelihood(model, [9], end)) <= CLOSE


def test_a_classifier_is_asked_for_its_answers_alone():
    model = Plain(lambda ids: torch.zeros(len(ids), 64), tokenizer(False))
    model.answers = ("w1", "w2")
    lm = RecurrentLM(model)
    assert len(lm.loglikelihood([asked("loglikelihood", "w5", " w2")], disable_tqdm=True)) == 1
    with pytest.raises(ValueError, match="out of its answers"):
        lm.loglikelihood([asked("loglikelihood", "w5", " w3")], disable_tqdm=True)
    with pytest.raises(ValueError, match="out of its answers"):
        lm.loglikelihood_rolling([asked("loglikelihood_rolling", "w5 w6")], disable_tqdm=True)


def test_an_empty_choice_is_refused():
    lm = RecurrentLM(Plain(lambda ids: torch.zeros(len(ids), 64), tokenizer(False)))
    with pytest.raises(ValueError, match="continuation: expected at least one token"):
        lm.loglikelihood([asked("loglikelihood", "w1 w2", "")], disable_tqdm=True)


def test_a_conversation_needs_a_template():
    words = tokenizer(False)
    lm = RecurrentLM(Plain(lambda ids: torch.zeros(len(ids), 64), words))
    with pytest.raises(ValueError, match="chat template"):
        lm.apply_chat_template([{"role": "user", "content": "w1"}])
    words.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}"
    assert lm.apply_chat_template([{"role": "user", "content": "w1"}]) == "[user] w1 "


def test_a_registered_type_is_built_from_arguments_as_the_command_gives_them():
    from lm_eval.api.registry import get_model

    built = []

    def load(**arguments):
        built.append(arguments)
        return Loaded(Plain(lambda ids: torch.zeros(len(ids), 64), tokenizer(False)), extend=lambda state, ids: "on")

    register("made-for-a-test", load)
    lm = get_model("made-for-a-test").create_from_arg_obj(
        {"pretrained": "x", "max_gen_toks": 3}, {"batch_size": "auto", "max_batch_size": 8, "device": None}
    )
    assert built == [{"pretrained": "x"}]
    assert (lm.batch_size, lm.max_gen_toks) == (1, 3)
    assert lm._extend("s", np.arange(2)) == "on"


def test_tokens_of_another_tokenizer_are_not_read():
    inner = llama()
    model = Plain(lambda ids: joined(inner, ids), tokenizer(False), segment=8)
    lm = RecurrentLM(model)
    for asked_text, reads in (("w1 w2", [[3]]), ("w7 w8", [])):
        context = Context.of("w5 w6 w9 w1 w2", Ids(np.array([9, 10, 13])), np.array([5, 6]), asked_text)
        model.reads.clear()
        lm.generate_until([asked("generate_until", context, {"max_gen_toks": 1})], disable_tqdm=True)
        assert model.reads == reads  # as a text its five tokens are asked, less than a segment
