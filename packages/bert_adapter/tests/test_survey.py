"""The survey of a collection of texts: its numbers, and what it refuses. Resuming is tested with images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("torchmetrics")

import torch
from pyarrow import parquet
from transformers import LlamaConfig, LlamaModel, RobertaConfig, RobertaModel, T5Config, T5Model

from anylocal.attention import AttentionMaps, entropy, head_agreement, sink_mass
from anylocal.errors import OptionError
from anylocal_bert import capture_text
from anylocal_bert.cli import survey
from anylocal_bert.cli.demo import Reader, load
from anylocal_bert.cli.main import main

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = ["The cat sat on the mat.", "It was tired.", "Nobody knows why, and nobody asked.", "One more text!", "Short."]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with texts in two files, and empty lines."""
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
    """Each text counts once, without the padding of its batch."""
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
    """The column of texts of a data set on disk yields the same as lines of files; rows without text are left out."""
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"words": [*TEXTS[:2], "", *TEXTS[2:]]}).save_to_disk(str(tmp_path / "saved"))
    survey.main(arguments(folder, tmp_path / "one"))
    survey.main(arguments(tmp_path / "saved", tmp_path / "other", column="words"))
    values = [[row["value"] for row in rows(tmp_path / out)] for out in ("one", "other")]
    assert values[0] == pytest.approx(values[1], rel=1e-4, abs=1e-5)
    assert (tmp_path / "other" / "skipped.txt").read_text("utf-8") == "text 2\n"


def test_longer_texts_are_cut_where_asked(folder: Path, tmp_path: Path) -> None:
    """With at most three tokens, the entropy is at most that of three keys."""
    survey.main(arguments(folder, tmp_path / "out", max_length=3))
    entropies = [row["value"] for row in rows(tmp_path / "out") if row["metric"] == "entropy"]
    assert 0 < max(entropies) <= math.log(3)


@pytest.mark.parametrize("length", [-1, 0, 2])
def test_too_short_texts_are_refused(folder: Path, tmp_path: Path, length: int) -> None:
    """The tokenizer would not truncate to fewer tokens than its two special ones."""
    with pytest.raises(OptionError, match=f"3 or more, as this tokenizer adds 2 special ones; got {length}"):
        survey.main(arguments(folder, tmp_path / "out", max_length=length))


def test_longer_texts_than_the_model_reads_are_refused(folder: Path, tmp_path: Path) -> None:
    """The message names the limit, even if no text reaches it."""
    with pytest.raises(OptionError, match=r"BertModel reads 512 tokens at most, .* Give --max-length 512 or less"):
        survey.main(arguments(folder, tmp_path / "out", max_length=513))


def test_positions_that_begin_after_padding_are_fewer() -> None:
    """RoBERTa reserves the positions up to that of padding."""
    config = RobertaConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=16)
    config.max_position_embeddings = 22
    reader = Reader(RobertaModel(config), load(None).tokenizer)
    survey._check_length(reader, 20)
    reader.model(torch.full((1, 20), 5))
    with pytest.raises(OptionError, match="RobertaModel reads 20 tokens at most"):
        survey._check_length(reader, 21)


def test_a_model_with_relative_positions_reads_any_length() -> None:
    """Relative positions have no limit."""
    config = T5Config(num_layers=1, d_model=16, d_kv=8, d_ff=16, num_heads=2, vocab_size=30)
    survey._check_length(Reader(T5Model(config), load(None).tokenizer), 10**6)


def test_a_model_with_rotary_positions_reads_any_length() -> None:
    """Rotary positions continue beyond the length in the configuration."""
    config = LlamaConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=16)
    config.max_position_embeddings = 20
    model = LlamaModel(config)
    survey._check_length(Reader(model, load(None).tokenizer), 30)
    assert model(torch.full((1, 30), 5)).last_hidden_state.isfinite().all()


def test_a_text_of_another_encoding_is_refused(folder: Path, tmp_path: Path) -> None:
    """The message names the file, the byte and how to convert it."""
    (folder / "c.txt").write_bytes("Ein Tüpfel".encode("latin1"))
    with pytest.raises(OptionError, match=r"c\.txt is not UTF-8: byte 5 is 0xfc\. .* iconv"):
        survey.main(arguments(folder, tmp_path / "out"))


def test_a_file_in_place_of_the_results_is_refused(folder: Path) -> None:
    """The message names the file."""
    with pytest.raises(OptionError, match=r"a\.txt is a file\. Choose another one by --out"):
        survey.main(arguments(folder, folder / "a.txt"))


def test_data_without_a_text_is_refused(tmp_path: Path) -> None:
    """The message says what to give."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(OptionError, match=r"No text in .*give a file, a folder"):
        survey.main(arguments(tmp_path / "empty", tmp_path / "out"))


def test_a_column_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """The message names the columns."""
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"words": TEXTS}).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(OptionError, match="--column; the columns are words"):
        survey.main(arguments(tmp_path / "saved", tmp_path / "out"))
