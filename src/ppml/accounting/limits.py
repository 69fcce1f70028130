"""The values of delta and of the noise that an epsilon is stated for."""

from __future__ import annotations

LEAST_DELTA = 1e-15
"""Normal noise drawn in double precision has no tail much thinner: a smaller delta does not hold of what is drawn."""

MOST_DELTA = 0.5
"""Above it, a mechanism that publishes a record as it is with a chance of one half would be private at epsilon 0."""

LEAST_NOISE = 1e-3
"""Below it, one step on all records spends an epsilon above 500,000."""

MOST_NOISE = 1e6
"""Above it, the noise of one step outweighs a million records, and epsilon is lost in rounding."""
