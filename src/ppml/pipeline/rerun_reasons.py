"""Descriptions of the differences between two jobs: keys, modules and pins."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ppml.pipeline.code_digest import CodeDigest


def compare_params(
    before: Iterable[str], now: Iterable[str], code_digest: Callable[[str], CodeDigest | None]
) -> Iterator[str]:
    """Yield the differences between the parameters of a finished job and those of the planned one.

    Parameters
    ----------
    before, now : iterable of str
        Specification, code digest and further texts.
    code_digest : callable
        Text -> modules and pins, None if they are not known.
    """
    before, now = list(before), list(now)
    old = [param for param in before if param not in now]
    new = [param for param in now if param not in before]
    old_code, new_code = ([param for param in params if _is_code_digest(param)] for params in (old, new))
    for one, other in zip(old_code, new_code, strict=False):
        yield from compare_code(code_digest(one), code_digest(other))
    old_specs, new_specs = ([spec for param in params if (spec := _spec(param)) is not None] for params in (old, new))
    for one, other in zip(old_specs, new_specs, strict=False):
        yield from compare_keys(one, other)
    if len(old) != len(new) or len(old_specs) != len(new_specs) or len(old_code) != len(new_code):
        yield "the rule has other parameters"
    elif not old_specs and not old_code:
        yield from (f"{one!r} is now {other!r}" for one, other in zip(old, new, strict=False))


def compare_code(before: CodeDigest | None, now: CodeDigest | None) -> Iterator[str]:
    """Yield the modules and pins that differ."""
    if before is None or now is None:
        yield "code or pins have changed; their earlier versions are unknown"
        return
    modules = [name for name in {**before.modules, **now.modules} if before.modules.get(name) != now.modules.get(name)]
    yield from (f"module {name}" for name in sorted(modules))
    for name in sorted({**before.pins, **now.pins}):
        if before.pins.get(name) != now.pins.get(name):
            yield f"pin {name} {before.pins.get(name, '(none)')} -> {now.pins.get(name, '(none)')}"


def compare_keys(before: Any, now: Any, place: str = "") -> Iterator[str]:
    """Yield the keys whose values differ.

    Examples
    --------
    >>> list(compare_keys({"arm": {"epochs": 1, "rate": 2}}, {"arm": {"epochs": 3, "rate": 2}}))
    ['arm.epochs 1 -> 3']
    """
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**before, **now}:
            yield from compare_keys(before.get(key), now.get(key), f"{place}.{key}" if place else key)
        if [key for key in before if key in now] != [key for key in now if key in before]:
            yield f"{place or 'specification'} is in another order"
    elif before != now:
        yield f"{place or 'specification'} {_short(before)} -> {_short(now)}"


def _is_code_digest(param: str) -> bool:
    return len(param) == 16 and all(digit in "0123456789abcdef" for digit in param)


def _spec(param: str) -> Any:
    try:
        content = json.loads(param)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, (dict, list)) else None


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
