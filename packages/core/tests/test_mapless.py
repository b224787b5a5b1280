"""Attention layers that run and make no map are named at the end of the block, and no others are."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402  # torch may not be there
from torch.nn import functional as F  # noqa: E402, N812  # as everybody calls it

from anylocal.errors import LimitWarning, OverlookedWarning  # noqa: E402  # as above
from anylocal.testing import attention_verdicts, print_verdicts  # noqa: E402  # as above

from .of_torch import OfTorch  # noqa: E402  # as above

if TYPE_CHECKING:
    from anylocal.attention import AttentionMaps


def captured(model: nn.Module, *, times: int = 1, **options: Any) -> AttentionMaps:
    with OfTorch().capture_attention(model, **options) as maps, torch.no_grad():
        for _ in range(times):
            model(torch.ones(2, 5, 8))
    return maps


def told(model: nn.Module, **options: Any) -> tuple[str, AttentionMaps]:
    """Return the warning of a capture, and its maps."""
    with pytest.warns(OverlookedWarning) as caught:
        maps = captured(model, **options)
    assert len(caught) == 1
    return str(caught[0].message), maps


# What no capture knows.
def flash_attn_func(q: Any, k: Any, v: Any) -> Any:
    return (q @ k.mT).exp() @ v


def normalized(x: Any) -> Any:
    return F.softmax(x, dim=-1)


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def split(self, x: Any) -> Any:
        return self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)

    def join(self, x: Any) -> Any:
        return x.transpose(1, 2).flatten(2)


class Fused(Base):
    def forward(self, x: Any) -> Any:
        return self.join(F.scaled_dot_product_attention(*self.split(x)))


class Branches(Base):
    """Runs a foreign kernel in some of its calls."""

    def __init__(self, *foreign: bool) -> None:
        super().__init__()
        self.foreign = [*foreign]

    def forward(self, x: Any) -> Any:
        q, k, v = self.split(x)
        if self.foreign[0]:
            out = flash_attn_func(q, k, v)
        else:
            attn = (q @ k.mT).softmax(-1)
            out = attn @ v
        self.foreign.append(self.foreign.pop(0))
        return self.join(out)


class ForeignAttention(Base):
    """Names nothing that is known."""

    def forward(self, x: Any) -> Any:
        q, k, v = self.split(x)
        return self.join(normalized(q @ k.mT) @ v)


class Mixer(nn.Module):
    """Not called attention, without queries, but names a kernel that is."""

    def forward(self, x: Any) -> Any:
        return self.mix(x)

    def mix(self, x: Any) -> Any:
        return flash_attn_func(x, x, x)


class TestWhatIsTold:
    """A layer that ran without a map, with the reason."""

    def test_a_branch_with_a_foreign_kernel(self) -> None:
        """The layer whose call took that branch is named, with the line and the kernel; one that did not is read."""
        message, maps = told(nn.Sequential(Branches(True), Branches(False)))
        assert message.startswith("No attention map for '0': Branches.forward returned at line ")
        assert "as where it runs flash_attn_func" in message
        assert [attention.name for attention in maps] == ["1"]
        assert list(maps.unsupported) == ["0"]

    def test_a_branch_that_some_calls_take(self) -> None:
        """A layer that made a map in its first call is named for its second."""
        message, maps = told(Branches(False, True), times=2)
        assert (len(maps), list(maps.unsupported)) == (1, [""])
        assert "No attention map for ''" in message

    def test_where_no_layer_has_a_map(self) -> None:
        """The layers are the reason, and no function that was not called is blamed."""
        message, maps = told(nn.Sequential(Branches(True), Branches(True)))
        assert message.startswith("No attention map for '0', '1': ")
        assert len(maps) == 0

    def test_a_softmax_of_another_function(self) -> None:
        """A module that is called attention and has queries, but nothing that can be read, is named."""
        message, maps = told(nn.Sequential(Fused(), ForeignAttention()))
        assert "No attention map for '1': ForeignAttention ran without a kernel or a softmax" in message
        assert [attention.name for attention in maps] == ["0"]

    def test_by_the_name_that_holds_it(self) -> None:
        """A layer whose class is called otherwise is known by its name in the model."""

        class Own(ForeignAttention):
            pass

        model = Fused()
        model.self_attn = Own()
        model.register_forward_hook(lambda module, given, out: module.self_attn(out))
        assert list(told(model)[1].unsupported) == ["self_attn"]

    def test_a_foreign_kernel_in_a_method_of_any_class(self) -> None:
        """What names a kernel without a map needs not be called attention."""
        message, maps = told(nn.Sequential(Fused(), Mixer()))
        assert "Mixer ran without a map that can be read, as where it runs flash_attn_func" in message
        assert list(maps.unsupported) == ["1"]

    def test_a_helper_that_is_not_a_module(self) -> None:
        """It is named as the place of the attention, and no method that was not called is blamed."""

        class AttnProcessor:
            def __call__(self, attn: Any, x: Any) -> Any:
                q, k, v = attn.split(x)
                return attn.join(normalized(q @ k.mT) @ v)

        class Attention(Base):
            def __init__(self) -> None:
                super().__init__()
                self.processor = AttnProcessor()

            def scores(self, q: Any, k: Any) -> Any:
                attn = (q @ k.mT).softmax(-1)
                return attn

            def forward(self, x: Any) -> Any:
                return self.processor(self, x)

        message, _ = told(nn.Sequential(Attention()))
        assert "leaves attention to its" in message
        assert "AttnProcessor, which is not a module" in message

    def test_projections_of_its_own(self) -> None:
        """A module that runs torch's multi-head attention in one branch is named where it took the other one."""

        class Fairseq(Base):
            def forward(self, x: Any) -> Any:
                if self.training:
                    w, b = self.qkv.weight, self.qkv.bias
                    return F.multi_head_attention_forward(
                        x, x, x, 8, 2, w, b, None, None, False, 0.0, torch.eye(8), torch.zeros(8)
                    )[0]
                q, k, v = self.split(x)
                return self.join(normalized(q @ k.mT) @ v)

        model = nn.Sequential(Fairseq().train(), Fairseq().eval())
        message, maps = told(model)
        assert "No attention map for '1': " in message
        assert [attention.name for attention in maps] == ["0"]

    def test_torchscript(self) -> None:
        """A layer that runs without Python is named; whether it ran cannot be known."""

        class TinyAttention(nn.Module):
            def forward(self, x: Any) -> Any:
                return torch.softmax(x @ x.mT, dim=-1) @ x

        with warnings.catch_warnings():
            # Newer versions of torch advise against it.
            warnings.simplefilter("ignore")
            scripted = torch.jit.trace(TinyAttention(), torch.ones(2, 5, 8))
        message, _ = told(nn.Sequential(Fused(), scripted))
        assert "No attention map for '1': TorchScript compiled it" in message

    def test_a_layer_of_another_library(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The adapter that reads it is named."""
        monkeypatch.setattr(ForeignAttention, "__module__", "transformers.models.own")
        message, _ = told(nn.Sequential(Fused(), ForeignAttention()))
        assert "can be read; it is of transformers, which anylocal-bert reads." in message

    def test_the_innermost(self) -> None:
        """A layer around one that is told is not told as well."""

        class AttentionBlock(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.query_norm, self.attn = nn.LayerNorm(8), ForeignAttention()

            def forward(self, x: Any) -> Any:
                return self.attn(self.query_norm(x))

        _, maps = told(nn.Sequential(Fused(), AttentionBlock()))
        assert list(maps.unsupported) == ["1.attn"]

    def test_many_layers(self) -> None:
        """The warning names three and counts the others; all are listed."""
        message, maps = told(nn.Sequential(Fused(), *(ForeignAttention() for _ in range(5))))
        assert "No attention map for '1', '2', '3' and 2 more: " in message
        assert list(maps.unsupported) == ["1", "2", "3", "4", "5"]

    @pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0")
    def test_compiled(self) -> None:
        """In one graph as well."""
        model = nn.Sequential(Fused(), ForeignAttention())
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        with (
            pytest.warns(OverlookedWarning, match="No attention map for '1': ForeignAttention"),
            OfTorch().capture_attention(model) as maps,
            torch.no_grad(),
        ):
            compiled(torch.ones(2, 5, 8))
        assert [attention.name for attention in maps] == ["0"]

    def test_after_a_clear(self) -> None:
        """What ran before the maps were cleared is told at the end all the same."""
        model = nn.Sequential(Fused(), Branches(True, False), ForeignAttention())
        scope = OfTorch().capture_attention(model).open()
        for _ in range(2):
            with torch.no_grad():
                model(torch.ones(2, 5, 8))
            scope.clear()
        with pytest.warns(OverlookedWarning):
            scope.close()
        assert list(scope.unsupported) == ["1", "2"]


class TestWhatIsNot:
    """No false alarm: warnings are errors here."""

    def test_a_gate(self) -> None:
        """A layer that is called attention, but has no query, is listed without a warning."""

        class ChannelAttention(nn.Module):
            def forward(self, x: Any) -> Any:
                return x * x.mean(1, keepdim=True).sigmoid()

        maps = captured(nn.Sequential(Fused(), ChannelAttention()))
        assert list(maps.unsupported) == ["1"]

    def test_what_does_not_run(self) -> None:
        """A layer that the model skips is none that is missed."""
        model = Fused()
        model.cross_attn = ForeignAttention()
        assert not captured(model).unsupported

    def test_layers_around_a_map_and_inside_one(self) -> None:
        """A map of a part is one of the whole, and parts without queries are no layers."""

        class AttentionDropout(nn.Dropout):
            pass

        class SelfAttention(Fused):
            def __init__(self) -> None:
                super().__init__()
                self.attn_drop = AttentionDropout()

            def forward(self, x: Any) -> Any:
                return self.attn_drop(super().forward(x))

        class Attention(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.self, self.query_norm = SelfAttention(), nn.LayerNorm(8)

            def forward(self, x: Any) -> Any:
                return self.self(self.query_norm(x))

        maps = captured(nn.Sequential(Attention()))
        assert (len(maps), dict(maps.unsupported)) == (1, {})

    def test_a_function_that_leaves_the_map_to_another_one(self) -> None:
        """As the fused class of a layer does with the eager one that it derives from."""

        class Eager(Branches):
            def forward(self, x: Any) -> Any:
                if not self.foreign[0]:
                    return super().forward(x)
                return self.join(F.scaled_dot_product_attention(*self.split(x)))

        maps = captured(nn.Sequential(Eager(False), Eager(True)))
        assert (len(maps), dict(maps.unsupported)) == (2, {})

    def test_a_function_that_asks_another_one_first(self) -> None:
        """One that returns without the map of a module leaves it to the function that called it."""

        class Scores(Base):
            def forward(self, x: Any) -> Any:
                q, k, v = self.split(x)
                if (attn := self.eager(q, k)) is None:
                    return self.join(F.scaled_dot_product_attention(q, k, v))
                return self.join(attn @ v)

            def eager(self, q: Any, k: Any) -> Any:
                if not self.training:
                    return None
                attn = (q @ k.mT).softmax(-1)
                return attn

        maps = captured(nn.Sequential(Scores().eval(), Scores().train()))
        assert (len(maps), dict(maps.unsupported)) == (2, {})

    def test_a_call_that_raises(self) -> None:
        """A layer that raised has not run, whether the exception leaves the block or not."""

        class FailingAttention(Base):
            def forward(self, x: Any) -> Any:
                q, _, _ = self.split(x)
                raise ValueError(q.shape)

        model = nn.Sequential(Fused(), FailingAttention())
        with OfTorch().capture_attention(model) as maps, torch.no_grad(), pytest.raises(ValueError, match="Size"):
            model(torch.ones(2, 5, 8))
        assert not maps.unsupported

    def test_an_exception_that_leaves_the_block(self) -> None:
        """It is reason enough."""

        class Failing(nn.Module):
            def forward(self, x: Any) -> Any:
                raise ValueError(x.shape)

        model = nn.Sequential(Fused(), ForeignAttention(), Failing())
        with pytest.raises(ValueError, match="Size"), OfTorch().capture_attention(model):
            model(torch.ones(2, 5, 8))

    def test_maps_that_were_not_recorded(self) -> None:
        """At its limit a capture cannot know what else would have been made."""

        class Attention(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.query_norm, self.inner = nn.LayerNorm(8), Fused()

            def forward(self, x: Any) -> Any:
                return self.inner(self.query_norm(x))

        with pytest.warns(LimitWarning):
            maps = captured(nn.Sequential(*(Attention() for _ in range(100))), limit=1000)
        assert 0 < len(maps) < 100
        assert not maps.unsupported

    def test_layers_that_were_not_chosen(self) -> None:
        """Nothing is said of them."""
        assert not captured(nn.Sequential(Fused(), ForeignAttention()), modules="0").unsupported

    def test_reading_and_clearing_at_each_step(self) -> None:
        """Maps that were made before a clear count."""

        class Attention(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.query_norm, self.inner = nn.LayerNorm(8), Fused()

            def forward(self, x: Any) -> Any:
                return self.inner(self.query_norm(x))

        model = nn.Sequential(Attention())
        scope = OfTorch().capture_attention(model).open()
        for _ in range(2):
            model(torch.ones(2, 5, 8))
            assert len(scope.maps) == 1
            scope.clear()
        scope.close()
        assert not scope.unsupported


def verdicts(model: nn.Module) -> dict[str, frozenset[str]]:
    found = attention_verdicts(model, lambda each: each(torch.ones(2, 5, 8)), OfTorch().capture_attention)
    return {cls.rpartition(".")[2]: each for cls, each in found.items()}


class TestTheScan:
    """What it says of each class that is called attention."""

    def test_layers_that_ran(self) -> None:
        """Those with a map, and those that are told."""

        class FusedAttention(Fused):
            pass

        found = verdicts(nn.Sequential(FusedAttention(), ForeignAttention()))
        assert found["FusedAttention"] == {"map"}
        assert [each.partition(":")[0] for each in found["ForeignAttention"]] == ["unsupported"]

    def test_a_model_that_is_refused(self) -> None:
        """All of them, with the reason."""
        found = verdicts(nn.Sequential(ForeignAttention()))
        assert [each[:25] for each in found["ForeignAttention"]] == ["refused: Sequential compu"]

    def test_a_layer_that_is_silent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is found without the capture's own search for such layers."""
        monkeypatch.setattr("anylocal._readout.mapless.is_called_attention", lambda *_: False)
        assert verdicts(nn.Sequential(Fused(), ForeignAttention())) == {"ForeignAttention": {"silent"}}


def test_silent_classes_of_all_models_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """A class that is silent in one model counts, whatever it is in another."""
    verdicts = {
        "first": {"Attention": frozenset({"map"}), "Other": frozenset({"map"})},
        "second": {"Attention": frozenset({"silent"})},
    }
    assert print_verdicts([*verdicts, "third"], verdicts.__getitem__) == 1
    printed = capsys.readouterr()
    assert "map; silent" in printed.out
    assert "third not run" in printed.err
