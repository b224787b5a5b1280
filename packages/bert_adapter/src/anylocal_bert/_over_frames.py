"""A recipe over a video: what a word, or a patch of the video itself, attends to in each frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from anylocal.attention import AttentionMap, Patches, VideoPatches
from anylocal.drawing import (
    OPACITY,
    OVER_IMAGE,
    STRETCHED,
    Look,
    Panel,
    draw_panels,
    draws,
    head_name,
    is_map,
    new_figure,
    pixels_of,
    rows_of,
    sample_name,
    sample_of,
    short,
)
from anylocal.errors import ShapeError
from anylocal_bert._over_image import name_of, positions_of, rows_reading, selected

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    import torch
    from matplotlib.figure import Figure

    from anylocal.drawing import Cmap, ImageLike, Norm, Pixels, Share, Statistics, Weights


class _Drawn(NamedTuple):
    """The weights of a video, (frame, row, column), the size of its frames in pixels, and what a heading tells."""

    weights: Weights
    size: tuple[int, int] | None
    heading: list[str]


@draws("query")
def over_frames(
    attention: AttentionMap | Sequence[AttentionMap],
    video: Sequence[ImageLike] | npt.NDArray[Any] | torch.Tensor,
    *,
    query: str | int | slice | Sequence[str | int],
    written: bool = False,
    source: int = 0,
    layer: int | str | None = None,
    sample: int | None = None,
    head: int | None = None,
    norm: Norm = None,
    share: Share = "all",
    cmap: Cmap = OVER_IMAGE,
    alpha: float = OPACITY,
    smooth: bool = False,
    threshold: float | None = None,
    mean: Statistics = None,
    std: Statistics = None,
    columns: int | None = None,
    figure: Figure | None = None,
) -> Figure:
    """Draw what a word attends to in a video of its text: a panel for each frame, as the model has merged them.

    Parameters
    ----------
    attention : AttentionMap or AttentionMaps
        The keys must be `Tokens` with a video among their `media`, or `VideoPatches`. Of several maps, those of other
        parts of the model are left out, the steps of `generate()` are joined, and the mean of the layers is drawn; of
        `VideoPatches`, give one map.
    video : sequence of images, or array of shape (frames, ...)
        The frames that the model was given; of those that it has merged to one, the first is drawn.
    query : str, int, slice or sequence of them
        See `over_image`; of `VideoPatches`, a position, a prefix token, or (frame, row, column).
    share : {"all", "head"}
        Whether all frames share a scale, the default, or each has its own.
    written, source, layer, sample, head, norm, cmap, alpha, smooth, threshold, mean, std
        See `over_image`.
    columns : int, optional
        Frames in a row; by default as many as make the panels largest.
    figure : matplotlib.figure.Figure or SubFigure, optional
        An empty one to draw into; by default a new one, as wide as the rcParams say and as high as the panels are.

    Returns
    -------
    matplotlib.figure.Figure
        Its ``axes`` are the frames and the colorbar.

    Raises
    ------
    ShapeError
        If the number of frames is not a multiple of the model's, or a frame is another crop than the model saw.
    StateError, ChoiceError, PositionError, NameNotFoundError, OptionError
        As `over_image`.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap, VideoPatches
    >>> from anylocal_bert import plot
    >>> patches = VideoPatches(grid=(2, 1, 2))
    >>> attention = AttentionMap.from_weights(torch.rand(4, 4).softmax(-1), queries=patches, keys=patches)
    >>> figure = plot.over_frames(attention, torch.rand(4, 3, 16, 32), query=(0, 0, 1))
    >>> [ax.get_title() for ax in figure.axes[:2]]
    ['frame 0', 'frame 2']
    """
    if is_map(attention) and isinstance(attention.keys, VideoPatches):
        found = _of_patches(attention, query, sample, head)
    else:
        chosen = selected(attention, layer, sample, source, None, "over_frames", "video")
        positions = positions_of(chosen.queries, query, chosen.text)
        row = chosen.row(rows_reading(positions, written=written), head)
        weights: Any = chosen.media.picture(row)
        name = f"{'written' if written else 'query'} {name_of(chosen.queries, positions, chosen.text)}"
        found = _Drawn(weights, chosen.media.patches.image_size, [*chosen.heading(head), name])
    pixels = _frames(video, found, mean, std)
    count, rows, cells = found.weights.shape
    keys = Patches((rows, cells), prefix=(), image_size=(pixels[0].shape[0], pixels[0].shape[1]))
    each = len(video) // count
    panels = [
        Panel(weights.ravel(), keys, f"frame {number * each}", pixels=own)
        for number, (weights, own) in enumerate(zip(found.weights, pixels, strict=True))
    ]
    total = f"{short(float(np.nansum(found.weights)))} of its weight on the video"
    drawn = new_figure() if figure is None else figure
    if figure is None:
        # Everything is placed here.
        drawn.set_layout_engine("none")
    look = Look(pixels[0], norm, cmap, alpha, share, smooth, threshold)
    heading = ", ".join([*found.heading, total])
    draw_panels(panels, look, drawn, fit_height=figure is None, heading=heading, columns=columns)
    return drawn


def _of_patches(attention: AttentionMap, query: Any, sample: int | None, head: int | None) -> _Drawn:
    keys: Any = attention.keys
    at = sample_of(attention, sample)
    place = attention.queries.position(query, at)
    weights = keys.split(rows_of(attention, at, head, [place])[0])[1]
    named = [*([attention.name] if attention.name else []), *sample_name(attention, at), head_name(attention, head)]
    return _Drawn(weights, keys.image_size, [*named, f"query {attention.queries.label(place)}"])


def _frames(video: Any, found: _Drawn, mean: Statistics, std: Statistics) -> list[Pixels]:
    """Return the first frame of those that the model has merged, for each of its own."""
    count = len(found.weights)
    if not len(video) or len(video) % count:
        msg = f"The video has {len(video)} frames and the model {count}; give those that the model was given."
        raise ShapeError(msg)
    pixels = [pixels_of(video[number * (len(video) // count)], mean=mean, std=std) for number in range(count)]
    high, wide = pixels[0].shape[:2]
    if found.size is not None and abs(high / wide * found.size[1] / found.size[0] - 1) > STRETCHED:
        msg = f"The frames are {high} × {wide} pixels, and the model saw {found.size[0]} × {found.size[1]}; give these."
        raise ShapeError(msg)
    return pixels
