"""Descriptions of the differences between two jobs."""

from __future__ import annotations

import json

import pytest

from ppml.pipeline.code_digest import CodeDigest
from ppml.pipeline.rerun_reasons import compare_code, compare_keys, compare_params

OLD = CodeDigest(
    {"ppml": "0" * 16, "ppml.stages.train": "1" * 16, "ppml.gone": "2" * 16}, {"torch": "2.14.1", "old": "1"}
)
NEW = CodeDigest(
    {"ppml": "0" * 16, "ppml.stages.train": "3" * 16, "ppml.added": "4" * 16}, {"torch": "2.15.0", "new": "2"}
)
CODE_DIGESTS = {OLD.text: OLD, NEW.text: NEW}
CODE = ["module ppml.added", "module ppml.gone", "module ppml.stages.train"]
PINS = ["pin new (none) -> 2", "pin old 1 -> (none)", "pin torch 2.14.1 -> 2.15.0"]
SPEC, OTHER_SPEC = '{"arm":{"epochs":1}}', '{"arm":{"epochs":2}}'


def why(before: list[str], now: list[str]) -> list[str]:
    return list(compare_params(before, now, CODE_DIGESTS.get))


def test_equal_params_give_no_reason() -> None:
    assert why([SPEC, OLD.text, "text"], ["text", OLD.text, SPEC]) == []


@pytest.mark.parametrize(
    ("before", "now", "reasons"),
    [
        ({"a": 1, "b": 2}, {"a": 1, "b": 2}, []),
        ({"a": {"b": {"c": 1}}}, {"a": {"b": {"c": 2}}}, ["a.b.c 1 -> 2"]),
        ({"a": 1}, {"a": 1, "b": "x"}, ['b null -> "x"']),
        ({"a": 1, "b": None}, {"a": 1}, []),
        ({"a": 1}, {}, ["a 1 -> null"]),
        ({"a": {"b": 1}}, {"a": 3}, ['a {"b": 1} -> 3']),
        ({"a": [1, 2]}, {"a": [2, 1]}, ["a [1, 2] -> [2, 1]"]),
        ({"a": 1, "b": 2}, {"b": 3, "a": 1}, ["b 2 -> 3", "specification is in another order"]),
        ({"x": {"a": 1, "b": 2}}, {"x": {"b": 2, "a": 1}}, ["x is in another order"]),
        ([1], [2], ["specification [1] -> [2]"]),
        ({"a": "ü"}, {"a": "é"}, ['a "ü" -> "é"']),
        ({"a": "x" * 58}, {"a": "x" * 59}, [f'a "{"x" * 58}" -> "{"x" * 56}...']),
    ],
)
def test_changed_keys_are_named_with_values(before: object, now: object, reasons: list[str]) -> None:
    assert list(compare_keys(before, now)) == reasons


def test_changed_modules_and_pins_are_named() -> None:
    assert list(compare_code(OLD, NEW)) == [*CODE, *PINS]
    assert list(compare_code(OLD, OLD)) == []
    unknown = ["code or pins have changed; their earlier versions are unknown"]
    assert list(compare_code(None, NEW)) == list(compare_code(OLD, None)) == unknown


def test_changed_specification_names_its_keys() -> None:
    assert why([SPEC, OLD.text], [OLD.text, OTHER_SPEC]) == ["arm.epochs 1 -> 2"]
    assert why(["[1]"], ["[2]"]) == ["specification [1] -> [2]"]


def test_changed_code_names_its_modules_and_pins() -> None:
    assert why([SPEC, OLD.text], [NEW.text, SPEC]) == [*CODE, *PINS]
    assert why([SPEC, "f" * 16], [OLD.text, SPEC]) == ["code or pins have changed; their earlier versions are unknown"]


def test_changed_code_and_specification_are_named() -> None:
    assert why([SPEC, OLD.text], [NEW.text, OTHER_SPEC]) == [*CODE, *PINS, "arm.epochs 1 -> 2"]


def test_changed_text_is_named_once() -> None:
    assert why(["title", SPEC], ["Title", SPEC]) == ["'title' is now 'Title'"]
    assert why(["title", '{"title":"title"}'], ["Title", '{"title":"Title"}']) == ['title "title" -> "Title"']


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ([], [SPEC]),
        ([SPEC], []),
        ([SPEC], [SPEC, "text"]),
        ([SPEC, "text"], [SPEC]),
        ([SPEC], [SPEC, OLD.text]),
        ([SPEC], [OLD.text]),
        ([SPEC, "text"], [SPEC, OLD.text]),
    ],
)
def test_new_and_removed_params_are_named(before: list[str], now: list[str]) -> None:
    assert "the rule has other parameters" in why(before, now)


@pytest.mark.parametrize("text", ["12", "null", '"text"', "0123456789ABCDEF", "0123456789abcde", "0123456789abcdefg"])
def test_text_is_no_specification_and_no_digest(text: str) -> None:
    assert why([text], ["other"]) == [f"{text!r} is now 'other'"]


def test_every_difference_has_a_reason() -> None:
    params = [
        SPEC,
        OTHER_SPEC,
        json.dumps([1]),
        OLD.text,
        NEW.text,
        "f" * 16,
        "text",
        "",
        '{"b":1,"a":2}',
        '{"a":2,"b":1}',
    ]
    for one in params:
        for other in params:
            for kept in ([], [SPEC], ["kept"]):
                reasons = why([one, *kept], [other, *kept])
                assert bool(reasons) == ({one, *kept} != {other, *kept}), (one, other, kept)
