"""Photographs, preprocessed for a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import timm.data
import torch
from PIL import Image, UnidentifiedImageError

from anylocal.errors import ShapeError

if TYPE_CHECKING:
    from os import PathLike


@dataclass(frozen=True, eq=False)
class Photograph:
    """A photograph resized and cropped for a model, before (`pixels`) and after (`tensor`) normalisation.

    Attributes
    ----------
    pixels : numpy.ndarray, shape (height, width, 3), uint8
        To draw on.
    tensor : torch.Tensor, shape (1, 3, height, width)
        To run the model with.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from anylocal_vit import Photograph
    >>> photo = Photograph(np.zeros((32, 48, 3), np.uint8), torch.zeros(1, 3, 32, 48))
    >>> photo.tensor.shape
    torch.Size([1, 3, 32, 48])
    """

    pixels: npt.NDArray[np.uint8]
    tensor: torch.Tensor


def photograph(model: torch.nn.Module, source: str | PathLike[str] | Image.Image | npt.NDArray[np.uint8]) -> Photograph:
    """Preprocess a photograph as the configuration of a timm model says.

    Parameters
    ----------
    model : torch.nn.Module
        A timm model.
    source : path, PIL image or numpy.ndarray
        The photograph; an array has shape (height, width, 3) and dtype uint8.

    Returns
    -------
    Photograph
        Its `pixels` and its `tensor` show the same crop.

    Raises
    ------
    ShapeError
        If the source is not an image, or a damaged one.
    OSError
        If the file cannot be read.

    Examples
    --------
    >>> import timm, numpy as np
    >>> model = timm.create_model("vit_tiny_patch16_224", depth=1)
    >>> photo = photograph(model, np.zeros((300, 400, 3), np.uint8))
    >>> photo.pixels.shape, photo.tensor.shape
    ((224, 224, 3), torch.Size([1, 3, 224, 224]))
    """
    config: dict[str, Any] = timm.data.resolve_model_data_config(model)
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if size is not None:
        # A model made for another size keeps the configuration of the size that it was trained with.
        config["input_size"] = (config["input_size"][0], *size)
    # For its prefetcher, timm leaves out the normalisation and returns the crop as bytes.
    crop = timm.data.create_transform(**config, is_training=False, use_prefetcher=True)
    pixels = np.asarray(crop(_opened(source)))
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    tensor = (torch.from_numpy(pixels).float() / 255 - mean) / std
    return Photograph(np.ascontiguousarray(pixels.transpose(1, 2, 0)), tensor[None])


def _opened(source: str | PathLike[str] | Image.Image | npt.NDArray[np.uint8]) -> Image.Image:
    if isinstance(source, Image.Image):
        return source.convert("RGB")
    try:
        if isinstance(source, np.ndarray):
            return _from_array(source).convert("RGB")
        with Image.open(source) as image:
            return image.convert("RGB")
    except Exception as error:
        # Decoders raise anything for damaged files: SyntaxError, RuntimeError, struct.error, ...
        if isinstance(error, OSError) and error.errno is not None:
            raise
        if isinstance(source, np.ndarray):
            what, reason = f"an array of shape {source.shape} and {source.dtype}", ""
        else:
            what = repr(source)
            reason = "" if isinstance(error, UnidentifiedImageError) else f" that can be read ({error})"
        wanted = "an image file, a PIL image, or an array (height, width, 3) of uint8"
        msg = f"{what} is not a photograph{reason}: give {wanted}."
        raise ShapeError(msg) from error


def _from_array(pixels: npt.NDArray[np.uint8]) -> Image.Image:
    if pixels.shape[2:] != (3,):
        msg = "not (height, width, 3)"
        raise ValueError(msg)
    return Image.fromarray(pixels)
