"""Every difference between CPython versions that anylocal minds, as a named flag with an example beside it.

No other file compares ``sys.version_info``.
"""

from __future__ import annotations

import sys
from typing import Final

_VERSION: Final = sys.version_info[:2]

CALLS_ARE_PRECALLED: Final = _VERSION == (3, 11)
"""A method call is LOAD_METHOD … PRECALL n, CALL n; from 3.12 on it is LOAD_ATTR … CALL n.

``dis.dis("a.b(1)")`` shows PRECALL on 3.11 alone.
"""

LOADS_OF_UNBOUND_CRASH: Final = _VERSION >= (3, 12)
"""LOAD_FAST of a name that is not bound reads a NULL and crashes; LOAD_FAST_CHECK raises.

On 3.11 LOAD_FAST itself raises: ``def f(): x; x = 1`` compiles to LOAD_FAST there, to LOAD_FAST_CHECK later.
"""

COMPREHENSIONS_ARE_INLINED: Final = _VERSION >= (3, 12)
"""PEP 709: ``[x for x in xs]`` runs in the frame of its function, which saves its own `x` on the stack
(LOAD_FAST_AND_CLEAR, possibly a NULL) and puts it back with a plain STORE_FAST.
"""
