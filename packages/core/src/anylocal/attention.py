"""Attention maps: a layer's softmax, the layers of a model, statistics of a layer, rollout and relevance over several.

A map is made from weights, or from query, key and mask; then only the rows asked for are computed. `capture_attention`
takes the maps of a model as it runs.

Needs the extra ``anylocal[torch]``.
"""

from __future__ import annotations

from anylocal.errors import DependencyError

try:
    from anylocal._maps.array import MapArray
    from anylocal._maps.distance import distance
    from anylocal._maps.explain import Explanation
    from anylocal._maps.map import AttentionMap
    from anylocal._maps.maps import AttentionMaps
    from anylocal._maps.media import Media
    from anylocal._maps.patches import Patches
    from anylocal._maps.placed import PlacedPatches
    from anylocal._maps.positions import Axis, Named
    from anylocal._maps.reductions import TopK
    from anylocal._maps.relevance import relevance
    from anylocal._maps.rollout import rollout
    from anylocal._maps.statistics import entropy, head_agreement, prefix_mass, sink_mass
    from anylocal._maps.tokens import Tokens
    from anylocal._maps.video_patches import VideoPatches
    from anylocal._maps.words import merge_words
    from anylocal._readout.one_door import capture_attention
except ModuleNotFoundError as error:
    if error.name not in {"torch", "numpy", "packaging"}:
        raise
    msg = f'anylocal.attention needs {error.name}, which is not installed: pip install "anylocal[torch]".'
    raise DependencyError(msg, name=error.name) from error

__all__ = [
    "AttentionMap",
    "AttentionMaps",
    "Axis",
    "Explanation",
    "MapArray",
    "Media",
    "Named",
    "Patches",
    "PlacedPatches",
    "Tokens",
    "TopK",
    "VideoPatches",
    "capture_attention",
    "distance",
    "entropy",
    "head_agreement",
    "merge_words",
    "prefix_mass",
    "relevance",
    "rollout",
    "sink_mass",
]


def __dir__() -> list[str]:
    return __all__
