"""The server under pairwise masks; :mod:`ppml.aggregation.masking` describes the protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import ClassVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from ppml.aggregation.checksum import MARK, ORIGIN, content_from, content_of, mark_of, refuse_excess, sealed_of
from ppml.aggregation.identities import SIGNATURE, Verify
from ppml.aggregation.masks import (
    DISPUTES,
    KEYS,
    KEYS_BYTES,
    LETTER,
    LETTERS,
    PUBLISHED,
    SCHEME,
    SHARES,
    UNMASK,
    bound_to,
    complaint,
    letter_to,
    mask_key,
    packed,
    pairwise,
    place_of,
    refuse_repeated,
    signed_keys,
    unpacked,
)
from ppml.aggregation.protocol import BadUpdate, Sealed, refuse_scheme
from ppml.aggregation.shamir import BYTES, together
from ppml.aggregation.streams import KEY, agreed_key, stream

WRONG = 2
"""So many clients may give wrong shares, if as many more give theirs than the threshold says."""


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
            self._heard, self._number = {}, number
        self._heard[step], self._present = {}, tuple(clients)
        match step:
            case "keys":
                return dict.fromkeys(clients, b"")
            case "shares":
                published = {client: self._heard[KEYS][client] for client in clients}
                self._about = bound_to(self._number, published)
                return dict.fromkeys(clients, packed(published))
            case "letters":
                letters = {sender: unpacked(self._heard[SHARES][sender], LETTER) for sender in clients}
                return {
                    reader: packed({sender: letters[sender][reader] for sender in clients if sender != reader})
                    for reader in clients
                }
            case "disputes":
                complaints = {client: self._complaints_about(client) for client in clients}
                return {client: packed(told) for client, told in complaints.items() if told}
            case "seal":
                self._partners = self._present
        return dict.fromkeys(clients, packed(dict.fromkeys(clients, b"")))

    def hear(self, step: str, client: int, content: bytes) -> None:
        """Take what a client says.

        Raises
        ------
        BadUpdate
            It cannot be read, or is not what is asked for.
        """
        match step:
            case "keys":
                self._check_keys(client, content)
            case "shares":
                self._check_letters(client, unpacked(content, LETTER))
            case "letters":
                self._check_complaints(client, unpacked(content, SIGNATURE))
            case "disputes" if unpacked(content, 2 * BYTES).keys() != self._complaints_about(client).keys():
                raise BadUpdate("it does not show the shares that others could not read")
            case "unmask" if unpacked(content, BYTES).keys() != set(self._partners) - self._complaints_of(client):
                raise BadUpdate("it does not give a share of each client's secret")
        self._heard[step][client] = content

    def _check_letters(self, client: int, letters: Mapping[int, bytes]) -> None:
        if letters.keys() != set(self._present) - {client}:
            raise BadUpdate("it does not send a share to each of the others")
        if self._verify is None:
            return
        for reader, letter in letters.items():
            signed = letter_to(self._about, client, reader) + letter[:-SIGNATURE]
            self._check_signature(client, letter[-SIGNATURE:], signed, f"its letter to client {reader}")

    def _check_complaints(self, client: int, complaints: Mapping[int, bytes]) -> None:
        if not complaints.keys() <= set(self._present) - {client}:
            raise BadUpdate("it complains about clients that have sent it no letter")
        for sender, signature in complaints.items():
            signed = complaint(self._about, sender, client)
            self._check_signature(client, signature, signed, f"its complaint about client {sender}")

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
        try:
            for start in (0, KEY):
                agreed_key(X25519PrivateKey.generate(), content[start : start + KEY], b"")
        except ValueError:
            raise BadUpdate("what it sends are no keys") from None
        refuse_repeated({**self._heard[KEYS], client: content})
        if self._verify is not None:
            self._verify(client, content[KEYS_BYTES:], signed_keys(self._number, content[:KEYS_BYTES]))

    def check(self, sealed: Sealed, client: int = 0, number: int = 0) -> None:
        """Raise an error unless the payload is whole."""
        refuse_scheme(sealed, SCHEME)
        refuse_excess(sealed, MARK + ORIGIN + sealed.length * self._width)
        found = len(content_from(sealed, client, number))
        if found != sealed.length * self._width:
            raise BadUpdate(f"{found} bytes for {sealed.length} values of {self._width} bytes each")

    def add(self, sealed: Sequence[Sealed]) -> Sealed:
        """Return the exact sum, which this server sees, of the clients that were told to unmask it, in their order.

        Raises
        ------
        BadUpdate
            Too few clients have given what the masks come from, or too many of them something else.
        """
        length = sealed[0].length
        total = np.zeros(length, dtype=f"<u{self._width}")
        for one in sealed:
            total += np.frombuffer(content_of(one), dtype=total.dtype)
        given = {client: unpacked(content, BYTES) for client, content in self._heard[UNMASK].items()}
        if len(given) < self._threshold:
            raise BadUpdate(f"{len(given)} clients unmask it, {self._threshold} are needed")
        present = {client: self._mask_key(client) for client in self._present}
        wrong: set[int] = set()
        for client in self._partners:
            shares = self._shares_of(client, given)
            if client in present:
                total -= stream(self._recovered(client, shares, wrong, self._is_own), length, self._width)
            else:
                # What the others have in common with it is in the sum, and it is not.
                key = X25519PrivateKey.from_private_bytes(self._recovered(client, shares, wrong, self._is_key))
                total += pairwise(key, present, client, self._about, length, self._width)
        return sealed_of(SCHEME, length, total.tobytes())

    def _shares_of(self, client: int, given: Mapping[int, Mapping[int, bytes]]) -> dict[int, bytes]:
        """Return the shares of a secret of ``client``, by their places: those given, and those that it has shown."""
        part = slice(0, BYTES) if client in self._present else slice(BYTES, 2 * BYTES)
        shown = unpacked(self._heard[DISPUTES].get(client, b""), 2 * BYTES)
        shares = {place_of(reader): both[part] for reader, both in shown.items()}
        return shares | {place_of(giver): one[client] for giver, one in given.items() if client in one}

    def _recovered(
        self, client: int, shares: Mapping[int, bytes], wrong: set[int], fits: Callable[[int, bytes], bool]
    ) -> bytes:
        """Return the secret of ``client`` that its shares give, and note of whom some are ``wrong``."""
        # Whose were found wrong before come last, where they are not needed.
        places = sorted(shares, key=lambda place: (place in wrong, place))
        for left_out in few_of(places, self._threshold):
            right = [place for place in places if place not in left_out][: self._threshold]
            secret = together({place: shares[place] for place in right}, self._threshold)
            if fits(client, secret):
                wrong.update(left_out)
                return secret
        raise BadUpdate(f"the shares of what the masks of client {client} come from do not fit together")

    def _is_own(self, client: int, secret: bytes) -> bool:
        return mark_of(secret) == self._heard[KEYS][client][2 * KEY : KEYS_BYTES]

    def _is_key(self, client: int, secret: bytes) -> bool:
        public = X25519PrivateKey.from_private_bytes(secret).public_key()
        return public.public_bytes_raw() == self._mask_key(client)

    def _mask_key(self, client: int) -> bytes:
        return mask_key(self._heard[KEYS][client])


def few_of(places: Sequence[int], least: int) -> Iterator[tuple[int, ...]]:
    """Yield which of ``places`` to leave out, few before many, so that the first ``least`` of the rest are others.

    Examples
    --------
    >>> list(few_of([1, 2, 3], least=2))
    [(), (1,), (2,), (3,)]
    """
    for count in range(min(WRONG, len(places) - least) + 1):
        yield from combinations(places[: least + count], count)
