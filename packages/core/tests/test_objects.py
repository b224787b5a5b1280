"""Objects and names of which Python or a user makes something else: proxies, metaclasses, generics, private names."""

from __future__ import annotations

import functools
import types
from typing import Any, Generic, Protocol, TypeVar, cast

import pytest

from anylocal import capture
from anylocal.errors import NothingRecordedWarning

T = TypeVar("T")

# Foreign objects


def test_a_capture_of_a_class_asks_no_metaclass() -> None:
    """A call is one of its instances by the bases of its type, and no code of the user's runs for that."""
    asked = []

    class Asking(type):
        def __instancecheck__(cls, instance: object) -> bool:
            asked.append("instance")
            raise RuntimeError

        def __subclasscheck__(cls, subclass: type) -> bool:
            asked.append("subclass")
            raise RuntimeError

        def __eq__(cls, other: object) -> bool:
            asked.append("equal")
            raise RuntimeError

        def __hash__(cls) -> int:
            asked.append("hash")
            raise RuntimeError

        def __getattribute__(cls, name: str) -> Any:
            if name == "__mro__":
                asked.append(name)
            return super().__getattribute__(name)

    class Base(metaclass=Asking):
        def hold(self) -> None:
            held = 1

        @classmethod
        def make(cls) -> None:
            held = 2

    class Derived(Base):
        pass

    with capture(Base, "held") as cap:
        Derived().hold()
        Derived.make()
        Base.make()
    assert (cap["held"], asked) == ([1, 2, 2], [])


def test_a_method_of_a_protocol_is_captured() -> None:
    """Python refuses to ask whether an object is an instance of it."""

    class Holds(Protocol):
        def hold(self) -> None:
            held = 1

    class Holder(Holds):
        pass

    with capture(Holds, "held") as cap:
        Holder().hold()
    assert cap["held"] == [1]


class Proxy:
    """Raises whatever it is asked, as werkzeug's `LocalProxy` does outside of a request."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


def test_a_proxy_may_be_what_a_method_works_for() -> None:
    """It has no class that is known."""

    class Holder:
        def hold(self) -> None:
            held = 1

    with capture(Holder, "held") as cap:
        Holder().hold()
        Holder.hold(cast("Holder", Proxy()))
    assert cap["held"] == [1]


def test_a_module_may_hold_proxies() -> None:
    """They are no targets, and are not asked."""
    module = types.ModuleType("holding")
    exec("def hold(x):\n    held = x\n", vars(module))
    module.proxy = Proxy()  # type: ignore[attr-defined]
    with capture(module, "held") as cap:
        module.hold(1)
    assert cap["held"] == [1]


# Names and kinds of Python's


@pytest.mark.parametrize(
    ("options", "expected"), [({}, [1]), ({"every": True}, [1]), ({"edit": {"__secret": lambda value: value + 1}}, [2])]
)
def test_a_private_name_is_written_as_in_the_class(options: dict[str, Any], expected: list[int]) -> None:
    """In the code it has the name of the class in front."""

    class _Safe:
        def open(self, value: int) -> int:
            __secret = value
            return __secret

    with capture(_Safe, "__secret", **options) as cap:
        assert _Safe().open(1) == expected[0]
    assert (cap["__secret"], cap.names, cap.calls[0].values["__secret"]) == (expected, ("__secret",), expected[0])
    with capture(_Safe.open, "_Safe__secret") as cap:
        _Safe().open(1)
    assert cap["_Safe__secret"] == [1]


def test_a_private_name_that_was_not_bound_is_told_as_it_was_written() -> None:
    """With the reason."""

    class Safe:
        def open(self, *, known: bool) -> None:
            if known:
                __secret = 1

    message = r"no value of '__secret': .*Safe\.open returned at line"
    with pytest.warns(NothingRecordedWarning, match=message), capture(Safe, "__secret"):
        Safe().open(known=False)


def test_a_generic_class_with_its_arguments_is_the_class() -> None:
    """Its own functions are meant, not those of typing's alias."""

    class Box(Generic[T]):
        def hold(self) -> None:
            held = 1

    with capture(Box[int], "held") as cap:
        Box[int]().hold()
    assert cap["held"] == [1]


def test_a_class_that_was_made_without_a_module_name_is_captured() -> None:
    """Python says that it is of the builtins, as those without any Python code are."""
    namespace: dict[str, Any] = {}
    exec("class Bare:\n    def hold(self):\n        held = 1\n", namespace)
    bare = namespace["Bare"]
    with capture(bare, "held") as of_class, capture(instance := bare(), "held") as of_object:
        instance.hold()
        bare().hold()
    assert (of_class["held"], of_object["held"]) == ([1, 1], [1])


class Dispatching:
    @functools.singledispatchmethod
    def kind(self, x: object) -> str:
        kind = "object"
        return kind

    @kind.register
    def _(self, x: int) -> str:
        kind = "int"
        return kind

    @kind.register
    def _(self, x: str) -> str:
        kind = "str"
        return kind


ONE = Dispatching()


@pytest.mark.parametrize(
    ("target", "number"),
    [(Dispatching, 6), (vars(Dispatching)["kind"], 6), (Dispatching.kind, 6), (ONE.kind, 3), (ONE, 3)],
    ids=["class", "descriptor", "of the class", "bound", "object"],
)
def test_a_method_that_dispatches_is_all_its_functions(target: object, number: int) -> None:
    """Whichever type its argument has, and for one object only where that is meant."""
    with capture(target, "kind") as cap:
        for dispatching in (ONE, Dispatching()):
            dispatching.kind(1), dispatching.kind("s"), dispatching.kind(2.0)
    assert cap["kind"] == ["int", "str", "object"] * (number // 3)


def test_a_global_with_the_name_of_the_recorder_is_no_obstacle() -> None:
    """The function finds the recorder under another name, and its own global under its own."""
    namespace: dict[str, Any] = {"__anylocal__": 3}
    exec("def hold(x):\n    held = x + __anylocal__\n    return held\n", namespace)
    with capture(namespace["hold"], "held") as cap:
        assert namespace["hold"](1) == 4
    assert (cap["held"], namespace["__anylocal__"]) == ([4], 3)
