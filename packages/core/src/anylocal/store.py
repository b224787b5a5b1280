"""Save attention maps and captures in a safetensors file, which other tools can read and which cannot run code.

The file holds a digest of its tensors and their description, so that a damaged or truncated one is refused.

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
    from anylocal._maps.codec import decode, encode
    from anylocal._maps.layers import maps_of
    from anylocal._maps.map import AttentionMap
    from anylocal._maps.maps import AttentionMaps
    from anylocal._maps.positions import Axis
except ModuleNotFoundError as error:
    if error.name not in {"numpy", "safetensors", "torch"}:
        raise
    msg = f'anylocal.store needs {error.name}, which is not installed: pip install "anylocal[torch]".'
    raise DependencyError(msg, name=error.name) from error

__all__ = ["SavedCapture", "load", "save"]


def __dir__() -> list[str]:
    return __all__


FORMAT: Final = "1"
"""Increased when files written before can no longer be read."""

# The metadata of a safetensors file holds only text: JSON under one name, and the format beside it.
_FORMAT_KEY: Final = "anylocal"
_MAPS_KEY: Final = "maps"
_CAPTURE_KEY: Final = "capture"
_DIGEST_KEY: Final = "digest"
_LENGTH: Final = 8
_LABELS: Final = ("name", "fused", "forward", "windows", "rank")


def save(kept: AttentionMaps | AttentionMap | Capture, file: str | PathLike[str]) -> Path:
    """Write maps, with their axes and module names, or a capture to a safetensors file.

    Each map is computed in full and written as a tensor ``"<position>.weights"`` of shape (batch, head, query, key),
    its `mixed` as ``"<position>.mixed"``. Of a capture, every value of every call is written, tensors and arrays as
    ``"<call>.<name>"``. An existing file is replaced only once the new one is complete.

    Parameters
    ----------
    kept : AttentionMaps, AttentionMap or Capture
        Weights of maps are computed one map at a time, and held until they are written. Values of a capture are
        tensors, arrays, numbers, strings, None, and lists, tuples and dicts of these. A single map is loaded as the
        maps of one layer.
    file : path
        The file to write; by convention it ends in ``.safetensors``.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    OptionError
        If it is empty, neither maps nor a capture, or holds a value of another type.

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
        msg = f"save takes maps or a capture, then the file, and got the file first: save(maps, {str(kept)!r})."
        raise OptionError(msg)
    if isinstance(kept, Sequence) and any(isinstance(call, Call) for call in kept):
        msg = "save takes a capture and got calls of one; give the capture itself: save(cap, file)."
        raise OptionError(msg)
    if not isinstance(kept, AttentionMaps | Capture):
        kept = AttentionMaps(maps_of(kept, "save"))
    if not len(kept):
        msg = "No maps or calls to save; run the model inside the capture first."
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
    """Read maps or a capture written by `save`.

    Parameters
    ----------
    file : path
        The file.

    Returns
    -------
    AttentionMaps or SavedCapture
        The saved maps or capture, in CPU memory. A `SavedCapture` is read like a `Capture`.

    Raises
    ------
    StoreError
        If the file is damaged, is a folder or not a safetensors file, or was not written by `save`.
    FileNotFoundError
        If the file does not exist.

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
    if path.is_dir():
        msg = f"{path} is a folder; load takes a file that save has written."
        raise StoreError(msg)
    try:
        _check_length(path)
        with safe_open(path, framework="pt", device="cpu") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # not a dict
    except (SafetensorError, UnicodeDecodeError) as error:
        raise StoreError(
            f"{path} is not a complete safetensors file ({error}); write it again with anylocal.store.save."
        ) from error
    if metadata.get(_FORMAT_KEY) != FORMAT:
        found = metadata.get(_FORMAT_KEY)
        what = "was not written by anylocal.store.save" if found is None else f"has format {found!r}, not {FORMAT!r}"
        raise StoreError(f"{path} {what}; read its tensors with safetensors.torch.load_file.")
    key = _CAPTURE_KEY if _CAPTURE_KEY in metadata else _MAPS_KEY
    if metadata.get(_DIGEST_KEY) != _digest(tensors, metadata.get(key, "")):
        raise StoreError(f"{path} is damaged: its content does not match its digest; write it again.")
    try:
        content = json.loads(metadata[key])
        return saved.restored(content, tensors) if key == _CAPTURE_KEY else _read_maps(content, tensors)
    except (
        LookupError,
        TypeError,
        ValueError,
        ArithmeticError,
        AttributeError,
        RecursionError,
        AnylocalError,
    ) as error:
        raise StoreError(f"{path} has parts that do not fit together ({type(error).__name__}: {error}).") from error


def _digest(tensors: Mapping[str, torch.Tensor], text: str) -> str:
    """Return the digest of a file's content: its tensors, by name, type, shape and bytes, and their description."""
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
    """Refuse a file whose header claims to be longer than the file, before that much memory is allocated."""
    with path.open("rb") as opened:
        claimed = int.from_bytes(opened.read(_LENGTH), "little")
    size = path.stat().st_size
    if not 0 < claimed <= size - _LENGTH:
        msg = f"{path} is not a complete safetensors file (header of {claimed} bytes, file of {size}); write it again."
        raise StoreError(msg)


def _describe_maps(maps: AttentionMaps, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    axes: list[dict[str, Any]] = []
    known: dict[Axis, int] = {}
    described = [_describe_map(number, item, tensors, axes, known) for number, item in enumerate(maps)]
    return {"maps": described, "axes": axes, "unsupported": dict(maps.unsupported)}


def _describe_map(
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
    labels = {name: getattr(item, name) for name in _LABELS}
    return {**labels, "queries": places[0], "keys": places[1]}


def _own(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy with memory of its own: safetensors refuses tensors that share memory."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def _describe_axis(axis: Axis, number: int, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    described = encode(axis)
    if "places" in described:
        tensors[f"axes.{number}.places"] = torch.from_numpy(described.pop("places").copy())
        described["number"] = number
    return described


def _read_axis(given: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Axis:
    described = dict(given)
    if "number" in described:
        described["places"] = tensors[f"axes.{described.pop('number')}.places"]
    return decode(described)


def _read_map(
    number: int, given: Mapping[str, Any], axes: list[Axis], tensors: Mapping[str, torch.Tensor]
) -> AttentionMap:
    if not isinstance(given["name"], str):
        msg = f"the name of map {number} is {given['name']!r}, and no text"
        raise TypeError(msg)
    return AttentionMap.from_weights(
        tensors[f"{number}.weights"],
        **{name: given[name] for name in _LABELS},
        queries=axes[given["queries"]],
        keys=axes[given["keys"]],
        mixed=tensors.get(f"{number}.mixed"),
    )
