"""The page of maps, without a browser: what is in it, how exact, how large, and what is refused."""

from __future__ import annotations

import base64
import gzip
import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

import torch

from anylocal._drawing.scale import top_of
from anylocal.attention import AttentionMap, AttentionMaps, Named, Patches, PlacedPatches, Tokens
from anylocal.errors import ChoiceError, NameNotFoundError, OptionError, PositionError, ShapeError, StateError
from anylocal.view import Page, explore

SPREAD = 4.0
"""Of the logits: weights between 1e-9 and nearly 1."""


def make(
    name: str = "blocks.0.attn", *, seed: int = 0, shape: tuple[int, ...] = (1, 2, 5, 5), **options: Any
) -> AttentionMap:
    generator = torch.Generator().manual_seed(seed)
    return AttentionMap.from_weights(
        (SPREAD * torch.randn(shape, generator=generator)).softmax(-1), name=name, **options
    )


class Scripts(HTMLParser):
    """The text of each script of a page, by its id, as a browser would find it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        self.tags: list[str] = []
        self._inside: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._inside = dict(attrs).get("id") if tag == "script" else None

    def handle_endtag(self, tag: str) -> None:
        del tag
        self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside is not None:
            self.found[self._inside] = self.found.get(self._inside, "") + data


def scripts(page: Page) -> dict[str, str]:
    parser = Scripts()
    parser.feed(page.html)
    return parser.found


def content(page: Page) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(scripts(page)["data"])
    return found


def picture(page: Page) -> np.ndarray[Any, Any]:
    """Return the pixels of the only image."""
    from io import BytesIO

    from PIL import Image

    (source,) = content(page)["images"]
    return np.asarray(Image.open(BytesIO(base64.b64decode(source.split(",")[1]))))


def weights(page: Page, layer: int = 0) -> np.ndarray[Any, Any]:
    """Return the weights of a layer as the page's format says: (sample, window, head, query, key)."""
    described = content(page)["layers"][layer]
    shape = described["shape"]
    buffer = gzip.decompress(base64.b64decode(scripts(page)[f"layer-{layer}"]))
    count = int(np.prod(shape[:3]))
    scales = np.frombuffer(buffer, "<f4", count).reshape(*shape[:3], 1, 1)
    levels = np.frombuffer(buffer, np.uint8, offset=4 * count).reshape(shape)
    if described["differences"]:
        levels = levels.cumsum(3, dtype=np.uint8)
    return scales * (levels / 255.0) ** 2


def test_weights_on_the_page_are_the_maps() -> None:
    """Every weight is off by no more than the stated bound, the square root of weight × greatest over 255."""
    attention = make(shape=(2, 3, 7, 7))
    found = weights(explore(attention))[:, 0]
    exact = attention.tensor().double().numpy()
    bound = np.sqrt(exact * exact.max((2, 3), keepdims=True)) / 255 + 1 / 255**2
    assert (np.abs(found - exact) <= bound).all()


def test_the_error_is_the_greatest_there_is() -> None:
    """The reported error is the actual maximum."""
    attention = make(shape=(2, 3, 7, 7))
    page = explore(attention)
    assert page.error == pytest.approx(np.abs(weights(page)[:, 0] - attention.numpy()).max(), rel=1e-3)
    assert f"{page.error:.1g}" in page.html


def test_rows_alike_are_kept_as_differences() -> None:
    """If rows resemble those above, differences make the page smaller, with the same weights."""
    rows = torch.rand(1, 1, 1, 64).expand(1, 1, 64, 64) + 0.01 * torch.rand(1, 1, 64, 64)
    alike = AttentionMap.from_weights(rows / rows.sum(-1, keepdim=True))
    page = explore(alike)
    assert content(page)["layers"][0]["differences"]
    assert np.allclose(weights(page)[:, 0], alike.numpy(), atol=page.error * 1.01)


def test_zero_stays_zero() -> None:
    """A masked key has weight 0 on the page."""
    attention = AttentionMap.from_qk(torch.randn(1, 1, 6, 4), torch.randn(1, 1, 6, 4), causal=True)
    assert (weights(explore(attention))[0, 0, 0][np.triu_indices(6, 1)] == 0).all()


def test_a_map_of_zeros_is_drawn() -> None:
    """Matrices of zeros can be packed."""
    assert weights(explore(AttentionMap.from_weights(torch.zeros(3, 3)))).max() == 0


def test_windows_stand_behind_their_samples() -> None:
    """The batch of a windowed layer is samples × windows, and so are the page's bytes."""
    attention = make(shape=(6, 2, 4, 4), windows=3)
    page = explore(attention, samples=1)
    assert np.allclose(weights(page)[0], attention.numpy()[3:6], atol=page.error * 1.01)


def test_only_chosen_samples_are_in_the_page() -> None:
    """The page holds the chosen samples, in that order, under their own indices."""
    attention = make(shape=(4, 2, 5, 5))
    page = explore(attention, samples=[-1, 1])
    assert content(page)["samples"] == [3, 1]
    assert np.allclose(weights(page)[:, 0], attention.numpy()[[3, 1]], atol=page.error * 1.01)


def test_layers_are_chosen_by_place_or_name() -> None:
    """Positions and names of modules choose layers, in that order."""
    maps = AttentionMaps(make(f"blocks.{number}.attn", seed=number) for number in range(4))
    page = explore(maps, layers=[3, "blocks.1.attn"])
    assert [layer["name"] for layer in content(page)["layers"]] == ["blocks.3.attn", "blocks.1.attn"]
    assert np.allclose(weights(page, 1)[:, 0], maps[1].numpy(), atol=page.error * 1.01)


def test_layers_that_share_a_name_are_reached_by_their_place() -> None:
    """A layer that ran twice has two maps of one name, which the Python call must distinguish."""
    maps = AttentionMaps([make("shared"), make("shared", seed=1), make("other")])
    assert [layer["ref"] for layer in content(explore(maps))["layers"]] == ["0", "1", "'other'"]


def test_hostile_tokens_and_titles_stay_text() -> None:
    """Tokens and titles never become tags, and a browser reads them back unchanged."""
    evil = ["</script><script>alert(1)</script>", "<!--", "\"'&amp;\\", "😀", "שלום", "\u2028"]
    axis = Tokens(evil)
    page = explore(make(shape=(1, 1, 6, 6), queries=axis, keys=axis), title="</title><img src=x onerror=alert(1)>")
    parser = Scripts()
    parser.feed(page.html)
    assert content(page)["axes"][0]["texts"] == [evil]
    assert "img" not in parser.tags
    assert parser.tags.count("script") == 4  # data, thumbnails, one layer, the page's own


@pytest.mark.parametrize(
    ("title", "shown"), [("\ud83d\ude00", "\U0001f600"), ("\ud800 lone", "\ufffd lone")], ids=["two halves", "one half"]
)
def test_a_title_with_half_a_character_can_be_saved(tmp_path: Path, title: str, shown: str) -> None:
    """Two halves make one, as JavaScript writes them, and a single one is shown as such."""
    page = explore(make(), title=title)
    assert page.title == shown
    assert f"<title>{shown}</title>" in page.save(tmp_path / "page.html").read_text("utf-8")


def test_weights_beyond_float32_are_refused() -> None:
    """A browser reads no others, and would draw nothing."""
    attention = AttentionMap.from_weights(torch.full((1, 1, 3, 3), 1e300, dtype=torch.float64))
    with pytest.raises(OptionError, match=r"^The page reads weights as float32, and these go up to 1e\+300; divide"):
        explore(attention)


def test_a_page_names_no_address_to_load_from() -> None:
    """No attribute of the page leads anywhere but into itself."""
    page = explore(make(queries=Patches((2, 2)), keys=Patches((2, 2))), images=torch.rand(3, 8, 8))
    assert re.findall(r"""(?:src|href|url|@import)\s*[=(]\s*["']?(?!data:)[a-z]+:""", page.html) == []


def test_the_same_maps_make_the_same_page() -> None:
    """A page contains no timestamp and no random number."""
    page = explore(make())
    assert page.html == explore(make()).html
    # The time of day in the header of gzip.
    assert base64.b64decode(scripts(page)["layer-0"])[4:8] == bytes(4)


def test_thumbnails_are_means_of_the_map() -> None:
    """A thumbnail of a long map averages neighbouring rows and columns, to no more than 40 of each."""
    attention = make(shape=(1, 1, 80, 80))
    page = explore(attention)
    assert [thumbs["shape"] for thumbs in content(page)["layers"][0]["thumbs"]] == [[40, 40]]
    buffer = gzip.decompress(base64.b64decode(scripts(page)["thumbs"]))
    scale = np.frombuffer(buffer, "<f4", 1)[0]
    thumb = scale * (np.frombuffer(buffer, np.uint8, offset=4).reshape(40, 40) / 255.0) ** 2
    assert np.allclose(thumb, attention.numpy()[0, 0].reshape(40, 2, 40, 2).mean((1, 3)), atol=scale / 255)


def test_prefix_tokens_have_cells_of_their_own_in_thumbnails() -> None:
    """The scale of a thumbnail is that of the patches, whatever the class token takes."""
    axis = Patches((9, 9))
    rows = torch.rand(1, 1, 82, 82)
    rows[..., 0] = 1000
    page = explore(AttentionMap.from_weights(rows, queries=axis, keys=axis), samples=0)
    (thumbs,) = content(page)["layers"][0]["thumbs"]
    assert thumbs["shape"] == [28, 28]
    assert 0 < thumbs["tops"][0] < 1
    assert content(page)["tops"] == thumbs["tops"]


def test_a_sink_of_one_patch_does_not_take_the_scale_of_its_thumbnail() -> None:
    """Its column is one of 256, and one of 37 in the thumbnail, where it has about 3; the others are seen as well."""
    axis = Patches((16, 16))
    weights = torch.rand(1, 1, 257, 257)
    weights[..., 100] = 20
    page = explore(AttentionMap.from_weights(weights, queries=axis, keys=axis))
    assert content(page)["layers"][0]["thumbs"][0]["tops"][0] < 2


def test_a_shared_scale_ends_at_the_top_of_all_heads() -> None:
    """The layer's scale is the recipes' rule for all its heads, each sample by itself, without the class token."""
    axis = Patches((9, 9))
    attention = make(shape=(2, 3, 82, 82), queries=axis, keys=axis)
    expected = [top_of(*attention.numpy()[sample, :, 1:, 1:]) for sample in (0, 1)]
    assert content(explore(attention))["layers"][0]["tops"] == pytest.approx(expected)


def test_thumbnails_of_windows_are_their_mean() -> None:
    """A head of a windowed layer has one thumbnail for each sample."""
    attention = make(shape=(4, 1, 6, 6), windows=2)
    buffer = gzip.decompress(base64.b64decode(scripts(explore(attention, samples=1))["thumbs"]))
    scale = np.frombuffer(buffer, "<f4", 1)[0]
    thumb = scale * (np.frombuffer(buffer, np.uint8, offset=4).reshape(6, 6) / 255.0) ** 2
    assert np.allclose(thumb, attention.numpy()[2:, 0].mean(0), atol=scale / 255)


def test_an_image_is_kept_without_loss() -> None:
    """The page's image has the pixels that were given."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    axis = Patches((2, 3), prefix=(), image_size=(16, 24))
    page = explore(make(shape=(1, 1, 6, 6), queries=axis, keys=axis), images=pixels)
    assert np.array_equal(picture(page), pixels)


def test_an_image_that_the_model_pads_keeps_its_places() -> None:
    """Below and to the right, the page's image has the padding that the patches cover: grey, as zeros are."""
    pixels = np.random.default_rng(0).integers(0, 256, (11, 23, 3), dtype=np.uint8)
    axis = Patches((2, 3), prefix=(), image_size=(16, 24), image_padding=(5, 1))
    found = picture(explore(make(shape=(1, 1, 6, 6), queries=axis, keys=axis), images=pixels))
    assert found.shape == (16, 24, 3)
    assert np.array_equal(found[:11, :23], pixels)
    assert {*found[11:].ravel(), *found[:, 23:].ravel()} == {128}


def test_each_sample_has_its_image() -> None:
    """Of a batch of images, each chosen sample takes its own."""
    axis = Patches((2, 3), prefix=())
    images = np.stack([np.full((4, 6, 3), value, dtype=np.uint8) for value in (0, 100, 200)])
    attention = make(shape=(3, 1, 6, 6), queries=axis, keys=axis)
    batch = content(explore(attention, images=images, samples=[2, 0]))["images"]
    single = [content(explore(attention, images=list(images), samples=sample))["images"][0] for sample in (2, 0)]
    assert batch == single
    assert batch[0] != batch[1]


def test_tokens_name_what_was_only_counted() -> None:
    """Tokens given for the page name axes that only count, where the number agrees, and no others."""
    attention = make(shape=(1, 1, 3, 3), queries=Named(("a", "b", "c")))
    page = explore([attention, make("longer", shape=(1, 1, 4, 4))], tokens=["x", "y", "z"])
    kinds = [(axis["kind"], axis.get("texts")) for axis in content(page)["axes"]]
    assert kinds == [("names", None), ("tokens", [["x", "y", "z"]]), ("count", None)]


SENTENCES: list[list[int | None]] = [[0, 0, 0, 0], [0, 0, 0, None]]
IDS = Tokens(
    [["101", "7", "8", "102"], ["101", "9", "102", "0"]],
    padding=[[0, 0, 0, 0], [0, 0, 0, 1]],
    special=[[1, 0, 0, 1], [1, 0, 1, 0]],
    words=[[None, 0, 0, None], [None, 0, None, None]],
    spellings=[["78"], ["9"]],
    segments=SENTENCES,
    start=3,
)
WORDS = [["[CLS]", "play", "##ing", "[SEP]"], ["[CLS]", "go", "[SEP]", "[PAD]"]]


def texts(tokens: Any, known: Tokens = IDS, **options: Any) -> dict[str, Any]:
    axis: dict[str, Any] = content(
        explore(make(shape=(len(known.texts), 1, 4, 4), queries=known, keys=known), tokens=tokens, **options)
    )["axes"][0]
    return axis


@pytest.mark.parametrize("tokens", [WORDS, Tokens(WORDS), np.array(WORDS)], ids=["lists", "Tokens", "array"])
def test_tokens_take_the_place_of_ids(tokens: Any) -> None:
    """Given texts replace the ids of a capture without a tokenizer."""
    assert texts(tokens)["texts"] == WORDS


def test_one_text_takes_the_place_of_ids() -> None:
    """A flat list is the text of the only sample."""
    assert texts(WORDS[0], IDS.take([0]))["texts"] == WORDS[:1]


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("padding", [[0, 0, 0, 0], [0, 0, 0, 1]]),
        ("special", [[1, 0, 0, 1], [1, 0, 1, 0]]),
        ("words", [[[0], [1, 2], [3]], [[0], [1], [2], [3]]]),
        ("spellings", [["[CLS]", "playing", "[SEP]"], ["[CLS]", "go", "[SEP]", "[PAD]"]]),
    ],
)
def test_what_is_known_of_tokens_stays(what: str, expected: Any) -> None:
    """Only the texts are replaced; known padding, special tokens and words are kept."""
    assert texts(WORDS)[what] == expected


def relabelled(tokens: Any, known: Tokens = IDS) -> Tokens:
    from anylocal._page.describe import named, tokens_of

    attention = make(shape=(2, 1, 4, 4), queries=known, keys=known)
    (found,) = named([attention], [0, 1], tokens_of(tokens))
    assert isinstance(found.keys, Tokens)
    return found.keys


def test_sentences_and_the_start_stay() -> None:
    """The index of a token in its text and its sentence do not depend on its spelling."""
    found = relabelled(WORDS)
    assert ([found.segments(0), found.segments(1)], found.start) == (SENTENCES, 3)


def test_what_tokens_tell_themselves_counts() -> None:
    """Special tokens, words and sentences of given `Tokens` take precedence over the axis."""
    told: dict[str, Any] = {"special": [[0, 1, 0, 0]] * 2, "segments": [[0, 0, 0, 0]] * 2, "start": 5}
    words: dict[str, Any] = {"words": [[0, 0, 1, 1]] * 2, "spellings": [["a", "b"]] * 2}
    found = relabelled(Tokens(WORDS, **told, **words))
    assert found.is_special(0).tolist() == [False, True, False, False]
    assert (found.segments(1), found.start, found.words(0)) == ([0, 0, 0, 0], 5, [[0, 1], [2, 3]])
    assert found.spelling([0, 1]) == "a"
    assert found.is_padding(1).tolist() == [False, False, False, True]


def test_tokens_of_each_sample_part_a_shared_text() -> None:
    """If all samples shared one text, each gets its own, with the shared padding."""
    known = Tokens(["1", "2", "3", "0"], padding=[0, 0, 0, 1])
    found = relabelled(WORDS, known)
    assert found.texts == tuple(map(tuple, WORDS))
    assert found.is_padding(1).tolist() == [False, False, False, True]


def test_one_text_is_enough_for_the_chosen_sample() -> None:
    """Of a batch, the only sample on the page may have its text alone."""
    assert texts(WORDS[1], samples=1)["texts"] == [WORDS[1]]


def test_tokens_name_one_side_alone() -> None:
    """In an encoder-decoder, only the side of the same length gets the texts."""
    queries, keys = Tokens(["1", "2"]), Tokens(["3", "4", "5"])
    page = explore(make(shape=(1, 1, 2, 3), queries=queries, keys=keys), tokens=["a", "b", "c"])
    assert [axis["texts"] for axis in content(page)["axes"]] == [[["1", "2"]], [["a", "b", "c"]]]


def test_tokens_are_for_the_layers_on_the_page() -> None:
    """A layer of another batch that is not chosen does not keep them from the others."""
    page = explore([make("a", shape=(2, 1, 2, 2)), make("b", shape=(1, 1, 2, 2))], layers="a", tokens=[["x", "y"]] * 2)
    assert content(page)["axes"][0]["texts"] == [["x", "y"]] * 2


class Tokenizer:
    """Of transformers, as far as it is passed for tokens by mistake."""


@pytest.mark.parametrize(
    ("tokens", "error", "match"),
    [
        (list("abcde"), ShapeError, "tokens= has 5 tokens and the maps have 4 positions; give a text for each"),
        ([list("abcd")] * 3, ShapeError, "tokens= has 3 texts and the maps have a batch of 2; give one text for each"),
        (list("abcd"), ShapeError, "has one text and the 2 samples of the page have different ones; .* samples="),
        ([], ShapeError, "got 0"),
        ("abcd", ShapeError, "split it first"),
        (torch.tensor([[101, 7, 8, 102]] * 2), OptionError, "and 101 is not a text; tokenizer.convert_ids_to_tokens"),
        (np.array([101, 7, 8, 102]), OptionError, "and 101 is not a text; tokenizer.convert_ids_to_tokens"),
        ([101, 7, 8, 102], OptionError, "and 101 is not a text; tokenizer.convert_ids_to_tokens"),
        ([["a", "b", "c", 102]] * 2, OptionError, "and 102 is not a text; tokenizer.convert_ids_to_tokens"),
        (["a", "b", ["c", "d"]], OptionError, "is not a text; tokenizer.convert_ids_to_tokens"),
        (Tokenizer(), OptionError, "got Tokenizer; tokenizer.convert_ids_to_tokens.* capture with tokenizer="),
        ({"input_ids": [101, 102]}, OptionError, "got dict; tokenizer.convert_ids_to_tokens"),
    ],
)
def test_tokens_that_fit_nothing_are_refused(tokens: Any, error: type[Exception], match: str) -> None:
    """Tokens that cannot be used are refused with the reason."""
    with pytest.raises(error, match=match):
        texts(tokens)


def test_the_lengths_that_tokens_could_have_are_told() -> None:
    """The message lists all lengths of the layers."""
    with pytest.raises(ShapeError, match="has 7 tokens and the maps have 4, 5 positions"):
        explore([make("a"), make("b", shape=(1, 2, 4, 5))], tokens=list("abcdefg"))


def test_tokens_for_an_image_are_refused() -> None:
    """As images for a text are."""
    axis = Patches((1, 2), prefix=())
    with pytest.raises(OptionError, match="not tokens of a text; leave tokens= out"):
        explore(make(shape=(1, 1, 2, 2), queries=axis, keys=axis), tokens=["a", "b"])


def test_places_are_those_of_the_chosen_sample() -> None:
    """Of patches that lie differently in each sample, the page has those of the samples in it."""
    axis = PlacedPatches((1, 4), [[0, 1], [2, 3], [3, -1]])
    page = explore(make(shape=(3, 1, 2, 2), queries=axis, keys=axis), samples=2)
    assert content(page)["axes"][0]["places"] == [[3, -1]]


def test_the_page_starts_in_the_middle_of_the_text() -> None:
    """The first query shown is a token of the text, not one that the tokenizer added."""
    axis = Tokens(["[CLS]", "a", "b", "[SEP]", "[PAD]"], special=[1, 0, 0, 1, 0], padding=[0, 0, 0, 0, 1])
    start = content(explore(make(queries=axis, keys=axis)))["start"]
    assert start == {"layer": 0, "head": "mean", "query": 2}


def test_saving_replaces_the_file_at_once(tmp_path: Path) -> None:
    """The folder is made, the file is the page, and nothing else is left behind."""
    page = explore(make())
    file = page.save(tmp_path / "new" / "attention.html")
    assert file.read_text("utf-8") == page.html
    assert list(file.parent.iterdir()) == [file]


def test_a_page_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that was there stays, and the unfinished one goes."""
    file = tmp_path / "attention.html"
    file.write_text("before", "utf-8")

    def fail(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(PermissionError):
        explore(make()).save(file)
    assert list(tmp_path.iterdir()) == [file]
    assert file.read_text("utf-8") == "before"


def test_a_notebook_shows_it_in_a_frame() -> None:
    """The frame's document is the page, escaped."""
    page = explore(make(), title='A "title"')
    match = re.match(r'<iframe srcdoc="([^"]*)" title="([^"]*)"', page._repr_html_())
    assert match is not None
    assert unescape(match[1]) == page.html
    assert unescape(match[2]) == 'A "title"'


def test_repr_tells_title_and_size() -> None:
    """A page of megabytes has a short repr."""
    assert re.fullmatch(r"Page\('Attention of 1 layer, 2 heads', 0\.\d MiB\)", repr(explore(make())))


def test_too_large_a_page_is_refused_with_what_to_choose() -> None:
    """Nothing is cut silently: the message names layers=, samples= and limit=."""
    maps = AttentionMaps(make(f"{number}", seed=number, shape=(1, 4, 40, 40)) for number in range(3))
    with pytest.raises(
        OptionError, match=r"larger than 10kB: 2 of 3 layers of 1 samples take .*layers=.*samples=0.*limit="
    ):
        explore(maps, limit="10kB")


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_what_is_no_weight_is_refused(value: float) -> None:
    """Negative and non-finite weights are refused."""
    broken = torch.full((3, 3), 1 / 3)
    broken[1, 1] = value
    with pytest.raises(OptionError, match="non-negative weights"):
        explore(AttentionMap.from_weights(broken))


def test_images_without_patches_are_refused() -> None:
    """Images are for positions that lie in them."""
    with pytest.raises(OptionError, match="not patches; leave images= out"):
        explore(make(), images=torch.rand(3, 8, 8))


def test_an_image_of_another_size_is_refused() -> None:
    """Weights would lie over the wrong pixels."""
    axis = Patches((1, 2), prefix=(), image_size=(8, 16))
    with pytest.raises(ShapeError, match=r"The image is \(16, 16\) and the model saw \(8, 16\)"):
        explore(make(shape=(1, 1, 2, 2), queries=axis, keys=axis), images=torch.rand(3, 16, 16))


def test_an_image_is_not_padded_to_two_sizes() -> None:
    """Layers of images of several sizes have no picture in common."""
    axes = [
        Patches((rows, rows), prefix=(), image_size=(size, size), image_padding=(size - 11, size - 11))
        for rows, size in ((2, 16), (1, 24))
    ]
    layers = [make(str(len(a)), shape=(1, 1, len(a), len(a)), queries=a, keys=a) for a in axes]
    with pytest.raises(ShapeError, match=r"The image is \(11, 11\) and the model saw"):
        explore(AttentionMaps(layers), images=torch.rand(3, 11, 11))


def test_an_image_of_another_size_than_the_model_padded_is_refused() -> None:
    """Where nothing was padded, a smaller image is another one."""
    axis = Patches((2, 2), prefix=(), image_size=(16, 16))
    with pytest.raises(ShapeError, match=r"The image is \(11, 11\) and the model saw \(16, 16\)"):
        explore(make(shape=(1, 1, 4, 4), queries=axis, keys=axis), images=torch.rand(3, 11, 11))


def test_another_number_of_images_is_refused() -> None:
    """Each sample has an image, or all have one."""
    axis = Patches((1, 2), prefix=())
    with pytest.raises(ShapeError, match="images= has 2 images and the maps have 3"):
        explore(make(shape=(3, 1, 2, 2), queries=axis, keys=axis), images=[torch.rand(3, 8, 8)] * 2)


def test_layers_of_different_batches_are_refused() -> None:
    """A sample must mean the same in all layers."""
    with pytest.raises(ShapeError, match="batches of different sizes: 'a' 1, 'b' 2"):
        explore([make("a"), make("b", shape=(2, 2, 5, 5))])


def test_several_forwards_are_refused() -> None:
    """A page is of one forward pass."""
    with pytest.raises(ChoiceError, match="forwards"):
        explore([make(), make(forward=1)])


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"layers": "blocks.9.attn"}, NameNotFoundError),
        ({"layers": 4}, PositionError),
        ({"layers": 1.5}, PositionError),
        ({"layers": [None]}, PositionError),
        ({"samples": 1.5}, PositionError),
        ({"layers": []}, OptionError),
        ({"samples": 1}, PositionError),
        ({"samples": []}, OptionError),
    ],
)
def test_a_choice_of_nothing_is_refused(options: dict[str, Any], error: type[Exception]) -> None:
    """A choice that does not exist raises."""
    with pytest.raises(error):
        explore(make(), **options)


@pytest.mark.parametrize("number", [np.int64(1), torch.tensor(1), np.array([1])])
def test_a_choice_may_be_an_array(number: Any) -> None:
    """Arrays and tensors, including scalars, are accepted as choices."""
    maps = [make("a", shape=(2, 1, 3, 3)), make("b", shape=(2, 1, 3, 3))]
    found = content(explore(maps, layers=number, samples=number))
    assert ([layer["name"] for layer in found["layers"]], found["samples"]) == (["b"], [1])


def test_a_sample_that_is_not_there_is_told_with_its_map() -> None:
    """The message names the map that has no such sample."""
    with pytest.raises(PositionError, match=r"Sample index 9 of AttentionMap\(.*\) is out of range: there are 1"):
        explore(make(), samples=9)


class Scope:
    """As an adapter's, of which only this is asked."""

    maps = AttentionMaps([make()])


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        (Scope(), OptionError, r"explore takes maps and got Scope; give it .* \.maps"),
        (None, OptionError, "explore takes maps and got NoneType; make maps first"),
        (torch.eye(2), OptionError, "explore takes maps and got Tensor; make maps first"),
        ("maps", OptionError, "explore takes maps and got str; make maps first"),
        (
            AttentionMaps([make(), make(forward=1)]).forwards,
            ChoiceError,
            "explore takes maps and got several AttentionMaps; give one of them",
        ),
    ],
)
def test_what_is_no_map_is_refused(given: Any, error: type[Exception], match: str) -> None:
    """The message says what was given and what to give instead."""
    with pytest.raises(error, match=match):
        explore(given)


@pytest.mark.parametrize(
    ("image", "error", "match"),
    [
        (torch.zeros(3, 0, 0), ShapeError, "The image is 0 × 0 pixels, which show nothing"),
        (np.zeros((0, 4)), ShapeError, "The image is 0 × 4 pixels, which show nothing"),
        (torch.full((3, 8, 16), torch.nan), OptionError, "pixels that are NaN or infinite"),
        (np.full((8, 16), np.inf), OptionError, "pixels that are NaN or infinite"),
    ],
)
def test_an_image_of_nothing_is_refused(image: Any, error: type[Exception], match: str) -> None:
    """An image without pixels, or with non-finite ones, is refused."""
    axis = Patches((1, 2), prefix=())
    with pytest.raises(error, match=match):
        explore(make(shape=(1, 1, 2, 2), queries=axis, keys=axis), images=image)


def test_no_map_at_all_is_refused() -> None:
    """An empty capture is refused."""
    with pytest.raises(StateError):
        explore([])
