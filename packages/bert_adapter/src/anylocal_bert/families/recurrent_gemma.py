"""RecurrentGemma: recurrent blocks between layers of attention."""

from anylocal_bert._family import RECURRENT, Family

FAMILY = Family(unsupported={r"\w*(RecurrentBlock|RgLru)": RECURRENT})
