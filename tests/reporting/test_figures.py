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
from ppml.reporting.families import families
from ppml.reporting.figure_cost import cost_panels
from ppml.reporting.figure_history import curve
from ppml.reporting.figure_labels import label_counts, label_palette
from ppml.reporting.figure_size import privacy_levels
from ppml.reporting.formatting import model_name
from ppml.reporting.registry import figures
from ppml.reporting.statistics import wilson_interval
from ppml.reporting.style import dodge, to_png, to_svg
from ppml.reporting.summaries import arm_results
from ppml.reporting.technique_style import published_style, styles_of

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
    fallback = collect(digits, fallback=True)
    assert "FALLBACK DATA: scikit-learn digits" in draw(kind, fallback).get_suptitle()
    # A configuration may name the digits.
    assert "FALLBACK" not in draw(kind, collect(digits)).get_suptitle()


def sweep():
    """Return sixteen arms of four families."""
    arms = {"centralized": MadeUpArm("ML", 0.98)}
    for epsilon in (0.5, 1, 2, 5, 10):
        arms[f"dp-{epsilon}"] = MadeUpArm(f"ML + DP, ε {epsilon}", 0.9, epsilon=epsilon)
        for aggregation in ("plaintext", "ckks"):
            name = f"fl-{aggregation}-{epsilon}"
            arms[name] = MadeUpArm(name, 0.8, "federated", epsilon, aggregation, 8, "iid-8", upload=10_000)
    return arms


def styles(collected):
    """Return the style of each arm."""
    return styles_of(collected.records)


def own_lines(ax):
    """Return the lines of a panel with a marker of a technique."""
    return [line for line in ax.lines if line.get_gid() is None and line.get_marker() not in ("None", "")]


def test_technique_has_one_style_in_every_figure(techniques, published):
    wanted = styles(techniques)
    bars = draw("cost", techniques).axes[0].patches
    assert [to_hex(bar.get_facecolor()) for bar in bars] == [style.colour.lower() for style in wanted.values()]
    for kind in ("history", "loss"):
        for ax, style in zip(draw(kind, techniques).axes, wanted.values(), strict=True):
            seen = [(line.get_color(), line.get_marker()) for line in own_lines(ax)]
            assert seen == [(style.colour, style.marker)]
    private = {(wanted[arm].colour, wanted[arm].marker) for arm in ("dp", "fl_dp", "fl_dp_he")}
    for kind in ("epsilon", "privacy_utility"):
        drawn = {
            (line.get_color(), line.get_marker())
            for ax in draw(kind, techniques, published).axes
            for line in own_lines(ax)
        }
        assert {look for look in drawn if look[1] in {marker for _, marker in private}} == private


def test_history_has_panel_per_arm(techniques):
    axes = draw("history", techniques).axes
    assert [ax.get_title(loc="left") for ax in axes] == [arm.label for arm in TECHNIQUES.values()]
    means = 100 * techniques.history.groupby(["arm", "step"])["accuracy"].mean()
    for ax, arm in zip(axes, TECHNIQUES, strict=True):
        assert ax.get_xlabel() == ("Round" if arm.startswith("fl") else "Epoch")
        (line,) = own_lines(ax)
        assert list(line.get_ydata()) == pytest.approx(means[arm].tolist())
        others = 3 if arm.startswith("fl") else 2
        assert sum(line.get_gid() == "other" for line in ax.lines) == others
    assert f"{means['fl'].iloc[-1]:.2f} %" in texts(axes[3])


def test_history_shows_every_mean(techniques):
    ax = draw("history", techniques).axes[0]
    means = 100 * techniques.history.groupby(["arm", "step"])["accuracy"].mean()
    low, high = ax.get_ylim()
    assert low <= means.min() and means.max() < high < 100


def spread(collected, arm, values):
    """Give the seeds of an arm these accuracies."""
    collected.records.loc[collected.records["arm"] == arm, "accuracy_all"] = values


@pytest.mark.parametrize("kind", ["privacy_utility", "size"])
def test_interval_cannot_stretch_the_axis(kind):
    narrow, wide = (collect({name: TECHNIQUES[name] for name in ("centralized", "dp")}) for _ in range(2))
    for arm, mean in (("centralized", 0.98), ("dp", 0.95)):
        spread(narrow, arm, [mean - 0.001, mean, mean + 0.001])
        spread(wide, arm, [mean - 0.001, mean, mean + 0.001])
    spread(wide, "dp", [0.90, 0.95, 0.99])
    before, after = draw(kind, narrow).axes[0], draw(kind, wide).axes[0]
    assert after.get_ylim()[0] > 85 and not [line for line in before.lines if line.get_gid() == "cut"]
    (cut,) = [line for line in after.lines if line.get_gid() == "cut" and line.get_marker() == "v"]
    assert cut.get_color() == styles(wide)["dp"].colour


def test_long_whisker_is_cut(techniques):
    techniques.costs.loc[techniques.costs["arm"] == "dp", "cpu_seconds"] = [1, 48, 900]
    ax = draw("cost", techniques).axes[0]
    means = techniques.costs.groupby("arm")["cpu_seconds"].mean()
    assert ax.get_xlim()[1] < 2 * means.max()
    assert [list(line.get_ydata()) for line in ax.lines if line.get_gid() == "cut"] == [[1]]


def test_two_seeds_have_their_range(published):
    collected = collect({name: TECHNIQUES[name] for name in ("centralized", "dp")}, seeds=2)
    spread(collected, "dp", [0.94, 0.96])
    figure = draw("privacy_utility", collected)
    bars = [bar for bar in figure.axes[0].containers if bar.lines[0].get_marker() == styles(collected)["dp"].marker]
    (segment,) = bars[0].lines[2][0].get_segments()
    assert segment[:, 1] == pytest.approx([94, 96])
    assert any("lowest to highest" in " ".join(text.split()) for text in texts(figure))
    assert not any("Student" in text for text in texts(figure))


def test_curve_has_interval_of_its_seeds():
    values = [0.90, 0.92, 0.95]
    steps = pd.DataFrame({"seed": [0, 1, 2], "step": 1, "accuracy": values})
    point = curve(steps, "accuracy", images=2000).iloc[0]
    expected = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert (point["low"], point["high"]) == pytest.approx((100 * expected[0], 100 * min(1, expected[1])))
    two = curve(steps[:2], "accuracy", images=2000).iloc[0]
    assert (two["low"], two["mean"], two["high"]) == pytest.approx((90, 91, 92))
    one = curve(steps[:1], "accuracy", images=2000).iloc[0]
    assert (one["low"], one["high"]) == pytest.approx(tuple(100 * end for end in wilson_interval(0.9, 2000)))
    assert curve(steps[:1], "accuracy").iloc[0]["low"] == 90


@pytest.mark.parametrize(
    ("kind", "seeds", "band"), [("history", 1, "Wilson"), ("history", 2, "lowest"), ("loss", 1, "no band")]
)
def test_note_names_band(kind, seeds, band):
    assert any(band in text for text in texts(draw(kind, collect(TECHNIQUES, seeds=seeds))))


def test_training_loss_is_shown_only_without_privacy(techniques):
    private = techniques.history["arm"].isin(["dp", "fl_dp", "fl_dp_he"])
    techniques.history["train_loss"] = techniques.history["train_loss"].mask(private)

    def dotted(figure):
        return [
            sum(line.get_linestyle() == ":" or line.get_linewidth() == 0.9 for line in ax.lines) for ax in figure.axes
        ]

    figure = draw("loss", techniques)
    assert figure.axes[0].get_yscale() == "log"
    assert dotted(figure) == [1, 0, 1, 1, 0, 1, 0]
    techniques.history["train_loss"] = np.nan
    assert sum(dotted(draw("loss", techniques))) == 0


def test_privacy_utility_shows_our_and_published_numbers(techniques, published):
    figure = draw("privacy_utility", techniques, published)
    shown = texts(figure)
    assert "PRIVATE-AI: 81.5 %" in shown and "PRIVATE-AI: 92.0 %" in shown
    means = techniques.records.groupby("arm")["accuracy_all"].mean()
    assert f"Centralized: {100 * means['centralized']:.2f} %" in [text.replace("\n", " ") for text in shown]
    low, high = figure.axes[0].get_ylim()
    assert low < 81.5 and high > 100 * means.max()


def points(figure, style):
    """Return the positions of the points of a style, without those of its lines."""
    found = [
        line for line in figure.axes[0].lines if (line.get_color(), line.get_marker()) == (style.colour, style.marker)
    ]
    return sorted((float(x), float(y)) for line in found for x, y in zip(*line.get_data(), strict=True))


def test_every_point_is_at_its_epsilon_and_accuracy(published):
    collected = collect(sweep() | TECHNIQUES, compare=COMPARE)
    figure = draw("privacy_utility", collected, published)
    grouped = collected.records[collected.records["epsilon"].notna()].groupby("arm")
    expected = {}
    for arm, rows in grouped:
        expected.setdefault(styles(collected)[arm], []).append(
            (rows["epsilon"].max(), 100 * rows["accuracy_all"].mean())
        )
    for style, places in expected.items():
        assert np.array(points(figure, style)) == pytest.approx(np.array(sorted(places)))
    for line in figure.axes[0].lines:
        assert line.get_transform() == figure.axes[0].transData or line.get_gid() == "cut" or len(line.get_xdata()) == 2
    stars = [line.get_xydata()[0].tolist() for line in figure.axes[0].lines if line.get_marker() == "*"]
    assert sorted(stars) == [pytest.approx([0.563, 92.0]), pytest.approx([2.9, 81.5])]


def test_points_at_one_place_are_all_visible(techniques, published):
    figure = draw("privacy_utility", techniques, published)
    wanted = styles(techniques)
    faces = {}
    for arm in ("fl_dp", "fl_dp_he"):
        (line,) = [line for line in figure.axes[0].lines if line.get_marker() == wanted[arm].marker]
        faces[arm] = line.get_markerfacecolor(), line.get_markersize()
    assert faces["fl_dp"][0] != "none" and faces["fl_dp_he"][0] == "none"
    assert faces["fl_dp_he"][1] > faces["fl_dp"][1]


def test_line_of_privacy_utility_joins_a_family():
    figure = draw("privacy_utility", collect(sweep()))
    joined = [list(line.get_xdata()) for line in figure.axes[0].lines if line.get_gid() == "family"]
    assert joined == [[0.5, 1, 2, 5, 10]] * 3
    names = [text.replace("\n", " ") for text in texts(figure)]
    assert {"ML + DP", "FL + DP", "FL + DP + HE"} <= set(names)


def test_family_has_one_recipe():
    arms = {name: TECHNIQUES[name] for name in ("dp", "fl_dp")}
    arms["dp_1"] = dataclasses.replace(arms["dp"], label="ML + DP, ε 1", epsilon=1)
    arms["paper"] = dataclasses.replace(arms["dp"], label="ML + DP, ε 0.5", epsilon=0.5, max_grad_norm=1)
    collected = collect(arms)
    found = {family.name: len(family.members) for family in families(arm_results(collected.view, collected.records))}
    assert found == {"ML + DP, clipping norm 0.1": 2, "FL + DP": 1, "ML + DP, clipping norm 1": 1}


def test_features_by_other_settings_make_another_family():
    base = dataclasses.replace(TECHNIQUES["dp"], model="linear", transforms="patches")
    arms = {
        "patches": dataclasses.replace(base, label="Patches + ML + DP, ε 3", epsilon=3),
        "patches_1": dataclasses.replace(base, label="Patches + ML + DP, ε 1", epsilon=1),
        "mirror": dataclasses.replace(
            base, label="Patches + ML + DP, ε 3, mirrored", transforms="patches(mirror=True)"
        ),
        "scatter": dataclasses.replace(base, label="Scattering + ML + DP, ε 3", transforms="scattering"),
    }
    collected = collect(arms)
    found = families(arm_results(collected.view, collected.records))
    sizes = {family.name: len(family.members) for family in found}
    assert sizes == {"Patches + ML + DP": 2, "Patches + ML + DP, mirrored": 1, "Scattering + ML + DP": 1}
    markers = [family.style.marker for family in found]
    assert markers[0] == markers[1] != markers[2]


def test_title_states_the_cost_of_privacy(techniques, published):
    spread(techniques, "centralized", 0.99)
    spread(techniques, "dp", 0.95)
    assert "ε 2.9 costs 4.0 points" in draw("privacy_utility", techniques, published).get_suptitle()
    spread(techniques, "dp", 0.9896)
    assert "costs less than 0.1 points" in draw("privacy_utility", techniques, published).get_suptitle()
    spread(techniques, "dp", 0.995)
    assert "costs no accuracy" in draw("privacy_utility", techniques, published).get_suptitle()


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
    entries = " ".join(legend(figure))
    assert "60,000 training images, ε disputed" in entries and "DPSUR 97.9, 98.9" in entries
    shown = {"Fu et al. 2024": {(1.0, 97.93), (3.0, 98.88)}, "Tramèr & Boneh 2021": {(3.0, 98.7)}}
    for paper, places in shown.items():
        lines = [line for line in figure.axes[0].lines if line.get_marker() == published_style(paper).marker]
        assert {tuple(np.round(line.get_xydata()[0], 9)) for line in lines} == places
        assert all(line.get_markerfacecolor() == "none" for line in lines)


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
    time, upload = draw("cost", collect(arms)).axes
    assert (time.get_xscale(), upload.get_xscale()) == ("linear", "log")


def test_cost_omits_upload_without_federation():
    figure = draw("cost", collect({"dp": TECHNIQUES["dp"]}, seeds=1))
    assert [ax.get_title() for ax in figure.axes] == ["CPU time"]


def test_curve_of_epsilon_ends_at_stated_epsilon(techniques):
    axes = draw("epsilon", techniques).axes
    private = ("dp", "fl_dp", "fl_dp_he")
    assert [ax.get_title(loc="left") for ax in axes] == [TECHNIQUES[arm].label for arm in private]
    for ax, arm in zip(axes, private, strict=True):
        (line,) = own_lines(ax)
        assert line.get_ydata()[-1] == techniques.records["epsilon"][techniques.records["arm"] == arm].max()
        assert list(line.get_ydata()) == sorted(line.get_ydata())
        assert line.get_xdata()[-1] == pytest.approx(400 * 0.0256)
        assert "2.9" in texts(ax)


def test_epsilon_has_panel_per_family():
    axes = draw("epsilon", collect(sweep(), seeds=1)).axes
    assert [ax.get_title(loc="left") for ax in axes] == ["ML + DP", "FL + DP", "FL + DP + HE"]
    assert [len(own_lines(ax)) for ax in axes] == [5, 5, 5]


def test_epsilon_shows_budget_and_refused_step():
    figure = draw("epsilon", collect({"dp": dataclasses.replace(TECHNIQUES["dp"], epsilon=0.99, budget=1.0)}))
    assert "budget 1" in texts(figure)
    assert any("step 401 of 640 refused" in text for text in texts(figure))
    assert figure.axes[0].get_xlim()[1] >= 640 * 0.0256


@pytest.mark.parametrize("classes", [2, 10, 26])
def test_labels_show_every_class_of_the_data(classes):
    collected = collect({"fl": TECHNIQUES["fl"]}, classes=classes)
    counts = label_counts(collected.view, collected.records, collected.clients, collected.classes)["iid-8"]
    assert list(counts.columns) == [f"class {label}" for label in range(classes)]
    figure = draw("labels", collected)
    assert legend(figure) == [f"class {label}" for label in range(classes)]
    lengths = np.array([bar.get_width() for bar in figure.axes[0].patches]).reshape(classes, 8)
    assert lengths.sum(axis=0) == pytest.approx(np.full(8, 1250))
    assert len(set(label_palette(classes))) == classes
    assert to_png(figure)


def test_labels_must_add_up_to_examples(techniques):
    techniques.clients["label_3"] += 1
    with pytest.raises(UserError, match="labels of client 0 do not add up"):
        label_counts(techniques.view, techniques.records, techniques.clients, techniques.classes)


def test_missing_label_of_an_arm_counts_as_zero(techniques):
    # As pandas fills the labels that the data of an arm do not have.
    techniques.clients["label_10"] = float("nan")
    more = [{**row, "class": "class 10"} for row in techniques.classes.to_dict("records") if row["class"] == "class 9"]
    techniques.classes = pd.concat([techniques.classes, pd.DataFrame(more)])
    counts = label_counts(techniques.view, techniques.records, techniques.clients, techniques.classes)
    assert all((table["class 10"] == 0).all() for table in counts.values())


def test_labels_have_panel_per_partition_in_words():
    names = {"iid-8": "IID", "shards-8-2": "2 shards each", "dirichlet-8-0.5": "Dirichlet(0.5)"}
    arms = {f"fl-{name}": dataclasses.replace(TECHNIQUES["fl"], partition=name) for name in names}
    titles = [ax.get_title() for ax in draw("labels", collect(arms)).axes]
    assert titles == [f"8 clients, {words}" for words in names.values()]


def test_dodge_keeps_order_and_distance():
    positions, sizes = [1.0, 1.2, 1.1, 9.0, 1.3], [2.0, 4.0, 2.0, 2.0, 2.0]
    moved = dodge(positions, sizes)
    order = np.argsort(positions)
    assert np.argsort(moved).tolist() == order.tolist()
    gaps = np.diff(np.array(moved)[order])
    assert (gaps >= (np.array(sizes)[order][1:] + np.array(sizes)[order][:-1]) / 2 - 1e-9).all()


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
    shown = texts(draw("size", collected))
    assert {"ε 1", "ε 10", "no privacy"} <= set(shown)


def test_size_does_not_join_pixels_and_features():
    arms = {"features": MadeUpArm("Scattering + ML", 0.99, model="linear"), "pixels": MadeUpArm("ML", 0.98)}
    arms["large"] = MadeUpArm("ResNet18 + ML", 0.97, model="resnet18")
    collected = collect(arms)
    collected.records["parameters"] = collected.records["model"].map({"linear": 10, "tanh_cnn": 100, "resnet18": 1000})
    lines = [line for line in draw("size", collected).axes[0].lines if line.get_color() == "#999999"]
    assert [list(line.get_xdata()) for line in lines] == [[100, 1000]]


@pytest.mark.parametrize("size", [26_106, 10_010, 650])
def test_models_of_one_size_are_within_the_axis(size):
    collected = collect({"private": MadeUpArm("Private", 0.88, epsilon=1.0), "open": MadeUpArm("Open", 0.98)})
    collected.records["parameters"] = size
    low, high = draw("size", collected).axes[0].get_xlim()
    assert low < 0.9 * size and 1.1 * size < high
