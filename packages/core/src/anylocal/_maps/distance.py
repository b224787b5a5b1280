"""How far a head looks: the mean distance between a query patch and the patches it attends to."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from anylocal._maps.patches import Patches
from anylocal._maps.placed import PlacedPatches
from anylocal._maps.rows import Pick, float_type, positions
from anylocal._maps.statistics import ImageAxis, by_query, counted_queries, mean_over_queries, not_patches
from anylocal.errors import ShapeError

if TYPE_CHECKING:
    from anylocal._maps.map import AttentionMap
    from anylocal._maps.positions import Axis


def distance(attention: AttentionMap) -> torch.Tensor:
    """Compute how far each head looks: the mean distance between a query patch and what it attends to.

    For each query patch, the mean of its distances to the key patches, from centre to centre, weighted by its attention
    to them; then the mean over the query patches. Prefix tokens and padding have no place and are left out; the weights
    of the patches are normalised to sum to 1 again. A query without attention to patches does not count.

    Parameters
    ----------
    attention : AttentionMap
        A map whose queries and keys are `Patches` or `PlacedPatches` of one image; their grids may differ.

    Returns
    -------
    torch.Tensor
        Shape (batch, head); (image, head) if the layer attends within windows. In pixels, or in patches of the queries'
        grid if the image size is not known. In float32, or float64 if the map is. NaN if no query counts.

    Raises
    ------
    ShapeError
        If the queries or the keys are not patches, as in class attention, have windows of unknown place, or are patches
        of images of different sizes.

    Notes
    -----
    A. Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale", ICLR 2021,
    appendix D.7 and figure 7.

    Examples
    --------
    >>> import torch
    >>> from anylocal.attention import AttentionMap, Patches, distance
    >>> patches = Patches(grid=(1, 2), prefix=(), image_size=(16, 32))
    >>> distance(AttentionMap.from_weights(torch.tensor([[0.5, 0.5], [0.0, 1.0]]), queries=patches, keys=patches))
    tensor([[4.]])
    """
    queries = _in_image(attention, attention.queries, "queries")
    keys = _in_image(attention, attention.keys, "keys")
    first, ignored = len(queries.prefix), len(keys.prefix)
    windows = max(len(_places(axis)) for axis in (queries, keys))
    extent = _extent(attention, queries, keys)
    start, end = (_centres(axis, windows, extent, attention) for axis in (queries, keys))
    padding = torch.from_numpy(_places(keys) < 0).to(attention.device)

    def reach(rows: torch.Tensor, part: Pick) -> torch.Tensor:
        """Return the sums of weighted distances and of weights, shape (batch, head, query, 2)."""
        here = start[:, positions(part, attention.shape[2], attention.device) - first]
        apart = torch.hypot(*(here[:, :, None] - end[:, None]).unbind(-1))
        patches = rows[..., ignored:].unflatten(0, (-1, windows))
        patches = patches.masked_fill(padding[:, None, None], 0)
        return torch.stack([(patches * apart[:, None]).sum(-1), patches.sum(-1)], -1).flatten(0, 1)

    total, mass = by_query(attention, first, reach).unbind(-1)
    counted = counted_queries(attention, first)[:, None] & (mass != 0)
    # Divided by 1 instead of 0, or the gradient would be NaN although the quotient is discarded.
    return mean_over_queries(attention, total / mass.where(mass != 0, 1), counted)


def _in_image(attention: AttentionMap, axis: Axis, kind: str) -> ImageAxis:
    if isinstance(axis, PlacedPatches) or (isinstance(axis, Patches) and attention.windows == 1):
        return axis
    if isinstance(axis, Patches):
        msg = (
            f"{attention!r} attends within windows, and the place of its {kind} is not known; make the map with "
            f"{kind}=PlacedPatches(grid=(rows, columns), places=...)."
        )
        raise ShapeError(msg)
    raise not_patches(attention, axis, kind)


def _extent(attention: AttentionMap, queries: ImageAxis, keys: ImageAxis) -> tuple[int, int]:
    """Return the height and width of the image, in the unit of distances."""
    sizes = {axis.image_size for axis in (queries, keys)} - {None}
    if len(sizes) > 1:
        msg = (
            f"The queries of {attention!r} are patches of an image of {queries.image_size} and its keys of one of "
            f"{keys.image_size}; give both the image_size of one image."
        )
        raise ShapeError(msg)
    return next((size for size in sizes if size is not None), queries.grid)


def _centres(axis: ImageAxis, windows: int, extent: tuple[int, int], attention: AttentionMap) -> torch.Tensor:
    """Return y and x of each patch of each window, shape (windows, patches, 2); arbitrary for padding."""
    places = _places(axis)
    cells = np.stack(np.divmod(np.tile(places, (windows // len(places), 1)), axis.grid[1]), -1)
    centres = (cells + 0.5) * (np.array(extent) / np.array(axis.grid))
    # Converted before it is moved: not every device has float64.
    return torch.from_numpy(centres).to(float_type(attention.dtype)).to(attention.device)


def _places(axis: ImageAxis) -> npt.NDArray[np.int64]:
    """Return the place of each patch of each window, shape (windows, patches): -1 for padding."""
    if isinstance(axis, PlacedPatches):
        return axis.places
    return np.arange(math.prod(axis.grid))[None]
