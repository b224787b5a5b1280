"""Explainers, known by their dotted names: functions outside the engine that say why a capture recorded nothing."""

from __future__ import annotations

REGISTERED: dict[str, None] = {}


def register(explainer: str) -> None:
    """Ask an explainer, such as ``"package.module:function"``, why a function returned without binding a name.

    It is a function of the captured function that returns the end of a sentence, or an empty string, and is imported
    when a reason is needed.
    """
    REGISTERED[explainer] = None
