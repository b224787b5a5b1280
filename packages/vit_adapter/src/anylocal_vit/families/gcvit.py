"""Global Context ViT: windows, never shifted."""

from anylocal_vit._family import Family, Windows, channels_last, window_size

FAMILY = Family(windows={"GlobalContextVitBlock": Windows(channels_last, window_size)})
