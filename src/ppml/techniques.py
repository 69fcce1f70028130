"""One training for every technique: a topology, composed with what each owner does and with what the server adds by."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from ppml.config.arm import Arm
from ppml.config.technique import Centralized, Federated, LocalOnly, NoPrivacy
from ppml.data.examples import Examples
from ppml.federation.progress import NO_CHECKPOINT, Checkpoint
from ppml.learning.outcome import HistoryRow, Outcome
from ppml.models.registry import build_model
from ppml.randomness import Randomness


def train(
    arm: Arm,
    owned: Sequence[Examples],
    noise_multipliers: Sequence[float | None],
    test: Examples,
    *,
    classes: int,
    rng: Randomness,
    report: Callable[[HistoryRow], None],
    affordable_steps: Sequence[int] | None = None,
    checkpoint: Checkpoint = NO_CHECKPOINT,
    workers: int = 1,
) -> Outcome:
    """Train ``arm``.

    Parameters
    ----------
    arm : Arm
        What to train.
    owned : sequence of Examples
        Each owner's records; one owner when centralized.
    noise_multipliers : sequence of float or None
        Each owner's noise, None without privacy.
    test : Examples
        What the history is measured on.
    classes : int
        Number of classes.
    rng : Randomness
        Everything drawn here comes from it, except keys and encryption. It does not know the arm's name, so that arms
        that differ in their aggregation alone draw alike.
    report : callable
        Gets each epoch or round as it ends.
    affordable_steps : sequence of int or None
        How many steps each owner's privacy budget allows; None without budgets.
    checkpoint : Checkpoint
        Keeps a federated training after each round, for a process that carries it on. Owners who train alone, and
        whoever draws noise from the operating system, start from the beginning.
    workers : int
        In how many processes the clients of a federation train; the bits do not depend on it. On a GPU: 1.
    """
    device = owned[0].images.device

    def build() -> nn.Module:
        features = owned[0].images.shape[-1]
        return build_model(arm.model, classes, rng.child("initial-weights").torch(), features).to(device)

    limits: Sequence[int | None] = affordable_steps or [None] * len(owned)
    match arm.topology:
        case Centralized() | LocalOnly():
            from ppml.learning.alone import train_alone
            from ppml.learning.build_cohort import build_cohort

            models = [build() for _ in owned]
            cohort = build_cohort(arm.training, arm.privacy, noise_multipliers, limits, models[0])
            every = getattr(arm.topology, "evaluate_every", 1)
            return train_alone(models, cohort, owned, test, rng, report, every)
        case Federated() as topology:
            from ppml.aggregation.build import build_parties
            from ppml.aggregation.capacity import asked_in_a_round
            from ppml.federation.build import Given, build_population, build_server, simulated_failures
            from ppml.federation.run import train_federated
            from ppml.learning.vectors import flat_parameters

            given = Given(arm, [len(records) for records in owned], noise_multipliers, limits, rng)
            parties = build_parties(arm.aggregation, asked_in_a_round(topology.participation, len(owned)))
            model = build()
            repeats = _may_resume(arm, owned[0].labels.device.type)
            try:
                return train_federated(
                    build_population(given, model, dict(enumerate(owned)), parties.clients, test),
                    build_server(given, flat_parameters(model), parties.material),
                    report,
                    checkpoint=checkpoint if repeats else NO_CHECKPOINT,
                    fails=simulated_failures(topology.failures, rng),
                    workers=workers,
                    # A process that is forked cannot use a GPU that this one has begun to use.
                    apart=parties.apart if device.type == "cpu" else None,
                )
            finally:
                parties.close()


def _may_resume(arm: Arm, device: str) -> bool:
    """Say whether a repeated round repeats the same bits, where that matters.

    Secure noise does not repeat: a round that is interrupted and done again would be two draws on the same records, of
    which the account has one. That nobody saw the first is true of this process, not of a federation, whose server has
    it. So such a training is never put together from two processes, and its intermediate models stay off the disk.
    Seeded noise repeats on a CPU; on a GPU the gradients that it covers differ in their last bits.
    """
    return isinstance(arm.privacy, NoPrivacy) or (arm.privacy.noise_source == "seeded" and device == "cpu")
