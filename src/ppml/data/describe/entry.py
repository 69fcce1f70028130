"""The configuration of a described table, as YAML that a person reads and edits."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from pydantic_core import PydanticCustomError

from ppml.config.columns import MISSING_TEXTS
from ppml.config.paths import expand_input_file
from ppml.config.technique import Ckks
from ppml.data.describe.files import UserTable
from ppml.data.describe.roles import FEWEST_OTHERS, ColumnGuess, TableGuess
from ppml.errors import UserError

WIDTH = 120
COMMENTED_WIDTH = 140
"""The same of a line with a comment at its end."""
LONGEST_KEY = 1_000
"""Characters of a key without a question mark before it; YAML allows 1,024."""
TEST_FRACTION = 0.2
CLIENTS = 4
ENCRYPTED_INPUTS = 4_096
"""Inputs up to which the first configuration predicts encrypted rows."""
SPLIT = f"split: {{kind: stratified, test: {TEST_FRACTION}}}"
QUASI_NOTE = "a model can reveal its inputs; without this key, drop one of the two roles"
_PLAIN = re.compile(r"(?:[^\W\d]|[<(+/])(?:[\w .<>=()&%*'$;^~+/@-]*[\w.<>=()&%*'$;^~+/@-])?|\d[\w -]*[^\W\d][\w-]*")
_WORDS = frozenset(["y", "n", "yes", "no", "on", "off", "true", "false", "null", "none", "nan", "inf"])


# --- texts and numbers ----------------------------------------------------------------------------------------------


def yaml_text(text: str) -> str:
    """Return a text as YAML, in quotes where YAML could read something else.

    Examples
    --------
    >>> [yaml_text(text) for text in ("HS-grad", "<=50K", "no", "1e5", "a: b", "11th")]
    ['HS-grad', '<=50K', '"no"', '"1e5"', '"a: b"', '11th']
    """
    plain = _PLAIN.fullmatch(text) and text.isprintable() and text.lower() not in _WORDS and not _is_number(text)
    return text if plain and _reads_as_text(text) else _quoted(text)


def _quoted(text: str) -> str:
    signs = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t"}
    return '"' + "".join(signs.get(sign) or (sign if sign.isprintable() else _escape(sign)) for sign in text) + '"'


def _escape(sign: str) -> str:
    code = ord(sign)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


@cache
def _resolver() -> object:
    import yaml

    return yaml.SafeLoader("")


def _reads_as_text(text: str) -> bool:
    import yaml

    found = _resolver().resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[attr-defined]
    return bool(found == "tag:yaml.org,2002:str")


def _is_number(text: str) -> bool:
    for read in (float, lambda digits: int(digits, 0)):
        try:
            read(text)
        except ValueError:
            continue
        return True
    return False


def yaml_number(number: float) -> str:
    """Return a number as YAML 1.1 reads it: with a point before an exponent.

    Examples
    --------
    >>> yaml_number(17.0), yaml_number(0.053), yaml_number(1e-07)
    ('17', '0.053', '1.0e-07')
    """
    if number.is_integer() and abs(number) < 1e15:
        return str(int(number))
    text = repr(number)
    return re.sub(r"^(-?\d+)e", r"\1.0e", text)


def dataset_name(stem: str, taken: Collection[str] = ()) -> str:
    """Return a valid name of a data set that is not taken.

    Examples
    --------
    >>> dataset_name("Patienten Übersicht-2024"), dataset_name("2024"), dataset_name("adult", ["adult"])
    ('patienten_ubersicht_2024', 'table_2024', 'my_adult')
    """
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9]+", "_", plain).strip("_")[:40].strip("_") or "table"
    name = name if name[0].isalpha() else f"table_{name}"
    while name in taken:
        name = f"my_{name}"
    return name


# --- columns --------------------------------------------------------------------------------------------------------


def column_lines(column: ColumnGuess, indent: str) -> list[str]:
    """Return the lines of a column: one where it fits."""
    key = yaml_text(column.name)
    roles = ", ".join(column.roles)
    keys = {"role": roles if len(column.roles) == 1 else f"[{roles}]"}
    if column.limits is not None:
        keys |= {"low": yaml_number(column.limits[0]), "high": yaml_number(column.limits[1])}
    if column.missing is not None:
        keys["missing"] = column.missing if isinstance(column.missing, str) else yaml_number(column.missing)
    if column.format is not None:
        keys["format"] = _quoted(column.format)
    values = [yaml_text(value) for value in column.values]
    listed = {"values": f"[{', '.join(values)}]"} if values else {}
    flow = f"{{{', '.join(f'{key}: {value}' for key, value in (keys | listed).items())}}}"
    note = f"# {'; '.join(column.notes)}" if column.notes else ""
    if len(key) > LONGEST_KEY:
        return [f"{indent}{note}" if note else "", f"{indent}? {key}", f"{indent}: {flow}"][not note :]
    line = f"{indent}{key}: {flow}"
    if note and len(line) <= WIDTH and len(line) + 2 + len(note) <= COMMENTED_WIDTH:
        return [f"{line}  {note}"]
    if len(line) <= WIDTH:
        return [*([f"{indent}{note}"] if note else []), line]
    inner = f"{indent}  "
    block = [f"{inner}{name}: {value}" for name, value in keys.items()]
    return [f"{indent}{key}:{f'  {note}' if note else ''}", *block, *(_wrapped(values, inner) if values else [])]


def _wrapped(values: Sequence[str], indent: str) -> Iterator[str]:
    """Yield the lines of a list of values."""
    line = f"{indent}values: ["
    for number, value in enumerate(values):
        part = value + ("]" if number == len(values) - 1 else ",")
        if len(line) + len(part) + 1 > WIDTH and not line.endswith("["):
            yield line
            line = f"{indent}  {part}"
        else:
            line += part if line.endswith("[") else f" {part}"
    yield line


# --- the whole configuration ----------------------------------------------------------------------------------------


def configuration(name: str, table: UserTable, guess: TableGuess, missing_texts: Collection[str], rows: int) -> str:
    """Return the YAML of a configuration with the table, its arms and its experiments.

    Parameters
    ----------
    name : str
        The name of the data set.
    table : UserTable
    guess : TableGuess
    missing_texts : collection of str
        The texts of the file that mean a missing value.
    rows : int
        The rows that no rule leaves out.

    Raises
    ------
    UserError
        The table is too small for a test, or the path of a file cannot stand in a configuration.
    """
    # The split takes the fraction of each class; other rules leave out rows of all classes.
    test = sum(round(TEST_FRACTION * count) for count in guess.classes.values())
    test = round(test * min(1, rows / sum(guess.classes.values())))
    train = rows - test
    if not test or train < CLIENTS:
        raise UserError(f"{table.paths[0]}: has {rows} rows with a label, too few for training and test; give more")
    lines = [
        "# yaml-language-server: $schema=schema.json",
        "# A first version by `ppml describe`: save it in config/, confirm or correct each column, then",
        f"# make results CONFIG=config/{name}.yaml. All keys: config/README.md. Settings of training are not tuned.",
        "seeds: [0, 1, 2]",
        "folders:",
        *(f"  {key}: build/{name}/{key}" for key in ("data", "artifacts", "reports", "logs")),
        "data:",
        f"  dataset: {name}",
        f"  train: {train}",
        f"  test: {test}",
        "  fallback: null",
        "  define:",
        f"    {name}:",
        *(f"      {line}" for line in _dataset_lines(table, guess, missing_texts)),
        "      columns:",
        *(line for column in guess.columns for line in column_lines(column, " " * 8)),
        "audit: {kind: canary}",
        *_partition_lines(guess),
        *_arm_lines(guess, train, test),
        *_experiment_lines(guess),
    ]
    return "\n".join(lines) + "\n"


def _dataset_lines(table: UserTable, guess: TableGuess, missing_texts: Collection[str]) -> Iterator[str]:
    found = table.format
    yield f"kind: {found.kind}"
    if found.delimiter != ",":
        yield f"delimiter: {_quoted(found.delimiter)}"
    if found.decimal != ".":
        yield f"decimal: {_quoted(found.decimal)}"
    if not found.header:
        yield "header: false"
    if found.encoding != "utf-8":
        yield f"encoding: {found.encoding}  # the text is not in UTF-8; confirm the letters with accents"
    yield f"files: [{', '.join(_quoted(_file(path)) for path in table.paths)}]"
    yield SPLIT
    if more := sorted({*missing_texts} - {*MISSING_TEXTS}):
        yield f"missing_texts: [{', '.join(_quoted(text) for text in (*MISSING_TEXTS, *more))}]"
    if any(column.is_input and "quasi_identifier" in column.roles for column in guess.columns):
        yield f"quasi_identifiers_as_inputs: true  # {QUASI_NOTE}"


def _file(path: Path) -> str:
    """Return the absolute path of a file, which means the same in a configuration."""
    text = str(path.absolute())
    try:
        same = expand_input_file(text) == text
    except ValueError as error:
        raise UserError(f"{path}: {error}; rename it") from None
    if not same:
        raise UserError(f"{path}: the path has a part that a configuration replaces; rename it")
    return text


def _partition_lines(guess: TableGuess) -> list[str]:
    if not federates_sites(guess):
        return ["partitions:", f"  {partition_name(guess)}: {{kind: iid, clients: {CLIENTS}}}"]
    chosen = large_sites(guess)
    groups = f", groups: [{', '.join(map(yaml_text, chosen))}]" if len(chosen) < len(guess.sites) else ""
    note = f"  # without sites of fewer than {FEWEST_OTHERS} rows" if groups else ""
    return [
        "partitions:",
        f"  {partition_name(guess)}: {{kind: natural, by: {yaml_text(str(guess.site))}{groups}}}{note}",
    ]


def large_sites(guess: TableGuess) -> list[str]:
    """Return the sites with enough rows to be a client."""
    return [site for site, count in sorted(guess.sites.items()) if count >= FEWEST_OTHERS]


def federates_sites(guess: TableGuess) -> bool:
    """Return whether the sites of the table are the clients."""
    return len(large_sites(guess)) >= 2


def partition_name(guess: TableGuess) -> str:
    """Return the name of the partition."""
    return "sites" if federates_sites(guess) else f"iid{CLIENTS}"


def power_of_two(number: float, low: int, high: int) -> int:
    """Return the largest power of two up to ``number``, not below ``low`` and not above ``high``, which are such."""
    return min(max(1 << int(math.log2(max(number, 1))), low), high)


def delta_for(rows: int) -> str:
    """Return 1 / (10 rows), rounded down to a power of ten.

    Examples
    --------
    >>> delta_for(26_000), delta_for(100)
    ('1.0e-6', '1.0e-3')
    """
    return f"1.0e-{math.ceil(math.log10(10 * rows) - 1e-9)}"


def _arm_lines(guess: TableGuess, train: int, test: int) -> list[str]:
    clients = len(large_sites(guess)) if federates_sites(guess) else CLIENTS
    own = max(train // clients, 1)
    batch, private_batch = power_of_two(train / 100, 16, 512), _private_batch(train)
    rounds = 20 if train < 50_000 else 10
    topology = f"{{kind: federated, partition: {partition_name(guess)}, rounds: {rounds}}}"
    epochs, private_epochs = _passes(3000, batch, train), _passes(400, private_batch, train)
    privacy = f"{{kind: example, epsilon: 8.0, delta: {delta_for(train)}, max_grad_norm: 1.0}}"
    plain = f"training: {{epochs: {epochs}, batch_size: {batch}, learning_rate: 0.05}}"
    small = power_of_two(own / 50, 8, 256)
    rate = 0.1 if train < 2_000 else 0.2 if train < 20_000 else 0.5
    arms: Mapping[str, Sequence[str]] = {
        "boosting": ("label: Gradient boosting + ML", "model: hist_gradient_boosting"),
        "logistic": ("label: Logistic + ML", "model: logistic", plain),
        "mlp": ("label: MLP + ML", "model: mlp", plain),
        "dp_8": (
            'label: "MLP + ML + DP, ε 8"',
            "model: mlp",
            f"privacy: {privacy}",
            f"training: {{epochs: {private_epochs}, batch_size: {private_batch}, learning_rate: {rate}}}",
        ),
        "dp_3": ('label: "MLP + ML + DP, ε 3"', "extends: dp_8", "privacy: {epsilon: 3.0}"),
        "dp_1": ('label: "MLP + ML + DP, ε 1"', "extends: dp_8", "privacy: {epsilon: 1.0}"),
        "fl": (
            "label: MLP + FL",
            "model: mlp",
            f"topology: {topology}",
            f"training: {{epochs: 1, batch_size: {small}, learning_rate: 0.05}}",
        ),
        "fl_dp": (
            'label: "MLP + FL + DP, ε 8"',
            "extends: dp_8",
            f"topology: {topology}",
            f"training: {{epochs: 1, batch_size: {_private_batch(own)}}}",
        ),
        "fl_he": ("label: MLP + FL + HE", "extends: fl", f"aggregation: {{kind: {_encryption(clients)}}}"),
    }
    lines = ["arms:"]
    for name, keys in arms.items():
        lines += [f"  {name}:", *(f"    {line}" for line in keys)]
    if predicts_encrypted(guess):
        lines += [
            "  encrypted:",
            '    label: "Logistic + ML, encrypted prediction"',
            "    extends: logistic",
            f"    inference: {{kind: ckks, images: {min(test, 500)}, single_images: 2}}",
        ]
    return lines


def _encryption(clients: int) -> str:
    """Return the aggregation under encryption that holds the sum of so many clients."""
    try:
        Ckks().check_sum(clients)
    except PydanticCustomError:
        return "bfv"
    return "ckks"


def _private_batch(rows: int) -> int:
    """Return the batch of DP-SGD, larger than without privacy, since each step adds noise."""
    return power_of_two(8 * math.sqrt(rows), 16, 4096)


def _passes(steps: int, batch: int, rows: int) -> int:
    """Return the passes for about so many steps, from 3 to 40."""
    return min(max(round(steps * batch / rows), 3), 40)


def predicts_encrypted(guess: TableGuess) -> bool:
    """Return whether the configuration predicts encrypted rows: each input is a ciphertext."""
    return guess.inputs <= ENCRYPTED_INPUTS


def _experiment_lines(guess: TableGuess) -> list[str]:
    arms = ["boosting", "logistic", "mlp", "dp_8", "dp_3", "dp_1", "fl", "fl_dp", "fl_he"]
    encrypted = predicts_encrypted(guess)
    lines = [
        "experiments:",
        "  techniques:",
        "    title: Every technique on one table",
        f"    arms: [{', '.join([*arms, *['encrypted'] * encrypted])}]",
        "    tables: [summary, threats, recommendations]",
        "    figures: [privacy_utility, history, cost]",
        "  classes:",
        "    title: Every class",
        "    metric: balanced_accuracy",
        "    arms: [boosting, mlp, dp_8, dp_3, dp_1, fl]",
        "    tables: [summary, classes]",
        "    figures: [confusion]",
        "  audit:",
        "    title: Releases of our own trainings",
        "    arms: [dp_8, dp_3, dp_1, fl_dp]",
        "    tables: [audit]",
        "    figures: [audit]",
    ]
    if encrypted:
        lines += [
            "  inference:",
            "    title: Prediction on encrypted rows",
            "    arms: [encrypted]",
            "    tables: [inference]",
        ]
    return lines
