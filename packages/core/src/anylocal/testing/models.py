"""Models whose parameters are far from their initial values."""

from __future__ import annotations

import torch


def perturb(model: torch.nn.Module, *, scale: float = 0.05, seed: int = 0) -> torch.nn.Module:
    """Move every parameter and floating-point buffer at random, and return the model.

    At initialisation biases are zero and some models' maps are nearly uniform, so that a dropped bias or a constant
    would pass the tests.

    Parameters
    ----------
    model : torch.nn.Module
        The model, changed in place.
    scale : float, default 0.05
        Standard deviation of the noise.
    seed : int, default 0
        Seed of the random generator.

    Examples
    --------
    >>> layer = perturb(torch.nn.Linear(2, 2))
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.add_(scale * torch.randn(tensor.shape, generator=generator).to(tensor))
    return model
