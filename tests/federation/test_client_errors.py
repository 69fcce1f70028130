"""The server learns nothing about a client's examples from an error of the client."""

from __future__ import annotations

import errno

import pytest
from flwr.app import Message, MessageType, RecordDict

from ppml.errors import InvalidUpdate
from ppml.federation.client import MAX_REASON_CHARACTERS, build_client_app
from ppml.federation.client_workers import FIRST_CLIENT_NODE
from ppml.federation.messages import ACCOUNT, REQUEST, RoundRequest, pack_fields
from ppml.federation.simulation_grid import InProcessGrid
from ppml.learning.learner import TrainingDiverged

EXAMPLE = "[0.1307, 0.9921, 0.0039]"


def reason(error: Exception, kind: str = MessageType.TRAIN) -> str:
    """Return the reason that the server gets for an error of the client."""

    def pool_of(context):
        raise error

    grid = InProcessGrid(build_client_app(pool_of), clients=1)
    request = RecordDict({REQUEST: pack_fields(RoundRequest(1, 0))})
    (reply,) = grid.send_and_receive([Message(request, FIRST_CLIENT_NODE, kind)])
    assert reply.has_error()
    return reply.error.reason


@pytest.mark.parametrize("kind", [MessageType.TRAIN, f"{MessageType.QUERY}.{ACCOUNT}", MessageType.EVALUATE])
@pytest.mark.parametrize("error", [ValueError, KeyError, RuntimeError, IndexError, ZeroDivisionError])
def test_error_text_of_a_library_stays_at_the_client(error, kind, capfd):
    sent = reason(error(f"cannot take {EXAMPLE} of class 7"), kind)
    log = capfd.readouterr().err
    assert EXAMPLE not in sent + log and "class 7" not in sent + log
    assert sent.startswith(f"{error.__name__} in test_client_errors.py, line ")
    # The log of the client has the traceback.
    assert "pool_of" in log


def test_file_names_stay_at_the_client():
    assert reason(OSError(errno.ENOSPC, "No space left", "/home/hospital/records")) == "OSError: No space left"


def test_server_gets_full_text_of_own_errors():
    assert reason(InvalidUpdate("its account is lost")) == "InvalidUpdate: its account is lost"
    diverged = TrainingDiverged("the loss is not finite in step 3", step=3, restored=0, model=None)
    assert reason(diverged) == "the loss is not finite in step 3"


def test_error_text_has_a_maximum_length():
    assert len(reason(InvalidUpdate("x" * 10_000))) == MAX_REASON_CHARACTERS
