"""XCiT: cross-covariance attention, and class attention at the end."""

from anylocal_vit._family import CHANNELS, Family

FAMILY = Family(unsupported={"XCA": CHANNELS})
