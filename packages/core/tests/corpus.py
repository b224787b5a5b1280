"""Rewrites every Python function of some libraries and compares each with what it was; imports none of them.

``python packages/core/tests/corpus.py`` checks the standard library, and of torch, timm and transformers what is
installed; ``nox -s corpus`` runs it. `test_corpus` checks a sample.

Nothing here knows how the rewriter works, nor uses the library that it assembles code with: instructions come from
`dis`, the depth of the stack from `dis.stack_effect` and the exception table.
"""

from __future__ import annotations

import argparse
import dis
import hashlib
import importlib.metadata
import json
import marshal
import platform
import sys
import sysconfig
import types
import warnings
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from anylocal._engine.python import CALLS_ARE_PRECALLED
from anylocal._engine.rewrite import must_tell_starts, rewrite
from anylocal._engine.spec import CaptureSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

STDLIB: Final = "stdlib"
LIBRARIES: Final = ("torch", "timm", "transformers")
SAME: Final = (
    "co_argcount",
    "co_cellvars",
    "co_filename",
    "co_firstlineno",
    "co_flags",
    "co_freevars",
    "co_kwonlyargcount",
    "co_name",
    "co_nlocals",
    "co_posonlyargcount",
    "co_qualname",
    "co_varnames",
)
FUSED: Final = {
    "STORE_FAST_STORE_FAST": ("STORE_FAST", "STORE_FAST"),
    "STORE_FAST_LOAD_FAST": ("STORE_FAST", "LOAD_FAST"),
    "LOAD_FAST_LOAD_FAST": ("LOAD_FAST", "LOAD_FAST"),
    "LOAD_FAST_BORROW_LOAD_FAST_BORROW": ("LOAD_FAST_BORROW", "LOAD_FAST_BORROW"),
}
CONSTANTS: Final = frozenset(dis.hasconst)
NAMES: Final = frozenset(dis.hasname)
JUMPS: Final = frozenset(dis.hasjrel) | frozenset(dis.hasjabs)
ALWAYS_JUMP: Final = frozenset({"JUMP_FORWARD", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT"})
# These have bits in their number, below the name's, which say whether to push a NULL or a self as well.
FLAGS: Final = {"LOAD_GLOBAL": 1, "LOAD_ATTR": 0 if CALLS_ARE_PRECALLED else 1, "LOAD_SUPER_ATTR": 2}
# It has a target from 3.14 on, for monitoring: where the SEND of its loop jumps to. It never goes there itself.
NEVER_JUMPS: Final = frozenset({"END_ASYNC_FOR"})
# How many values are on the stack where a function ends: what it returns, and nothing else.
RETURNS: Final = {"RETURN_VALUE": 1, "RETURN_CONST": 0}
# What is assigned is copied before, to be shown to the recorder behind: there may be one more value on the stack.
STORES: Final = frozenset({"STORE_FAST", "STORE_DEREF"})
ENDS: Final = ALWAYS_JUMP | RETURNS.keys() | {"RAISE_VARARGS", "RERAISE"}


class BrokenError(AssertionError):
    """What is wrong with a code object."""


def expect(condition: object, message: object) -> None:
    """Raise with a message, where ``assert`` would need pytest to say anything."""
    if not condition:
        raise BrokenError(str(message))


# Where functions are found


def home_of(library: str, folder: Path | None = None) -> Path | None:
    """Return the folder of a library, or None where it is not installed."""
    if library == STDLIB:
        return Path(sysconfig.get_path("stdlib"))
    home = (folder or Path(sysconfig.get_path("purelib"))) / library
    return home if home.is_dir() else None


def version_of(library: str, folder: Path | None = None) -> str:
    """Return the version of a library that `home_of` has found."""
    if library == STDLIB:
        return platform.python_version()
    path = [str(folder or sysconfig.get_path("purelib"))]
    return next(iter(importlib.metadata.distributions(name=library, path=path))).version


def sources(home: Path) -> list[Path]:
    """Return all Python files under a folder, but for packages that were installed into it."""
    installed = {"site-packages", "dist-packages"}
    return sorted(path for path in home.rglob("*.py") if installed.isdisjoint(path.relative_to(home).parts))


def sample(items: list[Any], count: int) -> list[Any]:
    """Return some of the items: the same ones as ever, as far as they are still there."""
    return sorted(items, key=lambda item: hashlib.sha256(str(item).encode()).digest())[:count]


def compiled(path: Path) -> types.CodeType | None:
    """Return the code of a file, or None if it is not written in this version of Python."""
    with warnings.catch_warnings():
        # Files of tests are full of them.
        warnings.simplefilter("ignore")
        try:
            return compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
        except (SyntaxError, ValueError):  # ValueError: a zero byte
            return None


def functions(code: types.CodeType) -> Iterator[types.CodeType]:
    """Give the code of all functions in some code, lambdas, comprehensions and generator expressions included."""
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            if constant.co_flags & 0x02:  # CO_NEWLOCALS: no body of a class
                yield constant
            yield from functions(constant)


# What a code object consists of


class Step(NamedTuple):
    """An instruction, with the prefixes that make its argument longer."""

    start: int
    offset: int
    opcode: int
    name: str
    arg: int | None
    value: Any
    place: object


class Region(NamedTuple):
    """A line of the exception table: what happens where an instruction from `start` until `end` raises."""

    start: int
    end: int
    target: int
    depth: int
    lasti: bool


def steps(code: types.CodeType) -> list[Step]:
    """Return the instructions of a code object."""
    result = []
    start: int | None = None
    for instruction in dis.get_instructions(code):
        offset, opcode, arg = instruction.offset, instruction.opcode, instruction.arg
        start = offset if start is None else start
        if opcode != dis.EXTENDED_ARG:
            result.append(
                Step(start, offset, opcode, instruction.opname, arg, instruction.argval, instruction.positions)
            )
            start = None
    return result


def regions(code: types.CodeType) -> list[Region]:
    """Read the exception table; its format is told in CPython's ``exception_handling_notes.txt``."""
    table = iter(code.co_exceptiontable)

    def number(byte: int) -> int:
        value = byte & 63
        while byte & 64:
            byte = next(table)
            value = value << 6 | byte & 63
        return value

    result = []
    try:
        for first in table:
            expect(first & 128, "The exception table has a line that does not begin")
            start, length, target, last = [number(first), *[number(next(table)) for _ in range(3)]]
            result.append(Region(start * 2, (start + length) * 2, target * 2, last >> 1, bool(last & 1)))
    except StopIteration as error:
        raise BrokenError("The exception table is cut off") from error
    return result


class Anatomy:
    """A code object taken apart, its stack followed along every path.

    Attributes
    ----------
    steps : list of Step
        Its instructions.
    handlers : list of (Region or None)
        What each instruction is covered by.
    depth : list of (int or None)
        How many values are on the stack before each; None where it is never reached.
    """

    def __init__(self, code: types.CodeType) -> None:
        self.steps = steps(code)
        self.index = {step.start: i for i, step in enumerate(self.steps)}
        self.handlers = self._cover(code)
        self.depth: list[int | None] = [None] * len(self.steps)
        self._stacksize = code.co_stacksize
        self._pending: list[int] = []
        self._follow()

    def _cover(self, code: types.CodeType) -> list[Region | None]:
        table = regions(code)
        expect(all(region.start < region.end for region in table), "A region is empty")
        expect(all(a.end <= b.start for a, b in pairwise(table)), "Regions overlap")
        expect(all(region.target in self.index for region in table), "A handler begins inside of an instruction")
        covered: list[Region | None] = []
        # A prefix cannot raise: the compiler lets a region begin with it, `bytecode` with the instruction itself.
        ends = {offset for step in self.steps for offset in (step.start, step.offset)} | {len(code.co_code)}
        expect(all({region.start, region.end} <= ends for region in table), "A region cuts an instruction")
        for step in self.steps:
            while table and table[0].end <= step.offset:
                del table[0]
            covered.append(table[0] if table and table[0].start <= step.offset else None)
        return covered

    def _follow(self) -> None:
        self._reach(0, 0)
        while self._pending:
            i = self._pending.pop()
            step, region, depth = self.steps[i], self.handlers[i], self.depth[i]
            assert depth is not None
            if region is not None:
                if depth < region.depth:
                    raise BrokenError(f"{step} has {depth} on the stack, and its handler expects {region.depth}")
                # The interpreter pushes the exception, and before it where it was raised if `lasti` says so.
                self._reach(self.index[region.target], region.depth + region.lasti + 1)
            if depth != RETURNS.get(step.name, depth):
                raise BrokenError(f"{step} leaves {depth} on the stack")
            if step.opcode in JUMPS and step.name not in NEVER_JUMPS:
                if step.value not in self.index:
                    raise BrokenError(f"{step} leads into the middle of an instruction")
                self._reach(self.index[step.value], depth + effect(step, jump=True))
            after = depth + effect(step, jump=False)
            if not 0 <= after <= self._stacksize:
                raise BrokenError(f"{step} leaves {after} on a stack of {self._stacksize}")
            if step.name not in ENDS:
                self._reach(i + 1, after)

    def _reach(self, i: int, depth: int) -> None:
        if i == len(self.steps):
            raise BrokenError("The code runs over its end")
        known = self.depth[i]
        if known not in {None, depth}:
            raise BrokenError(f"{self.steps[i]} is reached with {known} and with {depth} on the stack")
        if not 0 <= depth <= self._stacksize:
            raise BrokenError(f"{self.steps[i]} has {depth} on a stack of {self._stacksize}")
        if known is None:
            self.depth[i] = depth
            self._pending.append(i)


def effect(step: Step, *, jump: bool) -> int:
    """Return by how much an instruction changes the depth of the stack."""
    if step.name == "RETURN_GENERATOR":
        # What is behind it runs when the generator is resumed, and finds the value that was sent on the stack. 3.11
        # and 3.12 say 0, for the compiler did not count the POP_TOP that takes it off.
        return 1
    # Where the loop is over, FOR_ITER jumps to END_FOR as if it had pushed another value (3.12+): the interpreter
    # skips END_FOR, and both know it. So what `dis` says is wrong for each, and right for the two together.
    return dis.stack_effect(step.opcode, step.arg, jump=jump)


# How the rewritten code must be


def names_of(code: types.CodeType) -> tuple[str, ...]:
    """Return all names that live in a function."""
    return tuple(dict.fromkeys(code.co_varnames + code.co_cellvars + code.co_freevars))


def check(code: types.CodeType) -> None:
    """Rewrite a function for all its names at once, as where there is a compiler and where there is none; compare."""
    names = names_of(code)
    for holding in (False, True):
        starts = holding or must_tell_starts(code)
        spec = CaptureSpec(names, frozenset(names), frozenset(names))
        compare(code, rewrite(code, 1, spec, holding, starts), starts=starts)


def compare(code: types.CodeType, rewritten: types.CodeType, *, starts: bool = True) -> None:
    """Raise if code is not what it was with more instructions between.

    Without `starts`, whatever nothing covered is covered by the handler that tells of calls that raise.
    """
    types.FunctionType(rewritten, {}, closure=tuple(types.CellType() for _ in rewritten.co_freevars))
    for name in SAME:
        expect(getattr(rewritten, name) == getattr(code, name), f"{name} is another")
    # Where a NaN was folded, no code is equal to its copy.
    expect(_survives_marshal(rewritten) or not _survives_marshal(code), "It is another after marshal")
    before, after = Anatomy(code), Anatomy(rewritten)
    expect(len(after.steps) > len(before.steps), "Nothing is injected")
    # Tracebacks and tracers read lines by their own rules, `dis` all of a place.
    lines = [line for start, end, line in rewritten.co_lines() for _ in range(start, end, 2)]
    expect(lines == [line for line, *_ in rewritten.co_positions()], "Its lines depend on who reads them")
    expect(set(lines) <= {None, *(line for _, _, line in code.co_lines())}, "It has lines of its own")
    _compare_paths(before, after, _matched(code, before, rewritten, after), starts=starts)


def _survives_marshal(code: types.CodeType) -> bool:
    return bool(marshal.loads(marshal.dumps(code)) == code)  # noqa: S302  # our own


class _Part(NamedTuple):
    """What one instruction does, or one half of a fused one."""

    name: str
    arg: object
    place: object
    depth: int | None


def _matched(code: types.CodeType, before: Anatomy, rewritten: types.CodeType, after: Anatomy) -> list[tuple[int, int]]:
    """Find each instruction in the rewritten code, with its place and its depth; return its first and last half's."""
    found = _parts(rewritten, after)
    matched: list[tuple[int, int]] = []
    for i, part in _parts(code, before):
        wanted = (part, part._replace(depth=part.depth + 1)) if part.name in STORES and part.depth else (part,)
        j = next((j for j, other in found if other in wanted), None)
        if j is None:
            raise BrokenError(f"{before.steps[i]} is missing, or has not {part.depth} on the stack")
        matched[i:] = [(matched[i][0] if i < len(matched) else j, j)]
    return matched


def _parts(code: types.CodeType, anatomy: Anatomy) -> Iterator[tuple[int, _Part]]:
    for i, (step, depth) in enumerate(zip(anatomy.steps, anatomy.depth, strict=True)):
        if step.name in FUSED:
            assert step.arg is not None
            for name, arg in zip(FUSED[step.name], divmod(step.arg, 16), strict=True):
                yield i, _Part(name, arg, step.place, depth)
                depth = None if depth is None else depth + dis.stack_effect(dis.opmap[name], arg)  # noqa: PLW2901  # of the next half
        else:
            yield i, _Part(step.name, _argument(code, step), step.place, depth)


def _argument(code: types.CodeType, step: Step) -> object:
    """Return what an argument means, as far as its number may have changed, in a form that can be compared."""
    if step.opcode in JUMPS:
        return None
    if step.opcode in CONSTANTS:
        return _constant(step.value)
    if step.opcode in NAMES and step.arg is not None:
        shift = FLAGS.get(step.name, 0)
        return code.co_names[step.arg >> shift], step.arg & (1 << shift) - 1
    # Variables keep their numbers, for all names stay.
    return step.arg


def _constant(value: object) -> object:
    """Return a form of a constant in which 0.0 differs from -0.0 and from False, and a NaN is equal to itself."""
    if isinstance(value, (tuple, frozenset)):
        return type(value), type(value)(map(_constant, value))
    return (type(value), value) if isinstance(value, (str, bytes, int, types.CodeType)) else (type(value), repr(value))


def _compare_paths(before: Anatomy, after: Anatomy, matched: list[tuple[int, int]], *, starts: bool) -> None:
    """Compare where jumps and exceptions lead to: to the same instruction, or to what is injected before it."""
    begin = next((i for i, step in enumerate(before.steps) if step.name == "RESUME"), 0)
    end = matched[-1][1]

    def is_same(here: int, there: int) -> bool:
        i, j = before.index[here], after.index[there]
        return (matched[i - 1][1] if i else -1) < j <= matched[i][0]

    def is_ours(region: Region | None) -> bool:
        return region is not None and region[3:] == (0, True) and after.index[region.target] > end

    for i, (step, region, depth) in enumerate(zip(before.steps, before.handlers, before.depth, strict=True)):
        if depth is None:
            continue
        first, last = matched[i]
        if step.opcode in JUMPS and not is_same(step.value, after.steps[first].value):
            raise BrokenError(f"{step} leads elsewhere")
        for other in (after.handlers[first], after.handlers[last]):
            if region is None and i > begin and not starts:
                expect(is_ours(other), f"{step} is covered by {other}, and not by what tells of calls that raise")
                continue
            if (region is None) != (other is None):
                raise BrokenError(f"{step} is covered by {other}, not by {region}")
            if region and other and (region[3:] != other[3:] or not is_same(region.target, other.target)):
                raise BrokenError(f"{step} is covered by {other}")


# All of it


class Tally(NamedTuple):
    """What came of one file."""

    library: str
    file: str
    is_python: bool
    functions: int
    failures: tuple[str, ...]


def check_file(library: str, path: Path, count: int | None = None) -> Tally:
    """Check all functions of a file, or some of them."""
    code = compiled(path)
    if code is None:
        return Tally(library, str(path), is_python=False, functions=0, failures=())
    found = list(functions(code))
    failures = []
    if count is not None:
        by_place = {f"{code.co_qualname}:{i}": code for i, code in enumerate(found)}
        found = [by_place[place] for place in sample(list(by_place), count)]
    for function in found:
        try:
            check(function)
        except Exception as error:  # noqa: BLE001  # whatever the rewriter raises is a failure
            where = f"{path}:{function.co_firstlineno} {function.co_qualname}"
            failures.append(f"{where}: {type(error).__name__}: {error}")
    return Tally(library, str(path), is_python=True, functions=len(found), failures=tuple(failures))


def check_all(libraries: list[str], folder: Path | None, processes: int | None) -> dict[str, Any]:
    """Check libraries in several processes; tell of each failure, and return the counts."""
    from tqdm import tqdm

    homes = {library: home for library in libraries if (home := home_of(library, folder)) is not None}
    work = [(library, path) for library, home in homes.items() for path in sources(home)]
    keys = ("files", "not_python", "functions", "rewritten", "failed")
    counts: dict[str, Any] = {
        library: {"version": version_of(library, folder), **dict.fromkeys(keys, 0)} for library in homes
    }
    with ProcessPoolExecutor(processes) as pool:
        tallies = pool.map(check_file, [name for name, _ in work], [path for _, path in work], chunksize=8)
        for tally in tqdm(tallies, total=len(work), unit="file"):
            of_library = counts[tally.library]
            of_library["files"] += 1
            of_library["not_python"] += not tally.is_python
            of_library["functions"] += tally.functions
            of_library["rewritten"] += tally.functions - len(tally.failures)
            of_library["failed"] += len(tally.failures)
            for failure in tally.failures:
                tqdm.write(failure)
    return counts


def note(path: Path, counts: dict[str, Any]) -> None:
    """Write the counts of libraries into a file, beside those of others that this Python was run on before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = json.loads(path.read_text("utf-8")) if path.exists() else {}
    same = before.get("python") == platform.python_version()
    libraries = {**before["libraries"], **counts} if same else counts
    result = {"python": platform.python_version(), "libraries": libraries}
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def main() -> int:
    """Run the command; 1 if a function failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("libraries", nargs="*", default=[STDLIB, *LIBRARIES], help="instead of all that are found")
    parser.add_argument("--folder", type=Path, help="where the libraries lie, if not where this Python has its own")
    parser.add_argument("--processes", type=int, help="how many, instead of one for each core")
    parser.add_argument("--json", type=Path, help="a file to note the counts in")
    options = parser.parse_args()
    counts = check_all(options.libraries, options.folder, options.processes)
    if options.json is not None:
        note(options.json, counts)
    for library, of_library in counts.items():
        sys.stdout.write(f"{library}: " + ", ".join(f"{key} {value}" for key, value in of_library.items()) + "\n")
    return 0 if counts and not any(of_library["failed"] for of_library in counts.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
