"""SAM's image encoder: windows in most blocks."""

from anylocal_vit._family import Family, Windows, channels_last, window_size

FAMILY = Family(windows={"Block": Windows(channels_last, window_size, having="window_size")})
