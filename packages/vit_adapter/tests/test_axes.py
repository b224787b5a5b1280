"""The axes of a map: prefix tokens, and patches of the actual input."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import timm
import torch
from packaging.version import Version
from timm.layers import HybridEmbed

import anylocal_vit
from anylocal.adapter import InputContext, module_names
from anylocal.attention import Axis, Named, Patches, distance
from anylocal_vit._axes import _around as around

Make = Callable[..., Any]


def captured(model: Any, height: int, width: int) -> Any:
    with anylocal_vit.capture_attention(model) as maps, torch.no_grad():
        model(torch.randn(1, 3, height, width))
    return maps


@pytest.mark.parametrize(
    ("name", "options", "prefix"),
    [
        ("vit_tiny_patch16_224", {}, ("cls",)),
        ("deit_tiny_patch16_224", {}, ("cls",)),
        ("deit_tiny_distilled_patch16_224", {}, ("cls", "dist")),
        ("deit3_small_patch16_224", {}, ("cls",)),
        ("vit_small_patch14_reg4_dinov2", {"patch_size": 16}, ("cls", "reg1", "reg2", "reg3", "reg4")),
        ("vit_base_patch16_siglip_224", {"embed_dim": 96, "num_heads": 3}, ()),
    ],
)
def test_prefix_tokens_are_read_off_the_model(
    make: Make, name: str, options: dict[str, Any], prefix: tuple[str, ...]
) -> None:
    """The prefix tokens have the names and the number that the model gives them."""
    maps = captured(make(name, img_size=64, depth=2, **options), 64, 64)
    patches = Patches(grid=(4, 4), prefix=prefix, image_size=(64, 64))
    assert maps[0].queries == patches
    assert maps[0].keys == patches


def test_grid_is_that_of_the_image(make: Make) -> None:
    """A model of dynamic size has the grid of its input, also of a rectangle."""
    model = make(depth=1, dynamic_img_size=True)
    assert captured(model, 64, 96)[0].queries == Patches(grid=(4, 6), prefix=("cls",), image_size=(64, 96))
    assert captured(model, 96, 32)[0].queries == Patches(grid=(6, 2), prefix=("cls",), image_size=(96, 32))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_tiny_patch16_224", {"dynamic_img_size": True}),
        ("eva02_tiny_patch14_224", {"dynamic_img_size": True, "patch_size": 16}),
        pytest.param(
            "naflexvit_base_patch16_gap",
            {"embed_dim": 64, "num_heads": 2},
            marks=pytest.mark.skipif(
                Version(timm.__version__) < Version("1.0.27"),
                reason="timm can pad for it from 1.0.27 on",
            ),
        ),
    ],
)
@pytest.mark.parametrize(("size", "grid"), [((65, 65), (5, 5)), ((70, 161), (5, 11)), ((64, 96), (4, 6))])
def test_patches_of_a_padded_image_are_complete(
    make: Make, name: str, options: dict[str, Any], size: tuple[int, int], grid: tuple[int, int]
) -> None:
    """A model that pads its image has the padded grid, with patches of full size beyond the image's edge too."""
    axis = captured(make(name, depth=1, dynamic_img_pad=True, **options), *size)[0].keys
    whole = 16 * grid[0], 16 * grid[1]
    added = whole[0] - size[0], whole[1] - size[1]
    assert axis == Patches(grid, prefix=axis.prefix, image_size=whole, image_padding=added)


def test_distances_in_a_padded_image_are_those_of_complete_patches(make: Make) -> None:
    """Patches whose centres are 16 pixels apart are 16 pixels apart for `distance`, whatever the size of the image."""
    (attention,) = captured(make(depth=1, dynamic_img_size=True, dynamic_img_pad=True), 70, 161)
    weights = attention.numpy()[0, :, 1:, 1:].astype(float)
    rows, columns = np.divmod(np.arange(5 * 11), 11)
    apart = 16 * np.hypot(rows[:, None] - rows, columns[:, None] - columns)
    expected = (weights * apart).sum(-1) / weights.sum(-1)
    np.testing.assert_allclose(distance(attention)[0], expected.mean(-1), rtol=1e-4)


def test_a_hybrid_pads_what_its_backbone_makes(make: Make) -> None:
    """Patches of padded features have the size of the pixels that the features were computed from."""
    backbone = torch.nn.Conv2d(3, 8, 4, stride=4)
    padding = {"dynamic_img_size": True, "dynamic_img_pad": True}
    model = make(depth=1, embed_layer=partial(HybridEmbed, backbone), patch_size=2, img_size=64, **padding)
    axis = captured(model, 52, 20)[0].keys
    assert axis == Patches((7, 3), prefix=("cls",), image_size=(56, 24), image_padding=(4, 4))


def test_parts_of_larger_models(make: Make) -> None:
    """A transformer inside another module has its own axes, and names with the path to it."""

    class Wrapper(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = make(img_size=64, depth=1)

        def forward(self, x: torch.Tensor) -> Any:
            return self.backbone(x)

    maps = captured(Wrapper(), 64, 64)
    assert maps.names == ["backbone.blocks.0.attn"]
    assert maps[0].queries == Patches(grid=(4, 4), prefix=("cls",), image_size=(64, 64))


def test_dropped_patches_are_only_counted(make: Make) -> None:
    """With patch dropout, the positions are only counted, not taken for a grid."""
    model = make(img_size=64, depth=1, patch_drop_rate=0.5).train()
    maps = captured(model, 64, 64)
    assert maps[0].queries == Axis(1 + 8)


def test_attention_pool_has_queries_of_its_own(make: Make) -> None:
    """The pool at the end of a SigLIP model has one latent query, and its keys are the patches."""
    maps = captured(make("vit_base_patch16_siglip_224", img_size=64, depth=1, embed_dim=96, num_heads=3), 64, 64)
    pool = maps["attn_pool"]
    assert pool.queries == Named(("latent",))
    assert pool.keys == Patches(grid=(4, 4), prefix=(), image_size=(64, 64))


# Other models than timm's


def layer() -> torch.nn.Module:
    return torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)


class TwoTowers(torch.nn.Module):
    """Relates images to texts."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.words = torch.nn.Conv2d(3, 16, 16, 16), torch.nn.Embedding(9, 16)
        self.image, self.text = layer(), layer()

    def forward(self, image: torch.Tensor, text: torch.Tensor) -> Any:
        seen = self.image(self.patches(image).flatten(2).mT).mean(1)
        return seen @ self.text(self.words(text)).mean(1).T


def related(model: Any, words: int, texts: int = 1) -> Any:
    with anylocal_vit.capture_attention(model) as maps, torch.no_grad():
        model(torch.randn(1, 3, 64, 64), torch.zeros(texts, words, dtype=torch.long))
    return maps


def test_a_square_number_of_words_is_no_grid() -> None:
    """Of two towers in one model, only the one over the patches of a convolution has patches as its axes."""
    maps = related(TwoTowers(), words=36)
    assert maps["image.self_attn"].keys == Patches((4, 4), prefix=(), image_size=(64, 64))
    assert maps["text.self_attn"].keys == Axis(36)


def test_several_texts_of_one_image_are_no_windows() -> None:
    """A batch of texts is larger than that of images without being windows of them."""
    text = related(TwoTowers(), words=36, texts=3)["text.self_attn"]
    assert (text.windows, text.images, text.keys) == (1, 3, Axis(36))


class Visual(torch.nn.Module):
    """A tower over images, with a class token, as in OpenCLIP."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 16, 16, 16)
        self.class_embedding, self.transformer = torch.nn.Parameter(torch.randn(16)), layer()

    def forward(self, x: torch.Tensor) -> Any:
        x = self.conv1(x).flatten(2).mT
        return self.transformer(torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1))[:, 0]


class Clip(torch.nn.Module):
    """Has a tower that is a model by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.visual, self.token_embedding, self.transformer = Visual(), torch.nn.Embedding(9, 16), layer()

    def forward(self, image: torch.Tensor, text: torch.Tensor) -> Any:
        return self.visual(image) @ self.transformer(self.token_embedding(text)).mean(1).T


def test_a_tower_in_a_model_is_what_it_is_alone() -> None:
    """In a larger model, a tower over images has patches and a class token, and the one over words has neither."""
    expected = Patches((4, 4), prefix=("cls",), image_size=(64, 64))
    maps = related(Clip(), words=16)
    assert maps["visual.transformer.self_attn"].keys == expected
    assert maps["transformer.self_attn"].keys == Axis(16)
    assert captured(Clip().visual, 64, 64)[0].keys == expected


class Latents(torch.nn.Module):
    """Attends to patches with learned queries."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed, self.latents = torch.nn.Conv2d(3, 16, 16, 16), torch.nn.Parameter(torch.randn(9, 16))
        self.attend = torch.nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.patch_embed(x).flatten(2).mT
        return self.attend(self.latents.expand(len(x), -1, -1), x, x)[0]


def test_latent_queries_are_only_counted() -> None:
    """Learned queries are not a grid, whatever their number; the keys are the patches."""
    (attention,) = captured(Latents(), 64, 64)
    assert attention.queries == Axis(9)
    assert attention.keys == Patches((4, 4), prefix=(), image_size=(64, 64))


class Rearrange(torch.nn.Module):
    """A layer as einops makes it, which keeps its pattern and the lengths in it."""

    def __init__(self, pattern: str, **axes_lengths: int) -> None:
        super().__init__()
        self.pattern, self.axes_lengths = pattern, axes_lengths

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.unfold(x, (8, 16), stride=(8, 16)).mT


def test_patches_may_be_cut_by_a_pattern() -> None:
    """The size of patches is read from a layer of einops that makes them, as in vit-pytorch."""

    class Rearranging(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            cut = Rearrange("b c (h p1) (w p2) -> b (h w) (p1 p2 c)", p1=8, p2=16)
            self.to_patch_embedding = torch.nn.Sequential(cut, torch.nn.Linear(384, 16))
            self.transformer = layer()

        def forward(self, x: torch.Tensor) -> Any:
            return self.transformer(self.to_patch_embedding(x))

    assert captured(Rearranging(), 64, 64)[0].keys == Patches((8, 4), prefix=(), image_size=(64, 64))


class Pooling(torch.nn.Module):
    """Pools its keys, as in PVT, and is given the grid of its queries."""

    def forward(self, x: torch.Tensor, H: int, W: int) -> Any:
        pooled = torch.nn.functional.avg_pool2d(x.mT.unflatten(-1, (H, W)), 4)
        q, k = x[:, None], pooled.flatten(2).mT[:, None]
        attn = (q @ k.mT).softmax(-1)
        return attn @ k


def test_a_layer_may_tell_its_own_grid() -> None:
    """Rows and columns that a layer was given are those of its queries, and of its keys where they are pooled."""

    class Stage(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.attn = torch.nn.Conv2d(3, 16, 7, stride=4, padding=3), Pooling()

        def forward(self, x: torch.Tensor) -> Any:
            x = self.stem(x)
            return self.attn(x.flatten(2).mT, *x.shape[2:])

    (attention,) = captured(Stage(), 64, 96)
    assert attention.queries == Patches((16, 24), prefix=(), image_size=(64, 96))
    assert attention.keys == Patches((4, 6), prefix=(), image_size=(64, 96))


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_a_traced_part_beside_a_model_is_no_matter(make: Make) -> None:
    """A traced module has no submodules in the usual place, and the maps beside it are captured."""

    class Beside(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vit = make(img_size=64, depth=1, num_classes=3)
            self.traced = torch.jit.trace(torch.nn.Linear(3, 3), torch.ones(1, 3))

        def forward(self, x: torch.Tensor) -> Any:
            return self.traced(self.vit(x))

    assert captured(Beside(), 64, 64)[0].keys == Patches((4, 4), prefix=("cls",), image_size=(64, 64))


def test_modules_are_listed_once_for_all_layers(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deeper model's maps are not made by going through all of its modules for each of its layers."""

    def listed(depth: int) -> int:
        times: list[object] = []

        def noted(model: torch.nn.Module) -> Any:
            times.append(model)
            return module_names(model)

        with monkeypatch.context() as patched:
            patched.setattr("anylocal_vit._axes.module_names", noted)
            assert len(captured(make(depth=depth), 224, 224)) == depth
        return len(times)

    assert listed(4) == listed(1)


def test_modules_that_take_the_places_of_others_are_seen(make: Make) -> None:
    """What is around a layer is what is there now, although the modules were listed before."""
    model = make(depth=2)
    context = InputContext(model, {}, None, {})
    around("blocks.0.attn", context)
    model.blocks = torch.nn.Sequential(*model.blocks)
    assert any(module is model.blocks for _, module in around("blocks.0.attn", context))
