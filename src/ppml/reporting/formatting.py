"""Numbers and names for readers."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable
from decimal import ROUND_CEILING, Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

DATASETS = {
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "kmnist": "KMNIST",
    "qmnist": "QMNIST",
    "digits": "scikit-learn digits",
    "emnist": "EMNIST",
    "cifar10": "CIFAR-10",
    "cifar10_jpeg": "CIFAR-10 as JPEG (not the published pixels)",
    "pneumoniamnist": "PneumoniaMNIST",
    "bloodmnist": "BloodMNIST",
    "dermamnist": "DermaMNIST",
    "adult": "Adult",
    "breast_cancer": "Breast Cancer Wisconsin",
    "wine": "Wine",
}
NOUNS = {"image": "images", "table": "rows"}
EVALUATED = {"test": "test", "holdout": "held-out training"}
MODELS = {
    "tanh_cnn": "small CNN",
    "resnet18": "ResNet18",
    "logistic": "logistic regression",
    "mlp": "one hidden layer",
    "square_cnn": "square CNN",
    "hist_gradient_boosting": "gradient boosting",
}
AGGREGATIONS = {"ckks": "CKKS", "bfv": "BFV", "secret_sharing": "secret sharing", "masking": "masking"}
EMPTY_CELL = "—"
INFINITE = "∞"


def dataset_name(name: str) -> str:
    """Return the proper name of a data set."""
    return DATASETS.get(name, name)


def distinct(values: Iterable[Any], text: Callable[[Any], str] = str, separator: str = ", ") -> str:
    """Return the texts of different values, in their order.

    Examples
    --------
    >>> distinct([2000, 500, 2000], thousands, " or ")
    '2,000 or 500'
    """
    return separator.join(map(text, dict.fromkeys(values)))


def thousands(count: int) -> str:
    """Return a whole number with commas."""
    return f"{count:,}"


def nouns(records: pd.DataFrame) -> str:
    """Return the names of the examples of some arms: images, rows, or both.

    Examples
    --------
    >>> import pandas as pd
    >>> nouns(pd.DataFrame({"data_kind": ["image", "image", "table"]}))
    'images or rows'
    """
    return distinct(records["data_kind"], lambda kind: NOUNS.get(str(kind), "examples"), " or ")


def evaluated_nouns(records: pd.DataFrame) -> str:
    """Return the names of the evaluated examples of some arms.

    Examples
    --------
    >>> import pandas as pd
    >>> evaluated_nouns(pd.DataFrame({"data_kind": ["table"], "evaluated_on": ["test"]}))
    'test rows'
    """
    parts = distinct(records["evaluated_on"], lambda part: EVALUATED.get(str(part), str(part)), " or ")
    return f"{parts} {nouns(records)}"


def wrapped(label: str, width: int) -> str:
    """Return a label in lines of at most ``width`` characters, without a break between epsilon and its number.

    Examples
    --------
    >>> wrapped("FL + DP, ε 2.9", 10).splitlines()
    ['FL + DP,', 'ε\xa02.9']
    """
    return textwrap.fill(label.replace("ε ", "ε\N{NO-BREAK SPACE}"), width)


def percent(share: float, digits: int = 2) -> str:
    """Return a fraction in percent, without the sign.

    Examples
    --------
    >>> percent(0.97125)
    '97.12'
    """
    return f"{100 * share:.{digits}f}"


def percent_estimate(mean: float, deviation: float, low: float, high: float) -> str:
    """Return ``mean ± standard deviation`` in percent; ``mean [low, high]`` with one seed.

    Examples
    --------
    >>> percent_estimate(0.975, 0.001, 0.97, 0.98)
    '97.50 ± 0.10'
    >>> percent_estimate(0.975, float("nan"), 0.967, 0.981)
    '97.50 [96.70, 98.10]'
    """
    if math.isnan(deviation):
        return f"{percent(mean)} [{percent(low)}, {percent(high)}]"
    return f"{percent(mean)} ± {percent(deviation)}"


def significant(value: float, digits: int = 3) -> str:
    """Return ``value`` with at least ``digits`` significant digits, never with an exponent.

    Examples
    --------
    >>> significant(0.563), significant(2.9), significant(1234.5), significant(0)
    ('0.563', '2.90', '1,234', '0')
    """
    if math.isnan(value):
        return EMPTY_CELL
    if math.isinf(value):
        return INFINITE
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def epsilon_bound(value: float, digits: int = 3) -> str:
    """Return an epsilon with at least ``digits`` significant digits, rounded up, so that it stays a bound.

    Examples
    --------
    >>> epsilon_bound(2.896), epsilon_bound(2.901), epsilon_bound(2.9), epsilon_bound(0.563), epsilon_bound(0)
    ('2.90', '2.91', '2.90', '0.563', '0')
    """
    if not math.isfinite(value) or value == 0:
        return significant(value, digits)
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    # Round the decimal number, not its binary neighbour: 2.9 is not above 2.90.
    up = Decimal(repr(float(value))).quantize(Decimal(1).scaleb(-decimals), ROUND_CEILING)
    return f"{up:,f}"


def epsilon_label(value: float) -> str:
    """Return an epsilon as the labels of arms state it: rounded up, without zeros at the end.

    Examples
    --------
    >>> [epsilon_label(value) for value in (2.896, 0.9999994, 10.0, 0.0, math.inf)]
    ['2.9', '1', '10', '0', '∞']
    """
    text = epsilon_bound(value)
    return text.rstrip("0").rstrip(".") if "." in text else text


def scientific(value: float) -> str:
    """Return a small probability with a short exponent.

    Examples
    --------
    >>> scientific(1e-5), scientific(0.001)
    ('1e-5', '0.001')
    """
    return f"{value:g}".replace("e-0", "e-")


def human_bytes(count: float) -> str:
    """Return a number of bytes with a decimal unit (1 KB = 1,000 bytes).

    Examples
    --------
    >>> human_bytes(512), human_bytes(108_500), human_bytes(2_340_000)
    ('512 B', '108 KB', '2.34 MB')
    """
    if math.isnan(count):
        return EMPTY_CELL
    size, unit = count, "B"
    for larger in ("KB", "MB", "GB", "TB"):
        if size < 999.5:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} B" if unit == "B" else f"{significant(size)} {unit}"


def factor(value: float) -> str:
    """Return a ratio with a multiplication sign."""
    return EMPTY_CELL if math.isnan(value) else f"{significant(value)}\N{MULTIPLICATION SIGN}"


def model_name(name: str) -> str:
    """Return the name of a model in figures."""
    return MODELS.get(name, name.replace("_", " "))
