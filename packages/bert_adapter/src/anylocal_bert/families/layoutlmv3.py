"""LayoutLMv3: a helper computes the softmax of the scores less their maximum, as CogView does."""

from anylocal import Assignment
from anylocal.adapter import Reading
from anylocal_bert._family import Family

FAMILY = Family(
    functions=r"LayoutLMv3SelfAttention\.forward",
    reading=Reading(weights=Assignment("attention_probs", "cogview_attention", "attention_probs = softmax(…)")),
)
