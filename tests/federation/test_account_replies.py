"""Clients report their own accounts, and only for the requested round."""

from __future__ import annotations

from functools import cache

import pytest
from flwr.app import Message, MessageType

from ppml.accounting.events import compose
from ppml.federation.client_state import ClientState
from ppml.federation.messages import ACCOUNT
from ppml.federation.server import Account, FederatedServer
from ppml.federation.server_state import RoundFailed

from .parties import PRIVATE, Fault, Wire, faulty, federated, parties, play, with_fault, with_record, with_status
from .test_server import all_but_client_1_in_round_2


def unchanged(message: Message, reply: Message) -> list[Message]:
    return [reply]


@cache
def accounts(fault: Fault = unchanged) -> tuple[dict[int, Account], list[str], Wire]:
    """Return the accounts after a private training, the notices, and the wire."""
    parts, notices = parties(federated(PRIVATE)), list[str]()
    wire = faulty(fault, f"{MessageType.QUERY}.{ACCOUNT}", 1)(parts, lambda direction, message: None)
    server = FederatedServer(parts.settings, parts.aggregator, lambda end: None, notices.append, parts.sum_mechanism)
    server.run(wire)
    try:
        return server.collect_accounts(wire), notices, wire
    except RoundFailed as failure:
        return {}, [*notices, str(failure)], wire


def test_clients_report_events_of_their_own_examples():
    reported, notices, wire = accounts()
    assert notices == [] and set(reported) == {0, 1, 2}
    kept = [ClientState(context.state).events for _, context in sorted(wire.contexts().items())]
    assert [compose(list(reported[client].events)) for client in range(3)] == [compose(list(one)) for one in kept]
    assert len({reported[client].events[0].sample_rate for client in range(3)}) == 3, (
        "clients have different sample rates"
    )


FAULTS = {
    "another client": (with_status(client=0), "client 1: its reply names client 0"),
    "another round": (with_status(number=1), "client 1: its reply is for round 1"),
    "no account": (with_record(account=None), "client 1: its account cannot be read: 'account' is missing"),
    "no status": (with_record(status=None), "client 1: its reply names no client"),
    "no reply": (lambda message, reply: [], "round 3: client 1 did not reply"),
}


@pytest.mark.parametrize(("fault", "line"), FAULTS.values(), ids=FAULTS)
def test_invalid_account_is_reported_without_epsilon(fault, line):
    reported, (notice, unstated), _ = accounts(fault)
    assert notice.startswith(line) and unstated == (
        "client 1 reports no valid account of its training; no epsilon can be stated for it"
    )
    assert reported == {client: account for client, account in accounts()[0].items() if client != 1}


def test_reply_for_an_earlier_round_does_not_change_known_state():
    """Otherwise the client would seem to have lost its account, and would train no more."""
    course = play(parties(federated(PRIVATE)), with_fault(1, 2, with_status(number=1, applied=0)))
    assert course.failure is None
    assert course.notices == [
        "round 2: client 1: its reply is for round 1; its reply is ignored",
        "round 2 continues with 2 of 3 clients",
    ]
    assert [end.clients for end in course.ends] == [3, len(list(all_but_client_1_in_round_2(2))), 3]
