"""The server of secure aggregation; :mod:`ppml.aggregation.masking` describes the protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from ppml.aggregation.envelope import (
    FINGERPRINT_BYTES,
    HEADER_BYTES,
    check_size,
    make_envelope,
    payload_from,
    verified_payload,
)
from ppml.aggregation.group import ELEMENT_BYTES
from ppml.aggregation.identities import SIGNATURE_BYTES, Verify
from ppml.aggregation.interfaces import ProtectedUpdate, check_scheme
from ppml.aggregation.masks import (
    DISPUTES,
    ENCRYPTED_SHARES,
    KEYS,
    PAIRWISE_KEY,
    PUBLIC_KEYS_BYTES,
    SCHEME,
    SELF_MASK,
    SHARE_MESSAGE_BYTES,
    SHARE_PAIR_BYTES,
    SHARES,
    SIGNED_KEYS_BYTES,
    UNMASK,
    check_distinct_keys,
    check_key_form,
    complaint_message,
    keys_message,
    pack_entries,
    packed_entries_bytes,
    pairwise_mask_sum,
    pairwise_public_key,
    parse_shares_reply,
    partner_list_message,
    points_in_message,
    round_context,
    self_mask,
    self_mask_point,
    share_context,
    share_index,
    shares_match,
    unpack_entries,
)
from ppml.aggregation.shamir import SECRET_INDEX, combine, is_valid_sharing, share_matches_point
from ppml.errors import InvalidUpdate


class MaskingServer:
    """The server: it relays messages between clients, adds uploads, and removes the masks from the sum.

    Parameters
    ----------
    threshold : int
        Number of clients whose shares reveal a sum.
    width : int
        Bytes per value.
    verify : callable or None
        Verifier of signatures, so that the server excludes a client whose messages the other clients would refuse. None
        leaves verification to the clients.
    """

    setup_steps: ClassVar[tuple[str, ...]] = (KEYS, SHARES, ENCRYPTED_SHARES, DISPUTES)
    unmask_steps: ClassVar[tuple[str, ...]] = (UNMASK,)

    def __init__(self, threshold: int, width: int, verify: Verify | None = None) -> None:
        self._threshold, self._width, self._verify = threshold, width, verify
        self._number = 0
        self._replies: dict[str, dict[int, bytes]] = {}
        self._context = b""
        self._points: dict[int, dict[int, bytes]] = {}
        self._list_signatures: dict[int, bytes] = {}
        self._present: tuple[int, ...] = ()
        self._partners: tuple[int, ...] = ()

    def request(self, step: str, clients: Sequence[int], number: int = 0) -> dict[int, bytes]:
        """Return the requests to ``clients``, which have completed all earlier steps of round ``number``.

        In the step ``disputes`` only clients with a complaint about them get a request.

        Raises
        ------
        InvalidUpdate
            The clients are fewer than the threshold.
        """
        if len(clients) < self._threshold:
            raise InvalidUpdate(f"{len(clients)} clients take part in the masks, {self._threshold} are needed")
        if step == KEYS:
            self._replies, self._points, self._number = {}, {}, number
        self._replies[step], self._present = {}, tuple(clients)
        match step:
            case "keys":
                return dict.fromkeys(clients, b"")
            case "shares":
                advertised = {client: self._replies[KEYS][client] for client in clients}
                self._context = round_context(self._number, advertised)
                return dict.fromkeys(clients, pack_entries(advertised))
            case "encrypted_shares":
                messages = {sender: parse_shares_reply(self._replies[SHARES][sender])[1] for sender in clients}
                return {
                    recipient: pack_entries(
                        {sender: messages[sender][recipient] for sender in clients if sender != recipient}
                    )
                    for recipient in clients
                }
            case "disputes":
                complaints = {client: self._complaints_about(client) for client in clients}
                return {client: pack_entries(found) for client, found in complaints.items() if found}
            case "upload":
                self._partners, self._list_signatures = self._present, {}
            case "unmask":
                return dict.fromkeys(
                    clients, pack_entries({client: self._list_signatures[client] for client in clients})
                )
        return dict.fromkeys(clients, pack_entries(dict.fromkeys(clients, b"")))

    def handle_reply(self, step: str, client: int, content: bytes) -> None:
        """Check and store the reply of a client.

        Raises
        ------
        InvalidUpdate
            The reply cannot be parsed, or is not the requested one.
        """
        if len(content) > SHARE_PAIR_BYTES + packed_entries_bytes(len(self._present), SHARE_MESSAGE_BYTES):
            raise InvalidUpdate(f"a reply of {len(content)} bytes is longer than any valid one")
        match step:
            case "keys":
                self._check_keys(client, content)
            case "shares":
                self._check_shares(client, content)
            case "encrypted_shares":
                self._check_complaints(client, unpack_entries(content, SIGNATURE_BYTES))
            case "disputes":
                self._check_shown_shares(client, unpack_entries(content, SHARE_PAIR_BYTES))
            case "unmask":
                self._check_revealed_shares(client, unpack_entries(content, ELEMENT_BYTES))
        self._replies[step][client] = content

    def _check_shares(self, client: int, content: bytes) -> None:
        own_points, messages = parse_shares_reply(content)
        if messages.keys() != set(self._present) - {client}:
            raise InvalidUpdate("the client does not send a share to each other client")
        for recipient, message in messages.items():
            signed = share_context(self._context, client, recipient) + message[:-SIGNATURE_BYTES]
            self._check_signature(
                client, message[-SIGNATURE_BYTES:], signed, f"the share message to client {recipient}"
            )
        points = {recipient: points_in_message(message) for recipient, message in messages.items()}
        points[client] = own_points
        keys = self._replies[KEYS][client]
        for part, point in ((SELF_MASK, self_mask_point(keys)), (PAIRWISE_KEY, pairwise_public_key(keys))):
            shares = {share_index(recipient): pair[part] for recipient, pair in points.items()}
            if not is_valid_sharing({SECRET_INDEX: point, **shares}, self._threshold):
                raise InvalidUpdate("the shares of the client are not of the secrets of its public keys")
        self._points[client] = points

    def _check_complaints(self, client: int, complaints: Mapping[int, bytes]) -> None:
        if not complaints.keys() <= set(self._present) - {client}:
            raise InvalidUpdate("the client complains about clients that have sent it no shares")
        for sender, signature in complaints.items():
            signed = complaint_message(self._context, sender, client)
            self._check_signature(client, signature, signed, f"the complaint about client {sender}")

    def _check_shown_shares(self, client: int, shown: Mapping[int, bytes]) -> None:
        if shown.keys() != self._complaints_about(client).keys():
            raise InvalidUpdate("the client does not show the disputed shares")
        for recipient, shares in shown.items():
            if not shares_match(shares, self._points[client][recipient]):
                raise InvalidUpdate(f"the client shows other shares than it has sent to client {recipient}")

    def _check_revealed_shares(self, client: int, shares: Mapping[int, bytes]) -> None:
        if shares.keys() != set(self._partners) - self._complaints_of(client):
            raise InvalidUpdate("the client does not reveal a share of each partner's secret")
        for sender, share in shares.items():
            if not share_matches_point(share, self._points[sender][client][self._recovered_part(sender)]):
                raise InvalidUpdate(f"the client reveals another share than client {sender} has sent it")

    def _recovered_part(self, client: int) -> slice:
        """Return the secret of a client to recover: that of its self mask if its upload is present."""
        return SELF_MASK if client in self._present else PAIRWISE_KEY

    def _check_signature(self, client: int, signature: bytes, message: bytes, name: str) -> None:
        if self._verify is None:
            return
        try:
            self._verify(client, signature, message)
        except InvalidUpdate:
            raise InvalidUpdate(f"{name} lacks the client's signature, or is for other keys") from None

    def _complaints_of(self, recipient: int) -> set[int]:
        """Return the clients that ``recipient`` has complained about."""
        return set(unpack_entries(self._replies[ENCRYPTED_SHARES][recipient], SIGNATURE_BYTES))

    def _complaints_about(self, sender: int) -> dict[int, bytes]:
        """Return the complaints about ``sender``, by the complaining client."""
        replies = self._replies[ENCRYPTED_SHARES].items()
        complaints = {recipient: unpack_entries(content, SIGNATURE_BYTES) for recipient, content in replies}
        return {recipient: found[sender] for recipient, found in complaints.items() if sender in found}

    def _check_keys(self, client: int, content: bytes) -> None:
        """Raise an error where other clients would refuse these keys, which would end the round."""
        if len(content) != SIGNED_KEYS_BYTES:
            raise InvalidUpdate("the client's keys have the wrong length")
        check_key_form(content)
        check_distinct_keys({**self._replies[KEYS], client: content})
        if self._verify is not None:
            message = keys_message(self._number, content[:PUBLIC_KEYS_BYTES])
            self._verify(client, content[PUBLIC_KEYS_BYTES:], message)

    def check(self, upload: ProtectedUpdate, client: int = 0, number: int = 0) -> None:
        """Raise an error unless the payload is complete, and its client has signed the list of partners."""
        check_scheme(upload, SCHEME)
        check_size(upload, FINGERPRINT_BYTES + HEADER_BYTES + upload.length * self._width + SIGNATURE_BYTES)
        content = payload_from(upload, client, number)
        size = len(content) - SIGNATURE_BYTES
        if size != upload.length * self._width:
            raise InvalidUpdate(f"{size} bytes for {upload.length} values of {self._width} bytes each")
        signature = content[size:]
        message = partner_list_message(self._context, self._partners)
        self._check_signature(client, signature, message, "the list of partners")
        self._list_signatures[client] = signature

    def add(self, uploads: Sequence[ProtectedUpdate]) -> ProtectedUpdate:
        """Return the exact sum, which this server sees, of the clients in the latest ``unmask`` request.

        Raises
        ------
        InvalidUpdate
            Too few clients have revealed shares.
        """
        length = uploads[0].length
        total = np.zeros(length, dtype=f"<u{self._width}")
        for upload in uploads:
            total += np.frombuffer(verified_payload(upload)[:-SIGNATURE_BYTES], dtype=total.dtype)
        replies = self._replies[UNMASK].items()
        revealed = {client: unpack_entries(content, ELEMENT_BYTES) for client, content in replies}
        if len(revealed) < self._threshold:
            raise InvalidUpdate(f"{len(revealed)} clients unmask the sum, {self._threshold} are needed")
        present = {client: pairwise_public_key(self._replies[KEYS][client]) for client in self._present}
        for client in self._partners:
            secret = self._recover_secret(client, revealed)
            if client in present:
                total -= self_mask(secret, length, self._width)
            else:
                # The sum has the masks of the other clients with the dropout, but not the dropout's own.
                total += pairwise_mask_sum(secret, present, client, self._context, length, self._width)
        return make_envelope(SCHEME, length, total.tobytes())

    def _recover_secret(self, client: int, revealed: Mapping[int, Mapping[int, bytes]]) -> bytes:
        """Return the secret of a client from verified shares: shown in disputes, or revealed by other clients."""
        shown = unpack_entries(self._replies[DISPUTES].get(client, b""), SHARE_PAIR_BYTES)
        shares = {share_index(recipient): pair[self._recovered_part(client)] for recipient, pair in shown.items()}
        shares |= {share_index(holder): found[client] for holder, found in revealed.items() if client in found}
        return combine(shares, self._threshold)
