"""``python -m anylocal info``, which every bug report is asked for."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from anylocal.cli import info

if TYPE_CHECKING:
    from collections.abc import Callable

WITHOUT_TORCH = """
import sys
sys.modules.update(dict.fromkeys(("torch", "numpy", "matplotlib", "timm", "transformers")))
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "torch" else found(name, package)
sys.argv = ["anylocal", "info", "decimal:Decimal"]
import runpy
runpy.run_module("anylocal", run_name="__main__")
"""


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, str]]:
    """Run the command, and return what it printed by name."""

    def run(*arguments: str) -> dict[str, str]:
        assert info.main(["info", *arguments]) == 0
        return dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())

    return run


def test_it_tells_the_python_and_the_versions_of_packages(said: Callable[..., dict[str, str]]) -> None:
    """Each with its number."""
    printed = said()
    assert printed["Python"] == f"{platform.python_version()} ({platform.python_implementation()})"
    assert printed["bytecode"] == importlib.metadata.version("bytecode")


def test_it_tells_what_is_not_installed(said: Callable[..., dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing library is a fact, too."""
    monkeypatch.setattr(info, "DISTRIBUTIONS", ("no-such-distribution",))
    assert said()["no-such-distribution"] == "not installed"


def test_it_runs_without_any_library() -> None:
    """Core has no dependency but `bytecode`."""
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "CUDA           unknown without torch" in done.stdout.splitlines()


def test_a_torch_that_cannot_be_imported_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken installation is what many reports turn out to be."""
    monkeypatch.setattr(info, "find_spec", lambda _: object())
    monkeypatch.setitem(sys.modules, "torch", None)
    assert info.cuda().startswith("unknown: torch cannot be imported (")


def test_devices_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the version of CUDA that torch was built with."""
    torch: Any = pytest.importorskip("torch")
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", "GPU {}".format)
    assert info.cuda() == "12.8: GPU 0, GPU 1"


def test_it_tells_where_the_class_of_a_model_is_from(said: Callable[..., dict[str, str]]) -> None:
    """Its distribution and its bases decide how it is read."""
    printed = said("bytecode.concrete:ConcreteBytecode")
    assert printed["from"] == f"bytecode {importlib.metadata.version('bytecode')}"
    assert printed["bases"].startswith("bytecode.bytecode._BaseBytecodeList")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("decimal:Decimel", "Did you mean 'Decimal'?"),
        ("no_such_module:Model", "No module 'no_such_module'"),
        ("decimal:getcontext", "Give the class of the model."),
    ],
)
def test_a_name_that_is_no_class_is_one_line(capsys: pytest.CaptureFixture[str], name: str, told: str) -> None:
    """The command ends with what is wrong, without a traceback."""
    assert info.main(["info", name]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert told in error
