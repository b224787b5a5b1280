"""FNet, which mixes tokens by a Fourier transform."""

from anylocal_bert._family import Family

FAMILY = Family(unsupported={r"FNetBasicFourierTransform": "a Fourier transform, which has no map"})
