"""Photographs as pixels and as the model's input."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import timm.data
import torch
from PIL import Image

from anylocal.errors import ShapeError
from anylocal_vit import photograph

if TYPE_CHECKING:
    from pathlib import Path

Make = Callable[..., Any]


def picture(height: int = 90, width: int = 140) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)


def test_the_tensor_is_timms_own(make: Make) -> None:
    """The tensor equals what timm's own transform makes of the photograph."""
    model = make(depth=1)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    expected = transform(Image.fromarray(picture()))
    torch.testing.assert_close(photograph(model, picture()).tensor[0], expected, atol=1e-6, rtol=0)


def test_pixels_and_tensor_show_the_same_crop(make: Make) -> None:
    """The pixels, normalised, are the tensor."""
    model = make(depth=1)
    photo = photograph(model, picture())
    config = timm.data.resolve_model_data_config(model)
    normalised = (photo.pixels / 255 - np.array(config["mean"])) / np.array(config["std"])
    np.testing.assert_allclose(photo.tensor[0].permute(1, 2, 0), normalised, atol=1e-5)


def test_the_size_is_that_of_the_model(make: Make) -> None:
    """A model made for another size than its configuration's gets that size."""
    photo = photograph(make(depth=1, img_size=(96, 128)), picture())
    assert photo.pixels.shape == (96, 128, 3)
    assert photo.tensor.shape == (1, 3, 96, 128)


def test_grey_and_transparent_images(make: Make) -> None:
    """A PIL image of any mode is converted to RGB."""
    photo = photograph(make(depth=1), Image.new("LA", (50, 60)))
    assert photo.pixels.shape == (224, 224, 3)


@pytest.mark.parametrize("source", [np.zeros((4, 4, 7), np.uint8), np.zeros(3, np.uint8)])
def test_an_array_that_is_no_image(make: Make, source: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    """An array of another shape is refused with its shape."""
    with pytest.raises(ShapeError, match=rf"an array of shape \({source.shape[0]},.*is not a photograph"):
        photograph(make(depth=1), source)


def test_no_image_at_all(make: Make) -> None:
    """An empty list is refused."""
    with pytest.raises(ShapeError, match="at least one image"):
        photograph(make(depth=1), [])


def file_of(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture()).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (file_of("JPEG")[:2000], "runcated"),
        # Its header says that it is 60,000 pixels high and wide.
        (file_of("BMP")[:18] + 2 * (60_000).to_bytes(4, "little") + file_of("BMP")[26:], "3600000000 pixels"),
    ],
    ids=["cut off", "too large"],
)
def test_a_damaged_image(make: Make, tmp_path: Path, content: bytes, reason: str) -> None:
    """It is refused with its name and its decoder's message, whatever the decoder raises."""
    file = tmp_path / "broken"
    file.write_bytes(content)
    with pytest.raises(ShapeError, match=rf"broken'\) is not a photograph that can be read \(.*{reason}"):
        photograph(make(depth=1), file)


def test_an_image_that_is_not_there(make: Make, tmp_path: Path) -> None:
    """Errors of the file system are not taken for damage."""
    with pytest.raises(FileNotFoundError):
        photograph(make(depth=1), tmp_path / "nothing.png")
