"""The widget in JupyterLab and Notebook 7, by a real browser: a choice reaches Python, and Python's moves the page."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")
pytest.importorskip("anywidget", reason="anywidget is not installed: the extra anylocal[widget]")

import torch

from anylocal.attention import AttentionMap

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser
    from playwright.sync_api import Page as Tab

SETUP = """
import ipywidgets, torch
from anylocal.attention import AttentionMap, AttentionMaps, Tokens
from anylocal.view import widget

axis = Tokens(["<b>a</b>", *"bcdef"])
weights = (2 * torch.randn(2, 1, 3, 6, 6, generator=torch.Generator().manual_seed(0))).softmax(-1)
maps = AttentionMaps(
    AttentionMap.from_weights(each, name=f"blocks.{at}", queries=axis, keys=axis) for at, each in enumerate(weights)
)
view = widget(maps)
told = ipywidgets.Label("nothing yet")
view.observe(lambda change: setattr(told, "value", repr(change["new"])), "selection")
button = ipywidgets.Button(description="Move")
button.on_click(lambda _: setattr(view, "selection", {"layer": "blocks.0", "head": 2, "query": 4}))
"""
CELLS = [SETUP, "display(told, button)", "view"]


def weights(layer: int) -> torch.Tensor:
    """Return what the notebook shows."""
    generator = torch.Generator().manual_seed(0)
    return (2 * torch.randn(2, 1, 3, 6, 6, generator=generator)).softmax(-1)[layer, 0]


def notebook() -> str:
    cell: dict[str, Any] = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": []}
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    cells = [{**cell, "id": f"cell-{at}", "source": source} for at, source in enumerate(CELLS)]
    return json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5})


@pytest.fixture(scope="module", params=["jupyterlab", "notebook"])
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a server with the notebook, and yield the address of that."""
    if importlib.util.find_spec(request.param) is None or importlib.util.find_spec("ipykernel") is None:
        pytest.skip(f"{request.param} is not installed: pip install {request.param}")
    folder: Path = tmp_path_factory.mktemp(request.param)
    (folder / "try.ipynb").write_text(notebook(), "utf-8")
    homes = {f"JUPYTER_{name}_DIR": str(folder / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    homes |= {"JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"), "IPYTHONDIR": str(folder / "ipython")}
    options = ["--no-browser", "--allow-root", "--ip=127.0.0.1", "--ServerApp.port=0", "--IdentityProvider.token="]
    options += [f"--ServerApp.root_dir={folder}", "--LabApp.news_url=None"]
    options += ["--LabApp.expose_app_in_browser=True", "--JupyterNotebookApp.expose_app_in_browser=True"]
    # The warnings of the server are not ours.
    environment = {**os.environ, **homes, "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", request.param, *options]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        found = next((at for line in server.stderr if (at := re.search(r"http://127\.0\.0\.1:\d+/", line))), None)
        assert found is not None, "the server did not start"
        # A full pipe would stop the server.
        threading.Thread(target=server.stderr.read, daemon=True).start()
        yield found.group() + ("lab/tree" if request.param == "jupyterlab" else "notebooks") + "/try.ipynb"
        server.terminate()
        server.wait(timeout=60)


@pytest.fixture(scope="module")
def tab(chromium: Browser, address: str) -> Iterator[Tab]:
    """Run all cells, and wait for the picture."""
    opened = chromium.new_page(viewport={"width": 1400, "height": 1200})
    opened.goto(address)
    opened.wait_for_function("() => globalThis.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel")
    opened.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells'); }")
    opened.wait_for_selector(".shell[data-drawn]", timeout=120_000)
    yield opened
    opened.close()


def selected(tab: Tab, **values: Any) -> None:
    """Wait until Python has told of a selection with these values."""
    for name, value in values.items():
        tab.get_by_text(f"{name!r}: {value!r}").first.wait_for()


def strongest(tab: Tab) -> dict[str, float]:
    rows = [text.rsplit(None, 1) for text in tab.locator("#list li").all_text_contents()]
    return {label.strip(): float(weight) for label, weight in rows}


def expected(row: torch.Tensor) -> Any:
    labels = ["<b>a</b>", *"bcdef"]
    return pytest.approx({labels[at]: float(row[at]) for at in row.argsort(descending=True)[:5].tolist()}, abs=5e-4)


def test_a_choice_in_the_page_is_the_selection_in_python(tab: Tab) -> None:
    """A click on a token, and another head, reach the observer; the weights are the map's; tokens stay text."""
    tab.locator("#head").select_option("1")
    tab.locator("#to .token").nth(5).click()
    tab.locator("#asked").get_by_text("What “f” attends to").wait_for()
    selected(tab, layer="blocks.1", head=1, query=5, sample=0)
    assert strongest(tab) == expected(weights(1)[1, 5])
    assert tab.locator(".shell b").count() == 0


def test_the_selection_of_python_moves_the_page(tab: Tab) -> None:
    """Set by a button, whose function runs in the kernel."""
    tab.get_by_role("button", name="Move", exact=True).click()
    tab.locator("#asked").get_by_text("What “e” attends to").wait_for()
    tab.locator("#heading").get_by_text("blocks.0, head 2").wait_for()
    assert strongest(tab) == expected(weights(0)[2, 4])


def test_keys_stay_in_the_widget(tab: Tab) -> None:
    """Arrows choose among the heads, and a letter is no command: b would add a cell to the notebook."""
    tab.locator("#head").select_option("0")
    tab.locator("#heading").get_by_text("head 0").wait_for()
    tab.locator("#grid").focus()
    cells = tab.locator(".jp-Cell").count()
    tab.keyboard.press("b")
    tab.keyboard.press("ArrowRight")
    tab.locator("#heading").get_by_text("head 1").wait_for()
    assert tab.locator("#grid").evaluate("node => node.getRootNode().activeElement === node")
    assert tab.locator(".jp-Cell").count() == cells


def test_a_weight_is_explained_in_the_widget(tab: Tab) -> None:
    """The dialog opens above the notebook, and Escape closes it."""
    tab.locator("#list button").first.click()
    tab.locator("#making-line").get_by_text("but not its query and key").wait_for()
    tab.keyboard.press("Escape")
    assert not tab.locator("#making").is_visible()


def test_the_oracle_of_this_file_is_what_the_notebook_shows() -> None:
    """The same numbers make the same maps."""
    attention = AttentionMap.from_weights(weights(1)[None])
    assert attention.shape == (1, 3, 6, 6)
