"""SEW-D, which took DeBERTa's `XSoftmax`: it zeroes rows without any key."""

from anylocal import Assignment
from anylocal.adapter import Reading
from anylocal_bert._family import Family

FAMILY = Family(
    functions=r"DisentangledSelfAttention\.forward",
    reading=Reading(weights=Assignment("attention_probs", "XSoftmax", "attention_probs = softmax(…)")),
)
