"""Pictures of what words attend to in an image of their text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from anylocal.attention import AttentionMap, AttentionMaps, Media, Patches, Tokens
from anylocal.errors import (
    ChoiceError,
    NameNotFoundError,
    OptionError,
    PositionError,
    ShapeError,
    StateError,
)
from anylocal_bert import plot

from .test_media import generated, given_of, media_of

TEXT = ["<s>", *["<img>"] * 6, "the", "wo", "man", "and", "the", "dog"]
WORDS = [*[None] * 7, 0, 1, 1, 2, 3, 4]
SPELLED = ["the", "woman", "and", "the", "dog"]
IMAGE = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    plt.close("all")


def media(first: int = 1, **options: Any) -> Media:
    return Media("image", range(first, first + 6), Patches((2, 3), prefix=(), image_size=(32, 48)), **options)


def axis_of(*items: Media, texts: int = 1) -> Tokens:
    options: dict[str, Any] = {"words": [WORDS] * texts, "spellings": [SPELLED] * texts}
    special = [[True, *[False] * 12]] * texts
    return Tokens([TEXT] * texts, special=special, media=items or [media()], **options)


def made(axis: Tokens | None = None, *, seed: int = 0, name: str = "layers.0") -> AttentionMap:
    axis = axis_of() if axis is None else axis
    weights = torch.rand(len(axis.texts), 2, 13, 13, generator=torch.Generator().manual_seed(seed))
    return AttentionMap.from_weights(weights / weights.sum(-1, keepdim=True), queries=axis, keys=axis, name=name)


def drawn(ax: Any) -> Any:
    return np.asarray(ax.images[1].get_array())


@pytest.mark.parametrize(
    ("query", "positions"),
    [
        ("dog", [12]),
        (12, [12]),
        (-1, [12]),
        ("woman", [8, 9]),
        ("woman and the", [8, 9, 10, 11]),
        (slice(8, 10), [8, 9]),
        (["woman", "dog"], [8, 9, 12]),
        ("man", [9]),
    ],
)
def test_the_weights_of_a_query_lie_where_the_patches_do(query: Any, positions: list[int]) -> None:
    """Of a token, a word, words in a row, positions or several of these, the mean."""
    attention = made()
    expected = attention.tensor()[0, :, positions, 1:7].mean((0, 1)).reshape(2, 3)
    np.testing.assert_allclose(drawn(plot.over_image(attention, IMAGE, query=query)), expected, rtol=1e-5)


def test_one_head() -> None:
    """Instead of the mean."""
    attention = made()
    expected = attention.tensor()[0, 1, 12, 1:7].reshape(2, 3)
    np.testing.assert_allclose(drawn(plot.over_image(attention, IMAGE, query="dog", head=1)), expected, rtol=1e-5)


def test_the_rows_that_wrote_a_word_are_those_before() -> None:
    """A model writes a token from the position before it."""
    attention = made()
    expected = attention.tensor()[0, :, 11, 1:7].mean(0).reshape(2, 3)
    np.testing.assert_allclose(drawn(plot.over_image(attention, IMAGE, query="dog", written=True)), expected, rtol=1e-5)
    with pytest.raises(PositionError, match="written by none"):
        plot.over_image(attention, IMAGE, query=0, written=True)


def test_the_mean_of_layers_without_those_of_other_parts() -> None:
    """Layers of the vision tower have no text; one of the others may be chosen, by its number or by its name."""
    tower = AttentionMap.from_weights(torch.eye(6)[None, None], name="tower")
    layers = [tower, made(seed=1, name="a"), made(seed=2, name="b")]
    rows = [layer.tensor()[0, :, 12, 1:7].mean(0).reshape(2, 3) for layer in layers[1:]]
    ax = plot.over_image(layers, IMAGE, query="dog")
    np.testing.assert_allclose(drawn(ax), (rows[0] + rows[1]) / 2, rtol=1e-5)
    assert "mean of 2 layers" in ax.get_title()
    for layer in (1, "b"):
        np.testing.assert_allclose(drawn(plot.over_image(layers, IMAGE, query="dog", layer=layer)), rows[1], rtol=1e-5)


def test_the_title_tells_how_much_is_on_the_image() -> None:
    """Most of a row is often on a special token, and a bright patch is bright among patches only."""
    attention = made()
    total = float(attention.tensor()[0, :, 12, 1:7].mean(0).sum())
    title = plot.over_image(attention, IMAGE, query="dog").get_title()
    assert f"query dog, {total:.2g}".replace(" 0.", " .") in title


def test_an_image_of_another_resolution_is_covered_whole() -> None:
    """The units are those of the picture that was given; a file may be given as well."""
    large = np.kron(IMAGE, np.ones((3, 3, 1), np.uint8))
    assert tuple(plot.over_image(made(), large, query="dog").images[1].get_extent()) == (0, 144, 96, 0)


def test_a_file(tmp_path: Path) -> None:
    """Its pixels are what is drawn."""
    Image.fromarray(IMAGE).save(tmp_path / "image.png")
    ax = plot.over_image(made(), tmp_path / "image.png", query="dog")
    assert tuple(ax.images[0].get_extent()) == (0, 48, 32, 0)


def test_another_crop_is_refused() -> None:
    """Without the model, its preprocessing is not known, and patches would lie in wrong places."""
    with pytest.raises(ShapeError, match="48 × 32 pixels, and the model saw 32 × 48"):
        plot.over_image(made(), IMAGE.transpose(1, 0, 2), query="dog")


def test_a_photograph_is_cropped_as_the_model_does() -> None:
    """LLaVA sees the middle of a wide photograph."""
    model, given = given_of("LLaVA")
    maps = generated(
        model,
        {name: value[1:] for name, value in given.items() if name != "pixel_values"}
        | {"pixel_values": given["pixel_values"][:1]},
    )
    photograph = np.zeros((16, 48, 3), np.uint8)
    photograph[:, 16:32] = 255
    ax = plot.over_image(maps, photograph, query=-1)
    assert tuple(ax.images[0].get_extent()) == (0, 16, 16, 0)
    assert np.asarray(ax.images[0].get_array()).min() > 0.9


def test_the_view_is_chosen() -> None:
    """Tiles by default, which are finer; the overview by its name."""
    tiles = Media("image", range(1, 5), Patches((2, 2), prefix=()), view="tiles")
    whole = Media("image", range(5, 7), Patches((1, 2), prefix=()), view="overview")
    attention = made(axis_of(whole, tiles))
    assert drawn(plot.over_image(attention, IMAGE, query="dog")).shape == (2, 2)
    assert drawn(plot.over_image(attention, IMAGE, query="dog", view="overview")).shape == (1, 2)
    with pytest.raises(NameNotFoundError, match="overview"):
        plot.over_image(attention, IMAGE, query="dog", view="over")


def test_tiles_without_places_must_be_chosen() -> None:
    """Which part of the image they are is not known."""
    parts = [Media("image", range(at, at + 3), Patches((1, 3), prefix=()), view=f"tile {at // 3}") for at in (1, 4)]
    with pytest.raises(ChoiceError, match="in 2 tiles, whose places its input does not tell"):
        plot.over_image(made(axis_of(*parts)), IMAGE, query="dog")
    assert drawn(plot.over_image(made(axis_of(*parts)), IMAGE, query="dog", view="tile 1")).shape == (1, 3)


def test_one_of_several_images_of_one_of_several_texts() -> None:
    """Each text has its own."""
    first = Media("image", range(1, 3), Patches((1, 2), prefix=()))
    axis = axis_of(first, Media("image", range(3, 7), Patches((2, 2), prefix=()), source=1, text=1), texts=2)
    attention = made(axis)
    expected = attention.tensor()[1, :, 12, 3:7].mean(0).reshape(2, 2)
    ax = plot.over_image(attention, IMAGE, query="dog", sample=1, source=1)
    np.testing.assert_allclose(drawn(ax), expected, rtol=1e-5)
    with pytest.raises(PositionError, match="Text 0 has no image 1"):
        plot.over_image(attention, IMAGE, query="dog", sample=0, source=1)
    with pytest.raises(ChoiceError, match="choose it by sample="):
        plot.over_image(attention, IMAGE, query="dog")


def test_a_word_that_occurs_twice_is_refused() -> None:
    """A token that occurs twice, and a word of several tokens."""
    with pytest.raises(ChoiceError, match=r"\[7, 11\]"):
        plot.over_image(made(), IMAGE, query="the")
    with pytest.raises(NameNotFoundError, match="'cat'"):
        plot.over_image(made(), IMAGE, query="cat")
    with pytest.raises(PositionError, match="no token"):
        plot.over_image(made(), IMAGE, query=[])


def test_maps_without_an_image_are_refused() -> None:
    """The message tells what the axis knows."""
    axis = Tokens(TEXT, media_unknown="no grid")
    with pytest.raises(StateError, match="media unknown: no grid"):
        plot.over_image(made(axis), IMAGE, query="dog")
    with pytest.raises(OptionError, match="got int"):
        plot.over_image(3, IMAGE, query="dog")  # type: ignore[arg-type]  # on purpose


def titles(figure: Any) -> list[str]:
    return [ax.get_title() for ax in figure.axes if ax.get_title() and ax.get_label() != "image"]


def test_a_panel_for_each_word_after_the_image() -> None:
    """Of several tokens, the mean."""
    attention = made()
    figure = plot.over_words(attention, IMAGE)
    assert titles(figure) == SPELLED
    expected = attention.tensor()[0, :, [8, 9], 1:7].mean((0, 1)).reshape(2, 3)
    np.testing.assert_allclose(drawn(figure.axes[1]), expected, rtol=1e-5)


def test_chosen_words() -> None:
    """By a slice of positions, or each by its name or position."""
    assert titles(plot.over_words(made(), IMAGE, queries=slice(8, None))) == ["woman", "and", "the", "dog"]
    assert titles(plot.over_words(made(), IMAGE, queries=["dog", 10])) == ["dog", "and"]
    with pytest.raises(PositionError, match="no word to draw"):
        plot.over_words(made(), IMAGE, queries=[])


@pytest.mark.parametrize("name", ["LLaVA", "Qwen2-VL"])
@pytest.mark.parametrize("sample", [0, 1])
def test_the_words_of_a_generated_answer(name: str, sample: int) -> None:
    """Its steps are joined, and its panels are those of the tokens that it has read."""
    model, given = given_of(name)
    maps = generated(model, given)
    joined = [each for each in AttentionMaps(maps).generation() if isinstance(each.keys, Tokens)]
    height, width = (32, 16) if name == "Qwen2-VL" and not sample else (16, 16)
    figure = plot.over_words(maps, np.zeros((height, width, 3), np.uint8), sample=sample, source=1 - sample)
    answer = [joined[0].keys.label(position, sample) for position in (-2, -1)]
    assert titles(figure) == answer
    item = next(m for m in media_of(joined[0]) if (m.text, m.source) == (sample, 1 - sample))
    expected = np.mean([item.picture(layer.tensor()[sample, :, -1].mean(0)) for layer in joined], axis=0)
    np.testing.assert_allclose(drawn(figure.axes[1]), expected, rtol=1e-4)
