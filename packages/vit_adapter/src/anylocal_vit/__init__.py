"""Every attention map of a timm vision transformer, from the model as it runs.

>>> import timm, torch
>>> from anylocal_vit import capture_attention
>>> model = timm.create_model("vit_tiny_patch16_224", depth=2).eval()
>>> with capture_attention(model) as maps, torch.no_grad():
...     logits = model(torch.randn(1, 3, 224, 224))
>>> maps[1]
AttentionMap('blocks.1.attn', batch=1, heads=3, queries=197, keys=197, fused)
>>> maps[1][0, 2].shape
torch.Size([197, 197])
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from anylocal_vit._adapter import adapter

if TYPE_CHECKING:
    from anylocal.drawing import Photograph, photograph
    from anylocal.view import explore
    from anylocal_vit import plot

capture_attention = adapter.capture_attention
install = adapter.install
uninstall = adapter.uninstall

__all__ = ["Photograph", "adapter", "capture_attention", "explore", "install", "photograph", "plot", "uninstall"]


# Who captures without a picture does not wait for matplotlib. Type checkers know all names.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name == "plot":
            return import_module("anylocal_vit.plot")
        if name == "explore":
            return import_module("anylocal.view").explore
        if name in {"Photograph", "photograph"}:
            return getattr(import_module("anylocal.drawing"), name)
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)


def __dir__() -> list[str]:
    return __all__
