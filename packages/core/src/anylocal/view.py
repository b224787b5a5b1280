"""The interactive page: every head of every layer, in one file that opens offline in any browser.

Thumbnails of all heads; the map of one of them; and the attention of each position, drawn live over the image or the
text. The page holds the maps themselves, one byte a weight, or the query and key of long ones, from which it computes
the rows that are asked for; it reports the error of either.

Needs the extras ``anylocal[plot,torch]``; the widget ``anylocal[widget]``.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from anylocal.errors import DependencyError, OptionError

try:
    from tqdm import tqdm

    from anylocal._engine.budget import parse_size
    from anylocal._engine.files import atomic_write
    from anylocal._maps.map import AttentionMap
    from anylocal._maps.tokens import Tokens
    from anylocal._page.computed import pack_operands
    from anylocal._page.markup import as_text, page_of
    from anylocal._page.pair import add_other, paired
    from anylocal._page.payload import pack, thumbs_text
    from anylocal._page.shown import Shown
except ModuleNotFoundError as error:
    if error.name not in {"jinja2", "markupsafe", "matplotlib", "numpy", "PIL", "torch", "tqdm"}:
        raise
    msg = f'anylocal.view needs {error.name}, which is not installed: pip install "anylocal[plot,torch]".'
    raise DependencyError(msg, name=error.name) from error

if TYPE_CHECKING:
    from os import PathLike

    from anylocal._drawing.image import ImageLike, Statistics
    from anylocal._drawing.scale import Cmap
    from anylocal._page.payload import Layer
    from anylocal._page.widget import MapsWidget

__all__ = ["Page", "explore", "widget"]


def __dir__() -> list[str]:
    return __all__


_HEIGHT = 820


@dataclass(frozen=True, eq=False)
class Page:
    """A page of attention maps in one file, which notebooks show in a frame.

    Attributes
    ----------
    html : str
        The complete page. It loads no other resources.
    title : str
    error : float
        The largest difference between a weight on the page and the map's; for layers that the page computes, twice
        the largest in a sample of rows of every head.
    height : int
        Height of the frame in a notebook, in CSS pixels.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap
    >>> from anylocal.view import explore
    >>> page = explore(AttentionMap.from_weights(torch.eye(4), name="layer"), title="The identity")
    >>> page.title, page.error
    ('The identity', 0.0)
    """

    html: str = field(repr=False)
    title: str
    error: float
    height: int = _HEIGHT

    def save(self, file: str | PathLike[str]) -> Path:
        """Write the page; an existing file is replaced only once the new one is complete.

        Parameters
        ----------
        file : path
            The file to write; by convention it ends in ``.html``.

        Returns
        -------
        pathlib.Path
            The file.

        Examples
        --------
        >>> import tempfile, torch
        >>> from anylocal.attention import AttentionMap
        >>> from anylocal.view import explore
        >>> page = explore(AttentionMap.from_weights(torch.eye(4)))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page.save(f"{folder}/attention.html").name
        'attention.html'
        """
        with atomic_write(file) as path:
            path.write_text(self.html, encoding="utf-8")
        return Path(file)

    def __repr__(self) -> str:
        return f"Page({self.title!r}, {len(self.html.encode()) / 2**20:.1f} MiB)"

    def _repr_html_(self) -> str:
        # In a frame, so that pages in one notebook share neither names nor styles.
        return (
            f'<iframe srcdoc="{html.escape(self.html)}" title="{html.escape(self.title)}" width="100%"'
            f' height="{self.height}" style="border: 0" allow="clipboard-write"></iframe>'
        )


def explore(
    maps: AttentionMap | Iterable[AttentionMap],
    other: AttentionMap | Iterable[AttentionMap] | None = None,
    *,
    images: ImageLike | Sequence[ImageLike] | None = None,
    other_images: ImageLike | Sequence[ImageLike] | None = None,
    tokens: Sequence[str] | Sequence[Sequence[str]] | Tokens | None = None,
    layers: int | str | Sequence[int | str] | None = None,
    samples: int | Sequence[int] | None = None,
    mean: Statistics = None,
    std: Statistics = None,
    cmap: Cmap | None = None,
    title: str | None = None,
    limit: int | str | None = "160MiB",
) -> Page:
    """Make the interactive page of the maps of one forward pass.

    Shows thumbnails of all heads of all layers, the map of the chosen head, and the attention of one position over the
    image or the tokens, or what attends to it, with the strongest weights as lines and as a list. A click on a weight
    tells how it comes about. The images of a batch are a filmstrip, and the steps of ``maps.generation()`` a slider.
    Works by mouse, touch and keyboard; can average or maximize over heads, hide special tokens, merge words, and show
    a long map near the query only; saves PNG, and shows the Python call of the picture.

    Images and videos within a text are drawn beside it: a word lights the patches that it attends to, and a patch that
    is pointed at, or chosen by arrow keys, lights the words that attend to it.

    Parameters
    ----------
    maps : AttentionMaps, AttentionMap or iterable of AttentionMap
        The layers of one forward pass. Their axes may differ: windows, pooled keys, a decoder and its encoder.
    other : AttentionMaps, AttentionMap or iterable of AttentionMap, optional
        Maps of the same shapes to compare with: of another checkpoint, another input, or another head, as a map of that
        head alone. The page shows the difference, `maps` - `other`, with 0 in the middle of its scale, and both side by
        side, at the same query, layer and head.
    images : torch.Tensor, numpy.ndarray, PIL.Image.Image or Photograph, or sequence of them, optional
        The model's input, in its size: one image, the batch, or an image for each sample. Without it, patches are
        drawn on an empty background. Of texts with images in them, the images of all texts in their order, or a list of
        images for each text, such as ``[[first, second], [third], []]``: photographs of any resolution, in the shape in
        which the model saw them, or else prepared as it prepares them.
    other_images : as images, optional
        The input of `other`, if it is not that of `maps`.
    tokens : Tokens, sequence of str, or sequence of sequences of str, optional
        The tokens of one text, or of each sample, for axes of their length. They replace known tokens, such as the ids
        of a capture without a tokenizer; known padding, special tokens, words and sentences are kept.
    layers : sequence of int or str, optional
        Positions or module names of the maps to show. All by default; of a model that reads images in texts, those with
        the batch of texts, without a vision tower that has a batch of images.
    samples : int or sequence of int, optional
        Samples of the batch to show (images, for windowed layers); all by default.
    mean, std : float or sequence of float, optional
        Normalisation of the images: a number for each channel, or one for all.
    cmap : str or matplotlib.colors.Colormap, optional
        "magma" by default, and "plasma" over images.
    title : str, optional
        Title of the page.
    limit : int, str or None
        Largest size of the page: bytes, a string such as ``"64MiB"``, or None for no limit. By default there is room
        for 4,096 positions of 12 layers of 12 heads with 64 features each.

    Returns
    -------
    Page
        The page; save it, or let a notebook show it.

    Raises
    ------
    OptionError
        If the page would be larger than `limit`, weights are negative, weights or pixels are not finite, images are
        given without patches, tokens are given without a text or are not texts, or something is not a map.
    StateError, ChoiceError
        If there are no maps, or they belong to several forward passes.
    ShapeError
        If the chosen layers have batches of different sizes, the images or the tokens do not fit them, or `other` has
        maps of other shapes or positions.
    NameNotFoundError, PositionError
        If a layer or a sample does not exist.

    Notes
    -----
    A weight is stored as a byte: the square root of its ratio to the greatest weight of its matrix. A weight w of a
    matrix with greatest weight m is off by at most about sqrt(w · m) / 255; `Page.error` and the last line of the page
    report the largest error. Words are merged as in `anylocal.attention.merge_words`.

    Of long maps, from about 8 times the size of a head, the page holds query and key instead, with a step for each
    channel, and the browser computes rows from them: the size then grows with the length, not with its square. They
    have 8 to 16 bits a number: as few as keep each weight within 1 % of the greatest of its row, with a margin of 2
    over what is measured in 64 rows of every head. Masks that are causal, slide, or hide padding are kept as such. Maps
    that are no plain softmax of query and key, or have a bias of each pair, are stored at any length. The picture of
    a long map has a row for one query of several, and a cell for several keys; the rows asked for are complete.

    What the page shows is in its address after ``#``: a link shows the same picture. There, a layer has the number that
    its row shows, as in ``#layer=11``, or its name.

    Scripts in the page, and a browser that is driven by one, find ``globalThis.anylocal``.
    ``row({layer, head, query, sample})`` is a promise of a Float32Array, the weights of a query, and
    ``column({layer, head, key, sample})`` of those that a key gets; a layer is its name or its number on the page, a
    head a number, "mean" or "max", a sample its number in the batch, and what is left out is what the page shows. Of a
    page that compares, ``side: "a"`` reads from `maps`, ``"b"`` from `other`, and ``"difference"`` from both.
    ``state()`` is what it shows; ``setState({…})`` changes some of it, and is a promise that is fulfilled when it is
    drawn. What is not there rejects the promise with a RangeError.

    Scales end where those of `anylocal.plot` do: at a robust maximum of the patches or words. Greater weights, which
    class and special tokens often have, are clipped; the legend shows how great they are. The images of a text have a
    scale of their own, for the weights of patches are often far smaller than those of words.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap, Tokens
    >>> from anylocal.view import explore
    >>> axis = Tokens(["[CLS]", "hello", "[SEP]"], special=[1, 0, 1])
    >>> attention = AttentionMap.from_weights(torch.rand(1, 4, 3, 3).softmax(-1), queries=axis, keys=axis)
    >>> page = explore(attention)
    >>> page.title, page.error < 1 / 255
    ('Attention of 1 layer, 4 heads', True)

    Two heads of a layer, compared:

    >>> heads = [AttentionMap.from_weights(attention[:, [head]], queries=axis, keys=axis) for head in (0, 3)]
    >>> explore(*heads, title="Heads 0 and 3").title
    'Heads 0 and 3'

    An image within a text:

    >>> from anylocal.attention import Media, Patches
    >>> image = Media("image", [0, 1], Patches(grid=(1, 2), prefix=()))
    >>> axis = Tokens(["<image>", "<image>", "cat"], media=[image])
    >>> attention = AttentionMap.from_weights(torch.rand(3, 3), queries=axis, keys=axis)
    >>> explore(attention, images=torch.rand(3, 16, 32)).title
    'Attention of 1 layer, 1 head'
    """
    shown = Shown.of(maps, "explore", images=images, tokens=tokens, layers=layers, samples=samples, mean=mean, std=std)
    alone = [shown]
    if other is not None:
        second = shown.alike(other, images if other_images is None else other_images, tokens=tokens, mean=mean, std=std)
        alone.append(second)
    elif other_images is not None:
        raise OptionError("other_images= was given, but no other maps to compare with; give both or neither.")
    sides = paired(*alone) if len(alone) > 1 else alone
    every = [layer for side in sides for layer in side.layers]
    packed = _packed(every, shown.samples, limit, sum(side.size for side in alone))
    data = sides[0].described(packed[: len(shown.layers)], cmap)
    if len(alone) > 1:
        add_other(data, alone, sides[1], packed[len(shown.layers) :])
    blobs = [("thumbs", thumbs_text(packed)), *((f"layer-{at}", layer.text) for at, layer in enumerate(packed))]
    name = as_text(title or shown.title)
    return Page(page_of(name, data, blobs), name, data["error"])


def widget(
    maps: AttentionMap | Iterable[AttentionMap],
    *,
    images: ImageLike | Sequence[ImageLike] | None = None,
    tokens: Sequence[str] | Sequence[Sequence[str]] | Tokens | None = None,
    layers: int | str | Sequence[int | str] | None = None,
    samples: int | Sequence[int] | None = None,
    mean: Statistics = None,
    std: Statistics = None,
    cmap: Cmap | None = None,
    title: str | None = None,
) -> MapsWidget:
    """Make the interactive page a widget of a notebook, whose weights stay in Python.

    Shows what `explore` does. Nothing is packed: the widget holds the thumbnails, and each row is read from the maps
    when it is shown, exact and at any length, while the kernel runs. Needs the extra ``anylocal[widget]``.

    Parameters
    ----------
    maps, images, tokens, layers, samples, mean, std, cmap, title
        As in `explore`.

    Returns
    -------
    anywidget.AnyWidget
        Let a notebook show it. Its trait `selection` is what it shows, a dict with ``"layer"`` (its name, or its
        position in `maps` where several share a name), ``"head"`` (a number, "mean" or "max"), ``"query"``,
        ``"key"``, ``"sample"``, ``"window"``, and ``"way"``: "query" for what the query attends to, "key" for what
        attends to the key. A choice in the page sets it once, a fifth of a second after the last movement;
        setting it, all or a part of it, moves the page. ``observe(function, "selection")`` tells of either.

    Raises
    ------
    DependencyError
        If anywidget is not installed.
    OptionError, StateError, ChoiceError, ShapeError, NameNotFoundError, PositionError
        As in `explore`; from setting `selection`, if there is no such layer, head, position or sample.

    Notes
    -----
    The maps live as long as the widget. What attends to a key is a column, for which all rows of the layer are
    computed.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap
    >>> from anylocal.view import widget
    >>> attention = AttentionMap.from_weights(torch.eye(4), name="layer")
    >>> view = widget(attention)                                # doctest: +SKIP
    >>> view.observe(lambda change: print(change["new"]["query"]), "selection")  # doctest: +SKIP
    >>> view.selection = {"query": 2}                           # doctest: +SKIP
    2
    """
    try:
        from anylocal._page.widget import MapsWidget
    except ModuleNotFoundError as error:
        if error.name not in {"anywidget", "ipywidgets", "traitlets"}:
            raise
        msg = f'anylocal.view.widget needs {error.name}, which is not installed: pip install "anylocal[widget]".'
        raise DependencyError(msg, name=error.name) from error
    shown = Shown.of(maps, "widget", images=images, tokens=tokens, layers=layers, samples=samples, mean=mean, std=std)
    return MapsWidget(shown, as_text(title or shown.title), cmap)


def _packed(layers: Sequence[AttentionMap], samples: Sequence[int], limit: int | str | None, size: int) -> list[Layer]:
    most = None if limit is None else parse_size(limit)
    packed: list[Layer] = []
    # Delayed, so that no bar flashes up for a page of a few layers.
    for layer in tqdm(layers, desc="packing", unit="layer", delay=2, leave=False):
        packed.append(pack_operands(layer, samples) or pack(layer, samples))
        size += len(packed[-1].text)
        if most is not None and size > most:
            msg = (
                f"The page is larger than {limit}: {len(packed)} of {len(layers)} layers of {len(samples)} samples take"
                f" {size / 2**20:.1f} MiB. Choose some by layers=, as in layers=[0, {len(layers) - 1}], a sample by"
                " samples=0, or allow more by limit=."
            )
            raise OptionError(msg)
    return packed
