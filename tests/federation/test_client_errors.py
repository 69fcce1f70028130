"""What a client says of an error tells the server nothing of its records."""

from __future__ import annotations

import errno

import pytest
from flwr.app import Message, MessageType, RecordDict

from ppml.errors import InvalidUpdate
from ppml.federation.client import MAX_REASON_CHARACTERS, build_client_app
from ppml.federation.client_workers import FIRST_CLIENT_NODE
from ppml.federation.messages import ACCOUNT, ORDER, RoundRequest, pack_fields
from ppml.federation.simulation_grid import InProcessGrid
from ppml.learning.learner import TrainingDiverged

RECORD = "[0.1307, 0.9921, 0.0039]"


def reason(error: Exception, kind: str = MessageType.TRAIN) -> str:
    """Return what the server hears of an error at the client."""

    def pool_of(context):
        raise error

    grid = InProcessGrid(build_client_app(pool_of), clients=1)
    order = RecordDict({ORDER: pack_fields(RoundRequest(1, 0))})
    (reply,) = grid.send_and_receive([Message(order, FIRST_CLIENT_NODE, kind)])
    assert reply.has_error()
    return reply.error.reason


@pytest.mark.parametrize("kind", [MessageType.TRAIN, f"{MessageType.QUERY}.{ACCOUNT}", MessageType.EVALUATE])
@pytest.mark.parametrize("error", [ValueError, KeyError, RuntimeError, IndexError, ZeroDivisionError])
def test_what_a_library_says_of_a_record_stays_with_the_client(error, kind, capfd):
    told = reason(error(f"cannot take {RECORD} of class 7"), kind)
    log = capfd.readouterr().err
    assert RECORD not in told + log and "class 7" not in told + log
    assert told.startswith(f"{error.__name__} in test_client_errors.py, line ")
    # The client can find the place.
    assert "pool_of" in log


def test_names_of_files_stay_with_the_client():
    assert reason(OSError(errno.ENOSPC, "No space left", "/home/hospital/records")) == "OSError: No space left"


def test_the_projects_own_errors_are_told_in_full():
    assert reason(InvalidUpdate("its account is lost")) == "InvalidUpdate: its account is lost"
    diverged = TrainingDiverged("the loss is not finite in step 3", step=3, restored=0, model=None)
    assert reason(diverged) == "the loss is not finite in step 3"


def test_what_is_told_has_a_bound():
    assert len(reason(InvalidUpdate("x" * 10_000))) == MAX_REASON_CHARACTERS
