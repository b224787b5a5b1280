"""PatchTSMixer, whose gates are called attention."""

from anylocal_bert._family import GATE, Family

FAMILY = Family(unsupported={r"PatchTSMixerGatedAttention": GATE})
