"""CoaT: factorised attention with convolutional positions."""

from anylocal_vit._family import LINEAR, Family

FAMILY = Family(unsupported={"FactorAttnConvRelPosEnc": LINEAR})
