"""The parties that see updates and sums, for the threat statement of an aggregation."""

from __future__ import annotations

from dataclasses import dataclass

from ppml.aggregation_parameters import masking_threshold
from ppml.config.technique import Aggregation, Bfv, Ckks, Masking, Plaintext, SecretSharing


@dataclass(frozen=True)
class Visibility:
    """The parties that see an update and the sum, if all follow the protocol and some collude.

    Parameters
    ----------
    update : str
        The coalition that can decrypt the update of a single client.
    sum : str
        The parties that see the sum of a round, and so the global model during training.
    """

    update: str
    sum: str


def visibility_of(spec: Aggregation, clients: int) -> Visibility:
    """Return the visibility for ``clients`` clients per round."""
    match spec:
        case Plaintext():
            return Visibility("the server", "all clients and the server")
        case Ckks(keys="shared") | Bfv(keys="shared"):
            return Visibility("any client together with the server", "all clients")
        case Ckks() | Bfv():
            return Visibility("the key holder together with the server", "all clients and the key holder")
        case SecretSharing():
            return Visibility(f"all {spec.servers} servers together", "all clients and the server that adds")
        case Masking():
            colluding = f"{masking_threshold(spec.threshold, clients)} of {clients} clients together with the server"
            return Visibility(colluding, "all clients and the server")
