"""How much memory a capture may hold, and how much it holds.

Free memory is read from the system here. `psutil` (7.2) reads the same number, and knows no limit of a container, which
would have to be read here anyway.
"""

from __future__ import annotations

import os
import re
import sys
import types
from typing import TYPE_CHECKING, Any, Final

from anylocal._engine import tensors
from anylocal._engine.bases import bases_of, is_a
from anylocal._engine.containers import CONTAINERS, PLAIN, first_items, parts
from anylocal.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MOST_OBJECTS: Final = 100_000
# How many records may come between two checks; a prime number, so that records that take turns are all checked.
MOST_AHEAD: Final = 127

_UNITS: Final = {"": 1, "B": 1} | {
    f"{prefix}{infix}B": base**power
    for infix, base in (("", 1000), ("i", 1024))
    for power, prefix in enumerate("KMGT", start=1)
}
# Where the system does not tell.
_FALLBACK: Final = 8 * 1024**3


def parse_size(limit: int | str) -> int:
    """Return a size in bytes.

    Parameters
    ----------
    limit : int or str
        Bytes, or text such as ``"2GiB"``, ``"500 MB"``.

    Raises
    ------
    OptionError
        If it is not a positive size.
    """
    size = 0
    if isinstance(limit, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", limit)
        unit = next((u for u in _UNITS if match and u.lower() == match[2].lower()), None)
        size = int(float(match[1]) * _UNITS[unit]) if match and unit is not None else 0
    elif isinstance(limit, int) and not isinstance(limit, bool):
        size = limit
    if size <= 0:
        msg = f'limit={limit!r} is not a size. Give bytes or text such as "2GiB"; limit=None records without any.'
        raise OptionError(msg)
    return size


def available() -> int:
    """Return the bytes of memory that this process can still allocate: the smallest of its limits."""
    candidates = [size for size in (_meminfo(), _cgroup()) if size is not None]
    if candidates:
        return min(candidates)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, ValueError, OSError):
        return _FALLBACK


def _meminfo() -> int | None:
    try:
        text = _content("/proc/meminfo")
    except OSError:
        return None
    match = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def _cgroup() -> int | None:
    """Return the bytes left of a container's own limit (cgroup v2), which /proc/meminfo ignores."""
    try:
        most = _content("/sys/fs/cgroup/memory.max")
        used = _content("/sys/fs/cgroup/memory.current")
    except OSError:
        return None
    return max(0, int(most) - int(used)) if most.isdigit() else None


def _content(file: str) -> str:
    # For each capture, where a path and a decoder would take half of the time.
    descriptor = os.open(file, os.O_RDONLY)
    try:
        return os.read(descriptor, 4096).decode("ascii").strip()
    finally:
        os.close(descriptor)


class Budget:
    """The limits of one capture: bytes of values by device, and a number of calls.

    Parameters
    ----------
    limit : int, str or None
        ``"auto"`` for half of the memory available on each device, as it was when the first record was counted, a
        size for all together, None for no limit.
    """

    def __init__(self, limit: int | str | None) -> None:
        self.limit = limit
        self._auto = limit == "auto"
        self._most: dict[str, int] = {}
        if not self._auto and limit is not None:
            self._most["all"] = parse_size(limit)
        self.clear()

    def clear(self) -> None:
        """Begin to count anew."""
        self._seen: set[tuple[str, int]] = set()
        self._held: dict[str, int] = {}
        self._objects = self._starts = 0
        # Estimated, and not counted yet.
        self._estimated = self._estimated_objects = 0

    @property
    def held(self) -> int:
        """Bytes held on all devices; storage that several values share counts once."""
        return sum(self._held.values())

    def take_start(self) -> bool:
        """Count a call that starts, and return whether the limit allows it."""
        self._starts += 1
        self._estimated = self._estimated_objects = 0
        return self.limit is None or self._starts <= MOST_OBJECTS

    def take(self, values: tuple[Any, ...]) -> bool:
        """Count the values of a record, and return whether the limit allows them."""
        self._objects += 1
        if self.limit is None:
            return True
        fits = self._objects <= MOST_OBJECTS
        for device, address, size in _held_by(values):
            if (device, address) not in self._seen:
                self._seen.add((device, address))
                fits = self._hold(device if self._auto else "all", size) and fits
        self._estimated = self._estimated_objects = 0
        return fits

    def surely_fits(self, values: Sequence[Any], count: int) -> bool:
        """Return whether the last `count` records are far below the limit, if each has values as large as these."""
        if self.limit is None:
            return True
        size = 0
        if self._auto:
            self._limit_of("cpu")
        for value in values:
            # The common case without generators, since this runs while the model does.
            known = tensors.storage(value)
            for device, _, each in _held_by((value,)) if known is None else (known,):
                if device not in self._most:
                    self._limit_of(device)
                size += each
        estimated, objects = self._estimated + count * size, self._estimated_objects + count
        most = min(most - self._held.get(device, 0) for device, most in self._most.items())
        if 2 * (estimated + MOST_AHEAD * size) >= most:
            return False
        if 2 * (max(self._objects, self._starts) + objects + MOST_AHEAD) >= MOST_OBJECTS:
            return False
        self._estimated, self._estimated_objects = estimated, objects
        return True

    def _hold(self, device: str, size: int) -> bool:
        self._held[device] = self._held.get(device, 0) + size
        return self._held[device] <= self._limit_of(device)

    def _limit_of(self, device: str) -> int:
        """Return how many bytes may be held on a device."""
        device = device if self._auto else "all"
        if device not in self._most:
            free = available() if device == "cpu" else tensors.free_memory(device)
            self._most[device] = self._limit_of("cpu") if free is None else free // 2
        return self._most[device]

    def __str__(self) -> str:
        """Return the limit in words."""
        if max(self._objects, self._starts) > MOST_OBJECTS:
            return f"{MOST_OBJECTS:,} calls"
        if not self._auto:
            return f"{self.limit:,} bytes" if isinstance(self.limit, int) else str(self.limit)
        return " and ".join(f"{most / 1024**3:.3g} GiB on {device}" for device, most in self._most.items())


def _held_by(values: Sequence[Any]) -> Iterator[tuple[str, int, int]]:
    """Yield device, address and size in bytes of what values hold, without running code of theirs."""
    for value in values:
        for part, count in parts(value, containers=True):
            if tensors.is_tensor(part):
                held = tensors.storages(part)
            else:
                size = _size(part)
                held = [("cpu", id(part), size)] if size >= _SMALL else []
            for device, address, size in held:
                yield device, address, int(count * size)


# Smaller objects are bounded by the number of calls.
_SMALL: Final = 64
# How many of a container's items stand for all of them.
_SAMPLE: Final = 16


def _size(value: Any) -> int:
    """Return the bytes of an array or an image, or of another object by itself; of a container with its plain items."""
    kind = type(value)
    if kind not in PLAIN and kind not in CONTAINERS:
        for bytes_of in (_bytes_of_array, _bytes_of_image):
            if (known := bytes_of(value)) is not None:
                return known
    size = _own_size(value)
    if kind in PLAIN:
        return size
    count, items = first_items(value, _SAMPLE)
    plain = sum([_own_size(item) for item in items if type(item) in PLAIN])
    return size + (count * plain // len(items) if items else 0)


def _bytes_of_array(value: object) -> int | None:
    # Not by getattr, which may run an object's own code.
    try:
        size = object.__getattribute__(value, "nbytes")
    except Exception:  # noqa: BLE001  # a file that is closed, a buffer that was released
        return None
    return size if type(size) is int else None


def _bytes_of_image(value: Any) -> int | None:
    """Return the bytes of the pixels of an image of Pillow, which its own object does not hold."""
    image_class = getattr(sys.modules.get("PIL.Image"), "Image", None)
    if image_class is None or not is_a(type(value), image_class):
        return None
    try:
        width, height = value.size
        # Pillow keeps a pixel of one byte in one, and any other in four.
        return int(width * height * (1 if value.mode in {"1", "L", "P"} else 4))
    except Exception:  # noqa: BLE001  # an image whose file is closed
        return 0


def _own_size(value: object) -> int:
    """Return the bytes of an object by Python's own function for it, also where its class overrides that."""
    found: Iterator[Any] = (vars(base).get("__sizeof__") for base in bases_of(type(value)))
    return int(next(function for function in found if type(function) is types.MethodDescriptorType)(value))
