"""A ViT with real weights on real photographs: the weights are right, and every head can be read."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from functools import cache
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import timm
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from anylocal.drawing import Photograph, array_of, scale_of
from anylocal.errors import DependencyError, ShapeError
from anylocal.store import load, save
from anylocal_vit import capture_attention, dinov2, photograph, plot

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anylocal.attention import AttentionMap, AttentionMaps

data = pytest.importorskip("skimage.data", reason="the photographs are in scikit-image")
pytest.importorskip("onnx", reason="the weights are read with onnx")
try:
    dinov2.onnx_file()
except DependencyError as error:
    pytest.skip(str(error), allow_module_level=True)

NAMES = ["astronaut", "chelsea"]
SIZES = [224, 518]


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    yield
    plt.close("all")


@cache
def timm_model(size: int = 518) -> Any:
    return dinov2.load_timm(size)


def source(name: str) -> Any:
    """Return a photograph in its original size, an array."""
    return getattr(data, name)()


def look(model: Any, photo: Photograph) -> AttentionMaps:
    with capture_attention(model) as maps, torch.no_grad():
        model(photo.tensor)
    return maps


@cache
def looked(name: str, size: int = 224) -> tuple[AttentionMaps, Photograph]:
    photo = photograph(timm_model(size), source(name))
    assert photo.pixels.shape == (size, size, 3)
    return look(timm_model(size), photo), photo


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_every_head_can_be_read(name: str, size: int) -> None:
    """Where a class token or a sink takes nearly all weight, the scale is still that of the patches.

    In at least 95 % of the panels, 2 % to 40 % of the patches are above half of the scale, which ends above the 97th
    percentile.
    """
    maps, _ = looked(name, size)
    side = size // 14
    legible = []
    for layer in maps:
        for query in ("cls", (side // 2, side // 2), (side // 4, side // 3), (side - 2, side // 2)):
            for row in layer[0, :, layer.queries.position(query)]:
                patches = array_of(row)[-(side**2) :]
                top = scale_of(None, [patches]).vmax
                assert top is not None
                share = (patches > top / 2).mean()
                legible.append(0.02 <= share <= 0.4 and top >= np.quantile(patches, 0.97))
    assert len(legible) == 12 * 6 * 4
    assert np.mean(legible) >= 0.95


def test_the_scale_is_that_of_the_picture() -> None:
    """The panels of a recipe have the scale of their own patches."""
    maps, photo = looked("astronaut")
    figure = plot.over_heads(maps[11], photo)
    for head, ax in enumerate(figure.axes[:6]):
        patches = array_of(maps[11][0, head, 0])[1:]
        assert ax.images[1].norm.vmax == scale_of(None, [patches]).vmax
        assert ax.images[1].norm.vmax < array_of(maps[11][0, head, 0]).max()


def test_all_weights_are_there() -> None:
    """None is missing, and none is left over."""
    model = timm_model()
    assert model.load_state_dict(dinov2.state_dict(), strict=True) == ([], [])


@cache
def transformers_model() -> Any:
    pytest.importorskip("transformers")
    return dinov2.load_transformers(attn_implementation="eager")


def test_two_libraries_agree() -> None:
    """Features of timm's model and of transformers' are the same, at the size of the weights."""
    theirs = transformers_model()
    tensor = photograph(timm_model(), source("astronaut")).tensor
    with torch.no_grad():
        ours = timm_model().forward_features(tensor)
        expected = theirs(tensor).last_hidden_state
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)
    # They are features of a photograph, not noise that any weights would make.
    similar = torch.nn.functional.cosine_similarity(ours[0, 1:], ours[0, 1:].roll(1, 0)).mean()
    assert similar > torch.nn.functional.cosine_similarity(ours[0, 1:], ours[0, 1:].flip(0)).mean() + 0.1


def drawn(maps: AttentionMaps, image: Any, recipe: str = "query") -> Any:
    """Return the pixels that a recipe draws below weights that let them through."""
    figure = Figure()
    FigureCanvasAgg(figure)
    if recipe == "query":
        plot.query(maps[11], image, query="cls", alpha=0, ax=figure.subplots())
    elif recipe == "rollout":
        plot.rollout(maps, image, alpha=0, ax=figure.subplots())
    elif recipe == "over_heads":
        plot.over_heads(maps[11], image, alpha=0, figure=figure)
    else:
        getattr(plot, recipe)(maps, image, alpha=0, layers=[0, 11], figure=figure)
    return np.asarray(figure.axes[0].images[0].get_array())


@pytest.mark.parametrize("recipe", ["query", "rollout", "over_heads", "over_layers", "grid"])
@pytest.mark.parametrize("kind", ["path", "str", "pillow", "array", "photograph", "pixels"])
def test_photographs_of_any_kind(tmp_path: Path, kind: str, recipe: str) -> None:
    """Files, PIL images and arrays in their own size are drawn as the model saw them, pixel by pixel."""
    maps, photo = looked("chelsea")
    original = source("chelsea")
    assert original.shape[:2] != photo.pixels.shape[:2]
    if kind in {"path", "str"}:
        Image.fromarray(original).save(tmp_path / "cat.png")
    image = {
        "path": tmp_path / "cat.png",
        "str": str(tmp_path / "cat.png"),
        "pillow": Image.fromarray(original),
        "array": original,
        "photograph": photo,
        "pixels": photo.pixels,
    }[kind]
    np.testing.assert_array_equal(drawn(maps, image, recipe), photo.pixels / 255)


def test_another_size_than_the_models_own() -> None:
    """The size is that of the forward pass that is drawn."""
    model = timm_model(518)
    photo = photograph(model, source("chelsea"), size=(140, 182))
    maps = look(model, photo)
    np.testing.assert_array_equal(drawn(maps, source("chelsea")), photo.pixels / 255)


def test_a_tensor_of_another_size() -> None:
    """A tensor is what some model was given: it is not resized."""
    maps, _ = looked("chelsea")
    with pytest.raises(ShapeError, match="is 300 × 451 pixels, and the model saw 224 × 224; give what the model was"):
        drawn(maps, torch.zeros(3, 300, 451))


def tiny() -> tuple[Any, AttentionMap]:
    """Return a model with random weights, which nothing else refers to, and its only map."""
    model = timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=0).eval()
    return model, look(model, photograph(model, source("chelsea")))[0]


def test_a_map_does_not_keep_the_model() -> None:
    """When the model is gone, a file cannot be prepared any more, and the message says what to give."""
    model, attention = tiny()
    there = weakref.ref(model)
    assert attention.model is model
    del model
    gc.collect()
    assert there() is None
    assert attention.model is None
    message = r"The image is 300 × 451 pixels, .*; give what the model was given, such as anylocal_vit\.photograph\("
    with pytest.raises(ShapeError, match=message):
        plot.query(attention, source("chelsea"), query="cls")
    with pytest.raises(ShapeError, match=r"'cat\.png' is a file; give what the model was given"):
        plot.query(attention, "cat.png", query="cls")


def test_maps_from_a_file_know_no_model(tmp_path: Path) -> None:
    """Their pictures need the image as the model saw it."""
    model, attention = tiny()
    (loaded,) = load(save(attention, tmp_path / "maps.safetensors"))
    assert loaded.model is None
    with pytest.raises(ShapeError, match="give what the model was given"):
        plot.query(loaded, source("chelsea"), query="cls")
    photo = photograph(model, source("chelsea"))
    ax = plot.query(loaded, photo, query="cls", alpha=0)
    np.testing.assert_array_equal(np.asarray(ax.images[0].get_array()), photo.pixels / 255)


def pickled(attention: Any) -> Any:
    return pickle.loads(pickle.dumps(attention))  # noqa: S301  # our own


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickled])
def test_copies_of_a_map_refer_to_no_model(duplicate: Any) -> None:
    """A weak reference cannot be pickled: a copy has none, and all else."""
    model, attention = tiny()
    assert attention.model is model
    other = duplicate(attention)
    assert other.model is None
    assert (other.name, other.keys) == (attention.name, attention.keys)
    torch.testing.assert_close(other[0, 0], attention[0, 0])


def test_a_photograph_for_transformers() -> None:
    """Their image processor's crop and statistics, in the size that is asked for."""
    model = transformers_model()
    photo = photograph(model, source("chelsea"), size=224)
    assert photo.pixels.shape == (224, 224, 3)
    assert photo.tensor.shape == (1, 3, 224, 224)
    normalised = (photo.pixels / 255 - np.array(dinov2.MEAN)) / np.array(dinov2.STD)
    np.testing.assert_allclose(photo.tensor[0].permute(1, 2, 0), normalised, atol=1e-5)
    # The photograph is upright and in colour: about what timm's own preprocessing makes.
    other = photograph(timm_model(224), source("chelsea")).pixels
    assert np.corrcoef(photo.pixels.ravel(), other.ravel())[0, 1] > 0.8


def test_the_default_size_of_transformers() -> None:
    """Without a size, it is that of the model's configuration."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=(64, 96)
    )
    model = transformers.ViTModel(config)
    photo = photograph(model, source("chelsea"))
    assert photo.pixels.shape == (64, 96, 3)
    with torch.no_grad():
        assert model(photo.tensor).last_hidden_state.shape == (1, 1 + 4 * 6, 8)
    assert photograph(transformer_of(config, image_size=32), source("chelsea")).pixels.shape == (32, 32, 3)


def transformer_of(config: Any, **changes: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.ViTModel(transformers.ViTConfig.from_dict({**config.to_dict(), **changes}))


def test_a_batch_of_photographs() -> None:
    """A list makes a batch, whose photographs may be of several sizes, and each sample has its own."""
    model = timm_model(224)
    photo = photograph(model, [source("astronaut"), Image.fromarray(source("chelsea"))])
    assert (photo.pixels.shape, photo.tensor.shape) == ((2, 224, 224, 3), (2, 3, 224, 224))
    for number, name in enumerate(NAMES):
        torch.testing.assert_close(photo.tensor[number], photograph(model, source(name)).tensor[0])
    ax = plot.query(look(model, photo)[0], photo, query="cls", sample=1, alpha=0)
    np.testing.assert_array_equal(np.asarray(ax.images[0].get_array()), photo.pixels[1] / 255)


def test_photographs_are_named_in_a_line() -> None:
    """Not by all of their pixels."""
    model = timm_model(224)
    assert repr(photograph(model, source("chelsea"), size=(28, 42))) == "Photograph(28 × 42 pixels)"
    assert repr(photograph(model, [source("chelsea")] * 2, size=28)) == "Photograph(2 of 28 × 28 pixels)"


def test_a_photograph_is_seen_in_a_notebook() -> None:
    """Several stand side by side, as the model sees them."""
    photo = photograph(timm_model(224), [source("chelsea"), source("astronaut")], size=(28, 42))
    picture = np.asarray(Image.open(io.BytesIO(photo._repr_png_())))
    np.testing.assert_array_equal(picture[:, :42], photo.pixels[0])
    np.testing.assert_array_equal(picture[:, 42:], photo.pixels[1])
