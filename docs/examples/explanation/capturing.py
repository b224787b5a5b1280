"""
How capturing works
===================

CPython runs a function from its code object: instructions, constants, names. While a
capture is open, the function has another code object, in which a few instructions more
hand over the values that were asked for. Nothing else changes; afterwards its own code
object is back.
"""


def mean(values):
    """Return the mean."""
    total = sum(values)
    return total / len(values)


# %%
# Before, during, after
# ---------------------
#
# Lines with a plus are there while the capture is open:

import difflib
import dis

from anylocal import capture


def instructions(function):
    """Return the instructions of a function, a line each."""
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
# Behind the scope it is not an equal code object, but the very same one:

mean.__code__ is own

# %%
# So what is *off* is free: there is no wrapper, no hook, no trace function. (From
# Python 3.13 on, CPython calls a function a little more slowly once its code was ever
# replaced; :doc:`the table </benchmarks>` has how much.)
#
# Why this way
# ------------
#
# A forward hook sees what a module returns, and no local. A trace function
# (``sys.settrace``, ``sys.monitoring``) sees locals, costs more, and sees nothing
# inside of what ``torch.compile`` compiled. Rewritten code is Python like any other:
# the compiler traces it, and values come out of the compiled graph.
#
# What is hard about it
# ---------------------
#
# - A name may be unbound on the path that was taken; loading it would raise, or crash
#   CPython. Which names surely hold a value at a return is decided by an analysis of
#   the control flow, before the code is written.
# - Line numbers and exception tables must stay right, or tracebacks and debuggers would
#   lie. :doc:`/corpus` has the count of functions that were rewritten to see to it.
# - A tensor can be changed in place after it was recorded. Its version counter tells,
#   and reading it warns.
# - A forgotten capture would fill the memory. It stops at a limit, says so once, and
#   the model goes on.
#
# What it costs
# -------------
#
# One value of one call costs more than the line ``cache.append(attn.detach())`` in the
# source, and less than PyTorch's forward hook: :doc:`/benchmarks` has the numbers, with
# their spread and how they were made.
#
# Captured values are kept alive. A map of a fused layer is kept as its query and key,
# which are views of the layer's buffer, so that stays too.
#
# Attention
# ---------
#
# An adapter needs no list of classes. It reads the source of a layer's ``forward``:
# which locals go into ``scaled_dot_product_attention``, or which local a softmax of
# query and key is assigned to. Those are captured, and the map is made of them when it
# is read (:doc:`/how-to/fused`). Where the source leaves a doubt, the layer is refused.
