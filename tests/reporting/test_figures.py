import colorsys
import dataclasses
from itertools import pairwise

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.text import Text
from scipy import stats

from ppml.errors import UserError
from ppml.reporting import figure_epsilon
from ppml.reporting.figure_audit import audit
from ppml.reporting.figure_client_epsilon import client_epsilon
from ppml.reporting.figure_cost import cost, cost_panels
from ppml.reporting.figure_history import curve, history, loss
from ppml.reporting.figure_labels import label_counts, labels
from ppml.reporting.figure_privacy_utility import privacy_utility
from ppml.reporting.figure_size import privacy_levels, size
from ppml.reporting.literature import load_published
from ppml.reporting.statistics import wilson_interval
from ppml.reporting.style import arm_styles, spread_out, to_png, to_svg

from .made_up import COMPARE, TECHNIQUES, MadeUpArm, collect


def draw(kind, collected, published_path):
    selection, records = collected.selection, collected.records
    if kind == "history":
        return history(selection, records, collected.history)
    if kind == "loss":
        return loss(selection, records, collected.history)
    if kind == "size":
        return size(selection, records)
    if kind == "privacy_utility":
        return privacy_utility(selection, records, load_published(published_path))
    if kind == "cost":
        return cost(selection, records, collected.costs)
    if kind == "epsilon":
        return figure_epsilon.epsilon(selection, records, collected.epsilons)
    if kind == "client_epsilon":
        return client_epsilon(selection, records, collected.clients)
    if kind == "audit":
        return audit(selection, records, collected.audits)
    return labels(selection, records, collected.clients)


KINDS = ("history", "loss", "privacy_utility", "size", "cost", "labels", "epsilon", "client_epsilon", "audit")


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text)]


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_are_the_same_on_every_call(kind, techniques, published_path):
    first, again = (draw(kind, techniques, published_path) for _ in range(2))
    svg, png = to_svg(first), to_png(first)
    assert svg == to_svg(again) and png == to_png(again)
    assert b"<dc:date>" not in svg and b"Matplotlib" not in svg
    assert b"tEXt" not in png and b"<text" not in svg


@pytest.mark.parametrize("kind", KINDS)
def test_fallback_data_is_named_in_the_title(kind, published_path):
    digits = {name: dataclasses.replace(arm, dataset="digits") for name, arm in TECHNIQUES.items()}
    assert "FALLBACK DATA: scikit-learn digits" in draw(kind, collect(digits), published_path).get_suptitle()
    assert "FALLBACK" not in draw(kind, collect(TECHNIQUES), published_path).get_suptitle()


def sweep():
    """Sixteen arms of four families."""
    arms = {"centralized": MadeUpArm("Centralized", 0.98)}
    for epsilon in (0.5, 1, 2, 5, 10):
        arms[f"dp-{epsilon}"] = MadeUpArm(f"Centralized + DP, {epsilon}", 0.9, epsilon=epsilon)
        for aggregation in ("plaintext", "ckks"):
            name = f"fl-{aggregation}-{epsilon}"
            arms[name] = MadeUpArm(name, 0.8, "federated", epsilon, aggregation, 8, "iid-8", upload=10_000)
    return arms


def test_every_arm_looks_different():
    collected = collect(sweep(), seeds=1)
    styles = arm_styles(collected.selection, collected.records)
    assert len(styles) == 16
    assert len({style.colour for style in styles.values()}) == 16
    assert len({style.family for style in styles.values()}) == 4


def test_an_arm_has_one_colour_in_every_figure(techniques, published_path):
    colours = {arm: style.colour.lower() for arm, style in arm_styles(techniques.selection, techniques.records).items()}
    panel = draw("cost", techniques, published_path).axes[0]
    assert [to_hex(bar.get_facecolor()) for bar in panel.patches] == list(colours.values())
    drawn = {line.get_label(): to_hex(line.get_color()) for ax in draw("history", techniques, published_path).axes
             for line in ax.lines}  # fmt: skip
    assert drawn == {arm.label: colours[name] for name, arm in TECHNIQUES.items()}


def test_history_has_a_panel_a_unit_and_a_line_an_arm(techniques):
    epochs, rounds = history(techniques.selection, techniques.records, techniques.history).axes
    assert (epochs.get_xlabel(), rounds.get_xlabel()) == ("Epoch", "Round")
    assert [line.get_label() for line in epochs.lines] == ["Centralized", "Centralized + DP", "Local, 8 clients"]
    assert (epochs.get_title(), rounds.get_title()) == ("Centralized and local training", "Federated training")
    assert [line.get_label() for line in rounds.lines] == ["FL", "FL + DP", "FL + HE", "FL + DP + HE"]
    assert "95 % t-interval" in epochs.get_legend().get_title().get_text()


def test_a_history_shows_every_step_and_differences_near_the_end(techniques):
    ax = history(techniques.selection, techniques.records, techniques.history).axes[0]
    assert ax.get_ylabel() == "Accuracy (%), logarithmic in the error"
    means = 100 * techniques.history.groupby(["arm", "step"])["accuracy"].mean()
    low, high = ax.get_ylim()
    assert low <= means.min() and means.max() < high < 100
    # Half the error is the same distance everywhere.
    heights = ax.transData.transform([(0, value) for value in (60, 80, 90, 95)])[:, 1]
    assert np.allclose(np.diff(heights), heights[1] - heights[0])


def test_curve_has_the_t_interval_of_three_seeds_and_the_range_of_two():
    values = [0.90, 0.92, 0.95]
    steps = pd.DataFrame({"seed": [0, 1, 2], "step": 1, "accuracy": values})
    point = curve(steps).iloc[0]
    expected = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert (point["low"], point["high"]) == pytest.approx((100 * expected[0], 100 * min(1, expected[1])))
    two = curve(steps[:2]).iloc[0]
    assert (two["low"], two["mean"], two["high"]) == pytest.approx((90, 91, 92))
    one = curve(steps[:1], images=2000).iloc[0]
    assert (one["low"], one["high"]) == pytest.approx(tuple(100 * end for end in wilson_interval(0.9, 2000)))
    assert curve(steps[:1]).iloc[0]["low"] == 90


def test_bands_are_named_for_the_seeds_there_are(published_path):
    for seeds, said in (
        (1, "One seed; band: 95 % interval over the images (Wilson)"),
        (2, "lowest to highest"),
        (3, "95 % t-interval"),
    ):
        figure = draw("history", collect(TECHNIQUES, seeds=seeds), published_path)
        assert said in figure.axes[0].get_legend().get_title().get_text()
    figure = draw("loss", collect(TECHNIQUES, seeds=1), published_path)
    assert "One seed, no band. Thin dotted" in figure.axes[0].get_legend().get_title().get_text()


def test_privacy_utility_shows_points_lines_and_published_numbers(techniques, published_path):
    figure = draw("privacy_utility", techniques, published_path)
    ax = figure.axes[0]
    shown = texts(figure)
    assert ax.get_xscale() == "log"
    assert "PRIVATE-AI: 81.5 %" in shown and "PRIVATE-AI: 92.0 %" in shown
    runs = techniques.records.groupby("arm")["accuracy_all"].mean()
    assert f"Centralized: {100 * runs['centralized']:.2f} %" in shown
    low, high = ax.get_ylim()
    assert low < 81.5 and high > 100 * runs.max()
    assert any("Student's t" in text and "same ε" in text for text in shown)


def test_privacy_utility_joins_arms_that_differ_in_epsilon_only(published_path):
    figure = draw("privacy_utility", collect(sweep()), published_path)
    heading, *names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert heading == "Ours, 10,000 training images"
    assert names == ["Centralized + DP", "Federated + DP, plaintext", "Federated + DP, CKKS"]
    assert figure.axes[0].get_ylim()[0] < 80


def test_another_clipping_norm_is_another_line(published_path):
    arms = {name: TECHNIQUES[name] for name in ("dp", "fl_dp")}
    arms["dp_1"] = dataclasses.replace(arms["dp"], label="ML + DP, 1", epsilon=1)
    arms["paper"] = dataclasses.replace(arms["dp"], label="As in the paper", epsilon=0.5, max_grad_norm=1)
    figure = draw("privacy_utility", collect(arms), published_path)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[1:] == ["As in the paper", "Centralized + DP, clipping norm 0.1", "FL + DP"]


def test_accuracy_on_held_out_images_is_not_called_a_test(techniques, published_path):
    techniques.records["evaluated_on"] = "holdout"
    ax = draw("privacy_utility", techniques, published_path).axes[0]
    assert ax.get_ylabel().startswith("Accuracy on all 10,000 held-out training images (%)\n")


def test_labels_of_lines_do_not_overlap():
    arms = {f"a{place}": MadeUpArm(f"Arm {place}", 0.97 + place / 1e5) for place in range(8)}
    collected = collect(arms | {"dp": TECHNIQUES["dp"]})
    figure = privacy_utility(collected.selection, collected.records, {})
    figure.canvas.draw()
    # An annotation's own extent has its leader line in it, too.
    shown = [text for text in figure.axes[0].texts if text.get_text().startswith("Arm")]
    boxes = sorted((Text.get_window_extent(text) for text in shown), key=lambda box: box.y0)
    assert len(boxes) == 8
    assert all(below.y1 <= above.y0 + 1 for below, above in pairwise(boxes))


def test_privacy_utility_needs_an_epsilon(published_path):
    with pytest.raises(UserError, match="none of the arms fl has an epsilon"):
        draw("privacy_utility", collect({"fl": TECHNIQUES["fl"]}), published_path)


def test_cost_writes_the_means(techniques, published_path):
    panels = {panel.heading: panel.values for panel in cost_panels(techniques.selection, techniques.costs)}
    seconds = techniques.costs.groupby("arm")["cpu_seconds"].mean()
    assert panels["CPU time"]["mean"].to_dict() == pytest.approx(seconds.to_dict())
    assert panels["Upload"]["mean"]["fl_he"] == pytest.approx(1130)
    shown = texts(draw("cost", techniques, published_path))
    assert f"{seconds['fl_dp']:.0f}" in shown and "1,130" in shown
    assert shown.count("nothing sent") == 3


def test_cost_is_logarithmic_where_the_spread_is_large(published_path):
    arms = {name: dataclasses.replace(arm) for name, arm in TECHNIQUES.items()}
    arms["fl_he"] = dataclasses.replace(arms["fl_he"], upload=30_000_000)
    time, _, upload = draw("cost", collect(arms), published_path).axes
    assert (time.get_xscale(), upload.get_xscale()) == ("linear", "log")
    assert upload.get_xlabel() == "KB a client and round, log scale"


def test_cost_leaves_the_upload_out_where_nothing_is_sent(published_path):
    figure = draw("cost", collect({"dp": TECHNIQUES["dp"]}, seeds=1), published_path)
    assert [ax.get_title() for ax in figure.axes] == ["CPU time", "Peak memory"]
    assert "One seed, no interval; less is better" in texts(figure)


def test_epsilon_has_a_line_a_private_arm_which_ends_at_the_stated_epsilon(techniques, published_path):
    figure = draw("epsilon", techniques, published_path)
    lines = [line for line in figure.axes[0].lines if not line.get_label().startswith("_")]
    assert [line.get_label() for line in lines] == [
        f"{TECHNIQUES[arm].label} (2.90)" for arm in ("dp", "fl_dp", "fl_dp_he")
    ]
    for line, arm in zip(lines, ("dp", "fl_dp", "fl_dp_he"), strict=True):
        stated = techniques.records["epsilon"][techniques.records["arm"] == arm].max()
        assert line.get_ydata()[-1] == stated
        assert list(line.get_ydata()) == sorted(line.get_ydata())
        assert line.get_xdata()[-1] == pytest.approx(400 * 0.0256)


def test_epsilon_shows_a_budget_and_the_step_that_it_refused(published_path):
    arms = {"dp": dataclasses.replace(TECHNIQUES["dp"], epsilon=0.99, budget=1.0)}
    figure = draw("epsilon", collect(arms), published_path)
    shown = texts(figure)
    assert "budget 1" in shown
    assert any(text.endswith("; step 401 of 640 refused)") for text in shown)
    assert figure.axes[0].get_xlim()[1] >= 640 * 0.0256


def test_epsilon_needs_a_private_arm(published_path):
    with pytest.raises(UserError, match="none of the arms fl has privacy"):
        draw("epsilon", collect({"fl": TECHNIQUES["fl"]}), published_path)


def test_labels_add_up_to_the_records(techniques):
    counts = label_counts(techniques.selection, techniques.records, techniques.clients)
    assert list(counts) == ["iid-8"]
    assert counts["iid-8"].to_numpy().sum() == 8 * 1250
    ax = labels(techniques.selection, techniques.records, techniques.clients).axes[0]
    lengths = np.array([bar.get_width() for bar in ax.patches]).reshape(10, 8)
    assert lengths.sum(axis=0) == pytest.approx(np.full(8, 1250))


def test_labels_that_do_not_add_up_are_refused(techniques):
    techniques.clients["label_3"] += 1
    with pytest.raises(UserError, match="labels of client 0 do not add up"):
        label_counts(techniques.selection, techniques.records, techniques.clients)


def test_labels_that_no_record_has_are_no_error_and_a_label_that_one_arm_alone_has_is_0_elsewhere(techniques):
    few = techniques.clients.drop(columns=["label_8", "label_9"])
    few["label_7"] += techniques.clients["label_8"] + techniques.clients["label_9"]
    counts = label_counts(techniques.selection, techniques.records, few)
    assert all(list(table.columns) == [f"label_{label}" for label in range(8)] for table in counts.values())
    assert len(labels(techniques.selection, techniques.records, few).legends[0].get_texts()) == 8
    # As pandas leaves the labels that the data of an arm lack.
    few["label_10"] = float("nan")
    wider = label_counts(techniques.selection, techniques.records, few)
    assert all((table["label_10"] == 0).all() for table in wider.values())


def test_labels_have_a_panel_a_partition(published_path):
    arms = {
        f"fl-{name}": dataclasses.replace(TECHNIQUES["fl"], partition=name) for name in ("iid-8", "shards-8", "d-8")
    }
    figure = draw("labels", collect(arms), published_path)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["iid-8: 8 clients", "shards-8: 8 clients", "d-8: 8 clients"]


def test_labels_need_clients(published_path):
    with pytest.raises(UserError, match="none of the arms dp has clients"):
        draw("labels", collect({"dp": TECHNIQUES["dp"]}), published_path)


def test_positions_are_spread_without_crossing():
    positions = [1.0, 1.2, 1.1, 9.0, 1.3]
    moved = spread_out(positions, 2.0)
    ordered = sorted(moved)
    assert all(above - below >= 2.0 - 1e-9 for below, above in pairwise(ordered))
    assert np.argsort(moved).tolist() == np.argsort(positions).tolist()
    assert sum(moved) == pytest.approx(sum(positions))


def test_compare_may_name_an_arm_that_is_not_drawn(published_path):
    figure = draw("privacy_utility", collect({"dp": TECHNIQUES["dp"]}, compare=COMPARE), published_path)
    assert "PRIVATE-AI: 92.0 %" in texts(figure) and "PRIVATE-AI: 81.5 %" not in texts(figure)


def test_arms_that_differ_in_privacy_share_a_hue_and_the_darkest_has_none():
    collected = collect(sweep(), seeds=1)
    styles = arm_styles(collected.selection, collected.records)
    hue, level = {}, {}
    for arm, style in styles.items():
        hue[arm], level[arm], _ = colorsys.rgb_to_hls(*to_rgb(style.colour))
    private = [f"dp-{epsilon}" for epsilon in (0.5, 1, 2, 5, 10)]
    assert [hue[arm] for arm in private] == pytest.approx([hue["centralized"]] * 5, abs=0.02)
    levels = [level[arm] for arm in [*private, "centralized"]]
    assert levels == sorted(levels, reverse=True)
    assert abs(hue["fl-plaintext-1"] - hue["dp-1"]) > 0.1


BEYOND = ("dpsur/1", "dpsur/3", "tramer-boneh/3/scatternet")


def test_published_points_that_no_arm_answers_stand_for_themselves(published_path):
    collected = collect(TECHNIQUES)
    selection = collected.selection.model_copy(update={"published": BEYOND})
    figure = privacy_utility(selection, collected.records, load_published(published_path))
    key = [text.get_text() for text in figure.legends[0].get_texts()]
    ours, theirs = key.index("Ours, 10,000 training images"), key.index("Published, 60,000 training images")
    assert key[theirs + 1 : theirs + 3] == [
        "Fu et al. 2024: DPSUR, ε disputed,\narXiv:2311.14056",
        "Tramèr & Boneh 2021: ScatterNet + linear or CNN,\narXiv:2011.11660",
    ]
    assert key[ours + 1] == "Centralized + DP"
    ax = figure.axes[0]
    drawn = [line for line in ax.lines if line.get_markerfacecolor() == "white" and len(line.get_xdata())]
    assert {tuple(np.round(line.get_xydata()[0], 9)) for line in drawn} == {(1.0, 97.93), (3.0, 98.88), (3.0, 98.7)}
    assert ax.get_ylim()[1] > 98.88


def test_eighty_and_ninety_nine_percent_can_both_be_read(published_path):
    figure = draw("privacy_utility", collect(sweep()), published_path)
    figure.canvas.draw()
    ax = figure.axes[0]
    heights = {tick: ax.transAxes.inverted().transform(ax.transData.transform((1, tick)))[1] for tick in (80, 90, 95)}
    assert heights[95] - heights[90] == pytest.approx(heights[90] - heights[80]), "half the error is the same step"
    shown = [tick for tick in ax.get_yticks() if ax.get_ylim()[0] <= tick <= ax.get_ylim()[1]]
    assert len(shown) >= 4 and 90 in shown


def test_an_accuracy_of_one_has_a_place_on_the_axis(published_path):
    collected = collect({"dp": TECHNIQUES["dp"]})
    collected.records["accuracy_all"] = 1.0
    ax = privacy_utility(collected.selection, collected.records, {}).axes[0]
    assert np.isfinite(ax.transData.transform((1, 100.0))).all()


def test_loss_shows_the_training_loss_only_where_it_is_known(techniques):
    private = techniques.history["arm"].isin(["dp", "fl_dp", "fl_dp_he"])
    steps = techniques.history.assign(train_loss=techniques.history["train_loss"].mask(private))
    epochs, rounds = loss(techniques.selection, techniques.records, steps).axes
    assert epochs.get_yscale() == "log"
    # A line an arm, and a thin one for each that is not private.
    assert (len(epochs.lines), len(rounds.lines)) == (3 + 2, 4 + 2)
    untold = steps.assign(train_loss=np.nan)
    ax = loss(techniques.selection, techniques.records, untold).axes[0]
    assert len(ax.lines) == 3 and "Thin" not in ax.get_legend().get_title().get_text()


def test_size_joins_models_at_one_privacy_level():
    arms = {
        "small_1": MadeUpArm("Small", 0.88, epsilon=1.0),
        "large_1": MadeUpArm("Large", 0.62, epsilon=0.98, model="resnet18"),
        "large_none": MadeUpArm("Large", 0.98, model="resnet18"),
        "small_none": MadeUpArm("Small", 0.98),
        "small_10": MadeUpArm("Small", 0.96, epsilon=10.0),
    }
    collected = collect(arms)
    collected.records["parameters"] = collected.records["model"].map({"tanh_cnn": 26_106, "resnet18": 11_175_370})
    levels = privacy_levels(collected.selection, collected.records)
    assert [[(point.model, point.parameters) for point in level] for level in levels] == [
        [("small CNN", 26_106), ("ResNet18", 11_175_370)],
        [("small CNN", 26_106)],
        [("small CNN", 26_106), ("ResNet18", 11_175_370)],
    ]
    figure = size(collected.selection, collected.records)
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["ε 1.00", "ε 10.0", "no privacy"]
    assert "ResNet18\n11,175,370" in texts(figure)
