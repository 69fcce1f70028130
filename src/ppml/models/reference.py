"""Reference models without privacy, trained by scikit-learn with its own settings: bars for tables."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

TREES = 300
"""Trees of a random forest."""


class ReferenceModel(Protocol):
    """A classifier that a library trains."""

    def fit(self, inputs: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        """Train on inputs, ``(n, columns)``, and labels, ``(n,)``."""

    def log_probabilities(self, inputs: NDArray[np.float32], classes: int) -> NDArray[np.float32]:
        """Return the logarithm of the probability of each class, ``(n, classes)``."""


class _Classifier:
    """A classifier of scikit-learn."""

    def __init__(self, classifier: Any) -> None:
        self._classifier = classifier

    def fit(self, inputs: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        """Train on inputs, ``(n, columns)``, and labels, ``(n,)``."""
        self._classifier.fit(inputs, labels)

    def log_probabilities(self, inputs: NDArray[np.float32], classes: int) -> NDArray[np.float32]:
        """Return the logarithm of the probability of each class, ``(n, classes)``."""
        # A class that training lacks has no column.
        found = np.zeros((len(inputs), classes))
        found[:, self._classifier.classes_] = self._classifier.predict_proba(inputs)
        smallest = np.finfo(np.float32).tiny
        logarithms: NDArray[np.float32] = np.log(np.maximum(found, smallest)).astype(np.float32)
        return logarithms


class HistGradientBoosting(_Classifier):
    """Boosted trees on histograms: the strongest simple model on most tables."""

    def __init__(self, seed: int) -> None:
        super().__init__(HistGradientBoostingClassifier(random_state=seed))


class RandomForest(_Classifier):
    """A forest of random trees."""

    def __init__(self, seed: int) -> None:
        super().__init__(RandomForestClassifier(n_estimators=TREES, random_state=seed, n_jobs=1))
