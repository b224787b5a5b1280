"""What all recipes share: choosing what is drawn, one scale for it and its legend, new axes.

The adapters, released together with core, build their recipes on it as well.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np
import numpy.typing as npt

from anylocal._drawing.ticks import printable
from anylocal._engine.tensors import to_numpy
from anylocal._maps.bounds import inside
from anylocal.errors import ChoiceError, OptionError, PositionError

if TYPE_CHECKING:
    from anylocal._drawing.norms import Weights
    from anylocal._maps.map import AttentionMap
    from anylocal._maps.positions import Axis


Flags: TypeAlias = npt.NDArray[np.bool_]


def is_map(attention: object) -> TypeGuard[AttentionMap]:
    """Tell a map, or what arithmetic makes of maps, from a plain matrix, without importing torch for an array."""
    room = sys.modules.get("anylocal._maps.array")
    return room is not None and isinstance(attention, room.MapArray)


def is_arithmetic(attention: object) -> bool:
    """Tell what arithmetic makes of maps from a map."""
    if not is_map(attention):
        return False
    from anylocal._maps.map import AttentionMap

    return not isinstance(attention, AttentionMap)


def map_of(attention: object, recipe: str) -> AttentionMap:
    """Return the map that a recipe was given.

    Raises
    ------
    ChoiceError
        Where it was given several.
    OptionError
        Where it was given something else.
    """
    if is_map(attention):
        return attention
    if isinstance(attention, Sequence) and any(map(is_map, attention)):
        msg = f"{recipe} draws one map and got {len(attention)}; take one by position or by name, such as maps[0]."
        raise ChoiceError(msg)
    msg = f"{recipe} draws an AttentionMap and got {type(attention).__name__}; make one by AttentionMap.from_weights."
    raise OptionError(msg)


def sample_of(attention: AttentionMap, sample: int | None) -> int:
    """Return which sample of the batch to draw, counted from the start; of a windowed layer, which window.

    Raises
    ------
    ChoiceError
        Where there are several and none was chosen.
    PositionError
        Where there is no such sample.
    """
    return _one_of(attention, sample, attention.shape[0], "sample")


def image_of(attention: AttentionMap, sample: int | None) -> int:
    """Return which image of the batch to draw, counted from the start; see `sample_of`."""
    return _one_of(attention, sample, attention.images, "image" if attention.windows > 1 else "sample")


def _one_of(attention: AttentionMap, sample: int | None, number: int, kind: str) -> int:
    if sample is None and number != 1:
        msg = f"{attention!r} holds {number} {kind}s and a picture shows one: choose it by sample=0 … {number - 1}."
        raise ChoiceError(msg)
    return inside(0 if sample is None else sample, number, kind, of=attention)


def rows_of(attention: AttentionMap, sample: int, head: int | None, queries: Sequence[int]) -> Weights:
    """Return the weights of some queries, shape (query, key): of one head, or the mean over heads."""
    heads = attention.shape[1]
    if head is not None:
        return array_of(attention[sample, inside(head, heads, "head", of=attention), list(queries)])
    # `head_mean` would compute the whole batch, and all heads at once would be as many matrices as there are heads.
    return mean_of(array_of(attention[sample, each, list(queries)]) for each in range(heads))


def mean_of(matrices: Iterable[Weights]) -> Weights:
    """Return the mean; only the sum is kept besides the matrix at hand."""
    rest = iter(matrices)
    total, count = next(rest), 1
    for matrix in rest:
        total, count = total + matrix, count + 1
    return total / count


def counted_of(axis: Axis | None, positions: Sequence[int], text: int = 0) -> Flags:
    """Return which positions the scale is for: patches and words.

    Prefix tokens, and those that a tokenizer added, rest a head that has found nothing: they may take nearly all of the
    attention. If there are no others, they count.
    """
    count = np.ones(len(positions), bool)
    special, padding = (getattr(axis, name, None) for name in ("is_special", "is_padding"))
    if special is not None and padding is not None:
        count = ~(special(text) | padding(text))[list(positions)]
    elif prefix := getattr(axis, "prefix", ()):
        count = np.asarray(positions) >= len(prefix)
    return count if count.any() else np.ones(len(positions), bool)


def padding_of(axis: Axis | None, positions: Sequence[int], text: int = 0) -> Flags:
    """Return which positions are padding, whose attention is meaningless."""
    padding = getattr(axis, "is_padding", None)
    return np.zeros(len(positions), bool) if padding is None else padding(text)[list(positions)]


def without_padding(weights: Weights, rows: Flags, columns: Flags) -> Weights:
    """Return weights with NaN, which is drawn in grey, in the rows and columns of padding."""
    if not (rows.any() or columns.any()):
        return weights
    found: Weights = np.where(rows[:, None] | columns, np.nan, weights).astype(weights.dtype)
    return found


def positions_of(queries: Any, axis: Axis | None, length: int, sample: int = 0) -> list[int]:
    """Return the query positions that are meant: all by None, else one, those of a slice, or of a sequence.

    Raises
    ------
    PositionError, NameNotFoundError, ChoiceError
        Where there is no such position, or none at all is selected.
    """
    # Arrays and tensors, also those of no dimension.
    queries = queries.tolist() if hasattr(queries, "tolist") else queries
    if queries is None or isinstance(queries, slice):
        found = list(range(length)[queries or slice(None)])
    elif isinstance(queries, str) or not isinstance(queries, Sequence):
        found = [_position(queries, axis, length, sample)]
    elif len(queries) == length and all(isinstance(query, bool) for query in queries):
        found = [position for position, chosen in enumerate(queries) if chosen]
    else:
        found = [_position(query, axis, length, sample) for query in queries]
    if not found:
        msg = f"queries={queries!r} selects none of the {length} queries, and there is nothing to draw; select some."
        raise PositionError(msg)
    return found


def _position(query: object, axis: Axis | None, length: int, sample: int) -> int:
    return inside(query, length, "query") if axis is None else axis.position(query, sample)


def array_of(values: Any) -> Weights:
    """Return a tensor or an array as a float array in CPU memory."""
    array = np.asarray(to_numpy(values))
    # Weights in half precision are few steps apart: their mean must not be rounded to them.
    return array if array.dtype.name in {"float32", "float64"} else array.astype(np.float32)


def caption(attention: AttentionMap, sample: int, head: int | None = None) -> list[str]:
    """Return the lines of a title: the layer; the sample where there are several, and the head."""
    return [*layer_name(attention), ", ".join([*sample_name(attention, sample), head_name(attention, head)])]


def head_name(attention: AttentionMap, head: int | None) -> str:
    """Return the words that tell the head."""
    heads = attention.shape[1]
    return f"mean of {heads} heads" if head is None and heads > 1 else f"head {(head or 0) % heads}"


def layer_name(attention: AttentionMap, most: int = 32) -> list[str]:
    """Return the name of the layer, broken at a dot where it is too long for the width of a column of a paper."""
    return [printable(line, len(line)) for line in broken(attention.name, most) if line]


def broken(name: str, most: int) -> list[str]:
    """Return a name in lines, broken at dots where it is longer than so many characters; a number is not broken."""
    lines: list[str] = []
    while len(name) > most and (dots := [*re.finditer(r"(?<=\S)\.", name[:most])]):
        end = dots[-1].end()
        lines, name = [*lines, name[:end]], name[end:]
    return [*lines, name]


def sample_name(attention: AttentionMap, sample: int) -> list[str]:
    """Return the words that tell the sample from others, none where it is the only one."""
    if attention.windows > 1:
        image, window = divmod(sample, attention.windows)
        return [f"image {image}, window {window}" if attention.images > 1 else f"window {window}"]
    return [f"sample {sample}"] if attention.shape[0] > 1 else []
