"""A small timm ViT, trained on scikit-learn's digits: trained weights without a network."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt
import timm
import torch
from torch.nn import functional
from tqdm import tqdm

from anylocal.errors import DependencyError

SIDE = 32
"""Height and width of an image in pixels: a digit of 20 × 20 somewhere on a dark background."""

PATCH = 4
_DIGIT = 20
_EPOCHS = 20
_BATCH = 32
_LEARNING_RATE = 2e-3
# timm initialises position and class embeddings with 0.02, from which a thousand images teach them nothing.
_EMBEDDING_SPREAD = 0.5
# Of the pixels, roughly.
_MEAN, _STD = 0.15, 0.3


def make() -> torch.nn.Module:
    """Return the model, untrained: 4 layers of 4 heads over 8 × 8 patches."""
    model: Any = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=SIDE,
        patch_size=PATCH,
        in_chans=1,
        num_classes=10,
        embed_dim=64,
        depth=4,
        num_heads=4,
    )
    with torch.no_grad():
        model.pos_embed.normal_(std=_EMBEDDING_SPREAD)
        model.cls_token.normal_(std=_EMBEDDING_SPREAD)
    return cast("torch.nn.Module", model)


def load() -> tuple[torch.Tensor, torch.Tensor]:
    """Return the digits, enlarged to shape (n, 1, 20, 20) with values from 0 to 1, and their labels, shape (n,)."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        message = 'The demo trains on scikit-learn\'s digits: pip install "anylocal-vit[demo]".'
        raise DependencyError(message, name=error.name) from error
    data: Any = load_digits()
    images = torch.from_numpy(data.images).float().div(16)[:, None]
    images = functional.interpolate(images, size=(_DIGIT, _DIGIT), mode="bicubic", antialias=True).clamp(0, 1)
    return images, torch.from_numpy(data.target)


def place(digits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Place each digit at random on a background, aligned to patches; shape (n, 1, 32, 32), normalised."""
    canvas = torch.zeros(len(digits), 1, SIDE, SIDE)
    corners = PATCH * torch.randint(0, (SIDE - _DIGIT) // PATCH + 1, (len(digits), 2), generator=generator)
    for image, digit, (top, left) in zip(canvas, digits, corners.tolist(), strict=True):
        image[:, top : top + _DIGIT, left : left + _DIGIT] = digit
    return (canvas - _MEAN) / _STD


def train(*, seed: int = 0, epochs: int = _EPOCHS) -> tuple[torch.nn.Module, float]:
    """Train the model under a progress bar, and return it in eval mode with its accuracy on held-out digits."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    digits, labels = load()
    held_out = len(digits) // 5
    model = make().train()
    # So small a model gains nothing from a second thread, and is far slower with it where the cores are busy.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    steps = epochs * ((len(digits) - held_out) // _BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, total_steps=steps, pct_start=0.2)
    with tqdm(total=steps, desc="training a ViT on digits", unit="step", mininterval=0.5) as bar:
        for _ in range(epochs):
            order = held_out + torch.randperm(len(digits) - held_out, generator=generator)
            for chosen in order[: len(order) // _BATCH * _BATCH].split(_BATCH):
                loss = functional.cross_entropy(model(place(digits[chosen], generator)), labels[chosen])
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                bar.update()
            bar.set_postfix(loss=f"{loss.item():.2f}")
    torch.set_num_threads(threads)
    model.eval()
    with torch.no_grad():
        correct = model(place(digits[:held_out], generator)).argmax(-1) == labels[:held_out]
    return model, correct.float().mean().item()


def sample(*, seed: int = 1, which: int = 5) -> torch.Tensor:
    """Return one held-out image, shape (1, 1, 32, 32)."""
    digits, _ = load()
    return place(digits[which : which + 1], torch.Generator().manual_seed(seed))


def pixels(image: torch.Tensor) -> npt.NDArray[np.uint8]:
    """Return an image as `sample` returns it for drawing, shape (32, 32, 3)."""
    grey = image[0, 0].mul(_STD).add(_MEAN).clamp(0, 1).mul(255).round().to(torch.uint8).numpy()
    return np.repeat(grey[..., None], 3, axis=-1)


def brightest_patch(image: torch.Tensor) -> tuple[int, int]:
    """Return row and column of the patch with the most ink."""
    ink = functional.avg_pool2d(image, PATCH)[0, 0]
    return divmod(int(ink.argmax()), ink.shape[1])
