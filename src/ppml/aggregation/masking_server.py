"""The server under pairwise masks; :mod:`ppml.aggregation.masking` describes the protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from ppml.aggregation.envelope import FINGERPRINT_BYTES, HEADER_BYTES, payload_from, verified_payload, check_size, make_envelope
from ppml.aggregation.group import ELEMENT_BYTES
from ppml.aggregation.identities import SIGNATURE_BYTES, Verify
from ppml.aggregation.interfaces import ProtectedUpdate, check_scheme
from ppml.aggregation.masks import (
    DISPUTES,
    KEYS,
    PUBLIC_KEYS_BYTES,
    ENCRYPTED_SHARES_BYTES,
    ENCRYPTED_SHARES,
    PAIRWISE_KEY,
    SELF_MASK,
    SIGNED_KEYS_BYTES,
    SCHEME,
    SHARES,
    SHARE_PAIR_BYTES,
    UNMASK,
    round_context,
    complaint_message,
    shares_match,
    partner_list_message,
    share_context,
    pairwise_public_key,
    self_mask,
    self_mask_point,
    pack_entries,
    packed_entries_bytes,
    pairwise_mask_sum,
    share_index,
    parse_shares_reply,
    points_in_message,
    check_key_form,
    check_distinct_keys,
    keys_message,
    unpack_entries,
)
from ppml.aggregation.shamir import SECRET_INDEX, is_valid_sharing, share_matches_point, combine
from ppml.errors import InvalidUpdate


class MaskingServer:
    """The server: passes on what clients say to each other, adds uploads, and takes the masks from their sum.

    Parameters
    ----------
    threshold : int
        How many clients give what opens a sum.
    width : int
        Bytes a value.
    verify : callable or None
        Checks signatures of clients, so that a client whose keys, letters or complaints the others would refuse is
        left out before. None: the clients alone check them.
    """

    before: ClassVar[tuple[str, ...]] = (KEYS, SHARES, ENCRYPTED_SHARES, DISPUTES)
    after: ClassVar[tuple[str, ...]] = (UNMASK,)

    def __init__(self, threshold: int, width: int, verify: Verify | None = None) -> None:
        self._threshold, self._width, self._verify = threshold, width, verify
        self._number = 0
        self._heard: dict[str, dict[int, bytes]] = {}
        self._about = b""
        self._points: dict[int, dict[int, bytes]] = {}
        self._joined: dict[int, bytes] = {}
        self._present: tuple[int, ...] = ()
        self._partners: tuple[int, ...] = ()

    def request(self, step: str, clients: Sequence[int], number: int = 0) -> dict[int, bytes]:
        """Return what each of ``clients``, who have taken all steps of round ``number`` before, is told.

        Of disputes, those are told alone that others complain about.

        Raises
        ------
        InvalidUpdate
            They are too few.
        """
        if len(clients) < self._threshold:
            raise InvalidUpdate(f"{len(clients)} clients take part in its masks, {self._threshold} are needed")
        if step == KEYS:
            self._heard, self._points, self._number = {}, {}, number
        self._heard[step], self._present = {}, tuple(clients)
        match step:
            case "keys":
                return dict.fromkeys(clients, b"")
            case "shares":
                published = {client: self._heard[KEYS][client] for client in clients}
                self._about = round_context(self._number, published)
                return dict.fromkeys(clients, pack_entries(published))
            case "letters":
                letters = {sender: parse_shares_reply(self._heard[SHARES][sender])[1] for sender in clients}
                return {
                    reader: pack_entries({sender: letters[sender][reader] for sender in clients if sender != reader})
                    for reader in clients
                }
            case "disputes":
                complaints = {client: self._complaints_about(client) for client in clients}
                return {client: pack_entries(told) for client, told in complaints.items() if told}
            case "seal":
                self._partners, self._joined = self._present, {}
            case "unmask":
                return dict.fromkeys(clients, pack_entries({client: self._joined[client] for client in clients}))
        return dict.fromkeys(clients, pack_entries(dict.fromkeys(clients, b"")))

    def handle_reply(self, step: str, client: int, content: bytes) -> None:
        """Take what a client says.

        Raises
        ------
        InvalidUpdate
            It cannot be read, or is not what is asked for.
        """
        if len(content) > SHARE_PAIR_BYTES + packed_entries_bytes(len(self._present), ENCRYPTED_SHARES_BYTES):
            raise InvalidUpdate(f"{len(content)} bytes are more than any answer has")
        match step:
            case "keys":
                self._check_keys(client, content)
            case "shares":
                self._check_letters(client, content)
            case "letters":
                self._check_complaints(client, unpack_entries(content, SIGNATURE_BYTES))
            case "disputes":
                self._check_shown(client, unpack_entries(content, SHARE_PAIR_BYTES))
            case "unmask":
                self._check_given(client, unpack_entries(content, ELEMENT_BYTES))
        self._heard[step][client] = content

    def _check_letters(self, client: int, content: bytes) -> None:
        own, letters = parse_shares_reply(content)
        if letters.keys() != set(self._present) - {client}:
            raise InvalidUpdate("it does not send a share to each of the others")
        for reader, letter in letters.items():
            signed = share_context(self._about, client, reader) + letter[:-SIGNATURE_BYTES]
            self._check_signature(client, letter[-SIGNATURE_BYTES:], signed, f"its letter to client {reader}")
        points = {reader: points_in_message(letter) for reader, letter in letters.items()} | {client: own}
        published = self._heard[KEYS][client]
        for part, point in ((SELF_MASK, self_mask_point(published)), (PAIRWISE_KEY, pairwise_public_key(published))):
            shares = {share_index(reader): both[part] for reader, both in points.items()}
            if not is_valid_sharing({SECRET_INDEX: point, **shares}, self._threshold):
                raise InvalidUpdate("the shares that it sends are not of the secrets that its keys are of")
        self._points[client] = points

    def _check_complaints(self, client: int, complaints: Mapping[int, bytes]) -> None:
        if not complaints.keys() <= set(self._present) - {client}:
            raise InvalidUpdate("it complains about clients that have sent it no letter")
        for sender, signature in complaints.items():
            signed = complaint_message(self._about, sender, client)
            self._check_signature(client, signature, signed, f"its complaint about client {sender}")

    def _check_shown(self, client: int, shown: Mapping[int, bytes]) -> None:
        if shown.keys() != self._complaints_about(client).keys():
            raise InvalidUpdate("it does not show the shares that others could not read")
        for reader, shares in shown.items():
            if not shares_match(shares, self._points[client][reader]):
                raise InvalidUpdate(f"it shows other shares than it has sent to client {reader}")

    def _check_given(self, client: int, shares: Mapping[int, bytes]) -> None:
        if shares.keys() != set(self._partners) - self._complaints_of(client):
            raise InvalidUpdate("it does not give a share of each client's secret")
        for sender, share in shares.items():
            if not share_matches_point(share, self._points[sender][client][self._part_of(sender)]):
                raise InvalidUpdate(f"it gives another share than client {sender} has sent it")

    def _part_of(self, client: int) -> slice:
        """Return which secret of a client is given back: of one whose upload is there, that of its own mask."""
        return SELF_MASK if client in self._present else PAIRWISE_KEY

    def _check_signature(self, client: int, signature: bytes, message: bytes, name: str) -> None:
        if self._verify is None:
            return
        try:
            self._verify(client, signature, message)
        except InvalidUpdate:
            raise InvalidUpdate(f"{name} does not have its signature, or is of other keys") from None

    def _complaints_of(self, reader: int) -> set[int]:
        """Return the clients that ``reader`` has complained about."""
        return set(unpack_entries(self._heard[ENCRYPTED_SHARES][reader], SIGNATURE_BYTES))

    def _complaints_about(self, sender: int) -> dict[int, bytes]:
        """Return the complaints about ``sender`` of all that have read their letters, by who complains."""
        heard = {reader: unpack_entries(content, SIGNATURE_BYTES) for reader, content in self._heard[ENCRYPTED_SHARES].items()}
        return {reader: complaints[sender] for reader, complaints in heard.items() if sender in complaints}

    def _check_keys(self, client: int, content: bytes) -> None:
        """Raise an error where the others could not use these keys: all would refuse, and no sum be opened."""
        if len(content) != SIGNED_KEYS_BYTES:
            raise InvalidUpdate("what it sends are no keys")
        check_key_form(content)
        check_distinct_keys({**self._heard[KEYS], client: content})
        if self._verify is not None:
            self._verify(client, content[PUBLIC_KEYS_BYTES:], keys_message(self._number, content[:PUBLIC_KEYS_BYTES]))

    def check(self, sealed: ProtectedUpdate, client: int = 0, number: int = 0) -> None:
        """Raise an error unless the payload is whole, and its client has joined those that were named to all."""
        check_scheme(sealed, SCHEME)
        check_size(sealed, FINGERPRINT_BYTES + HEADER_BYTES + sealed.length * self._width + SIGNATURE_BYTES)
        content = payload_from(sealed, client, number)
        found = len(content) - SIGNATURE_BYTES
        if found != sealed.length * self._width:
            raise InvalidUpdate(f"{found} bytes for {sealed.length} values of {self._width} bytes each")
        signature = content[found:]
        self._check_signature(client, signature, partner_list_message(self._about, self._partners), "the list of its partners")
        self._joined[client] = signature

    def add(self, sealed: Sequence[ProtectedUpdate]) -> ProtectedUpdate:
        """Return the exact sum, which this server sees, of the clients that were told to unmask it, in their order.

        Raises
        ------
        InvalidUpdate
            Too few clients have given shares of what the masks come from.
        """
        length = sealed[0].length
        total = np.zeros(length, dtype=f"<u{self._width}")
        for one in sealed:
            total += np.frombuffer(verified_payload(one)[:-SIGNATURE_BYTES], dtype=total.dtype)
        given = {client: unpack_entries(content, ELEMENT_BYTES) for client, content in self._heard[UNMASK].items()}
        if len(given) < self._threshold:
            raise InvalidUpdate(f"{len(given)} clients unmask it, {self._threshold} are needed")
        present = {client: pairwise_public_key(self._heard[KEYS][client]) for client in self._present}
        for client in self._partners:
            secret = self._recovered(client, given)
            if client in present:
                total -= self_mask(secret, length, self._width)
            else:
                # What the others have in common with it is in the sum, and it is not.
                total += pairwise_mask_sum(secret, present, client, self._about, length, self._width)
        return make_envelope(SCHEME, length, total.tobytes())

    def _recovered(self, client: int, given: Mapping[int, Mapping[int, bytes]]) -> bytes:
        """Return the secret of a client from its shares, all of which were checked: those given, those it has shown."""
        shown = unpack_entries(self._heard[DISPUTES].get(client, b""), SHARE_PAIR_BYTES)
        shares = {share_index(reader): both[self._part_of(client)] for reader, both in shown.items()}
        shares |= {share_index(giver): one[client] for giver, one in given.items() if client in one}
        return combine(shares, self._threshold)
