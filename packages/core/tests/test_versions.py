"""Versions of a zoo that an adapter does not know: refused where older; where newer, tried and checked."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402  # torch may not be there

from anylocal import get_local  # noqa: E402  # as above
from anylocal.errors import UnknownVersionWarning, VersionError  # noqa: E402  # as above

from .of_torch import OfTorch  # noqa: E402  # as above

if TYPE_CHECKING:
    from anylocal.attention import AttentionMaps

INSTALLED = importlib.metadata.version("torch")
QUERY_KEY = torch.linspace(-2, 2, 24).reshape(1, 2, 3, 4)


class Newer(OfTorch):
    """Was last tested with a torch before the installed one."""

    newest = "1"


class Attention(nn.Module):
    """Spoils what is called its softmax in some way, after the line that shows it."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, q: Tensor) -> Tensor:
        attn = (q @ q.mT).softmax(-1)
        with torch.no_grad():
            if self.how == "columns":
                attn.copy_((q @ q.mT).softmax(-2))
            elif self.how == "negative":
                attn[..., 0] -= 2
                attn[..., 1] += 2
            elif self.how == "nan":
                attn[0, 0, 0, 0] = torch.nan
            elif self.how == "masked":
                attn[:, :, 1] = 0
        return attn @ q


def maps_of(model: nn.Module, q: Tensor = QUERY_KEY, **options: bool) -> AttentionMaps:
    with Newer().capture_attention(model, **options) as maps, torch.no_grad():
        model(q)
    return maps


def test_a_newer_version_is_tried_with_a_warning_at_the_users_line() -> None:
    """It names what is installed and what was tested."""
    with pytest.warns(UnknownVersionWarning, match=f"up to 1, and torch {INSTALLED}") as told:
        maps = maps_of(Attention("not at all"))
    assert maps[0].shape == (1, 2, 3, 3)
    assert [warning.filename for warning in told] == [__file__]


@pytest.mark.parametrize("series", ["", "999", ".".join(INSTALLED.split(".")[:2]), INSTALLED.split(".", maxsplit=1)[0]])
def test_a_version_of_the_newest_series_is_known(series: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The series 2 holds 2.15, and an adapter without one knows all."""
    monkeypatch.setattr(Newer, "newest", series)
    assert len(maps_of(Attention("not at all"))) == 1


@pytest.mark.parametrize("how", ["columns", "negative", "nan"])
@pytest.mark.filterwarnings("ignore::anylocal.errors.ChangedInPlaceWarning")
def test_a_map_that_is_no_softmax_is_refused(how: str) -> None:
    """A library that computes something else in the place of the softmax is not misread."""
    maps = maps_of(Attention(how), any_version=True)
    with pytest.raises(VersionError, match=f"torch {INSTALLED} is newer than anylocal knows.*none"):
        len(maps)


@pytest.mark.filterwarnings("ignore::anylocal.errors.ChangedInPlaceWarning")
def test_a_known_version_is_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check reads all weights, which costs time."""
    monkeypatch.setattr(Newer, "newest", "")
    assert len(maps_of(Attention("columns"))) == 1


@pytest.mark.filterwarnings("ignore::anylocal.errors.ChangedInPlaceWarning")
def test_rows_that_are_masked_as_a_whole_pass() -> None:
    """Models make them 0."""
    assert len(maps_of(Attention("masked"), any_version=True)) == 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_rounded_weights_pass(dtype: str) -> None:
    """A row of 512 rounded weights adds up to 1 as well as its dtype allows."""
    q = torch.linspace(-1, 1, 512 * 8, dtype=getattr(torch, dtype)).reshape(1, 1, 512, 8)
    assert len(maps_of(Attention("not at all"), q, any_version=True)) == 1


def test_a_tensor_without_data_is_not_checked() -> None:
    """A model on the meta device has shapes only."""
    assert len(maps_of(Attention("not at all"), QUERY_KEY.to("meta"), any_version=True)) == 1


@pytest.mark.filterwarnings("ignore::anylocal.errors.ChangedInPlaceWarning")
def test_what_is_no_softmax_is_not_put_into_the_cache_of_get_local() -> None:
    """`install` reads maps in the same way."""

    class Ours(Newer):
        def functions(self) -> Any:
            return [Attention.forward]

    ours, model = Ours(), Attention("negative")
    ours.install(any_version=True)
    try:
        with get_local.active():
            model(QUERY_KEY)
        with pytest.raises(VersionError, match="newer"):
            get_local.cache["Attention.forward"]
    finally:
        ours.uninstall()
        get_local.clear()
