"""Secure aggregation by pairwise masks (Bonawitz et al., CCS 2017, ePrint 2017/281), with recovery of lost clients.

Every two clients agree on a mask, which one adds and the other subtracts, so that the sum has none of them; each adds a
mask of its own besides. Both are random streams, from seeds that are new in each round. A client divides what its masks
come from among all, by Shamir's secret sharing: of a client that is lost after that, the others give the server what
its pairwise masks come from; of one whose upload is there, what its own mask comes from; never both. So the server
opens the sum of the uploads that are there, exactly, and nothing else, unless as many clients help it as the threshold
says.

A round has four steps, of which training is the third: ``keys``, ``shares``, the upload, ``unmask``.

The server is taken to follow the protocol. One that does not could put keys of its own in the place of those that
clients publish, where no other channel vouches for them. One that lies about who is lost gets both kinds of shares of a
client from ``2 threshold - clients`` colluding clients: those give both, and of the others half is told one thing and
half the other. Without colluders it gets nothing by that, since each client gives shares, and seals an update, once a
round, and no two groups as large as the threshold are disjoint.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import ClassVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from ppml.aggregation.capacity import masking_threshold
from ppml.aggregation.checksum import MARK, content_from, content_of, mark_of, origin_of, sealed_of
from ppml.aggregation.fixed_point import Grid
from ppml.aggregation.protocol import Apart, BadUpdate, Parties, PublicMaterial, Sealed, refuse_scheme
from ppml.aggregation.shamir import BYTES, PRIME, divided, fresh_secret, together
from ppml.aggregation.streams import KEY, TAG, agreed_key, locked, stream, unlocked, width_of
from ppml.config.technique import Masking

SCHEME = "masking"
KEYS, SHARES, UNMASK = "keys", "shares", "unmask"
"""What is said before the upload, and after it."""

PUBLISHED = 2 * KEY + MARK
_CLIENT = struct.Struct("<I")

_LETTER = 2 * BYTES + TAG
"""Bytes of two shares, encrypted."""

WRONG = 2
"""So many clients may give wrong shares, if as many more give theirs than the threshold says."""


def place_of(client: int) -> int:
    """Return where the share of a client is taken: at 0 is the secret itself."""
    return client + 1


def packed(entries: Mapping[int, bytes]) -> bytes:
    """Return one entry of equal size for each client, by the clients' numbers."""
    return b"".join(_CLIENT.pack(client) + entries[client] for client in sorted(entries))


def unpacked(content: bytes, size: int) -> dict[int, bytes]:
    """Return what :func:`packed` packed.

    Raises
    ------
    BadUpdate
        It is cut off, or a client is in it twice.
    """
    step = _CLIENT.size + size
    starts = range(0, len(content), step)
    entries = {
        _CLIENT.unpack_from(content, start)[0]: content[start + _CLIENT.size : start + step]
        for start in starts
        if len(content) - start >= step
    }
    if len(entries) != len(starts):
        raise BadUpdate("what was said about the masks cannot be read")
    return entries


def pairwise(
    secret: X25519PrivateKey, publics: Mapping[int, bytes], client: int, length: int, width: int
) -> NDArray[np.unsignedinteger]:
    """Return the sum of the masks that ``client`` has in common with others, each with its sign."""
    total = np.zeros(length, dtype=f"<u{width}")
    for other, public in publics.items():
        if other == client:
            continue
        mask = stream(agreed_key(secret, public, b"mask"), length, width)
        # One of the two adds what the other subtracts.
        total = total + mask if client < other else total - mask
    return total


@dataclass
class Turn:
    """What a client has for one round, and forgets in the next.

    Parameters
    ----------
    number : int
        The round.
    for_letters, for_masks : X25519PrivateKey
        For what others send it, and for pairwise masks.
    own : bytes
        The seed of its own mask.
    publics : dict of int to bytes
        What each client that takes part has published.
    kept : bytes
        Its own shares of its own secrets.
    letters : dict of int to bytes
        The shares of other clients' secrets, as they sent them.
    sealed, unmasked : bool
        Whether it has sealed an update, and given shares away.
    """

    number: int
    for_letters: X25519PrivateKey = field(default_factory=X25519PrivateKey.generate)
    for_masks: X25519PrivateKey = field(default_factory=lambda: _small_key())
    own: bytes = field(default_factory=fresh_secret)
    publics: dict[int, bytes] = field(default_factory=dict)
    kept: bytes = b""
    letters: dict[int, bytes] = field(default_factory=dict)
    sealed: bool = False
    unmasked: bool = False

    @property
    def masks_of(self) -> dict[int, bytes]:
        """The public key for pairwise masks of each client whose shares are there."""
        return {client: self.publics[client][KEY : 2 * KEY] for client in self.letters}

    def published(self) -> bytes:
        """Return what everybody gets to know: both public keys, and what tells the own seed from another."""
        publics = (self.for_letters.public_key(), self.for_masks.public_key())
        return b"".join(public.public_bytes_raw() for public in publics) + mark_of(self.own)


def _small_key() -> X25519PrivateKey:
    """Return a key that can be divided: all but a few of 2^256 can."""
    while int.from_bytes((key := X25519PrivateKey.generate()).private_bytes_raw(), "little") >= PRIME:
        pass
    return key


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
    """

    def __init__(self, threshold: int, most: int, width: int) -> None:
        self._threshold, self._most, self._width = threshold, most, width
        self._turns: dict[int, Turn] = {}

    def respond(self, step: str, client: int, number: int, content: bytes) -> bytes:
        """Do one step of a round.

        Raises
        ------
        BadUpdate
            What the server says does not fit what it has said, or would open more than a sum.
        """
        if step == KEYS:
            return self._begin(client, number).published()
        turn = self._turn(client, number)
        match step:
            case "shares":
                return self._divide(turn, client, unpacked(content, PUBLISHED))
            case "seal":
                return self._take(turn, client, unpacked(content, _LETTER))
            case "unmask":
                return self._unmask(turn, client, unpacked(content, 0).keys())
        raise BadUpdate(f"there is no step {step!r} in this aggregation")

    def _begin(self, client: int, number: int) -> Turn:
        # In a second turn of one round it would send the same update, among others: two sums would differ by one.
        if client in self._turns and number <= self._turns[client].number:
            raise BadUpdate(f"it has had its turn in round {number}")
        self._turns[client] = Turn(number)
        return self._turns[client]

    def _turn(self, client: int, number: int) -> Turn:
        turn = self._turns.get(client)
        if turn is None or turn.number != number:
            raise BadUpdate(f"it has no keys of round {number}")
        return turn

    def _divide(self, turn: Turn, client: int, publics: dict[int, bytes]) -> bytes:
        if turn.publics:
            raise BadUpdate("its secrets are divided already")
        if publics.get(client) != turn.published() or len(set(publics.values())) < len(publics):
            raise BadUpdate("the keys that the server passes on are not those that were sent")
        if not self._threshold <= len(publics) <= self._most:
            raise BadUpdate(f"{len(publics)} clients take part, {self._threshold} to {self._most} are needed")
        turn.publics = publics
        places = list(map(place_of, publics))
        own = divided(turn.own, places, self._threshold)
        key = divided(turn.for_masks.private_bytes_raw(), places, self._threshold)
        both = {other: own[place_of(other)] + key[place_of(other)] for other in publics}
        turn.kept = both.pop(client)
        return packed({other: self._letter(turn, client, other, shares) for other, shares in both.items()})

    def _letter(self, turn: Turn, client: int, other: int, shares: bytes) -> bytes:
        return locked(agreed_key(turn.for_letters, turn.publics[other][:KEY], _between(client, other)), shares)

    def _take(self, turn: Turn, client: int, letters: dict[int, bytes]) -> bytes:
        if turn.letters or not letters.keys() <= turn.publics.keys() - {client}:
            raise BadUpdate("shares of clients that do not take part, or twice")
        if len(letters) + 1 < self._threshold:
            raise BadUpdate(f"{len(letters) + 1} clients have divided their secrets, {self._threshold} are needed")
        turn.letters = {**letters, client: b""}
        for sender in letters:
            # Before anything is sealed that could not be opened.
            self._shares_of(turn, client, sender)
        return b""

    def seal(self, update: Grid, client: int = 0, number: int = 0) -> Sealed:
        """Return ``update`` with its own mask and those that it has in common with the others."""
        turn = self._turn(client, number)
        if not turn.letters:
            raise BadUpdate("nobody has a share of what its masks come from")
        # Two updates under the same masks would show what they differ by.
        if turn.sealed:
            raise BadUpdate("it has sealed an update of this round already")
        turn.sealed = True
        masked = update.astype(f"<i{self._width}").view(f"<u{self._width}")
        masked = masked + stream(turn.own, len(update), self._width)
        masked = masked + pairwise(turn.for_masks, turn.masks_of, client, len(update), self._width)
        return sealed_of(SCHEME, len(update), masked.tobytes(), origin_of(client, number))

    def _unmask(self, turn: Turn, client: int, present: Iterable[int]) -> bytes:
        """Return a share of the own mask of each client that is ``present``, of the key of each other one."""
        present = set(present)
        if turn.unmasked:
            raise BadUpdate("it has given its shares of this round already")
        if not present <= turn.letters.keys() or len(present) < self._threshold:
            raise BadUpdate(f"a sum of {len(present)} clients is not opened, of {self._threshold} it would be")
        # Before anything is given: who asks again, with other clients, gets nothing.
        turn.unmasked = True
        given = {}
        for other in turn.letters:
            own, key = self._shares_of(turn, client, other)
            given[other] = own if other in present else key
        return packed(given)

    def _shares_of(self, turn: Turn, client: int, other: int) -> tuple[bytes, bytes]:
        shares = turn.kept
        if other != client:
            key = agreed_key(turn.for_letters, turn.publics[other][:KEY], _between(other, client))
            try:
                shares = unlocked(key, turn.letters[other])
            except ValueError:
                raise BadUpdate(f"the shares that client {other} sent cannot be read") from None
        return shares[:BYTES], shares[BYTES:]

    def unseal(self, total: Sealed) -> Grid:
        """Return the sum, which the server has unmasked."""
        return np.frombuffer(content_of(total), dtype=f"<i{self._width}").astype(np.int64)


def _between(sender: int, reader: int) -> bytes:
    return b"letter" + _CLIENT.pack(sender) + _CLIENT.pack(reader)


class MaskingServer:
    """The server: passes on what clients say to each other, adds uploads, and takes the masks from their sum.

    Parameters
    ----------
    threshold : int
        How many clients give what opens a sum.
    width : int
        Bytes a value.
    """

    before: ClassVar[tuple[str, ...]] = (KEYS, SHARES)
    after: ClassVar[tuple[str, ...]] = (UNMASK,)

    def __init__(self, threshold: int, width: int) -> None:
        self._threshold, self._width = threshold, width
        self._heard: dict[str, dict[int, bytes]] = {}
        self._present: tuple[int, ...] = ()

    def tell(self, step: str, clients: Sequence[int]) -> dict[int, bytes]:
        """Return what each of ``clients``, who have taken all steps before, is told.

        Raises
        ------
        BadUpdate
            They are too few.
        """
        if len(clients) < self._threshold:
            raise BadUpdate(f"{len(clients)} clients take part in its masks, {self._threshold} are needed")
        if step == KEYS:
            self._heard = {}
        self._heard[step], self._present = {}, tuple(clients)
        match step:
            case "keys":
                return dict.fromkeys(clients, b"")
            case "shares":
                return dict.fromkeys(clients, packed({client: self._heard[KEYS][client] for client in clients}))
            case "seal":
                letters = {sender: unpacked(self._heard[SHARES][sender], _LETTER) for sender in clients}
                return {
                    reader: packed({sender: letters[sender][reader] for sender in clients if sender != reader})
                    for reader in clients
                }
        return dict.fromkeys(clients, packed(dict.fromkeys(clients, b"")))

    def hear(self, step: str, client: int, content: bytes) -> None:
        """Take what a client says.

        Raises
        ------
        BadUpdate
            It cannot be read, or is not what is asked for.
        """
        if step == KEYS:
            self._check_keys(content)
        if step == SHARES and unpacked(content, _LETTER).keys() != set(self._present) - {client}:
            raise BadUpdate("it does not send a share to each of the others")
        if step == UNMASK and unpacked(content, BYTES).keys() != self._heard[SHARES].keys():
            raise BadUpdate("it does not give a share of each client's secret")
        self._heard[step][client] = content

    def _check_keys(self, content: bytes) -> None:
        """Raise an error where the others could not use these keys: all would refuse, and no sum be opened."""
        try:
            for start in (0, KEY):
                agreed_key(X25519PrivateKey.generate(), content[start : start + KEY], b"")
        except ValueError:
            raise BadUpdate("what it sends are no keys") from None
        if len(content) != PUBLISHED or content in self._heard[KEYS].values():
            raise BadUpdate("what it sends are no keys, or those of another")

    def check(self, sealed: Sealed, client: int = 0, number: int = 0) -> None:
        """Raise an error unless the payload is whole."""
        refuse_scheme(sealed, SCHEME)
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
        for client in self._heard[SHARES]:
            shares = {place_of(giver): shares[client] for giver, shares in given.items()}
            if client in present:
                total -= stream(self._recovered(client, shares, wrong, self._is_own), length, self._width)
            else:
                # What the others have in common with it is in the sum, and it is not.
                key = X25519PrivateKey.from_private_bytes(self._recovered(client, shares, wrong, self._is_key))
                total += pairwise(key, present, client, length, self._width)
        return sealed_of(SCHEME, length, total.tobytes())

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
        return mark_of(secret) == self._heard[KEYS][client][2 * KEY :]

    def _is_key(self, client: int, secret: bytes) -> bool:
        public = X25519PrivateKey.from_private_bytes(secret).public_key()
        return public.public_bytes_raw() == self._mask_key(client)

    def _mask_key(self, client: int) -> bytes:
        return self._heard[KEYS][client][KEY : 2 * KEY]


def few_of(places: Sequence[int], least: int) -> Iterator[tuple[int, ...]]:
    """Yield which of ``places`` to leave out, few before many, so that the first ``least`` of the rest are others.

    Examples
    --------
    >>> list(few_of([1, 2, 3], least=2))
    [(), (1,), (2,), (3,)]
    """
    for count in range(min(WRONG, len(places) - least) + 1):
        yield from combinations(places[: least + count], count)


def parties(spec: Masking, clients: int) -> Parties:
    """Return the clients, who have no keys yet."""
    return Parties(
        MaskingClients(
            masking_threshold(spec.threshold, clients),
            clients,
            width_of(clients, spec),
        ),
        apart=Apart(),
    )


def server_side(spec: Masking, clients: int, material: PublicMaterial) -> MaskingServer:
    """Return the server."""
    return MaskingServer(masking_threshold(spec.threshold, clients), width_of(clients, spec))
