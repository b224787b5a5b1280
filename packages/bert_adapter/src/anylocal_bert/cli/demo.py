"""From a model and a text to pictures of every attention map."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from transformers import AutoModel, AutoTokenizer

from anylocal.attention import AttentionMap, AttentionMaps, Tokens
from anylocal.cli.command import summary, write
from anylocal.drawing import array_of, clipped, scale_of
from anylocal.errors import OptionError, WeightsError
from anylocal.plot import heads
from anylocal.view import explore
from anylocal_bert import minilm, plot
from anylocal_bert._sides import words_of
from anylocal_bert._text import capture_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

TEXT = "The animal didn't cross the street because it was too tired."

LONGEST = 80
"""Most characters of the text in the title of the page."""

LONGEST_NAME = 40
"""Most characters of a token in a file name: file systems take them even at four bytes each."""


class Reader(NamedTuple):
    """A model with its tokenizer."""

    model: torch.nn.Module
    tokenizer: Any


def load(name: str | None) -> Reader:
    """Load a model and its tokenizer from a folder or from the hub."""
    source = str(minilm.folder()) if name is None else name
    local = name is None or Path(source).is_dir()
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local)
        model = AutoModel.from_pretrained(source, local_files_only=local).eval()
    except (OSError, ValueError) as error:
        reason = [line.rstrip(".") for line in str(error).strip().splitlines()] or [type(error).__name__]
        raise WeightsError(
            f"{source!r} could not be loaded: {reason[0]}. A name is looked up on"
            " the Hugging Face hub, which needs a network the first time; HF_HUB_OFFLINE=1 skips its retries."
            " Offline, give a folder that holds model and tokenizer, or leave --model out: the demo's own model is on"
            " this disk."
        ) from error
    return Reader(model, tokenizer)


def run(reader: Reader, text: str, out: Path, word: str | None = None) -> list[Path]:
    """Capture every map of the text, write the pictures, and return their files."""
    maps = capture_text(reader.model, reader.tokenizer, text)
    print(f"{summary(maps)} Tokens: {' '.join(maps[0].keys.labels())}")
    files = [*write(_pictures(maps, word), out), *_page(maps, text, out)]
    print(f'Look at {files[0]} first: what "{maps[0].queries.label(_position(maps[0], word))}" attends to in one head.')
    return files


def _page(maps: AttentionMaps, text: str, out: Path) -> list[Path]:
    try:
        return [explore(maps, title=text if len(text) <= LONGEST else f"{text[:LONGEST]}…").save(out / "text.html")]
    except OptionError as error:
        # The pictures have been written all the same.
        print(f"No interactive page: {error}")
        return []


def _pictures(maps: AttentionMaps, word: str | None) -> Iterator[tuple[str, Callable[[], Figure]]]:
    position = _position(maps[0], word)
    head = clearest_head(maps[-1], position)
    yield "text-lines", lambda: _figure_of(plot.lines(maps[-1], query=position, head=head))
    small = {"xtick.labelsize": 6, "ytick.labelsize": 6}
    for number, attention in enumerate(maps):
        yield f"text-layer-{number:02}-heads", partial(_large, heads, attention, small)
    yield "text-model", partial(_large, plot.model, maps)
    yield "text-tokens", lambda: _figure_of(plot.tokens(maps[-1]))
    yield "text-rollout", lambda: _figure_of(plot.rollout(maps, query=position))
    yield f"text-word-{_name(maps[0], position)}", lambda: word_figure(maps, position)


def _name(attention: AttentionMap, position: int) -> str:
    """Return a token as part of a file name: letters, digits and dashes, or its position if it has none."""
    name = re.sub(r"[\W_]+", "-", attention.queries.label(position)).strip("-")
    return name[:LONGEST_NAME] or f"at-{position}"


def _position(attention: AttentionMap, word: str | None) -> int:
    """Return the position of the word, by default of "it", or the middle of the text."""
    labels = attention.queries.labels()
    if word is None:
        return labels.index("it") if "it" in labels else len(labels) // 2
    if word not in labels:
        raise OptionError(f"{word!r} is not a token of the text. Its tokens are: {' '.join(labels)}.")
    return labels.index(word)


def clearest_head(attention: AttentionMap, position: int) -> int:
    """Return the head in which a token attends most to another word: most heads attend to special tokens."""
    keys = attention.keys
    weights = attention[0, :, position].clone()
    weights[:, position] = 0
    if isinstance(keys, Tokens):
        weights[:, torch.from_numpy(keys.is_special(0))] = 0
    return int(weights.amax(-1).argmax())


def _large(draw: Callable[[Any], Figure], maps: Any, options: Mapping[str, Any] | None = None) -> Figure:
    settings: dict[Any, Any] = {"figure.figsize": (12, 9), **(options or {})}
    with plt.rc_context(settings):
        return draw(maps)


def word_figure(maps: AttentionMaps, position: int) -> Figure:
    """Draw the attention of one token in all heads of all layers, on one scale."""
    columns = 3
    rows = -(-len(maps) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(12, 3.4 * rows), layout="constrained", squeeze=False)
    weights = [array_of(attention[0, :, position]) for attention in maps]
    # Special tokens, on which most heads rest, would take the whole scale.
    words = words_of(maps[0].keys, range(len(maps[0].keys)), 0)
    scale = scale_of("sqrt", [layer[:, words] for layer in weights])
    for ax, attention, layer in zip(axes.flat, maps, weights, strict=False):
        queries = Tokens([f"head {head}" for head in range(len(layer))])
        by_head = AttentionMap.from_weights(layer, name=attention.name, queries=queries, keys=attention.keys)
        plot.tokens(by_head, norm=scale, ax=ax, colorbar=False)
        ax.set_title(attention.name, fontsize="medium")
        # Small enough for a label on every token of a sentence.
        ax.tick_params(labelsize=7)
        ax.set_ylabel("")
        if len(attention.keys) > 2 * len(layer):
            # Square cells would turn a long text into a strip in an empty figure.
            ax.set_aspect("auto")
        image = ax.images[0]
    for ax in axes.flat[len(maps) :]:
        ax.remove()
    extend = clipped([scale] * len(weights), weights)
    figure.colorbar(
        image, ax=list(axes.flat[: len(maps)]), label="attention weight", shrink=0.6, extend=extend, extendfrac=0.04
    )
    figure.suptitle(f'what "{maps[0].queries.label(position)}" attends to')
    return figure


def _figure_of(ax: Any) -> Figure:
    figure = ax.get_figure()
    assert isinstance(figure, Figure)
    return figure
