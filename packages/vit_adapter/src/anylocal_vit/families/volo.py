"""VOLO: outlook attention, then plain and class attention."""

from anylocal_vit._family import Family

FAMILY = Family(
    unsupported={"OutlookAttention": "outlook attention, whose weights are predicted from each position alone"}
)
