"""MGP-STR, whose aggregation of patches is called attention."""

from anylocal_bert._family import GATE, Family

FAMILY = Family(unsupported={r"MgpstrA3Module": GATE})
