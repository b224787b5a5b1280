"""How an attention map is read off a call: by the arguments of a fused kernel, or the variable of a softmax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from anylocal._engine.spec import Assignment, CaptureSpec
from anylocal._readout.kernels import OPERANDS, operands_in
from anylocal.errors import UnsupportedError

if TYPE_CHECKING:
    from anylocal._engine.calls import Values


@dataclass(frozen=True)
class Reading:
    """How the map is read off a call of an attention function.

    Parameters
    ----------
    weights : Assignment, optional
        The assignment of the softmax, where the function can make it itself.
    mixed : Assignment, optional
        The assignment of the map as it is multiplied with the values, where that is not the softmax itself.
    head_by_head : bool
        Whether it makes a softmax for each head, in a loop.
    otherwise : tuple of Assignment
        The assignments of the softmax in other branches, recorded under the same name.
    axis : int
        The axis of the softmax in the source.
    parts_of_heads : bool
        Whether all kernels that one call runs are of one map, in which the parts of each head are heads side by side.

    Examples
    --------
    >>> from anylocal import Assignment
    >>> from anylocal.adapter import Reading
    >>> Reading(Assignment("attn", uses="softmax")).softmaxes
    frozenset({'attn'})
    """

    weights: Assignment | None = None
    mixed: Assignment | None = None
    head_by_head: bool = False
    otherwise: tuple[Assignment, ...] = ()
    axis: int = -1
    parts_of_heads: bool = False

    @property
    def spec(self) -> CaptureSpec:
        """The capture spec of the function, but for its kernels."""
        return CaptureSpec(resulted=frozenset(filter(None, (self.weights, *self.otherwise, self.mixed))))

    @property
    def softmaxes(self) -> frozenset[str]:
        """The names that are recorded at their assignments."""
        return frozenset(self.spec.keys)

    @property
    def joined(self) -> frozenset[str]:
        """The names that are recorded as the function runs: of softmaxes, and of the operands of kernels."""
        return self.softmaxes | OPERANDS

    @property
    def gathered(self) -> frozenset[str]:
        """Those of the joined names whose values are all recorded, not only the last one."""
        return (self.softmaxes if self.head_by_head else frozenset()) | (
            OPERANDS if self.parts_of_heads else frozenset()
        )

    def made_map(self, values: Values) -> bool:
        """Return whether a call reached the softmax or a kernel, and did not leave the work to another function."""
        return self.was_fused(values) or (self.weights is not None and self.weights.key in values)

    def was_fused(self, values: Values) -> bool:
        """Return whether a call ran a kernel."""
        return not OPERANDS.isdisjoint(values)

    def operands(self, values: Values) -> tuple[str, dict[str, Any]]:
        """Return the kernel that a call ran, and its arguments that decide the map.

        Raises
        ------
        UnsupportedError
            If the kernel was called with arguments that are not known.
        """
        kernel, given = operands_in(values)
        return kernel, _side_by_side(given) if self.parts_of_heads else given

    def softmax(self, values: Values) -> Any:
        """Return the softmax: a tensor, or a tuple of one for each head.

        Raises
        ------
        UnsupportedError
            If it is along another axis than the last.
        """
        assert self.weights is not None
        found = values[self.weights.key]
        last = (found[0] if self.head_by_head else found).ndim - 1
        if self.axis not in {-1, last}:
            raise UnsupportedError(
                f"{self.weights.key!r} is a softmax along axis {self.axis} of a tensor whose last one is {last}: not"
                " over the keys of each query. Capture it by its name, with anylocal.capture."
            )
        return found

    def mix(self, values: Values) -> Any:
        """Return the map that a call made of its softmax, None where it used the softmax itself."""
        return values[self.mixed.key] if self.mixed is not None and self.mixed.key in values else None


def _side_by_side(given: dict[str, Any]) -> dict[str, Any]:
    """Return the operands of several kernels as one's, (batch, head and part, …)."""

    def join(parts: tuple[Any, ...]) -> Any:
        first = parts[0]
        if not isinstance(first, torch.Tensor):
            return first
        # A mask that all of them were given, of all heads.
        is_shared = first.shape[:-2].numel() == 1 and len({part.data_ptr() for part in parts}) == 1
        return first if is_shared else torch.stack(parts, 2).flatten(1, 2)

    return {name: join(parts) for name, parts in given.items()}
