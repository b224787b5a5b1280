"""Importing anylocal brings nothing with it that the user has not."""

from __future__ import annotations

import subprocess
import sys

import pytest


def python(code: str) -> str:
    """Run code in a fresh Python and return what it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("library", ["torch", "numpy", "matplotlib", "timm", "transformers", "packaging"])
def test_importing_anylocal_does_not_import(library: str) -> None:
    """The library stays unimported, and a capture runs without it."""
    code = (
        "import sys\nfrom anylocal import capture, find, get_local\n"
        "def f(x):\n    y = x\n    return y\n"
        "with capture(f, 'y') as cap:\n    f(1)\n"
        "find(f)\nget_local('y')(f)\n"
        "with get_local.active() as cache:\n    f(2)\n"
        "assert (cap['y'], cache['f']) == ([1], [2])\n"
        f"print({library!r} in sys.modules)"
    )
    assert python(code) == "False"


def test_the_rewriter_is_imported_with_the_first_capture() -> None:
    """Who only imports the library does not wait for it, nor for `bytecode`."""
    code = (
        "import sys\nimport anylocal\nnames = {'bytecode', 'anylocal._engine.rewrite'}\n"
        "print(names & {*sys.modules})\nanylocal.find(lambda: 0)\nprint(names <= {*sys.modules})"
    )
    assert python(code).split("\n") == ["set()", "True"]


@pytest.mark.parametrize("module", ["inspect", "ast", "dataclasses", "importlib.metadata", "pathlib"])
def test_importing_anylocal_leaves_slow_modules_alone(module: str) -> None:
    """They take longer than all of it, and are imported when they are needed; what starts Python may have them."""
    if module == "ast" and sys.version_info >= (3, 14):
        pytest.skip("typing itself imports it for a NamedTuple")
    code = (
        f"import sys\nbefore = {{*sys.modules}}\nfrom anylocal import *\nprint({module!r} in {{*sys.modules}} - before)"
    )
    assert python(code) == "False"


def test_the_engine_is_imported_with_the_first_name() -> None:
    """A program that imports the library may never capture anything."""
    code = (
        "import sys\nimport anylocal\nengine = 'anylocal._engine.capture'\n"
        "print(engine in sys.modules)\nanylocal.capture\nprint(engine in sys.modules)"
    )
    assert python(code).split("\n") == ["False", "True"]


def test_a_name_that_is_not_there() -> None:
    """It fails as in any module."""
    code = "import anylocal\ntry:\n    anylocal.captures\nexcept AttributeError as error:\n    print(error)"
    assert python(code) == "module 'anylocal' has no attribute 'captures'"


def test_nothing_is_put_into_the_builtins_before_the_first_capture() -> None:
    """Importing has no effect on anything else."""
    code = "import builtins\nbefore = set(vars(builtins))\nfrom anylocal import *\nprint(set(vars(builtins)) - before)"
    assert python(code) == "set()"


def test_the_public_names_are_sorted_and_there() -> None:
    """`from anylocal import *` gives those, and no more."""
    code = "import anylocal\nprint(*anylocal.__all__, all(hasattr(anylocal, name) for name in anylocal.__all__))"
    assert python(code) == "Assignment Call Capture Site capture errors find get_local True"
