"""timm models by name: their options on a command line, their weights, and their layers."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

import timm
import torch

from anylocal.errors import OptionError, WeightsError
from anylocal_vit._adapter import adapter

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def add_options(parser: ArgumentParser, *, required: bool = False) -> None:
    """Add the options that choose a model, its weights and its layers."""
    parser.add_argument(
        "--model", metavar="NAME", required=required, help="a timm model, such as vit_small_patch16_224"
    )
    parser.add_argument("--layers", metavar="PATTERN", help="only layers of these names, as in 'blocks.1?.attn'")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--checkpoint", metavar="FILE", help="weights from a file instead of the Hugging Face hub")
    weights.add_argument("--random-weights", action="store_true", help="an untrained model, which needs no network")


def check_name(name: str) -> None:
    """Raise OptionError if timm has no model of this name."""
    if not timm.is_model(name):
        near = get_close_matches(name.partition(".")[0], timm.list_models(), n=3) or ["vit_small_patch16_224"]
        raise OptionError(f"timm has no model {name!r}. It has, for example: {', '.join(near)}.")


def load_model(options: Namespace) -> torch.nn.Module:
    """Return the chosen model in eval mode, with weights from the hub, from a file, or random ones."""
    check_name(options.model)
    pretrained = options.checkpoint is None and not options.random_weights
    try:
        model: torch.nn.Module = timm.create_model(
            options.model, pretrained=pretrained, checkpoint_path=options.checkpoint or ""
        )
    except (OSError, RuntimeError) as error:
        reason = [line.rstrip(".") for line in str(error).strip().splitlines()] or [type(error).__name__]
        raise WeightsError(
            f"The weights of {options.model!r} could not be loaded: {reason[0]}."
            " The Hugging Face hub has them, which needs a network once; then they are cached. HF_HUB_OFFLINE=1 skips"
            " its retries. Offline, give a file with --checkpoint FILE, take an untrained model with --random-weights,"
            " or leave --model out: the demo's own needs no hub."
        ) from error
    return model.eval()


def listing(name: str) -> str:
    """Return the attention layers of a model as lines: those with a map, and those without one."""
    check_name(name)
    try:
        # Nothing runs, so neither weights nor memory for them are needed.
        with torch.device("meta"):
            model = timm.create_model(name)
    except NotImplementedError:
        model = timm.create_model(name)  # some models cannot be made on the meta device
    capture = adapter.capture_attention(model)
    lines = [f"{name} has {len(capture.layers)} layers with a map, by module and class:"]
    lines += [f"  {layer}  {kind}" for layer, kind in capture.layers.items()]
    if capture.unsupported:
        lines += [f"and {len(capture.unsupported)} without one:"]
        lines += [f"  {layer}  {what}" for layer, what in capture.unsupported.items()]
    return "\n".join(lines)
