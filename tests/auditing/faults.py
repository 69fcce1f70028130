"""Faults of private federations, each planted by one patch; the audit must name each fault."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import numpy as np

import ppml.federation.factory as build
from ppml.accounting.events import compose
from ppml.federation import client_state as state
from ppml.federation import distributed_dp as shares
from ppml.federation import messages
from ppml.federation.algorithms import FedAvg
from ppml.federation.distributed_dp import CentralGaussian, DistributedDpSgd, DistributedGaussian, DpFedAvg

from ..learning.planted import patch_around


def equal_noise_of_all_clients():
    def faulty(original, rng, clients):
        seeds = original(rng, clients)
        return replace(seeds, clients=dict.fromkeys(seeds.clients, seeds.clients[0]))

    return patch_around(build, "party_seeds", faulty)


def counted_colluder():
    return mock.patch.object(
        DistributedGaussian, "honest_clients", property(lambda shares: shares.clients - shares.max_dropouts)
    )


def client_without_noise(kind=DistributedDpSgd):
    def faulty(original, work, model, member, turn):
        found = original(work, model, member, turn)
        return replace(found, noise=0 * found.noise) if turn.client == 2 else found

    return patch_around(kind, "compute_update", faulty)


def client_level_client_without_noise():
    return client_without_noise(DpFedAvg)


def half_the_noise_of_every_client():
    def faulty(original, *given):
        drawn = original(*given)
        return drawn._replace(values=np.rint(drawn.values / 2).astype(np.int64))

    return patch_around(DistributedGaussian, "sample", faulty)


def half_the_noise_of_the_server():
    return patch_around(CentralGaussian, "__call__", _half_of_the_server)


def _half_of_the_server(original, noise, total, number):
    sealed, events = original(replace(noise, noise_multiplier=noise.noise_multiplier / 2), total, number)
    return sealed, tuple(replace(event, noise_multiplier=noise.noise_multiplier) for event in events)


def doubled_update_norm():
    def faulty(original, work, model, member, turn):
        return original(replace(work, max_update_norm=2 * work.max_update_norm), model, member, turn)

    return patch_around(DpFedAvg, "compute_update", faulty)


def shifted_update():
    def faulty(original, work, model, member, turn):
        found = original(work, model, member, turn)
        values = found.values.copy()
        values[:-1] += 1e-3
        return replace(found, values=values)

    return patch_around(FedAvg, "compute_update", faulty)


def reset_account():
    def remember(client, events):
        if events:
            client._state["events"] = messages.pack_events(compose(events))

    return mock.patch.object(state.ClientState, "append_events", remember)


def seeded_noise_in_sums():
    return patch_around(shares, "build_noise_source", lambda original, source, rng: original("seeded", rng))
