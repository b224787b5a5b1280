"""wav2vec 2.0 and others whose convolutions make frames of the samples of a sound."""

from __future__ import annotations

from typing import Any

import torch

from anylocal_bert._family import Family


def _convolutions(model: Any) -> list[torch.nn.Conv1d]:
    return [module for module in model.feature_extractor.modules() if isinstance(module, torch.nn.Conv1d)]


FAMILY = Family(sounds={r"(Wav2Vec2|Hubert)Model": _convolutions})
