"""The whole configuration, and the checks that need more than one part of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from ppml.aggregation_parameters import clients_per_round, masking_threshold
from ppml.config.arm import Arm
from ppml.config.audit import Audit, NoAudit
from ppml.config.data import DataSpec, Natural, PartitionSpec
from ppml.config.datasets import DATASETS, FALLBACK_TABLE, Dataset
from ppml.config.experiment import Claim, Experiment
from ppml.config.models import MODELS, fitting_models
from ppml.config.paths import expand_output_folder
from ppml.config.spec import ListOf, Seed, Spec, config_error, unknown_name
from ppml.config.technique import ClientLevel, ExampleLevel, Federated, Masking
from ppml.config.transforms import transformed_contract
from ppml.contract import DataContract

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=60)]


Folder = Annotated[str, AfterValidator(expand_output_folder)]


MAX_ENCRYPTED_INPUTS = 4096
"""Inputs of encrypted prediction: a batch of so many ciphertexts has 1.1 GB."""


class Folders(Spec):
    """The folders of data and results, relative to the working folder of the workflow."""

    data: Folder = Field(default="data", description="Raw files and subsets.")
    artifacts: Folder = Field(default="artifacts", description="Partitions and runs.")
    reports: Folder = Field(default="reports", description="Result rows, tables and figures.")
    logs: Folder = Field(default="logs", description="One file per job.")


class Config(Spec):
    """Everything that one run of the workflow depends on."""

    extends: str | None = Field(
        default=None,
        description="A file in the same folder. The keys of this file replace its keys one by one.",
    )
    seed: int = Field(default=2024, ge=0, description="The root of all randomness except keys and encryption.")
    seeds: ListOf[Seed] = Field(
        default=(0, 1, 2),
        min_length=1,
        description="Seeds of the repetitions of every arm; each has its own partition and weights.",
    )
    device: Literal["cpu", "cuda"] = Field(
        default="cpu",
        description="On cpu, one thread, results repeat bit for bit; on cuda they do so only statistically.",
    )
    folders: Folders = Folders()
    data: DataSpec = DataSpec()
    partitions: dict[Name, PartitionSpec] = Field(
        default={}, description="Divisions of the examples among clients, by name."
    )
    audit: Audit = NoAudit()
    arms: dict[Name, Arm] = Field(min_length=1, description="The rows of the comparison, by name.")
    experiments: dict[Name, Experiment] = Field(default={}, description="Tables and figures of selected arms, by name.")

    @model_validator(mode="after")
    def _check(self) -> Config:
        _check_distinct(self.seeds, "seeds")
        for name in self.data.define:
            if name in DATASETS:
                raise config_error(
                    f"data.define.{name}: config/datasets.yaml has a data set of this name; take another name"
                )
        self._check_dataset(self.data.dataset, "data.dataset")
        for name, arm in self.arms.items():
            self._check_arm(name, arm)
        _require_known(getattr(self.audit, "steps_by_arm", ()), self.audited(), "audited arm", "audit.steps_by_arm")
        for name, experiment in self.experiments.items():
            self._check_experiment(f"experiments.{name}", experiment)
        return self

    def _check_experiment(self, place: str, experiment: Experiment) -> None:
        _require_known(experiment.arms, self.arms, "arm", f"{place}.arms")
        shown = ", ".join(experiment.arms) or "(no arm)"
        for section in ("tables", "figures"):
            if "audit" in getattr(experiment, section) and not set(experiment.arms) & set(self.audited()):
                raise config_error(
                    f"{place}.{section}: 'audit' shows audited arms, and none of {shown} is audited; add an arm with "
                    "privacy, and set `audit: {kind: canary}`"
                )
        if "inference" in experiment.tables and not any(self.arms[arm].predicts_encrypted for arm in experiment.arms):
            raise config_error(
                f"{place}.tables: 'inference' shows arms that predict encrypted images, and none of {shown} does; "
                "add an arm with `inference: {kind: ckks}`"
            )
        kinds = {self.dataset(self.dataset_of(arm)).contract.kind for arm in experiment.arms}
        if "predictions" in experiment.figures and "image" not in kinds:
            raise config_error(
                f"{place}.figures: 'predictions' shows images, and none of {shown} is trained on images; leave it out"
            )
        many = [arm for arm in experiment.arms if len(self.contract_of(arm).classes) != 2]
        if experiment.metric == "auc" and many:
            raise config_error(
                f"{place}.metric: got 'auc', which two classes have, and arm {many[0]} has "
                f"{len(self.contract_of(many[0]).classes)}; allowed: accuracy, balanced_accuracy, macro_f1, "
                "worst_class_recall"
            )
        compared = (row.arm for row in experiment.compare if row.arm)
        _require_known(compared, experiment.arms, "arm", f"{place}.compare")
        for number, claim in enumerate(experiment.claims):
            self._check_claim(f"{place}.claims.{number}.arms", claim)

    def _check_arm(self, name: str, arm: Arm) -> None:
        if arm.dataset:
            self._check_dataset(arm.dataset, f"arms.{name}.dataset")
        _check_distinct(arm.seeds or (), f"arms.{name}.seeds")
        _check_reference(name, arm)
        self._check_fit(name, arm)
        self._check_accountant(name, arm)
        if arm.partition is None:
            return
        _require_known([arm.partition], self.partitions, "partition", f"arms.{name}.topology.partition")
        self._check_partition(arm.partition, name)
        clients = self.clients_of(name)
        if isinstance(arm.topology, Federated):
            self._check_round(name, arm, clients)
            try:
                arm.aggregation.check_sum(clients_per_round(arm.topology.participation, clients))
            except Exception as error:
                raise config_error(f"arms.{name}.{error}") from None

    def _check_round(self, name: str, arm: Arm, clients: int) -> None:
        """Raise an error if no round could ever be complete."""
        assert isinstance(arm.topology, Federated)
        asked = clients_per_round(arm.topology.participation, clients)
        if arm.topology.min_clients > asked:
            raise config_error(
                f"arms.{name}.topology.min_clients: got {arm.topology.min_clients}, more than the {asked} clients "
                f"of a round; at most {asked} are allowed"
            )
        if isinstance(arm.privacy, ExampleLevel | ClientLevel) and arm.privacy.noise == "distributed":
            missing = arm.privacy.max_colluding + arm.privacy.max_dropouts
            if missing >= clients:
                raise config_error(
                    f"arms.{name}.privacy.max_colluding and max_dropouts: {arm.privacy.max_colluding} + "
                    f"{arm.privacy.max_dropouts} of {clients} clients: no part of the noise counts; at most "
                    f"{clients - 1} together are allowed"
                )
            counted = clients - arm.privacy.max_dropouts
            if isinstance(arm.aggregation, Masking) and masking_threshold(arm.aggregation.threshold, asked) < counted:
                threshold = masking_threshold(arm.aggregation.threshold, asked)
                raise config_error(
                    f"arms.{name}.aggregation.threshold: got {threshold} with privacy.max_dropouts "
                    f"{arm.privacy.max_dropouts} of {clients} clients: a sum of fewer than {counted} has less noise "
                    f"than is accounted; at least {counted} are needed, or a larger max_dropouts"
                )

    def _check_partition(self, name: str, arm: str) -> None:
        partition, examples, source = self.partitions[name], self.data.train, "data.train"
        if isinstance(partition, Natural):
            try:
                partition.chosen(self.dataset(self.dataset_of(arm)).contract.groups)
            except PydanticCustomError as error:
                raise config_error(f"partitions.{name}.{error.message()} (arms.{arm})") from None
            return
        for key in ("sample_size", "clients"):
            number = getattr(partition, key)
            if number is not None and number > examples:
                raise config_error(
                    f"partitions.{name}.{key}: got {number}, more than the {examples} examples of {source}; at most "
                    f"{examples} are allowed"
                )
            if key == "sample_size" and number is not None:
                examples, source = number, f"partitions.{name}.sample_size"
        shards = getattr(partition, "shards_per_client", 1) * partition.clients
        if shards > examples:
            raise config_error(
                f"partitions.{name}.shards_per_client: {shards} shards in all, more than the {examples} examples of "
                f"{source}; at most {examples // partition.clients} a client are allowed"
            )

    def audited(self) -> tuple[str, ...]:
        """Return the names of the audited arms."""
        return tuple(name for name, arm in self.arms.items() if arm.is_private and self.audit.steps_for(name))

    def _check_claim(self, place: str, claim: Claim) -> None:
        _require_known(claim.arms, self.arms, "arm", place)
        public = [arm for arm in claim.arms if not self.arms[arm].is_private]
        if len(public) != 1 or len(claim.arms) < 2:
            raise config_error(
                f"{place}: {len(public)} of {len(claim.arms)} without privacy ({', '.join(public) or 'none'}); exactly "
                "one is allowed, with at least one private arm"
            )

    def _check_accountant(self, name: str, arm: Arm) -> None:
        batch_size = arm.training.batch_size
        exact = isinstance(arm.privacy, ExampleLevel) and arm.privacy.accountant == "gdp"
        if exact and isinstance(batch_size, int) and batch_size < self.data.train:
            raise config_error(
                f"arms.{name}.privacy.accountant: got 'gdp' with training.batch_size {batch_size}, a sample of the "
                f"{self.data.train} examples of data.train: gdp is exact only if every step takes all examples; "
                "allowed: prv, rdp, pld, or 'all' for training.batch_size"
            )

    def _check_dataset(self, name: str, key: str) -> None:
        _require_known([name], [*DATASETS, *self.data.define], "data set", key)

    def _check_fit(self, name: str, arm: Arm) -> None:
        """Raise an error if the model, or the augmentation, does not fit the data of the arm."""
        try:
            contract = self.contract_of(name)
        except PydanticCustomError as error:
            raise config_error(f"arms.{name}.transforms: {error.message()}") from None
        if contract.fitted and arm.is_private:
            raise config_error(
                f"arms.{name}.privacy: the data set {self.dataset_of(name)} has the scale fitted in column "
                f"{contract.fitted[0]!r}: its mean and deviation come from private rows, and no epsilon counts them; "
                "state low and high, public facts, or leave privacy out"
            )
        if reason := MODELS[arm.model].misfit(contract):
            raise config_error(
                f"arms.{name}.model: got {arm.model!r} for {contract}: {reason}; allowed for these data: "
                f"{', '.join(fitting_models(contract)) or 'no model'}"
            )
        if arm.predicts_encrypted and contract.size > MAX_ENCRYPTED_INPUTS:
            raise config_error(
                f"arms.{name}.inference: got {contract}, {contract.size:,} inputs: a batch has a ciphertext for each; "
                f"at most {MAX_ENCRYPTED_INPUTS:,} are allowed, for instance 1x64x64 or 3x36x36 images"
            )
        for key in ("shift", "deformation"):
            if contract.kind != "image" and arm.augments(key):
                raise config_error(
                    f"arms.{name}.training.{key}: got {contract}, which cannot be moved; leave {key} out"
                )
        if contract.kind == "image" and contract.shape[0] != 1 and arm.augments("deformation"):
            raise config_error(
                f"arms.{name}.training.deformation: got {contract}; it deforms images of 1 channel; "
                "leave deformation out"
            )

    def dataset(self, name: str) -> Dataset:
        """Return the data set ``name``."""
        return self.data.define.get(name) or DATASETS[name]

    def contract_of(self, arm: str) -> DataContract:
        """Return the contract of the inputs that ``arm`` trains on, after its transforms.

        Raises
        ------
        PydanticCustomError
            A transform does not fit the data.
        """
        return transformed_contract(self.dataset(self.dataset_of(arm)).contract, self.arms[arm].transforms)

    def dataset_of(self, arm: str) -> str:
        """Return the data set that ``arm`` trains on."""
        return self.arms[arm].dataset or self.data.dataset

    def used_dataset(self, arm: str, fallback: str | None) -> str:
        """Return the data set that ``arm`` trains on.

        Where there is a ``fallback``, it replaces all images with published files, and :data:`FALLBACK_TABLE` all
        tables with published files.
        """
        name = self.dataset_of(arm)
        if fallback is None or not self.dataset(name).file_names:
            return name
        return FALLBACK_TABLE if self.dataset(name).contract.kind == "table" else fallback

    def label_of(self, arm: str) -> str:
        """Return the label of ``arm``; its name without a label."""
        return self.arms[arm].label or arm

    def seeds_of(self, arm: str) -> tuple[int, ...]:
        """Return the seeds of ``arm``."""
        return self.arms[arm].seeds or self.seeds

    def clients_of(self, arm: str) -> int:
        """Return the number of owners of examples."""
        name = self.arms[arm].partition
        if name is None:
            return 1
        partition = self.partitions[name]
        if isinstance(partition, Natural):
            return len(partition.chosen(self.dataset(self.dataset_of(arm)).contract.groups))
        return partition.clients

    def examples_per_client(self, arm: str) -> int:
        """Return the mean number of examples of a client; all of them if one owner holds everything."""
        name = self.arms[arm].partition
        if name is None:
            return self.data.train
        divided = getattr(self.partitions[name], "sample_size", None) or self.data.train
        return divided // self.clients_of(arm)

    def warnings(self) -> list[str]:
        """Return one line per allowed but unwise setting."""
        lines = []
        for name, arm in self.arms.items():
            match arm.privacy:
                case ExampleLevel(noise=noise):
                    # With noise in the sum, an example of a client is one among the examples of all clients.
                    number = self.examples_per_client(name) * (self.clients_of(name) if noise == "distributed" else 1)
                    units, unit = "examples of an owner", "one example"
                case ClientLevel():
                    number, units, unit = self.clients_of(name), "clients", "one client's data"
                case _:
                    continue
            if arm.privacy.delta >= 1 / number:
                lines.append(
                    f"arms.{name}.privacy.delta: {arm.privacy.delta} is not below 1/n for n = {number} {units}: such a "
                    f"guarantee permits the publication of {unit}"
                )
        return lines


def _check_distinct(seeds: tuple[int, ...], key: str) -> None:
    if len(set(seeds)) != len(seeds):
        raise config_error(f"{key}: {list(seeds)} names a seed twice; each may occur once")


def _check_reference(name: str, arm: Arm) -> None:
    """Raise an error if an arm states a setting of training that its model does not read.

    The check is no part of the arm: a job reads an arm with the defaults of all keys, which nobody stated.
    """
    if MODELS[arm.model].is_reference and (stated := sorted(arm.training.model_fields_set)):
        value = arm.training.to_json()[stated[0]]
        raise config_error(
            f"arms.{name}.training.{stated[0]}: got {value!r}, which model {arm.model!r} does not read: its library "
            "trains by its own settings; allowed: no key of training; leave training out, or give the model an arm of "
            "its own"
        )


def _require_known(names: Iterable[str], allowed: Collection[str], what: str, place: str) -> None:
    """Raise an error for the first name that is not allowed."""
    for name in names:
        if name not in allowed:
            raise config_error(f"{place}: {unknown_name(what, name, allowed).message()}")
