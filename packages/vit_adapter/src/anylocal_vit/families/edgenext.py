"""EdgeNeXt: attention across channels only."""

from anylocal_vit._family import CHANNELS, Family

FAMILY = Family(unsupported={"CrossCovarianceAttn": CHANNELS})
