"""Maps in a file: they come back as they were, and a file that is not whole is refused."""

from __future__ import annotations

import json
import random
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors")
safetensors_torch = pytest.importorskip("safetensors.torch")

from anylocal import capture, store  # noqa: E402  # after what decides whether there is anything to test
from anylocal.attention import (  # noqa: E402  # as above
    AttentionMap,
    AttentionMaps,
    Axis,
    Named,
    Patches,
    PlacedPatches,
    Tokens,
)
from anylocal.errors import NameNotFoundError, OptionError, ShapeError, StoreError  # noqa: E402  # as above


def weights(*shape: int) -> Any:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)).softmax(-1)


AXES = {
    "counted": Axis(3),
    "patches": Patches((1, 2), prefix=("cls",), image_size=(16, 32)),
    "placed": PlacedPatches((1, 4), [[0, -1], [2, 3]], prefix=("reg",), image_size=(16, 64)),
    "named": Named(("cls", "dist", "latent")),
    "padded": Patches((1, 2), image_size=(16, 32), image_padding=(3, 0)),
    "padded windows": PlacedPatches((2, 2), [[0, 1, 2]], image_size=(32, 32), image_padding=(0, 5)),
    "tokens": Tokens(
        [["[CLS]", "a", "b"], ["[CLS]", "c", "[PAD]"]], padding=[[0, 0, 0], [0, 0, 1]], special=None, start=2
    ),
    "words": Tokens(["a", "##b", "c"], words=[0, 0, None], spellings=["ab"]),
    "readable": Tokens(["a", "Ġb", "c"], readable=["a", "b", "c"]),
    "segments": Tokens(["a", "b", "c"], segments=[0, None, 1]),
}


@pytest.mark.parametrize("axis", AXES.values(), ids=AXES)
def test_axes_come_back(tmp_path: Path, axis: Axis) -> None:
    """Each kind of axis is the same after a round trip."""
    item = AttentionMap.from_weights(weights(2, 2, 3, 3), queries=axis, keys=axis)
    (loaded,) = store.load(store.save(AttentionMaps([item]), tmp_path / "maps.safetensors"))
    assert (loaded.queries, loaded.keys) == (axis, axis)


def test_maps_come_back(tmp_path: Path) -> None:
    """Weights and labels of a map are the same after a round trip."""
    q = torch.randn(4, 2, 3, 5, generator=torch.Generator().manual_seed(1))
    maps = AttentionMaps(
        [
            AttentionMap.from_qk(q, q, name="blocks.0.attn", fused=True, windows=2, forward=1, rank=3),
            AttentionMap.from_weights(weights(1, 1, 2, 3).double(), name="pool", mixed=weights(1, 3, 2, 3)),
        ],
        unsupported={"blocks.1": "no map"},
    )
    loaded = store.load(store.save(maps, tmp_path / "maps.safetensors"))
    assert loaded.unsupported == {"blocks.1": "no map"}
    for one, other in zip(maps, loaded, strict=True):
        assert torch.equal(one.tensor(), other.tensor())
        assert one.tensor().dtype == other.tensor().dtype
        for name in ("name", "fused", "windows", "forward", "rank"):
            assert getattr(one, name) == getattr(other, name)
    assert loaded[0].mixed is None
    assert torch.equal(loaded[1].mixed, maps[1].mixed)


def test_an_axis_of_many_maps_is_written_once(tmp_path: Path) -> None:
    """A deep model has the same tokens in every layer."""
    axis = Tokens([["a", "b"]])
    maps = AttentionMaps([AttentionMap.from_weights(weights(1, 1, 2, 2), queries=axis, keys=axis)] * 3)
    with safetensors.safe_open(store.save(maps, tmp_path / "maps.safetensors"), framework="pt") as opened:
        assert len(json.loads(opened.metadata()["maps"])["axes"]) == 1


def test_other_tools_read_the_file(tmp_path: Path) -> None:
    """The weights are plain tensors, under the number of their map."""
    item = AttentionMap.from_weights(weights(1, 2, 3, 3))
    tensors = safetensors_torch.load_file(store.save(AttentionMaps([item, item]), tmp_path / "maps.safetensors"))
    assert sorted(tensors) == ["0.weights", "1.weights"]
    assert torch.equal(tensors["1.weights"], item.tensor())


def test_nothing_is_not_saved(tmp_path: Path) -> None:
    """Without maps, no file is written."""
    with pytest.raises(OptionError, match="No maps or calls to save"):
        store.save(AttentionMaps([]), tmp_path / "maps.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_file_is_replaced_only_by_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If writing fails, the old file stays, and nothing else is left."""
    maps = AttentionMaps([AttentionMap.from_weights(weights(1, 1, 2, 2))])
    file = store.save(maps, tmp_path / "maps.safetensors")
    before = file.read_bytes()

    def full(_tensors: object, path: Path, **_: object) -> None:
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(store, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        store.save(maps, file)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["maps.safetensors"]


def test_a_single_map_is_saved_as_maps_of_one_layer(tmp_path: Path) -> None:
    """It is loaded with its name, as the only map."""
    item = AttentionMap.from_weights(weights(1, 2, 3, 3), name="blocks.0.attn")
    loaded = store.load(store.save(item, tmp_path / "maps.safetensors"))
    assert loaded.names == ["blocks.0.attn"]
    assert torch.equal(loaded[0].tensor(), item.tensor())


class Scope:
    """As an adapter's, of which only this is asked."""

    maps = AttentionMaps([])


@pytest.mark.parametrize(
    ("kept", "match"),
    [
        ("maps.safetensors", r"got the file first: save\(maps, 'maps.safetensors'\)"),
        (Path("maps.safetensors"), "got the file first"),
        (Scope(), r"save takes maps and got Scope; give it .* \.maps"),
        (3, "save takes maps and got int; make maps first"),
        ([torch.eye(2)], "save takes maps and got Tensor; make maps first"),
    ],
)
def test_what_is_nothing_to_keep_is_refused(tmp_path: Path, kept: Any, match: str) -> None:
    """The message says what was given and what to give instead; nothing is written."""
    with pytest.raises(OptionError, match=match):
        store.save(kept, tmp_path / "maps.safetensors")
    assert not list(tmp_path.iterdir())


def test_calls_of_a_capture_are_refused(tmp_path: Path) -> None:
    """Calls of a capture are refused: the capture itself can be saved."""
    with capture(scaled, "result") as cap:
        scaled(1, 2)
    with pytest.raises(OptionError, match=r"got calls of one; give the capture itself: save\(cap, file\)"):
        store.save(cap.calls, tmp_path / "capture.safetensors")  # type: ignore[arg-type]  # what is refused


def test_folders_are_made(tmp_path: Path) -> None:
    """Missing folders are created."""
    maps = AttentionMaps([AttentionMap.from_weights(weights(1, 1, 2, 2))])
    assert store.save(maps, tmp_path / "new" / "maps.safetensors").exists()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    maps = [AttentionMap.from_weights(weights(2, 2, 3, 3), keys=axis) for axis in AXES.values()]
    return store.save(AttentionMaps(maps), tmp_path / "maps.safetensors")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.3, 0.99])
def test_a_file_that_was_cut_off_is_refused(file: Path, share: float) -> None:
    """A truncated file is refused, however little is missing."""
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(StoreError, match="not a complete safetensors file"):
        store.load(file)


def test_a_header_longer_than_the_file_is_refused(file: Path) -> None:
    """A huge header is refused before memory is allocated for it."""
    file.write_bytes((2**40).to_bytes(8, "little") + file.read_bytes()[8:])
    with pytest.raises(StoreError, match="header of 1099511627776 bytes"):
        store.load(file)


def test_a_file_of_others_is_refused(tmp_path: Path) -> None:
    """Files of other programs are refused, and the message says how to read them."""
    safetensors_torch.save_file({"0.weights": weights(1, 1, 2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(StoreError, match=r"was not written by anylocal\.store\.save; .*load_file"):
        store.load(tmp_path / "other.safetensors")


def changed(file: Path, **changes: Any) -> None:
    """Rewrite the file with other metadata."""
    tensors = safetensors_torch.load_file(file)
    text = json.dumps({"maps": [], "axes": [], "unsupported": {}, **changes})
    written(file, tensors, "maps", text)


def written(file: Path, tensors: dict[str, Any], key: str, text: str) -> None:
    """Write a file with a correct digest for any content."""
    metadata = {"anylocal": "1", key: text, "digest": store._digest(tensors, text)}
    safetensors_torch.save_file(tensors, file, metadata=metadata)


ITEM = {"name": "", "fused": False, "forward": 0, "windows": 1, "rank": None, "queries": 0, "keys": 0}


@pytest.mark.parametrize(
    "changes",
    [
        {"maps": [ITEM]},
        {"maps": [{}]},
        {"maps": 3},
        {"axes": [{"kind": "os.system"}]},
        {"axes": [{}]},
        {"axes": [{"kind": "Patches", "grid": "x", "prefix": [], "image_size": None}]},
        {"axes": [{"kind": "Axis", "length": 5}], "maps": [ITEM]},
        {"axes": [{"kind": "Axis", "length": 3}], "maps": [{**ITEM, "windows": 7}]},
        {"axes": [{"kind": "PlacedPatches", "grid": [1, 1], "prefix": [], "image_size": None, "number": 99}]},
        {"unsupported": [1]},
    ],
)
def test_metadata_that_does_not_fit_is_refused(file: Path, changes: dict[str, Any]) -> None:
    """Axes or maps that contradict each other or the tensors give one clear error."""
    changed(file, **changes)
    with pytest.raises(StoreError, match="do not fit together"):
        store.load(file)


def test_a_newer_format_is_refused(file: Path) -> None:
    """A file of a later version is not guessed at."""
    safetensors_torch.save_file({"x": weights(1, 1)}, file, metadata={"anylocal": "2", "maps": "{}"})
    with pytest.raises(StoreError, match="has format '2', not '1'"):
        store.load(file)


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    """A missing file raises FileNotFoundError, not StoreError."""
    with pytest.raises(FileNotFoundError):
        store.load(tmp_path / "none.safetensors")


def scaled(x: Any, factor: object) -> Any:
    result = x * 2
    return result


class Model(torch.nn.Module):  # type: ignore[misc,name-defined]  # torch was imported by pytest, as Any
    def __init__(self) -> None:
        super().__init__()
        self.first = Block()
        self.second = Block()

    def forward(self, x: Any) -> Any:
        return self.second(self.first(x))


class Block(torch.nn.Module):  # type: ignore[misc,name-defined]  # as above
    def forward(self, x: Any) -> Any:
        attn = x.softmax(-1)
        return attn * 3


def test_a_capture_comes_back(tmp_path: Path) -> None:
    """A loaded capture is read as before: by name, by module, stacked, and call by call."""
    model = Model()
    with capture(model, "attn") as cap:
        model(torch.randn(2, 3))
    loaded = store.load(store.save(cap, tmp_path / "capture.safetensors"))
    assert isinstance(loaded, store.SavedCapture)
    assert loaded.names == ("attn",)
    assert all(torch.equal(one, other) for one, other in zip(loaded["attn"], cap["attn"], strict=True))
    assert torch.equal(loaded.stack("attn"), cap.stack("attn"))
    assert torch.equal(loaded.at("second")[0].values["attn"], cap.at("second")[0].values["attn"])
    for one, other in zip(loaded.calls, cap.calls, strict=True):
        assert one.function.__qualname__ == other.function.__qualname__
        assert (one.name, one.index, one.line, one.rank) == (other.name, other.index, other.line, other.rank)
    assert len(loaded) == 2
    assert "Block.forward" in loaded._repr_html_()
    assert "2 calls" in repr(loaded)


VALUES: list[Any] = [None, True, 3, 2.5, float("inf"), "text", "\udcff", (1, [2, {"a": torch.eye(2)}]), {}]
VALUES += [np.arange(6.0).reshape(2, 3), np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.zeros(3, bool)]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_values_come_back_as_they_were(tmp_path: Path, value: Any) -> None:
    """Numbers, strings, arrays and containers keep their type and value."""
    with capture(scaled, "factor") as cap:
        scaled(1, value)
    (found,) = store.load(store.save(cap, tmp_path / "capture.safetensors"))["factor"]
    assert type(found) is type(value)
    assert repr(found) == repr(value)


def test_tensors_that_share_their_memory_are_both_saved(tmp_path: Path) -> None:
    """Views are written in full, as safetensors has none."""
    whole = torch.eye(3)
    with capture(scaled, "factor") as cap:
        scaled(1, [whole, whole[0], whole.T])
    (found,) = store.load(store.save(cap, tmp_path / "capture.safetensors"))["factor"]
    assert all(torch.equal(one, other) for one, other in zip(found, [whole, whole[0], whole.T], strict=True))


class Count(int):
    """A number that a file would give back as a plain one."""


@pytest.mark.parametrize("value", [Path(), Count(3), {1: 2}, np.array(["a"]), np.array([None])], ids=repr)
def test_what_a_file_cannot_hold_is_refused(tmp_path: Path, value: Any) -> None:
    """Objects of other classes would need pickle; the message gives the remedy."""
    with capture(scaled, "factor") as cap:
        scaled(1, value)
    kind = type(value).__name__
    with pytest.raises(OptionError, match=rf"'factor' is of type {kind}, which a file without code cannot .*keep="):
        store.save(cap, tmp_path / "capture.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_capture_of_nothing_is_not_saved(tmp_path: Path) -> None:
    """Without calls, no file is written."""
    cap = capture(scaled, "result")
    with pytest.raises(OptionError, match="No maps or calls to save"):
        store.save(cap, tmp_path / "capture.safetensors")


def test_a_saved_capture_knows_what_it_does_not_have(tmp_path: Path) -> None:
    """Names and modules that are not there raise, as those of a capture do."""
    with capture(scaled, "result", "factor") as cap:
        scaled(torch.eye(2), "a")
    loaded = store.load(store.save(cap, tmp_path / "capture.safetensors"))
    with pytest.raises(NameNotFoundError, match="results"):
        loaded["results"]
    with pytest.raises(NameNotFoundError, match="submodule"):
        loaded.at("blocks.0")
    with pytest.raises(ShapeError, match="do not stack"):
        loaded.stack("factor")


def nested() -> None:
    value = {"a.b": torch.tensor([1.0]), "a": {"b": torch.tensor([2.0])}, "c": [torch.tensor([3.0])]}
    value["c.0"] = torch.tensor([4.0])


def test_keys_with_dots_are_no_paths(tmp_path: Path) -> None:
    """Two tensors whose keys read alike, one after the other, are two."""
    with capture(nested, "value") as cap:
        nested()
    (value,) = store.load(store.save(cap, tmp_path / "capture.safetensors"))["value"]
    assert (value["a.b"].item(), value["a"]["b"].item()) == (1.0, 2.0)
    assert (value["c"][0].item(), value["c.0"].item()) == (3.0, 4.0)


def given(value: Any) -> Any:
    kept = value
    return kept


@pytest.mark.parametrize(
    "value",
    [
        np.ma.masked_array([1.0, 2.0], mask=[False, True]),
        np.ones(2, dtype=np.longdouble),
        torch.eye(2).to_sparse(),
        torch.empty(2, device="meta"),
    ],
    ids=["masked", "longdouble", "sparse", "meta"],
)
def test_what_a_file_cannot_hold_as_it_is(tmp_path: Path, value: Any) -> None:
    """It is refused by its name, and no file is left."""
    with capture(given, "kept") as cap:
        given(value)
    with pytest.raises(OptionError, match=r"'kept' is of type .*, which a file without code cannot hold"):
        store.save(cap, tmp_path / "capture.safetensors")
    assert not [*tmp_path.iterdir()]


def test_an_array_of_the_other_byte_order(tmp_path: Path) -> None:
    """Its numbers are kept, in the order of this machine."""
    with capture(given, "kept") as cap:
        given(np.array([1.5, -2.0], dtype=">f8"))
    (kept,) = store.load(store.save(cap, tmp_path / "capture.safetensors"))["kept"]
    assert kept.tolist() == [1.5, -2.0]


def test_numbers_of_numpy(tmp_path: Path) -> None:
    """Windows, forward passes and words may be NumPy integers."""
    number: Any = np.int64
    axis = Tokens(["a", "b"], words=[None, number(0)], start=number(3))
    weights = torch.eye(2)[None, None].repeat(2, 1, 1, 1)
    one = AttentionMap.from_weights(weights, windows=number(2), forward=number(1), queries=axis, keys=axis)
    (again,) = store.load(store.save(one, tmp_path / "maps.safetensors"))
    assert (again.windows, again.forward, again.keys) == (2, 1, axis)


def test_a_saved_capture_has_modules_by_name_only(tmp_path: Path) -> None:
    """A number is refused as it is by a capture, with where calls by their number are."""
    with capture(scaled, "result") as cap:
        scaled(torch.eye(2), "a")
    loaded = store.load(store.save(cap, tmp_path / "capture.safetensors"))
    with pytest.raises(OptionError, match=r"calls by their index are in \.calls"):
        loaded.at(0)


CALL = {"function": ["a", "b"], "name": "", "index": 0, "thread": 0, "line": 1, "rank": None}


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[]",
        '{"calls": [{}]}',
        '{"label": "", "names": [], "calls": [{"function": ["a"], "values": {}}]}',
        json.dumps({"label": "", "names": [], "calls": [{**CALL, "values": {"x": {"tensor": "none"}}}]}),
        json.dumps({"label": "", "names": [], "calls": [{**CALL, "values": {"x": {"pickle": "none"}}}]}),
        "[" * 100_000,
    ],
)
def test_a_capture_that_does_not_fit_is_refused(tmp_path: Path, text: str) -> None:
    """Invalid descriptions of calls give one clear error."""
    written(tmp_path / "hostile.safetensors", {"x": torch.eye(2)}, "capture", text)
    with pytest.raises(StoreError, match="do not fit together"):
        store.load(tmp_path / "hostile.safetensors")


def corrupted(whole: bytes, number: int) -> bytes:
    """Return a damaged file: truncated, with flipped bits, a wrong header length or wrong shapes."""
    chance = random.Random(number)  # noqa: S311  # a test must be the same each time
    kind = ("cut", "bit", "length", "shape", "hole", "tail")[number % 6]
    header = struct.unpack("<Q", whole[:8])[0]
    if kind == "cut":
        return whole[: chance.randrange(len(whole))]
    if kind == "bit":
        at = chance.randrange(len(whole))
        return whole[:at] + bytes([whole[at] ^ (1 << chance.randrange(8))]) + whole[at + 1 :]
    if kind == "length":
        return struct.pack("<Q", chance.choice([0, header - 1, header + 1, 2**31, 2**63, 2**64 - 1])) + whole[8:]
    if kind == "shape":
        text = json.loads(whole[8 : 8 + header])
        tensor = text[chance.choice([name for name in text if name != "__metadata__"])]
        tensor[chance.choice(["shape", "data_offsets"])] = [chance.randrange(2**40), chance.randrange(3)]
        made = json.dumps(text).encode()
        return struct.pack("<Q", len(made)) + made + whole[8 + header :]
    at, length = chance.randrange(len(whole)), chance.randrange(1, 200)
    if kind == "hole":
        return whole[:at] + whole[at + length :]
    return whole + bytes(length)


@pytest.mark.parametrize("block", range(10))
@pytest.mark.parametrize("what", ["maps", "capture"])
def test_damaged_files_are_refused(tmp_path: Path, what: str, block: int) -> None:
    """Each of two hundred damaged files raises our error, within a few times its size of memory."""
    if what == "maps":
        kept: Any = AttentionMaps(AttentionMap.from_weights(weights(2, 2, 3, 3), keys=axis) for axis in AXES.values())
    else:
        with capture(scaled, "result", "factor") as kept:
            for number in range(3):
                scaled(torch.full((4, number + 1), 0.5), {"number": number})
    whole = store.save(kept, tmp_path / "whole.safetensors").read_bytes()
    store.load(tmp_path / "whole.safetensors")
    file = tmp_path / "damaged.safetensors"
    for number in range(10 * block, 10 * block + 10):
        file.write_bytes(corrupted(whole, number))
        tracemalloc.start()
        try:
            with pytest.raises(StoreError):
                store.load(file)
            assert tracemalloc.get_traced_memory()[1] < 20 * len(whole) + 500_000, number
        finally:
            tracemalloc.stop()


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    """It exists, and holds no maps by itself."""
    with pytest.raises(StoreError, match="is a folder; load takes a file that save has written"):
        store.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "length"), [(["m"], 2), ({"m": 1}, 2), (None, 2), (1, 2), ("m", 10**30), ("m", 1e30), ("m", -2)]
)
def test_maps_that_do_not_fit_are_refused(tmp_path: Path, name: Any, length: Any) -> None:
    """Names that are no text, and lengths that no axis has."""
    labels = {"name": name, "fused": False, "forward": 0, "windows": 1, "rank": None}
    text = json.dumps(
        {
            "maps": [{**labels, "queries": 0, "keys": 0}],
            "axes": [{"kind": "Axis", "length": length}],
            "unsupported": {},
        }
    )
    written(tmp_path / "hostile.safetensors", {"0.weights": torch.eye(2)[None, None]}, "maps", text)
    with pytest.raises(StoreError, match="do not fit together"):
        store.load(tmp_path / "hostile.safetensors")
