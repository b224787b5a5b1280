"""Images within a text on the page: the weights over their patches, and the words that attend to a patch."""

from __future__ import annotations

import base64
from io import BytesIO
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

import matplotlib as mpl
import torch
from PIL import Image

from anylocal._drawing.overlay import OVER_IMAGE, overlay_colormap
from anylocal._drawing.scale import top_of
from anylocal.attention import AttentionMap, AttentionMaps, Media, Patches, PlacedPatches, Tokens
from anylocal.errors import OptionError, ShapeError
from anylocal.view import explore

from .test_view import content
from .test_view_access import axe
from .test_view_save import SVG, saved

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Browser
    from playwright.sync_api import Page as Tab

TEXT = ["<s>", *["<img>"] * 6, "the", "<b>cat</b>", *["<img>"] * 4, "and", "dog"]
"""Two images, of 2 × 3 and 2 × 2 patches."""

FIRST, SECOND = range(1, 7), range(9, 13)


def media(text: int = 0, **options: Any) -> list[Media]:
    return [
        Media("image", FIRST, Patches((2, 3), prefix=(), image_size=(32, 48)), text=text, **options),
        Media("image", SECOND, Patches((2, 2), prefix=(), image_size=(32, 32)), source=1, text=text, **options),
    ]


def axis_of(items: list[Media], texts: int = 1, **options: Any) -> Tokens:
    special = [[text in {"<s>", "<img>"} for text in TEXT]] * texts
    return Tokens([TEXT] * texts, special=special, media=items, **options)


def make(axis: Tokens, *, seed: int = 0, heads: int = 2, keys: Tokens | None = None, **options: Any) -> AttentionMap:
    generator = torch.Generator().manual_seed(seed)
    keys = axis if keys is None else keys
    scores = 2 * torch.randn(len(keys.texts), heads, len(axis), len(keys), generator=generator)
    return AttentionMap.from_weights(scores.softmax(-1), name="layer", queries=axis, keys=keys, **options)


GREY = [np.full((32, 48, 3), 100, np.uint8), np.full((32, 32, 3), 100, np.uint8)]


def painted(weights: np.ndarray[Any, Any], top: float, ground: float = 100) -> np.ndarray[Any, Any]:
    """Return the colours of weights over a grey image: (rows, columns, 3)."""
    colours = np.asarray(overlay_colormap(OVER_IMAGE)(np.clip(weights / top, 0, 1)))
    opacity = colours[..., 3:]
    return np.asarray(255 * colours[..., :3] * opacity + ground * (1 - opacity))


def middles(found: np.ndarray[Any, Any], grid: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Return the colours of the cells of a picture, a quarter from their corners: a line may end in their middles."""
    high, wide, _ = found.shape
    rows, columns = ((np.arange(count) + 0.25) * size / count for count, size in zip(grid, (high, wide), strict=True))
    return np.asarray(found[rows.astype(int)][:, columns.astype(int), :3])


def wait(tab: Tab, text: str) -> None:
    tab.wait_for_function("text => document.getElementById('asked').textContent === text", arg=text)


def pointed(tab: Tab, number: int, grid: tuple[int, int], place: tuple[int, int]) -> None:
    """Point at the middle of a patch of an image."""
    tab.locator("#to .media canvas").nth(number).scroll_into_view_if_needed()
    box = tab.locator("#to .media canvas").nth(number).bounding_box()
    assert box is not None
    tab.mouse.move(
        *(
            start + (at + 0.5) * size / count
            for start, at, size, count in zip(
                (box["x"], box["y"]), place[::-1], (box["width"], box["height"]), grid[::-1], strict=True
            )
        )
    )


@pytest.mark.parametrize("head", [1, "mean", "max"])
def test_a_word_lights_the_images_by_its_weights(show: Any, pixels: Any, head: int | str) -> None:
    """Over each patch lies the map's own weight, on one scale of all patches of the text."""
    attention = make(axis_of(media()))
    tab = show(explore(attention, images=GREY))
    tab.evaluate("head => anylocal.setState({head, strongest: 0})", head)
    tab.locator("#to .token", has_text="dog").hover()
    wait(tab, "What “dog” attends to")
    weights = attention.numpy()[0, :, 14]
    row = {"mean": weights.mean(0), "max": weights.max(0)}.get(str(head), weights[1])
    top = top_of(row[[*FIRST, *SECOND]])
    for number, (positions, grid) in enumerate([(FIRST, (2, 3)), (SECOND, (2, 2))]):
        found = middles(pixels(tab, f"#to .media div:nth-child({number + 1}) canvas"), grid)
        assert np.abs(found - painted(row[list(positions)].reshape(grid), top)).max() <= 6
    assert float(tab.locator("#images-ramp").get_attribute("data-top")) == pytest.approx(top, rel=0.02)


def test_the_name_of_an_image_tells_its_share(show: Any) -> None:
    """How much of the word's attention is on it; of maxima and of what attends to a key there is no share."""
    attention = make(axis_of(media()))
    tab = show(explore(attention, images=GREY))
    tab.locator("#to .token", has_text="dog").hover()
    wait(tab, "What “dog” attends to")
    share = attention.numpy()[0, :, 14].mean(0)[list(SECOND)].sum()
    name, number = tab.locator("#to .media h3").nth(1).text_content().removesuffix(" of the attention").split(": ")
    assert name == "image 1"
    assert float(number) == pytest.approx(share, abs=0.005)
    tab.evaluate("anylocal.setState({head: 'max'})")
    assert tab.locator("#to .media h3").all_text_contents() == ["image 0", "image 1"]


def test_pointing_at_a_patch_lights_what_attends_to_it(show: Any, pixels: Any) -> None:
    """The column of its token: in the list, and over the words; a click shows what the patch attends to."""
    attention = make(axis_of(media()))
    page = explore(attention, images=GREY)
    tab = show(page)
    pointed(tab, 0, (2, 3), (1, 2))
    wait(tab, "What attends to patch (1, 2) of image 0")
    column = attention.numpy()[0].mean(0)[:, 6]
    rows = [text.rsplit(None, 1) for text in tab.locator("#list li").all_text_contents()]
    labels = ["<s>", *(f"image 0 ({at // 3}, {at % 3})" for at in range(6)), "the", "<b>cat</b>"]
    labels += [*(f"image 1 ({at // 2}, {at % 2})" for at in range(4)), "and", "dog"]
    order = column.argsort()[::-1][:5]
    assert [label.strip() for label, _ in rows] == [labels[at] for at in order]
    assert [float(weight) for _, weight in rows] == pytest.approx(column[order], abs=page.error + 5e-4)
    # The first image has the frame around the patch.
    expected = painted(column[list(SECOND)].reshape(2, 2), top_of(column[[*FIRST, *SECOND]]))
    tab.evaluate("anylocal.setState({strongest: 0})")
    found = middles(pixels(tab, "#to .media div:nth-child(2) canvas"), (2, 2))
    assert np.abs(found - expected).max() <= 6
    tab.mouse.down()
    tab.mouse.up()
    wait(tab, "What patch (1, 2) of image 0 attends to")
    assert tab.evaluate("anylocal.state().query") == 6


def test_after_a_patch_a_word_shows_what_it_attends_to(show: Any) -> None:
    """Unless the reader asked for what attends to words, by the list, a script or a link."""
    tab = show(explore(make(axis_of(media())), images=GREY))
    pointed(tab, 1, (2, 2), (0, 1))
    wait(tab, "What attends to patch (0, 1) of image 1")
    assert tab.locator("#way").input_value() == "key"
    assert tab.locator("#query-name").text_content() == "Key"
    tab.locator("#to .token", has_text="the").hover()
    wait(tab, "What “the” attends to")
    tab.locator("#way").select_option("key")
    tab.locator("#to .token", has_text="dog").hover()
    wait(tab, "What attends to “dog”")


def test_a_clicked_patch_stays_until_the_pointer_leaves_it(show: Any) -> None:
    """A hand is never still."""
    tab = show(explore(make(axis_of(media())), images=GREY))
    pointed(tab, 0, (2, 3), (0, 1))
    tab.mouse.down()
    tab.mouse.up()
    wait(tab, "What patch (0, 1) of image 0 attends to")
    box = tab.locator("#to .media canvas").first.bounding_box()
    tab.mouse.move(box["x"] + 0.52 * box["width"], box["y"] + 0.27 * box["height"])
    assert tab.evaluate("anylocal.state().way") == "query"
    pointed(tab, 0, (2, 3), (0, 2))
    wait(tab, "What attends to patch (0, 2) of image 0")


def test_a_finger_shows_what_attends_to_a_patch(chromium: Browser, tmp_path: Path) -> None:
    """A tap is what pointing is."""
    tab = chromium.new_page(has_touch=True)
    tab.goto(explore(make(axis_of(media())), images=GREY).save(tmp_path / "page.html").as_uri())
    tab.wait_for_selector("html[data-drawn]")
    tab.locator("#to .media canvas").nth(1).tap(position={"x": 3, "y": 3})
    wait(tab, "What attends to patch (0, 0) of image 1")
    tab.close()


@pytest.mark.parametrize(
    ("items", "query"), [(media(), 14), (media()[:1], 11), ([Media("image", range(9, 15), Patches((2, 3), ()))], 5)]
)
def test_the_page_begins_with_a_word_about_the_images(items: list[Media], query: int) -> None:
    """In the middle of those after the last image, or before it where none are after it."""
    plain = Tokens(TEXT, special=[text == "<s>" for text in TEXT], media=items)
    assert content(explore(make(plain)))["start"]["query"] == query


def test_patches_are_chosen_by_keyboard(show: Any) -> None:
    """Arrow keys move within an image, Enter shows what the patch attends to; words are moved along as well."""
    tab = show(explore(make(axis_of(media())), images=GREY))
    tab.locator("#stage").get_by_role("application", name="image 0, 2 × 3 patches: arrow keys choose a patch").focus()
    tab.keyboard.press("ArrowDown")
    wait(tab, "What attends to patch (0, 0) of image 0")
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowDown"):
        tab.keyboard.press(key)
    wait(tab, "What attends to patch (1, 2) of image 0")
    tab.keyboard.press("Enter")
    wait(tab, "What patch (1, 2) of image 0 attends to")
    tab.locator("#to .tokens").focus()
    tab.keyboard.press("ArrowRight")
    wait(tab, "What “the” attends to")
    tab.keyboard.press("ArrowLeft")
    wait(tab, "What “<s>” attends to")


def test_tokens_of_images_are_not_repeated_in_the_text(show: Any) -> None:
    """In their place stands the name of the image; hostile tokens stay text, and merged words leave patches alone."""
    words = [None, *[0] * 6, 1, 1, *[2] * 4, 3, 4]
    tab = show(explore(make(axis_of(media(), words=[words])), images=GREY))
    line = tab.locator("#to .tokens > *")
    assert line.all_text_contents() == ["<s>", "image 0", "the", "<b>cat</b>", "image 1", "and", "dog"]
    tab.locator("#words").set_checked(True)
    tab.wait_for_function("() => document.querySelectorAll('#to .token').length === 4")
    assert line.all_text_contents() == ["<s>", "image 0", "the<b>cat</b>", "image 1", "and", "dog"]
    pointed(tab, 0, (2, 3), (1, 2))
    wait(tab, "What attends to patch (1, 2) of image 0")


def test_hidden_special_tokens_are_not_the_patches(show: Any) -> None:
    """A tokenizer calls its placeholder special; the patches stay."""
    tab = show(explore(make(axis_of(media())), images=GREY))
    tab.locator("#special").set_checked(True)
    tab.wait_for_function("() => document.querySelectorAll('#to .token').length === 4")
    pointed(tab, 0, (2, 3), (0, 0))
    wait(tab, "What attends to patch (0, 0) of image 0")


def test_without_images_the_grids_are_drawn(show: Any, pixels: Any) -> None:
    """On an empty ground, in the colours of maps."""
    attention = make(axis_of(media()))
    tab = show(explore(attention))
    tab.evaluate("anylocal.setState({query: 14, strongest: 0})")
    row = attention.numpy()[0, :, 14].mean(0)
    colours = mpl.colormaps["magma"](np.clip(row[list(FIRST)] / top_of(row[[*FIRST, *SECOND]]), 0, 1))
    found = middles(pixels(tab, "#to .media div:nth-child(1) canvas"), (2, 3))
    assert np.abs(found - 255 * np.asarray(colours)[:, :3].reshape(2, 3, 3)).max() <= 6


def test_each_text_of_a_batch_has_its_images(show: Any, pixels: Any) -> None:
    """A text without images has none, and one that is chosen alone takes its own."""
    items = [*media(), *media(text=2)[:1]]
    attention = make(axis_of(items, texts=3))
    light = np.full((32, 48, 3), 250, np.uint8)
    page = explore(attention, images=[GREY, [], [light]])
    tab = show(page)
    assert tab.locator("#to .media canvas").count() == 2
    tab.evaluate("anylocal.setState({sample: 1})")
    assert not tab.locator("#to .media").is_visible()
    assert tab.locator("#to .token").count() == len(TEXT)
    tab.evaluate("anylocal.setState({sample: 2, strongest: 0, query: 0})")
    row = attention.numpy()[2, :, 0].mean(0)[list(FIRST)]
    found = middles(pixels(tab, "#to .media canvas"), (2, 3))
    assert np.abs(found - painted(row.reshape(2, 3), top_of(row), ground=250)).max() <= 6
    flat, alone = (explore(attention, samples=2, images=given) for given in ([*GREY, light], light))
    assert content(flat)["pictures"] == content(alone)["pictures"] == content(page)["pictures"][2:]


def test_views_of_an_image_have_their_own_grids(show: Any) -> None:
    """The overview and the tiles are drawn over the same image; tiles in unknown places, and frames, over none."""
    size = {"prefix": (), "image_size": (32, 48)}
    items = [
        Media("image", range(1, 3), Patches((1, 2), **size), view="overview"),  # type: ignore[arg-type]  # as it says
        Media("image", range(3, 7), Patches((2, 2), **size), view="tiles"),  # type: ignore[arg-type]  # as it says
        Media("image", range(9, 11), Patches((1, 2), prefix=()), source=1, view="tile 0"),
        Media("image", [13], Patches((1, 1), prefix=()), source=1, view="overview"),
        Media("video", range(11, 13), Patches((1, 1), prefix=()), frames=2),
    ]
    page = explore(make(axis_of(items)), images=GREY)
    views = content(page)["axes"][0]["media"][0]
    assert [(view["name"], view["picture"]) for view in views] == [
        ("image 0 overview", 0),
        ("image 0 tiles", 0),
        ("image 1 tile 0", None),
        ("image 1 overview", 1),
        ("video 0 frame 0", None),
        ("video 0 frame 1", None),
    ]
    tab = show(page)
    assert tab.locator("#to .media h3").count() == 6
    pointed(tab, 5, (1, 1), (0, 0))
    wait(tab, "What attends to patch (0, 0) of video 0 frame 1")


def test_an_overview_is_drawn_over_the_whole_image(show: Any) -> None:
    """Also where the model squeezed it into a square."""
    items = [
        Media("image", range(1, 3), Patches((1, 2), prefix=(), image_size=(16, 16)), view="overview"),
        Media("image", range(3, 7), Patches((2, 2), prefix=(), image_size=(32, 48)), view="tiles"),
    ]
    page = explore(make(axis_of(items)), images=GREY[0])
    assert [(view["size"], view["picture"]) for view in content(page)["axes"][0]["media"][0]] == [([32, 48], 0)] * 2
    tab = show(page)
    boxes = [tab.locator("#to .media canvas").nth(at).bounding_box() for at in (0, 1)]
    assert boxes[0]["height"] == pytest.approx(boxes[1]["height"], abs=1)


def test_another_side_may_be_pointed_at(show: Any) -> None:
    """Queries after the images, as in a step of a generation: a patch shows which of them attend to it."""
    queries = Tokens(["and", "dog"], start=13)
    attention = make(queries, keys=axis_of(media()))
    page = explore(attention, images=GREY)
    tab = show(page)
    pointed(tab, 0, (2, 3), (1, 0))
    wait(tab, "What attends to patch (1, 0) of image 0")
    column = attention.numpy()[0].mean(0)[:, 4]
    rows = dict(text.rsplit(None, 1) for text in tab.locator("#list li").all_text_contents())
    found = {label.strip(): float(weight) for label, weight in rows.items()}
    assert found == pytest.approx({"and": column[0], "dog": column[1]}, abs=page.error + 5e-4)
    tab.locator("#from .token", has_text="dog").hover()
    wait(tab, "What “dog” attends to")


def test_two_captures_have_their_own_images(show: Any, pixels: Any) -> None:
    """Side by side, each over its own, and on one scale."""
    axis = axis_of(media())
    dark = [np.zeros_like(each) for each in GREY]
    one, two = make(axis, seed=1), make(axis, seed=2)
    tab = show(explore(one, two, images=GREY, other_images=dark))
    tab.evaluate("anylocal.setState({query: 14, strongest: 0})")
    rows = [each.numpy()[0, :, 14].mean(0)[[*FIRST, *SECOND]] for each in (one, two)]
    top = top_of(np.concatenate(rows))
    for side, row, ground in zip("ab", rows, (100, 0), strict=True):
        found = middles(pixels(tab, f"#{side}-to .media div:nth-child(1) canvas"), (2, 3))
        assert np.abs(found - painted(row[:6].reshape(2, 3), top, ground=ground)).max() <= 6
    tab.evaluate("anylocal.setState({side: 'b'})")
    row = rows[1]
    found = middles(pixels(tab, "#to .media div:nth-child(1) canvas"), (2, 3))
    assert np.abs(found - painted(row[:6].reshape(2, 3), top_of(row), ground=0)).max() <= 16


def test_the_images_are_in_the_file_of_the_picture(show: Any) -> None:
    """Under their names, and with the legend of their scale."""
    tab = show(explore(make(axis_of(media())), images=GREY))
    root = ET.parse(saved(tab, "svg")).getroot()  # noqa: S314  # what our own page wrote
    texts = [node.text or "" for node in root.iter(f"{SVG}text")]
    assert sum(text.startswith(("image 0: ", "image 1: ")) for text in texts) == 2
    assert {"image 0", "image 1", "Images:"} <= set(texts)
    plain = show(explore(make(axis_of([]))))
    root = ET.parse(saved(plain, "svg")).getroot()  # noqa: S314  # as above
    assert "Images:" not in {node.text for node in root.iter(f"{SVG}text")}


@pytest.mark.parametrize("placed", [False, True])
def test_the_layers_of_a_vision_tower_have_the_image_too(*, placed: bool) -> None:
    """Where the text has one image, it is that of the tower's patches; of several it is not told which."""
    size = (32, 48)
    in_rows, in_order = Patches((2, 3), prefix=(), image_size=size), [[0, 3, 1, 4, 2, 5]]
    tower = PlacedPatches((2, 3), in_order, image_size=size) if placed else in_rows
    seen = AttentionMap.from_weights(torch.rand(1, 2, 6, 6).softmax(-1), name="tower", queries=tower, keys=tower)
    one, two = make(axis_of(media()[:1])), make(axis_of(media()))
    page = content(explore(AttentionMaps([seen, one]), images=GREY[0]))
    assert page["images"] == page["pictures"]
    assert content(explore(AttentionMaps([seen, two]), images=GREY))["images"] == []


def test_a_tower_with_a_batch_of_images_is_left_out() -> None:
    """The page is of the texts, unless layers are chosen."""
    seen = AttentionMap.from_weights(torch.rand(2, 2, 6, 6).softmax(-1), name="tower")
    maps = AttentionMaps([seen, make(axis_of(media()))])
    assert [layer["name"] for layer in content(explore(maps, images=GREY))["layers"]] == ["layer"]
    assert [layer["name"] for layer in content(explore(maps, layers="tower"))["layers"]] == ["tower"]


def test_a_sound_stays_tokens() -> None:
    """It is no picture, and its frames are named in the text."""
    sound = Media("audio", range(2, 6), Patches((1, 4), prefix=()), seconds=0.5)
    (axis,) = content(explore(make(axis_of([sound]))))["axes"]
    assert "media" not in axis


def test_a_large_photograph_is_made_smaller() -> None:
    """It is drawn at most 460 pixels wide."""
    large = np.zeros((1200, 1800, 3), np.uint8)
    (url,) = content(explore(make(axis_of(media()[:1])), images=large))["pictures"]
    assert Image.open(BytesIO(base64.b64decode(url.split(",")[1]))).size == (920, 613)


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (GREY[:1], "images= has 1 images and the maps have 2; give a list of the images of each text"),
        ([[GREY[0]]], "images= has 1 images and the maps have 2;"),
        ([GREY, GREY], "images= has 2, 2 images and the maps have 2;"),
        (GREY[::-1], "The image is 32 × 32 pixels, and the model saw 32 × 48; give what it was given"),
    ],
    ids=["too few", "nested", "another text", "another order"],
)
def test_other_images_are_refused(images: Any, told: str) -> None:
    """The message tells how many there are."""
    with pytest.raises(ShapeError) as caught:
        explore(make(axis_of(media())), images=images)
    assert told in str(caught.value)


def test_images_of_a_text_without_any_are_refused() -> None:
    """As before."""
    with pytest.raises(OptionError, match="are not patches; leave images= out"):
        explore(make(axis_of([])), images=GREY)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation_beside_images(chromium: Browser, tmp_path: Path, scheme: Any) -> None:
    """Names, roles and contrast; and nothing is wider than a phone."""
    script = axe()
    page = explore(make(axis_of(media())), images=GREY)
    tab = chromium.new_page(color_scheme=scheme, viewport={"width": 390, "height": 844})
    tab.goto(page.save(tmp_path / "page.html").as_uri())
    tab.wait_for_selector("html[data-drawn]")
    tab.evaluate(script)
    ask = "axe.run().then(found => found.violations.map(({ id, nodes }) => [id, nodes.map(({ html }) => html)]))"
    assert tab.evaluate(ask) == []
    assert tab.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    tab.close()
