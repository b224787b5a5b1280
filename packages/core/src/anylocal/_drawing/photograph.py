"""A photograph as a model sees it: resized and cropped by the model's own preprocessing."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError

from anylocal.errors import ShapeError

if TYPE_CHECKING:
    from collections.abc import Callable

Source: TypeAlias = str | PathLike[str] | Image.Image | npt.NDArray[np.uint8]

_IMAGENET: Final = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_OF_IMAGENET: Final = {"dinov2", "dinov2_with_registers"}
"""Types of transformers' models whose image processor has CLIP's statistics by default, and ImageNet's in every
checkpoint."""


@dataclass(frozen=True, eq=False)
class Photograph:
    """What a model sees of photographs: resized, cropped, and not yet (`pixels`) or already (`tensor`) normalised.

    Attributes
    ----------
    pixels : numpy.ndarray, shape (height, width, 3) or (batch, height, width, 3), uint8
        To draw on.
    tensor : torch.Tensor, shape (batch, 3, height, width)
        To run the model with.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from anylocal.drawing import Photograph
    >>> Photograph(np.zeros((32, 48, 3), np.uint8), torch.zeros(1, 3, 32, 48))
    Photograph(32 × 48 pixels)
    """

    pixels: npt.NDArray[np.uint8]
    tensor: torch.Tensor

    def __repr__(self) -> str:
        """Return the size, and how many there are."""
        height, width = self.pixels.shape[-3:-1]
        count = f"{len(self.tensor)} of " if self.pixels.ndim == 4 else ""  # noqa: PLR2004  # a batch
        return f"Photograph({count}{height} × {width} pixels)"

    def _repr_png_(self) -> bytes:
        """Return the photographs, side by side, for a notebook."""
        file = io.BytesIO()
        each = self.pixels if self.pixels.ndim == 4 else self.pixels[None]  # noqa: PLR2004  # a batch
        Image.fromarray(np.concatenate(list(each), axis=1)).save(file, "PNG")
        return file.getvalue()


class _Preprocessing(NamedTuple):
    """How a model's photographs are prepared: a function that returns pixels, then what normalises them."""

    crop: Callable[[Image.Image], npt.NDArray[np.uint8]]
    mean: Sequence[float]
    std: Sequence[float]


def photograph(
    model: torch.nn.Module,
    source: Source | Sequence[Source],
    *,
    size: int | tuple[int, int] | None = None,
) -> Photograph:
    """Return a photograph as a model sees it, by the preprocessing of the model's own configuration.

    Parameters
    ----------
    model : torch.nn.Module
        A model of timm or of transformers; for any other, `size` must be given, and the statistics are ImageNet's.
    source : path, PIL image or numpy.ndarray, or sequence of them
        The photograph; an array has shape (height, width, 3) and dtype uint8. A sequence makes a batch.
    size : int or (int, int), optional
        Height and width in pixels of what the model is given, for models that take other sizes than their own.

    Returns
    -------
    Photograph
        Its `pixels` and its `tensor` show the same crop.

    Raises
    ------
    ShapeError
        If the source is no image, a damaged one, or an empty list; if the model does not say how large its images are;
        or if its preprocessing makes no image of three channels.
    OSError
        If the file cannot be read.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from anylocal.drawing import photograph
    >>> photo = photograph(torch.nn.Conv2d(3, 8, 16), np.zeros((300, 400, 3), np.uint8), size=224)
    >>> photo.pixels.shape, photo.tensor.shape
    ((224, 224, 3), torch.Size([1, 3, 224, 224]))
    """
    several = isinstance(source, Sequence) and not isinstance(source, str)
    sources = cast("Sequence[Source]", source if several else [source])
    if not sources:
        raise ShapeError("An empty list makes no photograph; give at least one image.")
    height_width = (size, size) if isinstance(size, int) else size
    prepared = _preprocessing(model, height_width)
    crops = [prepared.crop(_opened(each)) for each in sources]
    pixels = np.stack(crops)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (prepared.mean, prepared.std))
    tensor = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - mean) / std
    return Photograph(pixels if several else pixels[0], tensor.contiguous())


def _preprocessing(model: torch.nn.Module, size: tuple[int, int] | None) -> _Preprocessing:
    if hasattr(model, "pretrained_cfg") and "timm" in sys.modules:
        return _of_timm(model, size)
    if hasattr(model, "config") and "transformers" in sys.modules:
        return _of_transformers(model, size)
    if size is None:
        msg = f"{type(model).__qualname__} does not say how large its images are; give size=(height, width)."
        raise ShapeError(msg)
    return _Preprocessing(_resized_and_cropped(size), *_IMAGENET)


def _of_timm(model: Any, size: tuple[int, int] | None) -> _Preprocessing:
    import timm.data

    config: dict[str, Any] = timm.data.resolve_model_data_config(model)
    # Of a model made for another size, the configuration still names the one it was trained with.
    size = size or getattr(getattr(model, "patch_embed", None), "img_size", None)
    if size is not None:
        config["input_size"] = (config["input_size"][0], *size)
    # For its prefetcher timm leaves out the normalisation, and returns the crop as bytes.
    transform = timm.data.create_transform(**config, is_training=False, use_prefetcher=True)
    return _Preprocessing(
        lambda image: np.ascontiguousarray(np.asarray(transform(image)).transpose(1, 2, 0)),
        config["mean"],
        config["std"],
    )


def _of_transformers(model: Any, size: tuple[int, int] | None) -> _Preprocessing:
    processor = _processor_of(model)
    options: dict[str, Any] = {"do_rescale": False, "do_normalize": False, "return_tensors": "pt"}
    size = size or _image_size(model.config)
    if size is not None:
        options |= _size_options(processor, size)

    def crop(image: Image.Image) -> npt.NDArray[np.uint8]:
        made = np.asarray(processor(image, **options)["pixel_values"])
        if made.ndim != 4 or made.shape[1] != 3:  # noqa: PLR2004  # (batch, channel, height, width)
            msg = (
                f"{type(processor).__qualname__} makes an array of shape {made.shape} of a photograph, no image of"
                " three channels; give the recipes the image that the model was given, in its own size."
            )
            raise ShapeError(msg)
        return np.ascontiguousarray(made[0].transpose(1, 2, 0)).round().clip(0, 255).astype(np.uint8)

    mean, std = getattr(processor, "image_mean", None), getattr(processor, "image_std", None)
    if not getattr(processor, "do_normalize", True):
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return _Preprocessing(crop, mean or _IMAGENET[0], std or _IMAGENET[1])


def _processor_of(model: Any) -> Any:
    """Return the image processor saved with the checkpoint, else one of the model's type with its defaults."""
    from transformers import AutoImageProcessor
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING

    name = getattr(model.config, "_name_or_path", "")
    if name:
        try:
            # Only what is there already: whoever has the weights has most likely that file, too.
            return AutoImageProcessor.from_pretrained(name, local_files_only=True)  # type: ignore[no-untyped-call]  # transformers'
        except (OSError, ValueError):
            pass
    try:
        found = IMAGE_PROCESSOR_MAPPING[type(model.config)]
    except KeyError:
        found = None
    # A class, or classes of several backends, by transformers' version; those that are missing are None.
    candidates = found.values() if isinstance(found, dict) else found if isinstance(found, tuple) else [found]
    kind = next((each for each in reversed(list(candidates)) if isinstance(each, type)), None)
    if kind is None:
        msg = (
            f"transformers has no image processor for {type(model).__qualname__}; give the recipes the image that the"
            " model was given, in its own size."
        )
        raise ShapeError(msg)
    of_imagenet = getattr(model.config, "model_type", "") in _OF_IMAGENET
    return kind(image_mean=_IMAGENET[0], image_std=_IMAGENET[1]) if of_imagenet else kind()


def _image_size(config: Any) -> tuple[int, int] | None:
    config = getattr(config, "vision_config", config)
    size = getattr(config, "image_size", None)
    if isinstance(size, int):
        return size, size
    return (int(size[0]), int(size[1])) if isinstance(size, list | tuple) else None


def _size_options(processor: Any, size: tuple[int, int]) -> dict[str, Any]:
    """Return the options of an image processor that make images of a size, in its own way of resizing."""
    height, width = size
    whole = {"height": height, "width": width}
    own = getattr(processor, "size", None) or {}
    if getattr(processor, "do_center_crop", False):
        # As much around the crop as the processor's own sizes leave.
        crop = getattr(processor, "crop_size", None) or {}
        ratio = own.get("shortest_edge", 0) / max(1, crop.get("height", 0) or 1) if "shortest_edge" in own else 1.0
        return {"size": {"shortest_edge": round(max(size) * max(1.0, ratio))}, "crop_size": whole}
    return {"size": whole}


def _resized_and_cropped(size: tuple[int, int]) -> Callable[[Image.Image], npt.NDArray[np.uint8]]:
    def crop(image: Image.Image) -> npt.NDArray[np.uint8]:
        height, width = size
        scale = max(width / image.width, height / image.height)
        large = image.resize((max(width, round(image.width * scale)), max(height, round(image.height * scale))))
        left, top = (large.width - width) // 2, (large.height - height) // 2
        return np.asarray(large.crop((left, top, left + width, top + height)))

    return crop


def _opened(source: Source) -> Image.Image:
    if isinstance(source, Image.Image):
        return source.convert("RGB")
    try:
        if isinstance(source, np.ndarray):
            return _from_array(source).convert("RGB")
        with Image.open(source) as image:
            return image.convert("RGB")
    except Exception as error:
        # Decoders raise anything on damaged files: SyntaxError, RuntimeError, struct.error, ...
        if isinstance(error, OSError) and error.errno is not None:
            raise
        if isinstance(source, np.ndarray):
            what, reason = f"an array of shape {source.shape} and {source.dtype}", ""
        else:
            what = repr(source)
            reason = "" if isinstance(error, UnidentifiedImageError) else f" that can be read ({error})"
        expected = "an image file, a PIL image, or an array (height, width, 3) of uint8"
        msg = f"{what} is not a photograph{reason}: give {expected}."
        raise ShapeError(msg) from error


def _from_array(pixels: npt.NDArray[np.uint8]) -> Image.Image:
    if pixels.shape[2:] != (3,):
        msg = "not (height, width, 3)"
        raise ValueError(msg)
    return Image.fromarray(pixels)
