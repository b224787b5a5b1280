"""The widget of a notebook, without a browser: what it tells the page, what it answers, and its selection."""

from __future__ import annotations

import base64
import gzip
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")
pytest.importorskip("anywidget", reason="anywidget is not installed: the extra anylocal[widget]")

import torch

from anylocal._page.assemble import bundle
from anylocal.attention import AttentionMap, AttentionMaps, Media, Patches, PlacedPatches, Tokens
from anylocal.errors import ChoiceError, NameNotFoundError, OptionError, PositionError
from anylocal.view import widget

from .node import in_node

if TYPE_CHECKING:
    from pathlib import Path


def make(name: str = "layer", *, seed: int = 0, shape: tuple[int, ...] = (2, 3, 6, 6), **options: Any) -> AttentionMap:
    generator = torch.Generator().manual_seed(seed)
    return AttentionMap.from_weights((2 * torch.randn(shape, generator=generator)).softmax(-1), name=name, **options)


def fused(name: str = "layer", length: int = 70) -> AttentionMap:
    generator = torch.Generator().manual_seed(0)
    q, k = (2 * torch.randn(2, 3, length, 8, generator=generator) for _ in range(2))
    return AttentionMap.from_qk(q, k, name=name, causal=True)


def asked(view: Any, **message: Any) -> tuple[dict[str, Any], list[bytes]]:
    """Return what the widget answers to a message of the page."""
    sent: list[tuple[dict[str, Any], list[bytes]]] = []
    view.send = lambda content, buffers: sent.append((content, buffers))
    place = {"layer": 0, "sample": 0, "window": 0, "head": 0, "way": "query"}
    view._handle_custom_msg({"id": "1", **place, **message}, [])
    (answer,) = sent
    assert answer[0].pop("id") == "1"
    return answer


def lines(view: Any, **message: Any) -> np.ndarray[Any, Any]:
    answer, (found,) = asked(view, ask="lines", **message)
    assert answer == {}
    return np.frombuffer(found, "<f4").reshape(len(message["positions"]), -1)


@pytest.mark.parametrize("attention", [make(), fused()], ids=["stored", "computed"])
@pytest.mark.parametrize("head", [1, "mean", "max"])
def test_rows_and_columns_are_those_of_the_map(attention: AttentionMap, head: int | str) -> None:
    """Of stored maps and of computed ones, of one head and of all."""
    view = widget(attention)
    exact = attention.tensor()[1].double()
    together = {"mean": exact.mean(0), "max": exact.amax(0)}.get(str(head), exact[1])
    found = lines(view, sample=1, head=head, positions=[5, 0])
    assert found == pytest.approx(together[[5, 0]].numpy(), abs=1e-6)
    found = lines(view, sample=1, head=head, way="key", positions=[2])
    assert found == pytest.approx(together[:, [2]].mT.numpy(), abs=1e-6)


def test_the_rows_of_a_window_of_a_chosen_sample() -> None:
    """Samples are numbered as they are shown."""
    axis = PlacedPatches((1, 4), [[0, 1], [2, 3]])
    attention = make(shape=(6, 1, 2, 2), windows=2, queries=axis, keys=axis)
    view = widget(attention, samples=[2, 0])
    assert lines(view, sample=0, window=1, positions=[1])[0] == pytest.approx(attention[5, 0, 1].numpy())


def test_thumbnails_are_means_of_the_map() -> None:
    """Each cell is the mean of a block of queries and keys, computed without the whole map."""
    attention = fused(length=200)
    view = widget(attention)
    buffer = gzip.decompress(base64.b64decode(view._thumbs))
    scales = np.frombuffer(buffer[: 4 * 6], "<f4")
    levels = np.frombuffer(buffer[4 * 6 :], np.uint8).reshape(6, 40, 40) / 255
    exact = attention.numpy().reshape(6, 40, 5, 40, 5).mean((2, 4))
    assert scales[:, None, None] * levels**2 == pytest.approx(exact, abs=float(exact.max()) / 200)


def test_the_images_of_a_text_are_sent_with_it() -> None:
    """As the page has them."""
    image = Media("image", [0, 1], Patches((1, 2), prefix=(), image_size=(8, 16)))
    axis = Tokens(["<image>", "<image>", "cat"], media=[image])
    view = widget(make(shape=(1, 2, 3, 3), queries=axis, keys=axis), images=torch.rand(3, 8, 16))
    data = json.loads(view._data)
    assert len(data["pictures"]) == 1
    assert data["axes"][0]["media"][0][0]["picture"] == 0
    assert 'id="images-ramp"' in view._body


def test_nothing_of_the_maps_is_packed() -> None:
    """What the widget sends before it is asked does not grow with the map."""
    sizes = [len(view._data) + len(view._thumbs) for view in (widget(fused(length=n)) for n in (400, 800))]
    assert sizes[1] < 1.1 * sizes[0]


def test_a_weight_is_explained_by_its_query_and_key() -> None:
    """The numbers are those of `AttentionMap.explain`; stored maps have none."""
    attention = fused()
    (answer, _) = asked(widget(attention), ask="making", sample=1, head=2, query=9, key=4)
    exact = attention.explain(9, 4, 2, sample=1)
    assert answer["making"] == {"products": exact.products.tolist(), "scale": exact.scale, "added": 0.0}
    hidden = asked(widget(attention), ask="making", query=4, key=9)[0]
    assert hidden["making"]["added"] is None
    assert asked(widget(make()), ask="making", query=4, key=1)[0] == {"making": None}


def test_what_cannot_be_answered_is_told_to_the_page() -> None:
    """The page shows the error, and the kernel none."""
    assert asked(widget(make()), ask="lines", positions=[6])[0]["error"].startswith("Query index 6")


def test_the_selection_begins_where_the_page_does() -> None:
    """The middle of the text in the last layer, the mean of its heads."""
    axis = Tokens(["[CLS]", "a", "b", "c", "[SEP]"], special=[1, 0, 0, 0, 1])
    maps = AttentionMaps(make(f"blocks.{at}", shape=(2, 3, 5, 5), queries=axis, keys=axis) for at in range(2))
    place = {"layer": "blocks.1", "head": "mean", "query": 2, "key": 2}
    assert widget(maps, samples=1).selection == {**place, "sample": 1, "window": 0, "way": "query"}


def test_a_part_of_the_selection_may_be_set() -> None:
    """The rest stays, as far as the layer has it; one change is one event."""
    maps = AttentionMaps([make("small", shape=(1, 2, 3, 3)), make("large", shape=(1, 4, 6, 6))])
    view = widget(maps)
    view.selection = {"head": 3, "query": 5}
    seen: list[Any] = []
    view.observe(lambda change: seen.append(change["new"]), "selection")
    view.selection = {"layer": "small"}
    place = {"layer": "small", "head": 1, "query": 2, "key": 2}
    assert seen == [{**place, "sample": 0, "window": 0, "way": "query"}] == [view.selection]


def test_layers_of_one_name_are_selected_by_position() -> None:
    """The selection's layer is always an index of the maps."""
    maps = AttentionMaps([make("a", seed=1), make("a", seed=2), make("b", seed=3)])
    view = widget(maps)
    view.selection = {"layer": 1}
    assert view.selection["layer"] == 1
    view.selection = {"layer": 2}
    assert view.selection["layer"] == "b"


@pytest.mark.parametrize(
    ("given", "error", "told"),
    [
        ({"head": 3}, PositionError, "Head index 3"),
        ({"query": 6}, PositionError, "Query index 6"),
        ({"layer": "lyer"}, NameNotFoundError, "layer"),
        ({"layer": 1}, OptionError, "Layer 1 is not shown; there are 'layer'"),
        ({"sample": 5}, OptionError, "sample=5 is not shown; there are 0, 1"),
        ({"way": "both"}, OptionError, "way='both' is unknown; give \"query\""),
        ({"quary": 1}, OptionError, "selection has no 'quary'; it has layer, head, query"),
    ],
)
def test_what_is_not_there_cannot_be_selected(given: dict[str, Any], error: type[Exception], told: str) -> None:
    """The selection stays as it was."""
    view = widget(AttentionMaps([make(), make("other")]), layers=[0])
    before = view.selection
    with pytest.raises(error, match=told):
        view.selection = given
    assert view.selection == before


def test_hostile_titles_stay_text() -> None:
    """The title is escaped in what the page inserts."""
    assert "<b>" not in widget(make(), title="<b>bold</b>")._body


def test_several_forward_passes_are_refused() -> None:
    """As by `explore`, and in the widget's name."""
    with pytest.raises(ChoiceError, match="widget takes one forward pass"):
        widget([make(), make(forward=1)])


def test_the_bundle_is_small_and_loads_nothing() -> None:
    """At most 200 kB, and no address of the network."""
    assert len(bundle().encode()) < 200_000
    # The name of SVG, which nothing loads.
    assert "http" not in bundle().replace("http://www.w3.org/2000/svg", "")
    assert "import " not in bundle()


def test_the_bundle_is_a_module_with_a_render_function(tmp_path: Path) -> None:
    """Node reads it as the notebook does."""
    (tmp_path / "bundle.js").write_text(bundle(), "utf-8")
    assert in_node(tmp_path, 'const made = typeof (await import("./bundle.js")).default.render;') == "function"


def test_a_missing_anywidget_is_named() -> None:
    """The module loads without it, and the message says what to install."""
    code = (
        "import sys, torch; sys.modules['anywidget'] = None\n"
        "from anylocal.attention import AttentionMap; from anylocal.view import widget\n"
        "try: widget(AttentionMap.from_weights(torch.eye(2)))\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = 'anylocal.view.widget needs anywidget, which is not installed: pip install "anylocal[widget]".'
    assert done.stdout.startswith(expected)


LIVE = """
import { askerOf, liveOf, storeOf } from "./live.js";
const sent = [];
const model = { on: (_, answer) => { model.answer = answer; }, off: () => {}, send: (message) => sent.push(message) };
const { ask } = askerOf(model);
const kept = storeOf(100);
const maps = liveOf(ask, 4, kept);
const place = { sample: 1, window: 0, head: "mean", way: "query", extra: true };
const bytes = Float32Array.of(0, 1, 2, 3, 4, 5);
const view = (array) => new DataView(array.buffer);
"""


def test_lines_are_asked_for_once(tmp_path: Path) -> None:
    """A question has the place and the positions that are not there yet; its answer is read by `line`."""
    code = """
    const waiting = maps.missing(place, [7, 3]);
    model.answer({ id: sent[0].id }, [view(bytes)]);
    await waiting;
    const again = maps.missing(place, [3, 7]) === undefined;
    maps.missing(place, [3, 8]);
    const lines = [7, 3].map((at) => [...maps.line(place, at)]);
    const made = { sent: sent.map(({ id, ...rest }) => rest), again, lines };
    // Nobody answers the second question.
    setTimeout(() => process.exit());
    """
    found = in_node(tmp_path, LIVE + code)
    asked_ = {"ask": "lines", "layer": 4, "sample": 1, "window": 0, "head": "mean", "way": "query"}
    assert found["sent"] == [{**asked_, "positions": [7, 3]}, {**asked_, "positions": [8]}]
    assert found["again"]
    assert found["lines"] == [[0, 1, 2], [3, 4, 5]]


def test_an_error_of_python_reaches_the_page(tmp_path: Path) -> None:
    """The promise is rejected with its text."""
    code = """
    const waiting = maps.missing(place, [7]);
    model.answer({ id: sent[0].id, error: "No such query." }, []);
    const made = await waiting.then(() => "", (error) => error.message);
    """
    assert in_node(tmp_path, LIVE + code) == "No such query."


def test_lines_read_long_ago_are_forgotten(tmp_path: Path) -> None:
    """What is kept stays within its limit."""
    code = """
    for (let at = 0; at < 9; at++) kept.add(`${at}`, new Float32Array(6));
    const made = [...Array(9).keys()].filter((at) => kept.get(`${at}`));
    """
    assert in_node(tmp_path, LIVE + code) == [5, 6, 7, 8]
