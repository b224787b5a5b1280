"""YOSO, which approximates attention by sampling."""

from anylocal_bert._family import APPROXIMATED, Family

FAMILY = Family(unsupported={r"YosoSelfAttention": APPROXIMATED})
