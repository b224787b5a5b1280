"""An adapter that knows nothing but torch: what it reads is read off the code alone."""

from __future__ import annotations

from typing import Any

from anylocal.adapter import Adapter, MapAxes


class OfTorch(Adapter):
    """Knows no zoo."""

    distribution, zoo = "anylocal", "torch"

    def functions(self) -> Any:
        return ()

    def axes(self, *_: Any) -> MapAxes:
        return MapAxes(None, None)
