"""A target and names -> the request for each function."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from anylocal._engine import tables
from anylocal._engine.edits import check_key, edits_of, name_of, no_assignment
from anylocal._engine.functions import bound_names, local_names
from anylocal._engine.keep import KEEPS
from anylocal._engine.model import global_names, in_model
from anylocal._engine.patch import own_code
from anylocal._engine.resolve import Resolution
from anylocal._engine.spec import Assignment, CaptureSpec, Match, Request
from anylocal.errors import NameNotFoundError, OptionError

if TYPE_CHECKING:
    import types

    from anylocal._engine.edits import Edits

_THREADS: Final = ("all", "own")


class Site:
    """A Python function and the names that can be captured in it.

    Parameters
    ----------
    function : types.FunctionType
        The function.
    names : tuple of str
        The names it binds, arguments first.
    modules : tuple of str
        The names of the submodules on whose behalf it runs, if it was found in a model.

    Examples
    --------
    >>> from anylocal import find
    >>> def mean(values):
    ...     total = sum(values)
    ...     return total / len(values)
    >>> find(mean)[0]
    Site(mean: values, total)
    """

    def __init__(self, function: types.FunctionType, names: tuple[str, ...], modules: tuple[str, ...] = ()) -> None:
        self.function = function
        self.names = names
        self.modules = modules

    @property
    def file(self) -> str:
        """The file that holds the function."""
        return self.function.__code__.co_filename

    @property
    def line(self) -> int:
        """The line at which the function starts."""
        return self.function.__code__.co_firstlineno

    def __repr__(self) -> str:
        """Return the function, its place and its names on one line."""
        where = f", {tables.counted(len(self.modules), 'module')}" if self.modules else ""
        return f"Site({self.function.__qualname__}: {', '.join(self.names)}{where})"


class Sites(list[Site]):
    """A list of sites, shown as a table."""

    def __repr__(self) -> str:
        """Return a line for each function: its name, what it binds, and for how many modules it runs."""
        rows = [(*row[:2], tables.counted(int(row[2]), "module") if row[2] else "") for row in self._rows()]
        return tables.text("Sites", rows) if rows else "Sites: none"

    def _repr_html_(self) -> str:
        return tables.markup(("function", "names", "modules", "where"), self._rows())

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (
                site.function.__qualname__,
                ", ".join(site.names),
                str(len(site.modules) or ""),
                f"{site.file}:{site.line}",
            )
            for site in self
        ]


def check_options(names: tuple[object, ...], keep: object, edit: Edits | None, threads: str) -> None:
    if not names and not edit:
        msg = 'Name the local variables to capture, as in capture(model, "attn"); find(model) lists what is there.'
        raise OptionError(msg)
    if edit is not None and not isinstance(edit, Mapping):
        msg = f"edit={edit!r} is not a dict; give a function for each name, as in edit={{'attn': function}}."
        raise OptionError(msg)
    for key in edit or ():
        check_key(key)
    for name in (*names, *map(name_of, edit or ())):
        if not isinstance(name, str):
            msg = f"A name of a local variable is a str, not {name!r}."
            raise OptionError(msg)
    if keep not in KEEPS and not callable(keep):
        msg = f"keep={keep!r} is neither one of {', '.join(map(repr, KEEPS))} nor a function."
        raise OptionError(msg)
    if threads not in _THREADS:
        msg = f"threads={threads!r} is neither 'all' nor 'own'."
        raise OptionError(msg)
    for name, function in (edit or {}).items():
        if not callable(function):
            msg = f"edit[{name!r}] is {function!r}; it must be a function of the value that returns the new one."
            raise OptionError(msg)


def only(resolution: Resolution, modules: str | Callable[[str, Any], bool]) -> Resolution:
    """Return the resolution with the chosen submodules only."""
    if not resolution.modules:
        msg = f"modules= selects submodules of a model, and {resolution.label} is not a model. Leave it out."
        raise OptionError(msg)
    if isinstance(modules, str):
        pattern = modules
        chosen = {n: m for n, m in resolution.modules.items() if fnmatch.fnmatchcase(n, pattern)}
    elif callable(modules):
        chosen = {n: m for n, m in resolution.modules.items() if modules(n, m)}
    else:
        raise OptionError(
            f"modules={modules!r} is neither a pattern nor a function; give one pattern, or choose by a function, as in"
            " modules=lambda name, module: name in names."
        )
    if not chosen:
        some = ", ".join(list(resolution.modules)[1:6])
        raise OptionError(
            f"modules={modules!r} selects none of the submodules of {resolution.label}. They are named as in: {some}, …"
        )
    selection = repr(modules) if isinstance(modules, str) else getattr(modules, "__name__", "…")
    label = f"{resolution.label} (modules={selection})"
    of_chosen = resolution.derive(("only", *chosen), lambda: Resolution(label, tuple(in_model(chosen, alone=True))))
    return Resolution(label, of_chosen.matches, chosen, of_chosen.derived)


def requests(resolution: Resolution, names: tuple[str, ...], edits: Edits, *, every: bool) -> tuple[Request, ...]:
    """Return the request for each function that binds any of the names.

    Raises
    ------
    NameNotFoundError
        If none binds one of the names.
    """
    # What is derived is kept with the model, and edits are functions of the user's.
    if edits:
        return tuple(_requests(resolution, names, edits, every=every))
    return resolution.derive(("requests", names, every), lambda: tuple(_requests(resolution, names, {}, every=every)))


def _requests(resolution: Resolution, names: tuple[str, ...], edits: Edits, *, every: bool) -> Iterator[Request]:
    all_names = dict.fromkeys((*names, *map(name_of, edits)))
    several = len(resolution.matches) > 1
    missing = set(all_names)
    made: list[Request] = []
    for found in resolution.matches:
        bound = bound_names(found.function) if several else local_names(found.function)
        local = {name: own for name in all_names if (own := _own_name(name, found.function, bound)) is not None}
        missing -= local.keys()
        recorded = tuple(local[name] for name in dict.fromkeys(names) if name in local)
        chosen = edits_of(found.function, edits, local)
        edited = frozenset(chosen)
        if recorded or edited:
            spec = CaptureSpec(recorded, frozenset(), edited)
            if every:
                spec = CaptureSpec((), frozenset(recorded), edited)
            written = {own: name for name, own in local.items() if own != name}
            made.append(Request(found, spec, written=written, edits=chosen))
    for name in all_names:
        if name in missing:
            raise _not_found(name, resolution)
    met = {each.key for request in made for edits_of_name in request.edits.values() for each in edits_of_name}
    for key in edits:
        if isinstance(key, Assignment) and key not in met:
            raise no_assignment(key, resolution.label, [found.function for found in resolution.matches])
    yield from made


def forward_first(matches: Iterable[Match]) -> list[Match]:
    """Return functions that a model's forward passes call, as far as names in their code tell, before the others."""
    found = list(matches)
    reached = todo = [match.function for match in found if match.function.__name__ == "forward"]
    named: set[str] = set()
    while todo:
        new = {name for function in todo for name in global_names(own_code(function))} - named
        named |= new
        todo = [match.function for match in found if match.function.__name__ in new and match.function not in reached]
        reached = reached + todo
    first = set(map(id, reached))
    return sorted(found, key=lambda match: id(match.function) not in first)


def _own_name(name: str, function: types.FunctionType, bound: tuple[str, ...]) -> str | None:
    """Return the function's own name for a local variable, if it binds it: in a class, ``__x`` is ``_Class__x``."""
    if name in bound or not name.startswith("__") or name.endswith("__"):
        return name if name in bound else None
    mangled = (f"_{cls.lstrip('_')}{name}" for cls in function.__qualname__.split(".")[-2::-1])
    return next((own for own in mangled if own in bound), None)


def _not_found(name: str, resolution: Resolution) -> NameNotFoundError:
    functions = [found.function for found in forward_first(resolution.matches)]
    available = [n for function in functions for n in bound_names(function)]
    hint = ""
    for function in functions:
        if name in function.__code__.co_names:
            hint = f"{name!r} is a global or an attribute in {function.__qualname__}, not a local variable."
    return NameNotFoundError(name, resolution.label, available, hint)


def site(found: Match, names: tuple[str, ...], modules: Mapping[str, Any]) -> Site:
    matches = found.filter
    owners: tuple[str, ...] = ()
    if matches is not None:
        owners = tuple(name for name, m in modules.items() if matches(m) and _is_method_of(found.function, m))
    return Site(found.function, names, owners)


def _is_method_of(function: types.FunctionType, module: object) -> bool:
    cls = function.__qualname__.rpartition(".")[0]
    # A function of a Python module may work for any of the model's modules; which ones is unknown before it runs.
    return any(base.__qualname__ == cls and base.__module__ == function.__module__ for base in type(module).__mro__)
