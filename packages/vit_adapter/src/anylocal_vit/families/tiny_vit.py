"""TinyViT: windows, never shifted."""

from anylocal_vit._family import Family, Windows, channels_last, window_size

FAMILY = Family(windows={"TinyVitBlock": Windows(channels_last, window_size)})
