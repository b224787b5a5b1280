"""SwiftFormer: additive attention."""

from anylocal_vit._family import LINEAR, Family

FAMILY = Family(unsupported={"EfficientAdditiveAttention": LINEAR})
