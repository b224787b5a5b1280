"""What the recipes of an adapter are built on: choosing what is drawn, its scale, its figure and its ticks.

`anylocal.plot` has the recipes themselves. Needs the extra ``anylocal[torch,plot]``.
"""

from __future__ import annotations

from anylocal.errors import DependencyError

try:
    from anylocal._drawing.arguments import draws
    from anylocal._drawing.figure import add_colorbar, bar_options, beside, new_axes, new_figure, shrink, type_share
    from anylocal._drawing.grid import row_names
    from anylocal._drawing.image import (
        STRETCHED,
        ImageLike,
        Pixels,
        Statistics,
        as_seen,
        pixels_of,
        seen,
        seen_in_text,
    )
    from anylocal._drawing.image_panels import Look, Panel, draw_panels
    from anylocal._drawing.layers import by_layer, draw_layers, layers_of, of_samples, uniform_of
    from anylocal._drawing.matrix import Drawn, draw_matrix, of_map, scale_of_matrices, set_title
    from anylocal._drawing.norms import Norm, Rank, Weights, named
    from anylocal._drawing.overlay import BACKGROUND, OPACITY, OVER_IMAGE, Overlay, draw_overlay, overlay_colormap
    from anylocal._drawing.photograph import Photograph, photograph
    from anylocal._drawing.scale import (
        CMAP,
        LEGEND,
        PADDING,
        Cmap,
        Extend,
        Share,
        clipped,
        colormap_of,
        legend_of,
        scale_of,
        scales_of,
        short,
        top_of,
    )
    from anylocal._drawing.select import (
        array_of,
        caption,
        head_name,
        image_of,
        is_map,
        layer_name,
        map_of,
        rows_of,
        sample_name,
        sample_of,
    )
    from anylocal._drawing.strip import fit_labels, room
    from anylocal._drawing.ticks import LINE, name_positions, printable
    from anylocal._maps.bounds import inside, place_of
except ModuleNotFoundError as error:
    if error.name not in {"matplotlib", "numpy"}:
        raise
    raise DependencyError(
        f'anylocal.drawing needs {error.name}: pip install "anylocal[torch,plot]".', name=error.name
    ) from error

__all__ = [
    "BACKGROUND",
    "CMAP",
    "LEGEND",
    "LINE",
    "OPACITY",
    "OVER_IMAGE",
    "PADDING",
    "STRETCHED",
    "Cmap",
    "Drawn",
    "Extend",
    "ImageLike",
    "Look",
    "Norm",
    "Overlay",
    "Panel",
    "Photograph",
    "Pixels",
    "Rank",
    "Share",
    "Statistics",
    "Weights",
    "add_colorbar",
    "array_of",
    "as_seen",
    "bar_options",
    "beside",
    "by_layer",
    "caption",
    "clipped",
    "colormap_of",
    "draw_layers",
    "draw_matrix",
    "draw_overlay",
    "draw_panels",
    "draws",
    "fit_labels",
    "head_name",
    "image_of",
    "inside",
    "is_map",
    "layer_name",
    "layers_of",
    "legend_of",
    "map_of",
    "name_positions",
    "named",
    "new_axes",
    "new_figure",
    "of_map",
    "of_samples",
    "overlay_colormap",
    "photograph",
    "pixels_of",
    "place_of",
    "printable",
    "room",
    "row_names",
    "rows_of",
    "sample_name",
    "sample_of",
    "scale_of",
    "scale_of_matrices",
    "scales_of",
    "seen",
    "seen_in_text",
    "set_title",
    "short",
    "shrink",
    "top_of",
    "type_share",
    "uniform_of",
]


def __dir__() -> list[str]:
    return __all__
