"""The page as a widget of a notebook: what it shows is a trait, and its weights are read from the maps when asked for.

Needs anywidget, which nothing else does.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar, Final

import anywidget
import traitlets

from anylocal._maps.bounds import inside
from anylocal._maps.maps import AttentionMaps
from anylocal._page.assemble import bundle
from anylocal._page.live import lines_of, making_of, thumbnails
from anylocal._page.markup import body_of
from anylocal._page.payload import thumbs_text
from anylocal.errors import AnylocalError, OptionError

if TYPE_CHECKING:
    from anylocal._drawing.scale import Cmap
    from anylocal._page.shown import Shown

_TOGETHER: Final = ("mean", "max")


class MapsWidget(anywidget.AnyWidget):  # type: ignore[misc]  # a class of any type: see the settings of mypy
    """The interactive page of maps that stay in Python; see `anylocal.view.widget`."""

    _esm: ClassVar[str] = bundle()
    _data = traitlets.Unicode().tag(sync=True)
    _body = traitlets.Unicode().tag(sync=True)
    _thumbs = traitlets.Unicode().tag(sync=True)
    selection = traitlets.Dict().tag(sync=True)

    def __init__(self, shown: Shown, title: str, cmap: Cmap | None) -> None:
        packed = [thumbnails(layer, shown.samples) for layer in shown.layers]
        data = shown.described(packed, cmap)
        # As the maps that were given are indexed: a name, or its place where several share one.
        self._refs = [
            layer.name if description["ref"] == repr(layer.name) else at
            for at, layer, description in zip(shown.places, shown.layers, data["layers"], strict=True)
        ]
        self._shown = shown
        start, (layer, *_) = data["start"], shown.layers[::-1]
        key = start["query"] if layer.queries == layer.keys else 0
        self._start = {"layer": self._refs[-1], "head": start["head"], "query": start["query"], "key": key}
        self._start |= {"sample": shown.samples[0], "window": 0, "way": "query"}
        super().__init__(
            _data=json.dumps(data | {"refs": self._refs}),
            _body=body_of(title, "Weights are read from the maps in Python when they are shown."),
            _thumbs=thumbs_text(packed),
            selection={},
        )
        self.on_msg(self._answer)

    @traitlets.validate("selection")
    def _complete(self, proposal: Any) -> dict[str, Any]:
        """Complete a selection by what is shown, and refuse what is not there."""
        given = dict(proposal["value"])
        if unknown := given.keys() - self._start.keys():
            msg = f"selection has no {', '.join(map(repr, sorted(unknown)))}; it has {', '.join(self._start)}."
            raise OptionError(msg)
        made = self._start | self.selection | given
        made["layer"] = self._refs[self._layer(made["layer"])]
        layer = self._shown.layers[self._refs.index(made["layer"])]
        if made["head"] not in _TOGETHER:
            made["head"] = _fit(made, given, "head", layer.shape[1], layer)
        for name, count in (("query", layer.shape[2]), ("key", layer.shape[3]), ("window", layer.windows)):
            made[name] = _fit(made, given, name, count, layer)
        if layer.queries == layer.keys:
            made["query"] = made["key"] = given.get("query", given.get("key", made["query"]))
        if made["sample"] not in self._shown.samples:
            msg = f"sample={made['sample']!r} is not shown; there are {', '.join(map(str, self._shown.samples))}."
            raise OptionError(msg)
        if made["way"] not in {"query", "key"}:
            msg = f'way={made["way"]!r} is unknown; give "query" for what it attends to, "key" for what attends to it.'
            raise OptionError(msg)
        return made

    def _layer(self, ref: Any) -> int:
        """Return the number on the page of a layer, named or counted as in the maps given."""
        shown = self._shown
        wanted = AttentionMaps(shown.given)[ref]
        for number, at in enumerate(shown.places):
            if shown.given[at] is wanted:
                return number
        msg = f"Layer {ref!r} is not shown; there are {', '.join(map(repr, self._refs))}."
        raise OptionError(msg)

    def _answer(self, _: object, asked: dict[str, Any], __: object) -> None:
        """Answer what the page asks."""
        try:
            answer, buffers = self._found(**asked)
        # Told to the reader of the page: an exception in a message is seen by nobody.
        except (AnylocalError, RuntimeError, TypeError) as error:
            answer, buffers = {"error": str(error)}, []
        self.send({"id": asked["id"], **answer}, buffers=buffers)

    def _found(
        self, ask: str, layer: int, sample: int, window: int, head: int | str, **rest: Any
    ) -> tuple[dict[str, Any], list[bytes]]:
        attention = self._shown.layers[layer]
        place = self._shown.samples[sample] * attention.windows + window
        way, _ = rest.pop("way"), rest.pop("id")
        if ask == "lines":
            return {}, [lines_of(attention, place, head, way=way, **rest)]
        return {"making": making_of(attention, place, int(head), **rest)}, []


def _fit(made: dict[str, Any], given: dict[str, Any], name: str, count: int, layer: object) -> int:
    """Return a number of a selection; one that was not given may be that of a larger layer."""
    return inside(made[name], count, name, of=layer) if name in given else min(made[name], count - 1)
