"""PoolFormer, which mixes patches by pooling."""

from anylocal_bert._family import Family

FAMILY = Family(unsupported={r"PoolFormerPooling": "pooling, which has no map"})
