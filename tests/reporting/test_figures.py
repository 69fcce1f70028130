"""The figures: the same bytes on every call, and the data that they show."""

import dataclasses

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text
from scipy import stats

from ppml.errors import UserError
from ppml.reporting.figure_cost import cost_panels
from ppml.reporting.figure_history import curve
from ppml.reporting.figure_labels import label_counts, label_palette
from ppml.reporting.figure_size import privacy_levels
from ppml.reporting.formatting import model_name
from ppml.reporting.registry import figures
from ppml.reporting.statistics import wilson_interval
from ppml.reporting.style import arm_styles, dodge, to_png, to_svg
from ppml.reporting.summaries import arm_results

from .made_up import COMPARE, TECHNIQUES, MadeUpArm, collect

KINDS = sorted(figures().keys() - {"clients"})
"""The figure ``clients`` is tested with its table."""


def draw(kind, collected, published=()):
    """Return a figure of ``collected``."""
    return collected.figure(kind, dict(published))


def texts(figure):
    """Return every text of a figure."""
    return [text.get_text() for text in figure.findobj(Text)]


def legend(figure):
    """Return the entries of the legend below a figure."""
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_are_the_same_on_every_call(kind, techniques, published):
    first, again = (draw(kind, techniques, published) for _ in range(2))
    svg, png = to_svg(first), to_png(first)
    assert svg == to_svg(again) and png == to_png(again)
    assert b"<dc:date>" not in svg and b"Matplotlib" not in svg
    assert b"tEXt" not in png and b"<text" not in svg


@pytest.mark.parametrize("kind", KINDS)
def test_title_names_fallback_data(kind):
    digits = {name: dataclasses.replace(arm, dataset="digits") for name, arm in TECHNIQUES.items()}
    assert "FALLBACK DATA: scikit-learn digits" in draw(kind, collect(digits)).get_suptitle()
    assert "FALLBACK" not in draw(kind, collect(TECHNIQUES)).get_suptitle()


def sweep():
    """Return sixteen arms of four families."""
    arms = {"centralized": MadeUpArm("Centralized", 0.98)}
    for epsilon in (0.5, 1, 2, 5, 10):
        arms[f"dp-{epsilon}"] = MadeUpArm(f"Centralized + DP, {epsilon}", 0.9, epsilon=epsilon)
        for aggregation in ("plaintext", "ckks"):
            name = f"fl-{aggregation}-{epsilon}"
            arms[name] = MadeUpArm(name, 0.8, "federated", epsilon, aggregation, 8, "iid-8", upload=10_000)
    return arms


def test_arms_have_different_styles():
    collected = collect(sweep(), seeds=1)
    styles = arm_styles(collected.view, collected.records)
    assert len({style.colour for style in styles.values()}) == 16
    assert len({style.family for style in styles.values()}) == 4


def test_arm_has_one_colour_in_every_figure(techniques):
    colours = {arm: style.colour.lower() for arm, style in arm_styles(techniques.view, techniques.records).items()}
    bars = draw("cost", techniques).axes[0].patches
    assert [to_hex(bar.get_facecolor()) for bar in bars] == list(colours.values())
    lines = [line for ax in draw("history", techniques).axes for line in ax.lines]
    drawn = {line.get_label(): to_hex(line.get_color()) for line in lines}
    assert drawn == {arm.label: colours[name] for name, arm in TECHNIQUES.items()}


def test_history_has_panel_per_unit_and_line_per_arm(techniques):
    epochs, rounds = draw("history", techniques).axes
    assert (epochs.get_xlabel(), rounds.get_xlabel()) == ("Epoch", "Round")
    assert [line.get_label() for line in epochs.lines] == ["Centralized", "Centralized + DP", "Local, 8 clients"]
    assert [line.get_label() for line in rounds.lines] == ["FL", "FL + DP", "FL + HE", "FL + DP + HE"]
    assert "95 % t-interval" in epochs.get_legend().get_title().get_text()


def test_history_shows_every_mean(techniques):
    ax = draw("history", techniques).axes[0]
    means = 100 * techniques.history.groupby(["arm", "step"])["accuracy"].mean()
    low, high = ax.get_ylim()
    assert low <= means.min() and means.max() < high < 100


def test_curve_has_interval_of_its_seeds():
    values = [0.90, 0.92, 0.95]
    steps = pd.DataFrame({"seed": [0, 1, 2], "step": 1, "accuracy": values})
    point = curve(steps, "accuracy").iloc[0]
    expected = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert (point["low"], point["high"]) == pytest.approx((100 * expected[0], 100 * min(1, expected[1])))
    two = curve(steps[:2], "accuracy").iloc[0]
    assert (two["low"], two["mean"], two["high"]) == pytest.approx((90, 91, 92))
    one = curve(steps[:1], "accuracy", images=2000).iloc[0]
    assert (one["low"], one["high"]) == pytest.approx(tuple(100 * end for end in wilson_interval(0.9, 2000)))
    assert curve(steps[:1], "accuracy").iloc[0]["low"] == 90


@pytest.mark.parametrize(
    ("kind", "seeds", "band"), [("history", 1, "Wilson"), ("history", 2, "lowest"), ("loss", 1, "no band")]
)
def test_legend_names_band(kind, seeds, band):
    title = draw(kind, collect(TECHNIQUES, seeds=seeds)).axes[0].get_legend().get_title().get_text()
    assert band in title


def test_training_loss_is_shown_only_without_privacy(techniques):
    private = techniques.history["arm"].isin(["dp", "fl_dp", "fl_dp_he"])
    techniques.history["train_loss"] = techniques.history["train_loss"].mask(private)
    epochs, rounds = draw("loss", techniques).axes
    assert epochs.get_yscale() == "log"
    assert (len(epochs.lines), len(rounds.lines)) == (3 + 2, 4 + 2)
    techniques.history["train_loss"] = np.nan
    assert len(draw("loss", techniques).axes[0].lines) == 3


def test_privacy_utility_shows_our_and_published_numbers(techniques, published):
    figure = draw("privacy_utility", techniques, published)
    shown = texts(figure)
    assert "PRIVATE-AI: 81.5 %" in shown and "PRIVATE-AI: 92.0 %" in shown
    means = techniques.records.groupby("arm")["accuracy_all"].mean()
    assert f"Centralized: {100 * means['centralized']:.2f} %" in shown
    low, high = figure.axes[0].get_ylim()
    assert low < 81.5 and high > 100 * means.max()


def test_family_of_privacy_utility_differs_in_epsilon_only():
    heading, *names = legend(draw("privacy_utility", collect(sweep())))
    assert heading == "Ours, 10,000 training images"
    assert names == ["Centralized + DP", "Federated + DP, plaintext", "Federated + DP, CKKS"]
    arms = {name: TECHNIQUES[name] for name in ("dp", "fl_dp")}
    arms["dp_1"] = dataclasses.replace(arms["dp"], label="ML + DP, 1", epsilon=1)
    arms["paper"] = dataclasses.replace(arms["dp"], label="As in the paper", epsilon=0.5, max_grad_norm=1)
    names = legend(draw("privacy_utility", collect(arms)))[1:]
    assert names == ["As in the paper", "Centralized + DP, clipping norm 0.1", "FL + DP"]


def test_axis_names_held_out_images(techniques, published):
    techniques.records["evaluated_on"] = "holdout"
    label = draw("privacy_utility", techniques, published).axes[0].get_ylabel()
    assert "10,000 held-out training images" in label


def test_accuracy_of_one_is_finite_on_the_axis():
    collected = collect({"dp": TECHNIQUES["dp"]})
    collected.records["accuracy_all"] = 1.0
    ax = draw("privacy_utility", collected).axes[0]
    assert np.isfinite(ax.transData.transform((1, 100.0))).all()


def test_comparison_may_name_arm_of_other_figure(published):
    shown = texts(draw("privacy_utility", collect({"dp": TECHNIQUES["dp"]}, compare=COMPARE), published))
    assert "PRIVATE-AI: 92.0 %" in shown and "PRIVATE-AI: 81.5 %" not in shown


def test_published_rows_without_arm_are_points(techniques, published):
    rows = ("dpsur/1", "dpsur/3", "tramer-boneh/3/scatternet")
    techniques.view = techniques.view.model_copy(update={"published": rows, "compare": ()})
    figure = draw("privacy_utility", techniques, published)
    assert "Published, 60,000 training images" in legend(figure)
    lines = [line for line in figure.axes[0].lines if line.get_markerfacecolor() == "white" and len(line.get_xdata())]
    assert {tuple(np.round(line.get_xydata()[0], 9)) for line in lines} == {(1.0, 97.93), (3.0, 98.88), (3.0, 98.7)}


@pytest.mark.parametrize(
    ("kind", "arm", "reason"),
    [("privacy_utility", "fl", "epsilon"), ("epsilon", "fl", "privacy"), ("labels", "dp", "clients")],
)
def test_figure_without_suitable_arm_is_refused(kind, arm, reason):
    with pytest.raises(UserError, match=f"none of the arms {arm} has .*{reason}"):
        draw(kind, collect({arm: TECHNIQUES[arm]}))


def test_cost_shows_means(techniques):
    panels = {heading: values for (heading, _), values in cost_panels(techniques.view, techniques.costs).items()}
    seconds = techniques.costs.groupby("arm")["cpu_seconds"].mean()
    assert panels["CPU time"]["mean"].to_dict() == pytest.approx(seconds.to_dict())
    assert panels["Upload"]["mean"]["fl_he"] == pytest.approx(1130)
    shown = texts(draw("cost", techniques))
    assert f"{seconds['fl_dp']:.0f}" in shown and "1,130" in shown
    assert shown.count("nothing sent") == 3


def test_cost_is_logarithmic_for_large_ratio():
    arms = TECHNIQUES | {"fl_he": dataclasses.replace(TECHNIQUES["fl_he"], upload=30_000_000)}
    time, _, upload = draw("cost", collect(arms)).axes
    assert (time.get_xscale(), upload.get_xscale()) == ("linear", "log")


def test_cost_omits_upload_without_federation():
    figure = draw("cost", collect({"dp": TECHNIQUES["dp"]}, seeds=1))
    assert [ax.get_title() for ax in figure.axes] == ["CPU time", "Peak memory"]


def test_curve_of_epsilon_ends_at_stated_epsilon(techniques):
    figure = draw("epsilon", techniques)
    private = ("dp", "fl_dp", "fl_dp_he")
    assert legend(figure) == [f"{TECHNIQUES[arm].label} (2.90)" for arm in private]
    for line, arm in zip(figure.axes[0].lines, private, strict=True):
        assert line.get_ydata()[-1] == techniques.records["epsilon"][techniques.records["arm"] == arm].max()
        assert list(line.get_ydata()) == sorted(line.get_ydata())
        assert line.get_xdata()[-1] == pytest.approx(400 * 0.0256)


def test_epsilon_shows_budget_and_refused_step():
    figure = draw("epsilon", collect({"dp": dataclasses.replace(TECHNIQUES["dp"], epsilon=0.99, budget=1.0)}))
    assert "budget 1" in texts(figure)
    assert any("step 401 of 640 refused" in text for text in texts(figure))
    assert figure.axes[0].get_xlim()[1] >= 640 * 0.0256


@pytest.mark.parametrize("classes", [2, 10, 26])
def test_labels_show_every_class_of_the_data(classes):
    collected = collect({"fl": TECHNIQUES["fl"]}, classes=classes)
    counts = label_counts(collected.view, collected.records, collected.clients)["iid-8"]
    assert list(counts.columns) == [f"label_{label}" for label in range(classes)]
    figure = draw("labels", collected)
    assert legend(figure) == [str(label) for label in range(classes)]
    lengths = np.array([bar.get_width() for bar in figure.axes[0].patches]).reshape(classes, 8)
    assert lengths.sum(axis=0) == pytest.approx(np.full(8, 1250))
    assert len(set(label_palette(classes))) == classes
    assert to_png(figure)


def test_labels_must_add_up_to_examples(techniques):
    techniques.clients["label_3"] += 1
    with pytest.raises(UserError, match="labels of client 0 do not add up"):
        label_counts(techniques.view, techniques.records, techniques.clients)


def test_missing_label_of_an_arm_counts_as_zero(techniques):
    # As pandas fills the labels that the data of an arm do not have.
    techniques.clients["label_10"] = float("nan")
    counts = label_counts(techniques.view, techniques.records, techniques.clients)
    assert all((table["label_10"] == 0).all() for table in counts.values())


def test_labels_have_panel_per_partition():
    names = ("iid-8", "shards-8", "d-8")
    arms = {f"fl-{name}": dataclasses.replace(TECHNIQUES["fl"], partition=name) for name in names}
    titles = [ax.get_title() for ax in draw("labels", collect(arms)).axes]
    assert titles == [f"{name}: 8 clients" for name in names]


def test_dodge_keeps_order_and_distance():
    positions = [1.0, 1.2, 1.1, 9.0, 1.3]
    moved = dodge(positions, 2.0)
    assert np.diff(sorted(moved)).min() >= 2.0 - 1e-9
    assert np.argsort(moved).tolist() == np.argsort(positions).tolist()
    assert sum(moved) == pytest.approx(sum(positions))


def test_size_has_line_per_privacy_level():
    arms = {
        "small_1": MadeUpArm("Small", 0.88, epsilon=1.0),
        "large_1": MadeUpArm("Large", 0.62, epsilon=0.98, model="resnet18"),
        "large_none": MadeUpArm("Large", 0.98, model="resnet18"),
        "small_none": MadeUpArm("Small", 0.98),
        "small_10": MadeUpArm("Small", 0.96, epsilon=10.0),
    }
    collected = collect(arms)
    collected.records["parameters"] = collected.records["model"].map({"tanh_cnn": 26_106, "resnet18": 11_175_370})
    small, large = ("small CNN", 26_106), ("ResNet18", 11_175_370)
    levels = privacy_levels(arm_results(collected.view, collected.records))
    shown = [[(model_name(one.first["model"]), one.first["parameters"]) for one in level] for level in levels]
    assert shown == [[small, large], [small], [small, large]]
    entries = draw("size", collected).axes[0].get_legend().get_texts()
    assert [text.get_text() for text in entries] == ["ε 1.00", "ε 10.0", "no privacy"]


@pytest.mark.parametrize("size", [26_106, 10_010, 650])
def test_models_of_one_size_are_within_the_axis(size):
    collected = collect({"private": MadeUpArm("Private", 0.88, epsilon=1.0), "open": MadeUpArm("Open", 0.98)})
    collected.records["parameters"] = size
    low, high = draw("size", collected).axes[0].get_xlim()
    assert low < 0.9 * size and 1.1 * size < high
