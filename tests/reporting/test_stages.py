import json
import subprocess
import sys

import pandas as pd
import pytest

from ppml.config.experiment import Claim
from ppml.errors import UserError
from ppml.reporting.literature import load_published
from ppml.stages import figure, table

TIDY = ["--records", "--costs", "--audits"]
TABLES = [*TIDY, "--history", "--inferences", "--joint"]


def arguments(collected, folder, published_path, names):
    rows = {key: row.to_json() for key, row in load_published(published_path).items()}
    given = collected.write(folder) | {"--published": json.dumps(rows)}
    return [part for name in names for part in (name, given[name])]


SAYS = {"quote": "DP costs accuracy.", "criterion": "starts_higher", "arms": ["centralized", "dp"]}
ROWS = {"summary": 7, "published": 8, "epsilon_interpretations": 2, "audit": 3, "claims": 1, "threats": 7, "inference": 3}


@pytest.mark.parametrize(("kind", "rows"), ROWS.items())
def test_table_writes_its_four_files(kind, rows, tmp_path, techniques, published_path):
    techniques.view = techniques.view.model_copy(update={"claims": (Claim.model_validate(SAYS),)})
    inputs = arguments(techniques, tmp_path, published_path, ["--spec", *TABLES, "--published"])
    outputs = {ending: tmp_path / "out" / f"{kind}.{ending}" for ending in ("md", "csv", "tex", "html")}
    table.main(
        [*inputs, "--kind", kind, *(part for end, path in outputs.items() for part in (f"--output-{end}", str(path)))]
    )
    assert outputs["md"].read_text(encoding="utf-8").startswith("### Techniques")
    assert len(pd.read_csv(outputs["csv"])) == rows
    assert r"\end{table}" in outputs["tex"].read_text(encoding="utf-8")
    # Of predictions on encrypted images the numbers behind a row are those of its seeds.
    shown = 1 if kind == "inference" else rows
    assert outputs["html"].read_text(encoding="utf-8").count("<tr>") == shown + 1


FIGURES = ("history", "loss", "privacy_utility", "size", "cost", "labels", "epsilon", "client_epsilon", "audit")


@pytest.mark.parametrize("kind", FIGURES)
def test_figure_writes_its_two_files(kind, tmp_path, techniques, published_path):
    names = ["--spec", *TIDY, "--history", "--clients", "--epsilons", "--published"]
    inputs = arguments(techniques, tmp_path, published_path, names)
    svg, png = tmp_path / "out" / "figure.svg", tmp_path / "out" / "figure.png"
    figure.main([*inputs, "--kind", kind, "--output-svg", str(svg), "--output-png", str(png)])
    assert svg.read_text(encoding="utf-8").startswith("<?xml")
    assert png.read_bytes().startswith(b"\x89PNG")


def test_failure_leaves_no_file(tmp_path, techniques, published_path):
    techniques.costs = techniques.costs[techniques.costs["arm"] != "dp"]
    inputs = arguments(techniques, tmp_path, published_path, ["--spec", *TABLES, "--published"])
    outputs = [part for end in ("md", "csv", "tex", "html") for part in (f"--output-{end}", str(tmp_path / f"t.{end}"))]
    with pytest.raises(UserError, match=r"costs\.csv: unknown arm 'dp'"):
        table.main([*inputs, "--kind", "summary", *outputs])
    assert not list(tmp_path.glob("t.*"))


def test_table_needs_no_plotting():
    heavy = ("matplotlib", "seaborn", "torch")
    code = f"import sys, ppml.stages.table; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
