"""EfficientViT of MIT: linear attention with a ReLU kernel."""

from anylocal_vit._family import LINEAR, Family

FAMILY = Family(unsupported={"LiteMLA": LINEAR})
