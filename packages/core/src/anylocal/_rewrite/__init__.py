"""Code object in, code object out: the only room that knows opcodes."""

from anylocal._rewrite._flow import Flow, argument_names, may_be_unbound
from anylocal._rewrite._inject import RECORDER, UNBOUND, Result, Wants, is_attribute, owner_name, rewrite

__all__ = [
    "RECORDER",
    "UNBOUND",
    "Flow",
    "Result",
    "Wants",
    "argument_names",
    "is_attribute",
    "may_be_unbound",
    "owner_name",
    "rewrite",
]
