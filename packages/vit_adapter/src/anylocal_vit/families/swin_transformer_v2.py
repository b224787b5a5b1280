"""Swin V2: windows, shifted in every other block."""

from anylocal_vit._family import Family, Windows, channels_last, window_size

FAMILY = Family(windows={"SwinTransformerV2Block": Windows(channels_last, window_size)})
