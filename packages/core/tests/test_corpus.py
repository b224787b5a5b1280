"""Functions of any library can be rewritten, for all their names: a sample; ``nox -s corpus`` takes all of them."""

from __future__ import annotations

import dis
import importlib.util
from typing import TYPE_CHECKING

import pytest

from anylocal._engine.rewrite import Flow, rewrite
from anylocal._engine.spec import CaptureSpec

from .corpus import (
    LIBRARIES,
    STDLIB,
    Anatomy,
    BrokenError,
    Tally,
    check_file,
    compare,
    functions,
    home_of,
    names_of,
    sample,
    sources,
    steps,
)

if TYPE_CHECKING:
    import types
    from collections.abc import Callable, Iterable
    from pathlib import Path


@pytest.mark.parametrize(
    ("library", "files"), [(STDLIB, 120), *((library, 40) for library in LIBRARIES)], ids=[STDLIB, *LIBRARIES]
)
def test_functions_of_a_library_can_be_rewritten(library: str, files: int) -> None:
    """With everything injected, and still the same function."""
    home = home_of(library)
    if home is None:
        pytest.skip(f"{library} is not installed")
    tallies = [
        check_file(library, home / name, 10) for name in sample([p.relative_to(home) for p in sources(home)], files)
    ]
    assert [failure for tally in tallies for failure in tally.failures] == []
    assert sum(tally.functions for tally in tallies) > files


@pytest.mark.parametrize("name", ["argparse", "inspect", "typing"])
def test_flow_agrees_with_the_compiler(name: str) -> None:
    """Where the compiler loads a name without a check, the analysis does not say that it is unbound."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    for code in functions(spec.loader.get_code(name)):  # type: ignore[attr-defined]  # a loader of source files
        flow = Flow(code)
        for index, element in enumerate(flow.elements):
            if getattr(element, "name", "") in {"LOAD_FAST", "LOAD_FAST_BORROW"} and isinstance(element.arg, str):  # type: ignore[union-attr]  # it has a name
                assert not flow.is_unbound(element.arg, index), (code.co_qualname, element.arg)  # type: ignore[union-attr]  # as above


# What the comparison sees


def searched(items: Iterable[str], wanted: str) -> int:
    """Be a function with a loop, a jump, a handler and a constant."""
    for item in items:
        try:
            if item == wanted:
                return len(item) + 4242
            last = item.upper()
        except ValueError:
            continue
    return -1


CODE = searched.__code__
REWRITTEN = rewrite(CODE, 1, CaptureSpec(names_of(CODE), frozenset(names_of(CODE)), frozenset(names_of(CODE))))


def with_byte(opname: str, change: Callable[[bytearray, int], None]) -> types.CodeType:
    """Change the last instruction of a name."""
    place = [step.offset for step in steps(REWRITTEN) if step.name == opname][-1]
    changed = bytearray(REWRITTEN.co_code)
    change(changed, place)
    return REWRITTEN.replace(co_code=bytes(changed))


def to_nop(code: bytearray, place: int) -> None:
    code[place] = dis.opmap["NOP"]


def one_further(code: bytearray, place: int) -> None:
    code[place + 1] += 1


def without_first_region() -> bytes:
    table = REWRITTEN.co_exceptiontable
    return table[next(i for i, byte in enumerate(table) if i and byte & 128) :]


def with_a_wide_column() -> bytes:
    """Let the first place in the short form for one line end at a column that needs the long form."""
    table = bytearray(REWRITTEN.co_linetable)
    table[next(i for i, byte in enumerate(table) if byte >> 3 in range(26, 29)) + 2] = 150
    return bytes(table)


def needed() -> int:
    """Return how deep the stack has to be."""
    size = REWRITTEN.co_stacksize
    while True:
        try:
            Anatomy(REWRITTEN.replace(co_stacksize=size - 1))
        except BrokenError:
            return size
        size -= 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CODE, "Nothing is injected"),
        (lambda: REWRITTEN.replace(co_name="another"), "co_name is another"),
        (lambda: REWRITTEN.replace(co_flags=CODE.co_flags | 0x20), "co_flags is another"),
        (lambda: REWRITTEN.replace(co_varnames=("a", *REWRITTEN.co_varnames[1:])), "co_varnames is another"),
        (lambda: REWRITTEN.replace(co_stacksize=needed() - 1), f"on a stack of {needed() - 1}"),
        (lambda: REWRITTEN.replace(co_exceptiontable=without_first_region()), "is covered by None"),
        (lambda: REWRITTEN.replace(co_exceptiontable=REWRITTEN.co_exceptiontable[:-1]), "is cut off"),
        (lambda: REWRITTEN.replace(co_exceptiontable=2 * REWRITTEN.co_exceptiontable), "Regions overlap"),
        (lambda: REWRITTEN.replace(co_consts=(None,) * len(REWRITTEN.co_consts)), "is missing"),
        (lambda: REWRITTEN.replace(co_names=REWRITTEN.co_names[::-1]), "is missing"),
        (lambda: REWRITTEN.replace(co_linetable=b""), "is missing"),
        (lambda: REWRITTEN.replace(co_linetable=with_a_wide_column()), "depend on who reads them"),
        (lambda: with_byte("POP_TOP", to_nop), "on the stack"),
        (lambda: with_byte("COMPARE_OP", one_further), "is missing"),
        (lambda: with_byte("JUMP_BACKWARD", one_further), "leads elsewhere"),
        (lambda: with_byte("FOR_ITER", one_further), "on the stack|leads elsewhere|the middle of an instruction"),
    ],
)
def test_the_comparison_sees(make: Callable[[], types.CodeType], message: str) -> None:
    """Whatever is done to a rewritten function."""
    compare(CODE, REWRITTEN)
    with pytest.raises(BrokenError, match=message):
        compare(CODE, make())


def test_a_file_in_another_python_is_not_a_failure(tmp_path: Path) -> None:
    """Test data of the standard library has such."""
    path = tmp_path / "old.py"
    path.write_text("print 'Hello'\n")
    assert check_file("mine", path) == Tally("mine", str(path), is_python=False, functions=0, failures=())
