import pytest

from ppml.errors import UserError
from ppml.reporting.literature import load_published

ACCURACIES = {
    "private-ai/1/ml-only": 0.971,
    "private-ai/1/ml-dp": 0.92,
    "private-ai/1/ml-he": 0.95,
    "private-ai/3/centralized": 0.848,
    "private-ai/4/fl-only": 0.924,
    "private-ai/4/fl-dp": 0.815,
    "private-ai/5/fl-he": 0.937,
    "private-ai/proposal": None,
    "tramer-boneh/3/cnn": 0.981,
    "tramer-boneh/3/scatternet": 0.987,
    "papernot/2.93/tempered-sigmoid": 0.981,
    "papernot/2.93/relu": 0.961,
    "opacus/1.16/cnn": 0.9463,
    "opacus/2.91/cnn": 0.9678,
    "opacus/6.86/cnn": 0.9709,
    "dpsur/1": 0.9793,
    "dpsur/2": 0.9870,
    "dpsur/3": 0.9888,
    "dpsur/4": 0.9895,
    "tramer-boneh/3/fashion": 0.897,
    "tramer-boneh/3/cifar": 0.693,
    "tang/1/cifar": 0.723,
}
PRIVATE_AI_3 = {
    "iid-4": (0.731, 0.824),
    "iid-8": (0.620, 0.780),
    "iid-16": (0.570, 0.726),
    "iid-32": (0.527, 0.641),
    "non-iid-4": (0.682, 0.824),
    "non-iid-8": (0.561, 0.823),
    "non-iid-16": (0.524, 0.750),
    "non-iid-32": (0.520, 0.550),
}
"""Accuracies without and with federation."""


def test_the_projects_file_holds_the_papers_numbers(published_path):
    rows = load_published(published_path)
    grid = {
        f"private-ai/3/{setting}-{way}-fl": accuracy
        for setting, pair in PRIVATE_AI_3.items()
        for way, accuracy in zip(("without", "with"), pair, strict=True)
    }
    assert {key: row.accuracy for key, row in rows.items()} == ACCURACIES | grid
    assert {key: row.epsilon for key, row in rows.items() if row.epsilon and row.source is None} == {
        "private-ai/1/ml-dp": 0.563,
        "private-ai/4/fl-dp": 2.90,
    }
    assert rows["private-ai/3/non-iid-8-with-fl"].std == 0.05
    cited = {key: row for key, row in rows.items() if row.source}
    assert {key: row.epsilon for key, row in cited.items()} == {key: float(key.split("/")[1]) for key in cited}
    assert {key: row.n_train for key, row in cited.items()} == {
        key: 50_000 if key.endswith("cifar") else 60_000 for key in cited
    }
    assert {key for key, row in cited.items() if row.disputed} == {key for key in cited if key.startswith("dpsur/")}


def test_row_has_name_and_settings(published_path):
    rows = load_published(published_path)
    assert rows["private-ai/4/fl-dp"].technique == "FL + DP"
    assert rows["private-ai/4/fl-dp"].full_name == "FL + DP (Noise multiplier = 4, Grad Clipping = 1)"
    assert rows["private-ai/4/fl-only"].full_name == "FL only"


ROW = "{paper: PRIVATE-AI, technique: T, accuracy: 0.9%s}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "p/1/a: {paper: PRIVATE-AI, technique: T, accuracy: 97.1}",
            ["p/1/a.accuracy", "97.1", "less than or equal to 1"],
        ),
        ("p/1/a: {paper: PRIVATE-AI, technique: T}", ["p/1/a.accuracy", "missing"]),
        ("p/1/a: " + ROW % ", epsilon: 0", ["p/1/a.epsilon", "got 0", "greater than 0"]),
        ("p/1/a: " + ROW % ", tabel: I", ["p/1/a", "'tabel'", "did you mean 'table'?"]),
        ("p/1/a: {paper: Else, technique: T, accuracy: 0.9}", ["p/1/a", "source is missing", "PRIVATE-AI"]),
        ("P 1: " + ROW % "", ["'P 1'"]),
        ("- a", ["list"]),
        ("a: [", ["not valid YAML"]),
    ],
)
def test_bad_content_is_named(tmp_path, text, message):
    path = tmp_path / "published.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_published(path)
    for part in [str(path), *message]:
        assert part in str(caught.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"absent\.yaml: does not exist"):
        load_published(tmp_path / "absent.yaml")
