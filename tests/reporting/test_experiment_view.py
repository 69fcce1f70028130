"""The view of an experiment and its tidy files."""

import pandas as pd
import pytest

from ppml.errors import UserError
from ppml.reporting.experiment_view import ExperimentView, read_tidy, require_arms


def test_view_keeps_the_order_of_the_arms():
    view = ExperimentView.model_validate({"title": "T", "arms": {"b": "B", "a": "A"}})
    assert list(view.arms) == ["b", "a"]
    assert view.label("c") == "c"


def test_only_empty_cells_are_missing(tmp_path, techniques):
    techniques.records.to_csv(tmp_path / "records.csv", index=False)
    records = read_tidy("records", tmp_path / "records.csv")
    assert set(records["privacy_unit"]) == {"none", "example"}
    assert records.set_index("arm")["epsilon"].isna()["fl"].all()
    assert records["data_digest"].iloc[0] == "00000000deadbeef"


def test_missing_column_and_empty_file_are_named(tmp_path):
    (tmp_path / "costs.csv").write_text("arm,seed\nfl,0\n")
    with pytest.raises(UserError, match=r"costs\.csv: has no column seconds, .*; found: arm, seed"):
        read_tidy("costs", tmp_path / "costs.csv")
    (tmp_path / "costs.csv").write_text("")
    with pytest.raises(UserError, match="not a CSV file with a header"):
        read_tidy("costs", tmp_path / "costs.csv")


def test_unknown_arm_is_named_with_the_nearest():
    with pytest.raises(UserError, match=r"costs\.csv: unknown arm 'fl_pd'; did you mean 'fl_dp'\?"):
        require_arms(pd.DataFrame({"arm": ["fl_dp", "fl"]}), ["fl_pd"], "costs.csv")
