"""One `capture_attention` reads the models of every library."""

from __future__ import annotations

import importlib.metadata
import shutil
from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402  # torch may not be there

from anylocal._readout import one_door, registry  # noqa: E402  # as above
from anylocal._readout.library import entry_points  # noqa: E402  # as above
from anylocal.attention import Axis, Patches, Tokens, capture_attention  # noqa: E402  # as above
from anylocal.errors import DependencyError, TargetError  # noqa: E402  # as above

if TYPE_CHECKING:
    from pathlib import Path


def timm_model() -> nn.Module:
    timm = pytest.importorskip("timm")
    pytest.importorskip("anylocal_vit")
    model: nn.Module = timm.create_model("vit_tiny_patch16_224", depth=1, img_size=32).eval()
    return model


def bert() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("anylocal_bert")
    config = transformers.BertConfig(num_hidden_layers=1, hidden_size=8, num_attention_heads=2, intermediate_size=8)
    model: nn.Module = transformers.BertModel(config).eval()
    return model


def run(model: nn.Module, given: Any, **options: Any) -> Any:
    with capture_attention(model, **options) as maps, torch.no_grad():
        model(given)
    return maps


IMAGE = torch.zeros(1, 3, 32, 32)
TEXT = torch.tensor([[5, 6, 7]])


def test_a_model_of_timm_has_patches() -> None:
    """The model's class says which adapter reads it."""
    assert run(timm_model(), IMAGE)[0].keys == Patches(grid=(2, 2), prefix=("cls",), image_size=(32, 32))


def test_a_model_of_transformers_has_tokens() -> None:
    """The same call, of another library."""
    assert run(bert(), TEXT)[0].keys.labels() == ["5", "6", "7"]


def test_a_tokenizer_gives_the_tokens_their_text() -> None:
    """It reaches the adapter."""
    model = bert()
    tokenizer = pytest.importorskip("transformers").ByT5Tokenizer()
    assert run(model, torch.tensor([[114, 122, 111]]), tokenizer=tokenizer)[0].keys.labels() == ["o", "w", "l"]


def test_an_image_model_of_transformers_has_patches() -> None:
    """A Hugging Face ViT is read by the adapter of its library."""
    bert()
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        num_hidden_layers=1, hidden_size=8, num_attention_heads=2, intermediate_size=8, image_size=32, patch_size=16
    )
    keys = run(transformers.ViTModel(config).eval(), IMAGE)[0].keys
    assert keys == Patches(grid=(2, 2), prefix=("cls",), image_size=(32, 32))


def test_a_model_of_torchvision_has_patches() -> None:
    """A model of no known library is read by the adapter for its kind of input."""
    timm_model()
    models = pytest.importorskip("torchvision").models
    model = models.VisionTransformer(32, 16, 1, 2, 8, 8).eval()
    assert run(model, IMAGE)[0].keys == Patches(grid=(2, 2), prefix=("cls",), image_size=(32, 32))


def test_an_adapter_is_found_as_soon_as_it_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And no longer once it is gone, though what is installed is read once."""
    (tmp_path / "unrelated").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert "zoo" not in entry_points()
    installed = tmp_path / "zoo_adapter-1.dist-info"
    installed.mkdir()
    (installed / "entry_points.txt").write_text("[anylocal.adapters]\nzoo = zoo_adapter\n", "utf-8")
    (installed / "METADATA").write_text("Name: zoo-adapter\nVersion: 1\n", "utf-8")
    assert entry_points()["zoo"].module == "zoo_adapter"
    with monkeypatch.context() as context:
        context.setattr(importlib.metadata, "entry_points", None)
        assert "zoo" in entry_points()
    shutil.rmtree(installed)
    assert "zoo" not in entry_points()


def test_the_library_of_most_submodules_decides_for_a_model_of_ones_own() -> None:
    """A user's module around a model of timm has that model's patches."""

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = timm_model()

        def forward(self, image: Any) -> Any:
            return self.backbone(image)

    assert isinstance(run(Own().eval(), IMAGE)[0].keys, Patches)


def test_a_wrapped_model_is_known_by_what_it_wraps() -> None:
    """Data parallelism puts the model into a module of torch's."""
    assert isinstance(run(nn.DataParallel(bert()), TEXT)[0].keys, Tokens)


def test_without_an_adapter_positions_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's own layers need none."""
    monkeypatch.setattr(one_door, "entry_points", lambda **_: {})
    maps = run(nn.TransformerEncoderLayer(4, 2, batch_first=True).eval(), torch.zeros(1, 3, 4))
    assert (maps[0].shape, type(maps[0].keys)) == ((1, 2, 3, 3), Axis)


def test_a_model_whose_adapter_is_missing_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message gives the command."""
    model = timm_model()
    monkeypatch.setattr(one_door, "entry_points", lambda **_: {})
    with pytest.raises(DependencyError, match="VisionTransformer is a model of timm, which anylocal-vit reads: pip"):
        capture_attention(model)


def test_what_is_no_model_is_refused() -> None:
    """As by the adapters themselves."""
    with pytest.raises(TargetError, match=r"not an nn\.Module"):
        capture_attention("bert")  # type: ignore[arg-type]  # the mistake


def test_only_the_adapter_that_is_needed_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other library may take seconds to import."""
    model = bert()
    loaded: list[str] = []
    found = registry.load

    def load(entry: importlib.metadata.EntryPoint) -> Any:
        loaded.append(entry.name)
        return found(entry)

    monkeypatch.setattr(one_door, "load", load)
    capture_attention(model)
    assert loaded == ["transformers"]


def test_an_adapter_refuses_a_model_of_another_library() -> None:
    """It would record nothing; the message names the import that does."""
    model = timm_model()
    bert()
    from anylocal_bert import capture_attention as of_bert

    with pytest.raises(TargetError, match=r"VisionTransformer is a model of timm.*anylocal_vit\.capture_attention"):
        of_bert(model)


def test_the_other_adapter_refuses_a_model_of_transformers() -> None:
    """A Hugging Face model given to the adapter of timm."""
    timm_model()
    model = bert()
    from anylocal_vit import capture_attention as of_vit

    with pytest.raises(TargetError, match=r"BertModel is a model of transformers.*anylocal_bert\.capture_attention"):
        of_vit(model)
