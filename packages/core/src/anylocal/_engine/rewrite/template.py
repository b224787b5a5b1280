"""Rewritings of code objects, kept for the next capture."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Final

from bytecode import Instr
from bytecode.instr import TryBegin, TryEnd

from anylocal._engine.rewrite.flow import Flow
from anylocal._engine.rewrite.inject import NAME, NUMBER, Injector
from anylocal._engine.rewrite.parse import Element, assemble
from anylocal._engine.spec import RECORDER

if TYPE_CHECKING:
    import types
    from collections.abc import Iterator

    from anylocal._engine.spec import CaptureSpec

# A function is often captured again, so its rewritings are kept, without their numbers, as long as its code lives.
# By identity: equal code may belong to different files.
_templates: Final[dict[int, dict[tuple[CaptureSpec, bool, bool], types.CodeType]]] = {}
_MOST_TEMPLATES: Final = 16


def rewrite(  # noqa: PLR0917  # two of them are part of a key
    code: types.CodeType,
    number: int,
    spec: CaptureSpec,
    holding: bool = False,  # noqa: FBT001, FBT002  # as above
    starts: bool = True,  # noqa: FBT001, FBT002  # as above
    recorder: str = RECORDER,
) -> types.CodeType:
    """Return new code with the calls of the recorder, and the same names, arguments, free variables, flags and lines.

    Names of the spec that the function does not have are ignored. If `holding`, names that may be unbound at a return
    hold `UNBOUND` from the start, where the function cannot tell. With `starts` it tells of each call that starts,
    without of each one that raises.
    """
    kept = _templates.get(id(code))
    if kept is None:
        kept = _templates[id(code)] = {}
        weakref.finalize(code, _templates.pop, id(code), None).atexit = False
    template = kept.get((spec, holding, starts))
    if template is None:
        if len(kept) >= _MOST_TEMPLATES:
            kept.clear()
        template = kept[spec, holding, starts] = _template(code, spec, holding=holding, starts=starts)
    names = (name.replace(NAME, recorder).replace(NUMBER, str(number), 1) for name in template.co_names)
    return template.replace(co_names=tuple(names))


def _template(code: types.CodeType, spec: CaptureSpec, *, holding: bool, starts: bool) -> types.CodeType:
    flow = Flow(code)
    injector = Injector(flow, spec, holding=holding, starts=starts)
    result = flow.elements
    result[:] = list(_without_empty_regions(injector.elements()))
    return assemble(result, code.co_stacksize + injector.extra_stack)


def _without_empty_regions(elements: Iterator[Element]) -> Iterator[Element]:
    """Drop regions with no instruction in them, which the exception table cannot hold."""
    held: list[Element] = []
    for element in elements:
        if isinstance(element, TryBegin):
            yield from held
            held = [element]
        elif isinstance(element, TryEnd) and held:
            if any(isinstance(e, Instr) for e in held):
                yield from [*held, element]
            else:
                yield from (e for e in held if not isinstance(e, TryBegin))
            held = []
        elif held:
            held.append(element)
        else:
            yield element
    yield from held
