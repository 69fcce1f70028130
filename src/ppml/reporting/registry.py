"""The kinds of tables and figures: a module ``table_*`` or ``figure_*`` declares each with a decorator.

:func:`tables` and :func:`figures` read the declarations from the source, so that the plan need not import pandas or
matplotlib. A new kind is a new module and its caption, ``workflow/report/NAME.rst``.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TypeVar

Builder = TypeVar("Builder", bound=Callable[..., Any])
JointArms = Literal["all", "compared", "epsilon_compared", "claimed"]


@dataclass(frozen=True)
class Kind:
    """A kind of table or figure."""

    name: str
    module: str
    """Module with the declaration."""
    function: str
    """Function that takes ``view``, the :class:`~ppml.reporting.experiment_view.ExperimentView`, each of ``reads`` as a
    data frame, and the papers' numbers as ``published`` if they are shown. The names of its parameters declare them. It
    raises a :class:`UserError` if an arm lacks rows in a file, rows contradict each other, a published row does not
    exist, or no arm is suitable."""
    reads: tuple[str, ...]
    """Keys of :data:`~ppml.results.tidy_files.TIDY_FILES`."""
    published: bool
    """Whether the papers' numbers are shown."""
    joint_arms: JointArms = "all"
    """Arms of the joint epsilon that a table reads from ``joint``: all of the experiment, the arms that answer a
    published row, the arms that answer a published epsilon, or the arms of the claims."""

    @property
    def states_epsilon(self) -> bool:
        """Whether a table states the joint epsilon of its arms."""
        return "joint" in self.reads

    def builder(self) -> Callable[..., Any]:
        """Import the module and return the function."""
        function: Callable[..., Any] = getattr(import_module(self.module), self.function)
        return function


def table(name: str, *, joint_arms: JointArms = "all") -> Callable[[Builder], Builder]:
    """Declare a function that returns a :class:`~ppml.reporting.table.Table`; see :class:`Kind`."""
    return lambda function: function


def figure(name: str) -> Callable[[Builder], Builder]:
    """Declare a function that returns a :class:`matplotlib.figure.Figure`; see :class:`Kind`."""
    return lambda function: function


def tables() -> dict[str, Kind]:
    """Return every kind of table by name."""
    return _declared("table")


def figures() -> dict[str, Kind]:
    """Return every kind of figure by name."""
    return _declared("figure")


@cache
def _declared(decorator: str) -> dict[str, Kind]:
    kinds: dict[str, Kind] = {}
    for path in sorted(Path(__file__).parent.glob(f"{decorator}_*.py")):
        tree = ast.parse(path.read_bytes(), str(path))
        for function in (node for node in tree.body if isinstance(node, ast.FunctionDef)):
            names = [parameter.arg for parameter in function.args.args]
            reads = tuple(name for name in names if name not in ("view", "published"))
            for call in function.decorator_list:
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == decorator:
                    name = ast.literal_eval(call.args[0])
                    options = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
                    module = f"{__package__}.{path.stem}"
                    kinds[name] = Kind(name, module, function.name, reads, "published" in names, **options)
    return kinds
