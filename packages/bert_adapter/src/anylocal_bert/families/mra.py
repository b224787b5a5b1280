"""MRA, which approximates attention at several resolutions."""

from anylocal_bert._family import APPROXIMATED, Family

FAMILY = Family(unsupported={r"MraSelfAttention": APPROXIMATED})
