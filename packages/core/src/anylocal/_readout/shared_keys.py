"""Keys in a cache: the steps of a generation share one tensor of them, since each mostly repeats those of the last.

A step shares only what was compared bit by bit. Its keys must be those of the step before and new ones (a cache that
grows), the last of those and new ones (a window that slides), or differ from them only where no earlier query could
look (a static cache). Any other step keeps its own keys, and the next steps are compared with these.
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Final

import torch

from anylocal._engine.records import Deferred

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from anylocal._engine.records import Place

_BITS: Final = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_TOO_LARGE: Final = 1.2
"""How much more memory than it needs a query may keep alive."""


class SharedKeys:
    """The keys of all layers of one capture."""

    def __init__(self) -> None:
        self._steps: dict[object, _Steps] = {}
        self._tapes: list[_Tape] = []

    def add(self, layer: object, places: Mapping[str, Place]) -> None:
        """Take the record of a kernel's call for a layer, and let it share its keys with the one before."""
        operands = {name.rpartition(".")[2]: place for name, place in places.items()}
        if not {"query", "key"} <= operands.keys():
            return
        before, after = self._steps.get(layer), None
        if before is not None and _can_be_shared(operands):
            # The model goes on, whatever its tensors are.
            with contextlib.suppress(Exception), _undisturbed():
                had_tape = before.tape is not None
                after = before if before.add(operands) else None
                if before.tape is not None and not had_tape:
                    self._tapes.append(before.tape)
        self._steps[layer] = after or _Steps(operands)

    def trim(self) -> None:
        """Give back the memory that was held for further steps."""
        if self._tapes:
            with _undisturbed():
                for tape in self._tapes:
                    tape.trim()

    def clear(self) -> None:
        """Forget all records."""
        self._steps.clear()
        self._tapes.clear()


class _Steps:
    """Steps of one layer that share a tape, once there are two; `start` and `stop` are the place of the last one."""

    def __init__(self, operands: Mapping[str, Place]) -> None:
        self.tape: _Tape | None = None
        self._first = operands
        self._start, self._stop = 0, 0
        # Where steps looked: all from one place to another, and as their masks say.
        self._looked: tuple[int, int] | None = None
        self._masks: list[tuple[torch.Tensor, int]] = []

    def add(self, operands: Mapping[str, Place]) -> bool:
        """Let a step share its keys, and return whether it does."""
        new, query = operands["key"].get(), operands["query"].get()
        if new.shape[-2] == query.shape[-2]:
            return False  # the beginning of a text
        old = self._last(new)
        if old is None:
            return False
        if self.tape is None and (old.data_ptr(), old.shape, old.stride()) == (new.data_ptr(), new.shape, new.stride()):
            return True  # what is read at each step is one tensor already, as in cross-attention
        if self.tape is None:
            self._stop = old.shape[-2]
            self._look(self._first)
        places = (0, *(old.shape[-2] + count - new.shape[-2] for count in {query.shape[-2], 1}))
        shift = next((place for place in places if _continues(old, new, place)), None)
        if shift is None and not self._only_hidden_differ(old, new):
            return False
        if self.tape is None:
            self.tape = _Tape(old)
            self._put(self._first)
        if shift is None:
            self.tape.write(new, self._start)
        else:
            self.tape.append(new[..., old.shape[-2] - shift :, :])
            self._start, self._stop = self._start + shift, self._start + shift + new.shape[-2]
        self._put(operands)
        self._look(operands)
        _detach_from_larger(operands["query"])
        return True

    def _last(self, new: torch.Tensor) -> torch.Tensor | None:
        """Return the keys of the last step, with as many heads as the new ones; None where they are not like these."""
        if self.tape is not None:
            old = self.tape.view(self._start, self._stop)
        elif _can_be_shared(self._first):
            old = self._first["key"].get()
        else:
            return None
        if (old.dtype, old.device, old.ndim, old.shape[-1]) != (new.dtype, new.device, new.ndim, new.shape[-1]):
            return None
        if old.shape[:-2] != new.shape[:-2]:
            old = _unrepeated(old, new)
        return old if old.shape[:-2] == new.shape[:-2] else None

    def _put(self, operands: Mapping[str, Place]) -> None:
        assert self.tape is not None
        operands["key"].put(Deferred(functools.partial(self.tape.view, self._start, self._stop)), 0)

    def _look(self, operands: Mapping[str, Place]) -> None:
        """Note where the last step looks."""
        mask = operands["attn_mask"].get() if "attn_mask" in operands else None
        if isinstance(mask, torch.Tensor) and mask.shape[-1] == self._stop - self._start:
            self._masks.append((mask, self._start))
        else:
            first, _ = self._looked or (self._start, self._stop)
            self._looked = first, self._stop

    def _only_hidden_differ(self, old: torch.Tensor, new: torch.Tensor) -> bool:
        """Return whether the new keys are others only in places that the masks of all steps before hide."""
        if old.shape != new.shape:
            return False
        length = old.shape[-2]
        seen = torch.zeros(self._start + length, dtype=torch.bool, device=new.device)
        if self._looked is not None:
            seen[slice(*self._looked)] = True
        for mask, start in self._masks:
            looked = mask if mask.dtype == torch.bool else mask != -torch.inf
            seen[start : start + mask.shape[-1]] |= looked.reshape(-1, mask.shape[-1]).any(0)
        # Later steps are hidden in these places as far as these masks say, so one row stands for all of them.
        self._masks = [(seen[self._start :][None], self._start)]
        differs = (_bits(old) != _bits(new)).any(-1).reshape(-1, length).any(0)
        return not bool((differs & seen[self._start :]).any())


class _Tape:
    """A tensor of keys that grows along their axis."""

    def __init__(self, keys: torch.Tensor) -> None:
        self._buffer, self._end = keys[..., :0, :], 0
        self.append(keys)

    def view(self, start: int, stop: int) -> torch.Tensor:
        return self._buffer[..., start:stop, :]

    def append(self, keys: torch.Tensor) -> None:
        end = self._end + keys.shape[-2]
        if end > self._buffer.shape[-2]:
            self._move(end + end // 2)
        self._end = end
        self.write(keys, end - keys.shape[-2])

    def write(self, keys: torch.Tensor, start: int) -> None:
        # Of the data, for views of it are not changed where anything reads them.
        self._buffer.data[..., start : start + keys.shape[-2], :].copy_(keys)

    def trim(self) -> None:
        if self._end < self._buffer.shape[-2]:
            self._move(self._end)

    def _move(self, length: int) -> None:
        old = self.view(0, self._end)
        self._buffer = old.new_empty(*old.shape[:-2], length, old.shape[-1])
        self.write(old, 0)


def _can_be_shared(operands: Mapping[str, Place]) -> bool:
    """Return whether the keys are a tensor with memory of its own that is still as it was recorded."""
    place = operands["key"]
    key, query = place.get(), operands["query"].get()
    if type(key) is not torch.Tensor or not isinstance(query, torch.Tensor) or key.requires_grad:
        return False
    # A comparison would end the recording of a CUDA graph.
    is_recording = key.device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    return min(key.ndim, query.ndim) > 1 and key.device.type != "meta" and place.is_unchanged and not is_recording


def _continues(old: torch.Tensor, new: torch.Tensor, shift: int) -> bool:
    """Return whether the new keys begin with the old ones from a place on."""
    shared = old.shape[-2] - shift
    if shift < 0 or not 0 < shared <= new.shape[-2]:
        return False
    # The first keys of other texts are others.
    return all(torch.equal(_bits(old[..., shift : shift + n, :]), _bits(new[..., :n, :])) for n in (1, shared))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(_BITS[tensor.element_size()])


def _unrepeated(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """Return keys that were repeated for the heads of each group once for each group, if they were."""
    times = old.shape[-3] // max(new.shape[-3], 1) if old.ndim > 3 else 1  # noqa: PLR2004  # (batch, head, key, feature)
    single = old[..., :: max(times, 1), :, :]
    is_repeated = times > 1 and torch.equal(_bits(single.repeat_interleave(times, -3)), _bits(old))
    return single if is_repeated else old


def _detach_from_larger(place: Place) -> None:
    """Copy a query that keeps a larger tensor alive, such as one with the keys and values of its step."""
    query = place.get()
    if type(query) is not torch.Tensor or query.requires_grad or not place.is_unchanged:
        return
    if query.untyped_storage().nbytes() > _TOO_LARGE * query.numel() * query.element_size():
        place.put(query.clone(memory_format=torch.contiguous_format), 0)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Hide what is computed from modes of the user's, and keep it out of graphs and of inference mode."""
    dispatch = getattr(torch._C, "_DisableTorchDispatch", contextlib.nullcontext)  # noqa: SLF001  # there is no public one
    with torch._C.DisableTorchFunction(), dispatch(), torch.inference_mode(mode=False), torch.no_grad():  # noqa: SLF001  # as above
        yield
