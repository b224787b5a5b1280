"""Nyströmformer, which approximates attention by landmarks."""

from anylocal_bert._family import APPROXIMATED, Family

FAMILY = Family(unsupported={r"NystromformerSelfAttention": APPROXIMATED})
