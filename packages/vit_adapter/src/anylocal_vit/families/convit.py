"""ConViT: gated positional attention."""

from anylocal.adapter import Assignment, Reading
from anylocal_vit._family import Family

FAMILY = Family(
    readings={
        # A second softmax is that of positions; the gated sum of both is divided by its own sum.
        "GPSA.get_attention": Reading(
            operands=None,
            weights=Assignment("patch_score", "softmax", "patch_score = softmax(…)"),
            mixed=Assignment("attn", "sum", "attn /= attn.sum(…)"),
        )
    }
)
