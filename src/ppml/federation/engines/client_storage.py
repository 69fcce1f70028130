"""What a client's site keeps on its disk, so that a site that was killed goes on where it was.

Flower's node keeps the state of a client in memory. Here it is written before an answer leaves, together with the
contribution of the last round: a client that is asked for the same round again gives the same answer, and neither
trains nor accounts twice.
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

STATE, ANSWER, ROUND = "state.", "answer.", "round"
"""What the names of records in a file begin with, and the record of the round that the answer is of."""

App = Callable[[Message, Context], Message]


def remembering(app: App, folder: Callable[[], Path]) -> App:
    """Return an app that keeps its state in ``folder``, a file for each client and run, and answers a round once.

    Parameters
    ----------
    app : callable
        The client's app.
    folder : callable
        Returns where the files lie, for the owner of the site alone.
    """

    def answered(message: Message, context: Context) -> Message:
        file = folder() / f"client{client_number(context)}-{context.run_id}.state"
        kept = read(file)
        for name, record in _of(kept, STATE).items():
            context.state[name] = record
        trains = message.metadata.message_type == MessageType.TRAIN
        if trains and ROUND in kept:
            number, last = unpack_request(message.content).number, get_record(kept, ConfigRecord, ROUND)["number"]
            if number == last:
                return Message(_of(kept, ANSWER), reply_to=message)
            if isinstance(last, int) and number < last:
                return error_reply(message, InvalidUpdate(f"round {number} is over at this site, which has answered {last}"))
        reply = app(message, context)
        if trains and not reply.has_error():
            answer = {f"{ANSWER}{name}": record for name, record in reply.content.items()}
            kept = RecordDict({**answer, ROUND: ConfigRecord({"number": unpack_request(message.content).number})})
        else:
            kept = RecordDict({name: one for name, one in kept.items() if not name.startswith(STATE)})
        for name, record in context.state.items():
            kept[f"{STATE}{name}"] = record
        write(file, kept)
        return reply

    return answered


def read(file: Path) -> RecordDict:
    """Return what :func:`write` wrote; nothing where there is no such file."""
    if not file.is_file():
        return RecordDict()
    return recorddict_from_proto(Packed.FromString(file.read_bytes()))


def write(file: Path, records: RecordDict) -> None:
    """Write records to a file that its owner alone can read."""
    write_private(file, recorddict_to_proto(records).SerializeToString())


def _of(records: RecordDict, prefix: str) -> RecordDict:
    return RecordDict({name.removeprefix(prefix): one for name, one in records.items() if name.startswith(prefix)})
