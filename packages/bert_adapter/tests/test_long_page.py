"""The page of a decoder's long text, in a real browser: grouped heads, causal, in a sliding window, and padded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers
from transformers import LlamaConfig, LlamaModel, MistralConfig, MistralModel
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from anylocal.testing import browser, perturb
from anylocal_bert import capture_attention, explore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser

LENGTH, WINDOW, PADDING = 8192, 1000, 300
HEADS, GROUPS = 4, 2
QUERIES = [0, 10, PADDING, WINDOW + PADDING - 1, 5000, LENGTH - 1]
SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": HEADS,
    "num_key_value_heads": GROUPS,
    "vocab_size": 99,
    "max_position_embeddings": LENGTH,
}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


def exact_rows(model: Any, ids: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Return some rows of the first layer in float64, (head, query', key), from the model's own projections."""
    double = model.double()
    layer = double.layers[0]
    hidden = layer.input_layernorm(double.embed_tokens(ids))
    attention = layer.self_attn
    q, k = (
        project(hidden).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        for project in (attention.q_proj, attention.k_proj)
    )
    q, k = apply_rotary_pos_emb(q, k, *double.rotary_emb(hidden, torch.arange(LENGTH)[None]))
    k = k[0].repeat_interleave(HEADS // GROUPS, 0)
    scores = (q[0, :, QUERIES] @ k.mT * attention.scaling).masked_fill(~seen, -torch.inf)
    rows: torch.Tensor = scores.softmax(-1)
    return rows


@pytest.mark.parametrize("kind", ["causal", "sliding", "padded", "sliding, padded"])
def test_rows_of_a_text_of_8192_tokens(kind: str, chromium: Browser, tmp_path: Path) -> None:
    """Read by a script, they are those of a softmax in float64, within the stated error; key heads are kept once."""
    model: Any = (
        MistralModel(MistralConfig(**SHAPE, sliding_window=WINDOW))
        if "sliding" in kind
        else LlamaModel(LlamaConfig(**SHAPE))
    )
    if "padded" in kind and not hasattr(transformers.cache_utils, "StaticLayer"):
        pytest.skip("the masks of this transformers let padding look at everything, which is no span of keys")
    # Or the maps would be nearly uniform.
    perturb(model, scale=0.25).eval()
    ids = torch.randint(0, 99, (1, LENGTH), generator=torch.Generator().manual_seed(0))
    places, asked = torch.arange(LENGTH), torch.tensor(QUERIES)[:, None]
    seen = places <= asked
    mask = torch.ones(1, LENGTH, dtype=torch.long)
    if "sliding" in kind:
        seen &= asked - places < WINDOW
    if "padded" in kind:
        seen &= places >= PADDING
        mask[:, :PADDING] = 0
    with capture_attention(model) as maps, torch.no_grad():
        model(ids, attention_mask=mask, use_cache=False)
    page = explore(maps)
    tab = chromium.new_page()
    tab.goto(page.save(tmp_path / "page.html").as_uri())
    tab.wait_for_selector("html[data-drawn]", timeout=120_000)
    made = tab.evaluate(
        "([heads, queries]) => Promise.all(heads.map(head => Promise.all(queries.map(query =>"
        " anylocal.row({head, query}).then(row => Array.from(row))))))",
        [list(range(HEADS)), QUERIES],
    )
    form = tab.evaluate("JSON.parse(document.getElementById('data').textContent).layers[0].operands")
    assert form["groups"] == GROUPS
    tab.close()
    with torch.no_grad():
        exact = exact_rows(model, ids, seen)
    # What a row of padding is, is the library's choice.
    real = seen.any(-1)
    off = (torch.tensor(made, dtype=torch.float64) - exact)[:, real].abs()
    most = exact[:, real].amax(-1, keepdim=True)
    assert most.max() > 50 / LENGTH
    assert off.max() <= page.error
    assert (off <= 0.01 * most).all()
