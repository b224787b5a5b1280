"""
Any plain function
==================

Capturing needs neither torch nor a model. Any Python function has local variables, and
any of them can be recorded by name, in code that you did not write and do not want to
edit.

You need only ``anylocal``.
"""

import json

from anylocal import capture, find

# %%
# Python's own ``json`` module encodes a value in chunks. :func:`~anylocal.find` lists
# the functions and the names that they bind.

for site in find(json.encoder.JSONEncoder):
    print(site)

# %%
# The chunks are a local variable of ``encode``:

with capture(json.encoder.JSONEncoder.encode, "chunks") as cap:
    json.dumps({"answer": 42}, indent=1)
cap["chunks"]

# %%
# Each assignment
# ---------------
#
# By default a value is recorded when the function returns. With ``every=True``, each
# assignment is recorded.


def newton(square, steps=5):
    """Approximate a square root."""
    root = square
    for _ in range(steps):
        root = (root + square / root) / 2
    return root


with capture(newton, "root", every=True) as cap:
    newton(2.0)
cap["root"]

# %%
# Each call has its line and its index:

cap.calls[0].line, cap.calls[0]

# %%
# Recursion, generators, exceptions
# ---------------------------------
#
# Calls are recorded as they finish. A call that raises has no value, but is counted.


def depth(tree):
    """Return how deep a tree is."""
    below = [depth(branch) for branch in tree]
    return 1 + max(below, default=0)


with capture(depth, "below") as cap:
    depth([[], [[]]])
cap["below"]

# %%

with capture(newton, "root") as cap:
    newton(9.0)
    try:
        newton(0)
    except ZeroDivisionError:
        pass
cap["root"], cap.counts

# %%
# The decorator
# -------------
#
# :class:`~anylocal.get_local` marks a function of your own, which stays as it is until
# ``get_local`` is activated.

from anylocal import get_local


@get_local("total")
def mean(values):
    """Return the mean."""
    total = sum(values)
    return total / len(values)


mean([1, 2, 3])  # nothing is recorded yet
with get_local.active() as cache:
    mean([4, 5, 6])
cache["mean"]

# %%
# :doc:`/explanation/capturing` explains how this works and what it costs.
