"""EfficientViM: state spaces in place of attention."""

from anylocal_vit._family import Family

FAMILY = Family(unsupported={"HSMSSD": "a state-space layer, which has no map"})
