"""I-BERT: its integer softmax returns a tuple of the weights and their scale."""

from anylocal import Assignment
from anylocal.adapter import Reading
from anylocal_bert._family import Family

FAMILY = Family(
    functions=r"IBertSelfAttention\.forward",
    reading=Reading(weights=Assignment("attention_probs", "softmax", "attention_probs, … = softmax(…)")),
)
