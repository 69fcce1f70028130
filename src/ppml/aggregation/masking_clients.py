"""The clients of secure aggregation; :mod:`ppml.aggregation.masking` describes the protocol."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from ppml.aggregation.envelope import header_of, make_envelope, verified_payload
from ppml.aggregation.fixed_point import Grid
from ppml.aggregation.group import base_multiple, random_scalar
from ppml.aggregation.hpke import ClassicalKey, DecryptionError, encrypt_classical
from ppml.aggregation.identities import (
    SIGNATURE_BYTES,
    ClientSigners,
    KeyDirectory,
    KeyRegister,
    signature_verifier,
)
from ppml.aggregation.interfaces import ProtectedUpdate
from ppml.aggregation.masks import (
    KEYS,
    PAIRWISE_KEY,
    PUBLIC_KEYS_BYTES,
    SCHEME,
    SELF_MASK,
    SHARE_MESSAGE_BYTES,
    SIGNED_KEYS_BYTES,
    check_distinct_keys,
    check_key_form,
    complaint_message,
    keys_message,
    pack_entries,
    pairwise_mask_sum,
    pairwise_public_key,
    partner_list_message,
    points_in_message,
    round_context,
    self_mask,
    share_context,
    share_index,
    share_points,
    shares_match,
    unpack_entries,
)
from ppml.aggregation.primitives import KEY_BYTES
from ppml.aggregation.shamir import split
from ppml.errors import InvalidUpdate


@dataclass
class MaskingState:
    """The state of a client in one round, replaced in the next.

    Parameters
    ----------
    number : int
        The round.
    encryption_key : ClassicalKey
        Key pair for share messages to this client.
    pairwise_secret, self_mask_secret : bytes
        The two secrets that the client splits.
    advertised : dict of int to bytes
        Advertised keys by client.
    context : bytes
        Context of masks and share messages.
    sent_shares : dict of int to bytes
        Pairs of shares of this client's secrets, by recipient.
    senders : frozenset of int
        Clients whose share messages arrived; empty before that step.
    held_shares : dict of int to bytes
        Pairs of shares of each client's secrets, its own included, where the message could be decrypted.
    partners : frozenset of int
        Clients with common masks, itself included; empty before the server names them.
    uploaded, revealed : bool
        Whether the client has protected an update, and revealed shares.
    """

    number: int
    encryption_key: ClassicalKey = field(default_factory=ClassicalKey)
    pairwise_secret: bytes = field(default_factory=random_scalar)
    self_mask_secret: bytes = field(default_factory=random_scalar)
    advertised: dict[int, bytes] = field(default_factory=dict)
    context: bytes = b""
    sent_shares: dict[int, bytes] = field(default_factory=dict)
    senders: frozenset[int] = frozenset()
    held_shares: dict[int, bytes] = field(default_factory=dict)
    partners: frozenset[int] = frozenset()
    uploaded: bool = False
    revealed: bool = False

    @property
    def partner_keys(self) -> dict[int, bytes]:
        """The public pairwise keys of the partners."""
        return {client: pairwise_public_key(self.advertised[client]) for client in sorted(self.partners)}

    def public_keys(self) -> bytes:
        """Return the public encryption key, and the points of both secrets."""
        return self.encryption_key.public + base_multiple(self.pairwise_secret) + base_multiple(self.self_mask_secret)


class MaskingClients:
    """The clients of one process, each with a state of its own.

    Parameters
    ----------
    threshold : int
        Number of clients whose shares reveal a sum.
    max_clients : int
        Largest number of clients in a round. More could overflow the sum, and let the server split them into two
        groups with different sums.
    width : int
        Bytes per value.
    register : KeyDirectory or None
        Register of the clients' signing keys, not operated by the server. None for a register in this process, which
        then has all clients.
    """

    def __init__(self, threshold: int, max_clients: int, width: int, register: KeyDirectory | None = None) -> None:
        self._threshold, self._max_clients, self._width = threshold, max_clients, width
        register = KeyRegister() if register is None else register
        self._signers, self._verify = ClientSigners(register.register), signature_verifier(register)
        self._states: dict[int, MaskingState] = {}

    def respond(self, step: str, client: int, number: int, content: bytes) -> bytes:
        """Return the reply of a client in one step of a round.

        Raises
        ------
        InvalidUpdate
            The request contradicts earlier ones, or would reveal more than a sum.
        """
        if step == KEYS:
            keys = self._begin(client, number).public_keys()
            return keys + self._signers.sign(client, keys_message(number, keys))
        state = self._state(client, number)
        match step:
            case "shares":
                return self._split_secrets(state, client, unpack_entries(content, SIGNED_KEYS_BYTES))
            case "encrypted_shares":
                return self._read_shares(state, client, unpack_entries(content, SHARE_MESSAGE_BYTES))
            case "disputes":
                return self._answer_complaints(state, client, unpack_entries(content, SIGNATURE_BYTES))
            case "upload":
                return self._accept_partners(state, client, unpack_entries(content, 0).keys())
            case "unmask":
                return self._reveal_shares(state, client, unpack_entries(content, SIGNATURE_BYTES))
        raise InvalidUpdate(f"the aggregation has no step {step!r}")

    def _begin(self, client: int, number: int) -> MaskingState:
        # A client that repeats a round would send the same update among others: two sums would differ by one update.
        if client in self._states and number <= self._states[client].number:
            raise InvalidUpdate(f"the client has already taken part in round {number}")
        self._states[client] = MaskingState(number)
        return self._states[client]

    def _state(self, client: int, number: int) -> MaskingState:
        state = self._states.get(client)
        if state is None or state.number != number:
            raise InvalidUpdate(f"the client has no keys of round {number}")
        return state

    def _split_secrets(self, state: MaskingState, client: int, advertised: dict[int, bytes]) -> bytes:
        """Split both secrets, and return the points of the client's own shares and its share messages."""
        if state.advertised:
            raise InvalidUpdate("the client has already split its secrets")
        if client not in advertised or advertised[client][:PUBLIC_KEYS_BYTES] != state.public_keys():
            raise InvalidUpdate("the server's list has other keys than the client advertised")
        if not self._threshold <= len(advertised) <= self._max_clients:
            raise InvalidUpdate(
                f"{len(advertised)} clients take part, {self._threshold} to {self._max_clients} are needed"
            )
        check_distinct_keys(advertised)
        for other in advertised.keys() - {client}:
            check_key_form(advertised[other])
            keys, signature = advertised[other][:PUBLIC_KEYS_BYTES], advertised[other][PUBLIC_KEYS_BYTES:]
            self._verify(other, signature, keys_message(state.number, keys))
        state.advertised, state.context = advertised, round_context(state.number, advertised)
        indices = list(map(share_index, advertised))
        mask_shares = split(state.self_mask_secret, indices, self._threshold)
        key_shares = split(state.pairwise_secret, indices, self._threshold)
        pairs = {other: mask_shares[share_index(other)] + key_shares[share_index(other)] for other in advertised}
        state.held_shares, state.sent_shares = {client: pairs.pop(client)}, pairs
        messages = {other: self._share_message(state, client, other, shares) for other, shares in pairs.items()}
        return share_points(state.held_shares[client]) + pack_entries(messages)

    def _share_message(self, state: MaskingState, client: int, recipient: int, shares: bytes) -> bytes:
        context = share_context(state.context, client, recipient)
        encrypted = encrypt_classical(shares, state.advertised[recipient][:KEY_BYTES], context)
        message = encrypted + share_points(shares)
        return message + self._signers.sign(client, context + message)

    def _read_shares(self, state: MaskingState, client: int, messages: dict[int, bytes]) -> bytes:
        """Decrypt share messages; return a signed complaint about each sender of an unusable one."""
        if state.senders or not messages.keys() <= state.sent_shares.keys():
            raise InvalidUpdate("share messages of clients that do not take part, or repeated")
        if len(messages) + 1 < self._threshold:
            raise InvalidUpdate(f"{len(messages) + 1} clients have split their secrets, {self._threshold} are needed")
        for sender, message in messages.items():
            self._check_share_signature(state, client, sender, message)
        state.senders = frozenset(messages)
        complaints = {}
        for sender, message in messages.items():
            context = share_context(state.context, sender, client)
            try:
                state.held_shares[sender] = _decrypt_shares(message, state.encryption_key, context)
            except DecryptionError:
                complaints[sender] = self._signers.sign(client, complaint_message(state.context, sender, client))
        return pack_entries(complaints)

    def _check_share_signature(self, state: MaskingState, client: int, sender: int, message: bytes) -> None:
        # The server has verified this signature with the list that it sent. A complaint would have the sender show
        # shares for a fault of the server or of the list.
        signed = share_context(state.context, sender, client) + message[:-SIGNATURE_BYTES]
        try:
            self._verify(sender, message[-SIGNATURE_BYTES:], signed)
        except InvalidUpdate:
            raise InvalidUpdate(
                f"the share message of client {sender} was altered, or the two clients received different keys"
            ) from None

    def _answer_complaints(self, state: MaskingState, client: int, complaints: dict[int, bytes]) -> bytes:
        """Return, for each complaining client, the pair of shares that this client sent to it."""
        # The shares are deleted once the partners are named.
        if not complaints.keys() <= state.sent_shares.keys():
            raise InvalidUpdate("complaints of clients that do not take part, or after the partners were named")
        for recipient, signature in complaints.items():
            self._verify(recipient, signature, complaint_message(state.context, client, recipient))
        return pack_entries({recipient: state.sent_shares[recipient] for recipient in complaints})

    def _accept_partners(self, state: MaskingState, client: int, partners: Collection[int]) -> bytes:
        """Store the list of the clients with common masks, before the upload."""
        if state.partners or client not in partners or not set(partners) <= state.senders | {client}:
            raise InvalidUpdate("a second list of partners, or one with clients that have sent no shares")
        if len(partners) < self._threshold:
            raise InvalidUpdate(f"{len(partners)} clients have common masks, {self._threshold} are needed")
        state.partners, state.sent_shares = frozenset(partners), {}
        held = state.held_shares.items()
        state.held_shares = {other: shares for other, shares in held if other in state.partners}
        return b""

    def protect(self, update: Grid, client: int = 0, number: int = 0) -> ProtectedUpdate:
        """Return ``update`` plus the self mask and the pairwise masks."""
        state = self._state(client, number)
        if not state.partners:
            raise InvalidUpdate("no client has a share of the secrets of its masks")
        # Two updates under the same masks would reveal their difference.
        if state.uploaded:
            raise InvalidUpdate("the client has already protected an update of this round")
        state.uploaded = True
        length, width = len(update), self._width
        masked = update.astype(f"<i{width}").view(f"<u{width}")
        masked = masked + self_mask(state.self_mask_secret, length, width)
        masked = masked + pairwise_mask_sum(
            state.pairwise_secret, state.partner_keys, client, state.context, length, width
        )
        # The other clients unmask only a sum of clients that signed the same list.
        signature = self._signers.sign(client, partner_list_message(state.context, state.partners))
        return make_envelope(SCHEME, length, masked.tobytes() + signature, header_of(client, number))

    def _reveal_shares(self, state: MaskingState, client: int, signatures: Mapping[int, bytes]) -> bytes:
        """Return a share of the self-mask secret of each present partner, and of the pairwise key of each other one.

        Parameters
        ----------
        state : MaskingState
            State of the client in this round.
        client : int
            Number of the client.
        signatures : mapping of int to bytes
            Signatures of the present clients for their lists of partners.
        """
        present = set(signatures)
        if state.revealed:
            raise InvalidUpdate("the client has already revealed its shares of this round")
        if not state.uploaded or client not in present:
            raise InvalidUpdate("the client has protected no update of this round, or is reported as a dropout")
        if not present <= state.partners or len(present) < self._threshold:
            raise InvalidUpdate(f"a sum of {len(present)} partners is not revealed, {self._threshold} are needed")
        for other in present - {client}:
            self._verify(other, signatures[other], partner_list_message(state.context, state.partners))
        # Set before any share leaves, so that a second request with other clients gets none.
        state.revealed = True
        shares = {
            other: pair[SELF_MASK if other in present else PAIRWISE_KEY] for other, pair in state.held_shares.items()
        }
        return pack_entries(shares)

    def reveal(self, total: ProtectedUpdate) -> Grid:
        """Return the sum, which the server has unmasked."""
        return np.frombuffer(verified_payload(total), dtype=f"<i{self._width}").astype(np.int64)


def _decrypt_shares(message: bytes, key: ClassicalKey, context: bytes) -> bytes:
    """Return the pair of shares in a share message.

    Raises
    ------
    DecryptionError
        The message cannot be decrypted, or the shares do not match their points.
    """
    points = points_in_message(message)
    shares = key.decrypt(message[: -SIGNATURE_BYTES - len(points)], context)
    if not shares_match(shares, points):
        raise DecryptionError("the shares do not match their points")
    return shares
