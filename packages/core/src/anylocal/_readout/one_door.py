"""One way in to the maps of any model: the adapter is chosen by the library that the model's classes are of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from torch import nn

from anylocal._readout.adapter import Adapter
from anylocal._readout.context import InputContext, MapAxes
from anylocal._readout.library import DISTRIBUTIONS, entry_points, library_of
from anylocal._readout.registry import load
from anylocal.errors import DependencyError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anylocal._engine.calls import Call
    from anylocal._readout.scope import AttentionCapture

_CONVOLUTIONS: Final = (nn.Conv2d, nn.Conv3d)


class _TorchAdapter(Adapter):
    """Reads torch's own layers and functions that assign their softmax; positions are counted."""

    distribution: ClassVar[str] = "anylocal"
    zoo: ClassVar[str] = "torch"

    def functions(self) -> tuple[()]:
        return ()

    def axes(self, call: Call, shape: tuple[int, ...], context: InputContext) -> MapAxes:  # noqa: ARG002  # the base's
        return MapAxes(None, None)


def capture_attention(model: nn.Module, *, tokenizer: object = None, **options: Any) -> AttentionCapture:
    """Capture every attention map of a model of any library.

    The adapter is that of the library of the model's class, or of most of its submodules: anylocal-vit for timm,
    anylocal-bert for transformers. A model of torchvision, or one's own, is read by the installed adapter for its kind
    of input: anylocal-vit where it has convolutions over images, else anylocal-bert. Without an adapter the maps are
    the same, and their positions are counted.

    Parameters
    ----------
    model : torch.nn.Module
        The model, also inside ``torch.compile`` or data parallelism.
    tokenizer : PreTrainedTokenizerBase or ProcessorMixin, optional
        Gives the tokens of a text their labels, and the frames of a sound their times.
    **options
        ``modules``, ``keep``, ``limit``, ``threads``, ``reduce`` and ``any_version``; see `Adapter.capture_attention`.

    Returns
    -------
    AttentionCapture
        To be used in a ``with`` statement, which yields the `AttentionMaps`.

    Raises
    ------
    DependencyError
        If the adapter for the model's library is not installed.
    VersionError
        If the installed version of that library is too old for the adapter.
    TargetError
        If the model computes no attention map.
    UnsupportedError
        If it computes one in a way that cannot be read exactly.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import capture_attention
    >>> model = torch.nn.TransformerEncoderLayer(4, 2).eval()
    >>> with capture_attention(model) as maps, torch.no_grad():
    ...     output = model(torch.ones(5, 1, 4))
    >>> maps[0].shape
    (1, 2, 5, 5)
    """
    return adapter_for(model).capture_attention(model, about=tokenizer, **options)


def adapter_for(model: object) -> Adapter:
    """Return the adapter that reads a model.

    Raises
    ------
    DependencyError
        If the adapter for the model's library is not installed.
    """
    installed = entry_points(as_before=True)
    library = _library_of(model, installed)
    if library not in installed:
        installed = entry_points()
        library = _library_of(model, installed)
    if library is not None and library not in installed:
        distribution = DISTRIBUTIONS[library]
        msg = (
            f"{type(model).__qualname__} is a model of {library}, which {distribution} reads:"
            f" pip install {distribution}."
        )
        raise DependencyError(msg, name=distribution)
    if library is None and isinstance(model, nn.Module):
        has_convolutions = any(isinstance(module, _CONVOLUTIONS) for module in model.modules())
        preferred = ("timm", "transformers") if has_convolutions else ("transformers", "timm")
        library = next((name for name in preferred if name in installed), None)
    return _TorchAdapter() if library is None else load(installed[library])


def _library_of(model: object, installed: Iterable[str]) -> str | None:
    # What is no model is refused by whichever adapter captures it.
    return library_of(model, {*installed, *DISTRIBUTIONS}) if isinstance(model, nn.Module) else None
