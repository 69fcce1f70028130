import json

import pandas as pd
import pytest

from ppml.errors import UserError
from ppml.reporting.experiment_view import RECORDS, parse_selection, read_tidy, require_arms


def test_selection_keeps_the_order_of_the_arms():
    text = json.dumps({"title": "T", "arms": {"b": "B", "a": "A"}, "compare": [{"published": "p/1", "arm": None}]})
    selection = parse_selection(text)
    assert list(selection.arms) == ["b", "a"]
    assert selection.compared_arms() == ()
    assert selection.label("c") == "c"


@pytest.mark.parametrize(
    ("text", "said"),
    [('{"title": "T"}', "arms"), ("{", "Invalid JSON"), ('{"title": "T", "arms": {"a": 1}}', "arms.a")],
)
def test_bad_selection_is_named(text, said):
    with pytest.raises(UserError, match=said):
        parse_selection(text)


def test_only_empty_cells_are_missing(tmp_path, techniques):
    techniques.write(tmp_path)
    records = read_tidy(tmp_path / "records.csv", RECORDS)
    assert set(records["privacy_unit"]) == {"none", "example"}
    assert records.set_index("arm")["epsilon"].isna()["fl"].all()
    assert records["data_digest"].iloc[0] == "00000000deadbeef"


def test_missing_column_and_empty_file_are_named(tmp_path):
    (tmp_path / "records.csv").write_text("arm,seed\nfl,0\n")
    with pytest.raises(UserError, match=r"records\.csv: has no column accuracy; found: arm, seed"):
        read_tidy(tmp_path / "records.csv", ["arm", "accuracy"])
    (tmp_path / "records.csv").write_text("")
    with pytest.raises(UserError, match="not a CSV file with a header"):
        read_tidy(tmp_path / "records.csv", ["arm"])


def test_unknown_arm_is_named_with_the_nearest():
    with pytest.raises(UserError, match=r"costs\.csv: unknown arm 'fl_pd'; did you mean 'fl_dp'\?"):
        require_arms(pd.DataFrame({"arm": ["fl_dp", "fl"]}), ["fl_pd"], "costs.csv")
