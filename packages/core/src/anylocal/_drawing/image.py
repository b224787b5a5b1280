"""The picture below the weights: whatever form an image comes in, pixels between 0 and 1 as the model saw them."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from PIL.Image import Image as PillowImage

from anylocal._drawing.photograph import Photograph, photograph
from anylocal._maps.patches import Patches
from anylocal._maps.placed import PlacedPatches
from anylocal.errors import OptionError, ShapeError, UnsupportedError

if TYPE_CHECKING:
    from anylocal._maps.map import AttentionMap

Pixels: TypeAlias = npt.NDArray[np.floating[Any]]
"""Shape (height, width), or (height, width, 3) in colour; between 0 and 1."""

Statistics: TypeAlias = float | Sequence[float] | torch.Tensor | None
"""A number for each colour, or one for all."""

ImageLike: TypeAlias = Any
"""A `Photograph`, path, PIL image, array or tensor."""

# Luma of ITU-R BT.601, as in Pillow's mode "L".
LUMA = (0.299, 0.587, 0.114)

_WHITE = 255

STRETCHED: Final = 0.1
"""Models resize images to whole patches: more than this share of the aspect ratio is another crop."""

# What models pad with is 0, which is the average colour of an image that is normalised.
_MIDDLE = 0.5


def pixels_of(
    image: ImageLike, *, sample: int = 0, batch: int = 1, mean: Statistics = None, std: Statistics = None
) -> Pixels:
    """Return an image as pixels to look at.

    Parameters
    ----------
    image : torch.Tensor, numpy.ndarray, PIL.Image.Image, or object with ``pixels``
        One image, or `batch` of them.
    sample : int
        Which image of a batch.
    batch : int
        Images that the model saw.
    mean, std : float or sequence of float, optional
        What the image was normalised by.

    Raises
    ------
    ShapeError
        Where it is no image, has no pixels, or there is another number of images.
    OptionError
        Where `mean` and `std` do not fit it, or a pixel is no number.
    """
    array, first = _read(image)
    if array.ndim == 4:  # noqa: PLR2004  # the number of axes
        if len(array) not in {1, batch}:
            msg = f"There are {len(array)} images and the map has {batch}; give the image of the sample that is drawn."
            raise ShapeError(msg)
        array = array[sample % len(array)]
    found = _channels_last(array, first=first)
    if not found.size:
        msg = f"The image is {found.shape[0]} × {found.shape[1]} pixels, which show nothing; give what the model saw."
        raise ShapeError(msg)
    return _between_0_and_1(found, mean, std)


def as_seen(pixels: Pixels, axes: Iterable[Patches | PlacedPatches]) -> Pixels:
    """Return pixels with the padding that the model has added; of another size than all axes say, as they are."""
    lying = [axis for axis in axes if axis.image_size is not None]
    given = {tuple(map(operator.sub, axis.image_size or (), axis.image_padding)) for axis in lying}
    if given != {pixels.shape[:2]}:
        return pixels
    down, right = lying[0].image_padding
    return np.pad(pixels, ((0, down), (0, right), (0, 0))[: pixels.ndim], constant_values=_MIDDLE)


def seen(
    attention: AttentionMap, image: ImageLike, sample: int, mean: Statistics, std: Statistics
) -> tuple[Patches, Pixels]:
    """Return all patches of the image, with the keys' prefix tokens, and the image as the model saw it.

    A file, or a photograph of another size than the model saw, is prepared by the model's own preprocessing; what the
    model pads, is padded.

    Raises
    ------
    ShapeError, UnsupportedError
        If the keys are not patches of the image, or the image is not what the model saw and cannot be prepared.
    """
    keys = attention.keys
    if attention.windows > 1 and not isinstance(keys, PlacedPatches):
        msg = f"{attention!r} attends within windows, and its keys are not the whole image; draw it by heatmap."
        raise UnsupportedError(msg)
    if not isinstance(keys, Patches | PlacedPatches):
        msg = (
            f"The keys of {attention!r} are {keys!r}, not patches that could be drawn over an image; draw it by "
            "heatmap, or make the map with keys=Patches(grid=(rows, columns), ...)."
        )
        raise ShapeError(msg)
    if isinstance(image, str | PathLike):
        image = _prepared(attention, keys, image, f"{str(image)!r} is a file")
    pixels = pixels_of(image, sample=sample, batch=attention.images, mean=mean, std=std)
    whole = as_seen(pixels, [keys])
    if keys.image_size not in {None, whole.shape[:2]}:
        seen_size = "{} × {}".format(*keys.image_size)
        why = "The image is {} × {} pixels, and the model saw {}".format(*pixels.shape[:2], seen_size)
        whole = as_seen(pixels_of(_prepared(attention, keys, image, why)), [keys])
    height, width = whole.shape[:2]
    return Patches(grid=keys.grid, prefix=keys.prefix, image_size=(height, width)), whole


def seen_in_text(
    patches: Patches, image: ImageLike, model: Any, *, mean: Statistics = None, std: Statistics = None
) -> Pixels:
    """Return an image within a text as pixels of the shape that the model saw, in the resolution that was given.

    A photograph of another shape is prepared by the preprocessing of the model, if that is known.

    Raises
    ------
    ShapeError
        If the image is not what the model saw and cannot be prepared.
    """
    if isinstance(image, str | PathLike):
        with Image.open(image) as opened:
            image = opened.convert("RGB")
    pixels = pixels_of(image, mean=mean, std=std)
    (high, wide), (rows, columns), size = pixels.shape[:2], patches.grid, patches.image_size
    if size is None or abs(high / wide * size[1] / size[0] - 1) <= min(STRETCHED, 0.5 / rows + 0.5 / columns):
        return pixels
    if model is None or not (
        isinstance(image, PillowImage) or (isinstance(image, np.ndarray) and image.dtype == np.uint8)
    ):
        msg = f"The image is {high} × {wide} pixels, and the model saw {size[0]} × {size[1]}; give what it was given."
        raise ShapeError(msg)
    return pixels_of(photograph(model, image, size=size))


def _prepared(attention: AttentionMap, keys: Patches | PlacedPatches, image: ImageLike, why: str) -> Photograph:
    """Return a photograph as the model saw it, if it is one that has not been prepared and the model is known."""
    model = attention.model
    original = isinstance(image, str | PathLike | PillowImage) or (
        isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape[2:] == (3,)
    )
    if model is None or not original:
        msg = f"{why}; give what the model was given, such as anylocal_vit.photograph(model, file)."
        raise ShapeError(msg)
    size = keys.image_size
    if size is not None:
        size = size[0] - keys.image_padding[0], size[1] - keys.image_padding[1]
    return photograph(model, image, size=size)


def _read(image: ImageLike) -> tuple[npt.NDArray[Any], bool]:
    """Return the values, and whether the colours are most likely the first axis of an image."""
    # What `anylocal_vit.photograph` returns; no other kind of image has this attribute.
    image = getattr(image, "pixels", image)
    if isinstance(image, torch.Tensor):
        values = image.detach().cpu()
        return (values.float() if values.is_floating_point() else values).numpy(), True
    if isinstance(image, PillowImage) and image.mode[0] not in {"F", "I"} and image.mode not in {"L", "RGB"}:
        # A palette's indices, or an alpha channel, are nothing to look at; numbers beyond bytes would be cut off.
        image = image.convert("RGB")
    return np.asarray(image), False


def _channels_last(array: npt.NDArray[Any], *, first: bool) -> npt.NDArray[Any]:
    """Return shape (height, width) or (height, width, 3)."""
    if array.ndim == 3:  # noqa: PLR2004  # the number of axes
        at_start, at_end = array.shape[0] in {1, 3}, array.shape[-1] in {1, 3, 4}
        if at_start and (first or not at_end):
            return _channels_last(np.moveaxis(array, 0, -1), first=False)
        if at_end:
            return array[..., 0] if array.shape[-1] == 1 else array[..., :3]
    if array.ndim != 2 or array.dtype.kind not in "buif":  # noqa: PLR2004  # the number of axes
        msg = (
            f"An array of shape {array.shape} and {array.dtype} is no image; give numbers of shape (3, height, width), "
            "(height, width, 3), or (height, width) for grey, and a file by anylocal_vit.photograph(model, file)."
        )
        raise ShapeError(msg)
    return array


def _between_0_and_1(array: npt.NDArray[Any], mean: Statistics, std: Statistics) -> Pixels:
    whole = array.dtype.kind in "bui"
    if not whole and not np.isfinite(array).all():
        msg = "The image has pixels that are NaN or infinite, which have no colour; give what the model saw."
        raise OptionError(msg)
    if mean is not None or std is not None:
        if whole:
            msg = f"mean and std undo the normalisation of an image, and one of {array.dtype} is not normalised."
            raise OptionError(msg)
        return np.asarray(array * _statistics(std, 1.0, array) + _statistics(mean, 0.0, array)).clip(0, 1)
    if array.dtype == np.bool_:
        return np.asarray(array / 1)
    low, high = array.min(), array.max()
    # Bytes, as whatever integers.
    if whole and low >= 0 and high <= _WHITE:
        return np.asarray(array / _WHITE)
    if whole:
        array, low, high = array.astype(np.float64), float(low), float(high)
        return (array - low) / (high - low)
    # A normalised image has lost its black and its white: its own extremes take their places.
    return array if low >= 0 and high <= 1 else (array - low) / ((high - low) or 1)


def _statistics(values: Statistics, default: float, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    given = np.asarray(default if values is None else values, dtype=np.float64).ravel()
    colours = array.shape[2] if array.ndim == 3 else 1  # noqa: PLR2004  # the number of axes
    if len(given) not in {1, colours}:
        msg = f"mean and std are one number or {colours} for this image; got {len(given)}."
        raise OptionError(msg)
    return given
