"""Construction of the parties of an aggregation from its configuration."""

from __future__ import annotations

from ppml.aggregation.fixed_point import FixedPointCodec
from ppml.aggregation.interfaces import Aggregator, Parties, ServerKeyMaterial
from ppml.aggregation.plaintext import PlaintextAggregation
from ppml.config.technique import Aggregation, Bfv, Ckks, Masking, Plaintext, SecretSharing


def build_parties(spec: Aggregation, clients: int) -> Parties:
    """Return the parties, with new keys, for ``clients`` clients per round."""
    match spec:
        case Plaintext():
            return Parties(PlaintextAggregation(FixedPointCodec(spec.clip, spec.fractional_bits), clients))
        case Ckks():
            from ppml.aggregation import ckks

            return ckks.parties(spec, clients)
        case Bfv():
            from ppml.aggregation import bfv

            return bfv.parties(spec, clients)
        case SecretSharing():
            from ppml.aggregation import secret_sharing

            return secret_sharing.parties(spec, clients)
        case Masking():
            from ppml.aggregation import masking

            return masking.parties(spec, clients)


def build_server_side(spec: Aggregation, clients: int, material: ServerKeyMaterial) -> Aggregator:
    """Return the server, which gets ``material`` from the other parties and nothing else."""
    match spec:
        case Plaintext():
            return PlaintextAggregation(FixedPointCodec(spec.clip, spec.fractional_bits), clients)
        case Ckks():
            from ppml.aggregation import ckks

            return ckks.server_side(spec, clients, material)
        case Bfv():
            from ppml.aggregation import bfv

            return bfv.server_side(spec, clients, material)
        case SecretSharing():
            from ppml.aggregation import secret_sharing

            return secret_sharing.server_side(spec, clients, material)
        case Masking():
            from ppml.aggregation import masking

            return masking.server_side(spec, clients, material)
