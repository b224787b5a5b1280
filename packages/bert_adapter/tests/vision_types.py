"""Tiny vision models whose grids are those of videos and feature maps: what their test and the docs know."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
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
    mixing: str = r"(encoder|stages).*(out_proj|o_proj|attention\.output\.dense)$"
    """A pattern of the layers by which attention before this one would mix places, or hide some."""
    backbone: str = "backbone"
    """A pattern of parts whose convolutions would mix places."""

    def model(self) -> Any:
        """Return the model, whose maps are far from uniform, and in which nothing but the layer mixes places."""
        torch.manual_seed(0)
        make: Any = getattr(transformers, f"{self.model_type}Model", None)
        if make is None:
            pytest.skip(f"This version of transformers has no {self.name}.")
        if self.model_type == "Sam" and not hasattr(transformers, "SamHQModel"):
            pytest.skip(
                "SAM's attention is refused: in this version of transformers it makes two maps, one of the other."
            )
        model = make(built(f"{self.model_type}Config")(**self.config())).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() > 1:
                    parameter.normal_(std=parameter[0].numel() ** -0.5)
                if re.search(self.mixing, name.rpartition(".")[0]):
                    parameter.zero_()
            for name, module in model.named_modules():
                # Some versions initialize them so that next to nothing of the image is left.
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.weight.fill_(1)
                if re.search(self.backbone, name) and isinstance(module, torch.nn.Conv2d) and module.kernel_size[0] > 1:
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


def _backbone(kind: str, *stages: str) -> Any:
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1] * 4, "layer_type": "basic"}
    return built(f"{kind}Config")(**sizes, out_features=list(stages))


_NO_TIMM: Final = {"use_timm_backbone": False, "backbone": None, "use_pretrained_backbone": False}


def _mask_former() -> dict[str, Any]:
    decoder = built("DetrConfig")(**_detr()).to_dict()
    backbone = _backbone("ResNet", "stage1", "stage2", "stage3", "stage4")
    sizes = {"fpn_feature_size": 32, "mask_feature_size": 32, "num_attention_heads": 2}
    return {"backbone_config": backbone, "decoder_config": decoder, **_NO_TIMM, **sizes}


def _mask2_former() -> dict[str, Any]:
    wide = ("feature_size", "mask_feature_size", "hidden_dim", "encoder_feedforward_dim", "dim_feedforward")
    return {
        "backbone_config": _backbone("ResNet", "stage1", "stage2", "stage3", "stage4"),
        **_NO_TIMM,
        **dict.fromkeys(wide, 32),
        "encoder_layers": 1,
        "decoder_layers": 5,
        "num_attention_heads": 2,
        "num_queries": 5,
    }


def _rt_detr() -> dict[str, Any]:
    sides = {
        f"{side}_{what}": size
        for side in ("encoder", "decoder")
        for what, size in (("layers", 1), ("ffn_dim", 32), ("attention_heads", 2))
    }
    return {
        "backbone_config": _backbone("RTDetrResNet", "stage2", "stage3", "stage4"),
        **{name: value for name, value in _NO_TIMM.items() if name != "use_pretrained_backbone"},
        **sides,
        "encoder_hidden_dim": 32,
        "encoder_in_channels": [16, 24, 32],
        "decoder_in_channels": [32] * 3,
        "d_model": 32,
        "num_queries": 5,
        "num_denoising": 0,
        "freeze_backbone_batch_norms": False,
    }


def _owl() -> dict[str, Any]:
    text = {"vocab_size": 50, "max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 2}
    return {
        "text_config": {**SIZES, **text},
        "vision_config": {**SIZES, "image_size": 24, "patch_size": 8},
        "projection_dim": 16,
    }


def _sam() -> dict[str, Any]:
    tower = {"output_channels": 32, "window_size": 4, "global_attn_indexes": [1], "mlp_dim": 32, "num_pos_feats": 16}
    image = {"image_size": 48, "patch_size": 8}
    return {
        "vision_config": {**SIZES, **tower, **image},
        "prompt_encoder_config": {"hidden_size": 32, "mask_input_channels": 4, **image},
        "mask_decoder_config": _SAM_DECODER,
    }


def _sam_hq() -> dict[str, Any]:
    made = _sam()
    return {**made, "mask_decoder_config": {**made["mask_decoder_config"], "vit_dim": 32}}


def _sam2() -> dict[str, Any]:
    stages = {
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [16, 32, 64, 128],
        "num_attention_heads_per_stage": [1, 1, 2, 2],
        "window_size_per_stage": [4] * 4,
        "global_attention_blocks": [3],
        "window_positional_embedding_background_size": [4, 4],
    }
    backbone = {"hidden_size": 16, "num_attention_heads": 1, "image_size": [64, 64], **stages}
    return {
        "vision_config": {
            "backbone_config": {**backbone, "model_type": "sam2_hiera_det_model"},
            "backbone_channel_list": [128, 64, 32, 16],
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
            "fpn_hidden_size": 32,
            "fpn_top_down_levels": [],
        },
        "prompt_encoder_config": {"hidden_size": 32, "image_size": 64, "patch_size": 16, "mask_input_channels": 4},
        "mask_decoder_config": _SAM_DECODER,
    }


_SAM_DECODER: Final = {
    "hidden_size": 32,
    "mlp_dim": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "iou_head_hidden_dim": 32,
}
_POINT: Final = {"input_points": torch.tensor([[[[20.0, 30.0]]]])}
_LARGE: Final[dict[str, Any]] = {
    "shape": (1, 3, 128, 192),
    "place": (2, 3),
    "part": (slice(64, 68), slice(96, 100)),
    "backbone": r"backbone|pixel_level_module\.encoder",
}
_COARSE: Final = "Patches(grid=(4, 6), prefix=(), image_size=(128, 192))"
_MASKED: Final[dict[str, Any]] = {
    **_LARGE,
    # Without what predicts masks, all patches are seen.
    "mixing": r"self_attn\.output_proj$|mask_embedder",
}
_OWL: Final = "Patches(grid=(3, 3), prefix=('cls',), image_size=(24, 24))"
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
    VisionType(
        "MaskFormer, decoder", "MaskFormer", _mask_former, r".*layers\.0\.encoder_attn", "Axis(5)", _COARSE, **_LARGE
    ),
    VisionType(
        "Mask2Former, decoder", "Mask2Former", _mask2_former, r".*layers\.3\.cross_attn", "Axis(5)", _COARSE, **_MASKED
    ),
    VisionType(
        "Mask2Former, its next level",
        "Mask2Former",
        _mask2_former,
        r".*layers\.1\.cross_attn",
        "Axis(5)",
        "Patches(grid=(8, 12), prefix=(), image_size=(128, 192))",
        **{**_MASKED, "place": (4, 6)},
    ),
    *(
        VisionType(f"{name}, encoder", kind, _rt_detr, r"encoder\.(aifi|encoder)\.", _COARSE, _COARSE, **_LARGE)
        for name, kind in (("RT-DETR", "RTDetr"), ("RT-DETR v2", "RTDetrV2"), ("D-FINE", "DFine"))
    ),
    *(
        VisionType(
            f"{name}, vision tower",
            kind,
            _owl,
            r"vision_model.*layers\.0",
            _OWL,
            _OWL,
            shape=(1, 3, 24, 24),
            place=(2, 1),
            part=(slice(16, 24), slice(8, 16)),
            more={"input_ids": torch.tensor([[1, 5, 6, 2]])},
        )
        for name, kind in (("OWL-ViT", "OwlViT"), ("OWLv2", "Owlv2"))
    ),
    *(
        VisionType(
            f"{name}, decoder",
            kind,
            config,
            r".*layers\.0\.cross_attn_token_to_image",
            tokens,
            "Patches(grid=(6, 6), prefix=(), image_size=(48, 48))",
            shape=(1, 3, 48, 48),
            place=(4, 1),
            part=(slice(32, 40), slice(8, 16)),
            more=_POINT,
            mixing=r"vision_encoder.*attn\.proj$",
            backbone=r"vision_encoder\.neck",
        )
        for name, kind, config, tokens in (("SAM", "Sam", _sam, "Axis(7)"), ("SAM-HQ", "SamHQ", _sam_hq, "Axis(8)"))
    ),
    VisionType(
        "SAM 2, decoder",
        "Sam2",
        _sam2,
        r".*layers\.0\.cross_attn_token_to_image",
        "Axis(8)",
        "Patches(grid=(4, 4), prefix=(), image_size=(64, 64))",
        shape=(1, 3, 64, 64),
        place=(2, 1),
        part=(slice(32, 48), slice(16, 32)),
        more=_POINT,
        mixing=r"vision_encoder.*attn\.proj$",
        backbone="vision_encoder",
    ),
)

NOT_KNOWN: Final = {
    "TimeSformer": "its layers in time have the frames of one patch each, those in space the patches of one frame",
    "SigLIP 2 NaFlex": "known for each image of a batch: media of an axis of tokens, with padding",
    "V-JEPA 2's predictor, VideoMAE with masked patches": "counted: they see some patches in an order of their own",
    "towers of Qwen2-VL, Qwen2.5-VL, Qwen3-VL, Qwen2.5-Omni, GLM-4V to GLM-OCR, EXAONE 4.5, PaddleOCR-VL": (
        "a map for each image, frame or window, with the grid before patches are merged, in the tower's order; counted"
        " where flash-attn takes several at once"
    ),
    "Mllama": (
        "counted: its text attends to all tiles of all images, one after the other, each with a class token and with"
        " tiles of padding, and at a step of generation its input no longer tells of them"
    ),
    "vision encoders of SAM, SAM-HQ, SAM 2, SAM 3, GOT-OCR 2, SLANeXt, DeepSeek-OCR 2, Unlimited-OCR": (
        "the places of patches in each window, with its padding, and the patches of the image where all attend to all;"
        " where SAM 2 pools, a query is a square of patches, and counted if pooling does not divide the window"
    ),
    "MONAI's ViT and UNETR, vit-pytorch's vit_3d and simple_vit_3d": (
        "the patches of a volume or a video, slice by slice or frame by frame; windows of MONAI's SwinUNETR are counted"
    ),
    "YOLO12, torchvision's MaxViT": "the places of positions in each area, and in windows of both kinds",
    "YOLOS": "counted: its detection tokens are behind the patches",
    "Deformable DETR, the decoder of RT-DETR, the pixel decoder of Mask2Former": (
        "no map where they sample points, see `maps.unsupported`"
    ),
}
"""What the docs say of types whose axes are known otherwise, or not."""
