"""The command ``python -m anylocal_bert``, with its real model."""

from __future__ import annotations

from pathlib import Path

import pytest

from anylocal.errors import WeightsError
from anylocal_bert import _demo
from anylocal_bert.__main__ import main


def test_the_demo_writes_every_layer_the_tokens_and_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """There is a picture of each layer, of the last one with its tokens, and of what one word attends to."""
    assert main(["--text", "The cat slept because it was tired.", "--out", str(tmp_path)]) == 0
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["text-it.png", *(f"text-layer-{i:02}-heads.png" for i in range(6)), "text-tokens.png"]
    printed = capsys.readouterr().out
    assert "Captured 6 layers of 12 heads, 6 of them fused" in printed
    assert all(str(tmp_path / name) in printed for name in names)


def test_a_word_that_is_not_in_the_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A word that the text does not have is refused with the tokens that it has."""
    assert main(["--text", "Hello, world!", "--word", "moon", "--out", str(tmp_path)]) == 1
    assert "'moon' is no token of the text. Its tokens are: [CLS] hello , world ! [SEP]." in capsys.readouterr().err


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    """A folder that holds no model is refused with the ways to go on."""
    with pytest.raises(WeightsError, match=r"could not be loaded: .* Offline, give a folder"):
        _demo.load(str(tmp_path))
