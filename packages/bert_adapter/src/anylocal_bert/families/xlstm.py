"""xLSTM, which is recurrent throughout."""

from anylocal_bert._family import RECURRENT, Family

FAMILY = Family(unsupported={r"\w*(xLSTM|mLSTM)\w*": RECURRENT})
