"""Maps of `nn.MultiheadAttention`: exact on each of torch's paths, which stay as they are."""

from __future__ import annotations

import copy
import types
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

pytest.importorskip("torch")
pytest.importorskip("packaging")

import torch
from torch import Tensor, nn

from anylocal import Call, capture
from anylocal.adapter import Adapter, AttentionCapture, InputContext, MapAxes
from anylocal.attention import AttentionMaps, relevance
from anylocal.errors import ChangedInPlaceWarning, NothingRecordedWarning, OptionError, TargetError, UnsupportedError
from anylocal.testing import perturb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# torch says so of the very first 3.13, of nested tensors, and of encoders that could have used them.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0"),
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors"),
]

BATCH, LENGTH, MEMORY, WIDTH, HEADS = 3, 5, 7, 8, 2
TOLERANCE = 2e-6  # of a softmax in float32 beside one in float64


class OfNoZoo(Adapter):
    """Knows no functions of its own, and whatever version of torch is there."""

    distribution: ClassVar[str] = "anylocal"
    zoo: ClassVar[str] = "torch"

    def functions(self) -> Iterator[types.FunctionType]:
        yield from ()

    def axes(self, call: Call, shape: tuple[int, ...], context: InputContext) -> MapAxes:
        return MapAxes(None, None)


def capture_attention(model: nn.Module, **options: Any) -> AttentionCapture:
    return OfNoZoo().capture_attention(model, any_version=True, **options)


@pytest.fixture(autouse=True)
def fast_path_as_found() -> Iterator[None]:
    """Leave torch's switch of the fast path as it was."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    yield
    torch.backends.mha.set_fastpath_enabled(enabled)


def attention(*, heads: int = HEADS, **options: Any) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(WIDTH, heads, **options)
    perturb(layer, scale=0.3)
    return layer


def encoder_layer(**options: Any) -> nn.TransformerEncoderLayer:
    torch.manual_seed(0)
    options = {"batch_first": True, "dropout": 0.0} | options
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 16, **options).eval()
    perturb(layer, scale=0.3)
    return layer


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def padding(batch: int = BATCH, length: int = LENGTH) -> Tensor:
    """Hide one key more in each sample, from the end."""
    return torch.arange(length) >= length - torch.arange(batch)[:, None]


def doubled(value: object) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def oracle(layer: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
    """Return the weights that the layer itself gives back, in float64 and without dropout."""
    exact = copy.deepcopy(layer).double().eval()
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    options = {name: doubled(each) for name, each in options.items()} | {"need_weights": True}
    with torch.no_grad():
        _, weights = exact(query.double(), key.double(), value.double(), **options, average_attn_weights=False)
    torch.backends.mha.set_fastpath_enabled(before)
    assert isinstance(weights, Tensor)
    return weights if weights.dim() == 4 else weights[None]


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected, atol=TOLERANCE, rtol=0)


def only(maps: AttentionMaps) -> Tensor:
    assert len(maps) == 1
    return maps[0].tensor()


# The slow path

MASKS: dict[str, dict[str, Tensor]] = {
    "none": {},
    "padding": {"key_padding_mask": padding(length=MEMORY)},
    "pairs": {"attn_mask": drawn(LENGTH, MEMORY) > 0.8},
    "added": {"attn_mask": drawn(LENGTH, MEMORY)},
    "pairs of heads": {"attn_mask": drawn(BATCH * HEADS, LENGTH, MEMORY) > 0.8},
    "added to heads": {"attn_mask": drawn(BATCH * HEADS, LENGTH, MEMORY)},
    "padding and pairs": {"key_padding_mask": padding(length=MEMORY), "attn_mask": drawn(LENGTH, MEMORY) > 0.8},
    "padding and added": {
        "key_padding_mask": drawn(BATCH, MEMORY),
        "attn_mask": drawn(BATCH * HEADS, LENGTH, MEMORY),
    },
}


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("masks", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("batch_first", [False, True])
def test_the_map_of_cross_attention_is_that_of_the_layer_in_float64(
    batch_first: bool, masks: dict[str, Tensor], need_weights: bool
) -> None:
    """A map of each mask, order of axes and branch is what the layer gives back in float64."""
    layer = attention(batch_first=batch_first)
    query, memory = drawn(BATCH, LENGTH, WIDTH), drawn(BATCH, MEMORY, WIDTH, seed=2)
    if not batch_first:
        query, memory = query.transpose(0, 1), memory.transpose(0, 1)
    with capture_attention(layer) as maps:
        layer(query, memory, memory, need_weights=need_weights, **masks)
    assert maps[0].shape == (BATCH, HEADS, LENGTH, MEMORY)
    assert maps[0].fused is not need_weights
    close(only(maps), oracle(layer, query, memory, memory, **masks))


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"add_zero_attn": True}], ids=str)
@pytest.mark.parametrize("masks", [MASKS["none"], MASKS["padding and pairs"]], ids=["none", "both"])
def test_positions_that_are_no_tokens_are_keys_too(
    options: dict[str, Any], masks: dict[str, Tensor], need_weights: bool
) -> None:
    """The bias and the zero that a layer adds to its keys stand at the end of the map."""
    layer = attention(batch_first=True, **options)
    query, memory = drawn(BATCH, LENGTH, WIDTH), drawn(BATCH, MEMORY, WIDTH, seed=2)
    with capture_attention(layer) as maps:
        layer(query, memory, memory, need_weights=need_weights, **masks)
    assert maps[0].shape == (BATCH, HEADS, LENGTH, MEMORY + 1)
    close(only(maps), oracle(layer, query, memory, memory, **masks))


@pytest.mark.parametrize("need_weights", [False, True])
def test_keys_and_values_of_other_widths_have_projections_of_their_own(need_weights: bool) -> None:
    """A layer with kdim and vdim gives its exact map."""
    layer = attention(batch_first=True, kdim=3, vdim=4)
    query, key, value = drawn(BATCH, LENGTH, WIDTH), drawn(BATCH, MEMORY, 3), drawn(BATCH, MEMORY, 4)
    with capture_attention(layer) as maps:
        layer(query, key, value, need_weights=need_weights)
    close(only(maps), oracle(layer, query, key, value))


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("masks", [{}, {"key_padding_mask": padding()[1], "attn_mask": drawn(LENGTH, LENGTH) > 0.8}])
def test_an_input_without_a_batch_is_a_batch_of_one(masks: dict[str, Tensor], need_weights: bool) -> None:
    """An unbatched input makes a map of one sample."""
    layer = attention().eval()
    x = drawn(LENGTH, WIDTH)
    with torch.no_grad(), capture_attention(layer) as maps:
        layer(x, x, x, need_weights=need_weights, **masks)
    close(only(maps), oracle(layer, x, x, x, **masks))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("need_weights", [False, True])
def test_a_causal_hint_hides_what_comes_later(need_weights: bool, padded: bool) -> None:
    """A causal hint gives the map of its mask, also where torch drops the mask for the hint."""
    layer = attention(batch_first=True)
    x, mask = drawn(BATCH, LENGTH, WIDTH), nn.Transformer.generate_square_subsequent_mask(LENGTH)
    keys = torch.zeros(BATCH, LENGTH).masked_fill(padding(), -torch.inf) if padded else None
    with capture_attention(layer) as maps:
        layer(x, x, x, need_weights=need_weights, attn_mask=mask, is_causal=True, key_padding_mask=keys)
    close(only(maps), oracle(layer, x, x, x, attn_mask=mask, key_padding_mask=keys))


@pytest.mark.parametrize("need_weights", [False, True])
def test_a_map_is_that_before_dropout(need_weights: bool) -> None:
    """In training the map is the softmax, not what dropout leaves of it."""
    layer = attention(dropout=0.5, batch_first=True)
    x = drawn(BATCH, LENGTH, WIDTH)
    with capture_attention(layer) as maps:
        layer(x, x, x, need_weights=need_weights)
    assert layer.training
    close(only(maps), oracle(layer, x, x, x))


def test_a_column_is_that_of_the_map() -> None:
    """What every query gives to one key is read without the rest of the map."""
    layer, query = attention(batch_first=True).eval(), drawn(BATCH, LENGTH, WIDTH)
    with capture_attention(layer) as maps:
        layer(query, query, query, need_weights=False)
    close(maps[0][..., 2], oracle(layer, query, query, query)[..., 2])


def test_a_graph_leads_back_to_the_model() -> None:
    """Kept with its graph, the map of the branch that gives weights back has a gradient, as relevance needs it."""
    layer = attention(batch_first=True)
    x = drawn(BATCH, LENGTH, WIDTH)
    with capture_attention(layer, keep="graph") as maps:
        output = layer(x, x, x)[0]
    assert relevance(maps, output).shape == (BATCH, LENGTH, LENGTH)


@pytest.mark.parametrize("keep", ["detach", "graph", "clone", "cpu"])
@pytest.mark.parametrize("fast", [False, True])
def test_every_way_to_keep_values_gives_the_map(keep: str, fast: bool) -> None:
    """What is kept of the values changes nothing of the map."""
    layer = attention(batch_first=True).eval()
    x = drawn(BATCH, LENGTH, WIDTH)
    with torch.set_grad_enabled(not fast), capture_attention(layer, keep=keep) as maps:
        layer(x, x, x, need_weights=False)
    close(only(maps), oracle(layer, x, x, x))


# The fused paths


def why_not(layer: nn.Module, name: str, run: Callable[[], object]) -> str:
    """Return why torch did not take its fused path."""
    with capture(layer, name) as reasons:
        run()
    (reason,) = reasons[name]
    assert isinstance(reason, str)
    return reason


SELF_MASKS: dict[str, dict[str, Tensor]] = {
    "none": {},
    "padding": {"key_padding_mask": padding()},
    "pairs": {"attn_mask": torch.ones(LENGTH, LENGTH).triu(1) > 0},
    "pairs of heads": {
        "attn_mask": (drawn(BATCH * HEADS, LENGTH, LENGTH) > 0.8) & ~torch.eye(LENGTH, dtype=torch.bool)
    },
    "both": {"key_padding_mask": padding(), "attn_mask": torch.ones(LENGTH, LENGTH).triu(1) > 0},
}


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("masks", SELF_MASKS.values(), ids=SELF_MASKS)
def test_the_fused_path_of_a_layer_runs_and_gives_its_map(masks: dict[str, Tensor], need_weights: bool) -> None:
    """Under a capture the layer takes its fused path to the same output, and its map is there."""
    layer = attention(batch_first=True).eval()
    x = drawn(BATCH, LENGTH, WIDTH)

    def run() -> tuple[Tensor, Tensor | None]:
        output: tuple[Tensor, Tensor | None] = layer(x, x, x, need_weights=need_weights, **masks)
        return output

    with torch.no_grad():
        plain = run()
        with capture_attention(layer) as maps:
            assert not why_not(layer, "why_not_fast_path", run)
            captured = run()
    assert torch.equal(captured[0], plain[0])
    assert len(maps) == 2
    assert maps[0].fused
    close(maps[0].tensor(), oracle(layer, x, x, x, **masks))


@pytest.mark.parametrize("masks", SELF_MASKS.values(), ids=SELF_MASKS)
@pytest.mark.parametrize("norm_first", [False, True])
def test_the_fused_path_of_an_encoder_layer_runs_and_gives_its_map(norm_first: bool, masks: dict[str, Tensor]) -> None:
    """Under a capture the encoder layer takes its fused path to the same output, and its attention's map is there."""
    layer = encoder_layer(norm_first=norm_first)
    x = drawn(BATCH, LENGTH, WIDTH)

    def run() -> Tensor:
        output: Tensor = layer(x, masks.get("attn_mask"), masks.get("key_padding_mask"))
        return output

    with torch.no_grad():
        plain = run()
        with capture_attention(layer) as maps:
            assert not why_not(layer, "why_not_sparsity_fast_path", run)
            captured = run()
        given = layer.norm1(x) if norm_first else x
    assert torch.equal(captured, plain)
    assert [(each.name, each.forward, each.fused) for each in maps] == [("self_attn", 0, True), ("self_attn", 1, True)]
    close(maps[0].tensor(), oracle(layer.self_attn, given, given, given, **masks))


def test_an_encoder_layer_hides_what_its_fused_path_hides() -> None:
    """A mask that is to be added hides every key where it is not 0 there, as torch's fused encoder layer has it."""
    layer, x = encoder_layer(), drawn(BATCH, LENGTH, WIDTH)
    mask = drawn(LENGTH, LENGTH).relu() * (1 - torch.eye(LENGTH))
    with torch.no_grad():
        assert torch.equal(layer(x, mask), layer(x, mask > 0))
        with capture_attention(layer) as maps:
            layer(x, mask)
    close(only(maps), oracle(layer.self_attn, x, x, x, attn_mask=mask > 0))


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("reason", ["grad", "hook"])
def test_an_encoder_layer_beside_its_fused_path_gives_its_map(norm_first: bool, reason: str) -> None:
    """Where gradients or a hook keep an encoder layer from its fused path, the one map is that of its attention."""
    layer, x = encoder_layer(norm_first=norm_first), drawn(BATCH, LENGTH, WIDTH)
    if reason == "hook":
        layer.linear1.register_forward_hook(lambda *_: None)
    with torch.set_grad_enabled(reason == "grad"), capture_attention(layer) as maps:
        layer(x)
    given = layer.norm1(x) if norm_first else x
    assert maps[0].name == "self_attn"
    close(only(maps), oracle(layer.self_attn, given, given, given))


def test_a_layer_without_biases_takes_the_slow_path() -> None:
    """Where torch turns back from its fused path, there is one map and not two."""
    layer = attention(batch_first=True, bias=False).eval()
    x = drawn(BATCH, LENGTH, WIDTH)
    with torch.no_grad(), capture_attention(layer) as maps:
        layer(x, x, x)
    close(only(maps), oracle(layer, x, x, x))


# Encoders, decoders, models


def encoder(*, nested: bool = False, **options: Any) -> nn.TransformerEncoder:
    model = nn.TransformerEncoder(encoder_layer(**options), 2, enable_nested_tensor=nested).eval()
    perturb(model, scale=0.3, seed=3)
    return model


@pytest.mark.parametrize("grad", [False, True])
def test_the_layers_of_an_encoder_come_in_their_order(grad: bool) -> None:
    """Each layer's map has its name, its place and its forward."""
    model, x = encoder(), drawn(BATCH, LENGTH, WIDTH)
    with torch.set_grad_enabled(grad), capture_attention(model) as maps:
        model(x, src_key_padding_mask=padding())
        model(x)
        second = model.layers[0](x)
    names = ["layers.0.self_attn", "layers.1.self_attn"]
    assert [(each.name, each.forward) for each in maps[:4]] == [(n, f) for f in (0, 1) for n in names]
    attend: Any = model.layers[0].self_attn
    close(maps[0].tensor(), oracle(attend, x, x, x, key_padding_mask=padding()))
    attend = model.layers[1].self_attn
    close(maps[3].tensor(), oracle(attend, second, second, second))


def test_nested_tensors_have_rows_up_to_the_end_of_each_sample() -> None:
    """An encoder that drops padding gives the maps of what is left, and zeros in its place."""
    model, x = encoder(nested=True), drawn(BATCH, LENGTH, WIDTH)
    with torch.no_grad():
        plain = model(x, src_key_padding_mask=padding())
        with capture_attention(model) as maps:
            captured = model(x, src_key_padding_mask=padding())
        between = model.layers[0](x, src_key_padding_mask=padding())
    assert torch.equal(captured, plain)
    for layer, given, found in zip(model.layers, (x, between), maps, strict=True):
        attend: Any = layer.self_attn
        expected = oracle(attend, given, given, given, key_padding_mask=padding())
        close(found.tensor(), expected * ~padding()[:, None, :, None])


def test_a_decoder_layer_attends_to_itself_and_to_its_memory() -> None:
    """The two attentions of a decoder layer are told apart by name, shape and order."""
    torch.manual_seed(0)
    layer = nn.TransformerDecoderLayer(WIDTH, HEADS, 16, dropout=0.0, batch_first=True).eval()
    perturb(layer, scale=0.3)
    target, memory = drawn(BATCH, LENGTH, WIDTH), drawn(BATCH, MEMORY, WIDTH, seed=2)
    mask = nn.Transformer.generate_square_subsequent_mask(LENGTH)
    with torch.no_grad(), capture_attention(layer) as maps:
        layer(target, memory, tgt_mask=mask, tgt_is_causal=True, memory_key_padding_mask=padding(length=MEMORY))
        inner = layer.norm1(target + layer.self_attn(target, target, target, attn_mask=mask)[0])
    assert [each.name for each in maps[:2]] == ["self_attn", "multihead_attn"]
    close(maps[0].tensor(), oracle(layer.self_attn, target, target, target, attn_mask=mask))
    hidden = {"key_padding_mask": padding(length=MEMORY)}
    close(maps[1].tensor(), oracle(layer.multihead_attn, inner, memory, memory, **hidden))


def test_a_whole_transformer_gives_a_map_of_each_attention() -> None:
    """An encoder and a decoder of several layers make six maps, in the order in which they ran."""
    torch.manual_seed(0)
    model = nn.Transformer(WIDTH, HEADS, 2, 2, 16, batch_first=True).eval()
    with torch.no_grad(), capture_attention(model) as maps:
        model(drawn(BATCH, MEMORY, WIDTH), drawn(BATCH, LENGTH, WIDTH))
    first = ["encoder.layers.0.self_attn", "encoder.layers.1.self_attn"]
    each = [f"decoder.layers.{i}.{kind}" for i in range(2) for kind in ("self_attn", "multihead_attn")]
    assert [found.name for found in maps] == first + each


class OfItsOwn(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        q = k = x[:, None]
        return nn.functional.scaled_dot_product_attention(q, k, q)[:, 0]


class Mixed(nn.Module):
    """Has an attention of its own between two of torch's."""

    def __init__(self) -> None:
        super().__init__()
        self.first = attention(batch_first=True)
        self.own = OfItsOwn()
        self.last = attention(batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.own(self.first(x, x, x)[0])
        x = self.last(x, x, x)[0]
        return x


def test_a_model_may_have_attention_of_both_kinds() -> None:
    """Torch's attention and the model's own come in one order, with one count of forwards."""
    model = Mixed().eval()
    x = drawn(BATCH, LENGTH, WIDTH)
    with torch.no_grad(), capture_attention(model) as maps:
        model(x)
        model(x)
    assert [(each.name, each.forward) for each in maps] == [(n, f) for f in (0, 1) for n in ("first", "own", "last")]


def test_a_layer_that_runs_twice_belongs_to_one_forward() -> None:
    """Forwards are told apart by the model's own, and a part that runs by itself afterwards is another one."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = attention()

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(2):
                x = self.layer(x, x, x)[0]
            return x

    model, x = Tied(), drawn(BATCH, LENGTH, WIDTH)
    with capture_attention(model) as maps:
        model(x)
        model(x)
        model.layer(x, x, x)
    assert [each.forward for each in maps] == [0, 0, 1, 1, 2]


def test_modules_may_be_chosen() -> None:
    """The maps of those modules come that were asked for, on each path."""
    model, x = encoder(), drawn(BATCH, LENGTH, WIDTH)
    for grad in (False, True):
        with torch.set_grad_enabled(grad), capture_attention(model, modules="layers.1.*") as maps:
            model(x)
        assert [each.name for each in maps] == ["layers.1.self_attn"]
    with pytest.raises(TargetError, match=r"nn\.MultiheadAttention"):
        capture_attention(model, modules="layers.1.linear1")


def test_what_calls_the_function_of_torch_itself_is_the_module() -> None:
    """A layer with projections of its own, which calls torch's function, gives its map under its own name."""

    class Pool(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = attention()

        def forward(self, x: Tensor) -> Tensor:
            inner = self.inner
            weight, bias, out = inner.in_proj_weight, inner.in_proj_bias, inner.out_proj
            output: Tensor = nn.functional.multi_head_attention_forward(
                x[:1], x, x, WIDTH, HEADS, weight, bias, None, None, False, 0.0, out.weight, out.bias
            )[0]
            return output

    model, x = nn.Sequential(Pool()), drawn(LENGTH, BATCH, WIDTH)
    with capture_attention(model) as maps:
        model(x)
    inner: Any = model[0].inner
    assert maps[0].name == "0"
    close(only(maps), oracle(inner, x[:1], x, x))


def test_another_model_is_not_captured() -> None:
    """What runs on behalf of no module of the model makes no map, also after a call that raised."""
    model, other, x = attention(batch_first=True), attention(batch_first=True), drawn(BATCH, LENGTH, WIDTH)
    scope = capture_attention(model).open()
    other(x, x, x)
    with pytest.raises(RuntimeError):
        model(x, x, x, attn_mask=torch.zeros(1, 1), need_weights=False)
    other(x, x, x)
    scope.close()
    assert not len(scope.maps)


def test_what_cannot_be_read_is_told_each_time() -> None:
    """The second reading does not pass over what the first one stumbled on."""

    class Stumbling(OfNoZoo):
        def axes(self, call: Call, shape: tuple[int, ...], context: InputContext) -> MapAxes:
            raise UnsupportedError("no axes")

    model = attention()
    with Stumbling().capture_attention(model, any_version=True) as maps:
        model(*[torch.zeros(LENGTH, BATCH, WIDTH)] * 3)
    for _ in range(2):
        with pytest.raises(UnsupportedError, match="no axes"):
            len(maps)


@pytest.mark.parametrize(
    ("given", "cure"),
    [
        (nn.MultiheadAttention, "The class MultiheadAttention .* Build the model first"),
        (nn.MultiheadAttention(WIDTH, HEADS).forward, r"A method \(MultiheadAttention.forward\) .*that it belongs to"),
        (types.SimpleNamespace(model=nn.MultiheadAttention(WIDTH, HEADS)), r"A SimpleNamespace .* Give its \.model"),
        (None, "A NoneType is not an nn.Module"),
    ],
)
def test_what_is_no_model_is_refused(given: Any, cure: str) -> None:
    """With what to give instead."""
    with pytest.raises(TargetError, match=cure):
        capture_attention(given)


@pytest.mark.parametrize("options", [{"keep": "gpu"}, {"threads": "mine"}])
def test_options_that_mean_nothing_are_refused(options: dict[str, str]) -> None:
    """As `capture` refuses them."""
    with pytest.raises(OptionError, match=next(iter(options.values()))):
        capture_attention(attention(), **options)


def test_a_capture_of_a_model_that_does_not_run_says_so() -> None:
    """Another model's calls do not pass for those that were waited for."""
    model, other, x = attention(), attention(), drawn(BATCH, LENGTH, WIDTH)
    with pytest.warns(NothingRecordedWarning, match=r"map: MultiheadAttention\.forward was"), capture_attention(model):
        other(x, x, x)


# Weights that change


def step(layer: nn.MultiheadAttention) -> None:
    with torch.no_grad():
        layer.in_proj_weight.add_(1.0)


def replace(layer: nn.MultiheadAttention) -> None:
    layer.in_proj_bias = nn.Parameter(drawn(3 * WIDTH))


def swap(layer: nn.MultiheadAttention) -> None:
    layer.in_proj_weight.data = drawn(3 * WIDTH, WIDTH)


@pytest.mark.parametrize("change", [step, replace, swap])
def test_weights_that_were_changed_after_a_fused_call_are_reported(
    change: Callable[[nn.MultiheadAttention], None],
) -> None:
    """A map that is projected from weights which are not those of the call says so."""
    layer, x = attention(batch_first=True).eval(), drawn(BATCH, LENGTH, WIDTH)
    with torch.no_grad(), capture_attention(nn.Sequential(layer)[0]) as maps:
        layer(x, x, x)
    change(layer)
    with pytest.warns(ChangedInPlaceWarning, match=r"weights of .* were changed .*set_fastpath_enabled\(False\)"):
        maps[0].tensor()


def test_a_map_that_was_read_before_stays_as_it_was() -> None:
    """Weights that change after a map was read, or before it ran, or that decide nothing, are no matter."""
    layer, x = attention(batch_first=True).eval(), drawn(BATCH, LENGTH, WIDTH)
    with torch.no_grad(), capture_attention(layer) as maps:
        step(layer)
        expected = oracle(layer, x, x, x)
        layer(x, x, x)
        layer.out_proj.weight.add_(1.0)
        close(maps[0].tensor(), expected)
        step(layer)
        close(maps[0].tensor(), expected)


def test_weights_that_changed_between_two_calls_are_reported_until_the_capture_is_cleared() -> None:
    """Of which call weights were is not known, unless what came before is forgotten."""
    layer, x = attention(batch_first=True).eval(), drawn(BATCH, LENGTH, WIDTH)
    scope = capture_attention(layer)
    with torch.no_grad(), scope as maps:
        layer(x, x, x)
        step(layer)
        layer(x, x, x)
        with pytest.warns(ChangedInPlaceWarning):
            maps[1].tensor()
        before = maps[0]
        scope.clear()
        layer(x, x, x)
        close(only(maps), oracle(layer, x, x, x))
        with pytest.warns(ChangedInPlaceWarning):
            before.tensor()


def test_weights_that_were_lent_for_a_call_are_reported() -> None:
    """Weights of a functional call are gone when it ends, and the map is not made of the model's own in silence."""
    layer, x = attention(batch_first=True).eval(), drawn(BATCH, LENGTH, WIDTH)
    lent = {name: 2 * each.detach() for name, each in layer.named_parameters()}
    with torch.no_grad(), capture_attention(layer) as maps:
        layer(x, x, x)
        torch.func.functional_call(layer, lent, (x, x, x))
    with pytest.warns(ChangedInPlaceWarning):
        maps[1].tensor()


def test_a_norm_that_was_changed_is_reported() -> None:
    """An encoder layer that norms first has its map from the norm's weights too."""
    layer, x = encoder_layer(norm_first=True), drawn(BATCH, LENGTH, WIDTH)
    with torch.no_grad(), capture_attention(layer) as maps:
        layer(x)
        layer.norm1.weight.add_(1.0)
    with pytest.warns(ChangedInPlaceWarning, match=r"weights of 'self_attn'"):
        maps[0].tensor()


def test_an_input_that_was_changed_is_reported() -> None:
    """An input overwritten after the call is not taken for the one of the call."""
    layer, x = attention(batch_first=True).eval(), drawn(BATCH, LENGTH, WIDTH)
    with torch.no_grad(), capture_attention(layer) as maps:
        layer(x, x, x)
        early = maps[0]
        x.add_(1.0)
    with pytest.warns(ChangedInPlaceWarning, match=r"input of .* was changed"):
        early.tensor()


def test_weights_that_are_no_longer_there_are_refused() -> None:
    """Weights of another shape than they ran with, such as shards, make no map."""
    layer, x = attention(batch_first=True).eval(), drawn(BATCH, LENGTH, WIDTH)
    with torch.no_grad(), capture_attention(layer) as maps:
        layer(x, x, x)
    found = maps[0]
    layer.in_proj_weight.data = torch.empty(0)
    with pytest.raises(UnsupportedError, match=r"have another layout"), pytest.warns(ChangedInPlaceWarning):
        found.tensor()


# Elsewhere


def test_maps_in_main_memory_do_not_need_the_weights_any_more() -> None:
    """A map brought to main memory is the same map, whatever becomes of the model."""
    layer, x = attention(batch_first=True).eval(), drawn(BATCH, LENGTH, WIDTH)
    with torch.no_grad(), capture_attention(layer) as maps:
        layer(x, x, x)
        expected = oracle(layer, x, x, x)
        moved = maps[0].cpu()
        step(layer)
    close(moved[0, 1, 2:], expected[0, 1, 2:])


class Two(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(attention(**options) for _ in range(2))

    def forward(self, x: Tensor, memory: Tensor, **options: Any) -> Tensor:
        for layer in self.layers:
            x = layer(x, memory, memory, **options)[0]
        return x


COMPILED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({"batch_first": True}, {}),
    "batch second": ({}, {}),
    "masks": ({"batch_first": True}, MASKS["padding and added"]),
    "more keys": ({"batch_first": True, "add_bias_kv": True, "add_zero_attn": True}, MASKS["padding and pairs"]),
    "other widths": ({"batch_first": True, "kdim": WIDTH, "vdim": WIDTH, "bias": False}, MASKS["pairs of heads"]),
}


@pytest.mark.parametrize(("need_weights", "grad"), [(False, False), (True, True)])
@pytest.mark.parametrize(("options", "masks"), COMPILED.values(), ids=COMPILED)
def test_a_model_that_is_compiled_as_a_whole_gives_the_same_maps(
    options: dict[str, Any], masks: dict[str, Tensor], need_weights: bool, grad: bool
) -> None:
    """A capture compiles into the graph, and takes the maps out of it, whatever the layers are given."""
    model, x, memory = Two(**options).eval(), drawn(BATCH, LENGTH, WIDTH), drawn(BATCH, MEMORY, WIDTH)
    if not options.get("batch_first"):
        x, memory = x.transpose(0, 1), memory.transpose(0, 1)
    layers: list[Any] = list(model.layers)
    with torch.set_grad_enabled(grad):
        between = layers[0](x, memory, memory, **masks)[0].detach()
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        with capture_attention(model) as maps:
            compiled(x, memory, need_weights=need_weights, **masks)
            compiled(x, memory, need_weights=need_weights, **masks)
        assert [each.name for each in maps] == ["layers.0", "layers.1"] * 2
        assert all(each.fused is not need_weights for each in maps)
        close(maps[2].tensor(), oracle(layers[0], x, memory, memory, **masks))
        close(maps[3].tensor(), oracle(layers[1], between, memory, memory, **masks))


@pytest.mark.parametrize("compiled", [False, True])
def test_only_what_makes_the_maps_is_held(compiled: bool) -> None:
    """The input is not kept beside query and key, and nothing of what dynamo tries out."""
    layer, x = attention(batch_first=True), drawn(BATCH, LENGTH, WIDTH)
    run: Any = torch.compile(layer, fullgraph=True, backend="aot_eager") if compiled else layer
    scope = capture_attention(layer).open()
    run(x, x, x, need_weights=False)
    scope.close()
    names = {name for record in scope._capture.records for name in record.names}
    operand = "scaled_dot_product_attention.query"
    assert {"query", operand} & names == {"query" if compiled else operand}


def test_a_causal_hint_holds_in_a_compiled_model() -> None:
    """The hint stands for its mask there too, and an input without a batch is a batch of one."""
    layer, x = attention(), drawn(LENGTH, WIDTH)
    mask = nn.Transformer.generate_square_subsequent_mask(LENGTH)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with capture_attention(layer) as maps:
        compiled(x, x, x, attn_mask=mask, is_causal=True, need_weights=False)
    close(only(maps), oracle(layer, x, x, x, attn_mask=mask))


@pytest.mark.parametrize("grad", [False, True])
def test_a_compiled_encoder_gives_the_same_maps(grad: bool) -> None:
    """Encoder layers that are compiled as a whole keep their names and maps."""
    model, x = encoder(), drawn(BATCH, LENGTH, WIDTH)
    with torch.set_grad_enabled(grad):
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        with capture_attention(model) as maps:
            compiled(x)
    assert [each.name for each in maps] == ["layers.0.self_attn", "layers.1.self_attn"]
    attend: Any = model.layers[0].self_attn
    close(maps[0].tensor().detach(), oracle(attend, x, x, x))


class Residual(nn.Module):
    """Writes into what it has given to its attention."""

    def __init__(self) -> None:
        super().__init__()
        self.mha = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x * 2
        x += self.mha(x, x, x, need_weights=False)[0]
        return x


def test_inference_mode_counts_no_changes() -> None:
    """Where nothing tells that an input was changed afterwards, a copy is kept: the map is that of the call."""
    torch.manual_seed(0)
    model, x = Residual().eval(), torch.randn(2, 5, 16)
    with capture_attention(model) as maps, torch.inference_mode():
        model(x)
    with torch.no_grad():
        expected = model.mha(x * 2, x * 2, x * 2, average_attn_weights=False)[1]
    torch.testing.assert_close(maps[0].tensor(), expected, rtol=0, atol=1e-6)
