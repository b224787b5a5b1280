"""The maps of all layers: a sequence, by position, by module and by forward pass."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from anylocal.attention import AttentionMap, AttentionMaps, Tokens
from anylocal.errors import ChoiceError, NameNotFoundError, OptionError, PositionError, StateError


def one(name: str, forward: int = 0, **options: Any) -> AttentionMap:
    return AttentionMap.from_weights(torch.eye(2), name=name, forward=forward, **options)


LAYERS = [one(f"blocks.{layer}.attn") for layer in range(4)]
MAPS = AttentionMaps(LAYERS)
TWICE = AttentionMaps([*LAYERS, *(one(item.name, forward=1) for item in LAYERS)])


def test_maps_are_a_sequence() -> None:
    """Length, order, positions from either end and membership are those of a list."""
    assert isinstance(MAPS, Sequence)
    assert (4, LAYERS, LAYERS[::-1]) == (len(MAPS), list(MAPS), list(reversed(MAPS)))
    assert [LAYERS[1], LAYERS[-1], LAYERS[2]] == [MAPS[1], MAPS[-1], MAPS[np.int64(2)]]
    assert 2 == MAPS.index(LAYERS[2])


@pytest.mark.parametrize("position", [4, -5])
def test_position_outside_is_refused(position: int) -> None:
    """A position out of range raises an IndexError."""
    with pytest.raises(PositionError, match=f"Map index {position} is out of range: there are 4"):
        MAPS[position]


def test_slice_gives_maps() -> None:
    """A slice is an AttentionMaps again."""
    part = MAPS[1:3]
    assert isinstance(part, AttentionMaps)
    assert LAYERS[1:3] == list(part)


def test_map_by_name() -> None:
    """A module's name gives its map."""
    assert MAPS["blocks.2.attn"] is LAYERS[2]


def test_names_are_in_order_and_unique() -> None:
    """Every module is named once, in the order in which the layers ran."""
    assert [item.name for item in LAYERS] == MAPS.names == TWICE.names


def test_membership_is_of_maps_and_names() -> None:
    """Maps and module names are in the maps; others are not."""
    items: list[Any] = [LAYERS[0], "blocks.0.attn", "blocks.0", one("blocks.0.attn")]
    assert [True, True, False, False] == [item in MAPS for item in items]


def test_misspelt_name_is_refused() -> None:
    """An unknown name raises with the nearest one and all names."""
    with pytest.raises(
        NameNotFoundError, match=r"no module 'block.2.attn'. Did you mean 'blocks.2.attn'\?.*blocks.0"
    ) as caught:
        MAPS["block.2.attn"]
    assert isinstance(caught.value, LookupError)


def test_name_in_several_forwards_is_refused() -> None:
    """A name means one map, so one of several forward passes must be chosen."""
    with pytest.raises(ChoiceError, match=r"'blocks.0.attn' belong to several forward passes.*maps\.forwards"):
        TWICE["blocks.0.attn"]


def test_name_of_a_layer_that_ran_twice_is_refused() -> None:
    """A shared layer has several maps in one forward pass, and the message lists them."""
    shared = AttentionMaps([one("layer"), one("other"), one("layer")])
    with pytest.raises(ChoiceError, match=r"its maps are \[0, 2\]"):
        shared["layer"]


def test_name_without_any_map_is_refused() -> None:
    """Before the model ran, the message says to run it."""
    with pytest.raises(StateError, match="run the model"):
        AttentionMaps([])["blocks.0.attn"]


def test_forwards_are_maps_of_one_forward_each() -> None:
    """Maps are grouped by forward pass, also if threads have interleaved them."""
    mixed = AttentionMaps([one("a", 1), one("a", 0), one("b", 0), one("b", 1)])
    assert [["a", "b"], ["a", "b"]] == [part.names for part in mixed.forwards]
    assert [0, 1] == [part[0].forward for part in mixed.forwards]
    assert TWICE.forwards[1]["blocks.0.attn"] is TWICE[4]
    assert [] == AttentionMaps([]).forwards


def test_rollout_of_several_forwards_is_refused() -> None:
    """Rollout needs one forward pass; each has its own."""
    with pytest.raises(ChoiceError):
        TWICE.rollout()
    assert (1, 2, 2) == tuple(TWICE.forwards[0].rollout().shape)


def test_live_source_is_read_again() -> None:
    """Maps that a capture adds appear at the next access; a slice does not grow."""
    live: list[AttentionMap] = []
    maps = AttentionMaps(lambda: live)
    assert 0 == len(maps)
    live.extend(LAYERS[:2])
    part = maps[:]
    live.append(LAYERS[2])
    assert (3, 2, LAYERS[2]) == (len(maps), len(part), maps["blocks.2.attn"])


def test_live_source_is_read_once_to_iterate() -> None:
    """Iterating reads the source once, not once for each map."""
    reads = []

    def read() -> list[AttentionMap]:
        reads.append(1)
        return LAYERS

    # `list(maps)` would ask for the length as well.
    assert (LAYERS, [1]) == ([*iter(AttentionMaps(read))], reads)


def test_generator_is_kept() -> None:
    """Maps given as an iterator can be read repeatedly."""
    maps = AttentionMaps(item for item in LAYERS)
    assert LAYERS == list(maps) == list(maps)


def test_tensors_are_refused() -> None:
    """Tensors are refused, and the message says how to make maps."""
    with pytest.raises(OptionError, match=r"got Tensor; make maps first, by AttentionMap\.from_weights"):
        AttentionMaps([torch.eye(2)])  # type: ignore[list-item]  # wrong on purpose


def test_repr_is_a_table() -> None:
    """The repr has a line for each layer."""
    maps = AttentionMaps(
        [one("blocks.0", fused=True), AttentionMap.from_weights(torch.ones(1, 12, 9, 10), name="b", forward=2)]
    )
    assert ("AttentionMaps\n  0  blocks.0  0  1 × 1 × 2 × 2    fused\n  1  b         2  1 × 12 × 9 × 10") == repr(maps)
    assert "AttentionMaps: none" == repr(AttentionMaps([]))


def test_repr_of_a_windowed_map_tells_images_and_windows() -> None:
    """Its batch axis is both."""
    windowed = AttentionMap.from_weights(torch.eye(2).expand(6, 1, 2, 2), name="a", windows=3)
    assert repr(windowed) == "AttentionMap('a', images=2, windows=3, heads=1, queries=2, keys=2)"


def test_a_token_in_other_case_is_suggested_first() -> None:
    """An uncased tokenizer has `cat`, whatever else looks like `Cat`."""
    tokens = Tokens(["sat", "cat"])
    with pytest.raises(NameNotFoundError, match="Did you mean 'cat'"):
        tokens.position("Cat")


def test_repr_of_all_maps_tells_images_and_windows() -> None:
    """Windows are not shown as a batch."""
    windowed = AttentionMap.from_weights(torch.eye(2).expand(6, 1, 2, 2), name="a", windows=3)
    assert "2 × 3 windows × 1 × 2 × 2" in repr(AttentionMaps([windowed]))


def test_several_steps_are_refused_with_the_way_to_join_them() -> None:
    """Who wants a picture of a generation is told of `generation`."""
    steps = [one("a", forward=start, queries=Tokens(["x", "y"], start=start)) for start in (0, 2)]
    with pytest.raises(ChoiceError, match=r"or join the steps of a generation by maps\.generation\(\)\."):
        AttentionMaps(steps).rollout()


def test_repr_of_many_is_short() -> None:
    """Of many layers, the first and the last are shown."""
    text = repr(AttentionMaps([one(f"blocks.{layer}") for layer in range(100)]))
    assert len(text.splitlines()) < 30
    assert all(part in text for part in ("blocks.0", "…", "blocks.99"))


def test_html_is_an_escaped_table() -> None:
    """A name cannot smuggle markup into a notebook."""
    text = AttentionMaps([one("<script>")])._repr_html_()
    assert text.startswith("<table>")
    assert "&lt;script&gt;" in text
    assert "<script>" not in text


def test_html_of_a_map_shows_its_axes() -> None:
    """A notebook shows the sizes of a map and the labels at the ends of its axes, as text."""
    words = Tokens([[f"<w{place}>" for place in range(20)]])
    shown = AttentionMap.from_weights(torch.ones(1, 2, 20, 20) / 20, name="a", queries=words, keys=words)._repr_html_()
    assert "<td>heads</td><td>2</td>" in shown
    assert "Tokens(20, texts=1): &lt;w0&gt; &lt;w1&gt; &lt;w2&gt; &lt;w3&gt; … &lt;w16&gt;" in shown
    assert "<w0>" not in shown


@pytest.mark.parametrize("missing", ["torch", "numpy"])
def test_missing_library_is_named(missing: str) -> None:
    """Without torch or NumPy, importing the module says what to install."""
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "try:\n    import anylocal.attention\n"
        "except ImportError as error:\n    print(type(error).__name__, error.name, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"DependencyError {missing} anylocal.attention needs {missing}")
    assert 'pip install "anylocal[torch]"' in done.stdout


@pytest.mark.parametrize("make", [AttentionMap, AttentionMap.from_weights, AttentionMap.from_qk])
def test_labels_are_in_the_signature(make: Callable[..., AttentionMap]) -> None:
    """help() and editors show the labels by name, with their defaults, as keyword-only parameters."""
    parameters = inspect.signature(make).parameters.values()
    labels = {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}
    known = {"name": "", "queries": None, "keys": None, "fused": False, "forward": 0, "windows": 1, "rank": None}
    assert {**known, "mixed": None}.items() <= labels.items()
    assert not any(each.kind is each.VAR_KEYWORD for each in parameters)


def test_an_unknown_label_is_refused() -> None:
    """A misspelt label raises, as any unknown keyword does."""
    with pytest.raises(TypeError, match="unexpected keyword argument 'nmae'"):
        AttentionMap.from_weights(torch.eye(2), nmae="a")  # type: ignore[call-arg]  # misspelt on purpose
