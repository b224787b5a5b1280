"""Recipes over an image within a text: what a word attends to, and each word of an answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np

from anylocal.attention import AttentionMap, AttentionMaps, Media, Patches, Tokens
from anylocal.drawing import (
    BACKGROUND,
    LEGEND,
    OPACITY,
    OVER_IMAGE,
    Look,
    Panel,
    add_colorbar,
    clipped,
    draw_overlay,
    draw_panels,
    draws,
    head_name,
    is_map,
    layer_name,
    new_axes,
    new_figure,
    overlay_colormap,
    place_of,
    printable,
    rows_of,
    sample_name,
    sample_of,
    scale_of,
    seen_in_text,
    set_title,
    short,
    shrink,
    type_share,
)
from anylocal.errors import ChoiceError, NameNotFoundError, OptionError, PositionError, ShapeError, StateError

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from anylocal.drawing import Cmap, ImageLike, Norm, Pixels, Share, Statistics, Weights

    MediaKind: TypeAlias = Literal["image", "video", "audio"]

LONGEST: Final = 18
"""Most characters of a word in a title."""

RELATIVE: Final = "times the attention of the neutral prompt"

SINK: Final = 10
"""How many times the median of the patches a patch receives that is a sink."""

_NAMES: Final = {"image": "image", "video": "video", "audio": "sound"}

MOST_WORDS: Final = 40
"""How many words a picture has at most by default."""


class _Chosen(NamedTuple):
    """The layers that are drawn, the text, and the image in it."""

    layers: Sequence[AttentionMap]
    sample: int
    text: int
    media: Media

    @property
    def queries(self) -> Tokens:
        """The tokens that look."""
        queries = self.layers[0].queries
        assert isinstance(queries, Tokens)
        return queries

    def row(self, positions: Sequence[int], head: int | None) -> Weights:
        """Return the mean of some rows and of all layers."""
        rows = (rows_of(layer, self.sample, head, positions).mean(0) for layer in self.layers)
        return np.mean([*rows], axis=0)  # type: ignore[no-any-return]  # of the same type

    def names(self, head: int | None) -> list[str]:
        """Return the lines of a title for the layers, the sample and the head."""
        first = self.layers[0]
        layers = [f"mean of {len(self.layers)} layers"] if len(self.layers) > 1 else layer_name(first)
        return [*layers, ", ".join(self.sample_and_head(head))]

    def heading(self, head: int | None) -> list[str]:
        """Return the same as words of one line."""
        name = f"mean of {len(self.layers)} layers" if len(self.layers) > 1 else self.layers[0].name
        return [*([name] if name else []), *self.sample_and_head(head)]

    def sample_and_head(self, head: int | None) -> list[str]:
        """Return the words for the sample, for the image where its text has several, and for the head."""
        keys: Any = self.layers[0].keys
        several = {item.source for item in keys.media if (item.kind, item.text) == (self.media.kind, self.media.text)}
        image = [f"{self.media.kind} {self.media.source}"] if len(several) > 1 else []
        return [*sample_name(self.layers[0], self.sample), *image, head_name(self.layers[0], head)]


@draws("query")
def over_image(
    attention: AttentionMap | Sequence[AttentionMap],
    image: ImageLike,
    *,
    query: str | int | slice | Sequence[str | int],
    written: bool = False,
    source: int = 0,
    view: str | None = None,
    layer: int | str | None = None,
    sample: int | None = None,
    head: int | None = None,
    norm: Norm = None,
    cmap: Cmap = OVER_IMAGE,
    alpha: float = OPACITY,
    smooth: bool = False,
    threshold: float | None = None,
    relative_to: AttentionMap | Sequence[AttentionMap] | None = None,
    sinks: bool = True,
    mean: Statistics = None,
    std: Statistics = None,
    ax: Axes | None = None,
    colorbar: bool = True,
) -> Axes:
    """Draw what a word of a text attends to in an image of that text.

    The title tells how much of the word's attention is on the image at all: most of it is often on special tokens.

    Parameters
    ----------
    attention : AttentionMap or AttentionMaps
        Its queries and keys must be `Tokens`, and the keys have the image among their `media`. Of several maps, those
        of other parts of the model are left out, the steps of `generate()` are joined, and the mean of the layers is
        drawn.
    image : path, PIL.Image.Image, numpy.ndarray or torch.Tensor
        The image that the model was given. One of another shape is prepared by the preprocessing of the captured model.
    query : str, int, slice or sequence of them
        A token, a word, or several words in a row; a position, or a slice of positions. Several are one mean.
    written : bool
        Whether to draw the rows that wrote the query instead of those that read it: a model writes a token from the
        position before it.
    source : int
        Which image of the text, counted from 0.
    view : str, optional
        For models that see an image several times: ``"tiles"``, where there are such, by default, or ``"overview"``.
    layer : int or str, optional
        Which of several layers: its index among those that read the text, or the name of its module.
    sample : int, optional
        Which text of the batch; a batch of one needs none.
    head : int, optional
        Which head; the mean over heads by default.
    norm : matplotlib.colors.Normalize or str, optional
        The scale: "linear" by default, from 0 to a robust maximum of the patches, or "sqrt", "log", "rank", or a norm
        of matplotlib's. The colorbar has a triangle where weights are clipped.
    cmap : str or matplotlib.colors.Colormap
        "plasma" by default.
    alpha : float
        The opacity of the greatest weight.
    smooth : bool
        Whether to interpolate between the centres of patches; the patches as they are by default.
    threshold : float, optional
        Draw only the smallest set of patches that holds this share of the weight of all patches, such as 0.6.
    relative_to : AttentionMap or AttentionMaps, optional
        Maps of a neutral prompt about the same image, such as "describe the image": weights are divided by those of its
        last token, so that patches which any text attends to stand back.
    sinks : bool
        Whether to draw patches that are sinks, which all words attend to: on average over the words after the image,
        more than 10 times the median of the patches. The title tells how many there are, and what they hold.
    mean, std : float or sequence of float, optional
        The statistics that normalised the image.
    ax : matplotlib.axes.Axes, optional
        Where to draw; in a new figure by default.
    colorbar : bool
        Whether to draw the legend of the scale.

    Returns
    -------
    matplotlib.axes.Axes
        Its units are the pixels of the image. The weights of the patches are the array of ``ax.images[1]``.

    Raises
    ------
    StateError
        If no map has an image among its keys; the message tells why, where the axis knows.
    ChoiceError
        If the batch holds several texts and none was chosen, the query occurs more than once, or the image is seen in
        several tiles whose places are not known and none was chosen.
    PositionError, NameNotFoundError
        If the text, the image, the view, the head, the layer or the query does not exist, or nothing is before a query
        that was written.
    ShapeError
        If the image is not what the model saw and cannot be prepared, or the neutral prompt has other patches or
        layers.
    OptionError
        If `attention` is not a map, or `mean` and `std` do not fit the image.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap, Media, Patches, Tokens
    >>> from anylocal_bert import plot
    >>> patches = Patches(grid=(1, 2), prefix=(), image_size=(16, 32))
    >>> axis = Tokens(["<image>", "<image>", "a", "cat"], media=[Media("image", [0, 1], patches)])
    >>> weights = torch.tensor([[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.2, 0.2, 0.6, 0], [0.1, 0.5, 0.2, 0.2]])
    >>> attention = AttentionMap.from_weights(weights, queries=axis, keys=axis)
    >>> ax = plot.over_image(attention, torch.rand(3, 16, 32), query="cat")
    >>> [[round(weight, 2) for weight in row] for row in ax.images[1].get_array().tolist()]
    [[0.1, 0.5]]
    """
    chosen = selected(attention, layer, sample, source, view, "over_image")
    positions = positions_of(chosen.queries, query, chosen.text)
    keys, pixels = _seen(chosen, image, mean, std)
    held = np.asarray(chosen.media.picture(chosen.row(rows_reading(positions, written=written), head)))
    are_sinks = _sinks(chosen, head)
    picture = held / _neutral(relative_to, chosen, layer, sample, head)
    picture = picture if sinks else np.where(are_sinks, np.nan, picture)
    scale = scale_of(norm, [picture.ravel()])
    ax = new_axes(ax)
    share = type_share(ax)
    colours = overlay_colormap(cmap, alpha, threshold=threshold)
    drawn = draw_overlay(
        ax, picture.ravel(), keys, pixels, scale=scale, colours=colours, smooth=smooth, threshold=threshold
    )
    if colorbar:
        legend = LEGEND if relative_to is None else RELATIVE
        bar = add_colorbar(drawn.heat, ax, legend, extend=clipped([scale], [picture]))
        bar.ax.set_facecolor(BACKGROUND)
        shrink(bar.ax, share)
    name = name_of(chosen.queries, positions, chosen.text)
    total = f"{short(float(np.nansum(held)))} of its weight on the image"
    left_out = "" if sinks else ", left out"
    told = [f"{short(float(np.nansum(held[are_sinks])))} on {_counted(are_sinks)}{left_out}"] if are_sinks.any() else []
    width = ax.bbox.width / ax.figure.dpi
    lines = [*chosen.names(head), f"{'written' if written else 'query'} {name}, {total}", *told]
    set_title(ax, lines, share, width, packed=True)
    return ax


@draws("queries")
def over_words(
    attention: AttentionMap | Sequence[AttentionMap],
    image: ImageLike,
    *,
    queries: slice | Sequence[str | int] | None = None,
    written: bool = False,
    source: int = 0,
    view: str | None = None,
    layer: int | str | None = None,
    sample: int | None = None,
    head: int | None = None,
    norm: Norm = None,
    share: Share = "head",
    cmap: Cmap = OVER_IMAGE,
    alpha: float = OPACITY,
    smooth: bool = False,
    threshold: float | None = None,
    relative_to: AttentionMap | Sequence[AttentionMap] | None = None,
    sinks: bool = True,
    mean: Statistics = None,
    std: Statistics = None,
    columns: int | None = None,
    figure: Figure | None = None,
) -> Figure:
    """Draw what each word of a text attends to in an image of that text: a panel for each word.

    Parameters
    ----------
    attention, image
        See `over_image`.
    queries : slice of positions, or sequence of str or int, optional
        The words. By default those of the answer, where the maps are the steps of a generation, else those after the
        last image; the first 40 of them, without special tokens.
    written, source, view, layer, sample, head, norm, cmap, alpha, smooth, threshold, relative_to, sinks, mean, std
        See `over_image`.
    share : {"head", "all"}
        Which panels share a scale. By default each has its own, whose top, 1 on the colorbar, is written in the panel.
        One scale for all compares the words with each other.
    columns : int, optional
        Panels in a row; by default as many as make the panels largest.
    figure : matplotlib.figure.Figure or SubFigure, optional
        An empty one to draw into; by default a new one, as wide as the rcParams say and as high as the panels are.

    Returns
    -------
    matplotlib.figure.Figure
        Its ``axes`` are the words, the bare image where the last row has a place left, and the colorbar.

    Raises
    ------
    StateError, ChoiceError, PositionError, NameNotFoundError, ShapeError, OptionError
        As `over_image`; and if there is no word to draw.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap, Media, Patches, Tokens
    >>> from anylocal_bert import plot
    >>> patches = Patches(grid=(1, 2), prefix=(), image_size=(16, 32))
    >>> axis = Tokens(["<image>", "<image>", "a", "cat"], media=[Media("image", [0, 1], patches)])
    >>> attention = AttentionMap.from_weights(torch.rand(4, 4).softmax(-1), queries=axis, keys=axis)
    >>> figure = plot.over_words(attention, torch.rand(3, 16, 32))
    >>> [ax.get_title() for ax in figure.axes[:2]]
    ['a', 'cat']
    """
    start = _start_of_answer(attention)
    chosen = selected(attention, layer, sample, source, view, "over_words")
    axis = chosen.queries
    if queries is None:
        words = _words_from(axis, _after_media(chosen) if start is None else start, chosen.text)
    elif isinstance(queries, slice):
        span = range(*queries.indices(len(axis)))
        words = [word for word in axis.words(chosen.text) if word[0] in span]
    else:
        words = [positions_of(axis, query, chosen.text) for query in queries]
    if not words:
        msg = f"{axis!r} has no word to draw after its image; choose some by queries=."
        raise PositionError(msg)
    keys, pixels = _seen(chosen, image, mean, std)
    panels = []
    are_sinks, neutral = _sinks(chosen, head), _neutral(relative_to, chosen, layer, sample, head)
    for word in words:
        picture = np.asarray(chosen.media.picture(chosen.row(rows_reading(word, written=written), head))) / neutral
        picture = picture if sinks else np.where(are_sinks, np.nan, picture)
        panels.append(Panel(picture.ravel(), keys, name_of(axis, word, chosen.text)))
    told = [f"{_counted(are_sinks)}{'' if sinks else ' left out'}"] if are_sinks.any() else []
    heading = ", ".join([*chosen.heading(head), *(["as written"] if written else []), *told])
    drawn = new_figure() if figure is None else figure
    if figure is None:
        # Everything is placed here.
        drawn.set_layout_engine("none")
    look = Look(pixels, norm, cmap, alpha, share, smooth, threshold, LEGEND if relative_to is None else RELATIVE)
    draw_panels(panels, look, drawn, fit_height=figure is None, heading=heading, columns=columns)
    return drawn


def selected(  # noqa: PLR0917  # each chooses
    attention: object,
    layer: int | str | None,
    sample: int | None,
    source: int,
    view: str | None,
    recipe: str,
    kind: MediaKind = "image",
) -> _Chosen:
    """Return the layers that read the text, and the image in it."""
    given = [attention] if is_map(attention) else list(attention) if isinstance(attention, Iterable) else []
    if not given or not all(map(is_map, given)):
        msg = f"{recipe} draws AttentionMaps and got {type(attention).__name__}; capture a model that reads images."
        raise OptionError(msg)
    layers: Any = AttentionMaps(_reading([each for each in given if _reads_media(each, kind)]))
    if not layers:
        known = dict.fromkeys(repr(each.keys) for each in given if isinstance(each.keys, Tokens))
        what = f"the keys are {'; '.join(known)}" if known else "no keys are tokens of a text"
        named = "an image" if kind == "image" else f"a {_NAMES[kind]}"
        msg = f"No map has {named} among its keys: {what}. Give maps of the text, which attends to the {_NAMES[kind]}."
        raise StateError(msg)
    if len({each.forward for each in layers}) > 1:
        layers = layers.generation()
    layers = [layers[layer]] if layer is not None else list(layers)
    at = sample_of(layers[0], sample)
    text = place_of(layers[0], at)
    media = _media(layers[0].keys, text, source, view, kind)
    return _Chosen([each for each in layers if each.keys == layers[0].keys], at, text, media)


def _reads_media(attention: AttentionMap, kind: MediaKind = "image") -> bool:
    keys, queries = attention.keys, attention.queries
    return isinstance(queries, Tokens) and isinstance(keys, Tokens) and any(item.kind == kind for item in keys.media)


def _reading(layers: Sequence[AttentionMap]) -> Sequence[AttentionMap]:
    """Return the layers whose queries are a text; all of them where there is none, as in an encoder of sounds."""

    def is_text(queries: Any) -> bool:
        return len(queries) > len({place for item in queries.media for place in item.positions if place >= 0})

    return [each for each in layers if is_text(each.queries)] or layers


def _media(axis: Tokens, text: int, source: int, view: str | None, kind: MediaKind) -> Media:
    """Return the image of a text that is drawn, in one of the ways in which the model sees it."""
    images = [item for item in axis.media if item.kind == kind and item.text == text % len(axis.texts)]
    views = [item for item in images if item.source == source]
    if not views:
        msg = f"Text {text} has no {_NAMES[kind]} {source}: {', '.join(item.name for item in axis.media)}."
        raise PositionError(msg)
    names = {item.view: item for item in views}
    wanted = view if view is not None else "tiles" if "tiles" in names else next(iter(names))
    if wanted not in names:
        raise NameNotFoundError(wanted, repr(axis), [*names], kind="view")
    if view is None and len(names) > 1 and wanted != "tiles":
        msg = (
            f"The model sees image {source} in {len(names)} tiles, whose places its input does not tell; choose one by"
        )
        msg += f" view={wanted!r}, and give that tile as the image."
        raise ChoiceError(msg)
    return names[wanted]


def _seen(chosen: _Chosen, image: ImageLike, mean: Statistics, std: Statistics) -> tuple[Patches, Pixels]:
    """Return the patches as they lie on an image, and the image."""
    patches = chosen.media.patches
    pixels = seen_in_text(patches, image, chosen.layers[0].model, mean=mean, std=std)
    height, width = pixels.shape[:2]
    return Patches(patches.grid, prefix=(), image_size=(height, width)), pixels


def _sinks(chosen: _Chosen, head: int | None) -> npt.NDArray[np.bool_]:
    """Return which patches all words after the image attend to."""
    words = _words_from(chosen.queries, _after_media(chosen), chosen.text)
    if not words:
        return np.zeros(chosen.media.grid, dtype=bool)
    mean = np.asarray(chosen.media.picture(chosen.row([place for word in words for place in word], head)))
    return mean > SINK * np.nanmedian(mean)  # type: ignore[no-any-return]  # an array


def _counted(sinks: npt.NDArray[np.bool_]) -> str:
    count = int(sinks.sum())
    return f"{count} sink{'s' if count > 1 else ''}"


def _neutral(
    relative_to: object, chosen: _Chosen, layer: int | str | None, sample: int | None, head: int | None
) -> npt.NDArray[Any]:
    """Return what the last token of a neutral prompt attends to in the same image; 1 without such a prompt."""
    if relative_to is None:
        return np.ones(())
    maps: Any = [relative_to] if is_map(relative_to) else relative_to
    start, single = _start_of_answer(maps), isinstance(maps, Iterable) and all(m.images == 1 for m in maps if is_map(m))
    media = chosen.media
    other = selected(maps, layer, None if single else sample, media.source, media.view, "relative_to")
    if len(other.layers) != len(chosen.layers) or other.media.grid != media.grid:
        theirs, ours = (f"{len(each.layers)} layers with {each.media.name}" for each in (other, chosen))
        msg = f"The neutral prompt has {theirs}, and the map {ours}; give the same layers, of the same image."
        raise ShapeError(msg)
    axis = other.queries
    real = np.flatnonzero(~axis.is_padding(other.text))
    last = int(real[-1]) if start is None else start - axis.start - 1
    picture = np.asarray(other.media.picture(other.row([last], head)))
    return np.where(picture > 0, picture, np.nan)


def positions_of(axis: Tokens, query: object, text: int) -> list[int]:
    """Return the positions that a query means: of a token, of a word, of words in a row, or of several queries."""
    if isinstance(query, slice):
        found = [*range(*query.indices(len(axis)))]
    elif isinstance(query, str):
        found = _span(axis, query, text)
    elif isinstance(query, Sequence | np.ndarray | range):
        found = [position for each in query for position in positions_of(axis, each, text)]
    else:
        found = [axis.position(query, text)]
    if not found:
        msg = f"query={query!r} holds no token of {axis!r}; give one."
        raise PositionError(msg)
    return found


def _span(axis: Tokens, query: str, text: int) -> list[int]:
    """Return the positions of a token, or of the words that a query consists of, which must occur once."""
    try:
        return [axis.position(query, text)]
    except NameNotFoundError:
        words = axis.words(text)
        spelled = [axis.spelling(word, text) for word in words]
        count = len(query.split()) or 1
        starts = [at for at in range(len(words)) if " ".join(spelled[at : at + count]) == query]
        if not starts:
            raise
        if len(starts) > 1:
            msg = f"{query!r} is at positions {[words[at][0] for at in starts]} of text {text}; give its positions."
            raise ChoiceError(msg) from None
        return [position for word in words[starts[0] : starts[0] + count] for position in word]


def rows_reading(positions: Sequence[int], *, written: bool) -> list[int]:
    """Return the rows of positions that were read, or of those before, which wrote them."""
    if written and min(positions) == 0:
        msg = "Position 0 was written by none before it: leave out written=True, or draw another query."
        raise PositionError(msg)
    return [position - written for position in positions]


def name_of(axis: Tokens, positions: Sequence[int], text: int) -> str:
    named = [position for word in axis.words(text) if word[0] in positions for position in word]
    if named == [*positions]:
        words = [word for word in axis.words(text) if word[0] in positions]
        shown = [axis.spelling(w, text) if len(w) > 1 else axis.display(w[0], text) for w in words]
    else:
        shown = [axis.display(position, text) for position in positions]
    return printable(" ".join(shown), LONGEST)


def _start_of_answer(attention: object) -> int | None:
    """Return where an answer begins, if maps are the steps of a generation: what the second step reads first."""
    layers = [each for each in attention if is_map(each)] if isinstance(attention, Iterable) else []
    starts = [each.queries.start for each in layers if _reads_media(each) and isinstance(each.queries, Tokens)]
    return next((start for start in starts if start != starts[0]), None)


def _after_media(chosen: _Chosen) -> int:
    """Return the index in its text of the first token after all images."""
    keys = chosen.layers[0].keys
    assert isinstance(keys, Tokens)
    own = (item for item in keys.media if item.text == chosen.media.text)
    return keys.start + max(max(item.positions) + 1 for item in own)


def _words_from(axis: Tokens, start: int, text: int) -> list[list[int]]:
    """Return the words of a text from an index on, without special tokens and padding."""
    left_out = axis.is_special(text) | axis.is_padding(text)
    words = [word for word in axis.words(text) if word[0] + axis.start >= start and not left_out[word].all()]
    return words[:MOST_WORDS]
