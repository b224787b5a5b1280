"""The interactive page: every head of every layer, in one file that opens in any browser, without a network.

Thumbnails of all heads; the map of one of them; and what each position attends to, painted live over the image or the
text. The page holds the maps themselves, one byte a weight, and says how exact that is.

Needs the extras ``anylocal[plot,torch]``.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anylocal.errors import DependencyError, OptionError, ShapeError

try:
    import jinja2
    from markupsafe import Markup
    from tqdm import tqdm

    from anylocal._drawing.layers import layers_of
    from anylocal._drawing.scale import CMAP
    from anylocal._drawing.select import inside
    from anylocal._engine.budget import parse_size
    from anylocal._engine.files import atomic_write
    from anylocal._maps.map import maps_of
    from anylocal._page.describe import colours_of, describe, named, sources_of, tokens_of
    from anylocal._page.payload import compressed, pack
    from anylocal.attention import AttentionMap, AttentionMaps, Tokens
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

__all__ = ["Page", "explore"]

_HEIGHT = 820


@dataclass(frozen=True, eq=False)
class Page:
    """A page of attention maps, in one file; notebooks show it in a frame.

    Attributes
    ----------
    html : str
        The whole page. It loads nothing, from anywhere.
    title : str
    error : float
        The most that a weight on the page differs from the map's.
    height : int
        Of the frame in a notebook, in CSS pixels.

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
        """Write the page; a file that is there already is replaced only when the new one is whole.

        Parameters
        ----------
        file : path
            Where to; by convention it ends in ``.html``.

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
        # A frame of its own: two pages in one notebook share no name and no style.
        return (
            f'<iframe srcdoc="{html.escape(self.html)}" title="{html.escape(self.title)}" width="100%"'
            f' height="{self.height}" style="border: 0" allow="clipboard-write"></iframe>'
        )


def explore(
    maps: AttentionMap | Iterable[AttentionMap],
    *,
    images: ImageLike | Sequence[ImageLike] | None = None,
    tokens: Sequence[str] | Sequence[Sequence[str]] | Tokens | None = None,
    layers: int | str | Sequence[int | str] | None = None,
    samples: int | Sequence[int] | None = None,
    mean: Statistics = None,
    std: Statistics = None,
    cmap: Cmap = CMAP,
    title: str | None = None,
    limit: int | str | None = "64MiB",
) -> Page:
    """Make the interactive page of the maps of one forward.

    Thumbnails of all heads of all layers; of the one that is chosen, the whole map, and what one position attends to,
    over the image or the tokens, with the strongest as lines and as a list. By mouse, touch or keyboard; with mean and
    maximum over heads, special tokens hidden, words merged. It saves PNG, and tells the Python call of the picture.

    Parameters
    ----------
    maps : AttentionMaps, AttentionMap or iterable of AttentionMap
        The layers of one forward. Differing axes are no hindrance: windows, pooled keys, a decoder and its encoder.
    images : torch.Tensor, numpy.ndarray, PIL.Image.Image or Photograph, or sequence of them, optional
        What the model saw, in its size: one image, the whole batch, or an image for each sample. Where it is left
        out, patches are drawn on an empty ground.
    tokens : Tokens, sequence of str, or sequence of sequences of str, optional
        The texts of the positions, where their number agrees: of one text, or of each sample. They take the place of
        texts that the maps know, such as the ids of a capture without a tokenizer; padding, special tokens, words and
        sentences that are known stay.
    layers : sequence of int or str, optional
        Which of the maps: positions, or names of modules; all by default.
    samples : int or sequence of int, optional
        Which samples of the batch (of windowed layers, which images); all by default.
    mean, std : float or sequence of float, optional
        What the images were normalised by: a number for each colour, or one for all.
    cmap : str or matplotlib.colors.Colormap
        "magma" by default.
    title : str, optional
        Of the page.
    limit : int, str or None
        The most that the page may take: bytes, a text such as ``"64MiB"``, None for as much as there is.

    Returns
    -------
    Page
        To be saved; notebooks show it as it is.

    Raises
    ------
    OptionError
        Where the page would be larger than `limit`, weights or pixels are no numbers or weights negative, there are
        images and no patches, tokens and no text, tokens that are no texts, or something is no map.
    StateError, ChoiceError
        Where there is no map, or they belong to several forwards.
    ShapeError
        Where the layers have batches of different sizes, or the images or the tokens do not fit them.
    NameNotFoundError, PositionError
        Where there is no such layer or sample.

    Notes
    -----
    A weight is kept as a byte: the square root of its share of the greatest of its matrix. So a weight w of a matrix
    whose greatest is m is off by at most sqrt(w · m) / 255, and `Page.error` and the page's last line say how much it
    is. Words are merged as `anylocal.attention.merge_words` does.

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
    """
    given = layers_of(maps_of(maps, "explore"), "explore")
    places = _places(given, layers)
    chosen = [given[at] for at in places]
    numbers = _numbers(chosen, samples)
    if tokens is not None:
        chosen = named(chosen, numbers, tokens_of(tokens))
    sources = [] if images is None else sources_of(images, chosen, numbers, mean, std)
    packed = _packed(chosen, numbers, limit, sum(map(len, sources)))
    data = describe(given, places, chosen, numbers, packed)
    data |= {"images": sources, "colours": colours_of(cmap), "error": max(layer.error for layer in packed)}
    thumbs = [head for layer in packed for sample in layer.thumbs for head in sample]
    blobs = [("thumbs", compressed(thumbs)), *((f"layer-{at}", layer.text) for at, layer in enumerate(packed))]
    return _page(title or _title(chosen), data, blobs)


def _places(given: Sequence[AttentionMap], layers: int | str | Sequence[int | str] | None) -> list[int]:
    if layers is None:
        return list(range(len(given)))
    maps = AttentionMaps(given)
    found = [next(at for at, layer in enumerate(given) if layer is maps[name]) for name in _several(layers)]
    if not found:
        msg = f"layers={layers!r} chooses none of the {len(given)} layers, and there is nothing to show; choose some."
        raise OptionError(msg)
    return found


def _several(chosen: Any) -> Iterable[Any]:
    """Return what was chosen as several; one that is no position is told of where it is looked up."""
    # Arrays and tensors, also those of no dimension.
    chosen = chosen.tolist() if hasattr(chosen, "tolist") else chosen
    return chosen if isinstance(chosen, Iterable) and not isinstance(chosen, str) else [chosen]


def _numbers(layers: Sequence[AttentionMap], samples: int | Sequence[int] | None) -> list[int]:
    counts = {layer.images for layer in layers}
    if len(counts) > 1:
        found = ", ".join(f"{layer.name!r} {layer.images}" for layer in layers)
        msg = f"The layers have batches of different sizes: {found}; choose those of one size by layers=."
        raise ShapeError(msg)
    (count,) = counts
    wanted = range(count) if samples is None else _several(samples)
    numbers = [inside(sample, count, "sample", of=layers[0]) for sample in wanted]
    if not numbers:
        msg = f"samples={samples!r} chooses none of the batch of {count}, and there is nothing to show; choose some."
        raise OptionError(msg)
    return numbers


def _packed(layers: Sequence[AttentionMap], samples: Sequence[int], limit: int | str | None, size: int) -> list[Layer]:
    most = None if limit is None else parse_size(limit)
    packed: list[Layer] = []
    # Nobody waits for a page of a few layers; a bar that flashes up says nothing.
    for layer in tqdm(layers, desc="packing", unit="layer", delay=2, leave=False):
        packed.append(pack(layer, samples))
        size += len(packed[-1].text)
        if most is not None and size > most:
            msg = (
                f"The page is larger than {limit}: {len(packed)} of {len(layers)} layers of {len(samples)} samples take"
                f" {size / 2**20:.1f} MiB. Choose some by layers=, as in layers=[0, {len(layers) - 1}], a sample by"
                " samples=0, or allow more by limit=."
            )
            raise OptionError(msg)
    return packed


def _title(layers: Sequence[AttentionMap]) -> str:
    heads = sum(layer.shape[1] for layer in layers)
    return f"Attention of {len(layers)} layer{'s' * (len(layers) != 1)}, {heads} head{'s' * (heads != 1)}"


def _page(title: str, data: dict[str, Any], blobs: Sequence[tuple[str, str]]) -> Page:
    room = files("anylocal") / "_page"
    # Autoescape: a title, a token or a name of a module is text, whatever it holds.
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string((room / "page.html").read_text("utf-8"))
    own = {name: Markup((room / f"page.{name}").read_text("utf-8")) for name in ("css", "js")}  # noqa: S704  # our own files
    note = (
        f"Weights on this page differ from the model's by at most {data['error']:.1g}: each is one byte, the square"
        f" root of its share of the greatest of its head. Made by anylocal {version('anylocal')}."
    )
    text = template.render(
        title=title, data=data, blobs=blobs, note=note, version=version("anylocal"), style=own["css"], script=own["js"]
    )
    return Page(text, title, data["error"])
