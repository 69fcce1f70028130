"""The server under pairwise masks; :mod:`ppml.aggregation.masking` describes the protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from ppml.aggregation.envelope import MARK, ORIGIN, content_from, content_of, refuse_excess, sealed_of
from ppml.aggregation.group import BYTES
from ppml.aggregation.identities import SIGNATURE, Verify
from ppml.aggregation.interfaces import BadUpdate, Sealed, refuse_scheme
from ppml.aggregation.masks import (
    DISPUTES,
    KEYS,
    KEYS_BYTES,
    LETTER,
    LETTERS,
    MASK_KEY,
    OWN_MASK,
    PUBLISHED,
    SCHEME,
    SHARES,
    TWO,
    UNMASK,
    bound_to,
    complaint,
    fit,
    joined,
    letter_to,
    mask_key,
    own_mask,
    own_point,
    packed,
    packed_size,
    pairwise,
    place_of,
    points_and_letters,
    points_in,
    refuse_other_form,
    refuse_repeated,
    signed_keys,
    unpacked,
)
from ppml.aggregation.shamir import SECRET, are_of_one_secret, is_share, together


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

    before: ClassVar[tuple[str, ...]] = (KEYS, SHARES, LETTERS, DISPUTES)
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

    def tell(self, step: str, clients: Sequence[int], number: int = 0) -> dict[int, bytes]:
        """Return what each of ``clients``, who have taken all steps of round ``number`` before, is told.

        Of disputes, those are told alone that others complain about.

        Raises
        ------
        BadUpdate
            They are too few.
        """
        if len(clients) < self._threshold:
            raise BadUpdate(f"{len(clients)} clients take part in its masks, {self._threshold} are needed")
        if step == KEYS:
            self._heard, self._points, self._number = {}, {}, number
        self._heard[step], self._present = {}, tuple(clients)
        match step:
            case "keys":
                return dict.fromkeys(clients, b"")
            case "shares":
                published = {client: self._heard[KEYS][client] for client in clients}
                self._about = bound_to(self._number, published)
                return dict.fromkeys(clients, packed(published))
            case "letters":
                letters = {sender: points_and_letters(self._heard[SHARES][sender])[1] for sender in clients}
                return {
                    reader: packed({sender: letters[sender][reader] for sender in clients if sender != reader})
                    for reader in clients
                }
            case "disputes":
                complaints = {client: self._complaints_about(client) for client in clients}
                return {client: packed(told) for client, told in complaints.items() if told}
            case "seal":
                self._partners, self._joined = self._present, {}
            case "unmask":
                return dict.fromkeys(clients, packed({client: self._joined[client] for client in clients}))
        return dict.fromkeys(clients, packed(dict.fromkeys(clients, b"")))

    def hear(self, step: str, client: int, content: bytes) -> None:
        """Take what a client says.

        Raises
        ------
        BadUpdate
            It cannot be read, or is not what is asked for.
        """
        if len(content) > TWO + packed_size(len(self._present), LETTER):
            raise BadUpdate(f"{len(content)} bytes are more than any answer has")
        match step:
            case "keys":
                self._check_keys(client, content)
            case "shares":
                self._check_letters(client, content)
            case "letters":
                self._check_complaints(client, unpacked(content, SIGNATURE))
            case "disputes":
                self._check_shown(client, unpacked(content, TWO))
            case "unmask":
                self._check_given(client, unpacked(content, BYTES))
        self._heard[step][client] = content

    def _check_letters(self, client: int, content: bytes) -> None:
        own, letters = points_and_letters(content)
        if letters.keys() != set(self._present) - {client}:
            raise BadUpdate("it does not send a share to each of the others")
        for reader, letter in letters.items():
            signed = letter_to(self._about, client, reader) + letter[:-SIGNATURE]
            self._check_signature(client, letter[-SIGNATURE:], signed, f"its letter to client {reader}")
        points = {reader: points_in(letter) for reader, letter in letters.items()} | {client: own}
        published = self._heard[KEYS][client]
        for part, point in ((OWN_MASK, own_point(published)), (MASK_KEY, mask_key(published))):
            shares = {place_of(reader): both[part] for reader, both in points.items()}
            if not are_of_one_secret({SECRET: point, **shares}, self._threshold):
                raise BadUpdate("the shares that it sends are not of the secrets that its keys are of")
        self._points[client] = points

    def _check_complaints(self, client: int, complaints: Mapping[int, bytes]) -> None:
        if not complaints.keys() <= set(self._present) - {client}:
            raise BadUpdate("it complains about clients that have sent it no letter")
        for sender, signature in complaints.items():
            signed = complaint(self._about, sender, client)
            self._check_signature(client, signature, signed, f"its complaint about client {sender}")

    def _check_shown(self, client: int, shown: Mapping[int, bytes]) -> None:
        if shown.keys() != self._complaints_about(client).keys():
            raise BadUpdate("it does not show the shares that others could not read")
        for reader, shares in shown.items():
            if not fit(shares, self._points[client][reader]):
                raise BadUpdate(f"it shows other shares than it has sent to client {reader}")

    def _check_given(self, client: int, shares: Mapping[int, bytes]) -> None:
        if shares.keys() != set(self._partners) - self._complaints_of(client):
            raise BadUpdate("it does not give a share of each client's secret")
        for sender, share in shares.items():
            if not is_share(share, self._points[sender][client][self._part_of(sender)]):
                raise BadUpdate(f"it gives another share than client {sender} has sent it")

    def _part_of(self, client: int) -> slice:
        """Return which secret of a client is given back: of one whose upload is there, that of its own mask."""
        return OWN_MASK if client in self._present else MASK_KEY

    def _check_signature(self, client: int, signature: bytes, message: bytes, name: str) -> None:
        if self._verify is None:
            return
        try:
            self._verify(client, signature, message)
        except BadUpdate:
            raise BadUpdate(f"{name} does not have its signature, or is of other keys") from None

    def _complaints_of(self, reader: int) -> set[int]:
        """Return the clients that ``reader`` has complained about."""
        return set(unpacked(self._heard[LETTERS][reader], SIGNATURE))

    def _complaints_about(self, sender: int) -> dict[int, bytes]:
        """Return the complaints about ``sender`` of all that have read their letters, by who complains."""
        heard = {reader: unpacked(content, SIGNATURE) for reader, content in self._heard[LETTERS].items()}
        return {reader: complaints[sender] for reader, complaints in heard.items() if sender in complaints}

    def _check_keys(self, client: int, content: bytes) -> None:
        """Raise an error where the others could not use these keys: all would refuse, and no sum be opened."""
        if len(content) != PUBLISHED:
            raise BadUpdate("what it sends are no keys")
        refuse_other_form(content)
        refuse_repeated({**self._heard[KEYS], client: content})
        if self._verify is not None:
            self._verify(client, content[KEYS_BYTES:], signed_keys(self._number, content[:KEYS_BYTES]))

    def check(self, sealed: Sealed, client: int = 0, number: int = 0) -> None:
        """Raise an error unless the payload is whole, and its client has joined those that were named to all."""
        refuse_scheme(sealed, SCHEME)
        refuse_excess(sealed, MARK + ORIGIN + sealed.length * self._width + SIGNATURE)
        content = content_from(sealed, client, number)
        found = len(content) - SIGNATURE
        if found != sealed.length * self._width:
            raise BadUpdate(f"{found} bytes for {sealed.length} values of {self._width} bytes each")
        signature = content[found:]
        self._check_signature(client, signature, joined(self._about, self._partners), "the list of its partners")
        self._joined[client] = signature

    def add(self, sealed: Sequence[Sealed]) -> Sealed:
        """Return the exact sum, which this server sees, of the clients that were told to unmask it, in their order.

        Raises
        ------
        BadUpdate
            Too few clients have given shares of what the masks come from.
        """
        length = sealed[0].length
        total = np.zeros(length, dtype=f"<u{self._width}")
        for one in sealed:
            total += np.frombuffer(content_of(one)[:-SIGNATURE], dtype=total.dtype)
        given = {client: unpacked(content, BYTES) for client, content in self._heard[UNMASK].items()}
        if len(given) < self._threshold:
            raise BadUpdate(f"{len(given)} clients unmask it, {self._threshold} are needed")
        present = {client: mask_key(self._heard[KEYS][client]) for client in self._present}
        for client in self._partners:
            secret = self._recovered(client, given)
            if client in present:
                total -= own_mask(secret, length, self._width)
            else:
                # What the others have in common with it is in the sum, and it is not.
                total += pairwise(secret, present, client, self._about, length, self._width)
        return sealed_of(SCHEME, length, total.tobytes())

    def _recovered(self, client: int, given: Mapping[int, Mapping[int, bytes]]) -> bytes:
        """Return the secret of a client from its shares, all of which were checked: those given, those it has shown."""
        shown = unpacked(self._heard[DISPUTES].get(client, b""), TWO)
        shares = {place_of(reader): both[self._part_of(client)] for reader, both in shown.items()}
        shares |= {place_of(giver): one[client] for giver, one in given.items() if client in one}
        return together(shares, self._threshold)
