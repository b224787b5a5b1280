"""Helpers for the tests of adapters, of pages and of pictures.

An adapter's test file subclasses `AdapterContract`, with the adapter and a small model of its zoo, and pytest finds the
tests.

Needs pytest and the extra ``anylocal[torch]``.
"""

from anylocal.testing.browser import browser
from anylocal.testing.contract import AdapterContract
from anylocal.testing.flash import flash_attn_stand_in
from anylocal.testing.models import perturb
from anylocal.testing.overlap import overlaps
from anylocal.testing.scan import attention_verdicts, print_verdicts

__all__ = [
    "AdapterContract",
    "attention_verdicts",
    "browser",
    "flash_attn_stand_in",
    "overlaps",
    "perturb",
    "print_verdicts",
]
