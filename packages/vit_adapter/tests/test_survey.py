"""The survey of a folder of images: its numbers, resuming, and refused options."""

from __future__ import annotations

import copy
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

pytest.importorskip("pyarrow")
pytest.importorskip("torchmetrics")

from pyarrow import parquet

from anylocal.attention import AttentionMap, Patches, distance, entropy, head_agreement, prefix_mass
from anylocal.cli import survey as core_survey
from anylocal.errors import OptionError, StateError
from anylocal.metrics import AttentionDistance
from anylocal_vit import capture_attention, photograph
from anylocal_vit.cli import survey
from anylocal_vit.cli.main import main

MODEL = "test_vit"
COUNT = 22


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of images in subfolders by class, as of ImageFolder."""
    root = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    for number in range(COUNT):
        file = root / f"class{number % 3}" / f"{number:03}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(generator.integers(0, 255, (40, 50, 3), np.uint8)).save(file)
    (root / "readme.txt").write_text("no image", "utf-8")
    return root


def arguments(folder: Path, out: Path, **options: Any) -> list[str]:
    given = {"model": MODEL, "data": folder, "out": out, "batch": 3, "piece": 5, **options}
    return ["--random-weights", *(str(part) for name, value in given.items() for part in (f"--{name}", value))]


def rows(out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = parquet.read_table(out / "survey.parquet").to_pylist()
    return found


@pytest.fixture(scope="module")
def done(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an uninterrupted survey."""
    out = tmp_path_factory.mktemp("done")
    survey.main(arguments(folder, out))
    return out


def run(program: str, *given: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(program), *given]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def test_the_numbers_are_means_over_all_images(folder: Path, done: Path) -> None:
    """They equal the statistics of every head over all images in one batch."""
    torch.manual_seed(0)
    model = timm.create_model(MODEL).eval()
    images = torch.cat([photograph(model, file).tensor for file in sorted(folder.rglob("*.png"))])
    with capture_attention(model) as maps, torch.no_grad():
        model(images)
    statistics = {"entropy": entropy, "distance": distance, "prefix": prefix_mass, "agreement": head_agreement}
    found = rows(done)
    assert {row["metric"] for row in found} == set(statistics)
    for row in found:
        attention = maps[row["name"]]
        values = statistics[row["metric"]](attention).mean(0)[row["head"]]
        expected = float(values if row["other"] is None else values[row["other"]])
        assert row["value"] == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert maps[row["layer"]] is attention
    assert len(found) == sum(m.shape[1] * (3 + m.shape[1]) for m in maps)


def test_pictures_are_written(done: Path) -> None:
    """Each statistic has a picture along the layers."""
    assert {file.name for file in done.glob("*.png")} == {"entropy.png", "distance.png", "prefix.png", "agreement.png"}


def test_the_table_tells_what_it_is_of(done: Path) -> None:
    """The number of images, the model and its weights are in the file."""
    metadata = parquet.read_schema(done / "survey.parquet").metadata
    assert metadata[b"samples"] == str(COUNT).encode()
    assert json.loads(metadata[b"survey"])["model"] == MODEL


def test_two_processes_find_the_same(folder: Path, done: Path, tmp_path: Path) -> None:
    """Under torchrun, the table is equal to the last bit."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += ["-m", "anylocal_vit", "survey", *arguments(folder, tmp_path / "out")]
    # One thread, as torchrun gives each of several processes, and as the tests of one process here.
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert finished.returncode == 0, finished.stderr
    # Five pieces of five images, the last of two: the ranks take turns.
    totals = dict(re.findall(r"rank (\d): 100%.*?(\d+)/\d+ ", finished.stderr))
    assert totals == {"0": "12", "1": "10"}
    found, expected = rows(tmp_path / "out"), rows(done)
    if torch.get_num_threads() == 1:
        assert found == expected
    assert [row["value"] for row in found] == pytest.approx([row["value"] for row in expected], rel=1e-5)
    assert [row["name"] for row in found] == [row["name"] for row in expected]


KILLED = """
import os, signal, sys
from anylocal.cli import survey
from anylocal_vit.cli.main import main

save, saved = survey._save, []

def kill(file, *rest):
    if len(saved) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    saved.append(file)
    save(file, *rest)

survey._save = kill
main(["survey", *sys.argv[1:]])
"""


def test_killed_in_the_middle_it_goes_on(
    folder: Path, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Saved shards are not computed again, nothing is lost, and the table is the same."""
    killed = run(KILLED, *arguments(folder, tmp_path))
    assert killed.returncode == -9
    pieces = {file: file.stat().st_mtime_ns for file in (tmp_path / "pieces").iterdir()}
    assert len(pieces) == 2
    assert not (tmp_path / "survey.parquet").exists()
    assert main(["survey", *arguments(folder, tmp_path)]) == 0
    assert {file: file.stat().st_mtime_ns for file in pieces} == pieces
    assert [row["value"] for row in rows(tmp_path)] == pytest.approx([row["value"] for row in rows(done)], rel=1e-5)
    told = capsys.readouterr()
    assert "survey.parquet" in told.out
    assert f" {COUNT}/{COUNT} " in told.err.rpartition("survey: 100%")[2]


def test_a_damaged_piece_is_done_anew(folder: Path, done: Path, tmp_path: Path) -> None:
    """A shard of which half is lost is computed again, and no other."""
    out = tmp_path / "out"
    shutil.copytree(done, out)
    piece = sorted((out / "pieces").iterdir())[1]
    piece.write_bytes(piece.read_bytes()[:100])
    (out / "survey.parquet").unlink()
    survey.main(arguments(folder, out))
    assert [row["value"] for row in rows(out)] == pytest.approx([row["value"] for row in rows(done)], rel=1e-6)


# Its header says that it is 60,000 pixels high and wide.
HUGE = b"BM" + bytes(8) + (54).to_bytes(4, "little") + (40).to_bytes(4, "little") + 2 * (60_000).to_bytes(4, "little")


@pytest.mark.parametrize("content", [b"not an image", HUGE + b"\1\0\x18\0" + bytes(24)], ids=["text", "too large"])
def test_an_image_that_cannot_be_read_is_named(folder: Path, tmp_path: Path, content: bytes) -> None:
    """It is left out and counted, and all others are read."""
    data = tmp_path / "data"
    shutil.copytree(folder, data)
    (data / "class0" / "broken.png").write_bytes(content)
    files = survey.main(arguments(data, tmp_path / "out"))
    assert tmp_path / "out" / "skipped.txt" in files
    assert (tmp_path / "out" / "skipped.txt").read_text("utf-8").strip().endswith("broken.png")
    assert parquet.read_schema(tmp_path / "out" / "survey.parquet").metadata[b"samples"] == str(COUNT).encode()


def test_a_file_name_need_not_be_utf_8(folder: Path, tmp_path: Path) -> None:
    """Systems allow any bytes; an image with such a name is read, and a damaged one is named by the same bytes."""
    data = tmp_path / "data"
    shutil.copytree(folder, data)
    broken = os.fsencode(data) + b"/class0/caf\xe9.png"
    try:
        Path(os.fsdecode(broken)).write_bytes(b"not an image")
    except OSError:
        pytest.skip("this file system has names in UTF-8 only")
    survey.main(arguments(data, tmp_path / "out"))
    assert broken + b"\n" in (tmp_path / "out" / "skipped.txt").read_bytes()


def test_a_forward_of_no_image_is_left_out(folder: Path, tmp_path: Path) -> None:
    """If all images of a batch are damaged, the next ones are read."""
    data = tmp_path / "data"
    shutil.copytree(folder / "class1", data)
    for number in range(3):
        (data / f"{number}.png").write_bytes(b"not an image")
    survey.main(arguments(data, tmp_path / "out"))
    assert len((tmp_path / "out" / "skipped.txt").read_text("utf-8").splitlines()) == 3
    assert rows(tmp_path / "out")


def test_only_damaged_images_are_refused(tmp_path: Path) -> None:
    """The error names one of them, and no table is written."""
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(b"not an image")
    with pytest.raises(OptionError, match=r"None of the 4 samples could be read, .*0\.png"):
        survey.main(arguments(tmp_path, tmp_path / "out"))
    assert not (tmp_path / "out" / "survey.parquet").exists()


def test_an_incomplete_shard_is_not_taken(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If writing fails, no other process takes the incomplete file for a complete one."""

    def half(_tensors: Any, file: Path, **_: Any) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("the disk is full")

    monkeypatch.setattr("anylocal.cli.survey.save_file", half)
    with pytest.raises(OSError, match="disk is full"):
        survey.main(arguments(folder, tmp_path))
    assert not list((tmp_path / "pieces").iterdir())


def test_a_missing_statistic_has_no_row() -> None:
    """A layer without patches has no distance; the table has no gaps."""
    metric = AttentionDistance()
    patches = Patches((2, 2), prefix=(), image_size=(32, 32))
    even = torch.full((1, 2, 4, 4), 0.25)
    metric.update([AttentionMap.from_weights(even), AttentionMap.from_weights(even, queries=patches, keys=patches)])
    assert [(layer, head) for _, layer, _, head, *_ in core_survey._rows({"distance": metric})] == [(1, 0), (1, 1)]


@pytest.mark.parametrize(
    ("name", "means", "expected"),
    [
        ("entropy", [1.0, 2.0], [1.0, 2.0]),
        ("agreement", [[1.0, 0.5, 0.25], [0.5, 1.0, 0.75], [0.25, 0.75, 1.0]], [0.375, 0.625, 0.5]),
        ("agreement", [[1.0]], None),
        ("prefix", [[0.25, 0.5], [0.125, 0.0]], [0.75, 0.125]),
        ("prefix", np.zeros((2, 0)), None),
        ("distance", [np.nan, np.nan], None),
    ],
)
def test_a_picture_has_a_number_of_each_head(name: str, means: Any, expected: list[float] | None) -> None:
    """Agreement is averaged over other heads, and prefix tokens are added up; nothing gives nothing."""
    found = core_survey._by_head(name, np.array(means))
    assert (None if found is None else found.tolist()) == expected


def test_a_statistic_without_values_has_no_picture(tmp_path: Path) -> None:
    """Empty axes are not drawn."""
    metric = AttentionDistance()
    metric.update([AttentionMap.from_weights(torch.full((1, 2, 4, 4), 0.25))])
    assert list(core_survey._draw({"distance": metric}, 1, tmp_path)) == []


def test_workers_read_the_same_images(folder: Path, done: Path, tmp_path: Path) -> None:
    """Reading in other processes does not change the result."""
    survey.main(arguments(folder, tmp_path, workers=1))
    assert [row["value"] for row in rows(tmp_path)] == pytest.approx([row["value"] for row in rows(done)], rel=1e-6)


def test_images_can_be_sent_to_other_processes(folder: Path) -> None:
    """Those that are not forked, as on macOS, get the images as a pickle, with the preprocessing of the model."""
    files = sorted(folder.rglob("*.png"))[:1]
    model = timm.create_model("test_vit")
    sent = pickle.loads(pickle.dumps(survey.Images(files, copy.deepcopy(model).to("meta"), None)))  # noqa: S301  # our own
    torch.testing.assert_close(sent[0], photograph(model, files[0]).tensor[0])


def test_a_saved_data_set_is_read(folder: Path, done: Path, tmp_path: Path) -> None:
    """The rows of a saved data set of Hugging Face give the same result as their images."""
    datasets = pytest.importorskip("datasets")
    files = sorted(map(str, folder.rglob("*.png")))
    rows_of = datasets.Dataset.from_dict({"image": files}).cast_column("image", datasets.Image())
    rows_of.save_to_disk(str(tmp_path / "saved"))
    survey.main(arguments(tmp_path / "saved", tmp_path / "out"))
    found = [row["value"] for row in rows(tmp_path / "out")]
    assert found == pytest.approx([row["value"] for row in rows(done)], rel=1e-6)


@pytest.mark.parametrize("options", [{"batch": 2}, {"model": "test_vit2"}, {"piece": 6}])
def test_another_survey_in_the_folder_is_refused(folder: Path, done: Path, options: dict[str, Any]) -> None:
    """Sums of two models, or over other batches, must not be added up."""
    with pytest.raises(StateError, match=rf"another survey, of {next(iter(options))} .*another folder by --out"):
        survey.main(arguments(folder, done, **options))


def test_other_images_in_the_folder_are_noticed(folder: Path, done: Path, tmp_path: Path) -> None:
    """With a file more or less, shards would hold other images."""
    data = tmp_path / "data"
    shutil.copytree(folder, data)
    next(data.rglob("*.png")).unlink()
    with pytest.raises(StateError, match="data '"):
        survey.main(arguments(data, done))


@pytest.mark.parametrize(
    ("options", "cure"), [({"batch": 0}, "1 or more"), ({"piece": -1}, "1 or more"), ({"workers": -1}, "0 or more")]
)
def test_numbers_that_make_no_sense_are_refused(
    folder: Path, tmp_path: Path, options: dict[str, Any], cure: str
) -> None:
    """A batch holds one image or more, and the number of processes is not negative."""
    with pytest.raises(OptionError, match=cure):
        survey.main(arguments(folder, tmp_path, **options))


def test_a_file_in_place_of_the_results_is_refused(folder: Path, tmp_path: Path) -> None:
    """The file is named."""
    (tmp_path / "notes.txt").write_text("no folder", "utf-8")
    with pytest.raises(OptionError, match=r"notes\.txt is a file\. Choose another one by --out"):
        survey.main(arguments(folder, tmp_path / "notes.txt"))


@pytest.mark.parametrize("device", ["foo", "cuda:99"])
def test_a_missing_device_is_refused(folder: Path, tmp_path: Path, device: str) -> None:
    """The message names one that always exists."""
    with pytest.raises(OptionError, match=rf'--device {device} cannot be used: .* "cpu" always exists'):
        survey.main(arguments(folder, tmp_path, device=device))


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    """The message says what an image file is."""
    with pytest.raises(OptionError, match="holds no image"):
        survey.main(arguments(tmp_path, tmp_path / "out"))


def test_missing_data_is_refused(tmp_path: Path) -> None:
    """The message says what to give."""
    with pytest.raises(OptionError, match="is not a folder"):
        survey.main(arguments(tmp_path / "nothing", tmp_path / "out"))
