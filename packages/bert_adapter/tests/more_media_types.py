"""More tiny models that read images and a text, for the patch test and the docs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest

from .media_types import IS_NEW, PLACEHOLDER, SECTIONS, SQUARE, TEXT, VISION, MediaType, built, of_parts, qwen

_QWENS: Final = {"patch_size": 4, "merge_size": 2, "min_pixels": 64, "max_pixels": 4096}
_GLMS: Final = {"patch_size": 4, "merge_size": 2, "size": {"shortest_edge": 128, "longest_edge": 8192}}
_EXPERTS: Final = {"n_routed_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
_SIZES: Final = ((16, 24), (32, 16), (16, 16))
_MERGED: Final = ("image 0: 2 × 3", "image 1: 4 × 2")
_DEPTH: Final = {"hidden_size": 32, "intermediate_size": 32, "out_hidden_size": 32}
_FRAMES: Final = "2 × 2 patches a token, any size; the frames of a video have the tokens of images and are not known"


def _glm(config: str, text: dict[str, Any], **options: Any) -> Callable[[], Any]:
    def make() -> Any:
        if not IS_NEW and "Moe" in config:
            pytest.skip("Before transformers 5, this size has no rotary positions of sections.")
        rope = {"rope_parameters": SECTIONS | {"partial_rotary_factor": 1.0}} if IS_NEW else {"rope_scaling": SECTIONS}
        sizes = {"depth": 2, "num_heads": 2, "patch_size": 4, "image_size": 32, **_DEPTH}
        return built(config)(
            text_config={**TEXT, **rope, **text},
            vision_config=sizes,
            image_token_id=PLACEHOLDER,
            video_token_id=61,
            image_start_token_id=20,
            image_end_token_id=21,
            **options,
        )

    return make


def _omni() -> Any:
    audio = {"encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "d_model": 32, "output_dim": 32}
    make = qwen(
        "Qwen2_5OmniThinkerConfig",
        {},
        {**_DEPTH, "window_size": 16, "fullatt_block_indexes": [1]},
        image_token_index=PLACEHOLDER,
        video_token_index=61,
        audio_token_index=62,
        audio_config={**audio, "num_mel_bins": 8, "max_source_positions": 100},
    )
    return make()


def _janus() -> Any:
    vision = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16, "patch_size": 4}
    codes = {"embed_dim": 4, "num_embeddings": 8, "latent_channels": 4, "base_channels": 32, "channel_multiplier": [1]}
    return built("JanusConfig")(
        text_config=built("LlamaConfig")(**TEXT),
        vision_config={**vision, "projection_dim": 32, "num_image_tokens": 16},
        vq_config={**codes, "num_res_blocks": 1, "projection_dim": 32, "image_token_embed_dim": 32},
        image_token_id=PLACEHOLDER,
    )


def _llama4() -> Any:
    text = {"num_local_experts": 2, "num_experts_per_tok": 1, "intermediate_size_mlp": 32, "attention_chunk_size": 256}
    wide = {"vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32}
    return built("Llama4Config")(
        text_config={**TEXT, **text},
        vision_config={**VISION, **wide, "pixel_shuffle_ratio": 0.5, "intermediate_size": 128},
        image_token_index=PLACEHOLDER,
    )


def _with_image_outputs(model: Any) -> None:
    """Let the output of the text model have a field that some versions read of it, though it is not there."""

    def add(module: Any, args: Any, output: Any) -> None:
        del module, args
        output.image_outputs = None

    model.language_model.register_forward_hook(add)


def _aya_text(length: int, size: tuple[int, int]) -> list[int]:
    """Return the text of an image: a mark before each tile of four tokens."""
    del size
    tiles = [token for tile in range(length // 4) for token in [30 + tile, *[PLACEHOLDER] * 4]]
    return [20, *tiles, 21]


def _cohere_text(length: int, size: tuple[int, int]) -> list[int]:
    """Return the text of an image: a line's end after each tile of four tokens."""
    del size
    return [20, *[token for _ in range(length // 4) for token in [*[PLACEHOLDER] * 4, 30]], 21]


def _llama4_text(length: int, size: tuple[int, int]) -> list[int]:
    """Return the text of an image of tiles of 16 pixels, four tokens each, which are in rows and columns."""
    down, right = size[0] // 16, size[1] // 16
    tile, whole = [PLACEHOLDER] * 4, [25, *[PLACEHOLDER] * 4, 21]
    if length == 4:
        return [20, *whole]
    row = [token for column in range(right) for token in [*tile, 31 if column == right - 1 else 30]]
    return [20, *row * down, *whole]


def _phi4() -> Any:
    channels = ("nemo_conv_channels", "ext_pw_out_channel", "depthwise_separable_out_channel")
    audio = {"hidden_size": 32, "intermediate_size": 32, "num_blocks": 1, "num_attention_heads": 2, "input_size": 8}
    return built("Phi4MultimodalConfig")(
        **TEXT,
        original_max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        vision_config={**VISION, "crop_size": 16, "image_token_id": PLACEHOLDER},
        audio_config={**audio, "audio_token_id": 62, **dict.fromkeys(channels, 32)},
    )


def _phi4_tokens(made: dict[str, Any]) -> int:
    """Return the tokens of an image: four of the whole of it, those of its tiles, and the ends of all rows."""
    (height, _), mask = made["image_sizes"][0].tolist(), made["image_attention_mask"][0, 1:, ::2, ::2]
    first_column = mask[:: len(mask) // (height // 16), :, 0]
    return 4 + 2 + 1 + int(mask.sum()) + int(first_column.sum())


def _molmo2() -> Any:
    sizes = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "hidden_size": 32}
    return built("Molmo2Config")(
        text_config={**TEXT, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
        vision_config={**VISION, **sizes, "image_size": [16, 16]},
        adapter_config={**sizes, "intermediate_size": 32, "text_hidden_size": 32, "vision_feature_layer": [1, 0]},
        image_patch_id=PLACEHOLDER,
    )


MORE_TYPES: Final = (
    MediaType(
        "GLM-4V",
        _glm("Glm4vConfig", {}),
        ("Glm4vImageProcessor", _GLMS),
        sizes=_SIZES,
        grids=_MERGED,
        tower=_FRAMES,
        types="mm_token_type_ids",
    ),
    MediaType(
        "GLM-4.5V",
        _glm("Glm4vMoeConfig", _EXPERTS),
        ("Glm4vImageProcessor", _GLMS),
        sizes=_SIZES,
        grids=_MERGED,
        tower=_FRAMES,
        types="mm_token_type_ids",
    ),
    MediaType(
        "GLM-4.6V",
        _glm("Glm46VConfig", {}),
        ("Glm46VImageProcessor", _GLMS),
        sizes=_SIZES,
        grids=_MERGED,
        tower=_FRAMES,
        types="mm_token_type_ids",
    ),
    MediaType(
        "GLM-OCR",
        _glm("GlmOcrConfig", {}),
        ("Glm46VImageProcessor", _GLMS),
        sizes=_SIZES,
        grids=_MERGED,
        tower=_FRAMES,
        types="mm_token_type_ids",
    ),
    MediaType(
        "EXAONE 4.5",
        qwen(
            "Exaone4_5_Config",
            {"model_type": "exaone4"},
            {**_DEPTH, "window_size": 16, "fullatt_block_indexes": [1], "num_key_value_heads": 2},
        ),
        ("Qwen2VLImageProcessor", _QWENS),
        sizes=_SIZES,
        grids=_MERGED,
        tower="2 × 2 patches a token, any size; a video's in frames",
        types="mm_token_type_ids",
    ),
    MediaType(
        "PaddleOCR-VL",
        qwen(
            "PaddleOCRVLConfig",
            {},
            {
                "hidden_size": 32,
                "intermediate_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": 32,
            },
        ),
        ("PaddleOCRVLImageProcessor", {"patch_size": 4, "merge_size": 2, "min_pixels": 64, "max_pixels": 4096}),
        sizes=_SIZES,
        grids=_MERGED,
        tower="2 × 2 patches a token, any size",
        types="mm_token_type_ids",
    ),
    MediaType(
        "Qwen2.5-Omni's thinker",
        _omni,
        ("Qwen2VLImageProcessor", _QWENS),
        sizes=_SIZES,
        grids=_MERGED,
        tower="2 × 2 patches a token, any size; a video's in frames",
        types="mm_token_type_ids",
    ),
    MediaType(
        "LightOnOCR",
        of_parts(
            "LightOnOcrConfig",
            "Qwen3Config",
            "PixtralVisionConfig",
            {"image_size": 64, "head_dim": 16},
            spatial_merge_size=2,
        ),
        ("PixtralImageProcessor", {"patch_size": 8, "size": {"longest_edge": 64}}),
        sizes=_SIZES,
        grids=_MERGED,
        tower="2 × 2 patches a token, any size",
    ),
    MediaType(
        "Janus",
        _janus,
        ("JanusImageProcessor", {"size": SQUARE, "min_size": 1}),
        grids=("image 0: 4 × 4", "image 1: 4 × 4"),
        tower="one token a patch",
    ),
    MediaType(
        "Video-LLaVA",
        of_parts("VideoLlavaConfig", "LlamaConfig", "CLIPVisionConfig", image_token_index=PLACEHOLDER),
        ("CLIPImageProcessor", {"size": SQUARE, "crop_size": SQUARE}),
        grids=("image 0: 4 × 4", "image 1: 4 × 4"),
        tower="one token a patch; of a video's frames, their class token has one as well",
    ),
    MediaType(
        "Aya Vision",
        of_parts(
            "AyaVisionConfig",
            "Cohere2Config",
            "SiglipVisionConfig",
            {"vision_use_head": False},
            image_token_index=PLACEHOLDER,
        ),
        ("GotOcr2ImageProcessor", {"size": SQUARE, "crop_to_patches": True, "min_patches": 1, "max_patches": 4}),
        sizes=((16, 16), (16, 32), (16, 16)),
        grids=("image 0: 2 × 2", *(f"image 1: tile {number} 2 × 2" for number in range(3))),
        tower="2 × 2 patches a token; tiles in order, whose places in the image its input does not tell",
        between=_aya_text,
    ),
    MediaType(
        "Cohere2 Vision",
        of_parts(
            "Cohere2VisionConfig",
            "Cohere2Config",
            "SiglipVisionConfig",
            {"vision_use_head": False},
            alignment_intermediate_size=32,
        ),
        ("Cohere2VisionImageProcessor", {"size": SQUARE, "crop_to_patches": True, "min_patches": 1, "max_patches": 4}),
        sizes=((16, 16), (16, 32), (16, 16)),
        grids=("image 0: 2 × 2", *(f"image 1: tile {number} 2 × 2" for number in range(3))),
        tower="2 × 2 patches a token; tiles in order, whose places in the image its input does not tell",
        between=_cohere_text,
    ),
    MediaType(
        "Llama 4",
        _llama4,
        ("Llama4ImageProcessor", {"size": SQUARE, "max_patches": 4}),
        sizes=((16, 32), (32, 32), (16, 16)),
        grids=("image 0: tiles 2 × 4", "image 0: overview 2 × 2", "image 1: tiles 4 × 4", "image 1: overview 2 × 2"),
        tower="2 × 2 patches a token; tiles as one grid, and the whole image",
        between=_llama4_text,
        prepare=_with_image_outputs,
    ),
    MediaType(
        "Phi-4-multimodal",
        _phi4,
        ("Phi4MultimodalImageProcessor", {"size": SQUARE, "patch_size": 4, "dynamic_hd": 4}),
        sizes=((16, 24), (32, 32), (32, 16)),
        grids=("image 0: tiles 2 × 3", "image 0: overview 2 × 2", "image 1: tiles 4 × 4", "image 1: overview 2 × 2"),
        tower="2 × 2 patches a token; tiles as one grid without padding, and the whole image; sounds are not known",
        length=_phi4_tokens,
    ),
    MediaType(
        "Molmo2",
        _molmo2,
        ("Molmo2ImageProcessor", {"size": SQUARE, "patch_size": 4, "max_crops": 4, "overlap_margins": [1, 1]}),
        sizes=((16, 32), (32, 16), (16, 16)),
        grids=("image 0: overview 2 × 2", "image 0: tiles 2 × 4", "image 1: overview 2 × 2", "image 1: tiles 4 × 2"),
        tower="2 × 2 patches a token; the whole image, and overlapping tiles as one grid; a video's in frames",
    ),
)
