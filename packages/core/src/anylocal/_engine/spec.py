"""What is asked of one function: the names to record, and when."""

from __future__ import annotations

from typing import NamedTuple


class Assignment(NamedTuple):
    """Assignments of a name whose right-hand side names something, as ``attn = attn.softmax(-1)`` names ``softmax``.

    Parameters
    ----------
    name : str
        What is assigned to.
    uses : str
        A function, a method, an attribute or a variable of the right-hand side.
    label : str
        The name under which the value is recorded; by default that of the variable.

    Examples
    --------
    >>> from anylocal.adapter import Assignment
    >>> Assignment("attn", uses="softmax").key
    'attn'
    """

    name: str
    uses: str
    label: str = ""

    @property
    def key(self) -> str:
        """The name under which the value is recorded."""
        return self.label or self.name


class CaptureSpec(NamedTuple):
    """What is wanted from one function.

    Parameters
    ----------
    returned : tuple of str
        Names whose value is recorded at each return; with a dot before it, an attribute of the owner, if it has it.
    assigned : frozenset of str
        Names whose value is recorded at each assignment, and at the start for arguments.
    edited : frozenset of str
        Names whose value may be replaced at each assignment, and at the start for arguments.
    resulted : frozenset of Assignment
        Names whose value is recorded at certain assignments only.
    given : frozenset of str
        Arguments that are recorded as they are at the start.
    """

    returned: tuple[str, ...] = ()
    assigned: frozenset[str] = frozenset()
    edited: frozenset[str] = frozenset()
    resulted: frozenset[Assignment] = frozenset()
    given: frozenset[str] = frozenset()

    def __or__(self, other: object) -> CaptureSpec:
        """Return what serves both."""
        if not isinstance(other, CaptureSpec):
            return NotImplemented
        names = dict.fromkeys(self.returned + other.returned)
        return CaptureSpec(
            tuple(names),
            self.assigned | other.assigned,
            self.edited | other.edited,
            self.resulted | other.resulted,
            self.given | other.given,
        )

    def covers(self, other: CaptureSpec) -> bool:
        """Say whether what serves this serves the other too."""
        return (
            set(self.returned) >= set(other.returned)
            and self.assigned >= other.assigned
            and self.edited >= other.edited
            and self.resulted >= other.resulted
            and self.given >= other.given
        )


def is_attribute(name: str) -> bool:
    """Say whether what is wanted is an attribute of the owner."""
    return name.startswith(".")
