"""Who sees what of updates that are added: what a threat statement says of an aggregation."""

from __future__ import annotations

from dataclasses import dataclass

from ppml.config.aggregation_parameters import masking_threshold
from ppml.config.technique import Aggregation, Bfv, Ckks, Masking, Plaintext, SecretSharing


@dataclass(frozen=True)
class Visibility:
    """What parties see that follow the protocol and put together what they have.

    Parameters
    ----------
    update : str
        Who can open the update of a single client.
    sum : str
        Who is shown the sum of a round, and so the global model as it is trained.
    """

    update: str
    sum: str


def visibility_of(spec: Aggregation, clients: int) -> Visibility:
    """Return who sees what where so many ``clients`` are asked in a round."""
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
