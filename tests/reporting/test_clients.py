"""The client study: independent, federated and centralized training, and published numbers."""

from __future__ import annotations

import dataclasses

import pytest

from ppml.errors import UserError

from .made_up import Collected, MadeUpArm, collect

COMPARE = [
    {"published": "private-ai/3/centralized", "arm": "one"},
    {"published": "private-ai/3/iid-4-without-fl", "arm": "alone4"},
    {"published": "private-ai/3/iid-4-with-fl", "arm": "fl4"},
    {"published": "private-ai/3/iid-32-without-fl", "arm": "alone32"},
    {"published": "private-ai/3/iid-32-with-fl", "arm": "fl32"},
    {"published": "private-ai/3/non-iid-4-with-fl", "arm": "shards4"},
]


def arm(accuracy: float, topology: str, clients: int, division: str = "iid") -> MadeUpArm:
    name = f"{topology} {division} {clients}"
    return MadeUpArm(name, accuracy, topology, clients=clients, partition=f"{division}-{clients}")


def study(**others: MadeUpArm) -> Collected:
    arms = {
        "one": MadeUpArm("One owner", 0.985),
        "alone4": arm(0.95, "independent", 4),
        "fl4": arm(0.98, "federated", 4),
        "alone32": arm(0.90, "independent", 32),
        "fl32": arm(0.97, "federated", 32),
        "shards4": arm(0.96, "federated", 4, "shards"),
        **others,
    }
    return collect(arms, compare=COMPARE)


def test_setting_has_one_line_in_order(published):
    cells = study().table("clients", published).cells
    assert cells[["Division", "Clients"]].to_numpy().tolist() == [
        ["IID", "4"],
        ["IID", "32"],
        ["Shards by label", "4"],
    ]
    assert [heading for heading in cells.columns if heading.startswith(("Independent", "FL", "Theirs"))] == [
        "Independent clients: first 2,000 (%)",
        "Independent clients: all 10,000 (%)",
        "FL: first 2,000 (%)",
        "FL: all 10,000 (%)",
        "FL, minus independent",
        "Theirs: Independent clients",
        "Theirs: FL",
    ]


def test_line_has_our_and_their_numbers(published):
    made = study()
    line = made.table("clients", published).cells.iloc[0]
    rows = made.records[made.records["arm"] == "fl4"]["accuracy_all"]
    assert line["FL: all 10,000 (%)"] == f"{100 * rows.mean():.2f} ± {100 * rows.std(ddof=1):.2f}"
    assert (line["Theirs: Independent clients"], line["Theirs: FL"]) == ("73.1 ± 3.0", "82.4 ± 2.0")
    assert made.table("clients", published).cells.iloc[2]["Independent clients: all 10,000 (%)"] == "—"


def test_gain_is_paired_difference(published):
    made = study()
    gain = made.table("clients", published).cells.iloc[0]["FL, minus independent"]
    both = [made.records[made.records["arm"] == name].set_index("seed")["accuracy_all"] for name in ("fl4", "alone4")]
    assert gain.startswith(f"{100 * (both[0] - both[1]).mean():+.2f} [")


def test_notes_count_settings_and_compare_order(published):
    notes = " ".join(study().table("clients", published).notes)
    assert "FL is above independent training in 2 of 2 settings with both" in notes
    # 15 pairs of six accuracies; 82.4 % occurs twice.
    assert "of 14 pairs of settings with different published accuracies, ours have the same order in 12" in notes
    worse = study(fl32=arm(0.85, "federated", 32))
    notes = " ".join(worse.table("clients", published).notes)
    assert "in 1 of 2 settings with both" in notes and "ours have the same order in 13" in notes


def noisy(accuracy: float, clients: int, noise: str) -> MadeUpArm:
    return dataclasses.replace(arm(accuracy, "federated", clients), epsilon=2.9, noise=noise)


def shares() -> Collected:
    return collect(
        {
            "dp": MadeUpArm("One owner, DP", 0.975, epsilon=2.9),
            "owner4": noisy(0.96, 4, "local"),
            "shares4": noisy(0.974, 4, "distributed"),
            "owner32": noisy(0.93, 32, "local"),
            "shares32": noisy(0.972, 32, "distributed"),
        }
    )


def test_kinds_of_noise_are_series(published):
    made = shares()
    table = made.table("clients", published)
    assert list(table.cells.columns[3:]) == [
        "FL + DP: first 2,000 (%)",
        "FL + DP: all 10,000 (%)",
        "FL + distributed DP: first 2,000 (%)",
        "FL + distributed DP: all 10,000 (%)",
        "FL + DP, minus centralized",
        "FL + distributed DP, minus centralized",
    ]
    means = made.records.groupby("arm")["accuracy_all"].mean()
    line = table.cells.iloc[1]
    assert line["Clients"] == "32"
    for series, arm in (("DP", "owner32"), ("distributed DP", "shares32")):
        assert line[f"FL + {series}: all 10,000 (%)"].startswith(f"{100 * means[arm]:.2f} ±")
        assert line[f"FL + {series}, minus centralized"].startswith(f"{100 * (means[arm] - means['dp']):+.2f} [")
    assert "ML + DP, one owner, 10,000 training examples: first 2,000 (%) " in " ".join(table.notes)
    behind = 100 * (means["dp"] - min(means["shares4"], means["shares32"]))
    assert f"FL + distributed DP: at most {behind:.2f} points below centralized" in " ".join(table.notes)


def test_series_with_several_techniques_has_common_name(published):
    hidden = dataclasses.replace(arm(0.96, "federated", 32), aggregation="ckks")
    cells = study(fl32=hidden).table("clients", published).cells
    assert "FL: all 10,000 (%)" in cells.columns and not [name for name in cells.columns if "HE" in name]


def test_series_with_one_technique_has_its_name(published):
    hidden = {
        name: dataclasses.replace(arm(0.96, "federated", clients, kind), aggregation="ckks")
        for name, clients, kind in (("fl4", 4, "iid"), ("fl32", 32, "iid"), ("shards4", 4, "shards"))
    }
    assert "FL + HE: all 10,000 (%)" in study(**hidden).table("clients", published).cells.columns


def test_figure_has_line_per_series(published):
    made = shares()
    (panel,) = made.figure("clients", published).axes
    lines = {line.get_label(): line.lines[0] for line in panel.containers}
    means = made.records.groupby("arm")["accuracy_all"].mean()
    for series, arms in (
        ("FL + DP", ["owner4", "owner32"]),
        ("FL + distributed DP", ["shares4", "shares32"]),
    ):
        assert list(lines[series].get_xdata()) == [4, 32]
        assert list(lines[series].get_ydata()) == pytest.approx([100 * means[arm] for arm in arms])


def test_two_arms_of_one_setting_are_refused(published):
    twice = study(again=arm(0.97, "federated", 4))
    with pytest.raises(UserError, match="arms 'fl4' and 'again' have the same setting"):
        twice.table("clients", published)
    single = collect({"one": MadeUpArm("One owner", 0.985)})
    with pytest.raises(UserError, match="has more than one client"):
        single.table("clients", published)


def test_figure_has_panel_per_division(published):
    made = study()
    figure = made.figure("clients", published)
    assert [ax.get_title() for ax in figure.axes] == [
        "IID\n10,000 training images",
        "Shards by label\n10,000 training images",
    ]
    iid = figure.axes[0]
    lines = {line.get_label(): line for line in iid.containers}
    fl = lines["FL"].lines[0]
    assert list(fl.get_xdata()) == [4, 32]
    theirs = lines["PRIVATE-AI: FL"].lines[0]
    assert list(theirs.get_ydata()) == pytest.approx([82.4, 64.1]) and theirs.get_markerfacecolor() == "white"
    assert lines["PRIVATE-AI: Independent clients"].lines[0].get_ydata()[0] == pytest.approx(73.1)
