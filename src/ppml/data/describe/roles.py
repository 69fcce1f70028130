"""The guess of each column's role, from its facts and its name."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ppml.config.suggestions import shorten, suggestion
from ppml.config.yaml_file import MAX_VALUES
from ppml.data.describe.facts import MOST_VALUES, ColumnFacts
from ppml.errors import UserError

MOST_TEXTS = 50
"""Different texts of a category that is guessed."""
MOST_CLASSES = 20
"""Different values of a label that is guessed."""
FEW_NUMBERS = 10
"""Different integers that may be codes of a category."""
FEWEST_ROWS = 20
"""Rows below which different numbers say nothing about a column."""
FEWEST_OTHERS = 10
"""Rows with another value than the commonest one; an input needs so many, since training may get none of fewer."""
MOST_GAPS = 20
"""One row in so many may lack a time or a site, since it is then left out."""
LONGEST_TEXT = 100
"""Characters of a text that may be a value of a category."""
FOUND = "found in the file; confirm or replace by public limits"
LISTED = "list found in the file"
LEFT_OUT = "left out: the file of a configuration is full"
MOST_YAML_VALUES = MAX_VALUES - 2_000
"""Values of all columns in YAML; the rest is for arms and experiments."""
IGNORED_SIZE = 4
"""Values of an ignored column in YAML."""
IDENTIFIERS = frozenset(
    [
        "id",
        "ids",
        "uuid",
        "guid",
        "name",
        "surname",
        "firstname",
        "lastname",
        "fullname",
        "username",
        "forename",
        "email",
        "emails",
        "mail",
        "phone",
        "telephone",
        "mobile",
        "fax",
        "ssn",
        "iban",
        "address",
        "street",
        "passport",
        "licence",
        "license",
        "mrn",
        "userid",
        "patientid",
        "customerid",
        "clientid",
        "personid",
        "memberid",
        "employeeid",
        "accountid",
        "studentid",
    ]
)
QUASI_IDENTIFIERS = frozenset(
    [
        "age",
        "sex",
        "gender",
        "zip",
        "zipcode",
        "postcode",
        "postal",
        "plz",
        "birth",
        "birthday",
        "birthdate",
        "birthyear",
        "dob",
        "race",
        "ethnicity",
        "ethnic",
        "country",
        "nationality",
        "citizenship",
        "education",
        "marital",
        "religion",
        "county",
        "city",
    ]
)
SITES = frozenset(["site", "hospital", "clinic", "branch", "store", "region"])
BIRTHS = frozenset(["birth", "birthday", "birthdate", "dob"])
CLOCKS = frozenset(["time", "timestamp", "date", "datetime", "epoch"])
EPOCH = (1e8, 4.2e9)
"""The range of seconds since 1970 of a column that is named as a time: the years 1973 to 2103."""


@dataclass(frozen=True)
class Choices:
    """The columns that the user names.

    Parameters
    ----------
    label, site : str or None
    sensitive, group : tuple of str
    """

    label: str | None = None
    site: str | None = None
    sensitive: tuple[str, ...] = ()
    group: tuple[str, ...] = ()

    @property
    def names(self) -> Mapping[str, str]:
        """Column -> the option that names it, for columns that the model need not read as they are."""
        return {
            **dict.fromkeys(self.sensitive, "--sensitive"),
            **dict.fromkeys(self.group, "--group"),
            **({self.site: "--site"} if self.site is not None else {}),
            **({self.label: "--label"} if self.label is not None else {}),
        }


@dataclass(frozen=True)
class ColumnGuess:
    """The entry of one column.

    Parameters
    ----------
    name : str
    roles : tuple of str
    values : tuple of str
        The closed list.
    limits : tuple of two floats, or None
        The smallest and the largest number.
    missing : str, float or None
        The rule for missing values; None: there are none.
    format : str or None
    notes : tuple of str
        Comments.
    """

    name: str
    roles: tuple[str, ...]
    values: tuple[str, ...] = ()
    limits: tuple[float, float] | None = None
    missing: str | float | None = None
    format: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def is_input(self) -> bool:
        """Whether the model reads the column."""
        return bool({"feature", "category"} & {*self.roles})

    @property
    def size(self) -> int:
        """The number of values of the entry in YAML: keys, texts, numbers, lists and sections."""
        roles = 2 if len(self.roles) == 1 else 2 + len(self.roles)
        listed = 2 + len(self.values) if self.values else 0
        rules = 2 * (self.missing is not None) + 2 * (self.format is not None) + 4 * (self.limits is not None)
        return 2 + roles + listed + rules


@dataclass(frozen=True)
class TableGuess:
    """The entries of all columns.

    Parameters
    ----------
    columns : tuple of ColumnGuess
    label : str
    site : str or None
        The column of natural clients.
    classes, sites : mapping
        Value of the label, or of the site -> its number of rows.
    """

    columns: tuple[ColumnGuess, ...]
    label: str
    site: str | None
    classes: Mapping[str, int] = field(repr=False)
    sites: Mapping[str, int] = field(repr=False)

    def with_role(self, role: str) -> list[str]:
        """Return the names of the columns with a role."""
        return [column.name for column in self.columns if role in column.roles]

    @property
    def inputs(self) -> int:
        """The number of inputs of the model."""
        return sum(
            len(column.values) + (column.missing == "category") if "category" in column.roles else 1
            for column in self.columns
            if column.is_input
        )


def words(name: str) -> frozenset[str]:
    """Return the words of a name, in small letters.

    Examples
    --------
    >>> sorted(words("PatientId")), sorted(words("zip-code_2"))
    (['id', 'patient'], ['2', 'code', 'zip'])
    """
    return frozenset(word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[^\W\d_]?[^\WA-Z\d_]+|\d+", name))


def guess_table(facts: Sequence[ColumnFacts], choices: Choices = Choices()) -> TableGuess:
    """Return the entries of all columns.

    Parameters
    ----------
    facts : sequence of ColumnFacts
    choices : Choices

    Raises
    ------
    UserError
        A named column does not exist or does not fit, or there is no label, or no input.
    """
    by_name = {column.name: column for column in facts}
    _check_choices(by_name, choices)
    label = choices.label if choices.label is not None else _guess_label(facts, choices)
    site = choices.site if choices.site is not None else _guess_site(facts, label, choices)
    # Rows that label and site leave out have no values of other columns.
    kept = math.prod(1 - by_name[name].missing / by_name[name].rows for name in (label, site) if name is not None)
    columns, timed = [], False
    for column in facts:
        if column.name == label:
            columns.append(_label_column(column, guessed=choices.label is None))
        elif column.name == site:
            columns.append(_site_column(column))
        else:
            guess = guess_column(column, choices, timed=timed, kept=kept)
            timed = timed or "time" in guess.roles
            columns.append(_with_choices(guess, column, choices))
    found = within_limit(columns, MOST_YAML_VALUES)
    if not any(column.is_input for column in found):
        raise UserError(f"no column beside the label {label!r} can be an input of a model; give a table with features")
    sites = by_name[site].counts if site is not None else None
    return TableGuess(tuple(found), label, site, by_name[label].counts or {}, sites or {})


def within_limit(columns: Sequence[ColumnGuess], most: int) -> list[ColumnGuess]:
    """Return the entries; inputs are ignored as soon as all entries would have more than ``most`` values in YAML.

    Raises
    ------
    UserError
        There are too many columns even so.
    """
    left = most - sum(IGNORED_SIZE if column.is_input else column.size for column in columns)
    if left < 0:
        raise UserError(f"{len(columns)} columns are too many for the file of a configuration; give a table with fewer")
    found = []
    for column in columns:
        more = column.size - IGNORED_SIZE if column.is_input else 0
        found.append(_ignored(column.name, LEFT_OUT) if more > left else column)
        left -= more if more <= left else 0
    return found


# --- one column -----------------------------------------------------------------------------------------------------


def guess_column(
    facts: ColumnFacts, choices: Choices = Choices(), *, timed: bool = False, kept: float = 1.0
) -> ColumnGuess:
    """Return the entry of a column that is neither label nor site.

    Parameters
    ----------
    facts : ColumnFacts
    choices : Choices
    timed : bool
        Whether a column before has the role time, which one column may have.
    kept : float
        The fraction of the rows that other columns do not leave out.
    """
    name = facts.name
    if facts.kind in ("empty", "other"):
        return _ignored(name, facts.reason or "no value")
    if facts.counts is not None and facts.distinct == 1 and not facts.missing:
        return _ignored(name, "one value in all rows")
    if is_identifier(facts, choices):
        return ColumnGuess(name, ("identifier",), notes=("looks like an identifier",))
    if facts.kind == "time" or _is_epoch(facts):
        return _time_column(facts, timed)
    quasi = ("quasi_identifier",) if words(name) & QUASI_IDENTIFIERS else ()
    if facts.others * kept < fewest_others(facts.rows):
        return _ignored(name, "nearly all rows have one value")
    if facts.kind == "number" and facts.low < facts.high:
        return _feature(facts, quasi)
    many = facts.distinct > MOST_TEXTS
    if facts.kind != "text" or many or facts.differs or max(map(len, facts.values)) > LONGEST_TEXT:
        note = f"more than {MOST_TEXTS} texts" if many else "one number, or long or unrepeated texts"
        return ColumnGuess(name, quasi, notes=(note,)) if quasi else _ignored(name, note)
    missing = "category" if facts.missing else None
    return ColumnGuess(name, ("category", *quasi), facts.values, missing=missing, notes=(LISTED,))


def fewest_others(rows: int) -> int:
    """Return the number of rows with another value than the commonest one; an input needs so many."""
    return max(4, min(FEWEST_OTHERS, rows // 20))


def is_identifier(facts: ColumnFacts, choices: Choices = Choices()) -> bool:
    """Return whether a column looks like an identifier: by its values, or by its name.

    An option of the user overrides the name and different numbers.
    """
    if facts.has_emails:
        return True
    if facts.name in choices.names or facts.kind == "time":
        return False
    found = words(facts.name)
    if found & IDENTIFIERS:
        return True
    distinct = facts.differs and facts.rows >= FEWEST_ROWS and not found & (QUASI_IDENTIFIERS | CLOCKS)
    return distinct and (facts.kind == "text" or facts.is_integer)


def _ignored(name: str, note: str) -> ColumnGuess:
    return ColumnGuess(name, ("ignored",), notes=(note,))


def _is_epoch(facts: ColumnFacts) -> bool:
    named = facts.kind == "number" and words(facts.name) & CLOCKS
    return bool(named) and EPOCH[0] <= facts.low and facts.high <= EPOCH[1]


def _time_column(facts: ColumnFacts, timed: bool) -> ColumnGuess:
    if words(facts.name) & BIRTHS:
        return ColumnGuess(facts.name, ("quasi_identifier",), notes=("a date of birth",))
    if timed:
        return _ignored(facts.name, "a time; one column may have the role time")
    if facts.missing * MOST_GAPS > facts.rows:
        return _ignored(facts.name, f"a time, which {facts.missing} rows lack")
    notes = [f"{facts.missing} rows without a time are left out"] if facts.missing else []
    if facts.format and re.match("%[dm][-/]%[dm]", facts.format):
        notes.append("confirm the order of day and month")
    return ColumnGuess(
        facts.name,
        ("time",),
        format=facts.format,
        missing="drop_row" if facts.missing else None,
        notes=tuple(notes),
    )


def _feature(facts: ColumnFacts, quasi: tuple[str, ...]) -> ColumnGuess:
    notes = [FOUND]
    if facts.is_integer and facts.distinct <= FEW_NUMBERS:
        notes.append(f"{facts.distinct} numbers: a category, if they are codes")
    if facts.missing:
        notes.append("missing: the middle of low and high")
    middle = facts.low + (facts.high - facts.low) / 2
    return ColumnGuess(
        facts.name,
        ("feature", *quasi),
        limits=(facts.low, facts.high),
        missing=float(f"{middle:.6g}") if facts.missing else None,
        notes=tuple(notes),
    )


# --- the columns that the user names --------------------------------------------------------------------------------


def _check_choices(facts: Mapping[str, ColumnFacts], choices: Choices) -> None:
    taken: dict[str | None, str] = {}
    for option, names in (
        ("--label", [choices.label]),
        ("--site", [choices.site]),
        ("--sensitive", choices.sensitive),
        ("--group", choices.group),
    ):
        for name in names:
            if name is None:
                continue
            if name not in facts:
                named = shorten([*map(repr, facts)], 8)
                raise UserError(f"{option}: got {name!r}; {suggestion(name, facts)}the file has {named}")
            if name in taken:
                raise UserError(f"{option}: got {name!r}, which {taken[name]} names, too; name another column")
            if option != "--sensitive":
                _check_list(option, facts[name])
        if option in ("--label", "--site"):
            taken.update(dict.fromkeys(names, option))


def _check_list(option: str, facts: ColumnFacts) -> None:
    """Raise a :class:`UserError` unless a column can have a closed list."""
    name, fewest = facts.name, 2 if option == "--label" else 1
    if facts.kind in ("empty", "other"):
        raise UserError(f"{option}: got {name!r}, a column of {facts.reason or 'missing values'}; name another column")
    if facts.has_emails or (facts.differs and facts.rows >= FEWEST_ROWS):
        raise UserError(f"{option}: got {name!r}, an identifier: all values differ, or are addresses; name another one")
    if facts.counts is None or not fewest <= facts.distinct <= MOST_VALUES:
        found = f"more than {MOST_VALUES}" if facts.counts is None else f"{facts.distinct}"
        raise UserError(
            f"{option}: got {name!r}, with {found} values; {fewest} to {MOST_VALUES} are allowed; name another column, "
            "or divide its values into classes"
        )


def _guess_label(facts: Sequence[ColumnFacts], choices: Choices) -> str:
    """Return the last column with few values; columns with gaps, or a role by their names, are the last choice."""
    fitting = [
        column.name
        for column in facts
        if column.kind in ("number", "text")
        and 2 <= column.distinct <= MOST_CLASSES
        and not column.differs
        and not is_identifier(column)
        and column.name not in choices.names
    ]
    if not fitting:
        raise UserError(f"no column has 2 to {MOST_CLASSES} different values; state the label: --label COLUMN")
    plain = [name for name in fitting if not words(name) & (QUASI_IDENTIFIERS | SITES)]
    whole = [column.name for column in facts if column.missing * 2 < column.rows and column.name in (plain or fitting)]
    return (whole or plain or fitting)[-1]


def _guess_site(facts: Sequence[ColumnFacts], label: str, choices: Choices) -> str | None:
    return next(
        (
            column.name
            for column in facts
            if words(column.name) & SITES
            and (column.kind == "text" or column.is_integer)
            and 2 <= column.distinct <= MOST_TEXTS
            and not (column.differs or column.has_emails)
            and column.missing * MOST_GAPS <= column.rows
            and column.name not in (label, *choices.names)
        ),
        None,
    )


def _label_column(facts: ColumnFacts, *, guessed: bool) -> ColumnGuess:
    notes = (
        [f"guessed: the last column with 2 to {MOST_CLASSES} values; another one: --label COLUMN"] if guessed else []
    )
    if facts.missing:
        notes.append(f"{facts.missing} rows without a label are left out")
    missing = "drop_row" if facts.missing else None
    return ColumnGuess(facts.name, ("label",), facts.values, missing=missing, notes=tuple(notes))


def _site_column(facts: ColumnFacts) -> ColumnGuess:
    notes = [LISTED]
    if facts.missing:
        notes.append(f"{facts.missing} rows without a site are left out")
    return ColumnGuess(
        facts.name, ("site",), facts.values, missing="drop_row" if facts.missing else None, notes=tuple(notes)
    )


def _with_choices(guess: ColumnGuess, facts: ColumnFacts, choices: Choices) -> ColumnGuess:
    """Return a guess with the roles that the user asks for."""
    added = [
        role
        for role, names in (("sensitive", choices.sensitive), ("group", choices.group))
        if facts.name in names and role not in guess.roles
    ]
    if not added:
        return guess
    kept = tuple(role for role in guess.roles if role != "ignored")
    changed = replace(guess, roles=(*kept, *added))
    if "group" not in added or changed.values:
        return changed
    if not facts.missing or "feature" not in kept:
        return replace(changed, values=facts.values, missing="drop_row" if facts.missing else None)
    # One rule counts for both roles, and a group has no number.
    return replace(changed, values=facts.values, missing="drop_row", notes=(*guess.notes[:1], "missing: left out"))


def kept_rows(columns: Collection[ColumnGuess], facts: Sequence[ColumnFacts]) -> int:
    """Return the number of rows that no rule leaves out; with several rules, about this number."""
    dropped = {column.name for column in columns if column.missing == "drop_row"}
    rows = facts[0].rows
    return round(rows * math.prod(1 - column.missing / rows for column in facts if column.name in dropped))
