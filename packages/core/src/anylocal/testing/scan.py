"""Whether every module that is called attention and runs has a map, or is told to have none."""

from __future__ import annotations

import re
import sys
import warnings
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from anylocal._engine.tensors import module_names
from anylocal.errors import AnylocalError, OverlookedWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import torch

    from anylocal._maps.maps import AttentionMaps

_CALLED: Final = re.compile("attention|attn", re.IGNORECASE)
SILENT: Final = "silent"


def attention_verdicts(
    model: torch.nn.Module, run: Callable[[torch.nn.Module], object], capture: Callable[[torch.nn.Module], Any]
) -> Mapping[str, frozenset[str]]:
    """Return what a capture says of each class called attention whose modules run: by class, the verdicts.

    A verdict is ``"map"``, ``"part"`` of a layer with a map, ``"refused: …"``, ``"unsupported: …"`` or ``"silent"``,
    which none may be.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    run : callable
        Runs the model.
    capture : callable
        From the model to the scope, such as an adapter's `capture_attention`.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import capture_attention
    >>> from anylocal.testing import attention_verdicts
    >>> layer = torch.nn.MultiheadAttention(4, 2)
    >>> x = torch.ones(5, 1, 4)
    >>> attention_verdicts(layer, lambda model: model(x, x, x), capture_attention)
    {'torch.nn.modules.activation.MultiheadAttention': frozenset({'map'})}
    """
    layers = {name: module for name, module in module_names(model) if _CALLED.search(type(module).__name__)}
    ran: set[str] = set()
    hooks = [m.register_forward_hook(lambda *_, name=n: ran.add(name), with_kwargs=False) for n, m in layers.items()]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OverlookedWarning)
            scope = capture(model)
            with scope as maps:
                run(model)
    except AnylocalError as error:
        run(model)
        refused = f"refused: {str(error).partition('. ')[0]}"
        return {_class_of(layers[name]): frozenset({refused}) for name in sorted(ran)}
    finally:
        for hook in hooks:
            hook.remove()
    found: defaultdict[str, set[str]] = defaultdict(set)
    for name in sorted(ran):
        found[_class_of(layers[name])].add(_verdict(name, maps, layers))
    return {cls: frozenset(verdicts) for cls, verdicts in found.items()}


def print_verdicts(models: Iterable[str], verdicts: Callable[[str], Mapping[str, frozenset[str]]]) -> int:
    """Print the verdicts on the classes of many models, a line for each class, and return how many are silent.

    A model that cannot be built or run is named on stderr.

    Parameters
    ----------
    models : iterable of str
        Their names.
    verdicts : callable
        From the name of a model to its `attention_verdicts`.

    Examples
    --------
    >>> from anylocal.testing import print_verdicts
    >>> print_verdicts(["small"], lambda name: {"zoo.Attention": frozenset({"map"})})
    zoo.Attention                                                                              map
    1 classes in 1 models, 0 of them silent
    0
    """
    found: defaultdict[str, set[str]] = defaultdict(set)
    ran = 0
    for name in models:
        try:
            of_model = verdicts(name)
        except Exception as error:  # noqa: BLE001  # such as a package that it needs
            print(f"{name} not run: {type(error).__name__}: {error}"[:160], file=sys.stderr)  # noqa: T201  # for scripts
            continue
        ran += 1
        for cls, each in of_model.items():
            found[cls] |= each
    for cls in sorted(found):
        print(f"{cls:90} {'; '.join(sorted(found[cls]))}")  # noqa: T201  # for scripts
    silent = sum(SILENT in each for each in found.values())
    print(f"{len(found)} classes in {ran} models, {silent} of them silent")  # noqa: T201  # for scripts
    return silent


def _class_of(module: object) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _verdict(name: str, maps: AttentionMaps, layers: Mapping[str, object]) -> str:
    if any(_is_in(each, name) for each in maps.names):
        return "map"
    for each, why in maps.unsupported.items():
        if _is_in(each, name) or _is_in(name, each):
            return f"unsupported: {why}"
    if any(_is_in(name, each) for each in _holders(maps.names, layers)):
        return "part"
    return SILENT


def _holders(names: list[str], layers: Mapping[str, object]) -> Iterator[str]:
    """Yield the layers that have a map in themselves or in a part of theirs."""
    for layer in layers:
        if any(_is_in(name, layer) for name in names):
            yield layer


def _is_in(name: str, other: str) -> bool:
    """Return whether a module is another one, or a part of it, by their names."""
    return name == other or name.startswith(f"{other}." if other else "")
