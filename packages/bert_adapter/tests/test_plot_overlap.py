"""Nothing overlaps in pictures of real texts, a sentence and a paragraph, whatever their size."""

from __future__ import annotations

from functools import cache
from typing import Any

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure
from transformers import AutoModel, AutoTokenizer

from anylocal.testing import overlaps
from anylocal_bert import capture_text, minilm, plot

mpl.use("Agg")

SENTENCE = "The animal didn't cross the street because it was too tired."
PARAGRAPH = (
    "Attention maps show which tokens a model looks at when it computes the representation of another token. In many "
    "heads, most of the weight rests on the first token, which works as a sink; the rest is spread over words that are "
    "near. Researchers have drawn these maps for years, and argued about what they mean: some say that attention is "
    "explanation, others that it is not. A picture should let its reader find the strongest connections quickly, name "
    "the words they join, and tell honestly what was left out."
)


@cache
def maps(text: str) -> Any:
    folder = minilm.folder()
    model = AutoModel.from_pretrained(folder, attn_implementation="sdpa").eval()
    return capture_text(model, AutoTokenizer.from_pretrained(folder), text)


RECIPES = {
    "tokens": lambda text, ax: plot.tokens(maps(text)[4], ax=ax),
    "tokens of one": lambda text, ax: plot.tokens(maps(text)[4], queries=10, ax=ax),
    "tokens of three": lambda text, ax: plot.tokens(maps(text)[4], head=3, queries=[2, 10, 12], ax=ax),
    "lines": lambda text, ax: plot.lines(maps(text)[4], head=3, ax=ax),
    "lines of one": lambda text, ax: plot.lines(maps(text)[4], query=10, ax=ax),
    "rollout": lambda text, ax: plot.rollout(maps(text), ax=ax),
    "entropy": lambda text, ax: plot.entropy(maps(text), ax=ax),
}


@pytest.mark.parametrize("size", [(4, 3), (7, 5), (12, 8)], ids=str)
@pytest.mark.parametrize("text", [SENTENCE, PARAGRAPH], ids=["sentence", "paragraph"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes(recipe: str, text: str, size: tuple[float, float]) -> None:
    """Titles, labels, numbers and the colorbar keep apart."""
    figure = Figure(size, layout="constrained")
    ax = RECIPES[recipe](text, figure.subplots())
    assert not overlaps(figure)
    assert len(ax.get_title().split("\n")) <= 2
