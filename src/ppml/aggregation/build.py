"""From the configuration to the two sides of an aggregation."""

from __future__ import annotations

from ppml.aggregation.fixed_point import FixedPointCodec
from ppml.aggregation.plaintext import PlaintextAggregation
from ppml.aggregation.protocol import Aggregator, ClientSide
from ppml.config.technique import Ckks, Plaintext


def build_client_side(spec: Plaintext | Ckks, clients: int) -> ClientSide:
    """Return what ``clients`` clients share, with new keys where the scheme has any."""
    match spec:
        case Plaintext():
            return PlaintextAggregation(FixedPointCodec(spec.clip, spec.fractional_bits), clients)
        case Ckks():
            from ppml.aggregation.ckks import CkksClients

            return CkksClients(spec)


def build_server_side(spec: Plaintext | Ckks, clients: int, public_material: bytes) -> Aggregator:
    """Return what the server adds with; it gets ``public_material`` and nothing else from the clients."""
    match spec:
        case Plaintext():
            return PlaintextAggregation(FixedPointCodec(spec.clip, spec.fractional_bits), clients)
        case Ckks():
            from ppml.aggregation.ckks import CkksServer

            return CkksServer(public_material, spec.poly_modulus_degree // 2)
