"""Hints in error messages: the nearest allowed name, and the reason for a value that YAML reads in another way."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal

_EXPONENT = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+")

_OTHER_WORDS = {"gpu": "cuda"}
"""Names that are near in meaning, not in spelling."""


def nearest(name: str, allowed: Iterable[str]) -> str | None:
    """Return the allowed name nearest to ``name``, None if none is near.

    Examples
    --------
    >>> nearest("mnits", ["mnist", "kmnist"])
    'mnist'
    >>> nearest("Fashion-MNIST", ["mnist", "fashion_mnist"])
    'fashion_mnist'
    >>> nearest("cifar10", ["mnist", "digits"]) is None
    True
    """
    by_plain = {_plain(one): one for one in sorted(allowed, reverse=True)}
    near = difflib.get_close_matches(_plain(_OTHER_WORDS.get(name.casefold(), name)), by_plain, n=1)
    return by_plain[near[0]] if near else None


def suggestion(name: str, allowed: Iterable[str]) -> str:
    """Return ``"did you mean 'x'? "`` for the nearest name, or nothing.

    Examples
    --------
    >>> suggestion("exampel", ["none", "example"])
    "did you mean 'example'? "
    """
    near = nearest(name, allowed)
    return f"did you mean {near!r}? " if near else ""


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "_", name.casefold())


def yaml_hint(value: Any, *, wanted: Literal["number", "integer", "text"] = "number") -> str:
    """Return a hint if YAML reads a value with an unexpected type; empty if there is none.

    Parameters
    ----------
    value : object
        The value as YAML reads it.
    wanted : {"number", "integer", "text"}
        The expected type.

    Examples
    --------
    >>> yaml_hint("1e-5")
    ' (YAML reads a number like 1e-5 as text: write 1.0e-5)'
    >>> yaml_hint(False, wanted="text")
    ' (YAML reads yes, no, on and off as true and false: write text in quotes)'
    """
    if hasattr(value, "isoformat"):
        return f" (YAML reads it as a date: write text in quotes, '{value.isoformat()}')"
    if wanted == "text":
        if isinstance(value, bool):
            return " (YAML reads yes, no, on and off as true and false: write text in quotes)"
        return " (write text that is a number in quotes)" if isinstance(value, (int, float)) else ""
    if not isinstance(value, str):
        return ""
    if re.fullmatch(r"[-+]?0o[0-7]+", value):
        return f" (YAML 1.1 reads it as text: write {int(value, 8)})"
    if not _is_number(value):
        return ""
    if _EXPONENT.fullmatch(value):
        whole = wanted == "integer" and float(value).is_integer()
        right = str(int(float(value))) if whole else _with_point(value)
        return f" (YAML reads a number like {value} as text: write {right})"
    return f" (YAML reads it as text: write {value.strip()} without quotes)"


def shorten(names: Sequence[str], limit: int = 4, separator: str = ", ") -> str:
    """Return the first names, and the number of further ones.

    Examples
    --------
    >>> shorten(["a", "b", "c", "d"], limit=2)
    'a, b and 2 more'
    """
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return separator.join(names[:limit]) + more


def _with_point(value: str) -> str:
    """Return a number with an exponent as YAML 1.1 reads it: with a point, and a sign before the exponent."""
    number, _, exponent = value.lower().partition("e")
    sign = "" if exponent[0] in "+-" else "+"
    return f"{number if '.' in number else f'{number}.0'}e{sign}{exponent}"


def _is_number(value: str) -> bool:
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False
