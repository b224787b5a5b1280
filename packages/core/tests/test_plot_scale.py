"""The scale of a picture: where it ends, who shares it, how it runs, and what its legend says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib.colors import BoundaryNorm, LogNorm, Normalize
from matplotlib.figure import Figure

from anylocal._drawing.figure import add_colorbar
from anylocal._drawing.norms import Rank
from anylocal._drawing.scale import (
    FRACTION,
    LEGEND,
    RANK,
    centred_scale,
    clipped,
    legend_of,
    scale_of,
    scales_of,
    short,
    top_of,
)
from anylocal.errors import OptionError

Weights = np.ndarray[Any, Any]


def sink(keys: int, rows: int = 1, weight: float = 0.5) -> Weights:
    """Return rows of which one key takes half, and the others a little each, some more than others."""
    weights = np.random.default_rng(0).exponential(size=(rows, keys))
    weights[:, 0] = 0
    weights *= (1 - weight) / weights.sum(1, keepdims=True)
    weights[:, 0] = weight
    return weights


class TestTop:
    """Where a scale ends."""

    @pytest.mark.parametrize("keys", [49, 196, 1369])
    def test_a_sink_does_not_take_the_scale(self, keys: int) -> None:
        """Of a row with a sink, at least two of a hundred weights are in the upper half of the scale."""
        row = sink(keys)
        top = top_of(row)
        assert 0.02 <= (row > top / 2).mean() <= 0.4
        assert top >= np.quantile(row, 0.97)

    def test_without_sinks(self) -> None:
        """Where no weight stands out, the scale reaches to the 99.5th percentile."""
        row = np.random.default_rng(0).gamma(0.5, size=1000)
        assert 3 * row.mean() < np.quantile(row, 0.995) < 2 * np.quantile(row, 0.98)
        assert top_of(row) == pytest.approx(np.quantile(row, 0.995))

    def test_even_weights_are_in_the_middle_of_the_scale(self) -> None:
        """Noise around a mean does not look like peaks."""
        row = np.random.default_rng(0).uniform(0.9, 1.1, size=1000)
        assert 0.4 < row.mean() / top_of(row) < row.max() / top_of(row) < 0.6

    @pytest.mark.parametrize("tokens", [5, 12, 30])
    def test_a_short_text_is_drawn_to_its_maximum(self, tokens: int) -> None:
        """Each cell of a small matrix can be compared by eye: none is clipped."""
        weights = sink(tokens, tokens)
        assert top_of(weights) == weights.max()

    def test_a_long_text_is_not(self) -> None:
        """In a matrix of a hundred tokens, a sink is clipped."""
        assert top_of(sink(100, 100)) < 0.1

    def test_thumbnails_are_many_values(self) -> None:
        """A matrix of few keys and many values, such as a map made small, is robust as well."""
        weights = sink(41, 40)[:, 1:]
        weights[0, :10] = 0.9
        assert top_of(weights) < 0.2

    def test_not_below_the_mean(self) -> None:
        """Where one position takes everything, numerical dust is not drawn as if it were attention."""
        row = np.full(196, 1e-9)
        row[7] = 1
        assert top_of(row) == pytest.approx(row.mean())

    @pytest.mark.parametrize("values", [[], [0.0, 0.0], [np.nan]])
    def test_of_nothing(self, values: list[float]) -> None:
        """Without attention, the top is 1."""
        assert top_of(np.array(values)) == 1

    def test_gaps_are_left_out(self) -> None:
        """NaN counts as absent."""
        assert top_of(np.array([np.nan, 0.5])) == 0.5

    def test_of_several(self) -> None:
        """Panels that share a scale are taken together."""
        assert top_of(np.array([0.1, 0.2]), np.array([0.7])) == 0.7


class TestNames:
    """How a scale runs."""

    @pytest.mark.parametrize(
        ("norm", "expected"),
        [
            (None, [0, 0.25, 1]),
            ("linear", [0, 0.25, 1]),
            ("sqrt", [0, 0.5, 1]),
            ("log", [0, 1 + np.log10(0.25) / 3, 1]),
        ],
    )
    def test_runs(self, norm: str | None, expected: list[float]) -> None:
        """Evenly, by the root, or by the logarithm down to a thousandth, below which all is dark."""
        scale = scale_of(norm, [np.array([0.0, 0.1, 0.4])])
        np.testing.assert_allclose(scale(np.array([0, 0.1, 0.4])), expected, atol=1e-6)
        assert scale.vmax == 0.4

    def test_names_that_matplotlib_knows(self) -> None:
        """Others are matplotlib's, over the range of the weights."""
        scale = scale_of("symlog", [np.array([0.0, 0.4])])
        assert (scale.vmin, scale.vmax) == (0, 0.4)

    def test_log_of_nothing(self) -> None:
        """A logarithmic scale has no place for zeros only."""
        with pytest.raises(OptionError, match="norm='log' has no place for weights from 0 to 0"):
            scale_of("log", [np.zeros(3)])

    def test_given(self) -> None:
        """A scale given as an object is used, and gets the limits that it lacks from the extremes."""
        norm = LogNorm()
        assert scale_of(norm, [np.array([0, 0.01, 1.0])]) is norm
        assert (norm.vmin, norm.vmax) == (0.01, 1)


class TestRank:
    """The scale by rank."""

    def test_even(self) -> None:
        """Values that follow each other by rank are equally far apart."""
        values = np.array([0.9, 0.0, 0.01, 0.001, 0.1])
        np.testing.assert_allclose(Rank(values)(values), [1, 0, 0.5, 0.25, 0.75])

    def test_nothing_is_the_bottom(self) -> None:
        """Many zeros are at the bottom, and not in the middle of their ranks."""
        np.testing.assert_allclose(Rank(np.array([0, 0, 0, 0.5, 0.6]))(np.array([0, 0.6])), [0, 1])

    @pytest.mark.parametrize("values", [[0.5, 0.5], [0.0], [np.nan], []])
    def test_one_value(self, values: list[float]) -> None:
        """A single value, or none, has a scale as well, from 0."""
        scale = Rank(np.array(values))
        assert scale.vmin == 0
        assert scale(scale.vmax) == 1

    def test_inverse(self) -> None:
        """The colorbar finds the value of a rank, also of more values than the scale remembers."""
        values = np.random.default_rng(0).exponential(size=10_000)
        scale = Rank(values)
        np.testing.assert_allclose(scale.inverse([0, 0.5, 1]), np.quantile(values, [0, 0.5, 1]), rtol=1e-2)
        np.testing.assert_allclose(scale(scale.inverse(np.array([0.1, 0.7]))), [0.1, 0.7])

    def test_gaps_stay_gaps(self) -> None:
        """What is masked has no rank."""
        assert np.ma.getmaskarray(Rank(np.arange(3.0))(np.ma.masked_invalid([np.nan, 1]))).tolist() == [True, False]


class TestShare:
    """Which panels share a scale."""

    PANELS = (np.array([0.0, 0.2]), np.array([0.0, 0.4]), np.array([0.0, 0.8]))

    @pytest.mark.parametrize(
        ("share", "tops"), [("head", [0.2, 0.4, 0.8]), ("layer", [0.4, 0.4, 0.8]), ("all", [0.8, 0.8, 0.8])]
    )
    def test_share(self, share: Any, tops: list[float]) -> None:
        """Each has its own, those of a layer share one, or all do."""
        scales = scales_of(None, self.PANELS, share, [3, 3, 7])
        assert [scale.vmax for scale in scales] == tops
        assert len(set(map(id, scales))) == len(set(tops))

    @pytest.mark.parametrize("norm", ["symlog", Normalize(0, 0.5), Normalize()])
    def test_scales_of_matplotlib_are_shared(self, norm: Any) -> None:
        """A given scale is that of all panels."""
        assert len(set(scales_of(norm, self.PANELS))) == 1

    def test_negative_weights_share(self) -> None:
        """Weights below 0 leave no start that all panels have in common: they share one scale."""
        (scale,) = set(scales_of(None, [*self.PANELS, np.array([-0.3, 0.1])]))
        assert (scale.vmin, scale.vmax) == (-0.3, 0.8)

    def test_log_of_a_panel_without_attention(self) -> None:
        """A panel of zeros is dark on the logarithmic scale of the others."""
        scales = scales_of("log", [*self.PANELS, np.zeros(2)])
        assert [scale.vmax for scale in scales] == [0.2, 0.4, 0.8, 0.8]

    def test_unknown(self) -> None:
        """Another word is refused with those that there are."""
        with pytest.raises(OptionError, match='share=\'panel\' is unknown; give "all", "layer" or "head"'):
            scales_of(None, self.PANELS, "panel")  # type: ignore[arg-type]  # wrong on purpose


class TestLegend:
    """What the colorbar says."""

    @pytest.mark.parametrize(
        ("norm", "label", "bottom"),
        [(None, FRACTION, 0), ("sqrt", FRACTION, 0), ("log", FRACTION, 1e-3), ("rank", RANK, 0)],
    )
    def test_fractions(self, norm: str | None, label: str, bottom: float) -> None:
        """Where panels have their own scales, it is in fractions of the panel's top, or in ranks."""
        panels = [np.array([0.1, 0.2]), np.array([0.1, 0.4])]
        scale, found = legend_of(norm, scales_of(norm, panels))
        assert (found, scale.vmin, scale.vmax) == (label, bottom, 1)

    def test_weights(self) -> None:
        """Where all share a scale, it is that scale."""
        scale = Normalize(0, 1)
        assert legend_of(None, [scale, scale]) == (scale, LEGEND)

    @pytest.mark.parametrize(
        ("values", "expected"),
        [([0.1, 0.5], "neither"), ([0.1, 0.6], "max"), ([-0.1, 0.5], "min"), ([-1, 1], "both"), ([np.nan], "neither")],
    )
    def test_triangles(self, values: list[float], expected: str) -> None:
        """A triangle says that weights lie beyond an end."""
        assert clipped([Normalize(0, 0.5)], [np.array(values)]) == expected

    @pytest.mark.parametrize(
        ("norm", "extend"),
        [
            (None, "max"),
            ("sqrt", "max"),
            ("log", "both"),
            ("rank", "neither"),
            ("symlog", "neither"),
            (BoundaryNorm([0, 0.01, 0.2], 256), "neither"),
        ],
    )
    def test_bar(self, norm: Any, extend: str) -> None:
        """A colorbar of each scale is drawn, with a triangle where something is clipped."""
        figure = Figure(layout="constrained")
        ax = figure.subplots()
        weights = sink(196, 20)
        bar = add_colorbar(ax.imshow(weights, norm=scale_of(norm, [weights])), ax)
        figure.draw_without_rendering()
        assert bar.extend == extend

    def test_centred(self) -> None:
        """Differences are as far from 0 on either side, and a root keeps their signs."""
        values = np.array([-0.04, 0.01])
        assert centred_scale(None, values)(0) == 0.5
        np.testing.assert_allclose(
            centred_scale("sqrt", values)(np.array([-0.04, -0.01, 0, 0.01])), [0, 0.25, 0.5, 0.75]
        )
        with pytest.raises(OptionError, match='norm="rank" ranks weights'):
            centred_scale("rank", values)


@pytest.mark.parametrize(
    ("weight", "text"),
    [
        (0.6, ".60"),
        (0.0123, ".012"),
        (0.00003, "3e-5"),
        (0.0, "0"),
        (0.999, "1"),
        (1.234, "1.2"),
        (np.nan, ""),
        (0.1, ".10"),
    ],
)
def test_short(weight: float, text: str) -> None:
    """A weight is written with two digits, in at most five characters."""
    assert short(weight) == text
