"""SHViT: one head."""

from anylocal_vit._family import Family, one_head

FAMILY = Family(layouts={"SHSA.forward": one_head})
