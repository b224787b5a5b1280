"""How an attention map is read off a call: by the arguments of the fused kernel, or the variable of a softmax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anylocal._engine.spec import Assignment, CaptureSpec
from anylocal.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anylocal._engine.calls import Values


@dataclass(frozen=True)
class Operand:
    """One argument of the kernel: a local, an attribute of the module, or a constant.

    Parameters
    ----------
    local, attribute : str, optional
        The name of the local variable, or of the attribute.
    constant : object
        The value, where it is neither.
    views : tuple of (str, tuple)
        Methods of the local, with their arguments, whose result is the argument: ``(("transpose", (-1, -2)),)``.

    Examples
    --------
    >>> import torch
    >>> from anylocal.adapter import Operand
    >>> key = Operand("k", views=(("transpose", (-1, -2)),))
    >>> key.of({"k": torch.ones(5, 4)}).shape
    torch.Size([4, 5])
    """

    local: str | None = None
    attribute: str | None = None
    constant: Any = None
    views: tuple[tuple[str, tuple[Any, ...]], ...] = ()

    @property
    def key(self) -> str | None:
        """The name under which it is recorded, with a dot before that of an attribute; None for a constant."""
        return self.local if self.attribute is None else f".{self.attribute}"

    def of(self, values: Mapping[str, Any]) -> Any:
        """Return its value in a call."""
        if self.key is None:
            return self.constant
        value = values[self.key]
        for method, arguments in self.views:
            value = getattr(value, method)(*arguments)
        return value


@dataclass(frozen=True)
class Reading:
    """How the map is read off a call of an attention function.

    Parameters
    ----------
    operands : mapping of str to Operand, or None
        The kernel's arguments that decide the map (query, key, attn_mask, is_causal, scale), where the function can
        run the kernel.
    weights : Assignment, or None
        The assignment of the softmax, where the function can make it itself.
    mixed : Assignment, or None
        The assignment of the map as it is multiplied with the values, where that is not the softmax itself.
    head_by_head : bool
        Whether it makes a softmax for each head, in a loop.
    otherwise : tuple of Assignment
        The assignments of the softmax in other branches, recorded under the same name.
    axis : int
        The axis of the softmax in the source.

    Examples
    --------
    >>> from anylocal.adapter import Operand, Reading, Assignment
    >>> Reading({"query": Operand("q"), "key": Operand("k")}, None).locals  # of the kernel
    ('q', 'k')
    >>> Reading(None, Assignment("attn", uses="softmax")).joined  # of a softmax
    frozenset({'attn'})
    """

    operands: Mapping[str, Operand] | None
    weights: Assignment | None
    mixed: Assignment | None = None
    head_by_head: bool = False
    otherwise: tuple[Assignment, ...] = ()
    axis: int = -1

    @property
    def locals(self) -> tuple[str, ...]:
        """The locals to record as the function returns."""
        return tuple(dict.fromkeys(o.local for o in (self.operands or {}).values() if o.local is not None))

    @property
    def _recorded(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(o.key for o in (self.operands or {}).values() if o.key is not None))

    @property
    def spec(self) -> CaptureSpec:
        """The capture spec of the function."""
        return CaptureSpec(
            self._recorded, resulted=frozenset(filter(None, (self.weights, *self.otherwise, self.mixed)))
        )

    @property
    def joined(self) -> frozenset[str]:
        """The names that are recorded at their assignments."""
        return self.spec.keys

    @property
    def gathered(self) -> frozenset[str]:
        """Those of the joined names whose values are all recorded, not only the last one."""
        return self.joined if self.head_by_head else frozenset()

    def made_map(self, values: Values) -> bool:
        """Return whether a call reached the softmax or the kernel, and did not leave the work to another function."""
        return not self.was_fused(values) or (self.operands is not None and set(self._recorded) <= set(values))

    def was_fused(self, values: Values) -> bool:
        """Return whether a call ran the kernel."""
        return self.weights is None or self.weights.key not in values

    def arguments(self, values: Values) -> dict[str, Any]:
        """Return the kernel's arguments of a call that decide the map."""
        return {name: operand.of(values) for name, operand in (self.operands or {}).items()}

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
