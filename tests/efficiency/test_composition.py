"""Ways of training a recurrent model, and what each may be combined with: docs/composition.md, a test a cell.

Each model is trained beside a twin that runs the segments in a bare loop, keeps everything, and is updated by torch,
PEFT without us, or an update written down in full. Where numbers are the same, only cost can differ.
"""

from __future__ import annotations

import re

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from efficiency.errors import InputError
from efficiency.lomo import AdaLomo, Lomo
from efficiency.lomo.defer import deferred
from efficiency.lora import layers, unfused
from rmt.reader import Reader
from tests.efficiency.composition_kit import (
    ADAPTED,
    DEPTH,
    RECURRENCE,
    SEGMENTS,
    SIZE,
    Side,
    documents,
    gap,
    sides,
)
from tests.efficiency.test_lomo_ada import Naive
from tests.rmt.tiny import content

WAYS = ("full", "lora", "qlora", "lomo", "adalomo")
MEMORIES = ("tokens", "associative")
KINDS = ("encoder", "decoder")
FREEING = {"lomo": (Lomo, torch.optim.SGD), "adalomo": (AdaLomo, Naive)}
# Rounding of float64, of float32 where weights are (4-bit ones are read so), and of float32 in what associative memory
# writes, whatever the weights. A wrong scale, mask, cut or order would be 1e-2 and more.
CLOSE = {"full": 1e-6, "lora": 1e-6, "qlora": 1e-3, "lomo": 1e-6, "adalomo": 1e-6}
ORDERED = 1e-3  # layers and segments in another order: the float32 of what memory writes is rounded otherwise
ways = pytest.mark.parametrize("way", WAYS)
memories = pytest.mark.parametrize("memory", MEMORIES)
kinds = pytest.mark.parametrize("kind", KINDS)
recurrences = pytest.mark.parametrize("recurrence", list(RECURRENCE))
pairs = pytest.mark.parametrize(("kind", "memory"), [("decoder", "tokens"), ("encoder", "associative")])


@pytest.fixture(autouse=True)
def _library(request):
    if "qlora" in request.node.name:
        pytest.importorskip("bitsandbytes")


def compare_steps(ours: Side, theirs: Side, close: float, micro: int = 1, batch: int = 2) -> None:
    """Two steps of training, after which all that is trained is the same, and is not what it was."""
    before = ours.weights()
    for seed in range(2):
        ours.step(documents(seed, batch), micro)
        theirs.step(documents(seed, batch))
    found, expected = ours.weights(), theirs.weights()
    assert gap(found, before) > 1e-2
    for name in [name for name in found if name.endswith("key.bias")]:
        # A gradient that is zero but for rounding, and made as large as any by a second moment.
        assert float((found.pop(name) - expected.pop(name)).abs().max()) < 1e-3
    assert gap(found, expected) <= close


def compare_reach(way: str, ours: Side, theirs: Side, close: float, depth: int | None) -> None:
    """Through the memory, the loss behind the last segment reaches a word of each within the depth, and none beyond.

    All other gradients are compared too, where a way leaves them to be seen.
    """
    found, expected = (side.gradients(documents(5), last_only=True) for side in (ours, theirs))
    seen = {"loss", "marked words"} if way in FREEING else expected.keys()
    assert gap({name: found[name] for name in seen}, {name: expected[name] for name in seen}) <= close
    within = SEGMENTS if depth is None else depth
    norms = found["marked words"].norm(dim=1)
    assert (norms[SEGMENTS - within :] > 1e-3 * norms[-1]).all()
    assert (norms[: SEGMENTS - within] == 0).all()


def check_way(way: str, ours: Side) -> None:
    """What makes the way cheap is on, not fallen back from."""
    if way in ADAPTED:
        assert len(list(layers(ours.model))) >= 6
        assert not unfused(ours.model)
    if way in FREEING:
        assert len(deferred(ours.model)) >= 14


def check_cost(way: str, ours: Side, theirs: Side, recurrence: str) -> None:
    """What is spared has been: activations, gradients of frozen weights, readings of 4-bit ones but the first.

    An encoder's loss hangs on its last segment, so those beyond the depth keep nothing.
    """
    (size, loss), (whole, _) = (side.kept(documents()) for side in (ours, theirs))
    share = size / whole
    reached = DEPTH / SEGMENTS if recurrence == "truncated" and ours.rmt.layout == "encoder" else 1.0
    least, most = (0.0, 0.5) if recurrence == "checkpointed" else (0.9 * reached, 1.03 * reached)
    assert least <= share <= most
    loss.backward()
    assert all(module.weight.grad is None for module in deferred(ours.model))
    if way in ADAPTED:
        assert all(p.requires_grad or p.grad is None for p in ours.model.parameters())
    if way == "qlora":
        from efficiency.qlora import nf4_layers

        found = [layer for _, layer in nf4_layers(ours.model)]
        assert found[0].cache.misses == len(found) >= 12
    ours.optimizer.zero_grad()
    assert all(p.grad is None for p in ours.model.parameters())


@ways
@memories
@recurrences
@kinds
def test_cell(way, memory, recurrence, kind):
    """Two steps, gradients, how far memory carries them, and what is spared."""
    fields = RECURRENCE[recurrence]
    ours, theirs = sides(way, kind, memory, **fields)
    check_way(way, ours)
    compare_steps(ours, theirs, CLOSE[way])
    compare_reach(way, ours, theirs, CLOSE[way], fields.get("bptt_depth"))
    check_cost(way, ours, theirs, recurrence)


@pytest.mark.parametrize("way", list(FREEING))
@recurrences
@kinds
def test_layer_by_layer_with_updates_during_backward(way, recurrence, kind):
    """A layer's gradients are complete, applied and freed before the layer below has its backward."""
    fields = RECURRENCE[recurrence] | {"order": "layers"}
    ours, theirs = sides(way, kind, "associative", early=True, **fields)
    compare_steps(ours, theirs, ORDERED)
    compare_reach(way, ours, theirs, ORDERED, fields.get("bptt_depth"))
    ours.loss(documents()).backward()
    large = [p for p in ours.model.parameters() if p.numel() >= 32 * 32]
    assert len(large) > 10
    assert all(p.grad is None for p in large)


@pytest.mark.parametrize("way", ["lora", "qlora", "lomo"])  # the rest: tests of LOMO, and tests/rmt/test_orders.py
@kinds
@pytest.mark.parametrize("order", ["layers", "wavefront"])
def test_orders(way, kind, order):
    """Layers that cannot be one batch (4-bit weights, deferred gradients) run one by one in a wavefront."""
    recurrence = {"encoder": "exact", "decoder": "checkpointed"}[kind]
    ours, theirs = sides(way, kind, "associative", order=order, **RECURRENCE[recurrence])
    for side in (ours, theirs):
        side.rmt.set_attn_implementation("eager")  # what is fused has no batched form on a CPU
    compare_steps(ours, theirs, ORDERED)
    compare_reach(way, ours, theirs, ORDERED, None)


@pytest.mark.parametrize("way", ADAPTED)
@memories
@kinds
def test_dropout_under_checkpoints(way, memory, kind):
    """The same whether segments are computed once or again, in a document and in questions of it."""
    found = []
    for recurrence in ("exact", "checkpointed"):
        ours, _ = sides(way, kind, memory, dropout=0.1, **RECURRENCE[recurrence])
        torch.manual_seed(0)
        found.append(ours.gradients(documents()) | {"questions": asked(ours)})
    assert gap(found[1], found[0]) <= 1e-6
    if memory == "tokens":
        ours, _ = sides(way, kind, memory)
        without = ours.gradients(documents()) | {"questions": asked(ours)}
        assert gap(without, found[0]) > 1e-2, "dropout does nothing"


def asked(side: Side) -> torch.Tensor:
    """The gradient of an A with two questions to each document, which are more rows than documents."""
    ids, questions = documents(), content(4, 6, seed=1).view(2, 2, 6)
    head = {"labels": torch.tensor([[0, 1], [2, 3]])}
    how = head if side.rmt.layout == "encoder" else {"question_targets": questions}
    side.model(input_ids=ids, question_ids=questions, **how).loss.backward()
    found = next(p.grad for name, p in side.model.named_parameters() if "lora_A" in name)
    side.optimizer.zero_grad()
    return found


@ways
@pairs
def test_micro_batches(way, kind, memory):
    """Two micro-batches to a step are one batch of twice the size."""
    ours, theirs = sides(way, kind, memory, **RECURRENCE["checkpointed"])
    compare_steps(ours, theirs, CLOSE[way], micro=2, batch=4)


def test_micro_batches_with_updates_during_backward_are_refused():
    ours, _ = sides("lomo", "decoder", "associative", early=True, order="layers")
    with pytest.raises(InputError, match=r"one backward before step.*defer=model"):
        ours.step(documents(), micro=2)


@ways
@pairs
def test_autocast(way, kind, memory):
    """As far from float32 as the twin is in bfloat16, or nearer."""

    def change(side: Side, on: bool) -> torch.Tensor:
        """Gradients, or what a step has changed where none are left; in one piece."""
        before = side.weights()
        with torch.autocast("cpu", torch.bfloat16, enabled=on):
            loss = side.loss(documents())
        loss.backward()
        if way not in FREEING:
            return torch.cat([p.grad.flatten() for p in side.model.parameters() if p.grad is not None])
        side.optimizer.step()
        return torch.cat([(w - before[n]).flatten() for n, w in side.weights().items() if not n.endswith("key.bias")])

    # Larger weights make more of rounding in each segment; autocast is entered again where one is computed again.
    how = {"scale": 0.5, "dtype": torch.float32} | RECURRENCE["checkpointed"]
    ours, theirs, exact = (
        change(sides(way, kind, memory, **how)[which], on) for which, on in ((0, True), (1, True), (1, False))
    )
    error, allowed = (float((t - exact).norm() / exact.norm()) for t in (ours, theirs))
    assert error <= 1.5 * allowed + 0.01
    assert 1e-4 < allowed < 0.3


@pytest.mark.parametrize("way", ADAPTED)
@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize(
    ("rule", "kind", "memory"), [("lomo", "decoder", "tokens"), ("adalomo", "encoder", "associative")]
)
def test_lomo_trains_adapters(way, early, rule, kind, memory):
    """Of no use for memory, adapters being small; right all the same."""
    ours, theirs = sides(way, kind, memory, **RECURRENCE["checkpointed"])
    kit, naive = FREEING[rule]
    trained = [[p for p in side.model.parameters() if p.requires_grad] for side in (ours, theirs)]
    ours.optimizer = kit(trained[0], lr=0.02, **({} if early else {"defer": ours.model}))
    theirs.optimizer = naive(trained[1], lr=0.02)
    compare_steps(ours, theirs, CLOSE[way])


@pytest.mark.parametrize("way", ["lora", "qlora", "lomo"])
def test_compiled_layers(way):
    """Inside of them nothing is fused or deferred; what is computed stays the same."""
    ours, theirs = sides(way, "decoder", "tokens", **RECURRENCE["checkpointed"])
    for layer in ours.rmt.core.layers:
        layer.compile(backend="eager", dynamic=False)
    compare_steps(ours, theirs, CLOSE[way])


def trained(way: str, kind: str, memory: str, **fields: object) -> tuple[Side, Side]:
    """A model and its twin after a step, with the same weights, in float32 and evaluation mode."""
    ours, theirs = sides(way, kind, memory, dtype=torch.float32, **fields)
    ours.step(documents())
    assert not theirs.model.load_state_dict(ours.weights(), strict=False).unexpected_keys
    for side in (ours, theirs):
        side.model.eval()
    return ours, theirs


@pytest.mark.parametrize("way", [*ADAPTED, "lomo"])
@pytest.mark.parametrize(
    ("kind", "memory", "executor"),
    [
        ("encoder", "tokens", "auto"),
        ("encoder", "associative", "wavefront"),
        ("decoder", "tokens", "sequential"),
        ("decoder", "associative", "auto"),
    ],
)
def test_reading_after_training(way, kind, memory, executor):
    ours, theirs = trained(way, kind, memory, memory_update="gated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, unk_token="a")))
    document, question = content(1, SIZE * 12, seed=2), content(1, 5, seed=3)
    found = Reader(ours.rmt, tokenizer, dtype="float32", executor=executor).read(document[0], progress=False)
    with torch.no_grad():
        expected = theirs.model(input_ids=document).memory
        answers = [side.model(input_ids=question, memory=m).logits for side, m in ((ours, found), (theirs, expected))]
    assert gap(found.tensors, expected.tensors) <= 1e-3
    assert gap({"answers": answers[0]}, {"answers": answers[1]}) <= 1e-3
    if way in ADAPTED:
        with theirs.model.disable_adapter(), torch.no_grad():
            other = theirs.model(input_ids=document).memory
        assert gap(other.tensors, expected.tensors) > 1e-2, "adapters do nothing"


@pytest.mark.parametrize("way", [*ADAPTED, "lomo"])
@memories
def test_generation_after_training(way, memory):
    ours, theirs = trained(way, "decoder", memory)
    prompt, how = content(1, 7), {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}
    found, expected = (side.model.generate(input_ids=prompt, **how) for side in (ours, theirs))
    assert found.shape == (1, 7 + 12)  # over several segments
    assert torch.equal(found, expected)
    if way in ADAPTED:
        with theirs.model.disable_adapter():
            assert not torch.equal(theirs.model.generate(input_ids=prompt, **how), expected), "adapters do nothing"


def test_the_page_has_every_cell_and_names_tests_that_exist(root):
    page = (root / "docs" / "composition.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:1] == "|"]
    assert rows[0][1:] == [f"{memory}, {recurrence}" for memory in MEMORIES for recurrence in RECURRENCE]
    assert tuple(row[0].lower() for row in rows[2 : 2 + len(WAYS)]) == WAYS
    assert all(len(row) == 7 and all(cell.startswith("works") for cell in row[1:]) for row in rows[2 : 2 + len(WAYS)])
    known = "".join(file.read_text(encoding="utf-8") for file in (root / "tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", page))
    assert len(named) > 10
    assert {name for name in named if f"def {name}(" not in known} == set()
