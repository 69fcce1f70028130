"""Secure aggregation by pairwise masks (Bonawitz et al., CCS 2017, ePrint 2017/281), with recovery of lost clients.

Every two clients agree on a mask, which one adds and the other subtracts, so that the sum has none of them; each adds a
mask of its own besides. Both are random streams, from seeds that are new in each round. A client divides what its masks
come from among all, by Shamir's secret sharing: of a client that is lost after that, the others give the server what
its pairwise masks come from; of one whose upload is there, what its own mask comes from; never both. So the server
opens the sum of the uploads that are there, exactly, and nothing else, unless as many clients help it as the threshold
says.

A round has the steps ``keys``, ``shares``, ``letters``, ``disputes``, the upload and ``unmask``. The upload begins when
every client of the sum has read its letters and no dispute about them is open.

*Keys.* Each client signs the keys that it publishes in a round, and every client checks the signatures of all others
by a register that is not the server's (:mod:`ppml.aggregation.identities`): a server alone cannot put keys of its own
in the place of a client's. The party that keeps the register could. Masks and letters are bound to the round, to both
clients by their numbers, and to the whole list of published keys: clients that were shown different lists cannot read
each other's letters, and seal nothing. A key that is in a list twice is refused, by the server and by every client.

*Shares that can be checked.* Each share has a point, which its sender shows (:mod:`ppml.aggregation.shamir`). The
server tests that the points of a client belong to shares of the two secrets whose points its keys are, and leaves out
a client that fails; each reader compares its shares with their points. So every secret in a sum can be given back by
any ``threshold`` of its right shares, and a share that is given in the place of the right one is seen at once.

*Letters without right shares.* A client sends each other client two shares in a letter, which is encrypted and signed,
as their points are. The server checks the signatures and leaves out a client with a wrong one. A client that cannot
open a letter with a right signature, or finds other shares in it than those of its points, sends the server a signed
complaint about the sender, and goes on without that letter. The sender then shows the server the two shares of these
points, or is left out; the server uses them in place of those that the reader cannot give. A client is therefore left
out for its own answers alone. A false complaint excludes nobody: it costs one more message of the client that it is
about, and the shares of the client that makes it.

A shown share tells nothing new to a coalition. An honest client has no complaint about an honest one: a letter that the
other has signed for the same round, list, sender and reader opens. So a dispute has a client that deviates on one side,
and the shares in dispute were that client's to make or to read. The server cannot make a complaint up, since it is
signed. A letter whose signature is wrong is no ground for a complaint: the server has altered it, or has shown the two
clients different lists. Its reader takes no further part in the round.

*A server that deviates.* Each client signs the list of the clients that have masks in common, as it was told, and sends
the signature with its upload. A client gives shares where all clients that are said to be there have signed its own
list, and gives them once a round. So two lists have ``2 threshold`` signatures, which takes ``2 threshold - clients``
colluding clients, since an honest client signs one. As many get both kinds of shares of a client by lies about which
clients are lost: the colluders have both, and of the others half is told one thing and half the other. With fewer
colluders no update of a client is opened. There is no step in which clients compare which clients they were told are
lost: by telling each another selection, a server without colluders can open a sum of fewer clients than the threshold
says, of all but ``clients (clients - threshold) / threshold`` at the least.

*Not post-quantum.* Masks, points and letters rest on discrete logarithms in the group of Curve25519: an attacker that
records all messages of a round can open its updates once it has a quantum computer.
"""

from __future__ import annotations

import weakref

from ppml.aggregation.identities import LOOK_UP, REGISTER, REGISTER_NAME, KeyRegister, KeyRegisterClient, signature_verifier
from ppml.aggregation.interfaces import Parties, ServerKeyMaterial
from ppml.aggregation.masking_clients import MaskingClients
from ppml.aggregation.masking_server import MaskingServer
from ppml.aggregation.primitives import integer_width
from ppml.config.aggregation_parameters import masking_threshold
from ppml.config.technique import Masking
from ppml.ipc.process import isolation_hooks, start_process


def parties(spec: Masking, clients: int) -> Parties:
    """Return the clients, which have no keys yet, and a register of their signing keys in a process of its own."""
    (near, far), end = start_process(REGISTER_NAME, KeyRegister, [frozenset({REGISTER, LOOK_UP}), frozenset({LOOK_UP})])
    side = MaskingClients(
        masking_threshold(spec.threshold, clients), clients, integer_width(clients, spec), KeyRegisterClient(near)
    )
    return Parties(side, KeyRegisterClient(far), weakref.finalize(side, end), isolation_hooks([near], [far]))


def server_side(spec: Masking, clients: int, material: ServerKeyMaterial) -> MaskingServer:
    """Return the server, which looks signing keys up in the register."""
    assert isinstance(material, KeyRegisterClient)
    return MaskingServer(masking_threshold(spec.threshold, clients), integer_width(clients, spec), signature_verifier(material))
