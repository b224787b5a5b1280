"""What positions stand for: plain axes, patches of an image, tokens of a text."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from anylocal.attention import AttentionMap, Axis, Named, Patches, PlacedPatches, Tokens
from anylocal.errors import ChoiceError, NameNotFoundError, PositionError, ShapeError

PATCHES = Patches(grid=(2, 3), prefix=("cls", "reg"), image_size=(32, 60))
BATCH = Tokens([["[CLS]", "a", "a"], ["[CLS]", "b", "[PAD]"]], padding=[[0, 0, 0], [0, 0, 1]])


def test_axis_counts_positions() -> None:
    """A plain axis labels its positions by number."""
    assert (3, ["0", "1", "2"]) == (len(Axis(3)), Axis(3).labels())


def test_axis_counts_from_the_end() -> None:
    """Negative positions count from the end, as in a list."""
    assert ("2", 2) == (Axis(3).label(-1), Axis(3).position(-1))


@pytest.mark.parametrize("position", [3, -4, "x", 1.0, None])
def test_axis_refuses_other_positions(position: Any) -> None:
    """An invalid position raises an IndexError that names the axis."""
    with pytest.raises(PositionError, match=r"Axis\(3\)") as caught:
        Axis(3).position(position)
    assert isinstance(caught.value, IndexError)


def test_axis_refuses_negative_length() -> None:
    """A negative length is refused."""
    with pytest.raises(ShapeError, match="-1 positions"):
        Axis(-1)


def test_axes_are_equal_by_value() -> None:
    """Axes are equal, and hash alike, where kind and content agree."""
    same = [(Axis(3), Axis(3)), (Patches((2, 3)), Patches(grid=(2, 3))), (Tokens(["a"]), Tokens([["a"]]))]
    assert all(a == b and hash(a) == hash(b) for a, b in same)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (Axis(3), Axis(4)),
        (Axis(7), Patches((2, 3))),
        (Axis(1), Tokens(["a"])),
        (Patches((2, 3)), Patches((3, 2))),
        (Patches((2, 3)), Patches((2, 3), image_size=(2, 3))),
        (Tokens(["a"]), Tokens(["b"])),
        (Tokens(["a"]), Tokens(["a"], padding=[True])),
        (Tokens(["a"]), Tokens(["a"], special=[True])),
    ],
)
def test_axes_differ_by_value(a: Axis, b: Axis) -> None:
    """Axes of different length, kind or content are unequal, in either order."""
    assert a != b
    assert b != a


@pytest.mark.parametrize("axis", [Axis(3), PATCHES, BATCH], ids=repr)
def test_axes_can_be_pickled(axis: Axis) -> None:
    """Axes can be pickled."""
    assert axis == pickle.loads(pickle.dumps(axis))  # noqa: S301  # our own pickle


def test_patches_count_prefix_and_grid() -> None:
    """The length is that of the prefix and the grid together."""
    assert len(PATCHES) == 8


def test_patches_index_and_cell_are_inverse() -> None:
    """Every cell's position leads back to the cell."""
    cells = [(row, col) for row in range(2) for col in range(3)]
    assert cells == [PATCHES.cell(PATCHES.index(row, col)) for row, col in cells]
    assert list(range(2, 8)) == [PATCHES.index(row, col) for row, col in cells]


def test_patches_prefix_has_no_cell() -> None:
    """Prefix tokens have no place in the image."""
    assert [None, None] == [PATCHES.cell(0), PATCHES.cell(1)]


@pytest.mark.parametrize(
    ("query", "position"),
    [("cls", 0), ("reg", 1), ((0, 0), 2), ((1, 2), 7), ([-1, -1], 7), (5, 5), (-1, 7), (np.int64(3), 3)],
)
def test_patches_position(query: Any, position: int) -> None:
    """A query is a name of the prefix, a row and a column, or a position."""
    assert position == PATCHES.position(query)


@pytest.mark.parametrize("query", [8, -9, (2, 0), (0, 3), (-3, 0), (0, 1, 2), 1.5, (0.5, 1)])
def test_patches_refuse_positions_outside(query: Any) -> None:
    """A cell outside the grid raises an IndexError, and never wraps to another row."""
    with pytest.raises(PositionError, match="Patches"):
        PATCHES.position(query)


def test_patches_refuse_unknown_prefix() -> None:
    """A misspelt prefix token raises with the nearest name."""
    with pytest.raises(NameNotFoundError, match=r"no prefix token 'class'. Did you mean 'cls'\?"):
        PATCHES.position("class")


def test_patches_labels() -> None:
    """Labels are prefix names and cells."""
    assert ["cls", "reg", "(0, 0)"] == PATCHES.labels()[:3]


def test_patches_box() -> None:
    """A box is left, top, right, bottom in pixels, with width before height."""
    assert (20.0, 16.0, 40.0, 32.0) == PATCHES.box((1, 1))


def test_patches_box_has_fractions() -> None:
    """The grid always spans the whole image, if need be in fractions of a pixel."""
    assert (2.5, 0.0, 5.0, 10 / 3) == Patches(grid=(3, 4), image_size=(10, 10)).box((0, 1))


def test_patches_box_refuses_prefix() -> None:
    """A prefix token covers no pixels."""
    with pytest.raises(ShapeError, match="'reg' is a prefix token"):
        PATCHES.box("reg")


def test_patches_box_needs_image_size() -> None:
    """Without the image size, boxes are refused, and the message says what to give."""
    with pytest.raises(ShapeError, match="give image_size="):
        Patches(grid=(2, 3)).box(1)


def test_patches_split_tensor() -> None:
    """A tensor is split over its last dimension, and stays one with its graph."""
    values = torch.arange(16.0, requires_grad=True).reshape(2, 8)
    prefix, picture = PATCHES.split(values)
    assert [[0, 1], [8, 9]] == prefix.tolist()
    assert [[10, 11, 12], [13, 14, 15]] == picture[1].tolist()
    assert picture.requires_grad


def test_patches_split_array() -> None:
    """An array is split over its last dimension, and stays one."""
    prefix, picture = PATCHES.split(np.arange(8))
    assert ((2,), (2, 3), np.ndarray) == (prefix.shape, picture.shape, type(picture))


def test_patches_split_without_prefix() -> None:
    """Without a prefix, all values are in the picture."""
    prefix, picture = Patches(grid=(2, 2), prefix=()).split(torch.ones(5, 4))
    assert ((5, 0), (5, 2, 2)) == (tuple(prefix.shape), tuple(picture.shape))


def test_patches_split_refuses_other_length() -> None:
    """Values along another axis are refused, even if they would fit after transposing."""
    with pytest.raises(ShapeError, match=r"shape \(8, 3\) do not end in the 8 positions"):
        PATCHES.split(torch.ones(8, 3))


@pytest.mark.parametrize("options", [{"grid": (0, 2)}, {"grid": 4}, {"grid": (1, 2, 3)}, {"grid": (1.5, 2)}])
def test_patches_refuse_no_grid(options: Any) -> None:
    """A grid is two positive integers."""
    with pytest.raises(ShapeError, match="grid must be"):
        Patches(**options)


def test_patches_refuse_no_image_size() -> None:
    """An image size is two positive integers."""
    with pytest.raises(ShapeError, match="image_size must be"):
        Patches(grid=(2, 2), image_size=(224, -1))


def test_patches_refuse_equal_names() -> None:
    """Prefix tokens with the same name are refused."""
    with pytest.raises(ShapeError, match="share a name"):
        Patches(grid=(2, 2), prefix=("reg", "reg"))


def test_patches_take_lists_and_one_name() -> None:
    """Lists become tuples, and a single name is not split into letters."""
    axis = Patches(grid=[2, 2], prefix="cls")  # type: ignore[arg-type]  # wrong on purpose
    assert ((2, 2), ("cls",)) == (axis.grid, axis.prefix)


def test_patches_are_immutable() -> None:
    """An axis, which several maps may share, cannot be changed."""
    with pytest.raises(AttributeError):
        PATCHES.grid = (3, 2)  # type: ignore[misc]  # wrong on purpose


def test_tokens_of_a_batch() -> None:
    """Each text has its own labels and padding."""
    assert (3, ["[CLS]", "b", "[PAD]"], "b") == (len(BATCH), BATCH.labels(1), BATCH.label(1, 1))
    assert ([False] * 3, [False, False, True]) == (BATCH.is_padding(0).tolist(), BATCH.is_padding(1).tolist())


def test_tokens_of_one_text_serve_every_sample() -> None:
    """A single text is shared by all samples."""
    axis = Tokens(["a", "b"], special=[True, False])
    assert ["a", "b"] == axis.labels(5)
    assert [True, False] == axis.is_special(5).tolist()


def test_tokens_without_masks() -> None:
    """Without masks, no token is padding or special."""
    assert not BATCH.is_special().any()


def test_tokens_take_masks_of_tensors() -> None:
    """A mask may be a tensor or an array of one or two dimensions."""
    given: list[Any] = [torch.tensor([True, False]), np.array([[1, 0]])]
    assert [[True, False]] * 2 == [Tokens(["a", "b"], padding=mask).is_padding().tolist() for mask in given]


def test_tokens_are_not_changed_through_a_mask() -> None:
    """The axis shares memory with neither the given nor the returned mask."""
    given = np.array([True, False])
    axis = Tokens(["a", "b"], padding=given)
    given[:] = False
    axis.is_padding()[:] = False
    assert [True, False] == axis.is_padding().tolist()


def test_tokens_position() -> None:
    """A query is a position or a token of the chosen text."""
    assert (2, 1) == (BATCH.position(-1), BATCH.position("b", sample=1))


def test_tokens_are_found_as_they_are_shown() -> None:
    """By their label first, and by what a reader sees."""
    axis = Tokens(["the", "Ġcat", "cat"], readable=["the", "cat", "kitten"])
    assert [axis.position(name) for name in ("Ġcat", "cat", "kitten")] == [1, 2, 2]


def test_tokens_refuse_another_number_of_readable_ones() -> None:
    """There is one for each token."""
    with pytest.raises(ShapeError, match="readable has"):
        Tokens(["the", "cat"], readable=["the"])


def test_tokens_refuse_ambiguous_token() -> None:
    """A token that occurs twice is refused with both positions."""
    with pytest.raises(ChoiceError, match=r"positions \[1, 2\] of text 0"):
        BATCH.position("a")


def test_tokens_refuse_unknown_token() -> None:
    """A token of another text is not found."""
    with pytest.raises(NameNotFoundError, match="no token 'b'"):
        BATCH.position("b", sample=0)


def test_tokens_refuse_unknown_sample() -> None:
    """A sample out of range raises an IndexError."""
    with pytest.raises(PositionError, match="Sample index 2"):
        BATCH.labels(2)


@pytest.mark.parametrize(
    ("tokens", "match"),
    [
        ([["a"], ["a", "b"]], r"got 2, of lengths \[1, 2\]"),
        ([], "got 0"),
        ("a text", "not a string"),
        (["a", ["b", "c"]], "1, 2"),
    ],
)
def test_tokens_refuse_other_shapes(tokens: Any, match: str) -> None:
    """Texts of several lengths, no text, and a bare string are refused."""
    with pytest.raises(ShapeError, match=match):
        Tokens(tokens)


@pytest.mark.parametrize("mask", [[True], [[True, False]] * 2, [[True], [True, False]], True])
@pytest.mark.parametrize("name", ["padding", "special"])
def test_tokens_refuse_masks_that_do_not_fit(mask: Any, name: str) -> None:
    """A mask has one bool for each token, and the message says which mask does not."""
    with pytest.raises(ShapeError, match=f"{name} has .*give one bool for each token"):
        Tokens(["a", "b"], **{name: mask})


def test_named_positions_are_found_by_name() -> None:
    """A query is a position or a name."""
    axis = Named(("cls", "dist"))
    assert (len(axis), axis.labels(), axis.position("dist"), axis.position(-1)) == (2, ["cls", "dist"], 1, 1)


def test_named_positions_refuse_other_names() -> None:
    """An unknown name raises with the known ones."""
    with pytest.raises(NameNotFoundError, match="latent"):
        Named(("latent",)).position("cls")


def test_named_positions_have_a_name_each() -> None:
    """Two positions cannot share a name."""
    with pytest.raises(ShapeError, match="share a name"):
        Named(("cls", "cls"))


# Two windows of 2 x 2 in a grid of 2 x 3: the second hangs over the edge, and its patches there are padding.
WINDOWS = PlacedPatches(grid=(2, 3), places=[[0, 1, 3, 4], [2, -1, 5, -1]], prefix=["cls"], image_size=(32, 48))


def test_placed_patches_lie_where_they_say() -> None:
    """Each position of each window has its own cell; prefix tokens and padding have none."""
    assert [WINDOWS.cell(i) for i in range(5)] == [None, (0, 0), (0, 1), (1, 0), (1, 1)]
    assert [WINDOWS.cell(i, sample=1) for i in range(5)] == [None, (0, 2), None, (1, 2), None]


def test_placed_patches_go_round_the_images_of_a_batch() -> None:
    """The third sample is the first window of the second image."""
    assert WINDOWS.cell(4, sample=2) == (1, 1)


def test_placed_patches_name_positions() -> None:
    """Positions are named by their prefix token, their row and column, or as padding."""
    assert WINDOWS.labels(1) == ["cls", "(0, 2)", "padding", "(1, 2)", "padding"]


def test_placed_patches_find_a_cell() -> None:
    """A cell is found in its window, counted from the end if negative."""
    assert [WINDOWS.find(1, 1), WINDOWS.find(-1, -1)] == [(0, 4), (1, 3)]


def test_placed_patches_know_what_a_query_means() -> None:
    """A query is a position, a prefix name, or a cell that the window holds."""
    assert [WINDOWS.position(q, 1) for q in (-1, "cls", (1, 2))] == [4, 0, 3]


def test_placed_patches_say_which_window_holds_a_cell() -> None:
    """A cell of another window is refused with the number of that window."""
    with pytest.raises(PositionError, match=r"Window 0 .* does not hold the patch \(1, 2\); window 1 does"):
        WINDOWS.position((1, 2), 0)


@pytest.mark.parametrize("cell", [(2, 0), (0, 3)])
def test_placed_patches_refuse_cells_outside_of_the_grid(cell: tuple[int, int]) -> None:
    """A row or column outside the grid is refused."""
    with pytest.raises(PositionError, match="out of range"):
        WINDOWS.find(*cell)


def test_placed_patches_refuse_a_cell_that_no_window_holds() -> None:
    """A patch that was left out is in no window."""
    with pytest.raises(PositionError, match="No window"):
        PlacedPatches(grid=(1, 2), places=[[0]]).find(0, 1)


def test_placed_patches_refuse_unknown_prefix_tokens() -> None:
    """An unknown prefix token raises with the known ones."""
    with pytest.raises(NameNotFoundError, match="cls"):
        WINDOWS.position("reg")


def test_placed_patches_make_one_picture_of_all_windows() -> None:
    """Values of windows are arranged by place, without padding, and averaged where windows overlap."""
    axis = PlacedPatches(grid=(1, 3), places=[[0, 1], [1, -1]])
    picture = axis.picture(np.array([[[1.0, 2.0], [4.0, 9.0]]]))
    np.testing.assert_array_equal(picture, [[[1.0, 3.0, np.nan]]])


def test_placed_patches_refuse_values_of_another_shape() -> None:
    """A picture needs one value for each position of each window."""
    with pytest.raises(ShapeError, match="2 windows and 5 positions"):
        WINDOWS.picture(np.zeros((1, 5)))


@pytest.mark.parametrize("places", [[0, 1], [[6]], [[-2]], np.zeros((1, 0))])
def test_placed_patches_refuse_places_outside(places: Any) -> None:
    """Places are a matrix of positions in the grid, or -1."""
    with pytest.raises(ShapeError, match="places must be of shape"):
        PlacedPatches(grid=(2, 3), places=places)


def test_placed_patches_are_keys_like_other_axes() -> None:
    """Axes with equal places are equal and hash alike, also copies."""
    same = PlacedPatches((2, 3), torch.tensor([[0, 1, 3, 4], [2, -1, 5, -1]]), prefix=("cls",), image_size=(32, 48))
    assert (same, hash(same), copy.deepcopy(same)) == (WINDOWS, hash(WINDOWS), WINDOWS)
    assert PlacedPatches((2, 3), [[0, 1, 3, 4], [2, -1, -1, -1]], prefix=("cls",), image_size=(32, 48)) != WINDOWS


def test_places_do_not_change_with_the_array_they_came_from() -> None:
    """Changing the given array later does not change the axis."""
    places = np.array([[0, 1]])
    axis = PlacedPatches((1, 2), places)
    places[:] = -1
    assert axis.places.tolist() == [[0, 1]]


def test_a_map_has_the_windows_of_its_axes() -> None:
    """Placed patches with a different number of windows than the map are refused."""
    weights = torch.eye(2).expand(6, 1, 2, 2)
    three = PlacedPatches((1, 6), [[0, 1], [2, 3], [4, 5]])
    assert AttentionMap.from_weights(weights, windows=3, keys=three).images == 2
    with pytest.raises(ShapeError, match="windows=2, and its key patches are those of 3 windows"):
        AttentionMap.from_weights(weights, windows=2, keys=three)


def test_a_label_that_is_changed_leaves_the_others() -> None:
    """A map with another name keeps all its other labels."""
    axis = Patches((1, 2))
    before = AttentionMap.from_weights(torch.eye(3), name="a", queries=axis, keys=axis, fused=True, forward=2)
    after = before.labelled(name="b")
    assert (after.name, after.queries, after.keys, after.fused, after.forward) == ("b", axis, axis, True, 2)


@pytest.mark.parametrize("kind", [torch.tensor, np.array, lambda rows: [torch.tensor(row) for row in rows]])
def test_sentences_as_a_model_has_them(kind: Any) -> None:
    """Token types may come as a tensor or an array, of one text or of several."""
    tokens = Tokens([["a", "b"], ["c", "d"]], segments=kind([[0, 1], [1, 1]]))
    assert [tokens.segments(0), tokens.segments(1)] == [[0, 1], [1, 1]]
    assert Tokens(["a", "b"], segments=kind([[0, 1]])[0]).segments() == [0, 1]
