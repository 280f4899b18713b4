"""A backbone taken apart and put together again gives what it gave, and is left as it was."""

from __future__ import annotations

import pytest
import torch

from rmt import layers
from rmt.backbone import CACHE, FAMILIES, base_model
from tests.rmt import families


def inputs(core, mask):
    torch.manual_seed(0)
    vectors = torch.randn(2, 9, core.config.hidden_size)
    given = {"inputs_embeds": vectors, "attention_mask": mask}
    if FAMILIES[core.config.model_type].layout == "decoder":
        given["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return given


@pytest.mark.parametrize("kind", sorted(FAMILIES))
@pytest.mark.parametrize("whole", [True, False])
def test_the_parts_make_the_whole(kind, whole):
    core, family = base_model(families.build(kind)), FAMILIES[kind]
    mask = torch.ones(2, 9, dtype=torch.long)
    if not whole:
        mask[1, 5:] = 0
    given = inputs(core, mask)
    expected = core(**given).last_hidden_state
    before = [id(m) for m in core.modules()]
    plan = layers.plan(core, family, **given)
    hidden = plan.hidden
    for layer, call in zip(layers.layers_of(core, family), plan.calls, strict=True):
        hidden = layers.run(layer, hidden, call)
    got = layers.finish(core, family, hidden)
    assert torch.equal(got[mask.bool()], expected[mask.bool()])
    assert [id(m) for m in core.modules()] == before
    assert torch.equal(core(**given).last_hidden_state, expected)


def test_a_cache_is_handed_to_every_layer():
    from transformers import DynamicCache

    core, family = base_model(families.build("llama")), FAMILIES["llama"]
    keys = DynamicCache()
    plan = layers.plan(
        core, family, **inputs(core, torch.ones(2, 9, dtype=torch.long)), **{CACHE: keys}, use_cache=True
    )
    assert len(plan.calls) == 2
    assert all(keys in call.kwargs.values() for call in plan.calls)
