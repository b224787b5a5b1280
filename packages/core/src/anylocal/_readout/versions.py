"""What an adapter makes of the installed version of its zoo: known, too old, or newer than its tests."""

from __future__ import annotations

import functools
import importlib.metadata
import warnings
from typing import TYPE_CHECKING, Final, Protocol

import torch
from packaging.requirements import Requirement
from packaging.version import Version

from anylocal.errors import UnknownVersionWarning, VersionError, level_of_user

if TYPE_CHECKING:
    from collections.abc import Callable

_TOLERANCE: Final = 1e-3
"""Of the sum of a row, which adds up thousands of rounded weights; twice what the dtype resolves if that is more."""


class OfZoo(Protocol):
    """What this module needs of an adapter."""

    @property
    def distribution(self) -> str: ...
    @property
    def zoo(self) -> str: ...
    @property
    def newest(self) -> str: ...
    @property
    def requirement(self) -> Requirement: ...


def requirement_of(distribution: str, zoo: str) -> Requirement:
    """Return what a distribution requires of a zoo."""
    return next(requirement for requirement in _required(distribution) if requirement.name == zoo)


def is_newer(adapter: OfZoo) -> bool:
    """Return whether the installed zoo is of a later series than any that the adapter was tested with."""
    return _is_beyond(adapter.newest, _installed(adapter.zoo))


def check_version(adapter: OfZoo) -> None:
    """Warn of a newer version of the zoo than the adapter knows, and refuse an older one.

    Raises
    ------
    VersionError
        If it is older than the metadata of the adapter requires.
    """
    installed = _installed(adapter.zoo)
    if is_newer(adapter):
        message = (
            f"{adapter.distribution} knows {adapter.zoo} up to {adapter.newest}, and {adapter.zoo} {installed} is"
            " installed. It is tried, and maps whose rows are no softmax are refused. Install a newer"
            f" {adapter.distribution} if there is one; any_version=True does without this warning."
        )
        warnings.warn(UnknownVersionWarning(message), stacklevel=level_of_user())
    elif not _meets(adapter.requirement, installed):
        raise VersionError(
            f"{adapter.distribution} knows {adapter.requirement}, and {adapter.zoo} {installed} is installed. Install a"
            " version that it knows, or pass any_version=True to try; nothing was touched."
        )


def check_softmax(adapter: OfZoo, weights: torch.Tensor, layer: str) -> None:
    """Refuse weights that a zoo of an unknown version computed where the softmax was before, if they are none.

    Raises
    ------
    VersionError
        If a weight is negative or no number, or a row adds up to more than 1. Less is right: a masked row is 0, and a
        sink takes its share.
    """
    if weights.is_meta:
        return
    sums = weights.detach().sum(-1, dtype=torch.float32)
    tolerance = max(_TOLERANCE, 2 * torch.finfo(weights.dtype).eps)
    if not (sums.le(1 + tolerance).all() and weights.ge(0).all()):
        raise VersionError(
            f"{adapter.zoo} {_installed(adapter.zoo)} is newer than {adapter.distribution} knows, and what {layer!r}"
            " computes in place of its softmax is none: rows have negative weights or add up to more than 1. Install a"
            f" newer {adapter.distribution}, or {adapter.zoo} {adapter.newest}."
        )


# Cached, because scopes are opened by the thousand and each look-up reads files.


def _installed(zoo: str) -> str:
    return _version_by(importlib.metadata.version, zoo)


@functools.cache
def _version_by(version: Callable[[str], str], distribution: str) -> str:
    return version(distribution)


@functools.cache
def _meets(requirement: Requirement, version: str) -> bool:
    return requirement.specifier.contains(version, prereleases=True)


@functools.cache
def _required(distribution: str) -> tuple[Requirement, ...]:
    return tuple(map(Requirement, importlib.metadata.requires(distribution) or ()))


@functools.cache
def _is_beyond(series: str, version: str) -> bool:
    """Return whether a version is later than all of a series, as 1.1 and 2 are of "1.0"; nothing is later than ""."""
    if not series:
        return False
    known = Version(series).release
    return Version(version).release[: len(known)] > known
