"""Images, videos and sounds within a text: which tokens stand for which patches of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import torch

from anylocal._maps.patches import Patches
from anylocal._maps.positions import Array
from anylocal.errors import ShapeError

MediaKind: TypeAlias = Literal["image", "video", "audio"]


@dataclass(frozen=True)
class Media:
    """An image, a video or a sound within a text: for each patch of it, the position of the token that stands for it.

    Parameters
    ----------
    kind : {"image", "video", "audio"}
        What it is.
    positions : sequence of int
        For each patch, in the order of the patches, frame by frame, its position in the text; -1 where the axis does
        not contain it, as where a window of the last tokens cuts an image.
    patches : Patches
        The patches of an image, or of each frame of a video, after the model has merged them. Those of a sound are one
        row. They have no prefix.
    source : int, default 0
        Which one of its kind it is in its text, counted from 0.
    text : int, default 0
        Index of the text in the batch.
    frames : int, optional
        Number of frames of a video, as the model has merged them; None for anything else.
    view : str, default ""
        Which of several views of the same image it is, for models that see an image twice: ``"overview"``, ``"tiles"``,
        or ``"tile 3"`` where the order of the tiles is known, but not their places in the image.
    seconds : float, optional
        How much later each frame of a sound begins than the one before; None where it is not known.

    Raises
    ------
    ShapeError
        If there are more or fewer positions than patches, or the patches have prefix tokens.

    Examples
    --------
    >>> import numpy as np
    >>> from anylocal.attention import Media, Patches
    >>> image = Media("image", positions=(1, 2, 3, 4, 5, 6), patches=Patches(grid=(2, 3), prefix=()))
    >>> image.grid, image.at(1, 2)
    ((2, 3), 6)
    >>> image.picture(np.arange(9)).tolist()
    [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    """

    kind: MediaKind
    positions: Sequence[int]
    patches: Patches
    source: int = 0
    text: int = 0
    frames: int | None = None
    view: str = ""
    seconds: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "positions", tuple(map(int, self.positions)))
        if self.patches.prefix or len(self.positions) != math.prod(self.grid):
            msg = f"{len(self.positions)} positions do not fit {self.patches!r}, {self.frames} frames; give one each."
            raise ShapeError(msg)

    def __repr__(self) -> str:
        known = [position for position in self.positions if position >= 0]
        where = f", positions {known[0]} … {known[-1]}" if known else ""
        return f"Media({self.name}{where})"

    @property
    def grid(self) -> tuple[int, ...]:
        """Rows and columns of patches; of a video, frames, rows and columns."""
        return self.patches.grid if self.frames is None else (self.frames, *self.patches.grid)

    @property
    def name(self) -> str:
        """What it is in words, such as ``image 0 of text 1: tiles 4 × 6`` or ``audio 0: 50 frames of 0.02 s``."""
        view = f"{self.view} " if self.view else ""
        text = f" of text {self.text}" if self.text else ""
        if self.kind == "audio":
            each = f" of {self.seconds:.4g} s" if self.seconds else ""
            return f"audio {self.source}{text}: {view}{len(self.positions)} frames{each}"
        return f"{self.kind} {self.source}{text}: {view}{' × '.join(map(str, self.grid))}"

    def at(self, *place: int) -> int:
        """Return the position of the token for a patch, given its row and column; of a video, the frame first."""
        return int(np.reshape(self.positions, self.grid)[place])

    def picture(self, values: Array) -> Array:
        """Return the values of the patches, from values along the positions of the text.

        Parameters
        ----------
        values : torch.Tensor or numpy.ndarray, shape (..., positions of the text)

        Returns
        -------
        same type, shape (..., rows, columns) or (..., frames, rows, columns)
            Floating point; NaN for patches that the axis does not contain.
        """
        places = np.array(self.positions)
        shape = (*values.shape[:-1], *self.grid)
        if isinstance(values, torch.Tensor):
            index = torch.from_numpy(places).to(values.device)
            found: Any = values.index_select(-1, index.clamp(min=0))
            found = found if found.is_floating_point() else found.float()
            return found.masked_fill(index < 0, math.nan).reshape(shape)  # type: ignore[no-any-return]  # as `values`
        return np.where(places < 0, np.nan, values[..., places.clip(0)]).reshape(shape)

    def moved(self, by: int, length: int) -> Media:
        """Return it in a text that starts elsewhere: each position moved, and -1 outside of the text's new length."""
        places = (position + by if position >= 0 else -1 for position in self.positions)
        return replace(self, positions=[place if 0 <= place < length else -1 for place in places])

    @property
    def is_there(self) -> bool:
        """Whether any of its patches has a position."""
        return max(self.positions, default=-1) >= 0


def united(media: Iterable[Media]) -> tuple[Media, ...]:
    """Return media of which each occurs once: parts of one, from several pieces of a text, are put together."""
    found: dict[Media, Media] = {}
    for item in media:
        if item.is_there:
            what = replace(item, positions=[-1] * len(item.positions))
            before = found.get(what, what)
            found[what] = replace(item, positions=np.maximum(before.positions, item.positions).tolist())
    return tuple(found.values())
