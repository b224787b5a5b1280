"""How a typed program uses anylocal: read by mypy and by pyright, never run.

Two checkers do not agree on everything, and a library that is typed for one may be untyped for the users of the
other. Every public name that users call is used here, but for the classes of `anylocal.errors`; where a result has a
type worth promising, `assert_type` states it.
"""

# pyright: strict

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_type

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import anylocal
from anylocal import Assignment, Call, Capture, Site, capture, errors, find, get_local, metrics, plot, store, view
from anylocal.adapter import Adapter, AttentionCapture, InputContext, MapAxes, Observation, Reading, adapters
from anylocal.attention import (
    AttentionMap,
    AttentionMaps,
    Axis,
    Explanation,
    MapArray,
    Media,
    Named,
    Patches,
    PlacedPatches,
    Tokens,
    TopK,
    VideoPatches,
    capture_attention,
    distance,
    entropy,
    head_agreement,
    merge_words,
    prefix_mass,
    relevance,
    rollout,
    sink_mass,
)
from anylocal.testing import perturb

if TYPE_CHECKING:
    import types
    from collections.abc import Iterable

    import numpy as np
    import numpy.typing as npt


@get_local("total")
def mean(values: list[float]) -> float:
    """Return the mean; marked, it is still the function that it was."""
    total = sum(values)
    return total / len(values)


def marks() -> None:
    """Use the decorator and its cache."""
    assert_type(mean([1.0]), float)
    get_local.activate()
    get_local.deactivate()
    get_local.clear()
    with get_local.active() as cache:
        assert_type(cache["mean"], list[Any])
    assert_type(get_local.cache["mean"], list[Any])
    assert_type(get_local.is_activate, bool)


def captures(model: torch.nn.Module) -> Capture:
    """Use a capture with each of its options, and all that it recorded."""
    with capture(model, "q", "k", every=True, keep="cpu", modules="blocks.1?.attn", limit="2GiB", threads="own") as cap:
        model(torch.ones(1))
    assert_type(cap, Capture)
    assert_type(cap["q"], list[Any])
    assert_type(cap.calls, list[Call])
    assert_type(cap.at("blocks.3.attn"), list[Call])
    assert_type(cap.names, tuple[str, ...])
    assert_type(cap.sites, tuple[Site, ...])
    assert_type(cap.counts, dict[str, int])
    assert_type(cap.is_open, bool)
    for call in cap:
        assert_type(call, Call)
        assert_type((call.name, call.index, call.line), tuple[str, int, int])
        assert_type((call.thread, call.rank), tuple[int | None, int | None])
        assert_type(call.values["q"], Any)
    stacked: torch.Tensor = cap.stack("q")
    cap.clear()
    with capture(model, edit={Assignment("attn", uses="softmax"): lambda attn: attn * 2}):
        pass
    opened = capture(model, edit={"attn": lambda attn: attn * 2}, keep=lambda value: value + stacked).open()
    opened.close()
    return opened


def sites(target: object) -> None:
    """Look at what there is to capture."""
    for site in find(target):
        assert_type(site, Site)
        assert_type((site.file, site.line), tuple[str, int])
        assert_type(site.names, tuple[str, ...])
    try:
        capture(target, "hiden")
    except anylocal.errors.NameNotFoundError as error:
        assert_type(error.available, tuple[str, ...])
        assert_type(error.slug, str)
    except errors.AnylocalError:
        raise


class Pixels(Adapter):
    """An adapter for a zoo that attends over pixels."""

    distribution = "pixels"
    zoo = "pixels"

    def functions(self) -> Iterable[types.FunctionType]:
        return ()

    def observations(self, model: torch.nn.Module) -> Iterable[Observation]:
        return ()

    def reading(self, function: types.FunctionType) -> Reading | None:
        return Reading()

    def axes(self, call: Call, shape: tuple[int, ...], context: InputContext) -> MapAxes:
        axis = Patches(grid=(1, shape[-1] - 1))
        return MapAxes(axis, axis)


def attention(model: torch.nn.Module) -> AttentionMaps:
    """Capture maps through an adapter, and index them."""
    assert_type(adapters(), dict[str, Adapter])
    scope = Pixels().capture_attention(perturb(model), keep="detach", modules=None)
    assert_type(scope, AttentionCapture)
    with scope as maps:
        model(torch.ones(1))
    assert_type(maps, AttentionMaps)
    assert_type(maps[3], AttentionMap)
    assert_type(maps["blocks.3.attn"], AttentionMap)
    assert_type(maps[1:], AttentionMaps)
    assert_type(maps[:, 0, 0], torch.Tensor)
    assert_type(maps.names, list[str])
    assert_type(maps.forwards, list[AttentionMaps])
    assert_type(maps.generation(), AttentionMaps)
    assert_type(maps.gather(), AttentionMaps | None)
    assert_type(maps.rollout(), torch.Tensor)
    assert_type(maps.relevance(torch.ones(1)), torch.Tensor)
    assert_type(scope.maps, AttentionMaps)
    assert_type(capture_attention(model), AttentionCapture)
    unsupported: dict[str, str] = dict(maps.unsupported)
    return AttentionMaps(list(maps), unsupported=unsupported)


def one_map(q: torch.Tensor, k: torch.Tensor, weights: npt.NDArray[np.float32]) -> AttentionMap:
    """Make maps of tensors, and index one."""
    tokens = Tokens(["[CLS]", "good", "[SEP]"], media=[Media("image", [1], Patches((1, 1), prefix=()))])
    assert_type(tokens.media, tuple[Media, ...])
    attention = AttentionMap.from_qk(q, k, scale=0.5, causal=True, name="layer", queries=tokens, keys=tokens)
    assert_type(attention, AttentionMap)
    assert_type(attention[0, 4], torch.Tensor)
    assert_type(attention[:, :, 0], torch.Tensor)
    assert_type(attention[..., [0, 1]], torch.Tensor)
    assert_type(attention.shape, tuple[int, int, int, int])
    assert_type(attention.tensor(), torch.Tensor)
    assert_type(attention.head_mean(), torch.Tensor)
    assert_type(attention.mixed, torch.Tensor | None)
    assert_type(attention.cpu(), AttentionMap)
    assert_type(attention.queries, Axis)
    assert_type(attention.labelled(keys=Named(("red", "green", "blue"))), AttentionMap)
    assert_type(merge_words(attention, sample=0), AttentionMap)
    change = attention - 0.5 * attention
    assert_type(change, MapArray)
    assert_type(abs(change)[..., 3], torch.Tensor)
    assert_type(1 - change, MapArray)
    assert_type(attention > change, MapArray)
    assert_type(attention.sum(-2), torch.Tensor)
    assert_type(attention.topk(3, (-2, -1)), TopK)
    assert_type(attention.explain(0, 1, 2), Explanation)
    assert_type(attention.topk(3).indices, torch.Tensor)
    return AttentionMap.from_weights(weights, queries=Axis(3))


def positions() -> None:
    """Ask axes for positions and names."""
    patches = Patches(grid=(14, 14), prefix=("cls",), image_size=(224, 224))
    assert_type(len(patches), int)
    assert_type(patches.position((1, 1)), int)
    assert_type(patches.labels(), list[str])
    assert_type(patches.box(0), tuple[float, float, float, float])
    assert_type(patches.split(torch.ones(197)), tuple[torch.Tensor, torch.Tensor])
    video = VideoPatches((2, 14, 14), prefix=("cls",), image_size=(224, 224))
    assert_type(video.cell(3), tuple[int, int, int] | None)
    assert_type(video.split(torch.ones(393)), tuple[torch.Tensor, torch.Tensor])
    windows = PlacedPatches((2, 4), [[0, 1, 4, 5], [2, 3, 6, 7]])
    assert_type(windows.find(1, 3), tuple[int, int])
    assert_type(windows.cell(3, sample=1), tuple[int, int] | None)


def statistics(maps: AttentionMaps) -> None:
    """Compute everything that can be computed of maps."""
    for statistic in (distance, entropy, head_agreement, prefix_mass, sink_mass):
        assert_type(statistic(maps[0]), torch.Tensor)
    assert_type(rollout(maps, residual=0.5, queries=0), torch.Tensor)
    assert_type(relevance(maps, torch.ones(1)), torch.Tensor)
    for metric in (
        metrics.AttentionDistance(),
        metrics.AttentionEntropy(),
        metrics.HeadAgreement(),
        metrics.MeanMap(),
        metrics.PrefixMass(),
        metrics.SinkMass(),
    ):
        metric.update(maps)
        assert_type(metric.means(), list[torch.Tensor])


def pictures(maps: AttentionMaps, ax: Axes, figure: Figure) -> None:
    """Draw with every recipe."""
    assert_type(plot.heatmap(maps[0], head=1, queries=["it"], norm="log", cmap="viridis", ax=ax), Axes)
    assert_type(plot.heatmap(torch.eye(3), colorbar=False), Axes)
    assert_type(plot.heads(maps[0], columns=3), Figure)
    assert_type(plot.model(maps, figure=figure), Figure)
    assert_type(plot.entropy(maps, sample=0), Axes)
    assert_type(plot.difference(maps[0], maps[1]), Axes)
    with plot.style("paper", columns=2):
        assert_type(plot.heads(maps[0], share="all", norm="sqrt", reduce="mean"), Figure)
    page = view.explore(maps, layers=[0, "blocks.1.attn"], title="maps")
    assert_type(page, view.Page)
    assert_type(page.save("attention.html"), Path)
    assert_type(view.explore(maps[0], maps[1], limit=None), view.Page)
    view.widget(maps, samples=0).selection = {"head": 3}


def files(maps: AttentionMaps, cap: Capture) -> store.SavedCapture:
    """Save, and load."""
    assert_type(store.save(maps, "maps.safetensors"), Path)
    assert_type(store.save(cap, Path("calls.safetensors")), Path)
    saved: store.SavedCapture = store.load("calls.safetensors")
    assert_type(saved["q"], list[Any])
    return saved
