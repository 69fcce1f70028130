"""A technique is a point in the product topology x privacy x aggregation; absence is a null object."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ppml.aggregation_parameters import (
    MAX_COEFFICIENT_BITS,
    bfv_ring,
    ckks_headroom_bits,
    ckks_precision_sigmas,
    masking_threshold,
    plaintext_headroom_bits,
)
from ppml.config.privacy_limits import MAX_DELTA, MAX_NOISE, MIN_DELTA, MIN_NOISE
from ppml.config.spec import ListOf, Spec, config_error


class Centralized(Spec):
    """One owner holds all examples."""

    kind: Literal["centralized"] = "centralized"


class Independent(Spec):
    """Each client trains on its own examples without a federation; the accuracy is the mean over the clients."""

    kind: Literal["independent"] = "independent"
    partition: str = Field(description="A name from `partitions`.")
    evaluate_every: int = Field(
        default=1,
        ge=1,
        description="Epochs between two points of the history; each point evaluates the models of all clients. The "
        "last epoch is always a point.",
    )


class ServerSgd(Spec):
    """The global step along the mean update, with momentum over rounds (FedAvgM, arXiv 1909.06335)."""

    kind: Literal["sgd"] = "sgd"
    learning_rate: float = Field(default=1.0, gt=0, description="Factor on the mean update.")
    momentum: float = Field(default=0.0, ge=0, lt=1, description="Momentum of the mean update over rounds.")


class ServerAdam(Spec):
    """The global step by Adam (FedAdam, arXiv 2003.00295)."""

    kind: Literal["adam"] = "adam"
    learning_rate: float = Field(default=0.01, gt=0, description="Step size, eta in the paper.")
    beta1: float = Field(default=0.9, ge=0, lt=1, description="Decay rate of the first moment.")
    beta2: float = Field(default=0.99, ge=0, lt=1, description="Decay rate of the second moment.")
    tau: float = Field(default=1.0e-3, gt=0, description="Term added to the root of the second moment.")


class NoCorrection(Spec):
    """Clients follow their own gradients."""

    kind: Literal["none"] = "none"


class ProximalTerm(Spec):
    """A proximal term keeps clients near the global model (FedProx, arXiv 1812.06127)."""

    kind: Literal["proximal"] = "proximal"
    mu: float = Field(
        default=0.01, gt=0, description="Factor of the term: mu / 2 times the squared distance is added to the loss."
    )


class Scaffold(Spec):
    """Control variates correct the gradients of each client (SCAFFOLD, arXiv 1910.06378); uploads double."""

    kind: Literal["scaffold"] = "scaffold"


ServerOptimizer = Annotated[ServerSgd | ServerAdam, Field(discriminator="kind")]
Correction = Annotated[NoCorrection | ProximalTerm | Scaffold, Field(discriminator="kind")]


class Federated(Spec):
    """Clients train in rounds; a server adds their updates (FedAvg, arXiv 1602.05629)."""

    kind: Literal["federated"] = "federated"
    partition: str = Field(description="A name from `partitions`.")
    rounds: int = Field(ge=1, description="Number of rounds; in each, every client makes `training.epochs` passes.")
    weighting: Literal["examples", "uniform"] = Field(
        default="examples", description="Weight of an update: the client's number of examples, or the same for all."
    )
    server: ServerOptimizer = ServerSgd()
    correction: Correction = NoCorrection()
    participation: float = Field(
        default=1.0, gt=0, le=1, description="Fraction of the clients in a round, drawn anew for each round."
    )
    dropout_rate: float = Field(
        default=0.0, ge=0, lt=1, description="Simulated probability that the reply of a client is lost in a round."
    )
    min_clients: int = Field(
        default=1, ge=1, description="Replies that a round needs; with fewer, training stops after the round before."
    )


class NoPrivacy(Spec):
    """No differential privacy."""

    kind: Literal["none"] = "none"


class DifferentialPrivacy(Spec):
    """Differential privacy: the size and the source of the noise, and the delta of the statement."""

    epsilon: float | None = Field(
        default=None,
        gt=0,
        description="Target for the whole training, over all rounds. The noise is calibrated to it.",
    )
    noise_multiplier: float | None = Field(
        default=None,
        ge=MIN_NOISE,
        le=MAX_NOISE,
        description="Standard deviation of the noise in units of the clipping norm, instead of `epsilon`.",
    )
    delta: float = Field(
        default=1.0e-5, ge=MIN_DELTA, le=MAX_DELTA, description="Write 1.0e-5: YAML reads 1e-5 as text."
    )
    noise_source: Literal["seeded", "secure"] = Field(
        default="seeded",
        description="`seeded`: noise and samples repeat, and the holder of the seed can subtract the noise. `secure`: "
        "they come from the operating system, for a model that is to be released.",
    )
    max_colluding: int = Field(
        default=1,
        ge=1,
        description="With `noise: distributed`: clients that may reveal their parts of the noise to the server. These "
        "parts do not count. At least 1: every client knows its own part.",
    )
    max_dropouts: int = Field(
        default=0,
        ge=0,
        description="With `noise: distributed`: clients that may fail in a round. Their parts do not count; if more "
        "clients fail, training stops before the sum is formed.",
    )

    @model_validator(mode="after")
    def _check_epsilon_or_noise(self) -> Self:
        if (self.epsilon is None) == (self.noise_multiplier is None):
            raise config_error(
                f"give exactly one of epsilon and noise_multiplier, got epsilon {self.epsilon} and noise_multiplier "
                f"{self.noise_multiplier}"
            )
        return self


class ExampleLevel(DifferentialPrivacy):
    """DP-SGD.

    Neighbouring data sets differ in one example, which is replaced by a null example that contributes 0; the number of
    examples is public.
    """

    kind: Literal["example"] = "example"
    max_grad_norm: float = Field(default=1.0, gt=0, description="Clipping norm of the gradient of one example.")
    budget: float | None = Field(
        default=None,
        gt=0,
        description="Largest epsilon that may be spent, with `noise_multiplier`. An owner stops before the step that "
        "would exceed it, and the other owners continue.",
    )
    accountant: Literal["tightest", "prv", "rdp", "pld", "gdp"] = Field(
        default="tightest",
        description="Accountant of the stated epsilon and of the calibration. `tightest`: exact if every step takes "
        "all examples, else the smaller of `prv` and `pld`. `gdp`: only if every step takes all examples.",
    )
    noise: Literal["local", "distributed"] = Field(
        default="local",
        description="Place of the noise. `local`: each owner adds the noise to its own gradients. `distributed`: every "
        "client adds a part of it, and only the sum carries all of the noise.",
    )

    @model_validator(mode="after")
    def _check_budget(self) -> ExampleLevel:
        if self.budget is not None and self.noise_multiplier is None:
            raise config_error(
                f"budget {self.budget} with epsilon {self.epsilon}: the noise is calibrated to epsilon, and all "
                "steps fit; give noise_multiplier instead of epsilon, or leave budget out"
            )
        return self


class ClientLevel(DifferentialPrivacy):
    """DP-FedAvg (arXiv 1710.06963).

    In neighbouring federations the contribution of one client is 0; the number of clients is public.
    """

    kind: Literal["client"] = "client"
    max_update_norm: float = Field(default=1.0, gt=0, description="Clipping norm of the update of one client.")
    accountant: Literal["tightest", "prv", "rdp", "pld", "gdp"] = Field(
        default="gdp",
        description="Accountant of the stated epsilon and of the calibration; every round takes all clients.",
    )
    noise: Literal["central", "distributed"] = Field(
        default="central",
        description="Place of the noise. `central`: the server, which sees the updates, adds it to their sum. "
        "`distributed`: every client adds a part of it.",
    )


class FixedPointSpec(Spec):
    """The fixed-point grid of updates; every aggregation rounds to it."""

    server_sees_updates: ClassVar[bool] = False

    clip: float = Field(default=8.0, gt=0, description="Coordinates of a weighted update are clipped to [-clip, clip].")
    fractional_bits: int = Field(default=20, ge=1, le=40, description="The grid is 2^-fractional_bits.")

    @property
    def has_key_holder(self) -> bool:
        """Whether a key holder decrypts the sums."""
        return False

    @model_validator(mode="after")
    def _check_grid(self) -> Self:
        if self.clip < 2.0**-self.fractional_bits:
            raise config_error(
                f"clip {self.clip} is below the grid step 2^-{self.fractional_bits}: every update would be 0; raise "
                "clip or fractional_bits"
            )
        return self

    def check_sum(self, clients: int) -> None:
        """Raise an error if the sum of ``clients`` updates may overflow or round wrongly, or reveals one update."""
        if clients < 2 and not self.server_sees_updates:
            raise config_error(
                f"aggregation {self.to_json()['kind']!r} with 1 client in a round: the sum of one update reveals it; "
                "at least 2 are needed"
            )
        self._check_range(clients)

    def _check_range(self, clients: int) -> None:
        """Raise an error if the sum of ``clients`` updates may overflow or round wrongly; here: 63 bits hold it."""
        headroom = plaintext_headroom_bits(clients, self.clip, self.fractional_bits)
        if headroom < 0:
            raise config_error(
                f"aggregation: the fixed-point grid overflows: {clients} clients x clip {self.clip} at "
                f"fractional_bits {self.fractional_bits} needs {max(0.1, -headroom):.1f} bits more than a 64-bit "
                "integer has; lower clip or fractional_bits"
            )


class Plaintext(FixedPointSpec):
    """The server sees every update."""

    server_sees_updates: ClassVar[bool] = True

    kind: Literal["plaintext"] = "plaintext"


class SecretSharing(FixedPointSpec):
    """Clients split their updates into additive shares between servers; together the servers open the sum."""

    kind: Literal["secret_sharing"] = "secret_sharing"
    servers: int = Field(
        default=3,
        ge=2,
        le=16,
        description="Number of servers. All of them must collude to open an update, as long as each follows the "
        "protocol. If the adding server deviates, one colluding client suffices.",
    )


class Masking(FixedPointSpec):
    """Pairwise masks cancel in the sum; clients help to remove the masks of lost clients (ePrint 2017/281)."""

    kind: Literal["masking"] = "masking"
    threshold: int | None = Field(
        default=None,
        ge=2,
        description="Clients that a round needs until its end, more than half of the clients in the round; null: two "
        "thirds and one. As many clients, colluding with the server, open updates; if the server deviates, fewer.",
    )

    def _check_range(self, clients: int) -> None:
        threshold = masking_threshold(self.threshold, clients)
        if not clients < 2 * threshold <= 2 * clients:
            raise config_error(
                f"aggregation.threshold: got {threshold} of {clients} clients in a round; more than half of them are "
                "needed, or the server could open two different sums"
            )
        super()._check_range(clients)


class Encrypted(FixedPointSpec):
    """Clients encrypt; the server adds ciphertexts and holds no secret key."""

    kind: str

    keys: Literal["public", "shared"] = Field(
        default="public",
        description="Key that encrypts the updates. `public`: a public key; the key holder decrypts the ciphertext "
        "that the server announces as a sum. `shared`: the secret key, which every client has; uploads are half as "
        "large, and one client that colludes with the server opens all updates.",
    )
    rounds_per_key: int | None = Field(
        default=None,
        ge=1,
        description="Sums until the key holder makes a new key; null: one key for the whole training.",
    )

    @property
    def has_key_holder(self) -> bool:
        """Whether a key holder decrypts the sums."""
        return self.keys == "public"

    @model_validator(mode="after")
    def _check_keys_are_public(self) -> Self:
        if self.keys == "shared" and self.rounds_per_key is not None:
            raise config_error(
                f"rounds_per_key {self.rounds_per_key} with keys 'shared': all clients would have to change the key at "
                "once; allowed with keys public; or leave rounds_per_key out"
            )
        return self


class Ckks(Encrypted):
    """CKKS: real numbers, with an error that rounding to the grid removes."""

    kind: Literal["ckks"] = "ckks"
    poly_modulus_degree: Literal[4096, 8192, 16384, 32768] = Field(
        default=4096, description="Ring dimension N: N values per ciphertext, two per slot."
    )
    coeff_mod_bit_sizes: ListOf[int] = Field(
        default=(54, 40),
        description="Bits of the primes; the last is reserved for key switching. At 128 bits of "
        "security their sum is at most 109 (N 4096), 218 (8192), 438 (16384), 881 (32768).",
    )
    scale_bits: int = Field(default=40, ge=10, le=60, description="The scale is 2^scale_bits.")

    @model_validator(mode="after")
    def _check_security(self) -> Ckks:
        limit, total = MAX_COEFFICIENT_BITS[self.poly_modulus_degree], sum(self.coeff_mod_bit_sizes)
        if total > limit:
            raise config_error(
                f"coeff_mod_bit_sizes {list(self.coeff_mod_bit_sizes)} has {total} bits: under 128 bits of security at "
                f"poly_modulus_degree {self.poly_modulus_degree}, where at most {limit} are allowed; use fewer bits or "
                "a larger degree"
            )
        if len(self.coeff_mod_bit_sizes) < 2 or not all(30 <= bits <= 60 for bits in self.coeff_mod_bit_sizes):
            raise config_error(
                f"coeff_mod_bit_sizes {list(self.coeff_mod_bit_sizes)}: at least two primes of 30 to 60 bits each"
            )
        return self

    def _check_range(self, clients: int) -> None:
        data_bits = sum(self.coeff_mod_bit_sizes[:-1])
        headroom = ckks_headroom_bits(clients, self.clip, self.scale_bits, data_bits)
        if headroom < 0:
            raise config_error(
                f"aggregation: the fixed-point grid overflows: {clients} clients x clip {self.clip} at scale_bits "
                f"{self.scale_bits} needs {max(0.1, -headroom):.1f} bits more than the {data_bits} of "
                "coeff_mod_bit_sizes without its last prime, or than float64 can encode (62); lower clip or scale_bits"
            )
        sigmas = ckks_precision_sigmas(clients, self.fractional_bits, self.scale_bits, self.poly_modulus_degree)
        if sigmas < 8:
            raise config_error(
                f"aggregation: the grid 2^-{self.fractional_bits} is too fine for scale_bits {self.scale_bits} and "
                f"{clients} clients: half a step is {sigmas:.1f} standard deviations of the encryption error in "
                "a bad slot and must be at least 8; raise scale_bits or lower fractional_bits"
            )


class Bfv(Encrypted):
    """BFV: whole numbers, without an error; ring and moduli are the smallest that hold the sum of all clients."""

    kind: Literal["bfv"] = "bfv"

    def _check_range(self, clients: int) -> None:
        try:
            bfv_ring(clients, self.clip, self.fractional_bits, self.keys)
        except OverflowError as error:
            raise config_error(
                f"aggregation: the fixed-point grid overflows: {clients} clients x clip {self.clip} at "
                f"fractional_bits {self.fractional_bits} needs {error}; lower clip or fractional_bits"
            ) from None


Topology = Annotated[Centralized | Independent | Federated, Field(discriminator="kind")]
Privacy = Annotated[NoPrivacy | ExampleLevel | ClientLevel, Field(discriminator="kind")]
Aggregation = Annotated[Plaintext | Ckks | Bfv | SecretSharing | Masking, Field(discriminator="kind")]
