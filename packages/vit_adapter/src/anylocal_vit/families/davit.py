"""DaViT: attention in windows and across channels by turns."""

from anylocal_vit._family import CHANNELS, Family, Windows, channels_first, window_size

FAMILY = Family(
    windows={"SpatialBlock": Windows(channels_first, window_size)},
    unsupported={"ChannelAttention": CHANNELS, "ChannelAttentionV2": CHANNELS},
)
