"""Client state on disk, so that a killed site continues its training.

Flower's node keeps the state of a client in memory. This module writes it before each reply, together with the update
of the last round: a client repeats its reply to a second request for that round, and neither trains nor accounts twice.
"""

from __future__ import annotations

import ppml.federation.flower_env  # noqa: F401  isort: skip
from collections.abc import Callable
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as Packed

from ppml.errors import InvalidUpdate
from ppml.federation.client import client_number, error_reply
from ppml.federation.messages import get_record, unpack_request
from ppml.io.private_file import write_private

STATE, REPLY, ROUND = "state.", "answer.", "round"
"""Prefixes of the records of a file, and the name of the record with the round of the reply."""

App = Callable[[Message, Context], Message]


def with_storage(app: App, folder: Callable[[], Path]) -> App:
    """Return an app that keeps its state in a file for each client and run, and trains once a round.

    ``folder`` returns the folder of the files; only the owner of the site can read them.
    """

    def handle(message: Message, context: Context) -> Message:
        file = folder() / f"client{client_number(context)}-{context.run_id}.state"
        stored = RecordDict()
        if file.is_file():
            stored = recorddict_from_proto(Packed.FromString(file.read_bytes()))
        for name, record in _select(stored, STATE).items():
            context.state[name] = record
        trains = message.metadata.message_type == MessageType.TRAIN
        if trains and ROUND in stored:
            number, last = unpack_request(message.content).number, get_record(stored, ConfigRecord, ROUND)["number"]
            if number == last:
                return Message(_select(stored, REPLY), reply_to=message)
            if isinstance(last, int) and number < last:
                return error_reply(
                    message, InvalidUpdate(f"round {number} is over at this site, whose last reply is of round {last}")
                )
        reply = app(message, context)
        if trains and not reply.has_error():
            replies = {f"{REPLY}{name}": record for name, record in reply.content.items()}
            stored = RecordDict({**replies, ROUND: ConfigRecord({"number": unpack_request(message.content).number})})
        else:
            stored = RecordDict({name: one for name, one in stored.items() if not name.startswith(STATE)})
        for name, record in context.state.items():
            stored[f"{STATE}{name}"] = record
        write_private(file, recorddict_to_proto(stored).SerializeToString())
        return reply

    return handle


def _select(records: RecordDict, prefix: str) -> RecordDict:
    return RecordDict({name.removeprefix(prefix): one for name, one in records.items() if name.startswith(prefix)})
