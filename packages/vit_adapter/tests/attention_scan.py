"""Scan the classes called attention in timm, torchvision and diffusers: each has a map, or is told to have none.

Run as a script it prints a line for each class, and returns 1 if one is silent. Arguments are names of models.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import timm
import torch

from anylocal.attention import capture_attention
from anylocal.testing import attention_verdicts

LARGEST: Final = 60_000_000
"""The number of parameters up to which a model is built."""


def of_timm() -> Iterator[str]:
    """Yield the smallest model of each file of timm."""
    for file in sorted(timm.list_modules()):
        sizes = {name: _size(f"timm:{name}") for name in timm.list_models(module=file)[:12]}
        yield from sorted((f"timm:{name}" for name in sizes if sizes[name]), key=lambda name: sizes[name[5:]])[:1]


def of_torchvision() -> Iterator[str]:
    """Yield the models of torchvision that attend."""
    yield from (f"torchvision:{name}" for name in ("vit_b_32", "swin_t", "swin_v2_t", "maxvit_t"))


def of_diffusers() -> Iterator[str]:
    """Yield tiny models of diffusers, if it is installed."""
    if importlib.util.find_spec("diffusers") is not None:
        yield from (f"diffusers:{name}" for name in _DIFFUSERS)


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


def _size(name: str) -> int:
    try:
        with torch.device("meta"):
            count = sum(each.numel() for each in _built(name).parameters())
    except Exception:  # noqa: BLE001  # some read a tensor as they are built
        return 0
    return count if count <= LARGEST else 0


def _built(name: str) -> Any:
    library, _, model = name.partition(":")
    if library == "timm":
        return timm.create_model(model)
    if library == "torchvision":
        return getattr(importlib.import_module("torchvision.models"), model)()
    return getattr(importlib.import_module("diffusers"), model)(**_DIFFUSERS[model][0])


def made(name: str) -> tuple[torch.nn.Module, Callable[[torch.nn.Module], object]]:
    """Return a model, and what runs it."""
    torch.manual_seed(0)
    model = _built(name).eval()
    given = _DIFFUSERS[name.partition(":")[2]][1] if name.startswith("diffusers") else {}
    inputs = {key: torch.tensor([3, 3]) if shape is None else torch.randn(shape) for key, shape in given.items()}
    channels, height, width = model.default_cfg["input_size"] if name.startswith("timm") else (3, 224, 224)
    image = torch.randn(1, channels, height, width)

    def run(model: torch.nn.Module) -> object:
        with torch.no_grad():
            return model(**inputs) if inputs else model(image)

    return model, run


def verdicts(name: str) -> Mapping[str, frozenset[str]]:
    """Return the verdicts on the classes of a model."""
    model, run = made(name)
    return attention_verdicts(model, run, capture_attention)


def main(names: Sequence[str]) -> int:
    """Scan models, and return 1 if a class is silent."""
    warnings.simplefilter("ignore")
    found: defaultdict[str, set[str]] = defaultdict(set)
    for name in names or [*of_timm(), *of_torchvision(), *of_diffusers()]:
        try:
            of_model = verdicts(name)
        except Exception as error:  # noqa: BLE001  # a model that cannot be built or run here
            print(f"{name} not run: {type(error).__name__}: {error}"[:160], file=sys.stderr)  # noqa: T201  # a script
            continue
        for cls, each in of_model.items():
            found[cls] |= each
    for cls in sorted(found):
        print(f"{cls:80} {'; '.join(sorted(found[cls]))}")  # noqa: T201  # a script
    silent = [cls for cls, each in found.items() if "silent" in each]
    print(f"{len(found)} classes, {len(silent)} of them silent")  # noqa: T201  # a script
    return int(bool(silent))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
