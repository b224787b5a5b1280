"""Long maps in the page: query and key, from which it computes rows; here by node, beside a softmax in float64."""

from __future__ import annotations

import base64
import gzip
import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from anylocal._page import computed
from anylocal.attention import AttentionMap, Patches
from anylocal.view import Page, explore

from .node import in_node

if TYPE_CHECKING:
    from pathlib import Path

LENGTH, FEATURES = 70, 8
"""More than eight times as long as a head is wide."""

READ = """
import { unpack } from "./bytes.js";
import { computed } from "./rows.js";
const { shape, operands } = given.layer;
const maps = computed(await unpack(given.text), shape, operands);
const [samples, windows, heads, rows, columns] = shape;
const lines = { [rows]: new Float32Array(rows), [columns]: new Float32Array(columns) };
const filled = (length, fill) => {
  fill(lines[length]);
  return [...lines[length]];
};
const made = Array.from({ length: samples * windows * heads }, (_, block) => ({
  rows: Array.from({ length: rows }, (_, query) => filled(columns, (row) => maps.row(block, query, row))),
  columns: Array.from({ length: columns }, (_, key) => filled(rows, (column) => maps.column(block, key, column))),
}));
"""


def layers(page: Page) -> Any:
    found = re.search(r'id="data">(.*?)</script>', page.html, re.DOTALL)
    assert found
    return json.loads(found[1])["layers"]


def text(page: Page, name: str = "layer-0") -> str:
    found = re.search(rf'id="{name}">(.*?)</script>', page.html)
    assert found
    return found[1]


def operands(
    heads: int = 2, groups: int = 2, batch: int = 1, queries: int = LENGTH, spread: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    q = spread * torch.randn(batch, heads, queries, FEATURES, generator=generator)
    k = spread * torch.randn(batch, groups, LENGTH, FEATURES, generator=generator)
    # As in trained models: what all queries, or all keys, have in common is larger than what they differ in.
    return q + 3, k - 2


def softmax(q: torch.Tensor, k: torch.Tensor, added: torch.Tensor | float = 0.0) -> torch.Tensor:
    """Return the map in float64, 0 in rows without a key."""
    k = k.double().repeat_interleave(q.shape[1] // k.shape[1], 1)
    scores: torch.Tensor = q.double() @ k.mT / FEATURES**0.5 + added
    return scores.softmax(-1).nan_to_num(0.0)


def hidden(seen: torch.Tensor) -> torch.Tensor:
    return torch.zeros(seen.shape, dtype=torch.float64).masked_fill(~seen, -torch.inf)


def read(page: Page, folder: Path) -> torch.Tensor:
    (layer,) = layers(page)
    assert layer["operands"]
    made = in_node(folder, READ, {"layer": layer, "text": text(page)})
    heads: int = layer["shape"][2]
    return torch.tensor([each["rows"] for each in made], dtype=torch.float64).reshape(-1, heads, *layer["shape"][3:])


PLACES = torch.arange(LENGTH)
CAUSAL = PLACES[:, None] >= PLACES
SLIDING = CAUSAL & (PLACES[:, None] - PLACES < 9)
AROUND = (PLACES[:, None] - PLACES).abs() < 5
PADDING = (PLACES < 60)[None, None, None]
LEFT = ((PLACES >= 10) & CAUSAL)[None, None]
BLOCKS = PLACES[:, None] // 20 == PLACES // 20
OF_KEYS = torch.linspace(-3, 0, LENGTH) * torch.tensor([1.0, 0.25])[:, None]

MASKS: dict[str, tuple[torch.Tensor | None, torch.Tensor | float]] = {
    "none": (None, 0.0),
    "causal mask": (CAUSAL, hidden(CAUSAL)),
    "sliding window": (SLIDING, hidden(SLIDING)),
    "both sides": (AROUND, hidden(AROUND)),
    "padding": (PADDING, hidden(PADDING)),
    "causal, padded on the left": (LEFT, hidden(LEFT)),
    "packed texts": (BLOCKS, hidden(BLOCKS)),
    "added, infinite": (hidden(LEFT).float(), hidden(LEFT)),
    "added, very negative": (torch.finfo(torch.float32).min * (~SLIDING).float(), hidden(SLIDING)),
    "bias of keys": (OF_KEYS[None, :, None], OF_KEYS[None, :, None]),
}


@pytest.mark.parametrize("name", MASKS)
def test_rows_and_columns_are_those_of_a_softmax_in_float64(name: str, tmp_path: Path) -> None:
    """Within the stated error, under every mask that is a rule."""
    mask, added = MASKS[name]
    q, k = operands()
    page = explore(AttentionMap.from_qk(q, k, mask=mask))
    exact = softmax(q, k, added)
    made = in_node(tmp_path, READ, {"layer": layers(page)[0], "text": text(page)})
    for side, expected in (("rows", exact[0]), ("columns", exact[0].mT)):
        found = torch.tensor([each[side] for each in made], dtype=torch.float64)
        assert (found - expected).abs().max() <= 1.001 * page.error + 1e-6
    assert page.error <= 0.01


def test_causality_is_that_of_the_kernel(tmp_path: Path) -> None:
    """With more keys than queries, the first query sees the first key alone."""
    q, k = operands(queries=66)
    page = explore(AttentionMap.from_qk(q, k, causal=True))
    exact = softmax(q, k, hidden(CAUSAL[:66]))
    assert torch.allclose(read(page, tmp_path), exact, atol=page.error * 1.001 + 1e-6)


def test_grouped_keys_are_kept_once(tmp_path: Path) -> None:
    """Four heads share two key heads, in each sample; also where a library has repeated them."""
    q, k = operands(heads=4, groups=2, batch=2)
    page = explore(AttentionMap.from_qk(q, k))
    assert torch.allclose(read(page, tmp_path), softmax(q, k), atol=page.error * 1.001 + 1e-6)
    assert layers(page)[0]["operands"]["groups"] == 2
    assert len(text(page)) < 0.85 * len(text(explore(AttentionMap.from_qk(q, torch.cat([k, k + 0.1 * q[:, 2:]], 1)))))
    assert text(explore(AttentionMap.from_qk(q, k.repeat_interleave(2, 1)))) == text(page)


def test_a_query_that_sees_nothing_has_no_weights(tmp_path: Path) -> None:
    """As in torch, its row is 0."""
    seen = CAUSAL.clone()
    seen[5] = False
    q, k = operands()
    found = read(explore(AttentionMap.from_qk(q, k, mask=seen)), tmp_path)
    assert (found[:, :, 5] == 0).all()
    assert torch.allclose(found.sum(-1)[:, :, 6:], torch.ones(1).double(), atol=1e-3)


@pytest.mark.parametrize(("spread", "bits"), [(0.05, 8), (2.0, 12), (8.0, 15)])
def test_there_are_as_many_bits_as_the_error_wants(spread: float, bits: int, tmp_path: Path) -> None:
    """Large scores need more of them; every weight is within 1 % of the greatest of its row."""
    q, k = operands(spread=spread)
    page = explore(AttentionMap.from_qk(q, k))
    assert layers(page)[0]["operands"]["bits"] == bits
    exact = softmax(q, k)
    assert ((read(page, tmp_path) - exact).abs() <= 0.01 * exact.amax(-1, keepdim=True)).all()


@pytest.mark.parametrize("bits", range(8, 17))
def test_numbers_of_every_size_are_read(bits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are no whole bytes follow each other without a gap, and the last ends anywhere in its byte."""
    monkeypatch.setattr(computed, "_BITS", range(bits, bits + 1))
    monkeypatch.setattr(computed, "_TRIED", bits)
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 1, length, 3, generator=generator) for length in (61, 60))
    # The greatest level has all bits of its lower part.
    k[0, 0, -1] = 1.1 * k.abs().max()
    page = explore(AttentionMap.from_qk(q, k))
    assert layers(page)[0]["operands"]["bits"] == bits
    exact = (q.double() @ k.double().mT / 3**0.5).softmax(-1)
    assert torch.allclose(read(page, tmp_path), exact, atol=page.error * 1.001 + 1e-6)


@pytest.mark.parametrize(
    "mask",
    [
        torch.randn(LENGTH, LENGTH, generator=torch.Generator().manual_seed(0)),
        torch.stack([CAUSAL, AROUND])[None],
        (PLACES[:, None] + PLACES) % 3 > 0,
        torch.finfo(torch.float32).min * (PLACES[:, None] < PLACES + 3).float(),
        torch.full((1, 1, 1, LENGTH), -1e30),
    ],
    ids=["bias of pairs", "of each head", "stripes", "finite, of a whole row", "finite, of all keys"],
)
def test_what_is_no_rule_is_stored(mask: torch.Tensor) -> None:
    """The map is as exact as that of any weights."""
    page = explore(AttentionMap.from_qk(*operands(), mask=mask))
    assert layers(page)[0]["operands"] is None


def test_short_maps_and_those_of_weights_are_stored() -> None:
    """Query and key would be larger, or are not known."""
    q, k = operands()
    for attention in (
        AttentionMap.from_qk(q[:, :, :40], k[:, :, :40]),
        AttentionMap.from_weights(softmax(q, k)),
    ):
        assert layers(explore(attention))[0]["operands"] is None


def test_thumbnails_and_scales_are_those_of_the_map() -> None:
    """Computed block by block, they are the means of the exact map; the class token has a cell of its own."""
    axis = Patches((8, 9))
    q, k = operands(queries=LENGTH)
    q, k = (torch.cat([each, each[:, :, :3]], 2) for each in (q, k))
    attention = AttentionMap.from_qk(q, k, queries=axis, keys=axis)
    of_operands, stored = (
        explore(attention),
        explore(AttentionMap.from_weights(attention.tensor(), queries=axis, keys=axis)),
    )
    made = [layers(page)[0]["thumbs"][0] for page in (of_operands, stored)]
    assert made[0]["shape"] == made[1]["shape"]
    assert made[0]["tops"] == pytest.approx(made[1]["tops"], rel=0.05)
    cells: list[Any] = []
    for page in (of_operands, stored):
        buffer = gzip.decompress(base64.b64decode(text(page, "thumbs")))
        scales = np.frombuffer(buffer, "<f4", 2)[:, None]
        cells.append(scales * (np.frombuffer(buffer, np.uint8, offset=8).reshape(2, -1) / 255.0) ** 2)
    assert np.abs(cells[0] - cells[1]).max() <= 0.01 * cells[1].max()


def test_the_page_says_its_error(tmp_path: Path) -> None:
    """With a margin over the greatest there is, also relative to the greatest weight of a row; and the bits."""
    q, k = operands()
    page = explore(AttentionMap.from_qk(q, k))
    (form,) = (layer["operands"] for layer in layers(page))
    exact = softmax(q, k)
    off = (read(page, tmp_path) - exact).abs()
    assert page.error > 1.2 * off.max()
    assert form["relative"] > 1.2 * (off / exact.amax(-1, keepdim=True)).max()
    assert f"by at most {page.error:.1g}, and {100 * form['relative']:.1g} % of the greatest of their row" in page.html
    assert f"The page computes them from query and key, kept in {form['bits']} bits a number." in page.html


def test_a_text_of_8192_tokens(tmp_path: Path) -> None:
    """Grouped heads, causal, in a sliding window, padded on the left: rows near both ends and in the middle."""
    length, window, padded = 8192, 1000, 300
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, heads, length, 16, generator=generator) for heads in (2, 1))
    places = torch.arange(length)
    seen = (places[:, None] >= places) & (places[:, None] - places < window) & (places >= padded)
    page = explore(AttentionMap.from_qk(q, k, mask=seen))
    asked = [10, padded, 1299, 1300, 5000, length - 1]
    code = READ.partition("const made")[0] + (
        "const made = given.asked.map((query) => [0, 1].map((head) =>"
        " filled(columns, (row) => maps.row(head, query, row))));"
    )
    made = in_node(tmp_path, code, {"layer": layers(page)[0], "text": text(page), "asked": asked})
    scores = (q[0, :, asked].double() @ k[0].double().mT / 4).masked_fill(~seen[asked], -torch.inf)
    exact = scores.softmax(-1).nan_to_num(0.0)
    found = torch.tensor(made, dtype=torch.float64).transpose(0, 1)
    assert ((found - exact).abs() <= 0.01 * exact.amax(-1, keepdim=True)).all()
    assert (found - exact).abs().max() <= page.error


class Largest(TorchDispatchMode):
    """Records the size of the largest tensor that anything makes."""

    size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, tuple | list) else [made]:
            if isinstance(each, torch.Tensor) and not each.is_sparse:
                self.size = max(self.size, each.numel())
        return made


def test_no_map_is_ever_whole() -> None:
    """Of 4,096 positions, no more than a block of rows exists at a time."""
    q, k = (torch.randn(1, 1, 4096, 4) for _ in range(2))
    with Largest() as largest:  # type: ignore[no-untyped-call]  # torch declares no types of it
        explore(AttentionMap.from_qk(q, k))
    assert 4096 < largest.size <= 2**22 < 4096**2
