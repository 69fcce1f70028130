"""What clients say of their privacy: each for itself, and only of the round that it is asked about."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flwr.app import Message, MessageType

from ppml.accounting.events import compose
from ppml.federation.client_state import ClientState
from ppml.federation.messages import ACCOUNT
from ppml.federation.server import Account, FederatedServer
from ppml.federation.server_state import RoundFailed

from .parties import PRIVATE, Wire, federated, meddled, parties, play, with_records, with_status
from .test_server import all_but_one

Fault = Callable[[Message, Message], list[Message]]


class AtTheEnd(Wire):
    """What client 1 says of its account is what ``fault`` makes of it."""

    fault: Fault = staticmethod(lambda message, reply: [reply])

    def after(self, message: Message, reply: Message) -> list[Message]:
        if (message.metadata.message_type, message.metadata.dst_node_id) == (f"{MessageType.QUERY}.{ACCOUNT}", 3):
            return self.fault(message, reply)
        return [reply]


def accounts(fault: Fault | None = None) -> tuple[dict[int, Account], list[str], Wire]:
    """Return what clients give after a whole private training, what was noticed, and the clients."""
    parts, notices = parties(federated(PRIVATE)), list[str]()
    wire = AtTheEnd(parts, lambda direction, message: None)
    if fault is not None:
        wire.fault = fault
    server = FederatedServer(parts.plan, parts.aggregator, lambda end: None, notices.append, parts.release)
    server.run(wire)
    try:
        return server.accounts(wire), notices, wire
    except RoundFailed as failure:
        return {}, [*notices, str(failure)], wire


def test_each_client_gives_what_ran_on_its_own_records():
    given, notices, wire = accounts()
    assert notices == [] and set(given) == {0, 1, 2}
    kept = [ClientState(context.state).events for _, context in sorted(wire.contexts().items())]
    assert [compose(list(given[client].events)) for client in range(3)] == [compose(list(one)) for one in kept]
    assert len({given[client].events[0].sample_rate for client in range(3)}) == 3, "the records of each are others"


FAULTS = {
    "that of another": (with_status(client=0), "client 1: its answer says that it is client 0"),
    "of another round": (with_status(number=1), "client 1: its answer is of round 1"),
    "none": (
        lambda message, reply: [with_records(message, reply, account=None)],
        "client 1: its account cannot be read: 'account' is missing",
    ),
    "no status": (
        lambda message, reply: [with_records(message, reply, status=None)],
        "client 1: its answer does not say who it is of",
    ),
    "no answer": (lambda message, reply: [], "round 3: client 1 did not answer"),
}


@pytest.mark.parametrize(("fault", "line"), FAULTS.values(), ids=FAULTS)
def test_an_account_that_is_none_is_named_and_no_epsilon_is_stated_for_that_client(fault, line):
    given, (named, unstated), _ = accounts(fault)
    assert named.startswith(line) and unstated == (
        "client 1 gives no account of its training; no epsilon may be stated for it"
    )
    assert given == {client: account for client, account in accounts()[0].items() if client != 1}


def test_an_answer_of_an_earlier_round_says_nothing_of_what_a_client_has_now():
    """As if it had lost its account: it would train no more, and the training have no epsilon."""
    course = play(parties(federated(PRIVATE)), meddled(1, 2, with_status(number=1, applied=0)))
    assert course.failure is None
    assert course.notices == [
        "round 2: client 1: its answer is of round 1; its answer is left out",
        "round 2 goes on with 2 of 3 clients",
    ]
    assert [end.clients for end in course.ends] == [3, len(list(all_but_one(2))), 3]
