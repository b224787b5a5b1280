"""Rewriting as a pure function: code object in, code object out."""

from __future__ import annotations

import dis
import gc
import typing
from itertools import pairwise
from typing import Any

import pytest

from anylocal._engine.python import ABSENT_OPCODES
from anylocal._engine.rewrite import UNBOUND, Flow, may_be_unbound, opcodes, owner_name, rewrite, template
from anylocal._engine.spec import Assignment, CaptureSpec

from .corpus import FUSED, SAME, Anatomy, check, functions, names_of
from .samples import SAMPLES

if typing.TYPE_CHECKING:
    import types
    from collections.abc import Iterator

CODES = {sample.function.__qualname__: sample.function.__code__ for sample in SAMPLES}
codes = pytest.mark.parametrize("code", list(CODES.values()), ids=list(CODES))


def everything(code: types.CodeType) -> types.CodeType:
    """Rewrite with all that can be wanted."""
    names = names_of(code)
    called = frozenset(Assignment(name, "len") for name in names)
    return rewrite(code, 1, CaptureSpec(names, frozenset(names), frozenset(names), called, frozenset(names)))


def instructions(code: types.CodeType) -> Iterator[tuple[Any, ...]]:
    """Give each instruction with its place in the source; fused ones as what they are made of, jumps without target."""
    for instruction in dis.get_instructions(code):
        place = instruction.positions
        if instruction.opname in FUSED:
            for opname, name in zip(FUSED[instruction.opname], instruction.argval, strict=True):
                yield opname, name, place
        elif instruction.opname != "EXTENDED_ARG":
            is_jump = instruction.opcode in dis.hasjrel or instruction.opcode in dis.hasjabs
            yield instruction.opname, None if is_jump else instruction.argval, place


@codes
def test_everything_but_the_instructions_stays(code: types.CodeType) -> None:
    """Names, arguments, cells, flags and where it stands."""
    rewritten = everything(code)
    assert {name: getattr(rewritten, name) for name in SAME} == {name: getattr(code, name) for name in SAME}


@codes
def test_the_instructions_are_all_there_in_order_and_in_place(code: types.CodeType) -> None:
    """Injected ones stand between them; each of the others keeps its line and columns."""
    found = instructions(everything(code))
    for instruction in instructions(code):
        assert any(instruction == other for other in found), instruction


@codes
def test_no_line_is_added(code: types.CodeType) -> None:
    """What is injected stands on lines that are there, or on none."""
    lines = {line for _, _, line in code.co_lines()}
    assert {line for _, _, line in everything(code).co_lines()} <= lines | {None}


@codes
def test_the_stack_is_deep_enough_and_the_same_on_every_path(code: types.CodeType) -> None:
    """The interpreter does not check."""
    Anatomy(everything(code))


@codes
def test_it_can_be_taken_apart_and_saved(code: types.CodeType) -> None:
    """`dis` and `marshal` understand it: the constants are plain."""
    import io
    import marshal

    rewritten = everything(code)
    dis.dis(rewritten, file=io.StringIO())
    assert marshal.loads(marshal.dumps(rewritten)) == rewritten  # noqa: S302  # our own


@codes
def test_the_same_is_the_same(code: types.CodeType) -> None:
    """Rewriting depends on nothing but its arguments, and leaves what it is given alone."""
    before = code.co_code, code.co_consts, code.co_linetable
    assert everything(code) == everything(code)
    assert (code.co_code, code.co_consts, code.co_linetable) == before


@codes
def test_a_rewritten_code_can_be_rewritten_again(code: types.CodeType) -> None:
    """As happens where another tool keeps a copy of ours."""
    again = everything(everything(code))
    assert {name: getattr(again, name) for name in SAME} == {name: getattr(code, name) for name in SAME}


@codes
def test_nothing_wanted_injects_the_bare_call(code: types.CodeType) -> None:
    """Starts and returns are told, no names are."""
    loaded = [instruction.argval for instruction in dis.get_instructions(rewrite(code, 1, CaptureSpec()))]
    assert "entered_1" in loaded
    assert "assigned_1" not in loaded
    assert "edited_1" not in loaded


@pytest.mark.skipif(not hasattr(typing, "NoDefault"), reason="Python has it from 3.13 on")
def test_type_parameters_with_a_default_can_be_rewritten() -> None:
    """What makes them is a function of its own."""
    module = compile("def f[S: (int, str), T = int](x: T) -> S:\n    return x\n", "<text>", "exec")
    codes = list(functions(module))
    assert len(codes) > 2
    for code in codes:
        check(code)


def test_names_that_the_function_lacks_are_ignored() -> None:
    """Asked for in each way."""

    def f(x: int) -> int:
        y = x
        return y

    missing = frozenset({"missing"})
    code = rewrite(
        f.__code__,
        1,
        CaptureSpec(("y", "missing"), missing, missing, frozenset({Assignment("missing", "len")}), missing),
    )
    assert code.co_varnames == ("x", "y")


def test_the_placeholder_is_plain_text() -> None:
    """Unpickled or traced, it stays the one interned string."""
    import sys

    assert UNBOUND is sys.intern(str(UNBOUND))


@pytest.mark.parametrize(
    ("source", "owner"),
    [
        ("def f(): pass", None),
        ("def f(self, x): pass", "self"),
        ("def f(x, y): pass", "x"),
        ("def f(x, module): pass", "module"),
        ("def f(x, *, module): pass", "module"),
        ("def f(self, module): pass", "self"),
        ("def f(cls, module): pass", "cls"),
        ("def f(*args): pass", None),
        ("def f(*, x): pass", None),
    ],
)
def test_the_owner_is_self_or_module_or_the_first(source: str, owner: str | None) -> None:
    """On whose behalf a call runs."""
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    assert owner_name(namespace["f"].__code__) == owner


# What flows where


def flow_at_return(function: Any) -> dict[str, str]:
    """Say of each plain local what is known of it at the last return."""
    flow = Flow(function.__code__)
    last = max(i for i, e in enumerate(flow.elements) if getattr(e, "name", "") in {"RETURN_VALUE", "RETURN_CONST"})
    names = [name for name in function.__code__.co_varnames if name not in flow.cells]
    return {
        name: "bound" if flow.is_bound(name, last) else "unbound" if flow.is_unbound(name, last) else "either"
        for name in names
    }


def test_flow_tells_bound_from_unbound() -> None:
    """What is certain needs no check; the rest does."""

    def f(argument: int, deleted: int) -> None:
        always = 1
        if argument:
            sometimes = 1
        del deleted
        try:
            tried = 1 // argument
        except ZeroDivisionError as error:
            handled = 1
        else:
            handled = 2

    assert flow_at_return(f) == {
        "argument": "bound",
        "deleted": "unbound",
        "always": "bound",
        "sometimes": "either",
        "tried": "either",
        "error": "unbound",
        "handled": "bound",
    }


def test_flow_knows_that_a_name_that_was_read_is_bound() -> None:
    """A load that did not raise proves it."""

    def f(flag: bool) -> int:
        if flag:
            x = 1
        y = x
        return y

    assert flow_at_return(f)["x"] == "bound"


def test_flow_follows_a_name_through_a_comprehension() -> None:
    """It is afterwards what it was before."""

    def f(xs: list[int], flag: bool) -> int:
        bound = 1
        if flag:
            either = 2
        a, b = [bound + 1 for bound in xs], [either + 1 for either in xs]
        return len(a)

    known = flow_at_return(f)
    assert (known["bound"], known["either"]) == ("bound", "either")


# CaptureSpec


def test_wants_are_joined() -> None:
    """In the order of the first, each name once."""
    both = CaptureSpec(("a", "b"), frozenset({"c"})) | CaptureSpec(("b", "d"), frozenset({"e"}), frozenset({"f"}))
    assert both == CaptureSpec(("a", "b", "d"), frozenset({"c", "e"}), frozenset({"f"}))


def test_wants_of_arguments_join() -> None:
    """What serves both records the arguments of both, and serves each."""
    one, other = CaptureSpec(given=frozenset({"x"})), CaptureSpec(given=frozenset({"y"}))
    assert (one | other).given == {"x", "y"}
    assert (one | other).covers(other)
    assert not one.covers(other)


def test_joined_wants_cover_both() -> None:
    """And neither covers the other."""
    one, other = CaptureSpec(("a",)), CaptureSpec((), frozenset({"a"}))
    assert (one | other).covers(one)
    assert (one | other).covers(other)
    assert not one.covers(other)
    assert not other.covers(one)


def test_wants_join_wants_only() -> None:
    """Anything else is an error of type."""
    with pytest.raises(TypeError):
        _ = CaptureSpec() | ("a",)


def test_what_may_be_unbound_at_a_return_is_known() -> None:
    """A name that some path to a return does not bind, and one that the function lacks; not one that all paths bind."""

    def f(x: int) -> int:
        if x:
            y = 1
        z = 2
        return z

    assert may_be_unbound(f.__code__, ("x", "y", "z", "w")) == {"y", "w"}


def test_a_name_that_is_bound_at_one_return_only_may_be_unbound() -> None:
    """It takes one return without it."""

    def f(x: int) -> int:
        if x:
            return 1
        y = 2
        return y

    assert may_be_unbound(f.__code__, ("x", "y")) == {"y"}


def held(function: Any, name: str) -> bool:
    """Say whether a name holds something from the start in the rewritten function."""
    instructions = list(dis.get_instructions(rewrite(function.__code__, 1, CaptureSpec((name,)), True)))
    return any(
        load.argval is UNBOUND and (store.opname, store.argval) == ("STORE_FAST", name)
        for load, store in pairwise(instructions)
    )


def test_a_name_is_held_only_where_the_function_cannot_tell() -> None:  # noqa: C901  # six functions of three lines
    """Not where it is always bound, deleted, read where it may be unbound, or asked for with all locals."""

    def plain(x: bool) -> bool:
        if x:
            y = 1
        return x

    def bound(x: bool) -> int:
        y = 1
        return y

    def deleted(x: bool) -> bool:
        y = 1
        if x:
            del y
        return x

    def read(x: bool) -> int:
        if x:
            y = 1
        return y

    def asked(x: bool) -> Any:
        if x:
            y = 1
        return locals()

    def closed(x: bool) -> Any:
        if x:
            y = 1
        return lambda: y

    assert [held(function, "y") for function in (plain, bound, deleted, read, asked, closed)] == [True, *[False] * 5]


def test_each_rewriting_of_a_function_has_its_own_number() -> None:
    """What was put together once is used again, under another number."""
    code = CODES["reads_what_may_be_unbound"]
    first, second = (rewrite(code, number, CaptureSpec(("y",))) for number in (7, 70))
    assert first is not second
    assert ("returned_7" in first.co_names, "returned_7" in second.co_names) == (True, False)
    assert "returned_70" in second.co_names


def test_what_is_wanted_tells_rewritings_apart() -> None:
    """Another name, or a name that is held from the start, makes other code."""

    def f(x: Any, y: Any) -> Any:
        if x:
            z = y
        return y

    code = f.__code__
    every = [
        rewrite(code, 7, CaptureSpec(("y",))),
        rewrite(code, 7, CaptureSpec(("x",))),
        rewrite(code, 7, CaptureSpec(("z",))),
        rewrite(code, 7, CaptureSpec(("z",)), holding=True),
        rewrite(code, 7, CaptureSpec(assigned=frozenset("z"))),
    ]
    assert len(set(every)) == len(every)


def test_equal_code_of_another_file_keeps_its_file() -> None:
    """Python finds code of the same text at the same line equal, whatever file it is of."""
    one, other = (compile("def f(x):\n    y = x\n    return y", file, "exec").co_consts[0] for file in ("a.py", "b.py"))
    assert one == other
    assert [rewrite(code, 1, CaptureSpec(("y",))).co_filename for code in (one, other)] == ["a.py", "b.py"]


def test_nothing_is_kept_of_code_that_is_gone() -> None:
    """Functions that are made anew in a loop leave no rewritings behind."""
    before = set(template._templates)
    code = compile("def f(x):\n    y = x\n    return y", "a.py", "exec").co_consts[0]
    rewrite(code, 1, CaptureSpec(("y",)))
    assert set(template._templates) - before == {id(code)}
    del code
    gc.collect()
    assert set(template._templates) == before


def test_an_opcode_that_this_python_does_not_have_is_noticed() -> None:
    """Unless it is known to be one of another version."""
    with pytest.raises(AssertionError, match="no opcodes of this Python: LOAD_FASTER"):
        opcodes._opcodes("LOAD_FAST", "LOAD_FASTER")
    assert opcodes._opcodes(*ABSENT_OPCODES) == ABSENT_OPCODES
