"""Every order of layers and segments gives what segment by segment gives: outputs, memory, gradients."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from rmt import stack
from rmt.backbone import FAMILIES
from rmt.cells.associative import AssociativeMemoryCell, Store
from rmt.errors import InputError
from rmt.models.causal_lm import RMTForCausalLM
from rmt.models.sequence_classification import RMTForSequenceClassification
from tests.rmt import families
from tests.rmt.test_associative import awake, close
from tests.rmt.tiny import causal, classifier, content, gradients, ragged

CASES = {"one": [19], "whole": [16, 16, 16, 16], "ragged": [11, 4, 1, 18]}


def made(kind, order, **fields):
    model = awake(kind(memory="associative", order=order, num_memory_tokens=2, associative_key_size=16, **fields))
    model.set_attn_implementation("eager")  # attention that fuses its steps has no batched form on a CPU
    return model


def loss_of(model, ids, mask):
    if isinstance(model, RMTForCausalLM):
        return model(ids, attention_mask=mask, labels=ids)
    return model(input_ids=ids, attention_mask=mask, labels=torch.arange(len(ids)) % 6)


def compare(kind, order, lengths, **fields):
    """Relative gaps of loss, memory and gradients between an order and segment by segment."""
    ids, mask = ragged(lengths)
    outs, grads = [], []
    for each in ("segments", order):
        model = made(kind, each, **fields).train()
        outs.append(loss_of(model, ids, mask))
        outs[-1].loss.backward()
        grads.append(gradients(model))
    gaps = [float((outs[0].loss - outs[1].loss).abs())]
    for expected, got in ((outs[0].memory.tensors, outs[1].memory.tensors), grads):
        assert expected.keys() == got.keys()
        # Gradients that are zero but for rounding, such as that of a key's bias, are held to the size of others.
        least = 0.01 * max(float(t.abs().max()) for t in expected.values())
        gaps += [float((got[k] - t).abs().max() / t.abs().max().clamp(min=least)) for k, t in expected.items()]
    assert grads[0]["cell.query"].abs().max() > 1e-6
    assert outs[0].memory.tensors["associations"].abs().max() > 1e-3
    return max(gaps)


@pytest.mark.parametrize("case", sorted(CASES))
@pytest.mark.parametrize("recurrence", ["plain", "checkpointed"])
@pytest.mark.parametrize("order", ["layers", "wavefront"])
@pytest.mark.parametrize("kind", [causal, classifier])
def test_outputs_memory_and_gradients(kind, order, recurrence, case):
    assert compare(kind, order, CASES[case], recurrence=recurrence) < 1e-5


@pytest.mark.parametrize("order", ["layers", "wavefront"])
def test_truncated_and_gated(order):
    fields = {"bptt_depth": 2, "memory_update": "gated", "gate_penalty": 0.1, "associative_normalize": True}
    assert compare(causal, order, CASES["ragged"], **fields) < 1e-5


@pytest.mark.parametrize("kind", sorted(FAMILIES))
def test_every_family(kind):
    made_by = RMTForSequenceClassification if kind in families.ENCODERS else RMTForCausalLM
    extra = {"cls_token_id": 1, "sep_token_id": 2} if kind in families.ENCODERS else {}
    fields = {"segment_size": 5, "num_memory_tokens": 2, "memory": "associative", "associative_key_size": 8} | extra
    model = awake(made_by.from_backbone(families.build(kind), **fields))
    if kind != "deberta-v2":
        model.set_attn_implementation("eager")
    ids = content(2, 13) % families.VOCAB
    found = {}
    for order in ("segments", "wavefront"):
        model.config.order = order
        with torch.no_grad():
            found[order] = model(input_ids=ids)
    for name, expected in found["segments"].memory.tensors.items():
        assert close(found["wavefront"].memory.tensors[name], expected), name
    assert close(found["wavefront"].logits, found["segments"].logits)


def off_by_one(wrong, patch):
    """Three ways for a diagonal to be off by one."""
    run, cell = stack.Stack.run, AssociativeMemoryCell
    read, write = cell.read, cell.write

    def layer(self, at, hidden, calls):
        """Layers 0 and up on hidden states that are further on."""
        return run(self, slice(0, at.stop - at.start), hidden, calls)

    def memory(self, at, hidden, store):
        """What the layer below holds."""
        return read(self, at, hidden, Store(store.associations.roll(1, 0), store.normalizers.roll(1, 0)))

    def segment(self, at, outputs, before, active):
        """Which rows have ended, of the segment behind."""
        return write(self, at, outputs, before, active.roll(1, 0))

    name = {"layer": (stack.Stack, "run", layer), "memory": (cell, "read", memory), "segment": (cell, "write", segment)}
    patch.setattr(*name[wrong])


@pytest.mark.parametrize("wrong", ["layer", "memory", "segment"])
def test_an_off_by_one_is_noticed(wrong, monkeypatch):
    """A test of the tests: what they compare differs by far more than they allow."""
    ids, mask = ragged(CASES["ragged"])
    expected = made(causal, "segments")(ids, attention_mask=mask).memory.tensors
    model = made(causal, "wavefront")
    right = model(ids, attention_mask=mask).memory.tensors
    off_by_one(wrong, monkeypatch)
    off = model(ids, attention_mask=mask).memory.tensors
    for name, tensor in expected.items():
        assert close(right[name], tensor)
    assert max(float((off[k] - t).abs().max() / t.abs().max()) for k, t in expected.items()) > 1e-3


def test_weights_exist_once_and_can_be_saved_and_trained(tmp_path):
    model = made(causal, "wavefront")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    ids = content(2, 16)
    model(ids)
    whole = stack.stack_of(model.core, model.cell.family).storage["self_attn.q_proj.weight"]
    for number, layer in enumerate(model.core.layers):
        assert layer.self_attn.q_proj.weight.data_ptr() == whole[number].data_ptr()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    again.set_attn_implementation("eager")
    assert close(again(ids).logits, model(ids).logits)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model(ids, labels=ids).loss.backward()
    optimizer.step()
    model.config.order = "segments"
    apart = model(ids).logits
    model.config.order = "wavefront"
    assert close(model(ids).logits, apart), "the stack sees what an optimizer changed in its views"
    assert not torch.allclose(again(ids).logits, apart)


def test_a_stack_is_made_again_where_weights_moved():
    model = made(causal, "wavefront")
    ids = content(1, 12)
    expected = model(ids).logits
    model.core.layers[1].mlp.up_proj.weight.data = model.core.layers[1].mlp.up_proj.weight.data * 2
    changed = model(ids).logits
    assert not torch.allclose(expected, changed)
    model.config.order = "segments"
    assert close(changed, model(ids).logits)


def test_layers_that_differ_are_not_stacked():
    model = made(causal, "segments")
    model.core.layers[1].mlp.up_proj = nn.Linear(32, 48)
    assert "layer 1" in stack.unlike(list(model.core.layers))
    with pytest.raises(InputError, match="layers that are alike"):
        stack.Stack(list(model.core.layers))


def test_layers_set_up_otherwise_or_with_hooks_are_not_stacked():
    """A number in a dictionary, as PEFT keeps the scale of an adapter; a hook, which a batch would not call."""
    model = made(causal, "segments")
    for number, layer in enumerate(model.core.layers):
        layer.mlp.scaling = {"default": 1.0 + number}
    assert "layer 1 is set up otherwise" in stack.unlike(list(model.core.layers))
    model = made(causal, "segments")
    model.core.layers[0].mlp.register_forward_hook(lambda *_: None)
    assert "hooks" in stack.unlike(list(model.core.layers))


class Packed(nn.Parameter):
    """Stands for a weight that holds more than its numbers."""


@pytest.mark.parametrize("recurrence", ["plain", "checkpointed"])
def test_weights_of_a_kind_of_their_own_are_not_stacked(recurrence):
    """As views of a stack they would be bare numbers; 4-bit weights could not be read any more."""
    model = made(causal, "wavefront", recurrence=recurrence)
    for layer in model.core.layers:
        layer.mlp.up_proj.weight = Packed(layer.mlp.up_proj.weight.detach())
    assert "of a kind of their own (Packed)" in stack.unlike(list(model.core.layers))
    with pytest.raises(InputError, match=r"Packed.* run them one by one"):
        stack.Stack(list(model.core.layers))
    ids = content(2, 16)
    loss = model.train()(ids, labels=ids).loss
    loss.backward()
    found = gradients(model) | {"loss": loss.detach()}
    model.zero_grad()
    model.config.order = "segments"
    loss = model(ids, labels=ids).loss
    loss.backward()
    for name, tensor in (gradients(model) | {"loss": loss.detach()}).items():
        assert torch.allclose(found[name], tensor, atol=1e-5), name
    assert all(type(layer.mlp.up_proj.weight) is Packed for layer in model.core.layers)


@pytest.mark.parametrize("order", ["segments", "layers", "wavefront"])
def test_adapters_in_every_order(order):
    """PEFT wraps the cell, and gives layers scales of their own: all orders see both."""
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(
        target_modules=["q_proj", "up_proj"], modules_to_save=["cell"], alpha_pattern={r".*layers\.1\..*": 64}
    )
    ids, found = content(2, 16), []
    for each in ("segments", order):
        torch.manual_seed(0)
        model = get_peft_model(made(causal, each), lora).train()
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(len(name)))
        out = model(input_ids=ids, labels=ids)
        out.loss.backward()
        found.append(gradients(model) | {"loss": out.loss.detach()[None]})
    assert found[0]["base_model.model.cell.modules_to_save.default.value"].abs().max() > 0
    for name, tensor in found[0].items():
        assert torch.allclose(found[1][name], tensor, atol=1e-5), name


def test_training_after_reading_in_inference_mode():
    model = made(causal, "wavefront")
    ids = content(1, 16)
    with torch.inference_mode():
        model(ids)
    model.train()(ids, labels=ids).loss.backward()
    assert model.core.layers[1].self_attn.q_proj.weight.grad.abs().max() > 0


def test_threads_do_not_see_each_other():
    model = made(causal, "wavefront")
    texts = [content(1, 16, seed=n) for n in range(4)]

    def read(ids):
        with torch.inference_mode():
            return model(ids).logits

    expected = [read(ids) for ids in texts]
    with ThreadPoolExecutor(4) as pool:
        for number, got in enumerate(pool.map(read, texts * 6)):
            assert torch.equal(got, expected[number % 4])


def test_segments_beyond_the_depth_run_once():
    """Checkpoints of checkpoints stand only where a gradient comes: what is cut off is run once, without a graph."""
    model = made(classifier, "segments", bptt_depth=2, recurrence="checkpointed").train()
    ran = []
    model.core.encoder.layer[0].register_forward_hook(lambda *_: ran.append(1))
    model(input_ids=content(1, 64), labels=torch.tensor([1])).loss.backward()
    assert len(ran) <= 16 + 2 * 3


def test_backward_finishes_a_layer_before_the_one_below():
    model = made(causal, "layers").train()
    done: list[int] = []
    for number, layer in enumerate(model.core.layers):
        for parameter in layer.parameters():
            parameter.register_post_accumulate_grad_hook(lambda _, number=number: done.append(number))
    ids = content(1, 24)
    model(ids, labels=ids).loss.backward()
    assert done == sorted(done, reverse=True)
    assert set(done) == {0, 1}
    model.config.order = "segments"
    done.clear()
    model(ids, labels=ids).loss.backward()
    assert set(done) == {0, 1}


def test_token_memory_has_one_order():
    with pytest.raises(InputError, match="order='segments' with memory='tokens'"):
        causal(order="wavefront")
