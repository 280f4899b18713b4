"""BERT's layers written out give what Hugging Face's give, and other layers are left alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from rmt import RMTForSequenceClassification, reference
from rmt.executors import Sequential, for_reading, scripted, writer
from rmt.executors.lean import LARGEST, Layer, LeanEncoder, Product, suits
from rmt.executors.scripted import attend, padded
from rmt.executors.side_by_side import Dropped, Work
from tests.rmt.families import SPECIAL, VOCAB, build
from tests.rmt.tiny import causal, classifier, content


@pytest.fixture(autouse=True)
def without_gradient():
    with torch.inference_mode():
        yield


def encoder(kind="bert", **options):
    model = RMTForSequenceClassification.from_backbone(
        build(kind, **options), segment_size=7, num_memory_tokens=3, memory_update="gated", **SPECIAL
    ).eval()
    torch.manual_seed(5)
    for parameter in model.backbone.parameters():  # biases and norms too, which start at zero and one
        nn.init.normal_(parameter, std=0.3)
    return model.requires_grad_(False)


def relative(got, expected):
    return float((got - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize(("batch", "width"), [(1, 5), (1, 32), (3, 16), (4, 11)])
def test_layers_are_those_of_hugging_face(kind, batch, width):
    model = encoder(kind)
    x = torch.randn(batch, width, model.config.hidden_size)
    for layer in model.core.encoder.layer:
        expected = layer(x)
        for whole in (False, True):
            for rows in (width, 4):
                out, total = Layer(layer)(padded(x), batch, width, rows, whole)
                got = out[: batch * rows].view(batch, rows, -1)
                assert relative(got, expected[:, :rows]) < 1e-5
                assert bool((total >= 0.999).all())
        x = expected


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_an_encoder_gives_the_first_hidden_states(kind):
    model = encoder(kind)
    lean = writer(model).core
    assert isinstance(lean, LeanEncoder)
    x = torch.randn(2, 14, model.config.hidden_size)
    expected = model.core(inputs_embeds=x).last_hidden_state[:, :4]
    assert relative(lean(inputs_embeds=x).last_hidden_state, expected) < 1e-5
    mask = torch.ones(2, 14, dtype=torch.long)
    assert relative(lean(inputs_embeds=x, attention_mask=mask).last_hidden_state, expected) < 1e-5
    mask[1, 9:] = 0
    other = model.core(inputs_embeds=x, attention_mask=mask).last_hidden_state[:, :4]
    assert relative(lean(inputs_embeds=x, attention_mask=mask).last_hidden_state, other) < 1e-5
    assert relative(other, expected) > 1e-3, "the mask changed nothing, so nothing was shown"


def test_against_the_reference():
    model, ids = encoder(), content(1, 45) % VOCAB
    with torch.inference_mode():
        state = Sequential().read(writer(model), model.segments(ids, None), dict(model.initial_memory(1).tensors))
    expected = reference.read(reference.as_reference(model), ids[0].tolist())
    assert float(expected.abs().max()) > 0
    assert relative(state["tokens"][0], expected) < 1e-5


def test_bits_repeat():
    lean = writer(for_reading(encoder(), "bfloat16")).core
    x = torch.randn(1, 14, 16).bfloat16()
    one, two = (lean(inputs_embeds=x).last_hidden_state for _ in range(2))
    assert torch.equal(one, two)


def test_bfloat16_is_as_near_as_hugging_faces():
    model = encoder()
    x = torch.randn(2, 40, 16)
    exact = model.core(inputs_embeds=x).last_hidden_state[:, :4]
    low = for_reading(model, "bfloat16")
    theirs = low.core(inputs_embeds=x.bfloat16()).last_hidden_state[:, :4].float()
    ours = writer(low).core(inputs_embeds=x.bfloat16()).last_hidden_state.float()
    assert (ours - exact).square().mean() < 1.5 * (theirs - exact).square().mean()


def test_scores_that_overflow_are_seen():
    """Another key's score is far above that of a position's own: the sum overflows, and all is done again."""
    q, k, v = torch.zeros(1, 4, 2), torch.zeros(1, 4, 2), torch.randn(1, 4, 2)
    q[0, 0, 0], k[0, 3, 0] = 20.0, 10.0
    _, total = attend(q, k, v, whole=False)
    assert not bool(total.amax() < LARGEST)
    got, total = attend(q, k, v, whole=True)
    torch.testing.assert_close(got[0, 0], v[0, 3])
    assert bool(total.amax() < LARGEST)

    model = encoder()
    own = model.core.encoder.layer[0].attention.self
    for linear in (own.query, own.key):
        linear.weight.data *= 60
    lean, calls = writer(model).core, []
    run = lean._run
    lean._run = lambda x, whole: calls.append(whole) or run(x, whole)
    x = torch.randn(1, 14, 16)
    got = lean(inputs_embeds=x).last_hidden_state
    assert calls == [False, True]
    assert relative(got, model.core(inputs_embeds=x).last_hidden_state[:, :4]) < 1e-4


def test_gradients_go_through_hugging_faces_layers():
    with torch.inference_mode(False):
        model = encoder()
        x = torch.randn(1, 14, 16, requires_grad=True)
        expected = torch.autograd.grad(model.core(inputs_embeds=x).last_hidden_state[:, :4].sum(), x)[0]
        got = torch.autograd.grad(writer(model).core(inputs_embeds=x).last_hidden_state.sum(), x)[0]
    assert relative(got, expected) < 1e-4


def test_what_is_no_number_stays_none():
    lean = writer(encoder()).core
    x = torch.randn(1, 14, 16)
    x[0, 3] = float("nan")
    assert bool(lean(inputs_embeds=x).last_hidden_state.isnan().all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_without_onednn_is_the_same(monkeypatch, dtype):
    linears = [nn.Linear(32, 48).to(dtype).requires_grad_(False) for _ in range(2)]
    x, plus = torch.randn(16, 32).to(dtype), torch.randn(16, 96).to(dtype)
    fast = Product(*linears, scale=0.5)
    monkeypatch.setattr("rmt.executors.lean._packs", lambda _: False)
    plain = Product(*linears, scale=0.5)
    assert not plain.packed
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for args in ((x,), (x, plus)):
        assert relative(fast(*args).float(), plain(*args).float()) < tolerance
    expected = torch.cat([0.5 * linears[0](x).float(), linears[1](x).float()], dim=1)
    assert relative(plain(x).float(), expected) < tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_gives_the_same_bits_with_and_without_python(monkeypatch, dtype):
    assert isinstance(scripted.fast_layer(), torch.jit.ScriptFunction)
    lean, x = writer(for_reading(encoder(), dtype)).core, torch.randn(2, 14, 16, dtype=dtype)
    monkeypatch.setattr(scripted, "fast_layer", lambda: scripted.layer)
    eager = writer(for_reading(encoder(), dtype)).core
    assert (type(lean.layers[0]._run), eager.layers[0]._run) == (torch.jit.ScriptFunction, scripted.layer)
    with torch.inference_mode():
        fast, plain = ([by._run(x, whole) for whole in (False, True) for _ in range(3)] for by in (lean, eager))
    for (one, most), (two, same) in zip(fast, plain, strict=True):
        assert torch.equal(one, two)
        assert most == same


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_words_get_the_places_that_hugging_face_gives_them(kind):
    lean, x = writer(encoder(kind)).core, torch.randn(2, 14, 16)
    with torch.inference_mode():
        assert torch.equal(lean._embed(x), lean.view.embeddings(inputs_embeds=x))
        lean.view.embeddings.LayerNorm.weight.mul_(2)
        assert torch.equal(lean._embed(x), lean.view.embeddings(inputs_embeds=x))


def test_without_torchscript_a_layer_is_python(monkeypatch):
    def gone(*_):
        raise OSError

    monkeypatch.setattr(torch.jit, "script", gone)
    assert scripted.fast_layer.__wrapped__() is scripted.layer


def test_a_dropped_segment_ends_between_layers():
    lean, seen, work = writer(encoder()).core, [], Work()

    def noted(number, layer):
        def run(*args):
            seen.append(number)
            work.dropped = True
            return layer(*args)

        return run

    lean.layers = [noted(*pair) for pair in enumerate(lean.layers, 1)]
    with work, torch.inference_mode(), pytest.raises(Dropped):
        lean(inputs_embeds=torch.randn(1, 14, 16))
    assert seen == [1]


def test_layers_that_were_changed_are_left_alone():
    class Adapted(nn.Linear):
        pass

    model = encoder()
    assert suits(model.core, "encoder.layer")
    changed = copy.deepcopy(model)
    changed.core.encoder.layer[1].output.dense.__class__ = Adapted
    assert not suits(changed.core, "encoder.layer")
    assert not isinstance(writer(changed).core, LeanEncoder)
    silu = copy.deepcopy(model)
    silu.core.encoder.layer[0].intermediate.intermediate_act_fn = nn.SiLU()
    assert not suits(silu.core, "encoder.layer")
    for norm in (type("Own", (nn.LayerNorm,), {})(16), nn.LayerNorm(16, bias=False), nn.Identity()):
        other = copy.deepcopy(model)
        other.core.encoder.layer[1].output.LayerNorm = norm
        assert not suits(other.core, "encoder.layer")
    tanh = copy.deepcopy(model)
    tanh.core.encoder.layer[0].intermediate.intermediate_act_fn = nn.GELU(approximate="tanh")
    assert not suits(tanh.core, "encoder.layer")
    hooked = copy.deepcopy(model)
    hooked.core.encoder.layer[1].output.dense.register_forward_hook(lambda *_: None)
    assert not suits(hooked.core, "encoder.layer")
    assert not suits(copy.deepcopy(model.core).half(), "encoder.layer")
    assert not suits(copy.deepcopy(model.core).to("meta"), "encoder.layer")
    assert writer(causal().eval()).core is not None
    assert isinstance(writer(classifier().eval()).core, LeanEncoder)
