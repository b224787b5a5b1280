"""Small models of the libraries that `attention_scan.py` scans, each with what it is run with."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any, Final, NamedTuple, TypeAlias

import torch

Built: TypeAlias = tuple[torch.nn.Module, Mapping[str, Any] | tuple[Any, ...]]

LARGEST: Final = 60_000_000
"""The number of parameters up to which a model is built."""


class Library(NamedTuple):
    """A library: the names of its models, and from such a name to the model and what it is run with."""

    names: Callable[[], Iterator[str]]
    build: Callable[[str], Built]


def _of_timm() -> Iterator[str]:
    """Yield the smallest model of each file."""
    import timm

    for file in sorted(timm.list_modules()):
        sizes = {name: _size_of_timm(name) for name in timm.list_models(module=file)[:12]}
        yield from sorted((name for name in sizes if sizes[name]), key=sizes.__getitem__)[:1]


def _size_of_timm(name: str) -> int:
    try:
        with torch.device("meta"):
            count = sum(each.numel() for each in _build_timm(name)[0].parameters())
    except Exception:  # noqa: BLE001  # some read a tensor as they are built
        return 0
    return count if count <= LARGEST else 0


def _build_timm(name: str) -> Built:
    import timm

    model: Any = timm.create_model(name)
    return model, (torch.randn(1, *model.default_cfg["input_size"]),)


def _build_torchvision(name: str) -> Built:
    return getattr(importlib.import_module("torchvision.models"), name)(), (torch.randn(1, 3, 224, 224),)


_UNET: Final[dict[str, Any]] = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "attention_head_dim": 2,
}
_DIFFUSERS: Final[dict[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    "UNet2DConditionModel": (
        {
            **_UNET,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "cross_attention_dim": 16,
        },
        {"sample": (2, 4, 8, 8), "timestep": None, "encoder_hidden_states": (2, 7, 16)},
    ),
    "UNet2DModel": (
        {
            **_UNET,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        },
        {"sample": (2, 3, 8, 8), "timestep": None},
    ),
    "AutoencoderKL": ({"norm_num_groups": 4, "block_out_channels": (8,)}, {"sample": (2, 3, 8, 8)}),
    "PixArtTransformer2DModel": (
        {
            "num_layers": 1,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "in_channels": 4,
            "sample_size": 8,
            "cross_attention_dim": 16,
            "caption_channels": 16,
            "norm_type": "ada_norm_single",
            "use_additional_conditions": False,
        },
        {"hidden_states": (2, 4, 8, 8), "timestep": None, "encoder_hidden_states": (2, 7, 16)},
    ),
}


def _build_diffusers(name: str) -> Built:
    settings, shapes = _DIFFUSERS[name]
    given = {key: torch.randn(shape) for key, shape in shapes.items() if shape is not None}
    steps = {"timestep": torch.tensor([3, 3])} if "timestep" in shapes else {}
    return getattr(importlib.import_module("diffusers"), name)(**settings), given | steps


_VIT_PYTORCH: Final[dict[str, Any]] = {
    "image_size": 64,
    "patch_size": 16,
    "num_classes": 5,
    "dim": 32,
    "depth": 2,
    "heads": 2,
    "mlp_dim": 32,
    "dim_head": 16,
    "cls_depth": 1,
    "max_tokens_per_depth": (8, 4),
}


def _of_vit_pytorch() -> Iterator[str]:
    """Yield the classes that take the sizes above, and no others."""
    package = importlib.import_module("vit_pytorch")
    for found in pkgutil.iter_modules(package.__path__, "vit_pytorch."):
        if found.name == "vit_pytorch.vaat":
            continue  # needs torchaudio
        module = importlib.import_module(found.name)
        for name, cls in vars(module).items():
            if inspect.isclass(cls) and cls.__module__ == module.__name__ and _takes_sizes(cls):
                yield f"{found.name.rpartition('.')[2]}.{name}"


def _takes_sizes(cls: type) -> bool:
    given = inspect.signature(cls).parameters
    required = {name for name, each in given.items() if each.default is each.empty and each.kind != each.VAR_KEYWORD}
    return "image_size" in given and required <= set(_VIT_PYTORCH)


def _build_vit_pytorch(name: str) -> Built:
    file, _, of_file = name.rpartition(".")
    cls = getattr(importlib.import_module(f"vit_pytorch.{file}"), of_file)
    settings = {key: value for key, value in _VIT_PYTORCH.items() if key in inspect.signature(cls).parameters}
    return cls(**settings), (torch.randn(1, 3, 64, 64),)


_POOLED: Final = {"attentional_pool": True, "attn_pooler_heads": 2}


def _build_open_clip(name: str) -> Built:
    image = {"layers": 2, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 64}
    text = {"context_length": 16, "vocab_size": 64, "width": 32, "heads": 2, "layers": 2}
    inputs = torch.randn(2, 3, 64, 64), torch.randint(1, 60, (2, 16))
    model = importlib.import_module("open_clip.model")
    if name == "CLIP":
        return model.CLIP(32, image, text), inputs
    if name == "pooled CLIP":
        return model.CLIP(32, image | _POOLED, text), inputs
    coca = importlib.import_module("open_clip.coca_model").CoCa
    outputs = {"output_tokens": True}
    return coca(32, text, text | outputs | {"embed_cls": True}, image | outputs | _POOLED), inputs


_X_TRANSFORMERS: Final[dict[str, dict[str, Any]]] = {
    "plain": {},
    "flash": {"attn_flash": True},
    "alibi": {"alibi_pos_bias": True},
    "grouped": {"rotary_pos_emb": True, "attn_kv_heads": 1},
    "memory": {"attn_num_mem_kv": 2},
    "normalized": {"attn_qk_norm": True},
}


def _build_x_transformers(name: str) -> Built:
    package = importlib.import_module("x_transformers")
    layers = package.Decoder(dim=32, depth=2, heads=2, attn_dim_head=16, **_X_TRANSFORMERS[name])
    model = package.TransformerWrapper(num_tokens=64, max_seq_len=16, attn_layers=layers)
    return model, (torch.randint(1, 60, (2, 16)),)


LIBRARIES: Final = {
    name: library
    for name, library in {
        "timm": Library(_of_timm, _build_timm),
        "torchvision": Library(lambda: iter(("vit_b_32", "swin_t", "swin_v2_t", "maxvit_t")), _build_torchvision),
        "diffusers": Library(lambda: iter(_DIFFUSERS), _build_diffusers),
        "vit_pytorch": Library(_of_vit_pytorch, _build_vit_pytorch),
        "open_clip": Library(lambda: iter(("CLIP", "pooled CLIP", "CoCa")), _build_open_clip),
        "x_transformers": Library(lambda: iter(_X_TRANSFORMERS), _build_x_transformers),
    }.items()
    if find_spec(name) is not None
}
