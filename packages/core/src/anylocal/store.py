"""Keep attention maps and captures in a file: safetensors, which other tools read, and nothing that could run code.

Of its tensors and of what it says of them, the file has a digest: one that was damaged or cut off is refused.

Needs the extra ``anylocal[torch]``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Final

from anylocal.errors import AnylocalError, DependencyError, OptionError, StoreError

try:
    import torch
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file

    from anylocal._engine import saved
    from anylocal._engine.calls import Call
    from anylocal._engine.capture import Capture
    from anylocal._engine.files import atomic_write
    from anylocal._engine.saved import SavedCapture
    from anylocal._maps.map import maps_of
    from anylocal.attention import AttentionMap, AttentionMaps, Axis, Named, Patches, PlacedPatches, Tokens
except ModuleNotFoundError as error:
    if error.name not in {"safetensors", "torch"}:
        raise
    msg = f'anylocal.store needs {error.name}, which is not installed: pip install "anylocal[torch]".'
    raise DependencyError(msg, name=error.name) from error

__all__ = ["SavedCapture", "load", "save"]

FORMAT: Final = "1"
"""Raised when a file of today could no longer be read."""

# The metadata of a safetensors file holds text only: this is JSON under one name, with the format beside it.
_FORMAT_KEY: Final = "anylocal"
_MAPS_KEY: Final = "maps"
_CAPTURE_KEY: Final = "capture"
_DIGEST_KEY: Final = "digest"
_PADDING: Final = "image_padding"
_LENGTH: Final = 8


def save(kept: AttentionMaps | AttentionMap | Capture, file: str | PathLike[str]) -> Path:
    """Write maps, with their axes and the names of their modules, or a capture into a safetensors file.

    Of maps, the whole ones are written, each as a tensor ``"<position>.weights"`` of shape (batch, head, query, key),
    and what the layer made of it as ``"<position>.mixed"``. Of a capture, each value of each call, tensors and arrays
    as ``"<call>.<name>"``. A file that is there already is replaced only when the new one is whole.

    Parameters
    ----------
    kept : AttentionMaps, AttentionMap or Capture
        Weights of maps are computed, one map at a time, and held until they are written. Values of a capture are
        tensors, arrays, numbers, texts, None, and lists, tuples and dicts of these. A single map comes back as the
        maps of one layer.
    file : path
        Where to; by convention it ends in ``.safetensors``.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    OptionError
        If there is no map and no call, it is neither maps nor a capture, or a value is of another type.

    Examples
    --------
    >>> import tempfile, torch
    >>> from anylocal import store
    >>> from anylocal.attention import AttentionMap, AttentionMaps
    >>> maps = AttentionMaps([AttentionMap.from_weights(torch.eye(2), name="blocks.0.attn")])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = store.save(maps, f"{folder}/maps.safetensors")
    ...     store.load(file)["blocks.0.attn"].shape
    (1, 1, 2, 2)
    """
    if isinstance(kept, str | PathLike):
        msg = f"save takes what is to be kept, then the file, and got the file first: save(maps, {str(kept)!r})."
        raise OptionError(msg)
    if isinstance(kept, Sequence) and any(isinstance(call, Call) for call in kept):
        msg = "save keeps a whole capture and got calls of one; give the capture itself: save(cap, file)."
        raise OptionError(msg)
    if not isinstance(kept, AttentionMaps | Capture):
        kept = AttentionMaps(maps_of(kept, "save"))
    if not len(kept):
        msg = "There is no map to save, and no call; run the model inside of the capture first."
        raise OptionError(msg)
    tensors: dict[str, torch.Tensor] = {}
    if isinstance(kept, Capture):
        key, content = _CAPTURE_KEY, saved.describe(kept.label, kept, tensors)
    else:
        key, content = _MAPS_KEY, _describe_maps(kept, tensors)
    text = json.dumps(content)
    metadata = {_FORMAT_KEY: FORMAT, key: text, _DIGEST_KEY: _digest(tensors, text)}
    with atomic_write(file) as path:
        save_file(tensors, path, metadata=metadata)
    return Path(file)


def load(file: str | PathLike[str]) -> Any:
    """Read maps or a capture that `save` has written.

    Parameters
    ----------
    file : path
        The file.

    Returns
    -------
    AttentionMaps or SavedCapture
        What was saved, in main memory. A `SavedCapture` is read as a `Capture` is.

    Raises
    ------
    StoreError
        If the file is damaged, is no safetensors file, or was written by something else.
    FileNotFoundError
        If there is none.

    Examples
    --------
    >>> import tempfile, torch
    >>> from anylocal import store
    >>> from anylocal.attention import AttentionMap, AttentionMaps
    >>> maps = AttentionMaps([AttentionMap.from_weights(torch.eye(2), name="blocks.0.attn")])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store.load(store.save(maps, f"{folder}/maps.safetensors"))[0]
    AttentionMap('blocks.0.attn', batch=1, heads=1, queries=2, keys=2)
    """
    path = Path(file)
    try:
        _check_length(path)
        with safe_open(path, framework="pt", device="cpu") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # it is no dict
    except (SafetensorError, UnicodeDecodeError) as error:
        raise StoreError(
            f"{path} is no whole safetensors file ({error}); write it again by anylocal.store.save."
        ) from error
    if metadata.get(_FORMAT_KEY) != FORMAT:
        found = metadata.get(_FORMAT_KEY)
        what = "was not written by anylocal.store.save" if found is None else f"has format {found!r}, not {FORMAT!r}"
        raise StoreError(f"{path} {what}; its tensors can be read by safetensors.torch.load_file.")
    key = _CAPTURE_KEY if _CAPTURE_KEY in metadata else _MAPS_KEY
    if metadata.get(_DIGEST_KEY) != _digest(tensors, metadata.get(key, "")):
        raise StoreError(f"{path} is damaged: its content has another digest than when it was written; write it again.")
    try:
        content = json.loads(metadata[key])
        return saved.restored(content, tensors) if key == _CAPTURE_KEY else _read_maps(content, tensors)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError, AnylocalError) as error:
        raise StoreError(f"{path} holds parts that do not fit together ({type(error).__name__}: {error}).") from error


def _digest(tensors: Mapping[str, torch.Tensor], text: str) -> str:
    """Return the digest of a file's content: its tensors, by name, type, shape and bytes, and what it says of them."""
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_maps(content: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> AttentionMaps:
    axes = [_read_axis(axis, tensors) for axis in content["axes"]]
    made = [_read_map(number, item, axes, tensors) for number, item in enumerate(content["maps"])]
    return AttentionMaps(made, unsupported={str(name): str(what) for name, what in content["unsupported"].items()})


def _check_length(path: Path) -> None:
    """Refuse a file whose header claims to be longer than the file: it would be allocated first."""
    with path.open("rb") as opened:
        claimed = int.from_bytes(opened.read(_LENGTH), "little")
    size = path.stat().st_size
    if not 0 < claimed <= size - _LENGTH:
        msg = f"{path} is no whole safetensors file (a header of {claimed} bytes in a file of {size}); write it again."
        raise StoreError(msg)


def _describe_maps(maps: AttentionMaps, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    axes: list[dict[str, Any]] = []
    known: dict[Axis, int] = {}
    described = [_describe(number, item, tensors, axes, known) for number, item in enumerate(maps)]
    return {"maps": described, "axes": axes, "unsupported": dict(maps.unsupported)}


def _describe(
    number: int,
    item: AttentionMap,
    tensors: dict[str, torch.Tensor],
    axes: list[dict[str, Any]],
    known: dict[Axis, int],
) -> dict[str, Any]:
    tensors[f"{number}.weights"] = _own(item.tensor())
    mixed = item.mixed
    if mixed is not None:
        tensors[f"{number}.mixed"] = _own(mixed)
    places = []
    for axis in (item.queries, item.keys):
        if axis not in known:
            known[axis] = len(axes)
            axes.append(_describe_axis(axis, len(axes), tensors))
        places.append(known[axis])
    kept = {name: getattr(item, name) for name in ("name", "fused", "forward", "windows", "rank")}
    return {**kept, "queries": places[0], "keys": places[1]}


def _own(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy that shares its memory with nothing: what shares it is written once only, or refused."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def _describe_axis(axis: Axis, number: int, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    match axis:
        case Patches(grid=grid, prefix=prefix, image_size=size):
            return {"kind": "Patches", "grid": grid, "prefix": prefix, "image_size": size, **_padding_of(axis)}
        case PlacedPatches(grid=grid, prefix=prefix, image_size=size):
            tensors[f"axes.{number}.places"] = torch.from_numpy(axis.places.copy())
            described = {"grid": grid, "prefix": prefix, "image_size": size, **_padding_of(axis)}
            return {"kind": "PlacedPatches", **described, "number": number}
        case Named(names=names):
            return {"kind": "Named", "names": names}
        case Tokens():
            samples = range(len(axis.texts))
            padding = [axis.is_padding(sample).tolist() for sample in samples]
            special = [axis.is_special(sample).tolist() for sample in samples]
            kept = {"texts": axis.texts, "padding": padding, "special": special, "start": axis.start}
            segments = [axis.segments(sample) for sample in samples]
            return {"kind": "Tokens", **kept, **axis.split, "segments": segments}
    return {"kind": "Axis", "length": len(axis)}


def _padding_of(axis: Patches | PlacedPatches) -> dict[str, Any]:
    return {_PADDING: axis.image_padding} if any(axis.image_padding) else {}


def _read_axis(given: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Axis:
    match given["kind"]:
        case "Patches":
            return Patches(given["grid"], tuple(given["prefix"]), given["image_size"], given.get(_PADDING, (0, 0)))
        case "PlacedPatches":
            places = tensors[f"axes.{given['number']}.places"]
            image = {"image_size": given["image_size"], _PADDING: given.get(_PADDING, (0, 0))}
            return PlacedPatches(given["grid"], places, prefix=given["prefix"], **image)
        case "Named":
            return Named(tuple(given["names"]))
        case "Tokens":
            names = ("padding", "special", "start", "words", "spellings", "segments")
            # A file of an earlier version lacks what tokens know since.
            return Tokens(given["texts"], **{name: given[name] for name in names if name in given})
        case "Axis":
            return Axis(given["length"])
    msg = f"there is no axis of kind {given['kind']!r}"
    raise ValueError(msg)


def _read_map(
    number: int, given: Mapping[str, Any], axes: list[Axis], tensors: Mapping[str, torch.Tensor]
) -> AttentionMap:
    return AttentionMap.from_weights(
        tensors[f"{number}.weights"],
        name=given["name"],
        fused=given["fused"],
        forward=given["forward"],
        windows=given["windows"],
        rank=given["rank"],
        queries=axes[given["queries"]],
        keys=axes[given["keys"]],
        mixed=tensors.get(f"{number}.mixed"),
    )
