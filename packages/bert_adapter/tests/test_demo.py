"""The command ``python -m anylocal_bert``, with its real model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from anylocal.attention import AttentionMap, Tokens
from anylocal.errors import WeightsError
from anylocal_bert import _demo
from anylocal_bert.__main__ import main


def test_the_demo_writes_every_layer_the_tokens_and_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """There is a picture of each layer and of all, of the last one in two ways, and of one word in two ways."""
    assert main(["--text", "The cat slept because it was tired.", "--out", str(tmp_path)]) == 0
    names = sorted(path.name for path in tmp_path.iterdir())
    of_layers = [f"layer-{number:02}-heads" for number in range(6)]
    pictures = [f"text-{name}.png" for name in ("it", *of_layers, "lines", "model", "rollout", "tokens")]
    assert names == [*pictures, "text.html"]
    printed = capsys.readouterr().out
    assert "Captured 6 layers of 12 heads, 6 of them fused" in printed
    assert all(str(tmp_path / name) in printed for name in names)


def test_the_head_that_tells_most() -> None:
    """It is the one that looks at another word: not at a special token, nor at the word itself."""
    axis = Tokens(["[CLS]", "a", "it"], special=[1, 0, 0])
    rows = [[0.9, 0.1, 0.0], [0.4, 0.4, 0.2], [0.1, 0.1, 0.8]]
    weights = torch.tensor(rows)[:, None].expand(3, 3, 3)
    assert _demo.telling_head(AttentionMap.from_weights(weights[None], queries=axis, keys=axis), 2) == 1


def test_a_word_that_is_not_in_the_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A word that the text does not have is refused with the tokens that it has."""
    assert main(["--text", "Hello, world!", "--word", "moon", "--out", str(tmp_path)]) == 1
    assert "'moon' is no token of the text. Its tokens are: [CLS] hello , world ! [SEP]." in capsys.readouterr().err


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    """A folder that holds no model is refused with the ways to go on."""
    with pytest.raises(WeightsError, match=r"could not be loaded: .* Offline, give a folder"):
        _demo.load(str(tmp_path))
