"""Code object in, code object out: the only package that knows opcodes."""

from anylocal._engine.rewrite.callees import callee_names
from anylocal._engine.rewrite.flow import Flow, may_be_unbound
from anylocal._engine.rewrite.inject import must_tell_starts, owner_name
from anylocal._engine.rewrite.parse import argument_names
from anylocal._engine.rewrite.template import rewrite
from anylocal._engine.spec import RECORDER, UNBOUND, Assignment, CaptureSpec

__all__ = [
    "RECORDER",
    "UNBOUND",
    "Assignment",
    "CaptureSpec",
    "Flow",
    "argument_names",
    "callee_names",
    "may_be_unbound",
    "must_tell_starts",
    "owner_name",
    "rewrite",
]
