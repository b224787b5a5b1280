"""
Any plain function
==================

Captures need neither torch nor a model. Any Python function has local variables, and
any of them can be recorded by name, in code that you did not write and do not want to
edit.

You need ``anylocal``, and nothing else.
"""

import json

from anylocal import capture, find

# %%
# Python's own ``json`` module writes a value piece by piece. :func:`~anylocal.find`
# lists the functions, and the names they bind.

for site in find(json.encoder.JSONEncoder):
    print(site)

# %%
# The pieces are a local variable of ``encode``:

with capture(json.encoder.JSONEncoder.encode, "chunks") as cap:
    json.dumps({"answer": 42}, indent=1)
cap["chunks"]

# %%
# Each assignment
# ---------------
#
# By default a value is recorded as the function returns. With ``every=True``, each
# assignment is.


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
# Each call tells its line, and which call it was:

cap.calls[0].line, cap.calls[0]

# %%
# Recursion, generators, exceptions
# ---------------------------------
#
# Calls are recorded as they finish. One that raises has no value; it is counted.


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
# :class:`~anylocal.get_local` marks a function that is yours. It stays as it is until
# it is activated.

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
# How this works, and what it costs: :doc:`/explanation/capturing`.
