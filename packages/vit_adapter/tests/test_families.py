"""The files of families, and the modules that importing the package imports."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from dataclasses import fields

import pytest
import timm
import timm.layers
import timm.models
import torchvision.models
from packaging.version import Version

import anylocal_vit
from anylocal_vit import families

NAMES = [module.name for module in pkgutil.iter_modules(families.__path__)]

# The names of classes that timm has renamed, and those of ultralytics.
OF_FORKS = {"E_MHSA", "AAttn"}
# The file of a library without one of that name in timm.
OF_LIBRARIES = {"ultralytics"}


def known() -> set[str]:
    """Return the names of all classes in the modules of timm and of torchvision."""
    packages = (timm.layers.__name__, timm.models.__name__, torchvision.models.__name__)
    modules = [module for name, module in sys.modules.items() if name.rpartition(".")[0] in packages]
    return {name for module in modules for name, value in vars(module).items() if isinstance(value, type)}


@pytest.mark.skipif(Version(timm.__version__) < Version("1.0.26"), reason="older timm lacks some")
@pytest.mark.parametrize("name", NAMES)
def test_a_family_names_classes_of_timm(name: str) -> None:
    """A file is named after timm's, or a library, and a misspelt class would never match."""
    if name not in OF_LIBRARIES:
        importlib.import_module(f"timm.models.{name}")
    family = importlib.import_module(f"anylocal_vit.families.{name}").FAMILY
    tables = [getattr(family, each.name) for each in fields(family)]
    named = {key.partition(".")[0] for table in tables if isinstance(table, dict) for key in table}
    assert named <= known() | OF_FORKS
    assert any(tables)


def test_every_family_is_collected() -> None:
    """A new file needs no entry elsewhere."""
    assert len(families.FAMILIES) == len(NAMES)


def test_two_families_may_have_blocks_of_one_name() -> None:
    """An attribute distinguishes the blocks of SAM and TNT; all other names have one entry."""
    assert {windows.having for windows in families.entries("windows", "Block")} == {"window_size", "attn_in"}
    once = {"readings", "layouts", "mixed", "keys", "unsupported"}
    keys = [(table, key) for table in once for family in families.FAMILIES for key in getattr(family, table)]
    assert len(keys) == len(set(keys))


def test_maps_need_no_command_line() -> None:
    """Importing the package imports neither its commands nor core's."""
    program = "import anylocal_vit, sys; print([name for name in sys.modules if '.cli' in name and 'anylocal' in name])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_maps_need_no_matplotlib() -> None:
    """It is imported with the recipes, and the page with `explore`."""
    program = (
        "import sys, anylocal_vit\nlate = {'matplotlib', 'anylocal.view'}\nprint(late & {*sys.modules})\n"
        "anylocal_vit.plot.query, anylocal_vit.explore, anylocal_vit.photograph\nprint(late <= {*sys.modules})"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\nTrue\n"


def test_a_name_that_is_not_there_raises() -> None:
    """As of any module."""
    with pytest.raises(AttributeError, match="module 'anylocal_vit' has no attribute 'plott'"):
        getattr(anylocal_vit, "plott")  # noqa: B009  # a type checker knows it, too
