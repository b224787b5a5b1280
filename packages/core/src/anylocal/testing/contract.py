"""The contract of an adapter, as tests that its own tests inherit."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
import pytest
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from anylocal import get_local
from anylocal._engine import patch
from anylocal.errors import CodeReplacedWarning, StateError, UnknownVersionWarning, VersionError
from anylocal.testing.models import perturb

if TYPE_CHECKING:
    import types
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from anylocal._readout.adapter import Adapter
    from anylocal.attention import AttentionMap

LEAST_SPREAD: Final = 1e-3
"""Standard deviation of a map's weights, in units of the uniform weight, under which it counts as uniform."""


class AdapterContract:
    """The tests that every adapter must pass.

    Attributes
    ----------
    adapter : Adapter
        The adapter.

    Examples
    --------
    >>> import torch
    >>> from anylocal.adapter import adapters
    >>> from anylocal.testing import AdapterContract
    >>> class TestOurs(AdapterContract):
    ...     adapter = adapters().get("ours")
    ...     def make_model(self):
    ...         return torch.nn.TransformerEncoderLayer(4, 2).eval()
    ...     def run(self, model):
    ...         with torch.no_grad():
    ...             return model(torch.ones(5, 1, 4))
    ...     def functions(self):
    ...         return [torch.nn.MultiheadAttention.forward]
    """

    adapter: ClassVar[Adapter]

    def make_model(self) -> torch.nn.Module:
        """Return a small model of the zoo, in eval mode."""
        raise NotImplementedError

    def run(self, model: torch.nn.Module) -> torch.Tensor:
        """Run the model on the same input each time, without gradients, and return its output."""
        raise NotImplementedError

    def functions(self) -> Iterable[types.FunctionType]:
        """Return the attention functions that the model runs."""
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def _left_as_found(self) -> Iterator[None]:
        """Leave no mark, no value and no rewritten code."""
        yield
        get_local.deactivate()
        self.adapter.uninstall()
        get_local.clear()

    @pytest.fixture
    def model(self) -> torch.nn.Module:
        """Return a model whose parameters are far from their initialisation."""
        return perturb(self.make_model()).eval()

    @pytest.fixture
    def codes(self) -> dict[types.FunctionType, types.CodeType]:
        """Return the code of each attention function before the test."""
        return {function: function.__code__ for function in self.functions()}

    def test_output_is_bit_equal(self, model: torch.nn.Module) -> None:
        """The model computes the very same bits while it is captured."""
        alone = self.run(model)
        with self.adapter.capture_attention(model):
            captured = self.run(model)
        assert torch.equal(alone, captured)

    # torch warns on Python 3.13.0.
    @pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0")
    def test_a_compiled_model_gives_the_same_maps(self, model: torch.nn.Module) -> None:
        """Compiled without a graph break, it is captured in every forward pass like the eager one."""
        with self.adapter.capture_attention(model) as maps:
            self.run(model)
        expected = [(attention.name, attention.tensor()) for attention in maps]
        model.compile(fullgraph=True, backend="aot_eager")
        with self.adapter.capture_attention(model) as maps:
            self.run(model)
            self.run(model)
        forwards = maps.forwards
        assert len(forwards) == 2  # noqa: PLR2004  # it ran twice
        for forward in forwards:
            assert [attention.name for attention in forward] == [name for name, _ in expected]
            for attention, (_, map_) in zip(forward, expected, strict=True):
                torch.testing.assert_close(attention.tensor(), map_, atol=1e-5, rtol=0)

    def test_a_data_parallel_model_gives_the_same_maps(self, model: torch.nn.Module, tmp_path: Path) -> None:
        """Wrapped for several processes, layers keep their names and axes."""
        if not distributed.is_available():
            pytest.skip("This torch is built without torch.distributed.")
        with self.adapter.capture_attention(model) as maps:
            self.run(model)
        # Read before the wrapper is made, which writes into buffers that the axes may be views of.
        expected = [(item.name, item.queries, item.keys, item.tensor()) for item in maps]
        distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
        try:
            wrapped = DistributedDataParallel(model)
            with self.adapter.capture_attention(wrapped) as maps:
                self.run(wrapped)
            for item, (name, queries, keys, weights) in zip(maps, expected, strict=True):
                assert (item.name, item.queries, item.keys) == (name, queries, keys)
                assert torch.equal(item.tensor(), weights)
        finally:
            distributed.destroy_process_group()

    def test_clearing_after_each_batch_is_no_silence(self, model: torch.nn.Module) -> None:
        """A capture that is cleared at its end does not warn."""
        scope = self.adapter.capture_attention(model)
        with scope as maps:
            self.run(model)
            assert len(maps)
            scope.clear()
        assert not len(maps)

    def test_after_a_clear_the_next_maps_are_there(self, model: torch.nn.Module) -> None:
        """Also if they are as many as those that were read before."""
        scope = self.adapter.capture_attention(model)
        with scope as maps:
            self.run(model)
            count = len(maps)
            scope.clear()
            self.run(model)
            assert len(maps) == count > 0

    def test_maps_go_with_the_last_reference(self, model: torch.nn.Module) -> None:
        """They do not wait for the garbage collector, or a loop over a data set would fill the memory."""
        collecting = gc.isenabled()
        gc.disable()
        try:
            with self.adapter.capture_attention(model) as maps:
                self.run(model)
            watched = weakref.ref(maps[0])
            del maps
            assert watched() is None
        finally:
            if collecting:
                gc.enable()

    def test_rows_sum_to_one(self, model: torch.nn.Module) -> None:
        """Every row of every map is a softmax."""
        with self.adapter.capture_attention(model) as maps:
            self.run(model)
        assert len(maps) > 0
        for attention in maps:
            rows = attention.tensor().double().sum(-1)
            torch.testing.assert_close(rows, torch.ones_like(rows), atol=1e-5, rtol=0)

    def test_maps_are_not_uniform(self, model: torch.nn.Module) -> None:
        """The maps of the perturbed model differ from a constant, so that the other tests can fail."""
        with self.adapter.capture_attention(model) as maps:
            self.run(model)
        for attention in maps:
            spread = attention.tensor().std() * attention.shape[-1]
            assert spread > LEAST_SPREAD

    def test_axes_count_the_positions(self, model: torch.nn.Module) -> None:
        """The axes of each map have as many positions as it has rows and columns."""
        with self.adapter.capture_attention(model) as maps:
            self.run(model)
        assert [(len(m.queries), len(m.keys)) for m in maps] == [m.shape[2:] for m in maps]

    def test_code_is_back_after_the_scope(
        self, model: torch.nn.Module, codes: dict[types.FunctionType, types.CodeType]
    ) -> None:
        """Every function has its own code object back after the with block, and another one inside it."""
        with self.adapter.capture_attention(model):
            assert any(function.__code__ is not code for function, code in codes.items())
            self.run(model)
        assert all(function.__code__ is code for function, code in codes.items())

    def test_code_is_back_after_an_exception_in_the_model(
        self, model: torch.nn.Module, codes: dict[types.FunctionType, types.CodeType]
    ) -> None:
        """An exception in the model goes through, and the code is back."""

        def fail(*_: object) -> None:
            raise ZeroDivisionError

        last = list(model.modules())[-1]
        last.register_forward_pre_hook(fail)
        with pytest.raises(ZeroDivisionError), self.adapter.capture_attention(model):
            self.run(model)
        assert all(function.__code__ is code for function, code in codes.items())

    def test_nested_scopes(self, model: torch.nn.Module, codes: dict[types.FunctionType, types.CodeType]) -> None:
        """Two scopes on one model both get every map, and leave nothing behind."""
        with self.adapter.capture_attention(model) as outer:
            with self.adapter.capture_attention(model) as inner:
                self.run(model)
            self.run(model)
        assert len(outer) == 2 * len(inner) > 0
        assert all(function.__code__ is code for function, code in codes.items())

    def test_maps_may_be_read_while_the_model_runs(self, model: torch.nn.Module) -> None:
        """Reading after each forward pass returns the same maps as reading at the end, and makes none of them twice."""
        read: list[AttentionMap] = []
        with self.adapter.capture_attention(model) as maps, self.adapter.capture_attention(model) as at_the_end:
            for _ in range(3):
                self.run(model)
                read += maps[len(read) :]
        assert len(read) == len(maps) > 0
        assert all(one is other for one, other in zip(read, maps, strict=True))
        for one, other in zip(read, at_the_end, strict=True):
            assert (one.name, one.forward, one.shape) == (other.name, other.forward, other.shape)
            assert (one.queries, one.keys) == (other.queries, other.keys)
            assert torch.equal(one.tensor(), other.tensor())

    def test_install_fills_the_cache(self, model: torch.nn.Module) -> None:
        """`install` and `get_local.activate` give the same maps in the seed tools' cache."""
        with self.adapter.capture_attention(model) as maps:
            self.run(model)
        self.adapter.install()
        with get_local.active() as cache:
            self.run(model)
        arrays = [array for values in cache.values() for array in values]
        assert len(arrays) == len(maps)
        for array, attention in zip(arrays, maps, strict=True):
            np.testing.assert_array_equal(array, attention.numpy())

    def test_install_twice(self, model: torch.nn.Module, codes: dict[types.FunctionType, types.CodeType]) -> None:
        """Installing twice is installing once: each map is recorded once, and one `uninstall` undoes it."""
        self.adapter.install()
        self.adapter.install()
        with get_local.active() as cache:
            self.run(model)
        once = sum(map(len, cache.values()))
        self.adapter.uninstall()
        with self.adapter.capture_attention(model) as maps:
            self.run(model)
        assert once == len(maps)
        assert all(function.__code__ is code for function, code in codes.items())

    def test_uninstall_twice(self, codes: dict[types.FunctionType, types.CodeType]) -> None:
        """Uninstalling what is not installed does nothing, even while `get_local` is active."""
        get_local.activate()
        self.adapter.install()
        self.adapter.uninstall()
        self.adapter.uninstall()
        assert all(function.__code__ is code for function, code in codes.items())

    def test_installing_touches_nothing_until_activated(self, codes: dict[types.FunctionType, types.CodeType]) -> None:
        """`install` alone leaves every function its own code."""
        self.adapter.install()
        assert all(function.__code__ is code for function, code in codes.items())

    def test_failure_half_way_rolls_back(
        self,
        model: torch.nn.Module,
        codes: dict[types.FunctionType, types.CodeType],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """If the last function cannot be patched, the ones before it have their own code back."""
        real, count = patch.attach_one, 0
        capture = self.adapter.capture_attention(model)
        total = capture.count_of_functions

        def failing(subscription: Any) -> None:
            nonlocal count
            count += 1
            real(subscription)
            if count == total:
                raise StateError("the plug was pulled")

        monkeypatch.setattr(patch, "attach_one", failing)
        with pytest.raises(StateError, match="plug"):
            capture.open()
        assert count == total
        assert all(function.__code__ is code for function, code in codes.items())

    def test_code_of_somebody_else_stays(
        self, model: torch.nn.Module, codes: dict[types.FunctionType, types.CodeType]
    ) -> None:
        """Code that another tool put on top during the capture is left alone, reported, and no longer recorded."""
        with self.adapter.capture_attention(model):
            function = next(function for function, own in codes.items() if function.__code__ is not own)
            self.run(model)
        foreign = codes[function].replace(co_name="foreign")

        def replaced() -> Any:
            with self.adapter.capture_attention(model) as maps:
                self.run(model)
                function.__code__ = foreign
            return maps

        try:
            with pytest.warns(CodeReplacedWarning, match=function.__name__):
                maps = replaced()
            assert function.__code__ is foreign
            before = len(maps)
            self.run(model)
            assert len(maps) == before
        finally:
            function.__code__ = codes[function]

    def test_code_of_somebody_else_is_put_back(self, model: torch.nn.Module) -> None:
        """Code that another tool had put into the function before is back afterwards."""
        function = next(iter(self.functions()))
        own = function.__code__
        foreign = own.replace(co_name="foreign")
        function.__code__ = foreign
        try:
            with self.adapter.capture_attention(model) as maps:
                self.run(model)
            assert len(maps) > 0
            assert function.__code__ is foreign
        finally:
            function.__code__ = own

    def test_too_old_a_version_is_refused(
        self, codes: dict[types.FunctionType, types.CodeType], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A version of the zoo before the oldest known one is refused before anything is touched."""
        self._pretend_version("0.0.1", monkeypatch)
        get_local.activate()
        with pytest.raises(VersionError, match=r"0\.0\.1 is installed.*any_version=True"):
            self.adapter.install()
        with pytest.raises(VersionError):
            self.adapter.capture_attention(torch.nn.Identity())
        assert all(function.__code__ is code for function, code in codes.items())

    def test_a_newer_version_is_tried_with_a_warning(
        self, model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A version of the zoo after the newest known one is used."""
        self._pretend_version("99.0", monkeypatch)
        with pytest.warns(UnknownVersionWarning, match=r"99\.0 is installed.*any_version=True"):
            capture = self.adapter.capture_attention(model)
        with capture as maps:
            self.run(model)
        assert len(maps) > 0

    @pytest.mark.parametrize("version", ["0.0.1", "99.0"])
    def test_unknown_version_can_be_tried(
        self, model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, version: str
    ) -> None:
        """With `any_version` an unknown version is used as it is, without a warning."""
        self._pretend_version(version, monkeypatch)
        with self.adapter.capture_attention(model, any_version=True) as maps:
            self.run(model)
        assert len(maps) > 0

    def _pretend_version(self, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.metadata.version", lambda _: version)
