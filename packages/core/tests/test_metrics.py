"""Statistics over a data set: over batches, ranks and layers of different kinds, and how little they keep."""

from __future__ import annotations

import copy
import io
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("torchmetrics")

import torch
from torchmetrics import MetricCollection, SumMetric

from anylocal.attention import (
    AttentionMap,
    AttentionMaps,
    Axis,
    Named,
    Patches,
    Tokens,
    distance,
    entropy,
    head_agreement,
    prefix_mass,
    sink_mass,
)
from anylocal.errors import ChoiceError, OptionError, ShapeError, StateError
from anylocal.metrics import AttentionDistance, AttentionEntropy, HeadAgreement, MeanMap, PrefixMass, SinkMass

from .test_ranks import torchrun

if TYPE_CHECKING:
    from pathlib import Path

PATCHES = Patches((2, 3), prefix=("cls", "register"), image_size=(32, 48))
STATISTICS = [
    (AttentionEntropy, entropy),
    (AttentionDistance, distance),
    (PrefixMass, prefix_mass),
    (SinkMass, sink_mass),
    (HeadAgreement, head_agreement),
]


def make(seed: int, *, batch: int = 3, heads: int = 2, axis: Axis = PATCHES, **options: Any) -> AttentionMap:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(batch, heads, len(axis), len(axis), generator=generator)
    return AttentionMap.from_weights(logits.softmax(-1), queries=axis, keys=axis, **{"name": "layer", **options})


def state_of(measured: Any) -> dict[str, torch.Tensor]:
    """Return the `metric_state`, which torchmetrics 1.0 lacks."""
    return {name: getattr(measured, name) for name in ("described", "sums", "counts")}


@pytest.mark.parametrize(("metric", "statistic"), STATISTICS)
def test_it_is_the_mean_over_all_samples(metric: Any, statistic: Any) -> None:
    """Over batches of different sizes, each sample counts once."""
    batches = [make(0, batch=4), make(1, batch=1)]
    measured = metric()
    for attention in batches:
        measured.update([attention])
    expected = torch.cat([statistic(attention).double() for attention in batches]).mean(0)
    torch.testing.assert_close(measured.compute()[0].double(), expected, rtol=1e-6, atol=1e-7)


def test_mean_maps_are_means() -> None:
    """Of all samples, with the axes of the layer."""
    batches = [make(0, batch=4), make(1, batch=1)]
    measured = MeanMap()
    for attention in batches:
        measured.update(AttentionMaps([attention]))
    found = measured.compute()["layer"]
    expected = torch.cat([attention.tensor().double() for attention in batches]).mean(0)
    torch.testing.assert_close(found[0].double(), expected, rtol=1e-6, atol=1e-7)
    assert (found.queries, found.keys) == (PATCHES, PATCHES)


def test_of_texts_a_mean_map_counts_positions() -> None:
    """Texts differ, so the mean has no tokens."""
    measured = MeanMap()
    measured.update([make(0, batch=2, axis=Tokens([["a", "b"], ["c", "d"]]))])
    assert measured.compute()[0].keys == Axis(2)


def test_what_is_little_beside_the_sum_is_counted() -> None:
    """After a million images, one more still counts: the sums are precise enough."""
    measured = AttentionEntropy()
    measured.add([("a", (1,))], torch.tensor([2.0**30]), torch.tensor([2.0**30]))
    measured.add([("a", (1,))], torch.ones(1), torch.ones(1))
    assert [measured.sums.item() - 2**30, measured.counts.item() - 2**30] == [1, 1]


def test_called_it_tells_of_the_batch_and_counts_it() -> None:
    """As in torchmetrics, the call returns the batch's value, and compute that of all."""
    measured = AttentionEntropy()
    first, second = make(0), make(1)
    torch.testing.assert_close(measured([first])[0], entropy(first).mean(0))
    torch.testing.assert_close(measured([second])[0], entropy(second).mean(0))
    torch.testing.assert_close(measured.compute()[0], torch.cat([entropy(first), entropy(second)]).mean(0))


@pytest.mark.parametrize("metric", [AttentionEntropy, MeanMap])
@pytest.mark.parametrize(
    ("given", "error"),
    [
        (make(1, name="b"), r"before: \('layer', .*then \('b'"),
        (make(1, heads=3), r"before: \('layer', \(2.*then \('layer', \(3"),
        ([], "at least one map"),
    ],
)
def test_what_a_call_refuses_leaves_all_as_it_was(metric: Any, given: Any, error: str) -> None:
    """Refused layers raise, and the sums from before are kept."""
    measured, expected = metric(), metric()
    for each in (measured, expected):
        each(make(0))
    with pytest.raises((ShapeError, StateError), match=error):
        measured(given)
    assert measured.layers == expected.layers
    torch.testing.assert_close(measured.compute()[0][...], expected.compute()[0][...])


def test_after_a_refused_call_it_goes_on() -> None:
    """The next maps are added to those before."""
    measured = AttentionEntropy()
    measured(make(0))
    with pytest.raises(ShapeError):
        measured(make(1, name="b"))
    measured(make(2))
    expected = torch.cat([entropy(make(0)), entropy(make(2))]).mean(0)
    torch.testing.assert_close(measured.compute()[0], expected)


def test_layers_of_fewer_heads_end_in_nan() -> None:
    """Rows are layers, filled with NaN where a layer has fewer heads."""
    measured = AttentionEntropy()
    measured.update([make(0, name="a"), make(1, heads=3, name="b")])
    found = measured.compute()
    assert found.shape == (2, 3)
    assert found.isnan().tolist() == [[False, False, True], [False] * 3]


def test_a_layer_without_it_is_nan() -> None:
    """A layer without places has no distance, and the others have theirs."""
    measured = AttentionDistance()
    measured.update([make(0, axis=Axis(4), name="a"), make(1, name="b")])
    found = measured.compute()
    assert found[0].isnan().all()
    torch.testing.assert_close(found[1], distance(make(1)).mean(0))


def test_a_layer_without_prefix_tokens_is_nan() -> None:
    """The others have what goes to each of theirs."""
    measured = PrefixMass()
    measured.update([make(0, axis=Axis(4), name="a"), make(1, name="b")])
    found = measured.compute()
    assert found[0].isnan().all()
    torch.testing.assert_close(found[1], prefix_mass(make(1)).mean(0))


@pytest.mark.parametrize(
    ("metric", "axis", "error"),
    [
        (AttentionDistance, Axis(4), r"queries of .*'a'.* are Axis\(4\), not patches"),
        (PrefixMass, Axis(4), r"keys of .*'a'.* are Axis\(4\), not patches"),
        (PrefixMass, Patches((2, 2), prefix=()), r"keys of .*'a'.* are Patches.*, without prefix tokens"),
    ],
)
def test_what_no_layer_has_is_no_result(metric: Any, axis: Axis, error: str) -> None:
    """Instead of nothing but NaN, or no number at all, what the first layer does not have."""
    measured = metric()
    measured.update([make(0, axis=axis, name="a"), make(1, axis=axis, name="b")])
    with pytest.raises(ShapeError, match=error):
        measured.compute()


def test_called_with_what_no_layer_has_it_says_so_at_once() -> None:
    """And counts nothing of it."""
    measured = AttentionDistance()
    with pytest.raises(ShapeError, match="not patches"):
        measured([make(0, axis=Axis(4))])
    assert not measured.layers


def test_what_a_layer_has_in_some_batches_only_is_measured_there() -> None:
    """It is no result where no sample has it; one batch is enough."""
    measured = AttentionDistance()
    measured.update([make(0, axis=Axis(8))])
    measured.update([make(1)])
    torch.testing.assert_close(measured.compute()[0], distance(make(1)).mean(0))


def test_sums_of_what_no_layer_has_can_be_asked_for() -> None:
    """A survey, which asks for all statistics, goes on with the others."""
    measured = AttentionDistance()
    measured.update([make(0, axis=Axis(4))])
    assert measured.means()[0].isnan().tolist() == [True, True]


def test_texts_of_nothing_but_padding_do_not_count() -> None:
    """A sample without any query is left out of the mean."""
    axis = Tokens([["a", "b"], ["x", "x"]], padding=[[0, 0], [1, 1]])
    attention = make(0, batch=2, axis=axis)
    measured = AttentionEntropy()
    measured.update([attention])
    torch.testing.assert_close(measured.compute()[0], entropy(attention)[0])


def test_other_layers_than_before_are_refused() -> None:
    """A metric is of one model."""
    measured = AttentionEntropy()
    measured.update([make(0, name="a")])
    with pytest.raises(ShapeError, match=r"other layers or shapes than before: \('a', \(2,\)\), then \('b', \(2,\)\)"):
        measured.update([make(0, name="b")])


def test_a_layer_more_than_before_is_refused() -> None:
    """The message names the layer that is new."""
    measured = AttentionEntropy()
    measured.update([make(0, name="a")])
    with pytest.raises(ShapeError, match=r"than before: no layer, then \('b', \(2,\)\)"):
        measured.update([make(0, name="a"), make(0, name="b")])


def test_after_a_reset_it_takes_another_model() -> None:
    """After a reset, nothing of the first model is left."""
    measured = AttentionEntropy()
    measured.update([make(0, name="a")])
    measured.reset()
    measured.update([make(1, name="b", heads=3)])
    torch.testing.assert_close(measured.compute()[0], entropy(make(1, heads=3)).mean(0))


def test_without_maps_there_is_no_mean() -> None:
    """Without maps, compute raises with the remedy."""
    with pytest.warns(UserWarning, match="before the ``update``"), pytest.raises(StateError, match="was given no maps"):
        AttentionEntropy().compute()


def test_a_single_map_is_that_of_one_layer() -> None:
    """As it is to the page of maps."""
    one, several = AttentionEntropy(), AttentionEntropy()
    one.update(make(0))
    several.update([make(0)])
    torch.testing.assert_close(one.compute(), several.compute())


@pytest.mark.parametrize(("given", "kind"), [(torch.eye(2), "Tensor"), ([torch.eye(2)], "Tensor"), (3, "int")])
def test_what_is_no_map_is_refused(given: Any, kind: str) -> None:
    """The message says what was given and what to give instead."""
    with pytest.raises(OptionError, match=f"AttentionEntropy takes maps and got {kind}; make maps first"):
        AttentionEntropy().update(given)


@pytest.mark.parametrize(("maps", "error"), [([], StateError), ([make(0), make(0, forward=1)], ChoiceError)])
def test_maps_of_one_forward_are_wanted(maps: list[AttentionMap], error: type[Exception]) -> None:
    """No maps, and maps of several forward passes, are refused."""
    with pytest.raises(error):
        AttentionEntropy().update(maps)


def test_it_survives_a_checkpoint() -> None:
    """A metric pickled or copied halfway goes on as before."""
    measured = AttentionEntropy()
    measured.update([make(0)])
    other = pickle.loads(pickle.dumps(measured))  # noqa: S301  # our own bytes
    third = copy.deepcopy(measured)
    for each in (measured, other, third):
        each.update([make(1)])
    torch.testing.assert_close(other.compute(), measured.compute())
    torch.testing.assert_close(third.compute(), measured.compute())


def test_merged_it_is_of_the_samples_of_both() -> None:
    """Also one that has given its result before, and is asked for it again."""
    measured, other, whole = MeanMap(), MeanMap(), MeanMap()
    measured.update(make(0))
    other.update(make(1, batch=1))
    measured.compute()
    measured.merge_state(other)
    for seed, batch in ((0, 3), (1, 1)):
        whole.update(make(seed, batch=batch))
    torch.testing.assert_close(measured.compute()[0].tensor(), whole.compute()[0].tensor())


@pytest.mark.parametrize("state", [False, True])
def test_one_that_was_given_nothing_takes_what_is_merged(state: bool) -> None:
    """With its layers, from a metric or from the state of one."""
    measured, other = MeanMap(), MeanMap()
    other.update(make(0))
    measured.merge_state(state_of(other) if state else other)
    assert measured.layers == other.layers
    torch.testing.assert_close(measured.compute()[0].tensor(), other.compute()[0].tensor())


def test_one_that_was_given_nothing_adds_nothing() -> None:
    """As a process has nothing to add that found no sample."""
    measured = AttentionEntropy()
    measured.update(make(0))
    measured.merge_state(AttentionEntropy())
    torch.testing.assert_close(measured.compute()[0], entropy(make(0)).mean(0))


def test_other_layers_are_not_merged() -> None:
    """Of one shape, they could be added up all the same, and would mean nothing."""
    measured, other = AttentionEntropy(), AttentionEntropy()
    measured.update(make(0, name="a"))
    other.update(make(1, name="b"))
    with pytest.raises(ShapeError, match=r"than before: \('a', .*then \('b'"):
        measured.merge_state(other)
    torch.testing.assert_close(measured.compute()[0], entropy(make(0)).mean(0))


def test_sums_of_another_length_than_their_layers_are_not_merged() -> None:
    """One number would be added to each of the others."""
    measured = AttentionEntropy()
    measured.update(make(0))
    with pytest.raises(
        ShapeError, match=r"The layers have 2 numbers, but sums and counts have shapes \(1,\) and \(2,\)"
    ):
        measured.merge_state({**state_of(measured), "sums": torch.ones(1)})


@pytest.mark.parametrize("given", [SumMetric(), MeanMap(), {"sums": torch.ones(2)}, 3])
def test_what_is_no_metric_of_the_kind_is_not_merged(given: Any) -> None:
    """The message names what is missing."""
    with pytest.raises(
        OptionError,
        match=r"AttentionEntropy.merge_state takes a metric of the same kind, .*got \w+ without described, ",
    ):
        AttentionEntropy().merge_state(given)


def test_a_module_with_a_metric_is_saved_and_loaded() -> None:
    """Where its state is asked for, in a file that runs no code, and goes on as if nothing had been."""
    saved, loaded = MeanMap(), MeanMap()
    maps = [make(0, name="a"), make(1, axis=Axis(3), name="b"), make(2, axis=Named(("cls", "ö")), name="c")]
    saved.update(maps)
    saved.persistent(True)
    file = io.BytesIO()
    torch.save(torch.nn.ModuleDict({"mean": saved}).state_dict(), file)
    file.seek(0)
    torch.nn.ModuleDict({"mean": loaded}).load_state_dict(torch.load(file, weights_only=True))
    assert [layer.keys for layer in loaded.compute()] == [PATCHES, Axis(3), Named(("cls", "ö"))]
    for each in (saved, loaded):
        each.update([make(seed, axis=item.keys, name=item.name) for seed, item in enumerate(maps)])
    torch.testing.assert_close(loaded.compute()["a"].tensor(), saved.compute()["a"].tensor())


def test_what_is_loaded_replaces_the_result() -> None:
    """The one that was computed before is of other samples."""
    measured, other = AttentionEntropy(), AttentionEntropy()
    for seed, each in enumerate((measured, other)):
        each.persistent(True)
        each.update(make(seed))
        each.compute()
    measured.load_state_dict(other.state_dict())
    torch.testing.assert_close(measured.compute(), other.compute())


def test_by_default_a_module_is_saved_without_its_metrics() -> None:
    """As those of torchmetrics; and it is loaded without them."""
    measured = AttentionEntropy()
    measured.update(make(0))
    assert measured.state_dict() == {}
    measured.load_state_dict({})
    torch.testing.assert_close(measured.compute()[0], entropy(make(0)).mean(0))


def test_in_another_precision_it_knows_its_layers() -> None:
    """They are kept beside the sums, which a user may want in fewer bits."""
    measured = AttentionEntropy()
    measured.update(make(0))
    before = measured.layers
    measured.set_dtype(torch.bfloat16)
    assert measured.layers == before
    measured.update(make(1))
    assert measured.sums.dtype == torch.bfloat16


def test_a_collection_that_computes_once_for_two_gives_both() -> None:
    """A MetricCollection does not merge metrics whose states are equal after the first batch, also after a reset."""
    collection = MetricCollection({"one": AttentionEntropy(), "other": AttentionEntropy()})
    collection.update(make(0))
    assert len(collection.compute_groups) == 1
    collection.reset()
    collection.update(make(1))
    found = collection.compute()
    torch.testing.assert_close(found["one"][0], entropy(make(1)).mean(0))
    torch.testing.assert_close(found["other"], found["one"])


def test_a_collection_does_not_take_one_statistic_for_another() -> None:
    """Where each patch attends to itself, entropy and distance are 0 both; afterwards they differ."""
    collection = MetricCollection([AttentionEntropy(), AttentionDistance()])
    same = torch.eye(8)[None]
    collection.update(AttentionMap.from_weights(same, queries=PATCHES, keys=PATCHES, name="layer"))
    collection.update(AttentionMap.from_weights(same.flip(1), queries=PATCHES, keys=PATCHES, name="layer"))
    found = collection.compute()
    assert found["AttentionEntropy"] == 0
    assert found["AttentionDistance"] > 0


WIDE, SQUARE = (Patches(grid, prefix=()) for grid in ((2, 6), (3, 4)))


def _updated(measured: MeanMap) -> None:
    measured.update(make(1, axis=SQUARE))


def _called(measured: MeanMap) -> None:
    measured(make(1, axis=SQUARE))


def _merged(measured: MeanMap) -> None:
    other = MeanMap()
    _updated(other)
    measured.merge_state(other)


@pytest.mark.parametrize("add", [_updated, _called, _merged])
def test_of_different_grids_a_mean_map_counts_positions(add: Any) -> None:
    """By every way in which a batch comes, and also where a third one is like the first."""
    measured = MeanMap()
    measured.update(make(0, axis=WIDE))
    add(measured)
    measured.update(make(2, axis=WIDE))
    found = measured.compute()[0]
    assert (found.queries, found.keys) == (Axis(12), Axis(12))


def test_it_keeps_no_maps() -> None:
    """After a hundred batches it holds what it held after one: sums, and no gradient."""
    measured = MeanMap()
    attention = AttentionMap.from_weights(make(0).tensor().requires_grad_())
    measured.update([attention])
    held = sum(getattr(measured, name).nbytes for name in ("sums", "counts"))
    for _ in range(100):
        measured.update([attention])
    assert sum(getattr(measured, name).nbytes for name in ("sums", "counts")) == held
    assert not measured.sums.requires_grad


def test_called_it_keeps_no_gradient() -> None:
    """Where torchmetrics allows gradients, which is in a call, neither the batch's value nor the sums have one."""
    measured = MeanMap()
    batch = measured([AttentionMap.from_weights(make(0).tensor().requires_grad_())])
    assert not batch[0].tensor().requires_grad
    assert not measured.sums.requires_grad


def test_rows_are_read_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """No statistic asks for the rows of a batch all at once, and the blocks make the same number."""
    from anylocal._maps import rows

    attention = make(0, batch=2)
    whole = [metric() for metric, _ in STATISTICS] + [MeanMap()]
    for measured in whole:
        measured.update([attention])
    asked: list[int] = []
    take = type(attention.rows).take
    monkeypatch.setattr(rows, "_BLOCK", 2 * 2 * 8 * 3)

    def counted(rows: Any, *picks: Any) -> torch.Tensor:
        """Take rows, and note how many."""
        found = take(rows, *picks)
        asked.append(found.shape[2])
        return found

    monkeypatch.setattr(type(attention.rows), "take", counted)
    for before in whole:
        measured = type(before)()
        measured.update([attention])
        torch.testing.assert_close(measured.sums, before.sums)
    assert max(asked) == 3


def test_sink_mass_is_of_the_first_token_of_each_text() -> None:
    """Texts that are padded on the left begin behind their padding."""
    axis = Tokens([["a", "b", "c"], ["[PAD]", "d", "e"]], padding=[[0, 0, 0], [1, 0, 0]])
    attention = make(0, batch=2, axis=axis)
    weights = attention.tensor()
    expected = torch.stack([weights[0, :, :, 0].mean(-1), weights[1, :, 1:, 1].mean(-1)])
    torch.testing.assert_close(sink_mass(attention), expected)


def test_head_agreement_is_the_jensen_shannon_distance_of_scipy() -> None:
    """Agreement is 1 minus the squared Jensen-Shannon distance in bits."""
    spatial = pytest.importorskip("scipy.spatial.distance")
    attention = make(0, batch=1, heads=3)
    weights = attention.numpy()[0].astype(np.float64)
    expected = [
        [np.mean([1 - spatial.jensenshannon(p, q, base=2) ** 2 for p, q in zip(a, b, strict=True)]) for b in weights]
        for a in weights
    ]
    assert np.allclose(head_agreement(attention)[0].numpy(), expected, atol=1e-5)


RANKS = """
from anylocal.metrics import AttentionEntropy, MeanMap
from torchmetrics.utilities.distributed import gather_all_tensors

def maps(seed):
    generator = torch.Generator().manual_seed(seed)
    return [AttentionMap.from_weights(torch.randn(seed + 1, 2, 4, 4, generator=generator).softmax(-1), name="a"),
            AttentionMap.from_weights(torch.randn(seed + 1, 3, 5, 5, generator=generator).softmax(-1), name="b")]

for kind in (AttentionEntropy, MeanMap):
    alone, shared, late = kind(distributed_available_fn=lambda: False), kind(), kind()
    for seed in range(3):
        alone.update(maps(seed))
        if seed % 2 == rank:
            shared.update(maps(seed))
        if rank == 1:
            late.update(maps(seed))
    for found in (shared, late):
        result, expected = found.compute(), alone.compute()
        for one, other in zip(result, expected, strict=True):
            torch.testing.assert_close(torch.as_tensor(one[...]), torch.as_tensor(other[...]), equal_nan=True)
    # What was added up is put back, and more can be added.
    shared.update(maps(5))
    assert (shared.counts <= 9 * 2).all()
    # Of a rank that was given nothing, there is nothing to put back.
    assert rank or not late.layers
"""

GRIDS = """
from anylocal.metrics import MeanMap

axis = Patches(((2, 6), (3, 4))[rank], prefix=())
measured = MeanMap()
measured.update(AttentionMap.from_weights(torch.eye(12)[None], queries=axis, keys=axis))
found = measured.compute()[0]
assert str(found.keys) == "Axis(12)", found.keys
assert measured.layers[0].keys == axis, measured.layers
"""

ALONE = """
from anylocal.metrics import MeanMap

measured = MeanMap()
for _ in range(1 + rank):
    measured(AttentionMap.from_weights(torch.eye(2)[None]))
assert measured.compute()[0].shape == (1, 1, 2, 2)
"""

DIFFERING = """
from anylocal.errors import ShapeError
from anylocal.metrics import AttentionEntropy

measured = AttentionEntropy()
measured.update([AttentionMap.from_weights(torch.eye(2)[None], name=f"of rank {rank}")])
try:
    measured.compute()
except ShapeError as error:
    assert "of rank 0" in str(error) and "of rank 1" in str(error), error
else:
    raise AssertionError("the sums of two models were added up")
"""


def test_ranks_add_up(tmp_path: Path) -> None:
    """Two ranks give the result of one process, also where one of them had no sample at all."""
    torchrun(RANKS, tmp_path)


def test_ranks_of_different_models_are_told(tmp_path: Path) -> None:
    """On every rank, instead of sums of two things, or of waiting for each other."""
    torchrun(DIFFERING, tmp_path)


def test_ranks_of_different_grids_count_positions(tmp_path: Path) -> None:
    """The mean over both has the axes of neither, and afterwards each rank has its own again."""
    torchrun(GRIDS, tmp_path)


def test_a_call_waits_for_no_rank(tmp_path: Path) -> None:
    """Ranks may have batches of different number; only a result of all brings them together."""
    torchrun(ALONE, tmp_path)
