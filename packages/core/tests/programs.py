"""Random functions, as source text: every way of binding, unbinding and leaving, in any nesting."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from hypothesis import strategies as st

ARGUMENTS = ("a", "b")
NAMES = ("a", "b", "c", "d", "e")
_ATOMS = ("0", "1", "(1, 2)", "[0, 1, 2]", "'text'", "risky()", "None")

# Two notations stand for what a program with its assignments written out would say: «a:…» is a value on its way to the
# name, «!a» the place behind an assignment.
_VALUE = re.compile(r"«(\w+):")
_BEHIND = re.compile(r"«!(\w+)»")


class Program(NamedTuple):
    """The source of a function `program`, and how it is run.

    Parameters
    ----------
    text : str
        The source, with both notations in it.
    failing : frozenset of int
        Which calls of `risky` raise.
    is_generator : bool
        Whether the function is a generator.
    """

    text: str
    failing: frozenset[int]
    is_generator: bool

    @property
    def plain(self) -> str:
        """The function as somebody would write it."""
        return _BEHIND.sub("pass", _VALUE.sub("(", self.text)).replace("»", ")")

    @property
    def noted(self) -> str:
        """The same function, telling `note` of each value that it assigns."""
        behind = _BEHIND.sub(r"note('\1', \1)", self.text)
        return _VALUE.sub(r"note('\1', ", behind).replace("»", ")")


class BoomError(Exception):
    """What programs raise."""


class Manager:
    """What programs put into a `with` statement."""

    def __init__(self, *, suppresses: bool) -> None:
        self.suppresses = suppresses

    def __enter__(self) -> str:
        return "entered"

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return self.suppresses


def namespace(program: Program) -> dict[str, Any]:
    """Return the globals of a run: what programs call."""
    calls, fuel = iter(range(10**6)), iter(range(40))

    def risky() -> int:
        call = next(calls)
        if call in program.failing:
            raise BoomError(call)
        return call % 3

    def spend() -> bool:
        if next(fuel, None) is None:
            raise BoomError("no fuel")
        return next(fuel, 0) % 3 != 0

    return {
        "risky": risky,
        "spend": spend,
        "number": lambda value: value if isinstance(value, int) else 1,
        "never": lambda: False,
        "Boom": BoomError,
        "Manager": Manager,
    }


names = st.sampled_from(NAMES)


@st.composite
def expressions(draw: st.DrawFn, depth: int = 2) -> str:  # noqa: C901, PLR0911, PLR0912  # one branch for each shape
    if depth == 0 or draw(st.integers(0, 3)) == 0:
        return draw(st.sampled_from(_ATOMS) | names)
    inside = expressions(depth - 1)
    kind = draw(st.integers(0, 12))
    name, other = draw(names), draw(names)
    match kind:
        case 0:
            return f"(number({draw(inside)}) + {draw(st.integers(0, 2))})"
        case 1:
            return f"({name} := «{name}:{draw(inside)}»)"
        case 2:
            brackets, value = draw(
                st.sampled_from([("[]", name), ("{}", name), ("{}", f"{name}: {name}"), ("[]", f"1 // {name}")])
            )
            condition = draw(st.sampled_from(["", f" if {name}", f" if {other} != 1", " if risky()"]))
            return f"{brackets[0]}{value} for {name} in (1, 2, 0){condition}{brackets[1]}"
        case 3:
            return f"[{name} for {name} in [{other} for {other} in (0, 1)]]"
        case 4:
            return f"[[{other} for {other} in ({name}, {name})] for {name} in (0, 1) for {other} in (2,)]"
        case 5:
            return f"[read() for read in [lambda: {name} for {name} in (1, 2)]]"
        case 6:
            return f"tuple({name} for {name} in (1, 2))"
        case 7:
            return f"(lambda: {name})()"
        case 8:
            return f"({draw(inside)} if {draw(inside)} else {draw(inside)})"
        case 9:
            return f"({draw(inside)} {draw(st.sampled_from(['and', 'or']))} {draw(inside)})"
        case 10:
            return f"({draw(inside)}, {draw(inside)})"
        case 11:
            return f"[({name}, {other}) for {name} in (0, 1) for {other} in [{name}, {draw(st.integers(0, 2))}]]"
        case _:
            return f"(1 // number({draw(inside)}))"


def indented(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]


@st.composite
def blocks(draw: st.DrawFn, depth: int, *, loop: bool, generator: bool) -> list[str]:
    lines: list[str] = []
    for _ in range(draw(st.integers(1, 2))):
        lines += draw(statements(depth, loop=loop, generator=generator))
    return lines


@st.composite
def simple(draw: st.DrawFn, *, loop: bool, generator: bool) -> list[str]:
    name, other, value = draw(names), draw(names), draw(expressions())
    options = [
        [f"{name} = «{name}:{value}»"],
        [f"{name} = «{name}:{value}»"],
        [f"{name} = {other} = {value}", f"«!{name}»", f"«!{other}»"],
        [f"{name} = «{name}:number({name})»"],
        [f"del {name}"],
        [f"del {name}"],
        [f"return {value}"],
        ["return"],
        ["raise Boom"],
        [value],
        [f"def {name}(): return {other}", f"«!{name}»"],
        [f"import sys as {name}", f"«!{name}»"],
        [f"class {name}: x = {other}", f"«!{name}»"],
        [f"def inner(): nonlocal {name}; {name} = {draw(st.sampled_from(_ATOMS))}", "inner()"],
        [f"def inner(): nonlocal {name}; del {name}", "inner()"],
    ]
    if name != other:
        options += [
            [f"{name}, {other} = {value}, risky()", f"«!{name}»", f"«!{other}»"],
            [f"{name}, *{other} = (1, {value}, 3)", f"«!{name}»", f"«!{other}»"],
            [f"{name}, {other} = {other}, {name}", f"«!{name}»", f"«!{other}»"],
        ]
    if loop:
        options += [["break"], ["continue"]]
    if generator:
        options += [[f"yield {value}"], [f"{name} = «{name}:(yield {value})»"], [f"yield from ({value}, 1)"]] * 2
    return draw(st.sampled_from(options))


@st.composite
def statements(  # noqa: C901  # one branch for each shape
    draw: st.DrawFn, depth: int, *, loop: bool, generator: bool
) -> list[str]:
    if depth == 0 or draw(st.booleans()):
        return draw(simple(loop=loop, generator=generator))
    body = blocks(depth - 1, loop=loop, generator=generator)
    in_loop = blocks(depth - 1, loop=True, generator=generator)
    name, other = draw(names), draw(names)
    kind = draw(st.integers(0, 6))
    lines: list[str] = []
    match kind:
        case 0 | 1:
            lines = [f"if {draw(expressions())}:", *indented(draw(body))]
            if draw(st.booleans()):
                lines += ["else:", *indented(draw(body))]
        case 2:
            lines = [f"for {name} in {draw(expressions(1))}, 1:", f"    «!{name}»", *indented(draw(in_loop))]
            if draw(st.booleans()):
                lines += ["else:", *indented(draw(body))]
        case 3:
            lines = ["while spend():", *indented(draw(in_loop))]
            if draw(st.booleans()):
                lines += ["else:", *indented(draw(body))]
        case 4:
            lines = draw(tries(body, name))
        case 5:
            manager = f"Manager(suppresses={draw(st.booleans())})"
            lines = [f"with {manager} as {name}:", f"    «!{name}»", *indented(draw(body))]
        case _:
            lines = [f"match {draw(expressions())}:", "    case 0:", *indented(indented(draw(body)))]
            if name != other:
                lines += [f"    case [{name}, {other}]:", f"        «!{name}»", f"        «!{other}»"]
                lines += indented(indented(draw(body)))
            lines += [f"    case {name}:", f"        «!{name}»", *indented(indented(draw(body)))]
    return lines


@st.composite
def tries(draw: st.DrawFn, body: st.SearchStrategy[list[str]], name: str) -> list[str]:
    lines = ["try:", *indented(draw(body))]
    shape = draw(st.integers(0, 3))
    if shape:
        lines += [f"except Boom as {name}:", f"    «!{name}»", *indented(draw(body))]
    if shape == 2:
        lines += ["except ZeroDivisionError:", *indented(draw(body))]
    if shape and draw(st.booleans()):
        lines += ["else:", *indented(draw(body))]
    if shape in {0, 3}:
        lines += ["finally:", *indented(draw(body))]
    return lines


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Give a program."""
    generator = draw(st.booleans()) and draw(st.booleans())
    depth = draw(st.integers(1, 3))
    body = draw(blocks(depth, loop=False, generator=generator))
    for _ in range(draw(st.integers(0, 2))):
        body += draw(blocks(depth, loop=False, generator=generator))
    # The compiler wants a binding of each name that is nonlocal below; this one is never run.
    written = [name for name in NAMES if any(f"nonlocal {name};" in line for line in body)]
    head = [f"if never(): {' = '.join(written)} = 0"] if written else []
    head += [f"«!{name}»" for name in (*ARGUMENTS, "rest")]
    if generator:
        head.append("if never(): yield")
    text = "\n".join(["def program(a, b=1, *rest):", *indented([*head, *body])])
    return Program(text, draw(st.frozensets(st.integers(0, 12), max_size=3)), generator)
