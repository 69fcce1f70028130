"""A technique is a point in the product topology x privacy x aggregation; absence is a null object."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ppml.accounting.limits import MIN_DELTA, MIN_NOISE, MAX_DELTA, MAX_NOISE
from ppml.config.aggregation_parameters import (
    MAX_COEFFICIENT_BITS,
    bfv_ring,
    ckks_headroom_bits,
    ckks_precision_sigmas,
    masking_threshold,
    plaintext_headroom_bits,
)
from ppml.config.spec import Spec, config_error


class Centralized(Spec):
    """One owner holds all records."""

    kind: Literal["centralized"] = "centralized"


class Independent(Spec):
    """Each client trains alone on its own records; the accuracy is the mean over the clients."""

    kind: Literal["independent"] = "independent"
    partition: str = Field(description="A name from `partitions`.")
    evaluate_every: int = Field(
        default=1,
        ge=1,
        description="Epochs between the points of the history, each of which takes all clients' models; the last epoch "
        "always is one.",
    )


class ServerSgd(Spec):
    """The global step along the mean update, with momentum over rounds (FedAvgM, arXiv 1909.06335)."""

    kind: Literal["sgd"] = "sgd"
    learning_rate: float = Field(default=1.0, gt=0, description="Factor on the mean update.")
    momentum: float = Field(default=0.0, ge=0, lt=1, description="Momentum of the mean update over rounds.")


class ServerAdam(Spec):
    """The global step by Adam (FedAdam, arXiv 2003.00295)."""

    kind: Literal["adam"] = "adam"
    learning_rate: float = Field(default=0.01, gt=0, description="Their eta.")
    beta1: float = Field(default=0.9, ge=0, lt=1, description="Of the first moment.")
    beta2: float = Field(default=0.99, ge=0, lt=1, description="Of the second moment.")
    tau: float = Field(default=1.0e-3, gt=0, description="Their tau, added to the root of the second moment.")


class NoCorrection(Spec):
    """Every client goes where its own records lead."""

    kind: Literal["none"] = "none"


class ProximalTerm(Spec):
    """Clients are drawn back to the global model (FedProx, arXiv 1812.06127)."""

    kind: Literal["proximal"] = "proximal"
    mu: float = Field(
        default=0.01, gt=0, description="Their mu: half of it times the squared distance is added to the loss."
    )


class Scaffold(Spec):
    """Clients correct their gradients by how they differ from all (SCAFFOLD, arXiv 1910.06378); uploads double."""

    kind: Literal["scaffold"] = "scaffold"


ServerOptimizer = Annotated[ServerSgd | ServerAdam, Field(discriminator="kind")]
Correction = Annotated[NoCorrection | ProximalTerm | Scaffold, Field(discriminator="kind")]


class Federated(Spec):
    """Clients train in rounds; a server adds their updates (FedAvg, arXiv 1602.05629)."""

    kind: Literal["federated"] = "federated"
    partition: str = Field(description="A name from `partitions`.")
    rounds: int = Field(ge=1, description="Rounds; in each, every client makes `training.epochs` passes.")
    weighting: Literal["examples", "uniform"] = Field(
        default="examples", description="Weight updates by the clients' number of records, or equally."
    )
    server: ServerOptimizer = ServerSgd()
    correction: Correction = NoCorrection()
    participation: float = Field(
        default=1.0, gt=0, le=1, description="Share of the clients that are asked in a round, drawn anew for each."
    )
    dropout_rate: float = Field(
        default=0.0, ge=0, lt=1, description="Simulated: how likely the answer of a client gets lost in a round."
    )
    min_clients: int = Field(
        default=1, ge=1, description="So many clients must answer in a round, or training stops after the one before."
    )


class NoPrivacy(Spec):
    """No differential privacy."""

    kind: Literal["none"] = "none"


class DifferentialPrivacy(Spec):
    """Differential privacy: how much noise, from which source, stated at which delta."""

    epsilon: float | None = Field(
        default=None, gt=0, description="Target for the whole training, over all rounds; the noise is calibrated to it."
    )
    noise_multiplier: float | None = Field(
        default=None,
        ge=MIN_NOISE,
        le=MAX_NOISE,
        description="The noise itself, in units of the clipping norm, where `epsilon` is not given.",
    )
    delta: float = Field(
        default=1.0e-5, ge=MIN_DELTA, le=MAX_DELTA, description="Write 1.0e-5: YAML reads 1e-5 as text."
    )
    noise_source: Literal["seeded", "secure"] = Field(
        default="seeded",
        description="`seeded` noise and samples repeat, and the holder of the seed can subtract the noise; `secure` "
        "ones are drawn from the operating system, for a model that is to be released.",
    )
    max_colluding: int = Field(
        default=1,
        ge=1,
        description="With `noise: distributed`: clients that may tell the server their shares of the noise, which do not "
        "count then. At least 1: who takes part knows its own.",
    )
    max_dropouts: int = Field(
        default=0,
        ge=0,
        description="With `noise: distributed`: clients that may fail in a round; their shares do not count, and "
        "where more fail training stops before the sum is formed.",
    )

    @model_validator(mode="after")
    def _one_of_epsilon_and_noise(self) -> Self:
        if (self.epsilon is None) == (self.noise_multiplier is None):
            raise config_error(
                f"give exactly one of epsilon and noise_multiplier, got epsilon {self.epsilon} and noise_multiplier "
                f"{self.noise_multiplier}"
            )
        return self


class ExampleLevel(DifferentialPrivacy):
    """DP-SGD.

    Neighbouring data sets differ in one record, which is replaced by a null record that contributes 0; the number of
    records is public.
    """

    kind: Literal["example"] = "example"
    max_grad_norm: float = Field(default=1.0, gt=0, description="Clipping norm of one record's gradient.")
    budget: float | None = Field(
        default=None,
        gt=0,
        description="The most epsilon that may be spent, beside `noise_multiplier`: an owner stops before the step "
        "that would exceed it, and the others go on.",
    )
    accountant: Literal["tightest", "prv", "rdp", "pld", "gdp"] = Field(
        default="tightest",
        description="What epsilon is stated and calibrated by: `tightest` is exact where every step is on all records, "
        "else the lesser of `prv` and `pld`; `gdp` only where every step is on all records.",
    )
    noise: Literal["local", "distributed"] = Field(
        default="local",
        description="Who adds the noise: the owner of the records, before anything leaves it; or every client a share, "
        "so that the sum carries the noise, where nobody sees more than the sum.",
    )

    @model_validator(mode="after")
    def _budget_beside_noise(self) -> ExampleLevel:
        if self.budget is not None and self.noise_multiplier is None:
            raise config_error(
                f"budget {self.budget} beside epsilon {self.epsilon}: the noise is calibrated to epsilon, and all "
                "steps fit; give noise_multiplier instead of epsilon, or leave budget out"
            )
        return self


class ClientLevel(DifferentialPrivacy):
    """DP-FedAvg (arXiv 1710.06963).

    In neighbouring federations the contribution of one client is 0; the number of clients is public.
    """

    kind: Literal["client"] = "client"
    max_update_norm: float = Field(default=1.0, gt=0, description="Clipping norm of one client's update.")
    accountant: Literal["tightest", "prv", "rdp", "pld", "gdp"] = Field(
        default="gdp", description="What epsilon is stated and calibrated by; every round is on all clients."
    )
    noise: Literal["central", "distributed"] = Field(
        default="central",
        description="Who adds the noise: a server that sees the updates, or every client a share of it.",
    )


class FixedPointSpec(Spec):
    """The grid that every update is rounded to before it is sealed, whatever seals it."""

    clip: float = Field(default=8.0, gt=0, description="Coordinates of a weighted update are clipped to [-clip, clip].")
    fractional_bits: int = Field(default=20, ge=1, le=40, description="The grid is 2^-fractional_bits.")

    @model_validator(mode="after")
    def _grid_finer_than_clip(self) -> Self:
        if self.clip < 2.0**-self.fractional_bits:
            raise config_error(
                f"clip {self.clip} is below the grid step 2^-{self.fractional_bits}: every update would be 0; raise "
                "clip or fractional_bits"
            )
        return self


def require_two_clients(spec: Encrypted | SecretSharing | Masking, clients: int) -> None:
    """Raise an error where the sum would be one update, which nobody may see."""
    if clients < 2:
        raise config_error(
            f"aggregation {spec.kind!r} with 1 client that is asked in a round: the sum of one update shows it; at "
            "least 2 are needed"
        )


def check_plaintext_headroom(spec: FixedPointSpec, clients: int) -> None:
    """Raise an error if the sum of ``clients`` updates may not fit in 63 bits."""
    headroom = plaintext_headroom_bits(clients, spec.clip, spec.fractional_bits)
    if headroom < 0:
        raise config_error(
            f"aggregation: the fixed-point grid overflows: {clients} clients x clip {spec.clip} at "
            f"fractional_bits {spec.fractional_bits} needs {max(0.1, -headroom):.1f} bits more than a 64-bit "
            "integer has; lower clip or fractional_bits"
        )


class SecretSharing(FixedPointSpec):
    """Clients split their updates into additive shares between servers, which open the sum together."""

    kind: Literal["secret_sharing"] = "secret_sharing"
    servers: int = Field(
        default=3,
        ge=2,
        le=16,
        description="Between how many; all of them must collude to open an update, as long as each follows the "
        "protocol. The one that adds, if it deviates, needs one colluding client.",
    )

    def check_sum(self, clients: int) -> None:
        """Raise an error if the sum of ``clients`` updates may not fit in 63 bits, or shows one."""
        require_two_clients(self, clients)
        check_plaintext_headroom(self, clients)


class Masking(FixedPointSpec):
    """Clients add masks that cancel in the sum, and help to take those of lost clients away (ePrint 2017/281)."""

    kind: Literal["masking"] = "masking"
    threshold: int | None = Field(
        default=None,
        ge=2,
        description="How many clients must be there until the end of a round; so many, colluding with the server, open "
        "updates, and fewer with one that deviates. More than half of those that are asked; two thirds and one where "
        "it is left out.",
    )

    def check_sum(self, clients: int) -> None:
        """Raise an error if the sum of ``clients`` updates may not fit in 63 bits, or be opened, or shows one."""
        require_two_clients(self, clients)
        threshold = masking_threshold(self.threshold, clients)
        if not clients < 2 * threshold <= 2 * clients:
            raise config_error(
                f"aggregation.threshold: got {threshold} of {clients} clients that are asked in a round; more than "
                "half of them are needed, or two groups could be told of different sums"
            )
        check_plaintext_headroom(self, clients)


class Plaintext(FixedPointSpec):
    """The server sees every update."""

    kind: Literal["plaintext"] = "plaintext"

    def check_sum(self, clients: int) -> None:
        """Raise an error if the sum of ``clients`` updates may not fit in 63 bits."""
        check_plaintext_headroom(self, clients)


class Encrypted(FixedPointSpec):
    """Clients encrypt, the server adds ciphertexts and holds no secret key."""

    kind: str

    keys: Literal["public", "shared"] = Field(
        default="public",
        description="What updates are encrypted under. `public`: a public key, and one holder of the secret key opens "
        "what the server announces as a sum. `shared`: the secret key, which every client has then; uploads are half "
        "as large, and one client that colludes with the server opens everybody's.",
    )
    rounds_per_key: int | None = Field(
        default=None,
        ge=1,
        description="After how many sums the holder makes a new key; without it, one key is for the whole training.",
    )

    @model_validator(mode="after")
    def _one_shared_key(self) -> Self:
        if self.keys == "shared" and self.rounds_per_key is not None:
            raise config_error(
                f"rounds_per_key {self.rounds_per_key} with keys 'shared': all clients would have to come to a new key at "
                "once; allowed with keys public; or leave rounds_per_key out"
            )
        return self


class Ckks(Encrypted):
    """CKKS: real numbers, with an error that rounding to the grid takes away."""

    kind: Literal["ckks"] = "ckks"
    poly_modulus_degree: Literal[4096, 8192, 16384, 32768] = Field(
        default=4096, description="Ring dimension N; N values a ciphertext, two a slot."
    )
    coeff_mod_bit_sizes: Annotated[tuple[int, ...], Field(strict=False)] = Field(
        default=(54, 40),
        description="Bits of the primes; the last is reserved for key switching. At 128 bits of "
        "security their sum is at most 109 (N 4096), 218 (8192), 438 (16384), 881 (32768).",
    )
    scale_bits: int = Field(default=40, ge=10, le=60, description="The scale is 2^scale_bits.")

    @model_validator(mode="after")
    def _secure(self) -> Ckks:
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

    def check_sum(self, clients: int) -> None:
        """Raise an error if the sum of ``clients`` updates may overflow, round to another grid value, or shows one."""
        require_two_clients(self, clients)
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

    def check_sum(self, clients: int) -> None:
        """Raise an error if the sum of ``clients`` updates may overflow, or shows one."""
        require_two_clients(self, clients)
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
