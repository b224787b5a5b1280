"""RWKV, whose linear attention is called self-attention."""

from anylocal_bert._family import LINEAR, Family

FAMILY = Family(unsupported={r"\w*RwkvSelfAttention": LINEAR})
