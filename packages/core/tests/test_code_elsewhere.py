"""Rewritten code that others copy, send to other processes or put into other functions; code that others put here."""

from __future__ import annotations

import collections
import gc
import io
import marshal
import pickle
import sys
import types
import warnings
import weakref
from typing import Any, ClassVar, cast

import pytest

from anylocal import capture, get_local
from anylocal._engine import patch
from anylocal._engine.get_local import unmark
from anylocal._engine.plan import recorder
from anylocal._engine.rewrite import RECORDER
from anylocal.errors import CodeReplacedWarning, TargetError


def double(x: int) -> int:
    y = x * 2
    return y


def triple(x: int) -> int:
    y = x * 3
    return y


DOUBLE, TRIPLE = double.__code__, triple.__code__


def remade(code: types.CodeType) -> types.FunctionType:
    return types.FunctionType(code, globals())


# Copies


@pytest.mark.parametrize("options", [{}, {"every": True}, {"edit": {"y": abs}}])
def test_a_copy_of_rewritten_code_runs_after_the_capture(options: dict[str, Any]) -> None:
    """A profiler or a decorator may have made it, and it is heard by nobody."""
    with capture(double, "y", **options) as cap:
        double(1)
        copies = [double.__code__.replace(co_name="copy"), marshal.loads(marshal.dumps(double.__code__))]  # noqa: S302
    del cap
    gc.collect()
    assert [remade(code)(2) for code in copies] == [4, 4]


def test_a_copy_of_the_code_of_a_function_that_is_gone_runs() -> None:
    """Its numbers are not used for any other function."""

    def gone(x: int) -> int:
        y = x + 1
        return y

    with capture(gone, "y"):
        gone(1)
        copy = remade(gone.__code__.replace(co_name="copy"))
    del gone
    gc.collect()
    with capture(double, "y") as cap:
        assert (copy(1), double(1)) == (2, 2)
    assert cap["y"] == [2]


def test_a_copy_that_is_put_into_the_function_goes_on_recording() -> None:
    """As line_profiler does; it stays after the block, and nothing warns."""
    with capture(double, "y") as cap:
        double.__code__ = double.__code__.replace(co_name="profiled")
        double(1)
    double(2)
    assert cap["y"] == [2]
    double.__code__ = DOUBLE


# Numbers


def test_captures_that_come_and_go_use_the_same_names() -> None:
    """From Python 3.12 on, names of code objects live for ever."""
    names = set()
    for _ in range(5):
        with capture(double, "y"):
            double(1)
            names |= {*double.__code__.co_names}
    assert len(names) == 3  # the recorder, a start and a return


def test_a_rewriting_that_nothing_runs_is_used_again() -> None:
    """To make it takes longer than all else."""
    gone = []
    for _ in range(2):
        with capture(double, "y"):
            double(1)
            gone.append(weakref.ref(double.__code__))
    assert gone[0]() is gone[1]() is not None


def test_a_rewriting_that_something_holds_is_not_used_again() -> None:
    """Such as a frame that runs it still, and must not be heard by the next capture."""
    with capture(double, "y"):
        double(1)
        held = double.__code__
    with capture(double, "y") as cap:
        double(1)
        assert double.__code__ is not held
        remade(held)(5)
    assert cap["y"] == [2]


def test_a_rewriting_goes_with_its_function() -> None:
    """As soon as that is gone."""
    scope: dict[str, Any] = {}
    exec("def gone(x):\n    y = x\n    return y\n", scope)
    with capture(scope["gone"], "y"):
        rewritten = weakref.ref(scope["gone"].__code__)
        scope["gone"](1)
    assert rewritten() is not None
    scope.clear()
    gc.collect()
    assert rewritten() is None


def test_a_function_with_other_code_is_rewritten_anew() -> None:
    """What was kept is of the code that it had."""
    with capture(double, "y"):
        double(1)
    double.__code__ = TRIPLE
    with capture(double, "y") as cap:
        double(1)
    assert double.__code__ is TRIPLE
    double.__code__ = DOUBLE
    assert cap["y"] == [3]


def test_a_recorder_whose_name_is_taken_meanwhile_has_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a global of the function's module; what was kept would call that."""
    with capture(double, "y"):
        double(1)
    monkeypatch.setitem(globals(), RECORDER, None)
    with capture(double, "y") as cap:
        double(2)
    assert cap["y"] == [4]


@pytest.mark.skipif(not hasattr(sys, "monitoring"), reason="Python has it from 3.12 on")
def test_events_that_a_tool_no_longer_sets_do_not_come_from_the_next_capture() -> None:
    """Its rewriting may be that of the last one."""
    monitoring, returned = sys.monitoring, []  # type: ignore[attr-defined]
    monitoring.use_tool_id(4, "test")
    try:
        event = monitoring.events.PY_RETURN
        monitoring.register_callback(4, event, lambda *arguments: returned.append(arguments[2]))
        monitoring.set_local_events(4, DOUBLE, event)
        with capture(double, "y"):
            double(1)
        monitoring.set_local_events(4, DOUBLE, 0)
        with capture(double, "y"):
            double(2)
    finally:
        monitoring.set_local_events(4, DOUBLE, 0)
        monitoring.free_tool_id(4)
    assert returned == [2]


def test_a_rewriting_that_is_gone_leaves_nothing() -> None:
    """However many captures of however many names come and go."""
    before = {*vars(recorder)}
    with capture(double, "y"), capture(double, "x", every=True), capture(double, edit={"y": abs}):
        double(1)
    gc.collect()
    assert {*vars(recorder)} <= before


def test_the_recorder_has_no_other_attributes() -> None:
    """Who asks whether it is an array, or how it is copied, learns that it is not."""
    assert not hasattr(recorder, "__array__")
    assert not hasattr(recorder, "entered_late")
    assert not hasattr(recorder, "other_1")


def test_functions_with_one_code_are_told_apart() -> None:
    """Such as closures, captured at the same time."""

    def made(n: int) -> types.FunctionType:
        def add(x: int) -> int:
            y = x + n
            return y

        return add  # type: ignore[return-value]

    one, two = made(1), made(2)
    with capture(one, "y") as first, capture(two, "y") as second:
        one(0), two(0)
    assert (first["y"], second["y"]) == ([1], [2])


def test_a_suspended_rewriting_keeps_its_number() -> None:
    """Until it ends; what it tells by then does not reach another capture of the function."""

    def count(n: int) -> Any:
        total = n
        yield total

    with capture(count, "total", keep=lambda value: value):
        suspended = count(1)
        next(suspended)
        with pytest.raises(StopIteration):
            next(finished := count(2)), next(finished)
    with capture(count, "total") as cap:
        list(suspended)
        list(count(3))
    assert cap["total"] == [3]


# Pickled by value, and compiled


def cloudpickle_like(name: str, monkeypatch: pytest.MonkeyPatch) -> type[pickle.Pickler]:
    """Return the pickler of a library that pickles code, as cloudpickle and its copies do, imported under a name."""

    def reduce_code(code: types.CodeType) -> tuple[Any, ...]:
        return marshal.loads, (marshal.dumps(code),)

    class CloudPickler(pickle.Pickler):
        _dispatch_table: ClassVar[dict[type, Any]] = {types.CodeType: reduce_code}
        dispatch_table = collections.ChainMap(_dispatch_table)  # noqa: RUF012  # as it is there

    module = types.ModuleType(name)
    module.CloudPickler = CloudPickler  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, module)
    return CloudPickler


@pytest.mark.parametrize("name", ["cloudpickle.cloudpickle", "joblib.externals.cloudpickle.cloudpickle"])
def test_a_function_pickled_by_value_has_its_own_code(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process has no capture, and perhaps no anylocal."""
    pickler = cloudpickle_like(name, monkeypatch)
    with capture(double, "y"):
        double(1)
        pickler(file := io.BytesIO()).dump((double.__code__, TRIPLE))
    sent, other = pickle.loads(file.getvalue())  # noqa: S301
    assert RECORDER not in sent.co_names
    assert (remade(sent)(2), remade(other)(2)) == (4, 6)


def test_a_library_that_pickles_code_is_as_it_was_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the last capture is closed."""
    table: dict[type, Any] = cloudpickle_like("cloudpickle.cloudpickle", monkeypatch)._dispatch_table  # type: ignore[attr-defined]
    before = table[types.CodeType]
    with capture(double, "y"), capture(triple, "y"):
        double(1), triple(1)
        assert table[types.CodeType] is not before
    assert table[types.CodeType] is before


def test_dill_pickles_a_function_s_own_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its functions take the pickler as well."""
    saved: list[types.CodeType] = []
    module = types.ModuleType("dill._dill")
    module.Pickler = type("Pickler", (), {"dispatch": {types.CodeType: lambda _, code: saved.append(code)}})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dill._dill", module)
    with capture(double, "y"):
        double(1)
        module.Pickler.dispatch[types.CodeType](None, double.__code__)
    assert saved == [DOUBLE]
    assert saved[0] is DOUBLE


def test_the_recorder_is_pickled_by_its_name() -> None:
    """By a library that pickles what a function finds in the builtins; it holds whatever listens."""
    assert pickle.loads(pickle.dumps(recorder)) is recorder  # noqa: S301


@pytest.fixture
def numba(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Return a module like the one in which numba asks for the code to compile, with a function compiled by it."""
    module = types.ModuleType("numba.core.bytecode")
    exec(
        "def get_code_object(obj):\n    return obj.__code__\n"
        "class Dispatcher:\n"
        "    def __init__(self, py_func):\n"
        "        self.py_func = self.__wrapped__ = py_func\n"
        "        self.__module__ = py_func.__module__\n"
        "    def __call__(self, x):\n        return eval(get_code_object(self.py_func))\n",
        module.__dict__,
    )
    monkeypatch.setitem(sys.modules, "numba.core.bytecode", module)
    return module


def test_numba_compiles_a_function_s_own_code(numba: types.ModuleType) -> None:
    """What it does not know it refuses to compile."""
    with capture(double, "y"):
        double(1)
        assert numba.get_code_object(double) is DOUBLE
    assert numba.get_code_object(double) is DOUBLE


def test_a_function_compiled_by_numba_is_refused(numba: types.ModuleType) -> None:
    """It runs without Python, as TorchScript does."""
    with pytest.raises(TargetError, match=r"was compiled by numba: it runs without Python.* py_func"):
        capture(numba.Dispatcher(double), "y")


def test_a_function_compiled_by_numba_is_left_out_of_its_module(numba: types.ModuleType) -> None:
    """The others are captured."""
    module = types.ModuleType("shop")
    exec("def plain(x):\n    y = x\n    return y\ndef fast(x):\n    y = x\n    return y\n", module.__dict__)
    module.fast = numba.Dispatcher(module.fast)  # type: ignore[attr-defined]
    with capture(module, "y") as cap:
        module.plain(1)
    assert [site.function.__name__ for site in cap.sites] == ["plain"]


# Reloads


def test_rewritten_code_that_a_reload_puts_into_another_function_is_taken_out() -> None:
    """As ``%autoreload 2`` does, where the mark is new: the old function was never captured."""
    with capture(triple, "y") as cap:
        double.__code__ = triple.__code__
        double(1)
    assert double.__code__ is TRIPLE
    assert cap["y"] == [3]
    double.__code__ = DOUBLE


def test_marked_functions_of_a_reloaded_module_have_their_own_code_back() -> None:
    """Old and new ones; marks go on recording, also when they are activated again."""
    for function in (double, triple):
        get_local("y")(function)
    with get_local.active() as cache:
        double.__code__ = triple.__code__
        double(1)
        assert (cache["double"], cache["triple"]) == ([], [3])
    assert (double.__code__, triple.__code__) == (TRIPLE, TRIPLE)
    with get_local.active() as cache:
        double(2)
        assert cache["double"] == [6]
    double.__code__ = DOUBLE
    for function in (double, triple):
        unmark(cast("types.FunctionType", function))


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_capture_whose_function_was_reloaded_says_so(*, by_hand: bool) -> None:
    """As it ends, because from then on it recorded nothing."""
    cap = capture(double, "y")

    def reload() -> None:
        if by_hand:
            cap.open()
            double.__code__ = TRIPLE
            cap.close()
        else:
            with cap:
                double(1)
                double.__code__ = TRIPLE

    with pytest.warns(CodeReplacedWarning, match="^double: replaced while the capture of double was open") as told:
        reload()
    double.__code__ = DOUBLE
    assert told[0].filename == __file__


CELL = "class Net:\n    @staticmethod\n    def forward(x):\n        y = x\n        return y\n"


def test_a_capture_whose_class_was_defined_again_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a cell that was executed again: the capture is of the old one."""
    notebook = types.ModuleType("notebook_cells")
    monkeypatch.setitem(sys.modules, "notebook_cells", notebook)
    exec(CELL, vars(notebook))
    cap = capture(notebook.Net, "y").open()
    notebook.Net.forward(1)
    exec(CELL, vars(notebook))
    notebook.Net.forward(2)
    with pytest.warns(CodeReplacedWarning, match=r"^Net\.forward: replaced"):
        cap.close()
    assert cap["y"] == [1]


def test_a_method_that_was_replaced_by_another_is_no_reload(monkeypatch: pytest.MonkeyPatch) -> None:
    """A patch of the user's own, and a function of which others have the name."""
    notebook = types.ModuleType("notebook_cells")
    monkeypatch.setitem(sys.modules, "notebook_cells", notebook)
    exec("def _(x):\n    y = x\n    return y\nfirst = _\ndef _(x):\n    y = 2\n    return y\n" + CELL, vars(notebook))
    with capture(notebook.first, "y") as first, capture(notebook.Net, "y") as cap:
        notebook.first(1)
        notebook.Net.forward(1)
        notebook.Net.forward = staticmethod(lambda x: x)
    assert (first["y"], cap["y"]) == ([1], [1])


# Events of one code object


@pytest.mark.skipif(not hasattr(sys, "monitoring"), reason="Python has it from 3.12 on")
def test_events_that_a_tool_set_for_the_code_come_from_the_capture_too() -> None:
    """A profiler of single functions misses no call."""
    monitoring, returned = sys.monitoring, []  # type: ignore[attr-defined]
    monitoring.use_tool_id(4, "test")
    try:
        event = monitoring.events.PY_RETURN
        monitoring.register_callback(4, event, lambda *arguments: returned.append(arguments[2]))
        monitoring.set_local_events(4, DOUBLE, event)
        double(1)
        with capture(double, "y"):
            double(2)
        double(3)
    finally:
        monitoring.set_local_events(4, DOUBLE, 0)
        monitoring.free_tool_id(4)
    assert returned == [2, 4, 6]


def test_nothing_is_left() -> None:
    """After all of the above."""
    gc.collect()
    assert (double.__code__, triple.__code__, patch._patched) == (DOUBLE, TRIPLE, {})
    with warnings.catch_warnings(action="error"), capture(double, "y"):
        double(1)
