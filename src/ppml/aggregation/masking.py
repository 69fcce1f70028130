"""Secure aggregation by pairwise masks (Bonawitz et al., CCS 2017, ePrint 2017/281), with dropout recovery.

Every two clients agree on a mask; one adds it and the other subtracts it, so that it cancels in the sum. Each client
also adds a self mask. Masks are pseudorandom streams from seeds that are new in each round. A client splits the two
secrets of its masks among all clients by Shamir's secret sharing. For a client that drops out, the others reveal shares
of its pairwise key; for a client with an upload, shares of its self-mask secret; never both. So the server obtains the
exact sum of the uploads, and nothing else, unless as many clients collude with it as the threshold.

A round has the steps ``keys``, ``shares``, ``encrypted_shares``, ``disputes``, ``upload`` and ``unmask``. The upload
starts after every client of the sum has read its shares, and all disputes about them are settled.

Flower's SecAgg+ is not used: it has no signed client lists and no disputes that spare the round, quantizes by a rule of
its own and not on this project's grid, and is written for an older client API.

*Keys.* Each client signs the public keys that it advertises in a round. Every client verifies the signatures of all
others with a register that the server does not operate (:mod:`ppml.aggregation.identities`): the server alone cannot
replace a client's keys by its own; the operator of the register could. Masks and shares are bound to the round, to the
numbers of both clients, and to the complete list of advertised keys: clients with different lists cannot read each
other's shares, and upload nothing. The server and every client refuse a list with a repeated key.

*Verifiable shares.* Each share has a point, which its sender publishes (:mod:`ppml.aggregation.shamir`). The server
tests that the points of a client belong to shares of the two secrets of its public keys, and excludes a client that
fails; each recipient compares its shares with their points. So any ``threshold`` correct shares recover every secret of
a sum, and a wrong share is detected at once.

*Disputes.* A client sends each other client a message with two encrypted shares, their points and a signature. The
server verifies the signatures and excludes a client with a wrong one. A recipient that cannot decrypt a correctly
signed message, or finds shares that do not match their points, sends the server a signed complaint about the sender,
and continues without that message. The sender must then show the server the two shares of these points, or is excluded;
the server uses them in place of the recipient's missing ones. A client is therefore excluded for its own replies
only. A false complaint excludes no client: it costs its target one message, and its author the shares.

A shown share gives a coalition no new information. An honest client has no complaint about an honest one, because a
message that the other signed for the same round, list, sender and recipient decrypts. So a dispute has a deviating
client on one side, which knew the disputed shares as sender or recipient. The server cannot fabricate a complaint,
since complaints are signed. A message with a wrong signature is no ground for a complaint: the server altered it, or
sent the two clients different lists. Its recipient leaves the round.

*A deviating server.* Each client signs the list of the clients with common masks, as it received it, and uploads the
signature. A client reveals shares only if every client that is reported as present signed the same list, and once per
round. So two lists need ``2 threshold`` signatures, which takes ``2 threshold - clients`` colluding clients, since an
honest client signs one. As many colluders are needed to obtain both kinds of shares of a client by lies about dropouts:
colluders give both, and each half of the others hears a different lie. With fewer colluders no single update is
revealed. The clients have no step in which they compare the reported dropouts: with a different report to each, a
server without colluders can reveal the sum of fewer clients than the threshold, of all but
``clients (clients - threshold) / threshold`` at the least.

*No post-quantum security.* Masks, points and encrypted shares rely on discrete logarithms in the group of Curve25519:
an attacker that records all messages of a round can reveal its updates with a quantum computer.
"""

from __future__ import annotations

import weakref

from ppml.aggregation.identities import (
    LOOK_UP,
    REGISTER,
    REGISTER_NAME,
    KeyRegister,
    KeyRegisterClient,
    signature_verifier,
)
from ppml.aggregation.interfaces import Parties, ServerKeyMaterial
from ppml.aggregation.masking_clients import MaskingClients
from ppml.aggregation.masking_server import MaskingServer
from ppml.aggregation.primitives import integer_width
from ppml.aggregation_parameters import masking_threshold
from ppml.config.technique import Masking
from ppml.ipc.process import isolation_hooks, start_process


def parties(spec: Masking, clients: int) -> Parties:
    """Return the clients, still without keys, and a register of their signing keys in a process of its own."""
    (for_clients, for_server), stop = start_process(
        REGISTER_NAME, KeyRegister, [frozenset({REGISTER, LOOK_UP}), frozenset({LOOK_UP})]
    )
    threshold, width = masking_threshold(spec.threshold, clients), integer_width(clients, spec)
    side = MaskingClients(threshold, clients, width, KeyRegisterClient(for_clients))
    hooks = isolation_hooks([for_clients], [for_server])
    return Parties(side, KeyRegisterClient(for_server), weakref.finalize(side, stop), hooks)


def server_side(spec: Masking, clients: int, material: ServerKeyMaterial) -> MaskingServer:
    """Return the server, which looks up signing keys in the register."""
    assert isinstance(material, KeyRegisterClient)
    threshold, width = masking_threshold(spec.threshold, clients), integer_width(clients, spec)
    return MaskingServer(threshold, width, signature_verifier(material))
