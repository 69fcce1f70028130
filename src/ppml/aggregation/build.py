"""From the configuration to the two sides of an aggregation."""

from __future__ import annotations

from ppml.aggregation.fixed_point import FixedPointCodec
from ppml.aggregation.plaintext import PlaintextAggregation
from ppml.aggregation.protocol import Aggregator, ClientSide
from ppml.config.technique import Aggregation, Bfv, Ckks, Plaintext


def build_client_side(spec: Aggregation, clients: int) -> ClientSide:
    """Return what ``clients`` clients share, with new keys where the scheme has any."""
    match spec:
        case Plaintext():
            return PlaintextAggregation(FixedPointCodec(spec.clip, spec.fractional_bits), clients)
        case Ckks():
            from ppml.aggregation import ckks

            return ckks.client_side(spec, clients)
        case Bfv():
            from ppml.aggregation import bfv

            return bfv.client_side(spec, clients)


def build_server_side(spec: Aggregation, clients: int, public_material: bytes) -> Aggregator:
    """Return what the server adds with; it gets ``public_material`` and nothing else from the clients."""
    match spec:
        case Plaintext():
            return PlaintextAggregation(FixedPointCodec(spec.clip, spec.fractional_bits), clients)
        case Ckks():
            from ppml.aggregation import ckks

            return ckks.server_side(spec, clients, public_material)
        case Bfv():
            from ppml.aggregation import bfv

            return bfv.server_side(spec, clients, public_material)
