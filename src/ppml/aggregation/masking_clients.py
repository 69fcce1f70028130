"""The clients under pairwise masks; :mod:`ppml.aggregation.masking` describes the protocol."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from ppml.aggregation.envelope import verified_payload, header_of, make_envelope
from ppml.aggregation.fixed_point import Grid
from ppml.aggregation.group import random_scalar, base_multiple
from ppml.aggregation.hpke import ClassicalKey, DecryptionError, encrypt_classical
from ppml.aggregation.identities import SIGNATURE_BYTES, KeyDirectory, KeyRegister, ClientSigners, signature_verifier
from ppml.aggregation.interfaces import ProtectedUpdate
from ppml.aggregation.masks import (
    KEYS,
    PUBLIC_KEYS_BYTES,
    ENCRYPTED_SHARES_BYTES,
    PAIRWISE_KEY,
    SELF_MASK,
    SIGNED_KEYS_BYTES,
    SCHEME,
    round_context,
    complaint_message,
    shares_match,
    partner_list_message,
    share_context,
    pairwise_public_key,
    self_mask,
    pack_entries,
    pairwise_mask_sum,
    share_index,
    points_in_message,
    share_points,
    check_key_form,
    check_distinct_keys,
    keys_message,
    unpack_entries,
)
from ppml.aggregation.primitives import KEY_BYTES
from ppml.aggregation.shamir import split
from ppml.errors import InvalidUpdate


@dataclass
class MaskingState:
    """What a client has for one round, and forgets in the next.

    Parameters
    ----------
    number : int
        The round.
    for_letters : ClassicalKey
        What others encrypt their letters to.
    for_masks, own : bytes
        The two secrets that it divides: its key for pairwise masks, and the secret of its own mask.
    publics : dict of int to bytes
        What each client that takes part has published.
    about : bytes
        What masks and letters are bound to.
    sent : dict of int to bytes
        The two shares of its own secrets that it has sent to each other client.
    senders : frozenset of int
        The clients whose letters it was given; empty before.
    held : dict of int to bytes
        The two shares that it holds of each client's secrets, its own included, where it could open the letter.
    partners : frozenset of int
        The clients, itself included, that have masks in common; empty before the server has named them.
    sealed, unmasked : bool
        Whether it has sealed an update, and given shares away.
    """

    number: int
    for_letters: ClassicalKey = field(default_factory=ClassicalKey)
    for_masks: bytes = field(default_factory=random_scalar)
    own: bytes = field(default_factory=random_scalar)
    publics: dict[int, bytes] = field(default_factory=dict)
    about: bytes = b""
    sent: dict[int, bytes] = field(default_factory=dict)
    senders: frozenset[int] = frozenset()
    held: dict[int, bytes] = field(default_factory=dict)
    partners: frozenset[int] = frozenset()
    sealed: bool = False
    unmasked: bool = False

    @property
    def masks_of(self) -> dict[int, bytes]:
        """The public key for pairwise masks of each client that it has masks in common with."""
        return {client: pairwise_public_key(self.publics[client]) for client in sorted(self.partners)}

    def keys(self) -> bytes:
        """Return what everybody gets to know: the public key for letters, and the points of both secrets."""
        return self.for_letters.public + base_multiple(self.for_masks) + base_multiple(self.own)


class MaskingClients:
    """The clients of one process; each has what is its own, and none looks at another's.

    Parameters
    ----------
    threshold : int
        How many clients give the server what opens a sum.
    most : int
        How many are asked in a round. More would let the server tell two groups of different sums, and overflow.
    width : int
        Bytes a value.
    register : Keys or None
        Where the clients' signing keys are registered, which the server has no part in. None: the clients of this
        process are all that there are, and have a register among themselves.
    """

    def __init__(self, threshold: int, most: int, width: int, register: KeyDirectory | None = None) -> None:
        self._threshold, self._most, self._width = threshold, most, width
        register = KeyRegister() if register is None else register
        self._signers, self._verify = ClientSigners(register.take), signature_verifier(register)
        self._turns: dict[int, MaskingState] = {}

    def respond(self, step: str, client: int, number: int, content: bytes) -> bytes:
        """Do one step of a round.

        Raises
        ------
        InvalidUpdate
            What the server says does not fit what it has said, or would open more than a sum.
        """
        if step == KEYS:
            keys = self._begin(client, number).keys()
            return keys + self._signers.sign(client, keys_message(number, keys))
        turn = self._turn(client, number)
        match step:
            case "shares":
                return self._divide(turn, client, unpack_entries(content, SIGNED_KEYS_BYTES))
            case "letters":
                return self._read(turn, client, unpack_entries(content, ENCRYPTED_SHARES_BYTES))
            case "disputes":
                return self._show(turn, client, unpack_entries(content, SIGNATURE_BYTES))
            case "seal":
                return self._join(turn, client, unpack_entries(content, 0).keys())
            case "unmask":
                return self._unmask(turn, client, unpack_entries(content, SIGNATURE_BYTES))
        raise InvalidUpdate(f"there is no step {step!r} in this aggregation")

    def _begin(self, client: int, number: int) -> MaskingState:
        # In a second turn of one round it would send the same update, among others: two sums would differ by one.
        if client in self._turns and number <= self._turns[client].number:
            raise InvalidUpdate(f"it has had its turn in round {number}")
        self._turns[client] = MaskingState(number)
        return self._turns[client]

    def _turn(self, client: int, number: int) -> MaskingState:
        turn = self._turns.get(client)
        if turn is None or turn.number != number:
            raise InvalidUpdate(f"it has no keys of round {number}")
        return turn

    def _divide(self, turn: MaskingState, client: int, publics: dict[int, bytes]) -> bytes:
        if turn.publics:
            raise InvalidUpdate("its secrets are divided already")
        if client not in publics or publics[client][:PUBLIC_KEYS_BYTES] != turn.keys():
            raise InvalidUpdate("the keys that the server passes on are not those that were sent")
        if not self._threshold <= len(publics) <= self._most:
            raise InvalidUpdate(f"{len(publics)} clients take part, {self._threshold} to {self._most} are needed")
        check_distinct_keys(publics)
        for other in publics.keys() - {client}:
            check_key_form(publics[other])
            keys, signature = publics[other][:PUBLIC_KEYS_BYTES], publics[other][PUBLIC_KEYS_BYTES:]
            self._verify(other, signature, keys_message(turn.number, keys))
        turn.publics, turn.about = publics, round_context(turn.number, publics)
        places = list(map(share_index, publics))
        own = split(turn.own, places, self._threshold)
        key = split(turn.for_masks, places, self._threshold)
        both = {other: own[share_index(other)] + key[share_index(other)] for other in publics}
        turn.held, turn.sent = {client: both.pop(client)}, both
        letters = {other: self._letter(turn, client, other, shares) for other, shares in both.items()}
        return share_points(turn.held[client]) + pack_entries(letters)

    def _letter(self, turn: MaskingState, client: int, other: int, shares: bytes) -> bytes:
        about = share_context(turn.about, client, other)
        message = encrypt_classical(shares, turn.publics[other][:KEY_BYTES], about) + share_points(shares)
        return message + self._signers.sign(client, about + message)

    def _read(self, turn: MaskingState, client: int, letters: dict[int, bytes]) -> bytes:
        """Open the letters; return a signed complaint about each sender of one that gives no shares of its points."""
        if turn.senders or not letters.keys() <= turn.sent.keys():
            raise InvalidUpdate("shares of clients that do not take part, or twice")
        if len(letters) + 1 < self._threshold:
            raise InvalidUpdate(f"{len(letters) + 1} clients have divided their secrets, {self._threshold} are needed")
        for sender, letter in letters.items():
            self._refuse_unsigned(turn, client, sender, letter)
        turn.senders = frozenset(letters)
        complaints = {}
        for sender, letter in letters.items():
            try:
                turn.held[sender] = _decrypt_shares(letter, turn.for_letters, share_context(turn.about, sender, client))
            except DecryptionError:
                complaints[sender] = self._signers.sign(client, complaint_message(turn.about, sender, client))
        return pack_entries(complaints)

    def _refuse_unsigned(self, turn: MaskingState, client: int, sender: int, letter: bytes) -> None:
        # The server has checked this signature by the list that it has shown. A complaint about the sender would have
        # that client show shares, for what the server or the list has done.
        try:
            self._verify(sender, letter[-SIGNATURE_BYTES:], share_context(turn.about, sender, client) + letter[:-SIGNATURE_BYTES])
        except InvalidUpdate:
            raise InvalidUpdate(
                f"the shares that client {sender} sent cannot be read: they were altered, or the two clients were "
                "shown different keys"
            ) from None

    def _show(self, turn: MaskingState, client: int, complaints: dict[int, bytes]) -> bytes:
        """Return, for each client that complains, the two shares that it was sent: only these, which are its own."""
        # Nothing is there to show once the clients of the sum are named.
        if not complaints.keys() <= turn.sent.keys():
            raise InvalidUpdate("complaints of clients that do not take part, or after the clients of the sum were named")
        for reader, signature in complaints.items():
            self._verify(reader, signature, complaint_message(turn.about, client, reader))
        return pack_entries({reader: turn.sent[reader] for reader in complaints})

    def _join(self, turn: MaskingState, client: int, partners: Collection[int]) -> bytes:
        """Take the list of the clients that have masks in common, before anything is sealed."""
        if turn.partners or client not in partners or not set(partners) <= turn.senders | {client}:
            raise InvalidUpdate("clients that have sent it no shares are to have masks in common with it, or a second list")
        if len(partners) < self._threshold:
            raise InvalidUpdate(f"{len(partners)} clients have masks in common, {self._threshold} are needed")
        turn.partners, turn.sent = frozenset(partners), {}
        turn.held = {other: shares for other, shares in turn.held.items() if other in turn.partners}
        return b""

    def protect(self, update: Grid, client: int = 0, number: int = 0) -> ProtectedUpdate:
        """Return ``update`` with its own mask and those that it has in common with the others."""
        turn = self._turn(client, number)
        if not turn.partners:
            raise InvalidUpdate("nobody has a share of what its masks come from")
        # Two updates under the same masks would show what they differ by.
        if turn.sealed:
            raise InvalidUpdate("it has sealed an update of this round already")
        turn.sealed = True
        masked = update.astype(f"<i{self._width}").view(f"<u{self._width}")
        masked = masked + self_mask(turn.own, len(update), self._width)
        masked = masked + pairwise_mask_sum(turn.for_masks, turn.masks_of, client, turn.about, len(update), self._width)
        # The others help to open a sum of those alone that have this client's list.
        signature = self._signers.sign(client, partner_list_message(turn.about, turn.partners))
        return make_envelope(SCHEME, len(update), masked.tobytes() + signature, header_of(client, number))

    def _unmask(self, turn: MaskingState, client: int, signatures: Mapping[int, bytes]) -> bytes:
        """Return a share of the own mask of each partner that is present, of the key of each other one.

        Parameters
        ----------
        turn : Turn
            The state of the client in this round.
        client : int
            Its number.
        signatures : mapping of int to bytes
            The signature of each client that is present, under its list of the clients that have masks in common.
        """
        present = set(signatures)
        if turn.unmasked:
            raise InvalidUpdate("it has given its shares of this round already")
        if not turn.sealed or client not in present:
            raise InvalidUpdate("it has sealed no update of this round, or is said to be lost")
        if not present <= turn.partners or len(present) < self._threshold:
            raise InvalidUpdate(f"a sum of {len(present)} clients is not opened, of {self._threshold} it would be")
        for other in present - {client}:
            self._verify(other, signatures[other], partner_list_message(turn.about, turn.partners))
        # Before anything is given: the server that asks again, with other clients, gets nothing.
        turn.unmasked = True
        given = {}
        for other, shares in turn.held.items():
            given[other] = shares[SELF_MASK if other in present else PAIRWISE_KEY]
        return pack_entries(given)

    def reveal(self, total: ProtectedUpdate) -> Grid:
        """Return the sum, which the server has unmasked."""
        return np.frombuffer(verified_payload(total), dtype=f"<i{self._width}").astype(np.int64)


def _decrypt_shares(letter: bytes, key: ClassicalKey, about: bytes) -> bytes:
    """Return the two shares in a letter, or raise :class:`DecryptionError`: also where they are not those of its points."""
    points = points_in_message(letter)
    shares = key.decrypt(letter[: -SIGNATURE_BYTES - len(points)], about)
    if not shares_match(shares, points):
        raise DecryptionError("the shares in it are not those of its points")
    return shares
