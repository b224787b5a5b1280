"""Every function of a part of the standard library can be rewritten, for all its names."""

from __future__ import annotations

import dis
import importlib.util
import types
from collections.abc import Iterator

import pytest

from anylocal._rewrite import Flow, Wants, rewrite

MODULES = [
    "argparse",
    "ast",
    "asyncio.base_events",
    "asyncio.tasks",
    "bdb",
    "collections",
    "concurrent.futures.process",
    "contextlib",
    "csv",
    "dataclasses",
    "difflib",
    "email._header_value_parser",
    "enum",
    "fractions",
    "functools",
    "http.client",
    "inspect",
    "json.decoder",
    "json.encoder",
    "logging",
    "pickle",
    "shutil",
    "statistics",
    "tarfile",
    "textwrap",
    "traceback",
    "typing",
    "zipfile",
]


def functions(code: types.CodeType) -> Iterator[types.CodeType]:
    """Give the code of all functions in some code, lambdas, comprehensions and generator expressions included."""
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            if constant.co_flags & 0x02:  # CO_NEWLOCALS: no body of a class
                yield constant
            yield from functions(constant)


@pytest.mark.parametrize("name", MODULES)
def test_all_functions_of_a_module_can_be_rewritten(name: str) -> None:
    """With everything injected, and still the same function."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    module = spec.loader.get_code(name)  # type: ignore[attr-defined]  # a loader of source files
    for code in functions(module):
        names = tuple(dict.fromkeys(code.co_varnames + code.co_cellvars + code.co_freevars))
        rewritten = rewrite(code, 1, Wants(names, frozenset(names), frozenset(names)))
        assert rewritten.co_varnames == code.co_varnames
        assert (rewritten.co_flags, rewritten.co_cellvars) == (code.co_flags, code.co_cellvars)
        assert sum(1 for _ in dis.get_instructions(rewritten)) > sum(1 for _ in dis.get_instructions(code))


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
