"""Attention functions that users register with transformers: read if they call a kernel, else refused by name."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import transformers
from torch.nn import functional as F  # noqa: N812  # as everybody calls it
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import anylocal_bert
from anylocal.errors import OverlookedWarning, UnsupportedError
from anylocal.testing import perturb

pytestmark = pytest.mark.skipif(
    int(transformers.__version__.partition(".")[0]) < 5, reason="functions cannot be registered for every model"
)

LENGTH = 7
SIZES = {"vocab_size": 99, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 32, "num_hidden_layers": 2}


def hands_on(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **kwargs: Any) -> Any:
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


def through_another(module: Any, *args: Any, **kwargs: Any) -> Any:
    return hands_on(module, *args, **kwargs)


@functools.wraps(sdpa_attention_forward)
def wrapped(*args: Any, **kwargs: Any) -> Any:
    return sdpa_attention_forward(*args, **kwargs)


def own_call(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **kwargs: Any) -> Any:
    output = F.scaled_dot_product_attention(query, key, value, attention_mask, scale=kwargs["scaling"])
    return output.transpose(1, 2).contiguous(), None


def own_softmax(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **kwargs: Any) -> Any:
    scores = query @ key.transpose(2, 3) * kwargs["scaling"]
    if attention_mask is not None:
        scores = scores + attention_mask
    attn_weights = scores.softmax(-1)
    return (attn_weights @ value).transpose(1, 2).contiguous(), None


def without_a_softmax(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **_: Any) -> Any:
    return value.transpose(1, 2).contiguous(), None


def sometimes(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **kwargs: Any) -> Any:
    if module.training:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return value.transpose(1, 2).contiguous(), None


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what registers a function under a name, until the test ends."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    for interface in (ALL_ATTENTION_FUNCTIONS, ALL_MASK_ATTENTION_FUNCTIONS):
        monkeypatch.setattr(type(interface), "_global_mapping", {**interface._global_mapping})

    def register(name: str, function: Any) -> None:
        transformers.AttentionInterface.register(name, function)
        transformers.AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])

    return register


def built(implementation: str) -> Any:
    torch.manual_seed(0)
    config: Any = transformers.LlamaConfig(**SIZES, num_key_value_heads=4)  # type: ignore[arg-type]  # its numbers
    model: Any = transformers.LlamaModel(config)
    model.eval()
    perturb(model, scale=0.1)
    model.set_attn_implementation(implementation)
    return model


def run(model: Any, **options: Any) -> Any:
    ids = torch.arange(3, 3 + 2 * LENGTH).view(2, LENGTH)
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones(2, 1, LENGTH, LENGTH).tril().log(), **options)


@pytest.mark.parametrize("name", ["mine", "sdpa"])
@pytest.mark.parametrize(
    "function",
    [hands_on, through_another, wrapped, own_call, own_softmax, functools.partial(sdpa_attention_forward)],
    ids=lambda function: getattr(function, "__name__", "partial"),
)
def test_what_calls_a_kernel_is_read(register: Any, name: str, function: Any) -> None:
    """Each layer has one map, whether the function calls a kernel, one that does, or makes the softmax itself."""
    wanted = run(built("eager"), output_attentions=True).attentions
    register(name, function)
    model = built(name)
    with anylocal_bert.capture_attention(model) as maps:
        run(model)
    assert [attention.name for attention in maps] == ["layers.0.self_attn", "layers.1.self_attn"]
    for attention, reference in zip(maps, wanted, strict=True):
        assert reference.std() > 0.04
        torch.testing.assert_close(attention.tensor(), reference, rtol=0, atol=2e-6)


def test_what_calls_none_is_refused_by_name(register: Any) -> None:
    """It is told before the model runs, with what would be read."""
    register("mine", without_a_softmax)
    with pytest.raises(UnsupportedError, match="LlamaModel cannot be captured: it runs 'mine' attention"):
        anylocal_bert.capture_attention(built("mine"))


def test_what_calls_one_in_another_branch_is_told(register: Any) -> None:
    """Its layers are named at the end of the block."""
    register("mine", sometimes)
    model = built("mine")
    with (
        pytest.warns(OverlookedWarning, match=r"No attention map for 'layers\.0\.self_attn', 'layers\.1\.self_attn'"),
        anylocal_bert.capture_attention(model) as maps,
    ):
        run(model)
    assert len(maps) == 0
    assert set(maps.unsupported) == {"layers.0.self_attn", "layers.1.self_attn"}


# After the model was captured


@pytest.fixture
def captured() -> Any:
    """Give a model that was captured with sdpa."""
    model = built("sdpa")
    with anylocal_bert.capture_attention(model):
        run(model)
    return model


def test_an_implementation_that_is_set_later_is_refused(register: Any, captured: Any) -> None:
    """What is known of the model does not hide it."""
    register("mine", without_a_softmax)
    captured.set_attn_implementation("mine")
    with pytest.raises(UnsupportedError, match="it runs 'mine' attention"):
        anylocal_bert.capture_attention(captured)


def test_an_implementation_that_is_set_later_is_read(register: Any, captured: Any) -> None:
    """Its map is the softmax that it makes."""
    register("mine", own_softmax)
    captured.set_attn_implementation("mine")
    with anylocal_bert.capture_attention(captured) as maps:
        run(captured)
    assert [attention.fused for attention in maps] == [False, False]


def test_a_function_that_is_registered_later_is_read(register: Any, captured: Any) -> None:
    """Under the name of the one before."""
    register("sdpa", own_softmax)
    with anylocal_bert.capture_attention(captured) as maps:
        run(captured)
    assert [attention.fused for attention in maps] == [False, False]


def test_a_function_whose_code_is_replaced_later_is_read(register: Any) -> None:
    """No module of the model has it."""

    def mine(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **kwargs: Any) -> Any:
        output = F.scaled_dot_product_attention(query, key, value, attention_mask, scale=kwargs["scaling"])
        return output.transpose(1, 2).contiguous(), None

    register("mine", mine)
    model = built("mine")
    with anylocal_bert.capture_attention(model):
        run(model)
    mine.__code__ = without_a_softmax.__code__
    with pytest.raises(UnsupportedError, match="it runs 'mine' attention"):
        anylocal_bert.capture_attention(model)
