"""The command ``python -m anylocal_vit``, with an untrained model to save time."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from anylocal import store
from anylocal.attention import Patches
from anylocal.errors import OptionError, WeightsError
from anylocal_vit.cli import demo, digits
from anylocal_vit.cli.main import main
from anylocal_vit.cli.models import load_model

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def _untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace training by an untrained model."""

    def train() -> tuple[torch.nn.Module, float]:
        return digits.make().eval(), 0.1

    monkeypatch.setattr(digits, "train", train)


@pytest.mark.usefixtures("_untrained")
def test_the_demo_writes_every_layer_a_query_and_the_rollout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With no argument but the folder, it draws each layer, a query and the rollout."""
    assert main(["--out", str(tmp_path)]) == 0
    names = sorted(path.name for path in tmp_path.iterdir())
    pictures = ["distance", *(f"layer-{i:02}-heads" for i in range(4)), "entropy", "prefix", "query", "rollout"]
    assert names == sorted([*(f"{picture}.png" for picture in pictures), "attention.html", "maps.safetensors"])
    printed = capsys.readouterr().out
    assert "Captured 4 layers of 4 heads, 4 of them fused" in printed
    assert "1 × 4 × 65 × 65" in printed
    assert all(str(tmp_path / name) in printed for name in names)


def test_any_model_and_any_photograph(tmp_path: Path) -> None:
    """Any timm model and a photograph of any size can be drawn."""
    photograph = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 140, 3), np.uint8)).save(photograph)
    arguments = ["--model", "test_vit", "--random-weights", "--image", str(photograph), "--query", "1,2"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "query.png").exists()


def random_image(folder: Path) -> str:
    file = folder / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 140, 3), np.uint8)).save(file)
    return str(file)


@pytest.mark.parametrize(
    ("model", "layers", "pictures"),
    [
        ("swin_tiny_patch4_window7_224", "layers.[03].blocks.1*", {"layer-00-windows", "layer-01-heads", "query"}),
        ("cait_xxs24_224", "blocks_token_only*", {"layer-01-heads", "query", "prefix"}),
        ("levit_128s", "stages.1*", {"layer-00-heads", "query", "entropy", "distance"}),
    ],
)
def test_any_family(tmp_path: Path, model: str, layers: str, pictures: set[str]) -> None:
    """Windows, class attention and pooled queries have pictures of their own kinds."""
    arguments = ["--model", model, "--random-weights", "--image", random_image(tmp_path), "--layers", layers]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert pictures <= {path.stem for path in (tmp_path / "out").iterdir()}


def test_the_maps_are_kept(tmp_path: Path) -> None:
    """The maps of the chosen layers can be loaded again, with their axes."""
    arguments = ["--model", "test_vit", "--random-weights", "--image", random_image(tmp_path)]
    assert main([*arguments, "--layers", "blocks.[23].attn", "--out", str(tmp_path)]) == 0
    maps = store.load(tmp_path / "maps.safetensors")
    assert maps.names == ["blocks.2.attn", "blocks.3.attn"]
    assert maps[0].keys == Patches((10, 10), prefix=("cls",), image_size=(160, 160))


def test_too_large_maps_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Maps too large for one file are refused before anything is drawn."""
    monkeypatch.setattr(demo, "LARGEST", 1e-6)
    arguments = ["--model", "test_vit", "--random-weights", "--image", random_image(tmp_path)]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 1
    assert "choose some with --layers" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_layers_of_a_model_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """Layers with a map are listed with their class, layers without one with what they are instead."""
    assert main(["--model", "xcit_nano_12_p16_224", "--list"]) == 0
    printed = capsys.readouterr().out
    assert "xcit_nano_12_p16_224 has 2 layers with a map" in printed
    assert "  cls_attn_blocks.1.attn  ClassAttn\n" in printed
    assert "and 12 without one:" in printed


def test_a_list_needs_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a name there is nothing to list."""
    assert main(["--list"]) == 1
    assert "name one with --model" in capsys.readouterr().err


def test_training_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three epochs lower the loss below that of guessing."""
    images, labels = digits.load()
    model, _ = digits.train(epochs=3)
    with torch.no_grad():
        logits = model(digits.place(images[:200], torch.Generator().manual_seed(0)))
    assert torch.nn.functional.cross_entropy(logits, labels[:200]) < 2.28  # ln 10 = 2.303


def test_a_misspelt_model_names_others(capsys: pytest.CaptureFixture[str]) -> None:
    """A model that timm does not have is refused with names that it has."""
    assert main(["--model", "vit_smal_patch16_224"]) == 1
    assert "timm has no model 'vit_smal_patch16_224'. It has, for example: vit_" in capsys.readouterr().err


def test_weights_out_of_reach_say_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network, the error names the options that need none."""

    def offline(*_: Any, **__: Any) -> None:
        raise OSError("We couldn't connect to the hub.")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(WeightsError, match=r"couldn't connect .* --checkpoint FILE, .* --random-weights"):
        load_model(Namespace(model="vit_tiny_patch16_224", checkpoint=None, random_weights=False))


def test_a_file_that_is_no_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that cannot be opened as an image is refused by name."""
    file = tmp_path / "notes.txt"
    file.write_text("no image")
    assert main(["--model", "test_vit", "--random-weights", "--image", str(file)]) == 1
    assert "notes.txt' is not a photograph" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["nothing.jpg", ""], ids=["missing", "a folder"])
def test_a_photograph_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """A missing file, or a folder, is refused with the remedy."""
    file = tmp_path / name
    assert main(["--model", "test_vit", "--random-weights", "--image", str(file), "--out", str(tmp_path / "out")]) == 1
    assert f"error: --image {file} could not be read" in capsys.readouterr().err


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_a_file_in_place_of_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str], below: str) -> None:
    """It is refused by name, before the small ViT is trained."""
    file = tmp_path / "notes.txt"
    file.write_text("no folder")
    assert main(["--out", str(file / below)]) == 1
    assert f"as {file} is a file. Choose another one by --out" in capsys.readouterr().err


def test_a_folder_without_the_right_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is refused by name, before the small ViT is trained."""
    # Tests may run as root, who may write anywhere.
    monkeypatch.setattr("os.access", lambda *_: False)
    assert main(["--out", str(tmp_path / "out")]) == 1
    assert f"{tmp_path} may not be written to" in capsys.readouterr().err


def test_a_query_outside_the_grid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A patch that the image does not have is refused before anything is drawn."""
    assert main(["--model", "test_vit", "--random-weights", "--query", "99,0", "--out", str(tmp_path)]) == 1
    assert "99" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_query_that_is_not_a_patch(capsys: pytest.CaptureFixture[str]) -> None:
    """An argument that is not a patch is explained by the parser."""
    with pytest.raises(SystemExit):
        main(["--query", "six"])
    assert "'six' is not a patch; write row,column as in 6,7" in capsys.readouterr().err


def test_the_query_is_where_the_digit_is() -> None:
    """The query of the demo is the patch with the most ink."""
    image = torch.full((1, 1, 32, 32), -0.5)
    image[..., 8:12, 20:24] = 3
    assert digits.brightest_patch(image) == (2, 5)


def test_an_option_error_is_one_of_ours() -> None:
    """Unknown models are refused by an error of anylocal's."""
    with pytest.raises(OptionError):
        demo.photo(Namespace(model="nothing", image=None, checkpoint=None, random_weights=True))
