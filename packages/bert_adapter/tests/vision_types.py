"""Tiny vision models whose grids are those of videos and feature maps: what their test and the docs know."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import torch
import transformers

from .media_types import built

SIZES: Final[dict[str, Any]] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
_CLIP: Final = {**SIZES, "image_size": 24, "num_frames": 4}
_LAYER: Final = re.compile(r"(out_proj|o_proj|attention\.output\.dense)$")


@dataclass(frozen=True)
class VisionType:
    """A type of vision models, one of its layers, and a place of its keys with the part of the input that it covers."""

    name: str
    model_type: str
    config: Callable[[], dict[str, Any]]
    layer: str
    """A pattern of the layer's name."""
    queries: str
    keys: str
    """The repr of both axes."""
    shape: tuple[int, ...] = (1, 4, 3, 24, 24)
    place: tuple[int, ...] = (1, 2, 1)
    part: tuple[slice, ...] = (slice(2, 4), slice(16, 24), slice(8, 16))
    """Frames, rows and columns of the input; rows and columns of an image. No other key sees these pixels."""
    argument: str = "pixel_values"
    more: dict[str, Any] = field(default_factory=dict)

    def model(self) -> Any:
        """Return the model, whose maps are far from uniform, and in which nothing but the layer mixes places."""
        torch.manual_seed(0)
        make: Any = getattr(transformers, f"{self.model_type}Model")
        model = make(built(f"{self.model_type}Config")(**self.config())).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() > 1:
                    parameter.normal_(std=parameter[0].numel() ** -0.5)
                if _LAYER.search(name.rpartition(".")[0]) and re.search("encoder|stages", name):
                    parameter.zero_()
            for name, module in model.named_modules():
                if "backbone" in name and isinstance(module, torch.nn.Conv2d) and module.kernel_size[0] > 1:
                    middle = module.weight[..., module.kernel_size[0] // 2, module.kernel_size[1] // 2].clone()
                    module.weight.zero_()
                    module.weight[..., module.kernel_size[0] // 2, module.kernel_size[1] // 2] = middle
        return model


def _detr() -> dict[str, Any]:
    stages = {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"}
    backbone = built("ResNetConfig")(**stages, out_features=["stage2"])
    sides = {
        f"{side}_{what}": size
        for side in ("encoder", "decoder")
        for what, size in (("layers", 1), ("ffn_dim", 32), ("attention_heads", 2))
    }
    return {
        "backbone_config": backbone,
        "use_timm_backbone": False,
        "backbone": None,
        "use_pretrained_backbone": False,
        "d_model": 32,
        "hidden_size": 32,
        "num_queries": 5,
        **sides,
    }


_IMAGE: Final[dict[str, Any]] = {
    "shape": (1, 3, 64, 96),
    "place": (2, 4),
    "part": (slice(16, 20), slice(32, 36)),
}
_MEMORY: Final = "Patches(grid=(8, 12), prefix=(), image_size=(64, 96))"
_STAGES: Final[dict[str, Any]] = {
    "num_encoder_blocks": 2,
    "depths": [1, 1],
    "hidden_sizes": [16, 32],
    "sr_ratios": [4, 2],
    "num_attention_heads": [1, 2],
    "patch_sizes": [7, 3],
    "strides": [4, 2],
    "mlp_ratios": [2, 2],
}
_TUBES: Final = "VideoPatches(grid=(2, 3, 3), prefix=(), image_size=(24, 24))"

VISION_TYPES: Final = (
    VisionType(
        "VideoMAE",
        "VideoMAE",
        lambda: {**_CLIP, "patch_size": 8, "tubelet_size": 2},
        r"encoder\.layer\.0\.",
        _TUBES,
        _TUBES,
    ),
    VisionType(
        "ViViT",
        "Vivit",
        lambda: {**_CLIP, "tubelet_size": [2, 8, 8]},
        r".*layers?\.0\.",
        _TUBES.replace("()", "('cls',)"),
        _TUBES.replace("()", "('cls',)"),
    ),
    VisionType(
        "V-JEPA 2",
        "VJEPA2",
        lambda: {
            **{name: size for name, size in SIZES.items() if name != "intermediate_size"},
            "crop_size": 24,
            "patch_size": 8,
            "frames_per_clip": 4,
            "tubelet_size": 2,
            "mlp_ratio": 2.0,
            **{f"pred_{name}": size for name, size in SIZES.items() if name != "intermediate_size"},
        },
        r"encoder\.layer\.0\.",
        _TUBES,
        _TUBES,
        argument="pixel_values_videos",
        more={"skip_predictor": True},
    ),
    VisionType(
        "SegFormer",
        "Segformer",
        lambda: _STAGES,
        r".*\b0\.(0|blocks\.0)\.att",
        "Patches(grid=(16, 24), prefix=(), image_size=(64, 96))",
        "Patches(grid=(4, 6), prefix=(), image_size=(64, 96))",
        shape=(1, 3, 64, 96),
        place=(2, 3),
        part=(slice(36, 37), slice(52, 53)),
    ),
    VisionType(
        "SegFormer, second stage",
        "Segformer",
        lambda: _STAGES,
        r".*\b1\.(0|blocks\.0)\.att",
        "Patches(grid=(8, 12), prefix=(), image_size=(64, 96))",
        "Patches(grid=(4, 6), prefix=(), image_size=(64, 96))",
        shape=(1, 3, 64, 96),
        place=(2, 3),
        part=(slice(36, 37), slice(52, 53)),
    ),
    *(
        VisionType(f"{name}, {part}", name, _detr, pattern, queries, _MEMORY, **_IMAGE)
        for name in ("Detr", "ConditionalDetr", "TableTransformer", "DabDetr")
        for part, pattern, queries in (
            ("encoder", r"encoder\.layers\.0\.", _MEMORY),
            ("decoder", r"decoder\.layers\.0\.(encoder_attn|cross_attn)", "Axis(5)"),
        )
    ),
)

NOT_KNOWN: Final = {
    "TimeSformer": "its layers in time have the frames of one patch each, those in space the patches of one frame",
    "SigLIP 2 NaFlex": "known for each image of a batch: media of an axis of tokens, with padding",
    "V-JEPA 2's predictor, VideoMAE with masked patches": "counted: they see some patches in an order of their own",
    "SAM": "keys of the decoder's attention to the image; windows of its encoder are counted",
    "YOLOS": "counted: its detection tokens are behind the patches",
    "Deformable DETR": "no map where it samples points, see `maps.unsupported`",
    "RT-DETR, Mask2Former, OWL-ViT, the towers of Qwen-VL": "not looked into: counted, or as a vision transformer",
}
"""What the docs say of types whose axes are known otherwise, or not."""
