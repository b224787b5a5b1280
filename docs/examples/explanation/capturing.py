"""
How capturing works
===================

CPython runs a function from its code object: instructions, constants, names. While a
capture is open, the function has another code object, in which a few more instructions
hand over the requested values. Nothing else changes, and afterwards the function gets
its own code object back.
"""


def mean(values):
    """Return the mean."""
    total = sum(values)
    return total / len(values)


# %%
# Before, during, after
# ---------------------
#
# Lines with a plus sign are present only while the capture is open:

import difflib
import dis

from anylocal import capture


def instructions(function):
    """Return the instructions of a function, one per line."""
    return [
        f"{found.opname:14} {found.argrepr}".rstrip()
        for found in dis.get_instructions(function)
    ]


own = mean.__code__
before = instructions(mean)
with capture(mean, "total") as cap:
    during = instructions(mean)
    mean([1, 2, 3])
print(
    "\n".join(
        line for line in difflib.ndiff(before, during) if not line.startswith("?")
    )
)

# %%
# After the ``with`` block it is not an equal code object, but the very same one:

mean.__code__ is own

# %%
# So *off* is free: there is no wrapper, no hook, no trace function.
#
# From Python 3.13 on, one trace remains. CPython calls a function in a fast way if it
# has a version, which only ``def`` gives it, and which it loses for good when its
# ``__code__`` is set, even to the same code (`gh-117045
# <https://github.com/python/cpython/pull/117028>`_). A call of a function that was
# captured then takes a few nanoseconds more (three to five, on 3.13 and 3.14), until
# the function is gone: mostly, until the process ends. It matters to a tiny function
# that is called millions of times in a loop, not to a layer of a model, whose one call
# takes microseconds at the least. No way round it keeps the promise above: only another
# function object would have a version again, and calls of the one that was written, by
# whoever imported it, would not be recorded.
#
# Why this way
# ------------
#
# A forward hook sees what a module returns, but no local variables. A trace function
# (``sys.settrace``, ``sys.monitoring``) sees locals, but costs more, and sees nothing
# inside what ``torch.compile`` compiled. Rewritten code is Python like any other: the
# compiler traces it, and values come out of the compiled graph.
#
# What is hard about it
# ---------------------
#
# - A name may be unbound on the path that was taken; loading it would raise, or crash
#   CPython. A control-flow analysis decides which names are definitely bound at a
#   return, before the code is rewritten.
# - Line numbers and exception tables must stay right, or tracebacks and debuggers would
#   be wrong. :doc:`/corpus` lists how many functions were rewritten to verify it.
# - A tensor can be changed in place after it was recorded. Its version counter shows
#   it, and reading the value warns.
# - A forgotten capture would fill the memory. It stops at a limit, warns once, and the
#   model goes on.
#
# What it costs
# -------------
#
# One value of one call costs more than the line ``cache.append(attn.detach())`` in the
# source, and less than PyTorch's forward hook: :doc:`/benchmarks` has the numbers, with
# their spread and how they were made.
#
# Captured values are kept alive. The map of a fused layer is kept as its query and key,
# which are views of the layer's qkv buffer, so the whole buffer stays in memory.
#
# Attention
# ---------
#
# An adapter needs no list of classes. Where a layer's code calls a function that may be
# a fused kernel, the rewritten code first asks the recorder, which knows kernels by
# identity and records what each call receives. The map is computed from that when it is
# read (:doc:`/how-to/fused`). A softmax of query and key that the layer makes itself is
# found in its source, by the local that it is assigned to. If the source is ambiguous,
# the layer is refused.
