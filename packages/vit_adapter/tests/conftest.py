"""Fixtures that the tests of this package share."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from typing import TYPE_CHECKING, Any

import pytest
import timm
import timm.models.vision_transformer
import torch

import anylocal_vit
from anylocal import get_local
from anylocal.testing import perturb

if TYPE_CHECKING:
    import types
    from collections.abc import Callable, Iterator
    from pathlib import Path

# These models are small, and more threads than idle cores wait for each other.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _left_as_found() -> Iterator[None]:
    """Remove all marks and cached values after each test."""
    yield
    get_local.deactivate()
    anylocal_vit.uninstall()
    get_local.clear()


@pytest.fixture
def make() -> Callable[..., Any]:
    """Make a timm model in eval mode whose parameters are far from their initial values."""

    def make(name: str = "vit_tiny_patch16_224", **options: Any) -> Any:
        torch.manual_seed(0)
        return perturb(timm.create_model(name, **options)).eval()

    return make


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Callable[[str], types.ModuleType]]:
    """Import source text from a new file, as a module of its own name."""
    made: list[str] = []

    def load(source: str) -> types.ModuleType:
        name = f"another_vit_{len(made)}"
        path = tmp_path / f"{name}.py"
        path.write_text(source)
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        made.append(name)
        spec.loader.exec_module(module)
        return module

    yield load
    for name in made:
        del sys.modules[name]


@pytest.fixture
def fork(load: Callable[[str], types.ModuleType]) -> Callable[[Callable[[str], str]], types.ModuleType]:
    """Import a changed copy of timm's vision_transformer.py."""

    def copy(change: Callable[[str], str]) -> types.ModuleType:
        source = inspect.getsource(timm.models.vision_transformer)
        # Only the classes are copied: a second registration of timm's models would warn.
        source = source.replace("from ._", "from timm.models._").replace("@register_model\n", "")
        return load(change(source.partition("default_cfgs = ")[0].replace("generate_default_cfgs(", "dict(")))

    return copy
