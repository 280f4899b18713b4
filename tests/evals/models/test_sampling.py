"""Text that is drawn: its distribution, and that it follows from a row's seed and logits alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from evals.model import Sampling
from evals.models import CausalModel
from evals.models.sampling import Draw
from rmt import Reader
from rmt.cli.recurrent import RecurrentModel
from tests.evals.models.texts import Plain, llama, text, tokenizer
from tests.rmt.tiny import causal

LOGITS = np.array([1.5, -1.0, 0.3, 0.0, -2.5, 0.9, -np.inf, 0.3])
WORDS = tokenizer()


def softmax(logits: np.ndarray, temperature: float, top_p: float = 1.0) -> np.ndarray:
    """Shares of tokens, those outside the nucleus 0: tokens by falling share, until they have ``top_p`` of it."""
    shares = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
    kept, mass = np.zeros(len(shares), dtype=bool), 0.0
    for token in np.argsort(-shares, kind="stable"):
        if mass >= top_p:
            break
        kept[token], mass = True, mass + shares[token]
    return np.where(kept, shares, 0) / shares[kept].sum()


def p_value(drawn: list[int], shares: np.ndarray) -> float:
    """Of a chi-square test; 0 where something was drawn that has no share. Rare tokens are counted together."""
    counts = np.bincount(drawn, minlength=len(shares)).astype(float)
    if counts[shares == 0].any():
        return 0.0
    expected = shares * len(drawn)
    often = expected >= 5
    seen, wanted = counts[often], expected[often]
    if (~often).any() and expected[~often].sum() > 1:
        seen, wanted = np.append(seen, counts[~often].sum()), np.append(wanted, expected[~often].sum())
    return float(chisquare(seen, wanted * seen.sum() / wanted.sum()).pvalue)


def one_each(logits: np.ndarray, temperature: float, top_p: float, count: int) -> list[int]:
    """The first token of many rows, each with a seed of its own."""
    rows = torch.tensor(logits).expand(count, -1)
    return Draw([Sampling(temperature, top_p, seed) for seed in range(count)])(rows).tolist()


@pytest.mark.parametrize("top_p", [1.0, 0.95, 0.7])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax(temperature, top_p):
    shares = softmax(LOGITS, temperature, top_p)
    drawn = one_each(LOGITS, temperature, top_p, 4000)
    assert p_value(drawn, shares) > 1e-3
    assert set(drawn) <= set(np.flatnonzero(shares))
    assert p_value(drawn, softmax(LOGITS, temperature * 2, top_p)) < 1e-6, "the test tells temperatures apart"
    draw = Draw([Sampling(temperature, top_p, seed=5)])
    in_turn = [int(draw(torch.tensor(LOGITS)[None])) for _ in range(4000)]
    assert p_value(in_turn, shares) > 1e-3, "nor do the numbers of one generator favour a token"


def test_the_nucleus_is_the_least_set_that_has_the_share():
    logits = np.log([0.125, 0.5, 0.25, 0.125])
    for top_p, kept in ((0.3, {1}), (0.49, {1}), (0.6, {1, 2}), (0.8, {0, 1, 2}), (1.0, {0, 1, 2, 3})):
        drawn = one_each(logits, 1.0, top_p, 1000)
        assert set(drawn) == kept
        assert len(kept) == 1 or p_value(drawn, softmax(logits, 1.0, top_p)) > 1e-3
    flat = np.zeros(10)
    assert set(one_each(flat, 1.0, 0.45, 1000)) == set(range(5)), "of equals the first are kept"


def test_what_is_impossible_is_never_drawn():
    for top_p in (1.0, 0.9):
        assert set(one_each(np.array([-np.inf, 0.0, -np.inf]), 1.0, top_p, 200)) == {1}
        assert set(one_each(np.array([-1e30, 3.0, 1.0]), 1e-6, top_p, 200)) == {1}


def test_half_precision_is_drawn_from_as_it_is():
    rows = torch.tensor(LOGITS, dtype=torch.bfloat16).expand(100, -1)
    ways = [Sampling(1.0, 0.9, seed) for seed in range(100)]
    assert Draw(ways)(rows).tolist() == Draw(ways)(rows.double()).tolist()


def plain() -> CausalModel:
    return CausalModel(llama(), WORDS)


def recurrent() -> RecurrentModel:
    model = causal(segment_size=8)
    for weight in model.parameters():  # less even, so that temperatures can be told apart
        weight.data.mul_(2 if weight.ndim > 1 else 1)
    model.generation_config.eos_token_id = None
    return RecurrentModel(Reader(model.eval(), WORDS), "tiny")


MODELS = {"plain": plain, "recurrent": recurrent}


@pytest.fixture(scope="module", params=MODELS)
def asked(request) -> tuple[Any, Any, np.ndarray]:
    """A model, its state after a text, and that text."""
    model, document = MODELS[request.param](), text(24)
    (state,) = model.read([Plain(document)])
    return model, state, document


def logits_behind(model: Any, state: Any, document: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Of the token that follows, by one forward over everything, or over what stands behind the memory."""
    inner = model.model if isinstance(model, CausalModel) else model.reader.model
    with torch.inference_mode():
        if isinstance(model, CausalModel):
            out = inner(input_ids=torch.from_numpy(np.append(document, ids))[None])
        else:
            out = inner(input_ids=torch.from_numpy(ids)[None], memory=state.memory, logits_to_keep=0)
    return out.logits[0, -1].double().numpy()


def ids_of(said: str) -> list[int]:
    return [WORDS.convert_tokens_to_ids(word) for word in said.split()]


def test_a_models_first_tokens_follow_its_softmax(asked):
    model, state, document = asked
    prompt, ways = text(3, 1), [Sampling(0.8, 0.95, seed) for seed in range(1500)]
    logits = logits_behind(model, state, document, prompt)
    shares = softmax(logits, 0.8, 0.95)
    said = model.generate(state, [prompt] * len(ways), 1, sampling=ways)
    drawn = [ids_of(one)[0] if one else 0 for one in said]  # what is unknown is not said
    assert p_value(drawn, shares) > 1e-3
    assert p_value(drawn, softmax(logits, 1.6, 0.95)) < 1e-6, "the test tells temperatures apart"
    assert len(Counter(drawn)) > 5


def test_a_text_without_a_prompt_is_drawn_from_its_first_token_on(asked):
    model, state, document = asked
    ways = [Sampling(0.8, 0.95, seed) for seed in range(1500)]
    if isinstance(model, CausalModel):
        logits = logits_behind(model, state, document, np.zeros(0, np.int64))
    else:
        logits = state.after.double().numpy()
    said = model.generate(state, [np.zeros(0, np.int64)] * len(ways), 2, sampling=ways)
    drawn = [ids_of(one)[0] if one else 0 for one in said]
    assert p_value(drawn, softmax(logits, 0.8, 0.95)) > 1e-3
    seconds = Counter(ids_of(one)[1] for one in said if len(ids_of(one)) == 2)
    assert len(seconds) > 5, "and goes on being drawn"


def test_a_whole_text_is_drawn_as_a_naive_loop_draws_it(asked):
    model, state, document = asked
    prompt = text(3, 1)
    for seed in range(6):
        way, generator, twin = Sampling(0.9, 0.9, seed), np.random.default_rng(seed), []
        for _ in range(8):
            shares = softmax(logits_behind(model, state, document, np.append(prompt, twin).astype(int)), 0.9, 0.9)
            order = np.argsort(-shares, kind="stable")
            twin.append(int(order[np.searchsorted(np.cumsum(shares[order]), generator.random(), side="right")]))
        (said,) = model.generate(state, [prompt], 8, sampling=[way])
        assert ids_of(said) == [token for token in twin if token], seed


def test_a_row_does_not_depend_on_its_batch_and_the_seed_says_it_again(asked):
    model, state, _ = asked
    prompts = [text(n % 3 + 2, n) for n in range(7)]
    ways = [Sampling(1.0, 0.9, seed) for seed in range(7)]
    together = model.generate(state, prompts, 6, sampling=ways)
    assert together == model.generate(state, prompts, 6, sampling=ways)
    assert together == [model.generate(state, [p], 6, sampling=[w])[0] for p, w in zip(prompts, ways, strict=True)]
    assert together[::-1] == model.generate(state, prompts[::-1], 6, sampling=ways[::-1])
    same = model.generate(state, [prompts[0]] * 20, 6, sampling=[Sampling(1.0, 0.9, seed) for seed in range(20)])
    assert len(set(same)) > 15, "seeds tell texts apart"
    assert same[0] == together[0]
    end = together[1].split()[2]
    assert model.generate(state, [prompts[1]], 6, (end,), sampling=[ways[1]]) == [together[1][: together[1].index(end)]]


def test_cold_is_greedy(asked):
    model, state, _ = asked
    prompts = [text(n + 1, n) for n in range(4)]
    greedy = model.generate(state, prompts, 8)
    assert model.generate(state, prompts, 8, sampling=[Sampling(1e-6, 1.0, n) for n in range(4)]) == greedy
    assert model.generate(state, prompts, 8, sampling=[Sampling(1.0, 1e-9, n) for n in range(4)]) == greedy
    assert model.generate(state, prompts, 8, sampling=[Sampling(2.0, 1.0, n) for n in range(4)]) != greedy


def test_ways_that_cannot_be_drawn_are_refused():
    for wrong in ({"temperature": 0}, {"temperature": -1}, {"temperature": float("nan")}):
        with pytest.raises(ValueError, match="temperature: expected more than 0"):
            Sampling(**wrong)
    for top_p in (0, 1.1, float("nan")):
        with pytest.raises(ValueError, match="top_p: expected more than 0 and at most 1"):
            Sampling(1.0, top_p)
