"""Swin V2 as Christoph Reich wrote it: windows, shifted in every other block."""

from anylocal_vit._family import Family, Windows, channels_last, window_size

FAMILY = Family(windows={"SwinTransformerV2CrBlock": Windows(channels_last, window_size)})
