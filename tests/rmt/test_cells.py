"""One segment in, a new memory out: the layout, the rows that have ended, the gates."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from rmt.cells import TokenMemoryCell
from rmt.config import RMTConfig
from rmt.models.base import RMTPreTrainedModel
from rmt.models.causal_lm import RMTForCausalLM
from rmt.models.sequence_classification import RMTForSequenceClassification
from rmt.segments import Segment, split

from .tiny import CLS, SEP, bert_config, causal, classifier, content, llama_config, ragged

UPDATES = ("replace", "gated")
BUILDS = (classifier, causal)


def bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().view(torch.int32)


def state_of(batch: int, count: int = 3) -> dict[str, Tensor]:
    """A memory with a negative zero in it, which arithmetic would lose."""
    tokens = torch.randn(batch, count, 32)
    tokens[:, 0, 0] = -0.0
    return {"tokens": tokens}


def segments_of(lengths: list[int], size: int = 4) -> list[Segment]:
    ids, mask = ragged(lengths)
    return split(ids, mask, size)


def shut(cell: TokenMemoryCell, openness: float) -> None:
    """Slot gates that stand at ``openness`` whatever they see."""
    assert cell.slot_gate is not None
    with torch.no_grad():
        cell.slot_gate.weight.zero_()
        cell.slot_gate.bias.fill_(torch.logit(torch.tensor(openness, dtype=torch.float64)).clamp(-200, 200))


class Echo(nn.Module):
    """A backbone that gives back what it was given, and remembers it."""

    def __init__(self, vocab: int = 64, hidden: int = 32) -> None:
        super().__init__()
        self.table = nn.Embedding(vocab, hidden)
        self.seen: dict[str, Tensor] = {}

    def get_input_embeddings(self) -> nn.Embedding:
        return self.table

    def forward(self, **inputs: Tensor) -> SimpleNamespace:
        self.seen = inputs
        return SimpleNamespace(last_hidden_state=inputs["inputs_embeds"])

    def word(self, row: int, place: int) -> int:
        """Which word stands there."""
        far = (self.table.weight.detach() - self.seen["inputs_embeds"][row, place].detach()).abs().sum(dim=1)
        return int(far.argmin()) if float(far.min()) == 0 else -1


def test_encoder_layout() -> None:
    config = RMTConfig(backbone_config=bert_config(), num_memory_tokens=3, cls_token_id=CLS, sep_token_id=SEP)
    cell, backbone, state = TokenMemoryCell(config), Echo(), state_of(3)
    (segment,) = segments_of([4, 2, 1])
    out = cell(backbone, segment, state)
    assert backbone.seen["inputs_embeds"].shape == (3, 1 + 3 + 1 + 4 + 1, 32)
    for row, length in enumerate([4, 2, 1]):
        assert backbone.word(row, 0) == CLS
        assert torch.equal(backbone.seen["inputs_embeds"][row, 1:4], state["tokens"][row])
        assert backbone.word(row, 4) == SEP
        text = [backbone.word(row, 5 + i) for i in range(length)]
        assert text == segment.ids[row, :length].tolist()
        assert backbone.word(row, 5 + length) == SEP  # right behind the last word, not behind the padding
        assert backbone.seen["attention_mask"][row].tolist() == [1] * (6 + length) + [0] * (4 - length)
    assert torch.equal(out.opening, backbone.seen["inputs_embeds"][:, 0])
    assert torch.equal(out.hidden, backbone.seen["inputs_embeds"][:, 5:9])
    assert torch.equal(out.state["tokens"], state["tokens"])
    assert out.gate_logits is None


def test_decoder_layout() -> None:
    cell = TokenMemoryCell(RMTConfig(backbone_config=llama_config(), num_memory_tokens=3))
    backbone, state = Echo(), state_of(3)
    (segment,) = segments_of([4, 2, 1])
    out = cell(backbone, segment, state)
    given = backbone.seen["inputs_embeds"]
    assert given.shape == (3, 3 + 4 + 3, 32)
    assert torch.equal(given[:, :3], state["tokens"])
    assert torch.equal(given[:, 7:], state["tokens"])
    assert torch.equal(out.hidden, given[:, 3:7])
    for row, length in enumerate([4, 2, 1]):
        mask = backbone.seen["attention_mask"][row].bool()
        assert mask.tolist() == [True] * (3 + length) + [False] * (4 - length) + [True] * 3
        # Positions run on over padding, as if the document were alone.
        assert backbone.seen["position_ids"][row][mask].tolist() == list(range(6 + length))
        assert [backbone.word(row, 3 + i) for i in range(length)] == segment.ids[row, :length].tolist()


def test_without_memory_tokens_the_layout_is_the_backbones_own() -> None:
    config = RMTConfig(backbone_config=bert_config(), num_memory_tokens=0, cls_token_id=CLS, sep_token_id=SEP)
    backbone, state = Echo(), {"tokens": torch.zeros(1, 0, 32)}
    (segment,) = segments_of([3])
    out = TokenMemoryCell(config)(backbone, segment, state)
    assert [backbone.word(0, i) for i in range(5)] == [CLS, *segment.ids[0].tolist(), SEP]
    assert out.state is state
    cell = TokenMemoryCell(RMTConfig(backbone_config=llama_config(), num_memory_tokens=0))
    cell(backbone, segment, state)
    assert [backbone.word(0, i) for i in range(3)] == segment.ids[0].tolist()


@pytest.mark.parametrize("training", [True, False], ids=["training", "reading"])
@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("build", BUILDS)
def test_rows_that_have_ended_keep_their_memory_bit_for_bit(build: type, update: str, training: bool) -> None:
    model = build(memory_update=update, gate_threshold=0.0).train(training)
    segments = segments_of([9, 4, 2])
    for segment in segments:
        before = state_of(3)
        kept = bits(before["tokens"]).clone()
        after = model.cell(model.core, segment, before).state["tokens"]
        for row, active in enumerate(segment.active.tolist()):
            assert torch.equal(bits(after[row]), kept[row]) == (not active)
        assert torch.equal(bits(before["tokens"]), kept)  # what was passed in stays as it was
    assert [s.active.tolist() for s in segments] == [[True] * 3, [True, False, False], [True, False, False]]


@pytest.mark.parametrize("build", BUILDS)
def test_shut_gates_leave_the_memory_bit_for_bit(build: type) -> None:
    model = build(memory_update="gated").eval()
    shut(model.cell, 0.099)  # under the threshold of 0.1
    state = state_of(2)
    kept = bits(state["tokens"]).clone()
    for segment in segments_of([40, 37]):
        state = model.cell(model.core, segment, state).state
    assert torch.equal(bits(state["tokens"]), kept)
    shut(model.cell, 0.0)  # and wholly shut ones in training too
    model.train()
    for segment in segments_of([40, 37]):
        state = model.cell(model.core, segment, state).state
    assert torch.equal(bits(state["tokens"]), kept)


@pytest.mark.parametrize("build", BUILDS)
def test_the_threshold_counts_outside_training_only(build: type) -> None:
    (segment,) = segments_of([4])
    for threshold, open_when_reading in ((0.1, False), (0.04, True), (0.0, True)):
        model = build(memory_update="gated", gate_threshold=threshold)
        shut(model.cell, 0.05)
        state = state_of(1)
        trained = model.train().cell(model.core, segment, state).state["tokens"]
        read = model.eval().cell(model.core, segment, state).state["tokens"]
        assert not torch.equal(trained, state["tokens"])
        assert torch.equal(read, state["tokens"]) != open_when_reading
        assert not open_when_reading or torch.equal(read, trained)


def test_each_memory_token_has_its_own_gate() -> None:
    model = classifier(memory_update="gated", gate_threshold=0.5).eval()
    (segment,) = segments_of([4])
    state = state_of(1)
    with torch.no_grad():
        model.cell.slot_gate.weight.mul_(1e4)  # far open or shut, by what each sees
        out = model.cell(model.core, segment, state)
        is_open = out.gate_logits[0] > 0
        moved = (out.state["tokens"] != state["tokens"])[0].any(dim=1)
    assert torch.equal(moved, is_open)


@pytest.mark.parametrize("build", BUILDS)
def test_gates_get_gradient_and_say_their_logits(build: type) -> None:
    model = build(memory_update="gated").train()
    segments = segments_of([8, 8])
    state = model.cell.initial(2)
    out = model.cell(model.core, segments[0], state)
    assert out.gate_logits.shape == (2, 3)
    model.cell(model.core, segments[1], out.state).hidden.square().sum().backward()
    for name, parameter in model.cell.named_parameters():
        assert parameter.grad is not None, name
        assert bool((parameter.grad != 0).any()), name


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("build", BUILDS)
def test_memory_stays_float32_whatever_the_backbone_is(build: type, update: str) -> None:
    model = build(memory_update=update).to(torch.bfloat16).eval()
    memory = model(input_ids=content(2, 9)).memory
    assert memory.tensors["tokens"].dtype == torch.float32
    assert bool(memory.tensors["tokens"].isfinite().all())
    assert model.initial_memory(2).tensors["tokens"].dtype == torch.float32


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize(
    ("kind", "inner"), [(RMTForSequenceClassification, bert_config()), (RMTForCausalLM, llama_config())]
)
def test_a_model_built_from_a_configuration_alone_is_fully_initialised(
    kind: type[RMTPreTrainedModel], inner: object, update: str
) -> None:
    config = RMTConfig(
        backbone_config=inner,
        segment_size=4,
        num_memory_tokens=3,
        memory_update=update,
        cls_token_id=1,
        sep_token_id=2,
    )
    torch.manual_seed(3)
    one = dict(kind(config).cell.named_parameters())
    torch.empty(4096).fill_(float("nan"))  # memory that the next model may be handed
    torch.manual_seed(3)
    two = dict(kind(config).cell.named_parameters())
    for name, parameter in one.items():
        assert bool(parameter.isfinite().all()), name
        assert torch.equal(parameter, two[name]), name
        assert float(parameter.detach().abs().max()) < 10, name
    assert float(one["memory"].detach().std()) > 0.01
    if update == "gated":
        assert bool((one["write_scale"] > 0).all())
