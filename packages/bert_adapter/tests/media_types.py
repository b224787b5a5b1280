"""Tiny models that read images and a text, each with its own image processor: what the patch test and the docs know."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pytest
import torch
import transformers

Image = npt.NDArray[np.uint8]

PLACEHOLDER: Final = 60
PADDING: Final = 1

TEXT: Final[dict[str, Any]] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "pad_token_id": PADDING,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
VISION: Final[dict[str, Any]] = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}
SQUARE: Final = {"height": 16, "width": 16}
SECTIONS: Final = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 1e4}

IS_NEW: Final = int(transformers.__version__.partition(".")[0]) >= 5

_MIXES: Final = re.compile(
    r"(vision|visual|image_tower|video_tower|img_processor).*(out_proj|o_proj|projection_layer|attn\.proj)$"
)
"""The layers by which attention in a vision tower would mix patches."""


@dataclass(frozen=True)
class MediaType:
    """A type of models, with the sizes of three images for it: two of a first text, and one of a second."""

    name: str
    config: Callable[[], Any]
    processor: tuple[str, dict[str, Any]]
    sizes: tuple[tuple[int, int], ...] = ((16, 16),) * 3
    grids: Sequence[str] = ()
    """What is known of the two images of the first text."""
    tower: str = ""
    """What the docs say of how the patches become tokens."""
    nested: bool = False
    """Whether its processor takes a list of images for each text."""
    types: str = ""
    """The argument that tells the model which tokens are placeholders."""
    between: Callable[[int, tuple[int, int]], list[int]] | None = None
    """From the length of an image and its size to its tokens in the text."""
    length: Callable[[dict[str, Any]], int] | None = None
    """From what its processor makes of an image to its tokens, where the model has no method that encodes it."""
    prepare: Callable[[Any], None] | None = None
    """What the model needs to run in all versions of transformers."""

    def model(self) -> Any:
        """Return the model, whose patches do not mix before the text, and whose maps are far from uniform."""
        if not hasattr(transformers, "LlavaModel"):
            pytest.skip("Before transformers 4.52, models put images into their texts in other ways.")
        torch.manual_seed(0)
        config = self.config()
        autos: Any = transformers.AutoModelForImageTextToText, transformers.AutoModelForCausalLM
        auto = next((auto for auto in autos if type(config) in auto._model_mapping), None)
        if auto is None:
            pytest.skip(f"This version of transformers has no text model of {self.name}.")
        make = auto.from_config
        model = make(config).eval()
        mixing = [module for name, module in model.named_modules() if _MIXES.search(name)]
        assert mixing
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(std=parameter[0].numel() ** -0.5)
            for module in mixing:
                module.weight.zero_()
                if module.bias is not None:
                    module.bias.zero_()
        if self.prepare is not None:
            self.prepare(model)
        return model

    def inputs(self, model: Any, images: Sequence[Image]) -> dict[str, Any]:
        """Return a batch of two texts, padded on the left: the first has two images, the second one."""
        kind, options = self.processor
        # Before transformers 5, some have only a faster one, of another name, which makes other tiles.
        process = built(kind)(**options)
        given = [list(images[:2]), list(images[2:])] if self.nested else list(images)
        made = processed(process, given)
        lengths = self._lengths(process, model, images)
        runs = [self._run(n, image.shape[:2]) for n, image in zip(lengths, images, strict=True)]
        texts = [[2, *runs[0], 10, *runs[1], 11, 12], [2, 13, *runs[2], 14]]
        longest = max(map(len, texts))
        ids = torch.tensor([[PADDING] * (longest - len(text)) + text for text in texts])
        made |= {"input_ids": ids, "attention_mask": (ids != PADDING).long()}
        # Earlier versions find the images of Qwen's text themselves.
        if self.types and (IS_NEW or self.types != "mm_token_type_ids"):
            made[self.types] = (ids == PLACEHOLDER).long()
        return made

    def _lengths(self, process: Any, model: Any, images: Sequence[Image]) -> list[int]:
        """Return how many features the model makes of each image, which is how many placeholders it wants."""
        lengths = []
        for image in images:
            alone = processed(process, [[image]] if self.nested else [image])
            if self.length is not None:
                lengths.append(self.length(alone))
                continue
            with torch.no_grad():
                takes = _ENCODED & alone.keys()
                features = getattr(model, "model", model).get_image_features(**{name: alone[name] for name in takes})
            pooled = getattr(features, "pooler_output", features)
            features = features.last_hidden_state if pooled is None else pooled
            # Earlier versions return those of Qwen3-VL's deeper layers beside them.
            features = features[0] if isinstance(features[0], (tuple, list)) else features
            lengths.append(sum(part.reshape(-1, part.shape[-1]).shape[0] for part in features))
        return lengths

    def _run(self, length: int, size: tuple[int, int]) -> list[int]:
        return [20, *[PLACEHOLDER] * length, 21] if self.between is None else self.between(length, size)


_ENCODED: Final = {
    *("pixel_values", "image_sizes", "image_grid_thw", "pixel_attention_mask"),
    *("image_token_pooling", "image_grids"),
}
"""What the methods that encode images take of it."""
_UNUSED: Final = {"num_patches", "num_crops", "aspect_ratios", "num_img_tokens"}
"""What image processors make for the text only."""


def processed(process: Any, images: Sequence[Any]) -> dict[str, Any]:
    """Return what an image processor makes of images, in single precision."""
    made = process(images, return_tensors="pt", input_data_format="channels_last")
    kept = {name: value for name, value in made.items() if name not in _UNUSED}
    return {n: v.float() if isinstance(v, torch.Tensor) and v.is_floating_point() else v for n, v in kept.items()}


def _tiles(length: int, size: tuple[int, int]) -> list[int]:
    """Return the text of an image that Idefics3 and SmolVLM divide into tiles of 16 pixels, and then see as a whole."""
    down, right = size[0] // 16, size[1] // 16
    names = [[30 + 4 * row + column] for row in range(down) for column in range(right)] + [[40]]
    one = length // len(names)
    rows = [
        [20, *name, *[PLACEHOLDER] * one, *([21] if number % right == right - 1 else [])]
        for number, name in enumerate(names)
    ]
    return [token for row in rows for token in row]


def built(name: str) -> Any:
    """Return a configuration of transformers; a test of one that this version does not have is skipped."""
    if not hasattr(transformers, name):
        pytest.skip(f"This version of transformers has no {name}.")
    return getattr(transformers, name)


def of_parts(
    config: str, text: str, vision: str, in_vision: dict[str, Any] | None = None, **options: Any
) -> Callable[[], Any]:
    def make() -> Any:
        parts = {
            "text_config": built(text)(**TEXT),
            "vision_config": built(vision)(**{**VISION, **(in_vision or {})}),
        }
        return built(config)(**parts, **{"image_token_id": PLACEHOLDER, **options})

    return make


def qwen(config: str, text: dict[str, Any], vision: dict[str, Any], **options: Any) -> Callable[[], Any]:
    special = {"image_token_id": PLACEHOLDER, "video_token_id": 61, "vision_start_token_id": 20}

    def make() -> Any:
        sizes = {"depth": 2, "num_heads": 2, "in_channels": 3, "patch_size": 4, "spatial_merge_size": 2}
        # Renamed in transformers 5.
        rope = {"rope_parameters": SECTIONS} if IS_NEW else {"rope_scaling": SECTIONS | {"type": "mrope"}}
        parts = {"text_config": {**TEXT, **rope, **text}, "vision_config": {**sizes, **vision}}
        return built(config)(**parts, **special, vision_end_token_id=21, **options)

    return make


class Names:
    """The part of a tokenizer that names tokens: those before the tiles of an image, and the others by their number."""

    all_special_ids: Final = [PLACEHOLDER, PADDING]
    is_fast = False

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        """Return the name of a token, or of each of several."""
        if isinstance(ids, list):
            return [self.convert_ids_to_tokens(each) for each in ids]
        row, column = divmod(ids - 30, 4)
        return f"<row_{row + 1}_col_{column + 1}>" if 30 <= ids < 40 else "<global-img>" if ids == 40 else str(ids)

    def decode(self, ids: list[int], **_: Any) -> str:
        """Return a text of tokens."""
        return " ".join(self.convert_ids_to_tokens(ids))


TYPES: Final[tuple[MediaType, ...]] = (
    MediaType(
        "LLaVA",
        of_parts("LlavaConfig", "LlamaConfig", "CLIPVisionConfig"),
        ("CLIPImageProcessor", {"size": {"shortest_edge": 16}, "crop_size": SQUARE}),
        grids=("image 0: 4 × 4", "image 1: 4 × 4"),
        tower="one token a patch",
    ),
    MediaType(
        "VipLLaVA",
        of_parts("VipLlavaConfig", "LlamaConfig", "CLIPVisionConfig", vision_feature_layers=[-2, -1]),
        ("CLIPImageProcessor", {"size": {"shortest_edge": 16}, "crop_size": SQUARE}),
        grids=("image 0: 4 × 4", "image 1: 4 × 4"),
        tower="one token a patch",
    ),
    MediaType(
        "LLaVA with Pixtral",
        of_parts(
            "LlavaConfig",
            "LlamaConfig",
            "PixtralVisionConfig",
            in_vision={"image_size": 64},
            vision_feature_select_strategy="full",
            vision_feature_layer=-1,
        ),
        ("PixtralImageProcessor", {"patch_size": 4, "size": {"longest_edge": 64}}),
        sizes=((16, 24), (32, 16), (16, 16)),
        grids=("image 0: 4 × 6", "image 1: 8 × 4"),
        tower="one token a patch, any size",
    ),
    MediaType(
        "Mistral 3",
        of_parts(
            "Mistral3Config",
            "MistralConfig",
            "PixtralVisionConfig",
            in_vision={"image_size": 64},
            spatial_merge_size=2,
            vision_feature_layer=-1,
        ),
        ("PixtralImageProcessor", {"patch_size": 8, "size": {"longest_edge": 64}}),
        sizes=((16, 24), (32, 16), (16, 16)),
        grids=("image 0: 2 × 3", "image 1: 4 × 2"),
        tower="2 × 2 patches a token, any size",
    ),
    MediaType(
        "Qwen2-VL",
        qwen("Qwen2VLConfig", {}, {"embed_dim": 32, "hidden_size": 32}),
        ("Qwen2VLImageProcessor", {"patch_size": 4, "merge_size": 2, "min_pixels": 64, "max_pixels": 4096}),
        sizes=((16, 24), (32, 16), (16, 16)),
        grids=("image 0: 2 × 3", "image 1: 4 × 2"),
        tower="2 × 2 patches a token, any size; a video's in frames",
        types="mm_token_type_ids",
    ),
    MediaType(
        "Qwen2.5-VL",
        qwen(
            "Qwen2_5_VLConfig",
            {},
            {
                "hidden_size": 32,
                "intermediate_size": 32,
                "out_hidden_size": 32,
                "window_size": 16,
                "fullatt_block_indexes": [1],
            },
        ),
        ("Qwen2VLImageProcessor", {"patch_size": 4, "merge_size": 2, "min_pixels": 64, "max_pixels": 4096}),
        sizes=((16, 24), (32, 16), (16, 16)),
        grids=("image 0: 2 × 3", "image 1: 4 × 2"),
        tower="2 × 2 patches a token, any size, also where its tower attends within windows; a video's in frames",
        types="mm_token_type_ids",
    ),
    MediaType(
        "Qwen3-VL",
        qwen(
            "Qwen3VLConfig",
            {},
            {
                "hidden_size": 32,
                "intermediate_size": 32,
                "out_hidden_size": 32,
                "num_position_embeddings": 64,
                "deepstack_visual_indexes": [0],
            },
        ),
        ("Qwen2VLImageProcessor", {"patch_size": 4, "merge_size": 2, "min_pixels": 64, "max_pixels": 4096}),
        sizes=((16, 24), (32, 16), (16, 16)),
        grids=("image 0: 2 × 3", "image 1: 4 × 2"),
        tower="2 × 2 patches a token, any size; a video's in frames",
        types="mm_token_type_ids",
    ),
    MediaType(
        "Qwen3-VL-MoE",
        qwen(
            "Qwen3VLMoeConfig",
            {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
            {
                "hidden_size": 32,
                "intermediate_size": 32,
                "out_hidden_size": 32,
                "num_position_embeddings": 64,
                "deepstack_visual_indexes": [0],
            },
        ),
        ("Qwen2VLImageProcessor", {"patch_size": 4, "merge_size": 2, "min_pixels": 64, "max_pixels": 4096}),
        sizes=((16, 24), (32, 16), (16, 16)),
        grids=("image 0: 2 × 3", "image 1: 4 × 2"),
        tower="2 × 2 patches a token, any size; a video's in frames",
        types="mm_token_type_ids",
    ),
    MediaType(
        "DeepSeek-VL",
        of_parts("DeepseekVLConfig", "LlamaConfig", "SiglipVisionConfig"),
        ("SiglipImageProcessor", {"size": SQUARE}),
        grids=("image 0: 4 × 4", "image 1: 4 × 4"),
        tower="one token a patch",
    ),
    MediaType(
        "PaliGemma",
        of_parts(
            "PaliGemmaConfig", "GemmaConfig", "SiglipVisionConfig", projection_dim=32, in_vision={"projection_dim": 32}
        ),
        ("SiglipImageProcessor", {"size": SQUARE}),
        grids=("image 0: 4 × 4", "image 1: 4 × 4"),
        tower="one token a patch",
        types="token_type_ids",
    ),
    MediaType(
        "Gemma 3",
        of_parts("Gemma3Config", "Gemma3TextConfig", "SiglipVisionConfig", mm_tokens_per_image=4),
        ("Gemma3ImageProcessor", {"size": SQUARE}),
        grids=("image 0: 2 × 2", "image 1: 2 × 2"),
        tower="the mean of a square of patches a token; crops of pan and scan are images of their own",
        types="token_type_ids",
    ),
    MediaType(
        "LLaVA-NeXT",
        of_parts(
            "LlavaNextConfig", "LlamaConfig", "CLIPVisionConfig", image_grid_pinpoints=[[16, 32], [32, 16], [32, 32]]
        ),
        (
            "LlavaNextImageProcessor",
            {"size": SQUARE, "crop_size": SQUARE, "image_grid_pinpoints": [[16, 32], [32, 16], [32, 32]]},
        ),
        sizes=((16, 24), (32, 32), (32, 16)),
        grids=("image 0: overview 4 × 4", "image 0: tiles 4 × 6", "image 1: overview 4 × 4", "image 1: tiles 8 × 8"),
        tower="the whole image, and tiles as one grid without padding; row ends are no patches",
    ),
    MediaType(
        "LLaVA-NeXT-Video",
        of_parts(
            "LlavaNextVideoConfig",
            "LlamaConfig",
            "CLIPVisionConfig",
            image_grid_pinpoints=[[16, 32], [32, 16], [32, 32]],
        ),
        (
            "LlavaNextImageProcessor",
            {"size": SQUARE, "crop_size": SQUARE, "image_grid_pinpoints": [[16, 32], [32, 16], [32, 32]]},
        ),
        sizes=((16, 24), (32, 32), (32, 16)),
        grids=("image 0: overview 4 × 4", "image 0: tiles 4 × 6", "image 1: overview 4 × 4", "image 1: tiles 8 × 8"),
        tower="the whole image, and tiles as one grid without padding; row ends are no patches; videos are not known",
    ),
    MediaType(
        "LLaVA-OneVision",
        of_parts(
            "LlavaOnevisionConfig",
            "Qwen2Config",
            "SiglipVisionConfig",
            in_vision={"vision_use_head": False},
            image_grid_pinpoints=[[16, 32], [32, 16], [32, 32]],
            vision_feature_layer=-1,
        ),
        ("LlavaOnevisionImageProcessor", {"size": SQUARE, "image_grid_pinpoints": [[16, 32], [32, 16], [32, 32]]}),
        sizes=((16, 24), (32, 32), (32, 16)),
        grids=("image 0: overview 4 × 4", "image 0: tiles 4 × 6", "image 1: overview 4 × 4", "image 1: tiles 8 × 8"),
        tower="the whole image, and tiles as one grid without padding; row ends are no patches; a video's frames",
    ),
    MediaType(
        "Idefics3",
        of_parts("Idefics3Config", "LlamaConfig", "Idefics3VisionConfig", scale_factor=2),
        ("Idefics3ImageProcessor", {"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 16}}),
        sizes=((16, 32), (32, 32), (32, 16)),
        grids=("image 0: tiles 2 × 4", "image 0: overview 2 × 2", "image 1: tiles 4 × 4", "image 1: overview 2 × 2"),
        tower="2 × 2 patches a token; tiles as one grid, which needs a tokenizer, and the whole image",
        nested=True,
        between=_tiles,
    ),
    MediaType(
        "SmolVLM",
        of_parts("SmolVLMConfig", "LlamaConfig", "SmolVLMVisionConfig", scale_factor=2),
        ("SmolVLMImageProcessor", {"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 16}}),
        sizes=((16, 32), (32, 32), (32, 16)),
        grids=("image 0: tiles 2 × 4", "image 0: overview 2 × 2", "image 1: tiles 4 × 4", "image 1: overview 2 × 2"),
        tower="2 × 2 patches a token; tiles as one grid, which needs a tokenizer, and the whole image",
        nested=True,
        between=_tiles,
    ),
    MediaType(
        "InternVL",
        of_parts(
            "InternVLConfig",
            "Qwen2Config",
            "InternVLVisionConfig",
            in_vision={"image_size": [16, 16], "patch_size": [4, 4]},
            image_seq_length=4,
        ),
        ("GotOcr2ImageProcessor", {"size": SQUARE, "crop_to_patches": True, "min_patches": 1, "max_patches": 4}),
        sizes=((16, 16), (16, 32), (16, 16)),
        grids=("image 0: 2 × 2", *(f"image 1: tile {number} 2 × 2" for number in range(3))),
        tower="2 × 2 patches a token; tiles in order, whose places in the image its input does not tell",
    ),
)

_QUERIES: Final = "a query that the model learned, which attends to all patches"
UNKNOWN: Final = {
    "BLIP-2, InstructBLIP": _QUERIES,
    "Idefics2": _QUERIES,
    "Aria": _QUERIES,
    "Kosmos-2": f"{_QUERIES}; its configuration names no placeholder that would tell which tokens these are",
    "Florence-2": "the mean of all cells of a feature map, and then each cell, after stages that mix patches",
    "Chameleon, Emu3": "a code of a part of the image, made by convolutions that mix patches",
    "any other type": "whatever its own code makes of it",
}
"""What the docs say of types whose placeholders stand for no patches, or whose way is not known."""
