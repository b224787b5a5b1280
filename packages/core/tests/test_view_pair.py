"""Two captures on one page: their difference, and both side by side."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch

from anylocal import plot
from anylocal._drawing.scale import top_of
from anylocal.attention import AttentionMap, AttentionMaps, Patches, Tokens
from anylocal.errors import OptionError, ShapeError
from anylocal.view import explore

from .node import in_node

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page as Tab


def make(name: str = "layer", *, seed: int = 0, shape: tuple[int, ...] = (1, 3, 6, 6), **options: Any) -> AttentionMap:
    generator = torch.Generator().manual_seed(seed)
    return AttentionMap.from_weights((2 * torch.randn(shape, generator=generator)).softmax(-1), name=name, **options)


CATS = Tokens(["[CLS]", "the", "cat", "sat", "down", "[SEP]"], special=[1, 0, 0, 0, 0, 1])
DOGS = Tokens(["[CLS]", "the", "dog", "ran", "down", "[SEP]"], special=[1, 0, 0, 0, 0, 1])
ONE = AttentionMaps(make(f"blocks.{at}", seed=at, queries=CATS, keys=CATS) for at in range(2))
TWO = AttentionMaps(make(f"layers.{at}", seed=at + 5, queries=DOGS, keys=DOGS) for at in range(2))


def line(tab: Tab, name: str, given: dict[str, Any]) -> torch.Tensor:
    return torch.tensor(tab.evaluate("async ([name, given]) => Array.from(await anylocal[name](given))", [name, given]))


@pytest.mark.parametrize("long", [False, True], ids=["stored", "computed"])
def test_a_script_reads_both_sides_and_their_difference(show: Any, *, long: bool) -> None:
    """Rows and columns, of one head and of all; the difference of means and of maxima is that of both maps'."""
    generator = torch.Generator().manual_seed(0)
    q, k = (2 * torch.randn(2, 1, 3, 90, 8, generator=generator) for _ in range(2))
    fused = [AttentionMap.from_qk(*each, name="layer") for each in zip(q, k, strict=True)]
    one, two = fused if long else (make(seed=1), make(seed=2))
    page = explore(one, two)
    tab = show(page)
    for head in (1, "mean", "max"):
        a, b = ({"mean": each[0].mean(0), "max": each[0].amax(0)}.get(str(head), each[0, 1]) for each in (one, two))
        for side, exact in (("a", a), ("b", b), ("difference", a - b)):
            given = {"side": side, "head": head, "query": 4, "key": 4}
            assert torch.allclose(line(tab, "row", given), exact[4], atol=2 * page.error + 1e-6)
            assert torch.allclose(line(tab, "column", given), exact[:, 4], atol=2 * page.error + 1e-6)


def test_the_page_begins_with_the_difference(show: Any) -> None:
    """The strongest are the greatest in size, with their sign, and positions that differ have both names."""
    page = explore(ONE, TWO)
    tab = show(page)
    tab.locator("#to .token").nth(2).click()
    assert tab.locator("#asked").text_content() == "What “cat / dog” attends to, a − b"
    exact = (ONE[1][0] - TWO[1][0]).mean(0)[2]
    labels = ["[CLS]", "the", "cat / dog", "sat / ran", "down", "[SEP]"]
    rows = [text.rsplit(None, 1) for text in tab.locator("#list li").all_text_contents()]
    found = {label.strip(): float(value.replace("−", "-")) for label, value in rows}
    order = exact.abs().argsort(descending=True)[:5].tolist()
    assert list(found) == [labels[at] for at in order]
    assert found == pytest.approx({labels[at]: float(exact[at]) for at in order}, abs=2 * page.error + 5e-4)


def test_no_difference_has_the_colour_in_the_middle(show: Any, pixels: Any) -> None:
    """Red where the first has more, blue where the other has, as in `plot.difference`; the scale ends alike."""
    one, two = torch.full((4, 4), 0.25), torch.full((4, 4), 0.25)
    one[0] = torch.tensor([0.65, 0.25, 0.05, 0.05])
    tab = show(explore(AttentionMap.from_weights(one), AttentionMap.from_weights(two)))
    tab.locator("#norm").select_option("linear")
    ax = plot.difference(one, two)
    image = ax.images[0]
    expected = 255 * np.asarray(image.cmap(image.norm(np.asarray(image.get_array()))))[..., :3]
    assert np.abs(pixels(tab, "#map")[..., :3] - expected).max() <= 6
    assert float(tab.locator("#map-ramp").get_attribute("data-top")) == pytest.approx(0.4, abs=0.01)
    plt.close("all")


def test_the_sides_are_drawn_side_by_side(show: Any, pixels: Any) -> None:
    """Each under its own names, and both on one scale."""
    tab = show(explore(ONE, TWO))
    tab.locator("#to .token").nth(2).click()
    titles = [tab.locator(f"#{side}-asked").text_content() for side in "ab"]
    assert titles == ["a: what “cat” attends to", "b: what “dog” attends to"]
    assert tab.locator("#b-to .token").all_text_contents() == DOGS.labels()
    maps = [each[1][0].mean(0) for each in (ONE, TWO)]
    top = top_of(*(each[1:-1, 1:-1].numpy() for each in maps))
    table = np.asarray(mpl.colormaps["magma"](np.arange(256)))[:, :3]
    for side, weights in zip("ab", maps, strict=True):
        expected = 255 * table[np.rint(255 * np.sqrt(np.clip(weights.numpy() / top, 0, 1))).astype(int)]
        assert np.abs(pixels(tab, f"#{side}-map")[..., :3] - expected).max() <= 8


def test_the_tokens_of_each_side_have_its_own_weights(show: Any) -> None:
    """The lighter a token is, the more attention it gets in the capture on whose side it stands."""
    tab = show(explore(ONE, TWO))
    tab.locator("#to .token").nth(2).click()
    for side, maps in zip("ab", (ONE, TWO), strict=True):
        shades = tab.locator(f"#{side}-to .token").evaluate_all("all => all.map(each => each.style.backgroundColor)")
        light = [sum(map(int, re.findall(r"\d+", shade))) for shade in shades]
        row = maps[1][0].mean(0)[2]
        # Beyond the end of the scale, all are as light.
        order = [at for at in row.argsort().tolist() if light[at] < max(light)]
        assert len(order) > 2, "few colours prove nothing"
        assert [light[at] for at in order] == sorted(light[at] for at in order)


def test_each_side_is_named(show: Any) -> None:
    """Above its text and above its map, by the name of its own layer; and what a and b are."""
    tab = show(explore(ONE, TWO))
    assert [tab.locator(f"#{side}-heading").text_content() for side in "ab"] == [
        "a: blocks.1, mean of 3 heads",
        "b: layers.1, mean of 3 heads",
    ]
    assert "a is the first of the maps that were compared, b the other" in tab.locator("#pair").text_content()
    tab.evaluate("anylocal.setState({layer: 0, head: 2})")
    assert tab.locator("#b-heading").text_content() == "b: layers.0, head 2"


@pytest.mark.parametrize("width", [390, 1024, 1400])
def test_the_legend_of_a_difference_has_both_ends_below_its_colours(show: Any, width: int) -> None:
    """One at each side, also where they are clipped and long."""
    axis = Patches((9, 9))
    rows = [make(shape=(1, 1, 82, 82), seed=seed).tensor() for seed in (1, 2)]
    for sink, each in enumerate(rows):
        each[..., sink] += 3
    tab = show(explore(*(AttentionMap.from_weights(each, queries=axis, keys=axis) for each in rows)))
    tab.set_viewport_size({"width": width, "height": 844})
    for name in ("row", "map"):
        least, most, ramp = (tab.locator(f"#{name}-{part}").bounding_box() for part in ("least", "most", "ramp"))
        assert least["y"] == most["y"] >= ramp["y"] + ramp["height"]
        assert least["x"] == pytest.approx(ramp["x"], abs=1)
        assert most["height"] < 24
        assert "(max " in tab.locator(f"#{name}-most").text_content()


def test_one_cursor_moves_all(show: Any) -> None:
    """Pointing at a row of one map chooses it in both maps, both texts and the difference."""
    tab = show(explore(ONE, TWO))
    box = tab.locator("#b-map").bounding_box()
    tab.locator("#b-map").hover(position={"x": 0.5 * box["width"], "y": 4.5 / 6 * box["height"]})
    assert tab.locator("#asked").text_content() == "What “down” attends to, a − b"
    for side in "ab":
        assert tab.locator(f"#{side}-to .chosen").text_content() == "down"
        band, whole = (tab.locator(f"#{side}-{part}").bounding_box() for part in ("band", "map"))
        assert band["y"] - whole["y"] == pytest.approx(4 / 6 * whole["height"], abs=1)
    tab.locator("#b-to .token").nth(3).click()
    assert tab.locator("#asked").text_content() == "What “sat / ran” attends to, a − b"


def test_each_side_can_be_shown_alone(show: Any) -> None:
    """The picture, its Python call and the making of a weight are then that side's."""
    tab = show(explore(ONE, TWO))
    tab.evaluate("anylocal.setState({side: 'b', layer: 0, head: 1, query: 2})")
    assert tab.locator("#heading").text_content() == "layers.0, head 1, b"
    assert tab.locator("#call").text_content() == "plot.tokens(other['layers.0'], queries=[2], head=1)"
    tab.locator("#list button").first.click()
    key = int(TWO[0][0, 1, 2].argmax())
    assert tab.locator("#making-call").text_content() == f"other['layers.0'].explain(2, {key}, 1)"


def test_a_difference_is_explained_by_both_weights(show: Any) -> None:
    """The dialog has both numbers."""
    tab = show(explore(ONE, TWO))
    tab.evaluate("anylocal.setState({head: 2, query: 3})")
    tab.locator("#list button").first.click()
    one, two = ONE[1][0, 2, 3], TWO[1][0, 2, 3]
    key = int((one - two).abs().argmax())
    numbers = re.findall(r"\d\.\d+", tab.locator("#making-line").text_content())
    assert list(map(float, numbers)) == pytest.approx([float(one[key]), float(two[key])], abs=5e-3)


def test_bars_of_differences_have_the_colours_of_the_map(show: Any) -> None:
    """Red where the first has more, and blue where the other has; the title says that it is a difference."""
    tab = show(explore(ONE, TWO))
    tab.evaluate("anylocal.setState({head: 2, query: 3})")
    tab.locator("#list button").first.click()
    assert tab.locator("#making-title").inner_text().endswith(", a − b")
    for row in tab.locator("#making-terms tr").all():
        red, _, blue = map(
            int, re.findall(r"\d+", row.locator(".bar").evaluate("node => getComputedStyle(node).backgroundColor"))
        )
        assert (red > blue) == ("−" not in row.locator("td").first.inner_text())


@pytest.mark.parametrize("way", ["query", "key"])
@pytest.mark.parametrize("head", [1, "mean", "max"])
def test_the_python_call_draws_the_difference(show: Any, head: int | str, way: str) -> None:
    """What the page tells the user to run."""
    tab = show(explore(ONE, TWO))
    tab.evaluate("given => anylocal.setState(given)", {"head": head, "way": way, way: 2})
    names = {"plot": plot, "maps": ONE, "other": TWO}
    ax = eval(tab.locator("#call").text_content(), names)  # noqa: S307  # as above
    one, two = (
        {"mean": each[1][0].mean(0), "max": each[1][0].amax(0)}.get(str(head), each[1][0, 1]) for each in (ONE, TWO)
    )
    exact = (one - two)[2] if way == "query" else (one - two)[:, 2]
    assert np.asarray(ax.images[0].get_array()).ravel() == pytest.approx(exact.numpy(), abs=1e-6)
    plt.close("all")


def test_two_images_are_each_over_their_own(show: Any, pixels: Any) -> None:
    """The other image is that of the other side."""
    axis = Patches((2, 2), prefix=(), image_size=(32, 32))
    one, two = (make(shape=(1, 1, 4, 4), seed=seed, queries=axis, keys=axis) for seed in (1, 2))
    dark, light = torch.zeros(3, 32, 32), torch.ones(3, 32, 32)
    tab = show(explore(one, two, images=dark, other_images=light))
    means = [pixels(tab, f"#{side}-to canvas")[..., :3].min(-1).mean() for side in "ab"]
    assert means[0] + 60 < means[1]


def test_a_page_of_one_capture_has_no_sides(show: Any) -> None:
    """Nothing to compare is shown, and a script is refused."""
    tab = show(explore(ONE))
    assert not tab.locator("#side-label").is_visible()
    assert not tab.locator("#pair").is_visible()
    found = tab.evaluate("anylocal.row({side: 'b'}).then(() => '', error => error.message)")
    assert found == 'anylocal: side is "b"; there are a.'


def test_other_shapes_are_refused() -> None:
    """Another length, another number of layers, other positions, and images of nothing."""
    with pytest.raises(
        ShapeError, match=r"'layer' of the first has \(1, 3, 6, 6\) and 'layer' of the other \(1, 3, 5, 5"
    ):
        explore(make(), make(shape=(1, 3, 5, 5)))
    with pytest.raises(ShapeError, match="the first maps have 2 and the others 1"):
        explore(ONE, TWO[:1])
    axis = Patches((2, 3), prefix=())
    with pytest.raises(ShapeError, match="explore compares the same positions"):
        explore(ONE[0], make(queries=axis, keys=axis))
    with pytest.raises(OptionError, match="no other maps to compare with"):
        explore(make(queries=axis, keys=axis), other_images=torch.rand(3, 32, 48))


def test_layers_and_samples_are_chosen_in_both(show: Any) -> None:
    """By their place, for checkpoints may name them differently."""
    one, two = (
        AttentionMaps(make(f"{name}{at}", seed=at + 7 * (name == "b"), shape=(3, 2, 5, 5)) for at in range(3))
        for name in "ab"
    )
    page = explore(one, two, layers=["a1"], samples=[2])
    tab = show(page)
    assert torch.allclose(
        line(tab, "row", {"side": "b", "head": 1, "query": 0}), two[1][2, 1, 0], atol=page.error + 1e-6
    )


def test_hidden_padding_is_what_is_padding_in_both(show: Any) -> None:
    """A token of one text that is padding in the other stays."""
    short, longer = (Tokens(["x", "y", "[PAD]", "[PAD]"], padding=[0, 0, flag, 1]) for flag in (1, 0))
    maps = [make(shape=(1, 1, 4, 4), seed=at, queries=axis, keys=axis) for at, axis in enumerate((short, longer))]
    tab = show(explore(*maps))
    assert tab.locator("#to .token").count() == 3


def test_the_scale_of_differences_is_that_of_the_recipes(tmp_path: Path) -> None:
    """Its top, and 0 in the middle, by the root as well."""
    values = (torch.rand(900, generator=torch.Generator().manual_seed(0)) - 0.4).tolist()
    code = """
    import { centredScaleOf } from "./scales.js";
    const values = Float32Array.from(given.values);
    const made = ["linear", "sqrt"].map((norm) => {
      const scale = centredScaleOf(values, values, 30, norm, given.rules);
      return { top: scale.top, steps: [-9, -0.25 * scale.top, 0, 0.25 * scale.top, 9].map(scale.step) };
    });
    """
    rules = {"few": {"keys": 49, "values": 1000}, "even": 3.0}
    linear, root = in_node(tmp_path, code, {"values": values, "rules": rules})
    assert linear["top"] == pytest.approx(top_of(np.abs(np.array(values).reshape(30, 30))), rel=1e-6)
    assert linear["steps"] == [0, 96, 128, 159, 255]
    assert root["steps"] == [0, 64, 128, 191, 255]
