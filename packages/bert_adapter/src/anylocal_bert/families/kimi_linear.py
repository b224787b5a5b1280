"""Kimi Linear, whose class of full attention bears the name of the model."""

from anylocal_bert._family import Family

FAMILY = Family(supported=r"KimiLinearAttention")
