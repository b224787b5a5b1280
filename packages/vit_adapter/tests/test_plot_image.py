"""Every type of image is drawn as the same pixels."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from anylocal._drawing.image import LUMA, pixels_of
from anylocal.attention import AttentionMap, Patches
from anylocal.errors import OptionError, ShapeError
from anylocal_vit import plot

BYTES = np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)
UNIT = BYTES / 255
FIRST = np.ascontiguousarray(BYTES.transpose(2, 0, 1))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize(
    "image",
    [
        BYTES,
        UNIT,
        UNIT.astype(np.float32),
        FIRST,
        BYTES[None],
        np.dstack([BYTES, BYTES[..., :1]]),
        (BYTES.astype(np.uint16) * 257),
        torch.from_numpy(FIRST),
        torch.from_numpy(FIRST)[None],
        torch.from_numpy(FIRST / 255).requires_grad_(),
        torch.from_numpy(BYTES),
        Image.fromarray(BYTES),
        Image.fromarray(BYTES).convert("RGBA"),
        SimpleNamespace(pixels=BYTES, tensor=None),
    ],
    ids=lambda image: f"{type(image).__name__} {getattr(image, 'shape', getattr(image, 'mode', ''))}",
)
def test_colour(image: Any) -> None:
    """Bytes, floats between 0 and 1, channels first or last, batches of one, PIL images, photographs."""
    np.testing.assert_allclose(pixels_of(image), UNIT, atol=1e-6)


@pytest.mark.parametrize(
    "image",
    [
        BYTES[..., 0],
        BYTES[..., :1],
        FIRST[:1],
        torch.from_numpy(FIRST[0]),
        torch.from_numpy(FIRST[:1]),
        torch.from_numpy(FIRST[:1])[None],
        Image.fromarray(BYTES[..., 0]),
    ],
    ids=lambda image: f"{type(image).__name__} {getattr(image, 'shape', '')}",
)
def test_one_colour(image: Any) -> None:
    """Grey images have no channel axis, or one of length 1."""
    np.testing.assert_allclose(pixels_of(image), UNIT[..., 0])


def test_palette() -> None:
    """A PIL image with a palette is drawn in its colours, not their indices."""
    image = Image.fromarray(BYTES).convert("P")
    np.testing.assert_allclose(pixels_of(image), np.asarray(image.convert("RGB")) / 255)


def test_mask() -> None:
    """False is black and True is white."""
    np.testing.assert_array_equal(pixels_of(np.eye(4, dtype=bool)), np.eye(4))


def test_tensor_as_high_as_an_image_has_colours() -> None:
    """The first axis of a tensor is the channels, as in torch, even where the last one could be."""
    assert pixels_of(torch.zeros(3, 8, 3)).shape == (8, 3, 3)
    assert pixels_of(np.zeros((3, 8, 3))).shape == (3, 8, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_normalised_without_statistics(dtype: torch.dtype) -> None:
    """A normalised image is scaled to its own range."""
    pixels = pixels_of(normalised().to(dtype))
    assert [0, 1] == [pixels.min(), pixels.max()]
    assert np.corrcoef(pixels.ravel(), UNIT.ravel())[0, 1] > 0.95


@pytest.mark.parametrize("of", [tuple, np.array, torch.tensor])
def test_normalised_with_statistics(of: Any) -> None:
    """With mean and std, a normalised image is denormalised."""
    np.testing.assert_allclose(pixels_of(normalised(), mean=of(MEAN), std=of(STD)), UNIT, atol=1e-6)


def test_one_number_for_all_colours() -> None:
    """Mean and std can be one number each, or left out; values out of range are clipped."""
    np.testing.assert_allclose(pixels_of(UNIT * 2 - 1, mean=0.5, std=0.5), UNIT)
    np.testing.assert_allclose(pixels_of(UNIT - 0.5, mean=0.5), UNIT)
    np.testing.assert_allclose(pixels_of(UNIT, std=2), (UNIT * 2).clip(0, 1))


def test_flat_image() -> None:
    """An image of one value out of range has pixels too."""
    np.testing.assert_array_equal(pixels_of(np.full((2, 2), -3.0)), np.zeros((2, 2)))


def test_sample_of_a_batch() -> None:
    """The image of the chosen sample is drawn; a single image serves every sample."""
    images = np.stack([BYTES, 255 - BYTES])
    np.testing.assert_allclose(pixels_of(images, sample=1, batch=2), 1 - UNIT)
    np.testing.assert_allclose(pixels_of(images[:1], sample=1, batch=2), UNIT)


def test_grey_is_that_of_pillow() -> None:
    """Colours are converted to grey as in Pillow."""
    expected = np.asarray(Image.fromarray(BYTES).convert("L")) / 255
    np.testing.assert_allclose(pixels_of(BYTES) @ np.array(LUMA), expected, atol=1 / 255)


@pytest.mark.parametrize("shape", [(), (5,), (5, 6, 7), (2, 5, 6), (1, 1, 1, 5, 5)])
def test_no_image(shape: tuple[int, ...]) -> None:
    """An array without the shape of an image is refused, with the shapes that are accepted."""
    with pytest.raises(ShapeError, match=r"is no image; give numbers of shape \(3, height, width\)"):
        pixels_of(np.zeros(shape))


def test_file() -> None:
    """A file name is refused, and the message says what opens the file."""
    with pytest.raises(ShapeError, match=r"a file by anylocal_vit\.photograph\(model, file\)"):
        pixels_of("cat.png")


def test_wrong_number_of_statistics() -> None:
    """Mean and std must have a number for each channel."""
    with pytest.raises(OptionError, match="one number or 3 for this image; got 2"):
        pixels_of(normalised(), mean=(0.5, 0.5))


def normalised() -> torch.Tensor:
    mean, std = (torch.tensor(numbers).reshape(3, 1, 1) for numbers in (MEAN, STD))
    return (torch.from_numpy(FIRST).float() / 255 - mean) / std


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.0, 0.5], [0.0, 0.5]), ([0.25, 1.0], [0.25, 1.0]), ([0.0, 1.25], [0.0, 1.0]), ([-0.25, 0.75], [0.0, 1.0])],
)
def test_only_what_is_out_of_range_is_stretched(values: list[float], expected: list[float]) -> None:
    """Pixels between 0 and 1 stay as they are, dark images dark; others count as normalised."""
    np.testing.assert_allclose(pixels_of(np.array([values])), [expected])


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.int16, np.uint16])
def test_bytes_in_another_type(dtype: Any) -> None:
    """Integers from 0 to 255 are bytes, whatever their dtype."""
    image = np.arange(48, dtype=dtype).reshape(4, 4, 3) * 5
    np.testing.assert_allclose(pixels_of(image), image / 255)


def test_integers_beyond_bytes() -> None:
    """Other integers are scaled from their minimum to their maximum."""
    image = np.array([[-1000, 0], [500, 1000]])
    np.testing.assert_allclose(pixels_of(image), [[0, 0.5], [0.75, 1]])


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(np.array([[0.0, 0.25], [0.5, 1.0]], np.float32)),
        Image.fromarray(np.array([[0, 16000], [32000, 64000]], np.uint16)),
    ],
    ids=["F", "I;16"],
)
def test_images_of_more_than_bytes(image: Any) -> None:
    """16-bit images keep their range, which Pillow's own conversion would clip at 255."""
    np.testing.assert_allclose(pixels_of(image), [[0, 0.25], [0.5, 1.0]])


def test_no_figure_for_an_unknown_colormap() -> None:
    """A misspelt colormap is refused with the nearest one, before a figure is made."""
    axis = Patches(grid=(2, 2), prefix=())
    attention = AttentionMap.from_weights(torch.full((4, 4), 0.25), queries=axis, keys=axis)
    with pytest.raises(OptionError, match=r"cmap='viridsi' is no colormap\. Did you mean 'viridis'"):
        plot.query(attention, np.zeros((8, 8, 3)), query=(0, 0), cmap="viridsi")
    assert not plt.get_fignums()
