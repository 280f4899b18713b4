"""How gradients flow through segments: truncated, exact, and recomputed in constant space."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rmt.memory import Memory
from rmt.models.base import RMTPreTrainedModel
from rmt.recurrence import Emit, State, run
from rmt.segments import Segment, remaining, split

from .tiny import CLS, FIRST, SEP, VOCAB, causal, classifier, content, gradients, largest_gap, ragged

DEPTHS = (1, 2, 3, 4)
MODES = ("plain", "checkpointed")


def lengths_around(depth: int) -> list[int]:
    """Segments of each document of a batch: shorter than the depth, equal to it, longer, and much longer."""
    return sorted({max(1, depth - 1), depth, depth + 1, 2 * depth, 2 * depth + 1})


def even(depth: int) -> list[int]:
    """Documents that all end together, where whole batches are truncated at once."""
    return [2 * depth + 1] * 2


BATCHES = (lengths_around, even)


# The loop alone, over a step so small that every derivative can be looked at.


def toy_run(
    counts: list[int], depth: int | None, checkpointed: bool, every_segment_counts: bool = True
) -> tuple[Tensor, list[Tensor], list[Emit], Tensor]:
    """Run a toy recurrence; returns the start, a perturbation per segment, what was emitted, what is left."""
    mask = torch.arange(max(counts))[None] < torch.tensor(counts)[:, None]
    segments = split(torch.ones(len(counts), max(counts), dtype=torch.long), mask, 1)
    start = torch.randn(len(counts), 1, 4, requires_grad=True)
    weight = torch.randn(4, 4)
    noise = [torch.randn(len(counts), 1, 4, requires_grad=True) for _ in segments]
    numbers = {id(segment): n for n, segment in enumerate(segments)}

    def step(segment: Segment, state: State) -> tuple[State, Emit]:
        new = torch.tanh(state["tokens"] @ weight + noise[numbers[id(segment)]])
        kept = torch.where(segment.active[:, None, None], new, state["tokens"])
        return {"tokens": kept}, {"out": new.square().sum(dim=(1, 2))}

    steps = run(
        step,
        segments,
        {"tokens": start},
        bptt_depth=depth,
        checkpointed=checkpointed,
        every_segment_counts=every_segment_counts,
    )
    return start, noise, [emit for _, emit in steps], remaining(segments)


def reached(of: Tensor, by: Tensor) -> bool:
    """Whether the derivative of a scalar is anything but exactly zero."""
    (grad,) = torch.autograd.grad(of, by, retain_graph=True, allow_unused=True)
    return grad is not None and bool((grad != 0).any())


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("depth", [*DEPTHS, None])
def test_each_loss_reaches_its_own_stretch_and_nothing_else(
    depth: int | None, mode: str, batch: Callable[[int], list[int]]
) -> None:
    counts = batch(depth or 3)
    start, noise, emits, left = toy_run(counts, depth, mode == "checkpointed")
    far = depth or 10**9
    for row, count in enumerate(counts):
        for late in range(count):
            stretch = (int(left[late, row]) - 1) // far
            for early in range(len(noise)):
                (grad,) = torch.autograd.grad(
                    emits[late]["out"][row], noise[early], retain_graph=True, allow_unused=True
                )
                inside = early <= late and (int(left[early, row]) - 1) // far == stretch
                got = torch.zeros_like(noise[early]) if grad is None else grad
                assert bool((got[row] != 0).any()) == inside, (row, late, early)
                others = [r for r in range(len(counts)) if r != row]
                assert not got[others].any()
            first_stretch = (count - 1) // far == stretch
            assert reached(emits[late]["out"][row], start) == first_stretch


@pytest.mark.parametrize("depth", [*DEPTHS, None])
def test_segments_that_no_gradient_reaches_need_no_graph(depth: int | None, seed: int) -> None:
    counts = [(depth or 3) + 3, (depth or 3) + 2]
    torch.manual_seed(seed)
    _, noise, emits, left = toy_run(counts, depth, False, every_segment_counts=True)
    torch.manual_seed(seed)
    _, twins, lean, _ = toy_run(counts, depth, False, every_segment_counts=False)
    for number in range(len(noise)):
        beyond = depth is not None and bool((left[number] > depth).all())
        assert lean[number]["out"].requires_grad == (not beyond)
        assert torch.equal(lean[number]["out"], emits[number]["out"])
    for row, count in enumerate(counts):
        full = torch.autograd.grad(emits[count - 1]["out"][row], noise, retain_graph=True, allow_unused=True)
        got = torch.autograd.grad(lean[count - 1]["out"][row], twins, retain_graph=True, allow_unused=True)
        nothing = torch.zeros(2, 1, 4)
        for one, other in zip(full, got, strict=True):
            assert torch.equal(nothing if one is None else one, nothing if other is None else other)


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_recorded_under_no_grad(mode: str) -> None:
    with torch.no_grad():
        _, _, emits, _ = toy_run([3, 5], 2, mode == "checkpointed")
    assert not any(emit["out"].requires_grad for emit in emits)


# The same with whole models: words that occur in one segment of one document only.


def words_of_one_segment(counts: list[int], size: int = 2) -> tuple[Tensor, Tensor, dict[tuple[int, int], list[int]]]:
    """A ragged batch in which every word occurs once; its mask; the words of (document, segment)."""
    words = iter(torch.randperm(VOCAB - FIRST).add(FIRST).tolist())
    ids = torch.zeros(len(counts), max(counts) * size, dtype=torch.long)
    mask = torch.zeros_like(ids)
    where = {}
    for row, count in enumerate(counts):
        for segment in range(count):
            where[row, segment] = [next(words) for _ in range(size)]
            ids[row, segment * size : (segment + 1) * size] = torch.tensor(where[row, segment])
        mask[row, : count * size] = 1
    return ids, mask, where


def embedding_gradient(model: RMTPreTrainedModel, loss: Tensor) -> Tensor:
    loss.backward()
    grad = model.get_input_embeddings().weight.grad
    assert grad is not None
    return grad


def last_label(ids: Tensor, mask: Tensor) -> Tensor:
    """Labels for a language model on the last token of each document only."""
    last = mask.sum(dim=1) - 1
    labels = torch.full_like(ids, -100)
    rows = torch.arange(ids.shape[0])
    labels[rows, last] = ids[rows, last]
    return labels


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("update", ["replace", "gated"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("build", [classifier, causal])
def test_gradient_beyond_the_depth_is_exactly_zero_and_inside_it_is_not(
    build: Callable[..., RMTPreTrainedModel],
    depth: int,
    mode: str,
    update: str,
    batch: Callable[[int], list[int]],
) -> None:
    counts = batch(depth)
    model = build(segment_size=2, bptt_depth=depth, recurrence=mode, memory_update=update).train()
    ids, mask, where = words_of_one_segment(counts)
    labels = last_label(ids, mask) if build is causal else torch.arange(len(counts)) % 6
    grad = embedding_gradient(model, model(input_ids=ids, attention_mask=mask, labels=labels).loss)
    for (row, segment), words in where.items():
        inside = segment >= counts[row] - depth
        # Of a language model's last two words the last is only predicted, never read before the loss.
        assert bool((grad[words] != 0).any()) == inside, (row, segment)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("build", [classifier, causal])
def test_without_a_depth_gradient_reaches_every_segment(build: Callable[..., RMTPreTrainedModel], mode: str) -> None:
    counts = [1, 4, 9]
    model = build(segment_size=2, recurrence=mode).train()
    ids, mask, where = words_of_one_segment(counts)
    labels = last_label(ids, mask) if build is causal else torch.arange(3)
    grad = embedding_gradient(model, model(input_ids=ids, attention_mask=mask, labels=labels).loss)
    assert all(bool((grad[words] != 0).any()) for words in where.values())


@pytest.mark.parametrize("depth", DEPTHS)
def test_questions_see_the_last_segments_of_the_document(depth: int) -> None:
    counts = lengths_around(depth)
    model = classifier(segment_size=2, bptt_depth=depth).train()
    ids, mask, where = words_of_one_segment(counts)
    asked = torch.full((len(counts), 1, 2), VOCAB - 1)
    labels = torch.zeros(len(counts), 1, dtype=torch.long)
    ids[ids == VOCAB - 1] = FIRST  # the word of the question occurs in no document
    grad = embedding_gradient(model, model(input_ids=ids, attention_mask=mask, question_ids=asked, labels=labels).loss)
    for (row, segment), words in where.items():
        words = [w for w in words if w not in (VOCAB - 1, FIRST)]
        assert bool((grad[words] != 0).any()) == (segment >= counts[row] - depth), (row, segment)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("count", range(1, 7))
def test_memory_before_a_document_trains_where_the_document_is_not_truncated(depth: int, count: int) -> None:
    model = classifier(segment_size=2, bptt_depth=depth).train()
    given = model.initial_memory(1).tensors["tokens"].detach().clone().requires_grad_()
    ids = content(1, 2 * count)
    label = torch.tensor([3])
    model(input_ids=ids, labels=label).loss.backward()
    model(input_ids=ids, labels=label, memory=Memory({"tokens": given})).loss.backward()
    learned = model.cell.memory.grad
    assert (learned is not None and bool((learned != 0).any())) == (count <= depth)
    assert (given.grad is not None and bool((given.grad != 0).any())) == (count <= depth)
    if count <= depth:
        assert learned is not None
        assert torch.allclose(learned, given.grad[0], atol=1e-7)


# Exact gradients.


def by_hand(model: RMTPreTrainedModel, document: Tensor, answer: Tensor) -> Tensor:
    """Loss of one document, without the package: [CLS] memory [SEP] segment [SEP], unrolled."""
    table = model.get_input_embeddings().weight
    memory = model.cell.memory
    hidden = memory.new_zeros(0)
    for piece in document.split(model.config.segment_size):
        rows = [table[[CLS]], memory, table[[SEP]], table[piece], table[[SEP]]]
        hidden = model.backbone(inputs_embeds=torch.cat(rows)[None]).last_hidden_state[0]
        memory = hidden[1 : 1 + len(memory)]
    return F.cross_entropy(model.classifier(hidden[0]), answer)


@pytest.mark.parametrize("mode", MODES)
def test_exact_gradients_equal_those_of_an_unrolled_twin(mode: str) -> None:
    lengths = [3, 4, 11, 17]
    model = classifier(recurrence=mode).train()
    ids, mask = ragged(lengths)
    labels = torch.tensor([0, 5, 2, 2])
    loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    loss.backward()
    got = gradients(model)
    model.zero_grad()
    total = torch.stack([by_hand(model, ids[r, :n], labels[r]) for r, n in enumerate(lengths)]).mean()
    total.backward()
    assert loss.item() == pytest.approx(total.item(), abs=1e-6)
    assert largest_gap(got, gradients(model)) <= 1e-5  # float32, sums in another order
    assert max(float(g.abs().max()) for g in got.values()) > 1e-2


def causal_by_hand(model: nn.Module, document: Tensor) -> Tensor:
    """Summed next-token loss of one document: [memory | segment | memory], unrolled."""
    table, memory = model.get_input_embeddings().weight, model.cell.memory
    size, count = model.config.segment_size, model.config.num_memory_tokens
    said = []
    for piece in document.split(size):
        rows = torch.cat([memory, table[piece], memory])[None]
        hidden = model.backbone.model(inputs_embeds=rows).last_hidden_state[0]
        said.append(hidden[count : count + len(piece)])
        memory = hidden[count + len(piece) :]
    logits = model.backbone.lm_head(torch.cat(said))
    return F.cross_entropy(logits[:-1], document[1:], reduction="sum")


@pytest.mark.parametrize("mode", MODES)
def test_exact_gradients_of_a_language_model_equal_those_of_an_unrolled_twin(mode: str) -> None:
    lengths = [2, 4, 9, 14]
    model = causal(recurrence=mode).train()
    ids, mask = ragged(lengths)
    loss = model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss
    loss.backward()
    got = gradients(model)
    model.zero_grad()
    total = sum(causal_by_hand(model, ids[r, :n]) for r, n in enumerate(lengths)) / sum(n - 1 for n in lengths)
    total.backward()
    assert loss.item() == pytest.approx(total.item(), abs=1e-6)
    assert largest_gap(got, gradients(model)) <= 1e-5
    assert max(float(g.abs().max()) for g in got.values()) > 1e-2


def step_gradients(model: RMTPreTrainedModel, mode: str, seed: int, bf16: bool) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of one training step on a ragged batch, with questions."""
    model.config.recurrence = mode
    ids, mask = ragged([5, 12, 18])
    questions = content(6, 3).view(3, 2, 3)
    batch: dict[str, Tensor] = {"input_ids": ids, "attention_mask": mask, "question_ids": questions}
    if model.layout == "encoder":
        batch |= {"labels": torch.tensor([[0, 1], [2, -100], [4, 5]])}
    else:
        batch |= {"labels": ids.masked_fill(mask == 0, -100), "question_targets": questions}
    model.zero_grad()
    torch.manual_seed(seed)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = model(**batch).loss
    loss.backward()
    return loss.item(), gradients(model)


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("update", ["replace", "gated"])
@pytest.mark.parametrize("depth", [None, 2])
@pytest.mark.parametrize("build", [classifier, causal])
def test_checkpointed_gradients_equal_plain_with_dropout(
    build: Callable[..., RMTPreTrainedModel], depth: int | None, update: str, bf16: bool
) -> None:
    model = build(dropout=0.3, bptt_depth=depth, memory_update=update, gate_penalty=0.1).train()
    loss, plain = step_gradients(model, "plain", 1, bf16)
    again, checkpointed = step_gradients(model, "checkpointed", 1, bf16)
    assert loss == again
    assert largest_gap(plain, checkpointed) <= 1e-6
    # The controls: dropout is on (another seed, other gradients), and autocast changes the arithmetic.
    assert largest_gap(plain, step_gradients(model, "plain", 2, bf16)[1]) > 1e-3
    if bf16:
        assert largest_gap(plain, step_gradients(model, "plain", 1, False)[1]) > 1e-5


@pytest.mark.parametrize("depth", [None, 3])
@pytest.mark.parametrize("lengths", [[4], [19, 7], [70]])
def test_checkpoints_of_checkpoints(lengths, depth):
    """Associative memory, kept at few borders: gradients are the plain ones, dropout and truncation included."""
    ids, mask = ragged(lengths)
    found = {}
    for recurrence in ("plain", "checkpointed"):
        model = causal(dropout=0.3, memory="associative", bptt_depth=depth, recurrence=recurrence).train()
        torch.nn.init.constant_(model.cell.value, 0.02)
        torch.manual_seed(5)
        out = model(ids, attention_mask=mask, labels=ids)
        out.loss.backward()
        found[recurrence] = gradients(model) | {k: t.detach() for k, t in out.memory.tensors.items()}
    assert found["plain"]["cell.value"].abs().max() > 1e-4 or lengths == [4], "one segment reads nothing"
    assert largest_gap(found["plain"], found["checkpointed"]) <= 1e-5


# Activation memory.


@pytest.fixture(scope="module")
def activations(root: Path) -> ModuleType:
    """The script that prints these figures, as a module."""
    spec = importlib.util.spec_from_file_location("activations", root / "scripts" / "bench" / "activations.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Its dataclass looks itself up among the loaded modules.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "activations", module)
        spec.loader.exec_module(module)
    return module


def test_the_measure_counts_what_a_graph_holds(activations: ModuleType) -> None:
    weight, x = torch.randn(64, 64, requires_grad=True), torch.randn(100, 64)

    def chain() -> Tensor:
        hidden = x
        for _ in range(5):
            hidden = torch.tanh(hidden @ weight)
        return hidden.sum()

    got = activations.measure(chain)
    five = 5 * 100 * 64 * 4  # five outputs of tanh, which its backward needs; products die
    assert five <= got.saved <= five + 8  # and the loss itself
    assert got.saved < got.peak <= five + 100 * 64 * 4


@pytest.mark.slow
def test_checkpointed_training_takes_constant_space(activations: ModuleType) -> None:
    rows = activations.table([4, 64], segment_size=64, batch_size=4, layers=4, hidden=96)
    few, many = (r["peak"] for r in rows if r["recurrence"] == "plain")
    assert 14 < many / few < 17  # the control: everything is kept
    few, many = (r["peak"] for r in rows if r["recurrence"] == "checkpointed")
    assert many <= 1.10 * few


@pytest.mark.slow
def test_checkpointed_associative_training_keeps_one_memory_more_of_64_segments(activations: ModuleType) -> None:
    rows = activations.table([4, 64], segment_size=16, batch_size=1, layers=2, hidden=96, memory="associative")
    held = 2 * 97 * 384 * 4  # bytes of one memory: two layers of (hidden + 1) * 384 numbers
    few, many = (r["peak"] for r in rows if r["recurrence"] == "checkpointed")
    assert many - few <= 1.1 * held  # the first memory and four others against three
