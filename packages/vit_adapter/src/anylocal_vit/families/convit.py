"""ConViT: gated positional attention."""

from anylocal import Assignment
from anylocal.adapter import Reading
from anylocal_vit._family import Family

FAMILY = Family(
    readings={
        # A second softmax is over positions; the gated sum of both is normalised again.
        "GPSA.get_attention": Reading(
            weights=Assignment("patch_score", "softmax", "patch_score = softmax(…)"),
            mixed=Assignment("attn", "sum", "attn /= attn.sum(…)"),
        )
    }
)
