"""The allowed values of delta and of the noise."""

from __future__ import annotations

MIN_DELTA = 1e-15
"""Normal noise in double precision has a tail of about this probability: a smaller delta does not hold for it."""

MAX_DELTA = 0.5
"""Above it, a mechanism that publishes a raw example with probability 1/2 counts as private at epsilon 0."""

MIN_NOISE = 1e-3
"""Below it, one step on all examples has an epsilon above 500,000."""

MAX_NOISE = 1e6
"""Above it, the noise of one step exceeds the sum of a million examples, and epsilon is within rounding errors."""
