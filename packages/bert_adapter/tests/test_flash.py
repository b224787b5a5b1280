"""Maps of models that run flash attention: those of their eager path in float64.

No build of flash-attn runs on a CPU. A module of the same signatures stands in for it, which computes in float64, and
transformers is told that it is there.
"""

from __future__ import annotations

import itertools
import sys
import types
from typing import Any

import pytest
import torch
import transformers
from transformers import modeling_flash_attention_utils as utils
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel

import anylocal_bert
from anylocal.errors import UnsupportedError
from anylocal.testing import flash_attn_stand_in, perturb
from anylocal_bert._flash import IS_READ

from .caching import with_cache

pytestmark = pytest.mark.skipif(not IS_READ, reason="these transformers call flash attention in another way")

LENGTH = 11
SIZES: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
GROUPED = {"num_key_value_heads": 2, "head_dim": 16}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "Bert": ("Bert", {}),
    "Llama": ("Llama", GROUPED),
    "soft cap": ("Gemma2", GROUPED | {"attn_logit_softcapping": 1.0, "sliding_window": 4}),
    "window": ("Mistral", GROUPED | {"sliding_window": 4}),
    "latent": (
        "DeepseekV3",
        {"num_key_value_heads": 4, "kv_lora_rank": 16, "q_lora_rank": 24, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16}
        | {"v_head_dim": 12, "first_k_dense_replace": 2},
    ),
    "window on both sides": (
        "ModernBert",
        {"local_attention": 4, "global_attn_every_n_layers": 2}
        | dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0),
    ),
    "sinks": (
        "GptOss",
        GROUPED
        | {
            "sliding_window": 4,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        }
        | {"layer_types": ["sliding_attention", "full_attention"]},
    ),
}


@pytest.fixture(autouse=True)
def flash(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Put the stand-in where transformers looks for flash-attn, and let no test see what another one loaded."""
    module = flash_attn_stand_in()
    padding = types.ModuleType("flash_attn.bert_padding")
    padding.pad_input, padding.unpad_input = utils._pad_input, utils._unpad_input  # type: ignore[attr-defined]
    for name, value in {
        "flash_attn": module,
        "flash_attn.bert_padding": padding,
        "flash_attn_interface": flash_attn_stand_in("flash_attn_interface"),
    }.items():
        monkeypatch.setitem(sys.modules, name, value)
    monkeypatch.setattr(utils, "is_flash_attn_2_available", lambda *_, **__: True)
    monkeypatch.setattr(PreTrainedModel, "_flash_attn_can_dispatch", lambda *_, **__: True)
    for name in [name for name in vars(utils) if name.endswith("_fn")]:
        monkeypatch.setattr(utils, name, None)
    monkeypatch.setattr(utils, "_loaded_implementation", None)
    return module


def built(name: str) -> Any:
    family, options = MODELS[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SIZES | options)
    model = getattr(transformers, f"{family}Model")(config).eval()
    perturb(model, scale=0.1)
    if family == "GptOss":
        # Its other implementation has no float64.
        model.set_experts_implementation("eager")
    return model


def drawn(length: int = LENGTH) -> Any:
    return torch.randint(3, SIZES["vocab_size"], (2, length))


def run(model: Any, ids: Any, **given: Any) -> Any:
    with torch.no_grad():
        return model(input_ids=ids, **given)


def eager(model: Any, ids: Any, **given: Any) -> Any:
    """Return the maps of the eager path in float64."""
    model.set_attn_implementation("eager")
    found = run(model.double(), ids, output_attentions=True, **given).attentions
    model.float()
    assert all(reference.nan_to_num().std() > 0.04 for reference in found)  # far from uniform
    return found


def read(model: Any, ids: Any, implementation: str = "flash_attention_2", **given: Any) -> Any:
    """Return the maps of a run whose output has the same bits as one without a capture."""
    model.set_attn_implementation(implementation)
    before = run(model, ids, **given)[0]
    with anylocal_bert.capture_attention(model) as maps:
        assert torch.equal(run(model, ids, **given)[0], before)
    assert all(attention.fused for attention in maps)
    return maps


def differences(maps: Any, wanted: Any) -> Any:
    return torch.stack([(a.tensor().double() - w).abs() for a, w in zip(maps, wanted, strict=True)])


@pytest.fixture
def of_the_hub(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Let every kernel of the hub be a stand-in."""
    from transformers import modeling_utils
    from transformers.integrations import hub_kernels
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    kernel = flash_attn_stand_in("of_the_hub")
    monkeypatch.setattr(hub_kernels, "get_kernel", lambda *_, **__: kernel)
    for module in (hub_kernels, modeling_utils):
        monkeypatch.setattr(module, "is_kernels_available", lambda *_, **__: True)
    monkeypatch.setattr(utils, "is_flash_attn_2_available", lambda *_, **__: False)
    interfaces = ALL_ATTENTION_FUNCTIONS, ALL_MASK_ATTENTION_FUNCTIONS
    for interface in interfaces:
        monkeypatch.setattr(type(interface), "_global_mapping", {**interface._global_mapping})
    return kernel


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", [name for name in MODELS if name != "sinks"])
def test_models(name: str, padded: bool) -> None:
    """Maps are exact for soft caps, windows, sinks and grouped heads; what was unpadded is in its place again."""
    model, ids = built(name), drawn()
    mask = torch.ones_like(ids)
    if padded:
        mask[0, -3:] = 0
    wanted = eager(model, ids, attention_mask=mask)
    maps = read(model, ids, attention_mask=mask)
    made = differences(maps, wanted).transpose(2, 3)[:, mask.bool()]
    assert made.max() < 2e-6
    assert all(type(attention.keys).__name__ == "Tokens" for attention in maps)
    # The kernel never sees padding.
    assert not padded or not any(attention[0, :, :, -3:].any() or attention[0, :, -3:].any() for attention in maps)


def test_padding_anywhere() -> None:
    """Tokens that are left out between others count as no distance."""
    model, ids = built("window"), drawn()
    mask = torch.ones_like(ids)
    mask[0, [0, 4, 5]] = 0
    maps = read(model, ids, attention_mask=mask)
    kept = mask[0].bool()
    wanted = eager(model, ids[:1, kept], position_ids=torch.arange(LENGTH)[None, kept])
    found = [attention.tensor().double()[:1, :, kept][..., kept] for attention in maps]
    assert max((a - w).abs().max() for a, w in zip(found, wanted, strict=True)) < 2e-6


@pytest.mark.parametrize("steps", [(8, 1, 1), (8, 3)], ids=str)
def test_a_cache(steps: tuple[int, ...]) -> None:
    """Queries of later forward passes are aligned with the last keys, and padding on the left is left out."""
    model, ids = built("Llama"), drawn(sum(steps))
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    # Eager attention makes rows without any key NaN, so each text is run by itself.
    wanted = [eager(model, ids[:1, 2:]), eager(model, ids[1:])]
    model.set_attn_implementation("flash_attention_2")
    cache, done = transformers.DynamicCache(config=model.config), 0
    with anylocal_bert.capture_attention(model) as maps:
        for step in steps:
            done += step
            now = slice(done - step, done)
            given = {"attention_mask": mask[:, :done], "position_ids": places[:, now]}
            run(model, ids[:, now], **with_cache(cache), **given)
    done = 0
    for step, forward in zip(steps, maps.forwards, strict=True):
        done += step
        for sample, padding in enumerate((2, 0)):
            rows = slice(max(done - step - padding, 0), done - padding)
            for found, reference in zip(forward, wanted[sample], strict=True):
                weights = found[sample].double()
                assert found.shape == (2, 4, step, done)
                assert not weights[..., :padding].any()
                kept = weights[:, step - (rows.stop - rows.start) :, padding:]
                torch.testing.assert_close(kept, reference[0, :, rows, : rows.stop], rtol=0, atol=2e-6)


def test_a_step_that_is_padding(flash: Any) -> None:
    """A single query takes part even where the mask leaves its own key out."""
    model, ids = built("Llama"), drawn(5)
    mask = torch.ones_like(ids)
    mask[0, -1] = 0
    model.set_attn_implementation("flash_attention_2")
    cache = transformers.DynamicCache(config=model.config)
    run(model, ids[:, :4], **with_cache(cache))
    with anylocal_bert.capture_attention(model) as maps:
        run(model, ids[:, 4:], attention_mask=mask, **with_cache(cache))
    for attention, (first, second) in zip(maps, flash.maps[-2:], strict=True):
        wanted = torch.stack([torch.nn.functional.pad(first, (0, 1)), second])
        torch.testing.assert_close(attention.tensor().double(), wanted, rtol=0, atol=2e-6)


PACKED = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 0, 1, 2, 3]])


def in_blocks(parts: list[Any]) -> list[Any]:
    """Return the maps of sequences as one map a layer."""
    layers = zip(*parts, strict=True)
    return [
        torch.stack([torch.block_diag(*heads) for heads in zip(*(p[0] for p in layer), strict=True)])[None]
        for layer in layers
    ]


@pytest.mark.parametrize("bounds", [False, True])
def test_packed_sequences(bounds: bool) -> None:
    """Positions that begin again, or bounds that are given, are sequences, and nothing crosses."""
    model, ids = built("window"), drawn()[:1]
    starts = [0, 5, 7, LENGTH]
    parts = [ids[:, a:b] for a, b in itertools.pairwise(starts)]
    wanted = in_blocks([eager_of(model, part) for part in parts])
    given: dict[str, Any] = {"position_ids": PACKED}
    if bounds:
        cu_seqlens = torch.tensor(starts, dtype=torch.int32)
        given |= {"cu_seq_lens_q": cu_seqlens, "cu_seq_lens_k": cu_seqlens, "max_length_q": 5, "max_length_k": 5}
    maps = read(model, ids, **given)
    assert differences(maps, wanted).max() < 2e-6


def eager_of(model: Any, ids: Any) -> Any:
    model.set_attn_implementation("eager")
    found = run(model.double(), ids, output_attentions=True).attentions
    model.float()
    return found


def test_another_version() -> None:
    """Version 3 is another module, and read in the same way."""
    model, ids = built("soft cap"), drawn()
    wanted = eager(model, ids)
    assert differences(read(model, ids, "flash_attention_3"), wanted).max() < 2e-6
    assert sys.modules["flash_attn_interface"].maps


@pytest.mark.parametrize("name", ["window", "sinks"])
def test_a_kernel_of_the_hub(of_the_hub: Any, name: str) -> None:
    """A kernel of the hub has a module of its own, and is called by the same function; GPT-OSS allows no other."""
    model, ids = built(name), drawn()
    mask = torch.ones_like(ids)
    mask[0, -3:] = 0
    wanted = eager(model, ids, attention_mask=mask)
    maps = read(model, ids, HUB[name], attention_mask=mask)
    assert differences(maps, wanted).transpose(2, 3)[:, mask.bool()].max() < 2e-6
    assert of_the_hub.maps
    if name == "sinks":
        assert maps[0][1].sum(-1).max() < 0.999


HUB = {"window": "kernels-community/flash-attn2", "sinks": "kernels-community/vllm-flash-attn3"}


def test_a_kernel_without_windows(flash: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel does not support is left out, so the map has no window either."""

    def flash_attn_varlen_func(  # noqa: PLR0917  # the kernel's own signature
        q: Any,
        k: Any,
        v: Any,
        cu_seqlens_q: Any,
        cu_seqlens_k: Any,
        max_seqlen_q: Any,
        max_seqlen_k: Any,
        softmax_scale: Any = None,
        causal: bool = False,
    ) -> Any:
        raise NotImplementedError

    monkeypatch.setattr(flash, "flash_attn_varlen_func", flash_attn_varlen_func)
    model, ids = built("window"), drawn()
    found = read(model, ids)
    assert differences(found, [torch.stack(each) for each in flash.maps[-2:]]).max() < 2e-6
    assert found[0][0, 0, -1].min() > 0


def test_pages_are_refused() -> None:
    """The keys of a cache in pages are not among the operands, so its map is refused by name."""
    model, ids = built("Llama"), drawn()
    model.set_attn_implementation("flash_attention_2")
    pages: Any = {"block_table": torch.zeros(2, 1)}
    with anylocal_bert.capture_attention(model) as maps:
        run(model, ids, **pages)
    with pytest.raises(UnsupportedError, match="flash_attn was called with an argument that is not known: block_table"):
        len(maps)
