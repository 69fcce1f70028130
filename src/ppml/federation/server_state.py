"""Where the server of a training is after a round, and what it says when there is none."""

from __future__ import annotations

from dataclasses import dataclass, field


class RoundFailed(RuntimeError):
    """A round cannot be closed: too few clients answered. The rounds before it stand."""


@dataclass(frozen=True)
class ServerState:
    """How far the server's side has come, without the sums themselves.

    Parameters
    ----------
    number : int
        The last round that ended; 0 at the start.
    known : dict of int to int
        Each client's last applied round, as far as the server knows; -1 where it has no model.
    sum_bytes : dict of int to int
        The size of the sum of each round.
    finished : tuple of int
        Clients that train no more: their budget is spent, or their account is lost.
    accepted : dict of int to int
        The last round whose sum has a contribution of a client, by client.
    """

    number: int
    known: dict[int, int]
    sum_bytes: dict[int, int]
    finished: tuple[int, ...] = ()
    accepted: dict[int, int] = field(default_factory=dict)
