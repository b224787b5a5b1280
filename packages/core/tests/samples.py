"""Sample functions of every shape that Python allows, each with what is done with it.

They are the corpus that captures are compared with an oracle on. None is annotated, for a local variable that is
deleted, never bound or bound to something else in every line is what they are here for.
"""
# mypy: ignore-errors

from __future__ import annotations

import asyncio
import contextlib
import dis
import functools
import warnings
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from anylocal._engine.python import COMPREHENSIONS_ARE_INLINED


class Sample(NamedTuple):
    """A function, and the ways in which it is called: each takes the function and gives a plain result."""

    function: Any
    drives: tuple[Callable[[Any], Any], ...]


SAMPLES: Final[list[Sample]] = []


def sample(*drives: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def add(function: Any) -> Any:
        assert drives
        SAMPLES.append(Sample(function, drives))
        return function

    return add


class Boom(Exception):
    pass


def boom(*args):
    raise Boom(*args)


# Ways out


@sample(lambda f: f(3))
def one_return(x):
    y = x * 2
    return y


@sample(lambda f: f(1), lambda f: f(0), lambda f: f(-1))
def several_returns(x):
    if x > 0:
        positive = x
        return positive
    if x < 0:
        negative = -x
        return negative
    return None


@sample(lambda f: f([]))
def falls_off_the_end(x):
    y = len(x)
    x.append(y)


@sample(lambda f: f())
def does_nothing():
    pass


@sample(lambda f: f())
def returns_a_constant():
    y = 3
    return 42


@sample(lambda f: f(1), lambda f: f(0))
def returns_inside_try(x):
    try:
        y = 1 / x
        return y
    except ZeroDivisionError as error:
        message = str(error)
        return message
    finally:
        after = "always"


@sample(lambda f: f(0), lambda f: f(1), lambda f: f(2))
def nested_finally(x):
    try:
        try:
            if x == 0:
                a = "a"
                return a
            if x == 1:
                boom()
        finally:
            b = x
            try:
                c = 1 / (x - 2)
            except ZeroDivisionError:
                d = "d"
            finally:
                e = "e"
    except Boom as error:
        f = type(error).__name__
        return f
    return x


@sample(lambda f: f(0), lambda f: f(1))
def try_else(x):
    try:
        y = 1 // x
    except ZeroDivisionError:
        failed = True
    else:
        went_well = y
        return went_well
    return failed


@sample(lambda f: f(True), lambda f: f(False))
def returns_inside_with(x):
    with contextlib.nullcontext(x) as y:
        if y:
            z = "inside"
            return z
    z = "outside"
    return z


@sample(lambda f: f(1), lambda f: f(0))
def suppressed(x):
    with contextlib.suppress(ZeroDivisionError):
        y = 1 / x
        return y
    after = "suppressed"


@sample(lambda f: f([1, 2, 3], 2), lambda f: f([1], 2), lambda f: f([], 2))
def returns_inside_for(xs, wanted):
    for i, x in enumerate(xs):
        if x == wanted:
            found = i
            return found
    else:
        missing = True
    return None


@sample(lambda f: f(3), lambda f: f(0))
def returns_inside_while(n):
    while n:
        n -= 1
        if n == 1:
            last = n
            return last
    else:
        ran_out = n
    return ran_out


@sample(lambda f: f([1, 2, 3]), lambda f: f([3]), lambda f: f([]))
def breaks_and_continues(xs):
    kept = []
    for x in xs:
        if x == 1:
            continue
        if x == 3:
            stopped = x
            break
        kept.append(x)
    else:
        complete = True
    return kept


@sample(lambda f: f({"a": 1}), lambda f: f([1, 2, 3]), lambda f: f((0, 0)), lambda f: f("x"), lambda f: f(7))
def matches(subject):
    match subject:
        case {"a": value, **others}:
            return value
        case [first, *rest] if first:
            return rest
        case [_, second]:
            return second
        case str() as text:
            return text
        case whatever:
            pass


@sample(lambda f: f(1), lambda f: f(0))
def conditional_expressions(x):
    return (y := x) if x else (z := "z")


@sample(lambda f: f(0), lambda f: f(1))
def raises_halfway(x):
    before = "before"
    if x:
        raise Boom(before)
    after = "after"
    return after


@sample(lambda f: f())
def reraises_after_cleanup():
    try:
        y = 1
        boom(y)
    except Boom as error:
        z = error.args
        raise
    finally:
        cleaned = True


@sample(lambda f: f())
def raises_from_a_handler():
    try:
        boom("first")
    except Boom as error:
        second = "second"
        raise KeyError(second) from error


@sample(lambda f: f(0), lambda f: f(1), lambda f: f(2), lambda f: f(3))
def exception_groups(x):
    errors = [ValueError(1)] * (x % 2) + [TypeError(2)] * (x // 2)
    try:
        if errors:
            raise ExceptionGroup("several", errors)
    except* ValueError as values:
        caught = len(values.exceptions)
    except* TypeError as types_:
        also = len(types_.exceptions)
    else:
        none = True
    return x


# Names that may have no value


@sample(lambda f: f(True), lambda f: f(False))
def maybe_bound(x):
    if x:
        y = 1
    return x


@sample(lambda f: f(True), lambda f: f(False))
def reads_what_may_be_unbound(x):
    if x:
        y = 1
    return y


@sample(lambda f: f(1))
def deletes(x):
    y = x
    del x
    z = y
    del y
    return z


@sample(lambda f: f(True), lambda f: f(False))
def deletes_perhaps(x):
    y = "y"
    if x:
        del y
    return None


@sample(lambda f: f(1))
def deletes_its_argument_twice(x):
    del x
    del x


@sample(lambda f: f([1, 2]), lambda f: f([]))
def loop_target_may_be_unbound(xs):
    for x in xs:
        pass
    return len(xs)


@sample(lambda f: f(0), lambda f: f(1))
def except_as_is_deleted(x):
    error = "before"
    try:
        y = 1 // x
    except ZeroDivisionError as error:
        z = repr(error)
    return None


@sample(lambda f: f())
def unbound_and_never_bound():
    if 0:
        never = 1
    return "unreachable code is dropped"


@sample(lambda f: f(1), lambda f: f(0))
def bound_in_the_handler_only(x):
    while True:
        try:
            y = 1 // x
            break
        except ZeroDivisionError:
            x = 1
            again = True
    return y


@sample(lambda f: f(True), lambda f: f(False))
def reads_what_may_be_unbound_in_try(x):
    if x:
        y = 1
    try:
        y
    except NameError:
        failed = True
    return x


@sample(lambda f: f(True), lambda f: f(False))
def deletes_what_may_be_unbound_in_try(x):
    if x:
        y = 1
    try:
        del y
    except NameError:
        failed = True
    return x


# Assignments


@sample(lambda f: f([1, 2, 3, 4]))
def unpacks(xs):
    a, b, *c = xs
    (d, (e, f)) = a, (b, c)
    [g, h] = d, e
    i = j = k = h
    return k


@sample(lambda f: f(2))
def augments(x):
    x += 1
    x **= 2
    y = [x]
    y += [x]
    y[0] -= 1
    return y


@sample(lambda f: f([3, 4]))
def walrus(xs):
    if (n := len(xs)) > 1 and (last := xs[-1]):
        return n
    return last


@sample(lambda f: f([1, 2, 3]))
def walrus_in_a_comprehension(xs):
    total = 0
    sums = [total := total + x for x in xs]
    return sums


@sample(lambda f: f())
def annotates():
    x: int = 1
    y: int
    z: list[int] = [x]
    return z


@sample(lambda f: f())
def imports():
    import os.path
    import sys as system
    from math import ceil, floor as down

    return ceil(1.5) + down(1.5)


@sample(lambda f: f([(1, 2), (3, 4)]))
def for_targets(pairs):
    box = {}
    for a, box["b"] in pairs:
        for (c) in range(a):
            pass
    return box


@sample(lambda f: f())
def with_several():
    with contextlib.nullcontext((1, 2)) as (a, b), contextlib.nullcontext(3) as c:
        total = a + b + c
    return total


@sample(lambda f: f())
def defines():
    def inner(y=1):
        z = y
        return z

    class Inner:
        attribute = 1

        def method(self):
            return self.attribute

    lam = lambda v: v
    return inner() + Inner().method() + lam(1)


@sample(lambda f: f(1))
def global_names(x):
    global _written_by_a_sample
    _written_by_a_sample = x
    local = _written_by_a_sample
    return local


# Comprehensions, which from 3.12 on run in the frame of their function


@sample(lambda f: f([1, 2, 3]), lambda f: f([]))
def comprehension(xs):
    ys = [y * 2 for y in xs]
    return ys


@sample(lambda f: f([1, 2, 3]), lambda f: f([]))
def comprehension_reuses_a_bound_name(xs):
    x = "kept"
    ys = [x for x in xs]
    return x


@sample(lambda f: f([1, 2]), lambda f: f([]))
def comprehension_reuses_an_unbound_name(xs):
    ys = [x for x in xs]
    if not xs:
        x = "late"
    return ys


@sample(lambda f: f([1, 2]), lambda f: f([]))
def comprehension_reuses_an_argument(x):
    return {x for x in x}, x


@sample(lambda f: f([0, 1]), lambda f: f([1]))
def comprehension_raises(xs):
    x = "kept"
    try:
        ys = [1 // x for x in xs]
    except ZeroDivisionError:
        failed = x
        return failed
    return ys


@sample(lambda f: f([0, 1], True), lambda f: f([0, 1], False), lambda f: f([1], False))
def comprehension_raises_over_a_name_that_may_be_unbound(xs, bind):
    if bind:
        x = "kept"
    try:
        ys = [1 // x for x in xs]
    except ZeroDivisionError:
        return "failed"
    return ys


@sample(lambda f: f([1, 2, 3]))
def nested_comprehensions(xs):
    x = y = "kept"
    rows = [[x + y for x in range(y)] for y in xs if y]
    table = {x: {y for y in range(x)} for x in xs}
    return rows, table, x, y


@sample(lambda f: f([1, 2, 3]))
def comprehensions_in_a_condition(xs):
    x = 5
    if [x for x in xs if x > 2] and {x: x for x in xs}:
        found = True
        return found, x
    return x


@sample(lambda f: f([1, 2]))
def comprehension_of_lambdas(xs):
    x = "kept"
    functions = [lambda: x for x in xs]
    results = [function() for function in functions]
    return results


@sample(lambda f: f([1, 2]))
def comprehension_over_a_cell(xs):
    x = "kept"
    reader = lambda: x
    doubled = [x * 2 for x in xs]
    inner = [lambda: x for x in xs]
    return reader(), doubled, [read() for read in inner]


@sample(lambda f: f([1, 2, 3]))
def generator_expression(xs):
    x = "kept"
    ys = tuple(x * 2 for x in xs)
    total = sum(y for y in ys if y > 2)
    return ys, total


@sample(lambda f: f([1, 2]), lambda f: f([0]))
def comprehension_calls_a_comprehension_in_try(xs):
    y = "kept"
    try:
        return [[1 // y for y in (x, x)] for x in xs]
    except ZeroDivisionError:
        return y
    finally:
        done = [y for y in xs]


@sample(lambda f: f(2))
def comprehension_in_a_loop(n):
    i = None
    while n:
        n -= 1
        for i in [i for i in range(n)]:
            pass
        if n:
            del i
    return n


# Cells and free variables


@sample(lambda f: f(1))
def makes_a_closure(x):
    y = x

    def inner():
        return x + y

    y += 1
    return inner()


@sample(lambda f: f(1))
def changed_by_nonlocal(x):
    count = 0

    def inner():
        nonlocal count, x
        count += 1
        x = "changed"

    inner()
    inner()
    return count


@sample(lambda f: f(True), lambda f: f(False))
def cell_may_be_unbound(bind):
    def inner():
        return y

    if bind:
        y = 1
    return inner.__name__


@sample(lambda f: f())
def cell_is_deleted():
    x = 1

    def inner():
        nonlocal x
        del x

    inner()
    return inner.__name__


@sample(lambda f: f(1))
def deletes_a_cell_argument(x):
    def inner():
        return x

    y = inner()
    del x
    return y


@sample(lambda f: f(1))
def argument_deleted_by_an_inner_function(x):
    def inner():
        nonlocal x
        del x

    inner()
    y = "assigned without it"
    return y


def _with_a_free_variable():
    x = "free"

    def comprehension_closes_over_the_name_of_a_free_variable(xs):
        read = [lambda: x for x in xs]
        return x, [inner() for inner in read]

    return comprehension_closes_over_the_name_of_a_free_variable


# From 3.12 on CPython returns the last of the xs, instead of what is free.
sample(lambda f: f([1, 2]), lambda f: f([]))(_with_a_free_variable())


@sample(lambda f: f(1, [2, 3]), lambda f: f(1, []))
def comprehension_hides_the_first_argument(x, xs):
    ys = [x for x in xs]
    zs = {x: y for x in xs if (y := x)}
    return x, ys, zs


@sample(lambda f: f(1, [2, 3]), lambda f: f(1, []))
def comprehension_hides_the_first_argument_in_a_cell(x, xs):
    read = lambda: x
    ys = [x for x in xs]
    zs = {x: y for x in xs if (y := x)}
    return read(), ys, zs


@sample(lambda f: f())
def swaps_cells():
    a, b = 1, 2
    read = lambda: (a, b)
    a, b = b, a
    return read()


def _make_inner(captured, maybe=None):
    if maybe:
        unset = 1

    def free_variables(x):
        own = x + captured
        if own > 100:
            return unset
        return own

    def writes_free_variables(x):
        nonlocal captured
        captured = x
        own = captured
        return own

    def calls_itself(n):
        return 1 if n < 2 else n * calls_itself(n - 1)

    return free_variables, writes_free_variables, calls_itself


for _function in _make_inner(10):
    sample(lambda f: f(3), lambda f: f(5))(_function)
sample(lambda f: f(200))(_make_inner(10, maybe=True)[0])
sample(lambda f: f(200))(_make_inner(10)[0])


# Arguments


@sample(lambda f: f(1, 2, 3, 4, 5, k=6, m=7), lambda f: f(1, 2, k=3))
def every_kind_of_argument(a, /, b, c=3, *args, k, o=None, **kwargs):
    total = a + b + c + len(args) + k + len(kwargs)
    return total


@sample(lambda f: f(1, y=2))
def never_stores(x, *, y=0):
    return x


@sample(lambda f: f(1, 2), lambda f: f())
def rebinds_args(*args, **kwargs):
    args = args + (3,)
    kwargs["new"] = args
    return kwargs


@sample(lambda f: f([1]))
def mutable_default(x, seen=[]):
    seen = [*seen, x]
    return seen


sample(lambda f: f(1))(lambda x: x)
sample(lambda f: f(1), lambda f: f(0))(lambda x: (y := x) and y)


@sample(lambda f: f(5))
def recursive(n):
    if n == 0:
        result = 0
        return result
    below = recursive(n - 1)
    result = below + n
    return result


@sample(lambda f: f(3), lambda f: f(0))
def mutual(n):
    other = _mutual(n)
    return other


def _mutual(n):
    return mutual(n - 1) if n > 0 else "done"


# Methods


class Base:
    def __init__(self, value=1):
        self.value = value

    def method(self, x):
        y = self.value + x
        return y


class Derived(Base):
    @sample(lambda f: Derived(2).method(3))
    def method(self, x):
        z = super().method(x)
        return z

    @sample(lambda f: f(Derived()))
    def uses_class_cell(self):
        mine = __class__
        return mine.__name__

    @sample(lambda f: f(Derived()))
    def comprehension_with_super(self):
        x = "kept"
        ys = [super(Derived, self).method(x) for x in (1, 2)]
        return ys, x

    @sample(lambda f: f(Derived(5)))
    def rebinds_self(self):
        value = self.value
        self = value
        return value

    @sample(lambda f: f(Derived()))
    def deletes_self(self):
        del self
        return None

    @sample(lambda f: f(Derived()))
    def self_in_a_cell(self):
        read = lambda: self.value
        return read()

    @sample(lambda f: f(Derived()))
    def __private(self):
        __mangled = 1
        return __mangled


# Generators and coroutines


@sample(lambda f: list(f(3)), lambda f: list(f(0)), lambda f: next(f(2)))
def generator(n):
    for i in range(n):
        sent = yield i
    after = "after"


@sample(lambda f: _result_of(f(2)))
def generator_with_result(n):
    got = []
    while n:
        x = yield n
        got.append(x)
        n -= 1
    return got


@sample(lambda f: _result_of(f()))
def delegates():
    first = yield from generator_with_result(2)
    second = yield from [1, 2]
    return first, second


@sample(lambda f: _sends(f()))
def receives():
    total = 0
    try:
        while True:
            x = yield total
            total += x
    except Boom as error:
        name = type(error).__name__
        return name, total
    finally:
        closed = True


@sample(lambda f: next(f()))
def generator_that_ignores_its_end():
    number = 0
    while True:
        try:
            yield number
        except GeneratorExit:
            number = -1
        number += 1


@sample(lambda f: f().close(), lambda f: _closed(f()))
def generator_that_is_closed():
    try:
        yield 1
    except GeneratorExit:
        caught = True
        return
    finally:
        done = True


@sample(lambda f: list(f([1, 2])))
def generator_with_comprehension(xs):
    x = "kept"
    ys = [x for x in xs]
    yield from ys
    yield x


@sample(lambda f: list(f()))
def generator_raises():
    x = 1
    yield x
    boom(x)


@sample(lambda f: list(f()))
def generator_raises_stop_iteration():
    x = 1
    yield x
    raise StopIteration(x)


@sample(lambda f: asyncio.run(f(2)))
async def coroutine(n):
    x = await _answer(n)
    if n:
        y = await _answer(x)
        return y
    return x


@sample(lambda f: asyncio.run(f(2)), lambda f: asyncio.run(f(0)))
async def async_for_and_with(n):
    total = 0
    async with _Manager() as manager:
        async for i in async_generator(n):
            total += i
            if total > 2:
                return total
        else:
            exhausted = True
    return manager


@sample(lambda f: asyncio.run(_listed(f(3))))
async def async_generator(n):
    for i in range(n):
        x = await _answer(i)
        yield x
    after = n


@sample(lambda f: asyncio.run(f(3)))
async def async_comprehensions(n):
    i = "kept"
    xs = [i async for i in async_generator(n)]
    ys = {i: await _answer(i) for i in xs}
    zs = [i for i in [i async for i in async_generator(n)]]
    return xs, ys, zs, i


@sample(lambda f: asyncio.run(f()))
async def coroutine_raises():
    x = await _answer(1)
    try:
        await _answer(boom)
    finally:
        y = "cleaned"
    return x


@sample(lambda f: asyncio.run(f()))
async def suppressed_in_async_with():
    async with _Manager():
        x = 1
        boom(x)
    y = 2
    return y


async def _answer(x):
    await asyncio.sleep(0)
    return x() if callable(x) else x + 1


class _Manager:
    async def __aenter__(self):
        return "manager"

    async def __aexit__(self, kind, *rest):
        return kind is Boom


async def _listed(items):
    return [item async for item in items]


def _result_of(generator):
    seen = []
    try:
        while True:
            seen.append(next(generator))
    except StopIteration as stop:
        return seen, stop.value


def _sends(generator):
    seen = [next(generator), generator.send(2), generator.send(3)]
    try:
        generator.throw(Boom)
    except StopIteration as stop:
        return seen, stop.value


def _closed(generator):
    next(generator)
    return generator.close()


# Decorated, exotic and big


@sample(lambda f: f.__get__(None, object)(1))
@functools.lru_cache(maxsize=None)
def _unused(x):
    return x


SAMPLES.pop()


@sample(lambda f: f(1))
def names_of_other_alphabets(é):
    变量 = é
    ſ = 变量  # normalised to s
    return 变量


@sample(lambda f: sorted(f(1)), lambda f: sorted(f(0)))
def reads_locals(x):
    if x:
        y = 1
    return locals()


@sample(lambda f: f())
def docstring():
    """It has one."""
    x = 1
    return x


@sample(lambda f: f(1))
def one_line_of_many(x): y = x; z = y; return z


@sample(lambda f: f(2))
def expression_over_lines(x):
    y = (
        x
        + x *
        x
    )
    return (
        y,
        x,
    )


@sample(lambda f: f(0), lambda f: f(1))
def raises_on_a_long_line(x):
    first = 1
    return first + (
        first / x
        if x < 5 else
        None
    )


@sample(lambda f: f(0), lambda f: f(1))
def raises_below_lines_with_more_than_128_columns(x):
    first = 1
    second = {                                                                                                          "key": x}
    third = {                                                                                                                                                                             "key": x}
    fourth = first / x
    return fourth


@sample(lambda f: f(1), lambda f: f(2))
def assertion(x):
    y = x
    assert y == 1, f"{y!r} is wrong"
    return f"{y:>{x}} {y=}"


@sample(lambda f: f(*range(9)))
def chained_and_sliced(a, b, *rest):
    head, tail = rest[:2], rest[2:]
    ordered = a < b < head[0] <= tail[0]
    return ordered, [*head, *tail], {**{"a": a}, "b": b}


@sample(lambda f: f([3, 1, 2]))
def lambdas_over_locals(xs):
    sign = -1
    ys = sorted(xs, key=lambda x: sign * x)
    return ys


@sample(lambda f: f())
def stack_is_deep():
    x = 1
    y = (x, (x, (x, (x, (x, (x, [x for x in (1, (x, (x, x)))]))))))
    return y


def from_source(source: str, name: str, *drives: Callable[[Any], Any]) -> None:
    """Make a sample of source text: too long to write, or not valid in every version."""
    namespace: dict[str, Any] = {"boom": boom, "Boom": Boom}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        exec(compile(source, f"<sample {name}>", "exec"), namespace)
    sample(*drives)(namespace[name])


# Python 3.14 warns of it.
from_source(
    "def finally_overrides(x):\n    try:\n        y = 1 / x\n        return y\n"
    "    finally:\n        z = 'finally'\n        return z\n",
    "finally_overrides",
    lambda f: f(1),
    lambda f: f(0),
)
_many = [f"v{i}" for i in range(260)]
from_source(
    "def many_locals(x):\n"
    + "".join(f"    {name} = x + {i}\n" for i, name in enumerate(_many))
    + "    if x:\n        del v259, v7\n"
    + "    ys = [v258 for v258 in range(2)]\n"
    + "    return v258\n",
    "many_locals",
    lambda f: f(0),
    lambda f: f(1),
)
from_source(
    "def many_cells(x):\n"
    + "".join(f"    {name} = x + {i}\n" for i, name in enumerate(_many))
    + f"    read = lambda: ({', '.join(_many)})\n"
    + "    if x:\n        del v250\n"
    + "    return v259\n",
    "many_cells",
    lambda f: f(0),
    lambda f: f(1),
)
from_source(
    "def far_jumps(n):\n    total = 0\n    for i in range(n):\n        if i == 1:\n            continue\n"
    + "".join(f"        total = total + i * {1000 + i}\n" for i in range(200))
    + "        if i > 2:\n            return i\n    else:\n        done = True\n    return total\n",
    "far_jumps",
    lambda f: f(0),
    lambda f: f(3),
    lambda f: f(9),
)
from_source(
    "def many_tries(x):\n"
    + "".join(
        f"    try:\n        a{i} = 1 // (x - {i})\n    except ZeroDivisionError as e{i}:\n        b{i} = {i}\n"
        for i in range(20)
    )
    + "    return x\n",
    "many_tries",
    lambda f: f(3),
    lambda f: f(-1),
)
from_source(
    "def many_arguments(" + ", ".join(_many) + ", **rest):\n    last = v259\n    return last\n",
    "many_arguments",
    lambda f: f(*range(260)),
)
if COMPREHENSIONS_ARE_INLINED:  # which came with PEP 695 in 3.12
    from_source(
        "def type_parameters[T: int, *Ts, **P](x: T, *args: P.args) -> T:\n"
        "    y: T = x\n    inner = lambda: T\n    return y, inner().__name__\n",
        "type_parameters",
        lambda f: f(1, 2),
    )
    from_source(
        "def type_alias(x):\n    type Alias[T] = list[T]\n    y = x\n    return y, Alias.__name__\n",
        "type_alias",
        lambda f: f(1),
    )
    from_source(
        "class C[T]:\n    x = 1\n    def m[U](self, u: U):\n        v = (T.__name__, U.__name__, u)\n        return v\n"
        "generic_method = C.m\n",
        "generic_method",
        lambda f: f(None, 1),
    )
if "BUILD_INTERPOLATION" in dis.opmap:  # which came with t-strings in 3.14
    from_source(
        "def t_strings(x):\n    y = x, 2\n    z = t'{x!r:>{x}} {y} {x:>5} {y!s}'\n"
        "    return [(part.value, part.conversion, part.format_spec) for part in z.interpolations]\n",
        "t_strings",
        lambda f: f(7),
    )
