"""Code object in, code object out: the only room that knows opcodes."""

from anylocal._rewrite._flow import Flow, argument_names
from anylocal._rewrite._inject import RECORDER, UNBOUND, Wants, owner_name, rewrite

__all__ = ["RECORDER", "UNBOUND", "Flow", "Wants", "argument_names", "owner_name", "rewrite"]
