"""The content of a YAML file, and the errors: each is one line with the file and the line number."""

import json

import pytest
import yaml

from ppml.config.load import load_config
from ppml.config.suggestions import yaml_hint
from ppml.config.yaml_file import MAX_VALUES, read_yaml
from ppml.errors import UserError


def written(folder, content, name="my.yaml"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal(path):
    with pytest.raises(UserError) as caught:
        read_yaml(path)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


TEXTS = {
    "merge": "a: &a {x: 1, y: {z: 2}}\nb: {<<: *a, x: 3}\n",
    "merge below a key of its own": "a: &a {x: 1}\nb: {x: 3, <<: *a}\n",
    "merge of a list": "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {<<: [*a, *b], w: 0}\nd: {<<: [*b, *a]}\n",
    "merge of a merge": "a: &a {x: 1}\nb: &b {<<: *a, x: 2}\nc: &c {<<: *b, y: 3}\nd: {<<: *c, x: 4}\n",
    "merge before its anchor": "top: &b {<<: {x: 1}, x: 2}\n<<: *b\n",
    "nested merge": "a: &a {t: &t {e: 2, m: 1}}\nb: {t: {<<: *t, e: 3}}\n",
    "merge of a mapping in place": "b: {<<: {x: 1}, y: 2}\n",
    "alias": "a: &a [1, 2]\nb: *a\nc: {d: *a}\n",
    "aliased text": "a: &a text\nb: *a\n",
    "json": '{"a": {"b": [1, 2.5, true, null]}}',
    "numbers": "a: [0x10, 1_000, -3, 1.5, 1.0e-5, 0, 0.5]\n",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_valid_yaml_is_read_as_by_pyyaml(text, tmp_path):
    assert read_yaml(written(tmp_path, text)) == yaml.safe_load(text)


def test_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    assert read_yaml(written(tmp_path, b"\xef\xbb\xbfseed: 1\n")) == {"seed": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("# Größe\n\n\n\nlabel: größe\n".encode("latin-1"), "is not UTF-8 (byte 0xf6 in line 1)"),
        (b"a: 1\n\n\n\nlabel: gr\xf6\n", "is not UTF-8 (byte 0xf6 in line 5)"),
        (b"a: 1\nb: \xe2\x82", "is not UTF-8 (byte 0xe2 in line 2)"),
        ("a: 1\n".encode("utf-16"), "is in UTF-16"),
        ("a: 1\n".encode("utf-16-le"), "is in UTF-16"),
        ("a: 1\n".encode("utf-32"), "is in UTF-32"),
        (b"a: 1\nb: \x07\n", "is not valid YAML: line 2: the character '\\x07'"),
    ],
)
def test_another_encoding_is_named_with_byte_and_line(content, message, tmp_path):
    assert refusal(written(tmp_path, content)).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\narms: {a: {}}\nseed: 2\n", "line 3: the key 'seed' occurs twice, first in line 1"),
        ("a: &a {x: 1}\nb:\n  <<: *a\n  y: 1\n  y: 2\n", "line 5: the key 'y' occurs twice, first in line 4"),
        ("a: &a {x: 1}\nb: {<<: *a, <<: *a}\n", "line 2: the key '<<' occurs twice, first in line 2; merge several by"),
        ("arms:\n  1: {}\n", "line 2: the key 1 is read as a number; write it in quotes"),
        ("arms:\n  no: {}\n", "line 2: the key no is read as a truth value"),
        ("2024-01-01: 1\n", "line 1: the key 2024-01-01 is read as a date"),
        ("~: 1\n", "line 1: the key ~ is read as nothing"),
        ("[a]: 1\n", "line 1: a key is a list"),
        ("seed: 010\n", "line 1: YAML reads 010 as a number in base 8; write it without the leading 0 (10)"),
        ("a: 1\nb: 1:30\n", "line 2: YAML reads 1:30 as a number in base 60"),
        ("a: 1\nb: 2024-13-45\n", "line 2: 2024-13-45 cannot be read (month must be in 1..12)"),
        (
            f"a: {'9' * 5000}\n",
            "line 1: 99999999999999999999...9999999999 (5000 characters) cannot be read (it has too",
        ),
        ("arms:\n\ta: {}\n", "is not valid YAML: line 2, column 1: a tab"),
        ("arms:\n  a: {training: [\n", "is not valid YAML: line 3, column 1: "),
        ("arms: a: b\n", "is not valid YAML: line 1, column 8: "),
        ("a: 1\n---\nb: 2\n", "is not valid YAML: line 2, column 1: "),
        ("a: *b\n", "is not valid YAML: line 1, column 4: found undefined alias"),
        ("a: &a 3\nb: {<<: *a}\n", "is not valid YAML: line 1, column 4: expected a mapping"),
        ("a: !!python/object/apply:os.getcwd []\n", "is not valid YAML: line 1, column 4: "),
        ("a: &a {b: *a}\n", "line 1: the alias *a is inside its own anchor"),
        ("a: &a {<<: *a}\n", "line 1: the alias *a is inside its own anchor"),
        ("a: &a\n  - [*a]\n", "line 2: the alias *a is inside its own anchor"),
        ("[" * 2000, "is nested too deeply"),
    ],
)
def test_surprising_value_is_refused_with_its_line(text, message, tmp_path):
    assert refusal(written(tmp_path, text)).startswith(message)


def laughs(levels, form):
    """Return a short text whose aliases expand to ten to the power of ``levels`` values."""
    lines = ["x0: &x0 {a: 1}"]
    for level in range(1, levels):
        lines.append(f"x{level}: &x{level} " + form % ", ".join([f"*x{level - 1}"] * 10))
    return "\n".join(lines)


@pytest.mark.parametrize("form", ["[%s]", "{<<: [%s]}"])
def test_unbounded_aliases_are_refused(form, tmp_path):
    assert refusal(written(tmp_path, laughs(9, form))).endswith(f"expand to more than {MAX_VALUES:,} values")
    assert read_yaml(written(tmp_path, laughs(3, form))) == yaml.safe_load(laughs(3, form))


def wide(columns, categories):
    """Return a configuration whose table has columns with many categories each."""
    values = ", ".join(f"v{number}" for number in range(categories))
    listed = "".join(f"        c{number}: {{role: category, values: [{values}]}}\n" for number in range(columns))
    return (
        "arms: {a: {model: mlp}}\ndata:\n  dataset: wide\n  define:\n    wide:\n      kind: csv\n      files: [a.csv]\n"
        f"      split: {{kind: random}}\n      columns:\n{listed}        y: {{role: label, values: [a, b]}}\n"
    )


def test_a_thousand_columns_with_lists_of_categories_are_read(tmp_path):
    config = load_config(written(tmp_path, wide(1000, 100)))
    assert config.contract_of("a").shape == (100_000,)


def test_too_many_written_values_are_refused_without_a_word_of_aliases(tmp_path, monkeypatch):
    monkeypatch.setattr("ppml.config.yaml_file.MAX_VALUES", 1000)
    message = (
        "line 10: more than 1,000 values stand in the file from here on; leave columns or values of categories out"
    )
    assert refusal(written(tmp_path, wide(100, 10))).startswith(message)
    assert refusal(written(tmp_path, laughs(9, "[%s]"))).endswith("its aliases expand to more than 1,000 values")


def test_missing_file_is_named_with_the_nearest_name(tmp_path):
    written(tmp_path, "seed: 1\narms:\n  a: {}\n", "best.yaml")
    written(tmp_path, "extends: best.yaml\n", "clients.yaml")
    written(tmp_path, '{"seed": 1, "arms": {"a": {}}}', "given.json")
    written(tmp_path, '{"$schema": "x", "properties": {"arms": {}}}', "schema.json")
    written(tmp_path, "mnist: {kind: idx, shape: [1, 28, 28]}  # for all arms\n", "datasets.yaml")
    written(tmp_path, "arms: {a: {}}\n", "notes.txt")
    (tmp_path / "folder.yaml").mkdir()
    assert refusal(tmp_path / "bset.yaml") == f"does not exist; did you mean {tmp_path}/best.yaml?"
    assert refusal(tmp_path / "clients") == f"does not exist; did you mean {tmp_path}/clients.yaml?"
    listed = f"configurations in {tmp_path}: best.yaml, clients.yaml, given.json"
    assert refusal(tmp_path / "q.yaml") == f"does not exist; {listed}"
    assert refusal(tmp_path) == f"is a folder; {listed}"
    assert refusal(tmp_path / "no" / "a.yaml") == f"does not exist; there is no folder {tmp_path}/no"


@pytest.mark.parametrize(
    ("value", "wanted", "remedy"),
    [
        ("1e-5", "number", "1.0e-5"),
        ("1e5", "number", "1.0e+5"),
        ("2.5e3", "number", "2.5e+3"),
        (".5e3", "number", ".5e+3"),
        ("1e4", "integer", "10000"),
        ("0o17", "integer", "15"),
        ("12", "integer", "12"),
    ],
)
def test_remedy_for_a_number_read_as_text_is_that_number(value, wanted, remedy):
    assert f"write {remedy}" in yaml_hint(value, wanted=wanted)
    read = yaml.safe_load(remedy)
    assert isinstance(read, int if wanted == "integer" else float)
    assert read == (int(value, 8) if value.startswith("0o") else float(value))


@pytest.mark.parametrize("value", ["fast", "nan", "inf", None, [1], True])
def test_other_text_has_no_remedy(value):
    assert yaml_hint(value) == ""


def test_json_numbers_are_read_as_numbers(tmp_path):
    content = {"a": [1, -2, 0.25, 1e-5, -1e30, True, None, "x", "1e-5", "e5"], "b": {"c": {}}}
    text = json.dumps(content)
    assert "1e-05" in text and read_yaml(written(tmp_path, text, "my.json")) == content
    # In YAML 1.1 a number with an exponent needs a point.
    assert read_yaml(written(tmp_path, "[1e-5, 1.0e-5]")) == ["1e-5", 1e-5]
