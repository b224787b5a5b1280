"""A small timm ViT, trained on scikit-learn's digits: real weights where no hub can be reached."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import timm
import torch
from torch.nn import functional
from tqdm import tqdm

from anylocal.errors import DependencyError

SIDE = 36
"""Height and width of an image in pixels: a digit of 20 × 20 somewhere on a dark ground."""

_DIGIT = 20
_EPOCHS = 20
_BATCH = 64


def make() -> torch.nn.Module:
    """Return the model, untrained: 4 layers of 4 heads over 9 × 9 patches."""
    model: torch.nn.Module = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=SIDE,
        patch_size=4,
        in_chans=1,
        num_classes=10,
        embed_dim=64,
        depth=4,
        num_heads=4,
    )
    return model


def load() -> tuple[torch.Tensor, torch.Tensor]:
    """Return the digits, enlarged, shape (n, 1, 20, 20) in 0 to 1, and what they show, shape (n,)."""
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
    """Put each digit somewhere on a ground of its own, shape (n, 1, 36, 36)."""
    canvas = torch.zeros(len(digits), 1, SIDE, SIDE)
    corners = torch.randint(0, SIDE - _DIGIT + 1, (len(digits), 2), generator=generator)
    for image, digit, (top, left) in zip(canvas, digits, corners.tolist(), strict=True):
        image[:, top : top + _DIGIT, left : left + _DIGIT] = digit
    return canvas


def train(*, seed: int = 0, epochs: int = _EPOCHS) -> tuple[torch.nn.Module, float]:
    """Train the model behind a progress bar.

    Returns
    -------
    model : torch.nn.Module
        In eval mode.
    accuracy : float
        The share of the digits it gets right that it was not trained on.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    digits, labels = load()
    held_out = len(digits) // 5
    model = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    steps = epochs * ((len(digits) - held_out) // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    model.train()
    with tqdm(total=steps, desc="training a ViT on digits", unit="step") as bar:
        for _ in range(epochs):
            order = held_out + torch.randperm(len(digits) - held_out, generator=generator)
            for chosen in order[: len(order) // _BATCH * _BATCH].split(_BATCH):
                loss = functional.cross_entropy(model(place(digits[chosen], generator)), labels[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update()
                bar.set_postfix(loss=f"{loss.item():.2f}")
    model.eval()
    with torch.no_grad():
        right = model(place(digits[:held_out], generator)).argmax(-1) == labels[:held_out]
    return model, right.float().mean().item()


def sample(*, seed: int = 1, which: int = 5) -> torch.Tensor:
    """Return one image that the model was not trained on, shape (1, 1, 36, 36)."""
    digits, _ = load()
    return place(digits[which : which + 1], torch.Generator().manual_seed(seed))


def pixels(image: torch.Tensor) -> npt.NDArray[np.uint8]:
    """Return an image of `sample` for drawing, shape (36, 36, 3)."""
    grey = image[0, 0].mul(255).round().to(torch.uint8).numpy()
    return np.repeat(grey[..., None], 3, axis=-1)


def brightest_patch(image: torch.Tensor, grid: tuple[int, int]) -> tuple[int, int]:
    """Return row and column of the patch with the most ink."""
    ink = functional.adaptive_avg_pool2d(image, grid)[0, 0]
    row, column = divmod(int(ink.argmax()), grid[1])
    return row, column
