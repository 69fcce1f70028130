"""The privacy statement of a trained model, or of a planned training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ppml.reporting.formatting import epsilon_bound


@dataclass(frozen=True)
class PrivacyStatement:
    """A guarantee of differential privacy, or its absence.

    Parameters
    ----------
    epsilon : float or None
        The size of the guarantee; None without differential privacy.
    delta : float or None
        The probability outside the guarantee.
    unit : {"example", "client", "none"}
        The protected record: one example, or all examples of one client.
    neighbouring : str or None
        The relation of two data sets that differ in one record. ``zero_out_one``: a null record, which contributes 0,
        replaces the record, and the number of records is public.
    accountant : str or None
        The accountant of epsilon: ``prv``, ``pld``, ``rdp`` or ``gdp``.
    noise_source : {"seeded", "secure"} or None
        The source of the noise. The root seed is in the configuration: each of its readers can subtract seeded noise,
        and the statement holds for all others. None for a planned training.
    """

    epsilon: float | None = None
    delta: float | None = None
    unit: str = "none"
    neighbouring: str | None = None
    accountant: str | None = None
    noise_source: str | None = None

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> PrivacyStatement:
        """Return the statement in the content of ``privacy.json``."""
        if content["epsilon"] is None:
            return cls()
        return cls(
            float(content["epsilon"]),
            float(content["delta"]),
            content["unit"],
            content["neighbouring"],
            content["accountant"],
            content["noise_source"],
        )

    def __str__(self) -> str:
        if self.epsilon is None:
            return "no differential privacy: the model may reveal its training examples"
        text = (
            f"epsilon {epsilon_bound(self.epsilon)} at delta {self.delta:g} for one {self.unit} "
            f"({self.neighbouring}; accountant {self.accountant})"
        )
        if self.noise_source == "seeded":
            return f"{text}; no guarantee towards readers of the configuration, whose root seed gives the noise"
        return f"{text}; secure noise" if self.noise_source else text
