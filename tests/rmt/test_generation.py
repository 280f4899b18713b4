"""Decoding across segment borders equals teacher forcing; Hugging Face's arguments mean what they mean there."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    DynamicCache,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

from rmt import InputError, RMTCache, RMTForCausalLM
from rmt.backbone import CACHE
from rmt.cache import advance

SIZE, PROMPT, NEW = 7, 17, 26
COMMON = {
    "vocab_size": 61,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
SHAPE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
HEADS = COMMON | SHAPE | {"num_key_value_heads": 1, "head_dim": 8}
FAMILIES = {
    "llama": HEADS,
    "mistral": HEADS | {"sliding_window": 2 * 3 + SIZE},  # the tightest window that is allowed
    "qwen2": HEADS,
    "qwen3": HEADS,
    "gemma": HEADS,
    "gpt_neox": COMMON | SHAPE,
    "gpt2": {"vocab_size": 61, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
    | {"bos_token_id": 1, "eos_token_id": 2},
}
# Keys are cached and layouts differ in padding, so float32 sums come in another order.
CLOSE = {"atol": 1e-4, "rtol": 1e-4}
FREE = {"eos_token_id": None, "pad_token_id": 0, "max_new_tokens": NEW}


def make(kind: str = "llama", memory_tokens: int = 3, **changes) -> RMTForCausalLM:
    torch.manual_seed(3)
    backbone = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **FAMILIES[kind]))
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.3)  # so large that a wrong position or mask changes the words
    settings = {"segment_size": SIZE, "num_memory_tokens": memory_tokens, "memory_update": "gated"} | changes
    model = RMTForCausalLM.from_backbone(backbone, **settings).eval()
    if model.config.memory == "associative":
        torch.nn.init.normal_(model.cell.value, std=1.0)  # a fresh one stores nothing
    return model


@pytest.fixture(scope="module", params=["tokens", "associative"])
def llama(request) -> RMTForCausalLM:
    return make(memory=request.param)


@pytest.fixture
def prompts() -> dict[str, torch.Tensor]:
    """Ragged and padded on the left: 17, 12 and 4 tokens."""
    ids = torch.randint(3, 61, (3, PROMPT))
    mask = torch.ones_like(ids)
    mask[1, :5], mask[2, :13] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


def teacher(model, sequences, mask, memory=None):
    """Logits at each position of the sequences by one forward without a cache, and the memory after."""
    full = torch.cat([mask, mask.new_ones(len(mask), sequences.shape[1] - mask.shape[1])], dim=1)
    with torch.no_grad():
        out = model(input_ids=sequences, attention_mask=full, memory=memory)
    return out.logits, out.memory


def same_memory(got, expected):
    """Tensors of the same names, close to the size of what they hold."""
    assert got.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        size = max(1.0, float(tensor.abs().max()))
        torch.testing.assert_close(got.tensors[name] / size, tensor / size, **CLOSE)


@pytest.mark.parametrize("memory", ["gated", "replace", "associative"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_greedy_equals_teacher_forcing(kind, memory, prompts):
    model = make(kind, **({"memory": memory} if memory == "associative" else {"memory_update": memory}))
    with torch.no_grad():
        memory = model(input_ids=torch.randint(3, 61, (3, 9))).memory
    out = model.generate(**prompts, memory=memory, output_logits=True, return_dict_in_generate=True, **FREE)
    assert out.sequences.shape == (3, PROMPT + NEW)
    logits, after = teacher(model, out.sequences, prompts["attention_mask"], memory)
    torch.testing.assert_close(torch.stack(out.logits, dim=1), logits[:, PROMPT - 1 : -1], **CLOSE)
    assert torch.equal(out.sequences[:, PROMPT:], logits[:, PROMPT - 1 : -1].argmax(dim=-1))
    assert logits[:, PROMPT - 1 : -1].std(dim=1).max() > 0.1  # each step says something of its own
    same_memory(model.memory_of(out), after)


@pytest.mark.parametrize("memory_tokens", [0, 1])
def test_without_memory_tokens_too(memory_tokens, prompts):
    model = make(memory_tokens=memory_tokens)
    sequences = model.generate(**prompts, **FREE)
    logits, _ = teacher(model, sequences, prompts["attention_mask"])
    assert torch.equal(sequences[:, PROMPT:], logits[:, PROMPT - 1 : -1].argmax(dim=-1))


def test_memory_matters(llama, prompts):
    """The control: another memory gives other words."""
    with torch.no_grad():
        memory = llama(input_ids=torch.randint(3, 61, (3, 9))).memory
    assert not torch.equal(llama.generate(**prompts, memory=memory, **FREE), llama.generate(**prompts, **FREE))


@pytest.mark.parametrize("length", [1, SIZE - 1, SIZE, SIZE + 1, 2 * SIZE])
def test_prompts_that_end_at_borders(llama, length):
    prompt = torch.randint(3, 61, (2, length))
    sequences = llama.generate(prompt, **FREE)
    logits, _ = teacher(llama, sequences, torch.ones_like(prompt))
    assert torch.equal(sequences[:, length:], logits[:, length - 1 : -1].argmax(dim=-1))


def test_right_padding_and_company(llama, prompts):
    """Each row gets what it gets alone, padded on either side."""
    rows = [i[m.bool()] for i, m in zip(*prompts.values(), strict=True)]
    right = {name: torch.zeros_like(t) for name, t in prompts.items()}
    for number, row in enumerate(rows):
        right["input_ids"][number, : len(row)], right["attention_mask"][number, : len(row)] = row, 1
    padded_left, padded_right = llama.generate(**prompts, **FREE), llama.generate(**right, **FREE)
    for number, row in enumerate(rows):
        alone = llama.generate(row[None], **FREE)[0, len(row) :]
        assert torch.equal(padded_left[number, PROMPT:], alone)
        assert torch.equal(padded_right[number, PROMPT:], alone)


def test_no_cache_is_the_same(llama, prompts):
    assert torch.equal(llama.generate(**prompts, **FREE), llama.generate(**prompts, use_cache=False, **FREE))


@pytest.mark.parametrize("arguments", [{"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.8}, {"min_p": 0.05}])
def test_sampling_equals_a_naive_loop(llama, prompts, arguments):
    plain = {"do_sample": True, "top_k": 0} | arguments
    torch.manual_seed(5)
    got = llama.generate(**prompts, **plain, **FREE)
    torch.manual_seed(5)
    # Without a cache the same loop runs over a forward of everything at each step.
    assert torch.equal(got, llama.generate(**prompts, **plain, use_cache=False, **FREE))
    if arguments == {"temperature": 0.7}:
        torch.manual_seed(5)
        ids, mask = prompts["input_ids"], prompts["attention_mask"]
        for _ in range(NEW):
            logits = teacher(llama, ids, mask)[0][:, -1]
            ids = torch.cat([ids, torch.multinomial((logits / 0.7).softmax(dim=-1), 1)], dim=1)
        assert torch.equal(got, ids)


def test_processors(llama, prompts):
    for arguments in (
        {"repetition_penalty": 1.7},
        {"no_repeat_ngram_size": 2},
        {"bad_words_ids": [[7], [9]]},
    ):
        got = llama.generate(**prompts, **arguments, **FREE)
        assert torch.equal(got, llama.generate(**prompts, **arguments, use_cache=False, **FREE))
    assert not bool(torch.isin(got[:, PROMPT:], torch.tensor([7, 9])).any())


def test_num_return_sequences_forks_the_memory(llama, prompts):
    with torch.no_grad():
        memory = llama(input_ids=torch.randint(3, 61, (3, 9))).memory
    torch.manual_seed(5)
    got = llama.generate(**prompts, memory=memory, do_sample=True, num_return_sequences=2, **FREE)
    torch.manual_seed(5)
    twice = {name: t.repeat_interleave(2, dim=0) for name, t in prompts.items()}
    assert torch.equal(got, llama.generate(**twice, memory=memory.fork(2), do_sample=True, **FREE))


@pytest.mark.parametrize("arguments", [{}, {"length_penalty": 2.0}, {"do_sample": True}, {"num_return_sequences": 3}])
def test_beams(llama, prompts, arguments):
    plain = {"num_beams": 3, "max_new_tokens": 20, "eos_token_id": 5, "pad_token_id": 0} | arguments
    torch.manual_seed(5)
    out = llama.generate(**prompts, return_dict_in_generate=True, output_scores=True, **plain)
    torch.manual_seed(5)
    assert torch.equal(out.sequences, llama.generate(**prompts, use_cache=False, **plain))
    assert bool((out.beam_indices.diff(dim=1)[:, :10] != 0).any())  # the cache had to be reordered


class Words(BaseStreamer):
    def __init__(self):
        self.put_words, self.ended = [], False

    def put(self, value):
        self.put_words += value.flatten().tolist()

    def end(self):
        self.ended = True


def test_streamer(llama):
    prompt, streamer = torch.randint(3, 61, (1, 5)), Words()
    got = llama.generate(prompt, streamer=streamer, **FREE)
    assert (streamer.put_words, streamer.ended) == (got[0].tolist(), True)


class AfterTwo(StoppingCriteria):
    def __call__(self, input_ids, scores, **_):
        return torch.full((len(input_ids),), input_ids.shape[1] >= PROMPT + 2)


def test_stopping_criteria(llama, prompts):
    got = llama.generate(**prompts, stopping_criteria=StoppingCriteriaList([AfterTwo()]), **FREE)
    assert got.shape[1] == PROMPT + 2


def test_end_of_text(llama, prompts):
    """A row that ends early is padded, its padding is not written into its memory, and others go on."""
    free = llama.generate(**prompts, **FREE)[:, PROMPT:]
    end = next(w for w in free[0, 2:9].tolist() if w not in free[1].tolist() + free[0, :2].tolist())
    out = llama.generate(**prompts, return_dict_in_generate=True, **(FREE | {"eos_token_id": end, "pad_token_id": 4}))
    memory = llama.memory_of(out)
    for row in range(3):
        words = free[row].tolist()
        length = words.index(end) + 1 if end in words else NEW
        assert out.sequences[row, PROMPT : PROMPT + length].tolist() == words[:length]
        assert set(out.sequences[row, PROMPT + length :].tolist()) <= {4}
        text = torch.cat([prompts["input_ids"][row][prompts["attention_mask"][row].bool()], free[row, :length]])
        _, alone = teacher(llama, text[None], torch.ones_like(text)[None])
        same_memory(memory.index([row]), alone)
    assert out.sequences[0, -1] == 4  # the case was met
    assert out.sequences.shape[1] == PROMPT + NEW


def test_an_end_inside_the_prompt_does_not_end_it(llama, prompts):
    end = int(prompts["input_ids"][0, 8])
    got = llama.generate(**prompts, **(FREE | {"eos_token_id": end, "max_new_tokens": 1}))
    assert torch.equal(got, llama.generate(**prompts, **(FREE | {"max_new_tokens": 1})))


def test_going_on_with_the_cache(llama, prompts):
    """Two calls equal one; the first call's cache is a value that both continuations can start from."""
    first = llama.generate(**prompts, return_dict_in_generate=True, **(FREE | {"max_new_tokens": 10}))
    mask = torch.cat([prompts["attention_mask"], torch.ones(3, 10, dtype=torch.long)], dim=1)
    wanted = llama.generate(**prompts, **FREE)
    for _ in range(2):
        onward = {"attention_mask": mask, CACHE: getattr(first, CACHE)}
        got = llama.generate(first.sequences, **onward, **(FREE | {"max_new_tokens": NEW - 10}))
        assert torch.equal(got, wanted)


def test_chunked_prefill(llama, prompts):
    assert torch.equal(llama.generate(**prompts, prefill_chunk_size=3, **FREE), llama.generate(**prompts, **FREE))


@pytest.mark.parametrize("cuts", [[1] * 20, [3, 7, 1, 9], [7, 7, 6], [20]])
def test_any_steps_give_the_same(llama, cuts):
    """Columns in any portions, some rows with nothing in a portion: logits and memory of one forward."""
    ids = torch.randint(3, 61, (3, 20))
    mask = torch.ones_like(ids)
    mask[1, 4:9], mask[2, 11:] = 0, 0
    with torch.no_grad():
        whole = llama(ids, mask)
        cache, parts = None, []
        for portion, real in zip(ids.split(cuts, dim=1), mask.split(cuts, dim=1), strict=True):
            out = llama(portion, real, use_cache=True, **{CACHE: cache})
            cache = getattr(out, CACHE)
            assert isinstance(cache, RMTCache)
            assert int(cache.mask.sum(dim=1).max()) <= SIZE
            parts.append(out.logits)
        torch.testing.assert_close(torch.cat(parts, dim=1), whole.logits, **CLOSE)
        same_memory(cache.flush(llama), whole.memory)


def test_memory_in_the_cache_is_that_of_closed_segments(llama):
    ids = torch.randint(3, 61, (1, 3 * SIZE))
    with torch.no_grad():
        cache = getattr(llama(ids, use_cache=True), CACHE)
        closed = llama(ids[:, : 2 * SIZE]).memory
    same_memory(cache.memory, closed)
    assert (cache.memory.meta.segments_read, cache.memory.meta.tokens_read) == (2, 2 * SIZE)
    assert cache.flush(llama).meta.tokens_read == 3 * SIZE
    assert cache.get_seq_length() == 3 * SIZE


def test_a_cache_is_a_value(llama):
    ids = torch.randint(3, 61, (2, 9))
    with torch.no_grad():
        cache = getattr(llama(ids, use_cache=True), CACHE)
        before = [(layer.keys.clone(), layer.values.clone()) for layer in cache.keys.layers]
        one, _ = advance(llama, ids[:, :3], None, cache)
        cache.index(torch.tensor([1, 1]))
        again, _ = advance(llama, ids[:, :3], None, cache)
    assert torch.equal(one, again)
    for layer, (keys, values) in zip(cache.keys.layers, before, strict=True):
        assert torch.equal(layer.keys, keys)
        assert torch.equal(layer.values, values)


def test_space_is_constant(llama):
    with torch.no_grad():
        cache = RMTCache.begin(llama, None, 2)
        widest = 0
        for _ in range(6 * SIZE):
            _, cache = advance(llama, torch.randint(3, 61, (2, 1)), None, cache)
            widest = max(widest, cache.keys.get_seq_length(), cache.keys_mask.shape[1])
    assert widest == SIZE + (3 if llama.config.memory == "tokens" else 0)
    assert cache.ids.shape[1] <= SIZE


def test_bad_calls(llama, prompts):
    with pytest.raises(InputError, match="expected one for each of 3 rows, got 2"):
        llama.generate(**prompts, memory=llama.initial_memory(2), **FREE)
    with pytest.raises(InputError, match="expected an RMTCache"):
        llama.generate(**prompts, **{CACHE: DynamicCache()}, **FREE)
    with pytest.raises(ValueError, match="stateful"):
        llama.generate(prompts["input_ids"][:1], prompt_lookup_num_tokens=2, **FREE)
    with pytest.raises(InputError, match="expected one of 2 rows, got 3"):
        llama(prompts["input_ids"][:2], past_key_values=RMTCache.begin(llama, None, 3))
    with pytest.raises(InputError, match=r"expected a token in each row, got none in rows \[0\]"):
        llama.generate(prompts["input_ids"], attention_mask=torch.tensor([[0], [1], [1]]).expand(3, PROMPT), **FREE)
    beams = llama.generate(**prompts, num_beams=2, return_dict_in_generate=True, output_scores=True, **FREE)
    with pytest.raises(InputError, match="without beams"):
        llama.memory_of(beams)
    with pytest.raises(ValueError, match="temprature"):
        llama.generate(**prompts, temprature=2.0, **FREE)
