"""Inkling 2, whose residual connections are weighted over layers and called attention."""

from anylocal_bert._family import Family

FAMILY = Family(unsupported={r"\w*AttentionResidual": "a mean over earlier layers, which has no map of positions"})
