"""CSATv2: convolutions gated by spatial attention."""

from anylocal_vit._family import GATE, Family

FAMILY = Family(
    unsupported={
        # Its queries have no axis of positions, so q @ kᵀ relates the images of a batch.
        "SpatialTransformerBlock": "attention of the images of a batch with each other, which has no map of positions",
        "SpatialAttention": GATE,
    }
)
