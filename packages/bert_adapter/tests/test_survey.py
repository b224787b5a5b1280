"""The survey of a collection of texts: what it finds, and what it refuses. What resumes it is tested with images."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("torchmetrics")

import torch
from pyarrow import parquet

from anylocal.attention import AttentionMaps, entropy, head_agreement, sink_mass
from anylocal.errors import OptionError
from anylocal_bert import _survey, capture_text
from anylocal_bert.__main__ import main
from anylocal_bert._demo import load

TEXTS = ["The cat sat on the mat.", "It was tired.", "Nobody knows why, and nobody asked.", "One more text!", "Short."]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with texts in two files, and lines that hold none."""
    (tmp_path / "data" / "more").mkdir(parents=True)
    (tmp_path / "data" / "a.txt").write_text("\n".join(TEXTS[:3]) + "\n\n", "utf-8")
    (tmp_path / "data" / "more" / "b.txt").write_text("  \n" + "\n".join(TEXTS[3:]), "utf-8")
    return tmp_path / "data"


def arguments(data: Path, out: Path, **options: Any) -> list[str]:
    given = {"data": data, "out": out, "batch": 2, "piece": 3, **options}
    return [str(part) for name, value in given.items() for part in (f"--{name.replace('_', '-')}", value)]


def rows(out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = parquet.read_table(out / "survey.parquet").to_pylist()
    return found


def each() -> list[AttentionMaps]:
    reader = load(None)
    return [capture_text(reader.model, reader.tokenizer, text) for text in TEXTS]


def test_the_numbers_are_means_over_all_texts(folder: Path, tmp_path: Path) -> None:
    """Each text counts once, as it is without the padding of its batch."""
    assert main(["survey", *arguments(folder, tmp_path / "out")]) == 0
    texts = each()
    statistics = {"entropy": entropy, "sink": sink_mass, "agreement": head_agreement}
    expected = {
        name: [torch.cat([statistic(maps[layer]) for maps in texts]).mean(0) for layer in range(len(texts[0]))]
        for name, statistic in statistics.items()
    }
    found = rows(tmp_path / "out")
    assert {row["metric"] for row in found} == set(statistics)
    for row in found:
        values = expected[row["metric"]][row["layer"]][row["head"]]
        value = float(values if row["other"] is None else values[row["other"]])
        assert row["value"] == pytest.approx(value, rel=1e-4, abs=1e-5)


def test_a_saved_data_set_is_read(folder: Path, tmp_path: Path) -> None:
    """The column of texts of a data set on disk gives what the lines of files give, rows without one left out."""
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"words": [*TEXTS[:2], "", *TEXTS[2:]]}).save_to_disk(str(tmp_path / "saved"))
    _survey.main(arguments(folder, tmp_path / "one"))
    _survey.main(arguments(tmp_path / "saved", tmp_path / "other", column="words"))
    values = [[row["value"] for row in rows(tmp_path / out)] for out in ("one", "other")]
    assert values[0] == pytest.approx(values[1], rel=1e-4, abs=1e-5)
    assert (tmp_path / "other" / "skipped.txt").read_text("utf-8") == "text 2\n"


def test_longer_texts_are_cut_where_asked(folder: Path, tmp_path: Path) -> None:
    """Of three tokens two are special: the entropy cannot be more than that of three keys."""
    _survey.main(arguments(folder, tmp_path / "out", max_length=3))
    entropies = [row["value"] for row in rows(tmp_path / "out") if row["metric"] == "entropy"]
    assert 0 < max(entropies) <= math.log(3)


def test_data_without_a_text_is_refused(tmp_path: Path) -> None:
    """With what to give."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(OptionError, match=r"no text in .*give a file, a folder"):
        _survey.main(arguments(tmp_path / "empty", tmp_path / "out"))


def test_a_column_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """With those that are."""
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"words": TEXTS}).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(OptionError, match="--column; there are words"):
        _survey.main(arguments(tmp_path / "saved", tmp_path / "out"))
