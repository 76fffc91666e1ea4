from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention

from sdwebui_api.engine.engine import Engine
from sdwebui_api.engine.upcasting import upcast_attention
from sdwebui_api.generation.run import RequestModel
from tests.engine.conftest import MODELS, checkpoints, flags_of


def test_attention_is_float32_inside_and_as_before_outside():
    queries, keys, values = torch.randn(3, 1, 2, 8, 16).bfloat16().unbind(0)
    exact = scaled_dot_product_attention(queries.float(), keys.float(), values.float()).bfloat16()
    plain = scaled_dot_product_attention(queries, keys, values)
    with upcast_attention(True, torch.bfloat16):
        upcast = scaled_dot_product_attention(queries, keys, value=values)
    with upcast_attention(False, torch.bfloat16):
        untouched = scaled_dot_product_attention(queries, keys, values)
    assert upcast.dtype == torch.bfloat16 and torch.equal(upcast, exact)
    assert torch.equal(untouched, plain) and not torch.equal(plain, exact)


def test_a_request_asks_for_it(golden_paths):
    """Through batcher and UNet: the option changes what a network in half precision computes, and only there."""
    flags = flags_of(MODELS)
    engine = Engine(flags, golden_paths)
    precise = engine.plan
    for dtype, changes in ((torch.float32, False), (torch.bfloat16, True)):
        object.__setattr__(precise, "unet_dtype", dtype)
        with engine.lease(checkpoints(golden_paths)[0]) as model:
            x, t = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1)), torch.tensor([500.0])
            context = torch.randn(1, 77, model.text_encoder.width, generator=torch.Generator().manual_seed(2)) * 20
            plain, upcast = (RequestModel(model, False, wanted).evaluate(x, t, context) for wanted in (False, True))
        assert torch.equal(plain, upcast) is not changes
