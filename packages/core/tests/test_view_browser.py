"""The page of maps in a real browser: it draws what the maps are, by mouse and by keyboard, without a network."""

from __future__ import annotations

import base64
import re
from io import BytesIO
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
from PIL import Image

from anylocal import plot
from anylocal._drawing.norms import Rank
from anylocal._drawing.overlay import OVER_IMAGE, overlay_colormap
from anylocal._drawing.scale import top_of
from anylocal.attention import AttentionMap, AttentionMaps, Patches, PlacedPatches, Tokens, merge_words
from anylocal.testing import browser
from anylocal.view import Page, explore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser
    from playwright.sync_api import Page as Tab

EVIL = ["</script><script>document.title='gone'</script>", "\"quotes\" & 'more'", "😀", "שלום", "<b>bold</b>", "a\nb"]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


class Opened:
    """A page in a tab, with its network requests and errors."""

    def __init__(self, tab: Tab) -> None:
        self.tab = tab
        self.requests: list[str] = []
        self.errors: list[str] = []
        tab.on("request", lambda request: self.requests.append(request.url))
        tab.on("pageerror", lambda error: self.errors.append(str(error)))
        tab.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)

    def open(self, file: Path) -> None:
        self.tab.goto(file.as_uri())
        self.tab.wait_for_selector("html[data-drawn]")

    def set(self, control: str, value: str | int | bool) -> None:
        """Choose something in the page's form, and wait until it is drawn."""
        field = self.tab.locator(f"#{control}")
        before = self.tab.evaluate("document.documentElement.dataset.turn")
        if isinstance(value, bool):
            field.set_checked(value)
        elif field.evaluate("node => node.tagName") == "SELECT":
            field.select_option(str(value))
        else:
            field.fill(str(value))
        self.tab.wait_for_function("turn => document.documentElement.dataset.turn !== turn", arg=before)

    def ask(self, query: int) -> None:
        self.tab.locator("#query").fill(str(query))

    @property
    def strongest(self) -> dict[str, float]:
        """The listed strongest keys and their weights."""
        rows = [text.rsplit(None, 1) for text in self.tab.locator("#list li").all_text_contents()]
        return {label.strip(): float(weight) for label, weight in rows}

    def top(self, name: str) -> float:
        """Return where the scale of the row or of the map ends."""
        return float(self.tab.locator(f"#{name}-ramp").get_attribute("data-top") or "nan")

    def colours(self, selector: str) -> np.ndarray[Any, Any]:
        """Return the pixels of a canvas: (height, width, 4)."""
        address = self.tab.locator(selector).evaluate("node => node.toDataURL()")
        return np.asarray(Image.open(BytesIO(base64.b64decode(address.split(",")[1]))).convert("RGBA"))


@pytest.fixture
def show(chromium: Browser, tmp_path: Path) -> Iterator[Any]:
    """Open a page in a tab of its own, which must end without errors and network requests."""
    tabs: list[Opened] = []

    def shown(page: Page, **options: Any) -> Opened:
        opened = Opened(chromium.new_page(**{"viewport": {"width": 1400, "height": 900}, **options}))
        tabs.append(opened)
        opened.open(page.save(tmp_path / f"{len(tabs)}.html"))
        return opened

    yield shown
    for opened in tabs:
        opened.tab.close()
    assert [error for opened in tabs for error in opened.errors] == []
    assert [url for opened in tabs for url in opened.requests if not url.startswith(("file:", "data:", "blob:"))] == []


def make(name: str = "layer", *, seed: int = 0, shape: tuple[int, ...] = (1, 3, 6, 6), **options: Any) -> AttentionMap:
    generator = torch.Generator().manual_seed(seed)
    return AttentionMap.from_weights((2 * torch.randn(shape, generator=generator)).softmax(-1), name=name, **options)


def texts(*samples: list[str], **options: Any) -> Tokens:
    return Tokens(list(samples), **options)


def top(row: torch.Tensor, labels: list[str], count: int = 5) -> dict[str, float]:
    return {labels[at]: float(row[at]) for at in row.argsort(descending=True)[:count].tolist()}


def test_nothing_is_asked_of_the_network(show: Any) -> None:
    """The page loads nothing but its own file: no font or script from elsewhere."""
    axis = Patches((2, 3), prefix=())
    opened = show(explore(make(queries=axis, keys=axis), images=torch.rand(3, 16, 24)))
    assert [url for url in opened.requests if not url.startswith("data:")] == [opened.tab.url]


def test_the_page_forbids_itself_the_network(chromium: Browser, tmp_path: Path) -> None:
    """Even an injected script could send nothing away."""
    tab = chromium.new_page()
    tab.goto(explore(make()).save(tmp_path / "page.html").as_uri())
    directive = tab.evaluate(
        "() => new Promise(done => { document.addEventListener('securitypolicyviolation',"
        " event => done(event.effectiveDirective)); fetch('http://localhost:9/').catch(() => 0); })"
    )
    assert directive == "connect-src"
    tab.close()


def test_hostile_tokens_are_shown_as_they_are(show: Any) -> None:
    """Tags, quotes, emoji, right-to-left text and line ends in tokens are text, and run nothing."""
    axis = Tokens(EVIL)
    opened = show(explore(make(queries=axis, keys=axis), title="Safe"))
    assert opened.tab.locator(".token").all_text_contents() == [*EVIL[:-1], "a⏎b"]
    assert opened.tab.title() == "Safe"
    assert opened.tab.locator("b").count() == 0


def test_a_token_of_a_hundred_thousand_letters_fits_the_page(show: Any) -> None:
    """It is shortened, here and in the list of the strongest keys."""
    axis = Tokens(["A" * 100_000, "b", "c"])
    opened = show(explore(AttentionMap.from_weights(torch.eye(3), queries=axis, keys=axis)))
    opened.ask(0)
    assert opened.tab.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_text_from_right_to_left_runs_so(show: Any) -> None:
    """The first word of Hebrew stands to the right of the second."""
    axis = Tokens(["[CLS]", "שלום", "עולם", "[SEP]"], special=[1, 0, 0, 1])
    opened = show(explore(make(shape=(1, 1, 4, 4), queries=axis, keys=axis)))
    first, second = (opened.tab.locator(".token").nth(at).bounding_box() for at in (1, 2))
    assert first["x"] > second["x"]


def test_the_strongest_keys_are_the_maps(show: Any) -> None:
    """For each query of a head, the list shows the strongest keys in order, with their weights."""
    axis = Tokens(list("abcdef"))
    attention = make(queries=axis, keys=axis)
    page = explore(attention)
    opened = show(page)
    opened.set("head", 1)
    for query in (0, 5):
        opened.ask(query)
        expected = top(attention[0, 1, query], list("abcdef"))
        assert opened.strongest == pytest.approx(expected, abs=page.error + 5e-4)


@pytest.mark.parametrize("over", ["mean", "max"])
def test_heads_are_taken_together(show: Any, over: str) -> None:
    """Mean and maximum over heads are those of the map."""
    axis = Tokens(list("abcdef"))
    attention = make(queries=axis, keys=axis)
    page = explore(attention)
    opened = show(page)
    opened.set("strongest", 6)
    opened.set("head", over)
    opened.ask(2)
    rows = attention[0, :, 2]
    expected = top(rows.mean(0) if over == "mean" else rows.amax(0), list("abcdef"), 6)
    assert opened.strongest == pytest.approx(expected, abs=page.error + 5e-4)


def test_another_layer_is_unpacked_when_it_is_opened(show: Any) -> None:
    """The chosen layer is drawn."""
    maps = AttentionMaps(
        make(f"blocks.{at}", seed=at, queries=Tokens(list("abcdef")), keys=Tokens(list("abcdef"))) for at in range(3)
    )
    page = explore(maps)
    opened = show(page)
    opened.set("layer", 0)
    opened.ask(4)
    assert opened.strongest == pytest.approx(top(maps[0][0, :, 4].mean(0), list("abcdef")), abs=page.error + 5e-4)


def test_rows_kept_as_differences_are_put_together(show: Any) -> None:
    """A layer stored as differences of rows is read back correctly."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.rand(2, 1, 64, generator=generator) + 0.01 * torch.rand(2, 64, 64, generator=generator)
    attention = AttentionMap.from_weights((rows / rows.sum(-1, keepdim=True))[None], name="alike")
    page = explore(attention)
    # Of weights closer than that, the page may take the other one for the stronger.
    strongest = attention[0, 1, 63].sort(descending=True).values
    assert (strongest[:5] - strongest[1:6]).min() > page.error
    assert '"differences": true' in page.html
    opened = show(page)
    opened.set("head", 1)
    opened.ask(63)
    assert opened.strongest == pytest.approx(
        top(attention[0, 1, 63], [str(at) for at in range(64)]), abs=page.error + 5e-4
    )


def test_the_map_is_painted_with_the_colours_of_matplotlib(show: Any) -> None:
    """Each cell has the colormap's colour for its weight relative to the greatest."""
    attention = make(shape=(1, 1, 6, 6))
    opened = show(explore(attention, cmap="viridis"))
    weights = attention.numpy()[0, 0]
    assert_painted(opened, mpl.colormaps["viridis"](np.sqrt(weights / weights.max()), bytes=True))
    opened.set("norm", "linear")
    assert_painted(opened, mpl.colormaps["viridis"](weights / weights.max(), bytes=True))


def test_a_scale_by_rank_is_that_of_the_recipes(show: Any) -> None:
    """The colour is the share of smaller weights."""
    weights = torch.randperm(36, generator=torch.Generator().manual_seed(0)).reshape(6, 6) / 35
    opened = show(explore(AttentionMap.from_weights(weights**2), cmap="viridis"))
    opened.set("norm", "rank")
    assert_painted(opened, mpl.colormaps["viridis"](Rank(weights.numpy())(weights.numpy()), bytes=True))


def assert_painted(opened: Opened, expected: np.ndarray[Any, Any]) -> None:
    found = opened.colours("#map")[..., :3].astype(int)
    # A weight that is off by less than half a percent is a colour or two further.
    assert np.abs(found - expected[..., :3].astype(int)).max() <= 6


SINK = 0.9


def with_sink(side: int) -> tuple[Patches, AttentionMap]:
    """Return maps of patches with unequal weights, whose class token takes nearly all of it."""
    axis = Patches((side, side), image_size=(8 * side, 8 * side))
    weights = make(shape=(1, 2, len(axis), len(axis)), seed=3).tensor() * (1 - SINK)
    weights[..., 0] += SINK
    return axis, AttentionMap.from_weights(weights, name="layer", queries=axis, keys=axis)


@pytest.mark.parametrize("side", [5, 9])
def test_scales_end_where_those_of_the_recipes_do(show: Any, side: int) -> None:
    """Of a row and of a map, few and many patches, one head and the mean; the class token does not count."""
    axis, attention = with_sink(side)
    page = explore(attention, images=torch.rand(3, *axis.image_size or ()))
    opened = show(page)
    for head, weights in (("0", attention[0, 0]), ("mean", attention[0].mean(0))):
        opened.set("head", head)
        assert opened.top("map") == pytest.approx(top_of(weights[1:, 1:].numpy()), abs=page.error)
        for query in (0, 4, side * side):
            opened.ask(query)
            assert opened.top("row") == pytest.approx(top_of(weights[query, 1:].numpy()), abs=page.error)


def test_the_legend_says_what_is_clipped(show: Any) -> None:
    """Beyond the top of the scale there are greater weights, and the greatest is named."""
    _, attention = with_sink(9)
    opened = show(explore(attention))
    opened.set("head", "0")
    opened.ask(4)
    legend = opened.tab.locator("#row-most").text_content()
    assert re.fullmatch(r"≥ 0\.0\d+ \(maximum 0\.[89]\d+\)", legend), legend
    clear = show(explore(make()))
    assert "≥" not in clear.tab.locator("#row-most").text_content()


def test_a_class_token_has_its_number(show: Any) -> None:
    """Its cell may be beyond the scale, and says how great the weight is."""
    axis, attention = with_sink(5)
    opened = show(explore(attention, images=torch.rand(3, *axis.image_size or ())))
    opened.ask(4)
    cell = opened.tab.locator("#to .token")
    assert cell.evaluate("node => getComputedStyle(node, '::after').content") != "none"
    expected = float(attention[0, :, 4, 0].mean())
    assert float(cell.get_attribute("data-weight")) == pytest.approx(expected, abs=5e-4)


def test_the_image_keeps_its_colours_where_there_is_no_weight(show: Any) -> None:
    """Opacity is none without weight, and grows with it."""
    axis = Patches((1, 3), prefix=(), image_size=(20, 60))
    weights = torch.tensor([[0.0, 0.3, 0.7]]).expand(3, 3)
    image = torch.tensor([0.1, 0.6, 0.3])[:, None, None].expand(3, 20, 60)
    opened = show(explore(AttentionMap.from_weights(weights, queries=axis, keys=axis), images=image))
    opened.set("strongest", 0)
    opened.ask(2)
    pixels = opened.colours("#to canvas")[..., :3].astype(float)
    height, width, _ = pixels.shape
    ground = 255 * np.array([0.1, 0.6, 0.3])
    bare, middle, full = (pixels[height // 2, int(width * share)] for share in (0.17, 0.5, 0.83))
    assert bare == pytest.approx(ground, abs=2)
    for share, found in ((0.3 / 0.7, middle), (1.0, full)):
        *colour, opacity = overlay_colormap(OVER_IMAGE)(share)
        assert found == pytest.approx(opacity * 255 * np.array(colour) + (1 - opacity) * ground, abs=4)


def test_a_shared_scale_ends_where_that_of_the_layer_does(show: Any) -> None:
    """The page takes it from Python, for the map and the row."""
    _, attention = with_sink(9)
    opened = show(explore(attention))
    opened.set("scale", "one")
    expected = top_of(*attention[0, :, 1:, 1:].numpy())
    assert [opened.top(name) for name in ("map", "row")] == pytest.approx([expected] * 2, rel=1e-4)


def test_a_logarithmic_scale_shows_the_small_weights(show: Any) -> None:
    """The log scale starts three decades below its top, as that of the recipes."""
    attention = AttentionMap.from_weights(torch.tensor([[1.0, 10**-1.5], [1e-6, 1.0]]))
    opened = show(explore(attention))
    opened.set("norm", "log")
    table = (255 * mpl.colormaps["magma"](np.arange(256))[:, :3]).round().astype(int)
    found = opened.colours("#map")[..., :3].astype(int)
    steps = np.abs(found[:, :, None] - table).sum(-1).argmin(-1)
    assert steps[0].tolist() == pytest.approx([255, 128], abs=6)
    assert steps[1, 0] == 0


def test_one_scale_for_all_is_that_of_the_layer(show: Any) -> None:
    """On a shared scale, heads can be compared."""
    attention = AttentionMap.from_weights(torch.stack([torch.eye(2), torch.full((2, 2), 0.5)])[None])
    opened = show(explore(attention))
    opened.set("head", 1)
    assert opened.tab.locator("#map-most").text_content() == "0.500"
    opened.set("scale", "one")
    assert opened.tab.locator("#map-most").text_content() == "1.000"
    assert opened.tab.locator("#row-most").text_content() == "1.000"


def test_the_scheme_of_the_screen_leaves_the_heatmap_alone(show: Any) -> None:
    """The page follows the system's light and dark; weights have the same colours in both."""
    page = explore(make())
    light, dark = (show(page, color_scheme=scheme) for scheme in ("light", "dark"))
    ground = [opened.tab.evaluate("getComputedStyle(document.body).backgroundColor") for opened in (light, dark)]
    assert ground[0] != ground[1]
    assert np.array_equal(light.colours("#map"), dark.colours("#map"))
    light.tab.click("#theme")
    assert light.tab.evaluate("getComputedStyle(document.body).backgroundColor") == ground[1]


def test_special_tokens_can_be_hidden(show: Any) -> None:
    """Hidden tokens have no row or column, and the page reports their attention."""
    axis = Tokens(["[CLS]", "a", "b", "[SEP]"], special=[1, 0, 0, 1])
    attention = make(shape=(1, 1, 4, 4), queries=axis, keys=axis)
    page = explore(attention)
    opened = show(page)
    opened.set("special", True)
    opened.ask(1)
    assert opened.colours("#map").shape[:2] == (2, 2)
    assert opened.strongest == pytest.approx(top(attention[0, 0, 1, 1:3], ["a", "b"]), abs=page.error + 5e-4)
    told = re.search(r"get ([\d.]+) of", opened.tab.locator("#hidden-mass").text_content() or "")
    assert told is not None
    assert float(told[1]) == pytest.approx(float(attention[0, 0, 1, [0, 3]].sum()), abs=4 * page.error + 5e-4)


def test_padding_is_hidden_until_it_is_asked_for(show: Any) -> None:
    """Padding is hidden by default, and can be shown."""
    axis = texts(["a", "b", "c"], ["d", "[PAD]", "[PAD]"], padding=[[0, 0, 0], [0, 1, 1]])
    opened = show(explore(make(shape=(2, 1, 3, 3), queries=axis, keys=axis)))
    opened.set("sample", 1)
    assert opened.tab.locator(".token").all_text_contents() == ["d"]
    opened.set("padding", False)
    assert opened.tab.locator(".token").all_text_contents() == ["d", "[PAD]", "[PAD]"]


def test_words_are_merged_as_in_python(show: Any) -> None:
    """Attention of words is that of `merge_words`."""
    axis = Tokens(["[CLS]", "un", "##believ", "##able", "story", "[SEP]"], words=[None, 0, 0, 0, 1, None])
    attention = make(queries=axis, keys=axis)
    page = explore(attention)
    opened = show(page)
    opened.set("words", True)
    opened.ask(2)
    merged = merge_words(attention)
    assert opened.tab.locator(".token").all_text_contents() == merged.keys.labels()
    assert opened.strongest == pytest.approx(
        top(merged[0, :, 1].mean(0), merged.keys.labels()), abs=3 * page.error + 5e-4
    )


def test_each_sample_has_its_maps_and_tokens(show: Any) -> None:
    """The chosen sample is drawn with its own tokens."""
    axis = texts(list("abc"), list("xyz"))
    attention = make(shape=(2, 2, 3, 3), queries=axis, keys=axis)
    page = explore(attention)
    opened = show(page)
    opened.set("sample", 1)
    opened.ask(0)
    assert opened.strongest == pytest.approx(top(attention[1, :, 0].mean(0), list("xyz")), abs=page.error + 5e-4)


def test_cross_attention_has_two_sides(show: Any) -> None:
    """Queries are chosen on their own line, and the keys have theirs."""
    attention = make(shape=(1, 1, 2, 3), queries=Tokens(["q0", "q1"]), keys=Tokens(["k0", "k1", "k2"]))
    page = explore(attention)
    opened = show(page)
    opened.tab.locator("#from .token").nth(1).hover()
    assert opened.strongest == pytest.approx(top(attention[0, 0, 1], ["k0", "k1", "k2"]), abs=page.error + 5e-4)
    assert opened.tab.locator("#from .chosen").all_text_contents() == ["q1"]


def test_a_patch_is_asked_by_the_mouse(show: Any) -> None:
    """The patch under the pointer is the query, in rows and columns of the image."""
    axis = Patches((2, 3), image_size=(32, 48))
    attention = make(shape=(1, 2, 7, 7), queries=axis, keys=axis)
    page = explore(attention, images=torch.rand(3, 32, 48))
    opened = show(page)
    box = opened.tab.locator("#to canvas").bounding_box()
    opened.tab.mouse.move(box["x"] + 0.1 * box["width"], box["y"] + 0.75 * box["height"])
    assert opened.tab.locator("#asked").text_content() == "What patch (1, 0) attends to"
    expected = top(attention[0, :, axis.index(1, 0)].mean(0), axis.labels())
    assert opened.strongest == pytest.approx(expected, abs=page.error + 5e-4)


def test_weights_lie_over_their_patches(show: Any) -> None:
    """The patch with all the attention is the bright one, where it lies in the image, over the picture."""
    axis = Patches((2, 2), prefix=())
    weights = torch.zeros(4, 4)
    weights[:, 1] = 1.0
    opened = show(explore(AttentionMap.from_weights(weights, queries=axis, keys=axis), images=torch.zeros(3, 20, 20)))
    opened.set("strongest", 0)
    opened.ask(2)
    pixels = opened.colours("#to canvas")[..., :3].astype(int).sum(-1)
    height, width = pixels.shape
    quarters = [pixels[int(y * height), int(x * width)] for y in (0.25, 0.75) for x in (0.25, 0.75)]
    assert quarters[1] > 300
    assert max(quarters[0], quarters[3]) < 30


def test_a_patch_of_another_window_changes_the_window(show: Any) -> None:
    """In windowed layers, a place in the image selects the window and the position in it."""
    axis = PlacedPatches((1, 4), [[0, 1], [2, 3]])
    attention = make(shape=(2, 1, 2, 2), windows=2, queries=axis, keys=axis)
    page = explore(attention)
    opened = show(page)
    box = opened.tab.locator("#to canvas").bounding_box()
    opened.tab.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 0.5 * box["height"])
    assert opened.tab.input_value("#window") == "1"
    assert opened.strongest == pytest.approx(top(attention[1, 0, 1], axis_labels(axis, 1)), abs=page.error + 5e-4)


def axis_labels(axis: PlacedPatches, window: int) -> list[str]:
    return [axis.label(position, window) for position in range(len(axis))]


def test_a_click_on_a_thumbnail_opens_its_map(show: Any) -> None:
    """The thumbnail in row r and column c is layer r, head c."""
    maps = AttentionMaps(make(f"blocks.{at}", seed=at) for at in range(3))
    opened = show(explore(maps))
    box = opened.tab.locator("#grid").bounding_box()
    opened.tab.mouse.click(box["x"] + box["width"] - 3, box["y"] + box["height"] / 2)
    opened.tab.wait_for_function("() => document.getElementById('heading').textContent === 'blocks.1, head 2'")


def test_the_chosen_thumbnail_has_a_rim(show: Any) -> None:
    """Its frame is set off from the maps beside it, so that it is found among colours like its own."""
    opened = show(explore(AttentionMaps(make(f"blocks.{at}", seed=at) for at in range(3))))
    opened.tab.evaluate("anylocal.setState({layer: 1, head: 1})")
    colours = opened.colours("#grid")[..., :3]
    accent = np.argwhere((colours == [0x0B, 0x6B, 0xCB]).all(-1))
    (top, left), (bottom, right) = accent.min(0), accent.max(0)
    middle = (top + bottom) // 2
    assert (colours[middle, [left - 2, right + 2]] > 200).all()
    assert (colours[[top - 2, bottom + 2], (left + right) // 2] > 200).all()


def test_all_of_it_is_reached_by_the_keyboard(show: Any) -> None:
    """By Tab alone every control gets the focus, and arrows choose the head, the layer and the query."""
    axis = Tokens(list("abcdef"))
    maps = AttentionMaps(make(f"blocks.{at}", seed=at, queries=axis, keys=axis) for at in range(2))
    opened = show(explore(maps))
    reached = [""]
    # The last of them; another Tab would begin anew.
    while reached[-1] != "png":
        opened.tab.keyboard.press("Tab")
        reached.append(opened.tab.evaluate("document.activeElement.id"))
        if reached[-1] == "grid":
            opened.tab.keyboard.press("ArrowUp")
            opened.tab.keyboard.press("ArrowRight")
            opened.tab.wait_for_function("() => document.getElementById('heading').textContent === 'blocks.0, head 1'")
        if reached[-1] == "map":
            opened.tab.keyboard.press("ArrowUp")
    assert {"theme", "layer", "head", "query", "strongest", "norm", "scale", "grid", "map", "copy", "png"} <= set(
        reached
    )
    assert opened.tab.locator("#asked").text_content() == "What “c” attends to"


def test_controls_have_names_for_screen_readers(show: Any) -> None:
    """Every control that is shown has an accessible name, and the strongest keys are announced."""
    opened = show(explore(make(queries=Tokens(EVIL), keys=Tokens(EVIL))))
    for role, name in [
        *(("combobox", name) for name in ("Layer", "Head", "Norm", "Scale")),
        *(("slider", "Query"), ("spinbutton", "Strongest"), ("button", "Copy"), ("button", "Save PNG")),
    ]:
        assert opened.tab.get_by_role(role, name=name, exact=True).count() == 1, name
    unnamed = opened.tab.evaluate(
        "[...document.querySelectorAll('input, select, button, canvas')].filter(node => node.checkVisibility()"
        " && !node.closest('label') && !node.textContent && !node.ariaLabel && node.ariaHidden !== 'true')"
        ".map(node => node.id)"
    )
    assert unnamed == []
    assert opened.tab.locator("#result").get_attribute("aria-live") == "polite"


def test_the_page_has_few_nodes(show: Any) -> None:
    """Besides the tokens' own, at most 300 nodes, with 12 layers of 12 heads and 197 positions."""
    axis = Patches((14, 14))
    maps = AttentionMaps(
        make(f"blocks.{at}", seed=at, shape=(1, 12, 197, 197), queries=axis, keys=axis) for at in range(12)
    )
    opened = show(explore(maps))
    assert opened.tab.evaluate("document.querySelectorAll(':not(.token)').length") <= 300


def test_two_pages_in_a_notebook_do_not_meet(chromium: Browser, tmp_path: Path) -> None:
    """Pages in separate frames do not affect each other."""
    pages = [explore(make(name, seed=seed), title=name) for seed, name in enumerate(("one", "two"))]
    notebook = tmp_path / "notebook.html"
    notebook.write_text("<!DOCTYPE html>" + "".join(page._repr_html_() for page in pages), "utf-8")
    tab = chromium.new_page()
    tab.goto(notebook.as_uri())
    frames = [tab.frame_locator("iframe").nth(at) for at in range(2)]
    for frame in frames:
        frame.locator("html[data-drawn]").wait_for()
    frames[0].locator("#head").select_option("2")
    frames[0].get_by_text("one, head 2").wait_for()
    assert frames[1].locator("#heading").text_content() == "two, mean of 3 heads"
    tab.close()


def test_the_python_call_draws_the_same(show: Any) -> None:
    """The Python call on the page draws the row that the page shows."""
    axis = Tokens(list("abcdef"))
    maps = AttentionMaps([make("a 'quoted' name", queries=axis, keys=axis), make("b", seed=1, shape=(1, 3, 2, 6))])
    page = explore(maps)
    opened = show(page)
    opened.set("head", 2)
    opened.ask(1)
    ax = eval(opened.tab.locator("#call").text_content(), {"plot": plot, "maps": maps})  # noqa: S307  # what the page tells the user to run
    assert np.allclose(np.asarray(ax.images[0].get_array()).ravel(), maps["b"].numpy()[0, 2, 1])
    plt.close("all")


@pytest.mark.parametrize("chosen", [0, 1])
def test_the_python_call_counts_words_where_they_are_merged(show: Any, chosen: int) -> None:
    """The Python call names the sample if the page shows one of a batch."""
    texts_of = [["[CLS]", "play", "##ing", "foot", "##ball", "[SEP]", "[PAD]"], ["[CLS]", "a", "##b", *"cde", "[SEP]"]]
    words = [[None, 0, 0, 1, 1, None, None], [None, 0, 0, 1, 2, 3, None]]
    axis = Tokens(texts_of, padding=[[0] * 6 + [1], [0] * 7], words=words)
    attention = make("layer", shape=(2, 3, 7, 7), queries=axis, keys=axis)
    opened = show(explore(attention, samples=chosen))
    opened.set("words", True)
    asked: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    recorder = SimpleNamespace(tokens=lambda *given, **options: asked.append((given, options)))
    for position in (3, 5):
        opened.ask(position)
        shown = opened.tab.locator("#asked").text_content()
        eval(opened.tab.locator("#call").text_content(), {"plot": recorder, "maps": {"layer": attention}})  # noqa: S307  # as above
        _, options = asked.pop()
        assert options.pop("words")
        merged = merge_words(attention, sample=options.pop("sample"))
        ((word,),) = options.values()
        assert shown == f"What “{merged.queries.label(word)}” attends to"


def test_the_python_call_of_a_window_names_the_head(show: Any) -> None:
    """The Python call of a windowed layer names the window as the sample of the map."""
    maps = AttentionMaps([make("b", shape=(4, 3, 5, 5), windows=4)])
    opened = show(explore(maps))
    opened.set("head", 2)
    opened.set("window", 3)
    opened.ask(1)
    ax = eval(opened.tab.locator("#call").text_content(), {"plot": plot, "maps": maps})  # noqa: S307  # as above
    assert np.allclose(np.asarray(ax.images[0].get_array()).ravel(), maps["b"].numpy()[3, 2, 1])
    plt.close("all")


def test_nothing_is_said_to_be_hidden_where_all_is_shown(show: Any) -> None:
    """Rows that do not sum to 1, such as fully masked ones, report no hidden attention."""
    opened = show(explore(AttentionMap.from_weights(torch.full((1, 2, 3, 3), 0.1))))
    assert opened.tab.locator("#hidden-mass").text_content() == ""


def test_the_call_is_copied(show: Any) -> None:
    """The button puts the call where it can be pasted."""
    opened = show(explore(make()))
    opened.tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened.tab.click("#copy")
    opened.tab.wait_for_function("() => document.getElementById('copy').textContent === 'Copied'")
    assert opened.tab.evaluate("navigator.clipboard.readText()") == opened.tab.locator("#call").text_content()


def test_the_picture_is_saved(show: Any) -> None:
    """PNG of the query and of the map, sharp enough to show on a slide, with the map's colours in it."""
    opened = show(explore(make(queries=Tokens(list("abcdef")), keys=Tokens(list("abcdef")))))
    with opened.tab.expect_download() as waiting:
        opened.tab.click("#png")
    image = Image.open(waiting.value.path()).convert("RGB")
    assert waiting.value.suggested_filename == "attention.png"
    assert image.width > 1400
    cells = opened.colours("#map")[..., :3].reshape(-1, 3)
    brightest = tuple(cells[cells.sum(-1, dtype=int).argmax()].tolist())
    # More of it than a token's ground: a cell of the map, at twice the size of the screen.
    found = {colour: count for count, colour in image.getcolors(image.width * image.height) or []}
    assert found[brightest] > 5000


def test_a_damaged_page_says_so(chromium: Browser, tmp_path: Path) -> None:
    """Damaged bytes give a message, not an empty picture."""
    page = explore(make())
    file = tmp_path / "broken.html"
    file.write_text(re.sub(r'(id="layer-0">)H4sI.{20}', r"\1H4sIAAAAAAAAAAAAAAAAAAAA", page.html), "utf-8")
    tab = chromium.new_page()
    tab.goto(file.as_uri())
    tab.wait_for_selector("#problem:not([hidden])")
    tab.close()


def test_it_fits_a_phone(show: Any) -> None:
    """Nothing is wider than a narrow screen."""
    axis = Patches((7, 7), image_size=(224, 224))
    maps = AttentionMaps(
        make(f"blocks.{at}", seed=at, shape=(1, 12, 50, 50), queries=axis, keys=axis) for at in range(4)
    )
    opened = show(explore(maps, images=torch.rand(3, 224, 224)), viewport={"width": 360, "height": 740})
    assert opened.tab.evaluate("document.documentElement.scrollWidth") <= 360


def test_settings_are_folded_on_a_phone(show: Any) -> None:
    """They take less than a fifth of its screen, are unfolded by keyboard, and stay so while the page is drawn."""
    axis = Tokens(["[CLS]", *"bcde", "[PAD]"], special=[1, 0, 0, 0, 0, 0], padding=[0, 0, 0, 0, 0, 1])
    opened = show(explore(make(queries=axis, keys=axis)), viewport={"width": 390, "height": 844})
    assert not opened.tab.locator("#norm").is_visible()
    assert opened.tab.locator("#controls").bounding_box()["height"] < 844 / 5
    opened.tab.locator("#more-name").focus()
    opened.tab.keyboard.press("Enter")
    assert opened.tab.locator("#norm").is_visible()
    opened.set("special", True)
    assert opened.tab.locator("#norm").is_visible()
    opened.tab.set_viewport_size({"width": 1400, "height": 900})
    opened.tab.wait_for_selector("#more-name", state="hidden")
    assert opened.tab.locator("#norm").is_visible()


def test_the_default_norm_is_told(show: Any) -> None:
    """In the list, and in words in its title."""
    opened = show(explore(make()))
    norm = opened.tab.locator("#norm")
    assert norm.locator("option").first.text_content() == "default (maps: sqrt)"
    assert "By default linear for the query or key, and by the square root for maps" in norm.get_attribute("title")


def test_the_strongest_are_joined_by_lines(show: Any) -> None:
    """As many lines as chosen, also none."""
    axis = Tokens(list("abcdef"))
    opened = show(explore(make(queries=axis, keys=axis)))
    assert opened.colours("#lines")[..., 3].any()
    opened.set("strongest", 0)
    assert not opened.colours("#lines")[..., 3].any()


def test_thumbnails_show_their_heads(show: Any) -> None:
    """The head that looks at the first key is bright on its left, the one that looks at the last on its right."""
    weights = torch.zeros(1, 2, 8, 8)
    weights[0, 0, :, 0] = 1
    weights[0, 1, :, 7] = 1
    opened = show(explore(AttentionMap.from_weights(weights)))
    pixels = opened.colours("#grid").astype(int)[..., :3].sum(-1)
    start = opened.tab.evaluate("8 + document.createElement('canvas').getContext('2d').measureText('0').width")
    height, width = pixels.shape
    cell = (width - start) / 2
    row = pixels[int(0.6 * height)]
    bright = [row[int(start + cell * place)] > 500 for place in (0.06, 0.5, 1.5, 1.88)]
    assert bright == [True, False, False, True]


def test_a_cell_under_the_pointer_is_read_out(show: Any) -> None:
    """Pointing at a cell shows its query, key and weight, and selects its row."""
    axis = Tokens(list("abcdef"))
    attention = make(queries=axis, keys=axis)
    page = explore(attention)
    opened = show(page)
    box = opened.tab.locator("#map").bounding_box()
    opened.tab.mouse.move(box["x"] + 4.5 / 6 * box["width"], box["y"] + 1.5 / 6 * box["height"])
    label, weight = opened.tab.locator("#readout").text_content().split(": ")
    assert label == "b → e"
    assert float(weight) == pytest.approx(float(attention[0, :, 1, 4].mean()), abs=page.error + 5e-4)
    assert opened.tab.locator("#asked").text_content() == "What “b” attends to"


def test_few_positions_are_named_beside_the_map(show: Any) -> None:
    """Unreadable labels are left out, and the map takes their space."""
    axis = Tokens(list("abcdef"))
    few, many = show(explore(make(queries=axis, keys=axis))), show(explore(make(shape=(1, 1, 60, 60))))
    assert few.colours("#left")[..., 3].any()
    assert few.colours("#top")[..., 3].any()
    assert not many.tab.locator("#left").is_visible()
