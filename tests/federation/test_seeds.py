"""The seed of each party: what a party is given tells nothing of what another party draws, on any engine."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from ppml.config.arm import Arm
from ppml.federation import run as run_module
from ppml.federation.factory import party_seeds
from ppml.federation.run import build_server_app, train_federated
from ppml.io.atomic import read_json
from ppml.randomness import Randomness
from ppml.stages import federation_job as sites
from ppml.training import train

from .parties import PRIVATE, Federation, federated, foreign_images, owners, parties
from .runs import ignore, ignore_row
from .scanner import reachable

ROOT = Randomness(5).child("seed", 0)
CLIENT = {"kind": "client", "noise_multiplier": 1.0}
ARMS = {
    "noise of each owner": federated(privacy=PRIVATE),
    "noise of the server": federated(privacy=CLIENT, weighting="uniform"),
    "without privacy": federated(),
}


def seeds_in(*given: object) -> set[bytes | int]:
    """Return every seed that can be reached from what a party is given."""
    return {one.root for one in reachable(*given) if isinstance(one, Randomness)}


def check_each_holds_its_own(parts: Federation, held_by_server: tuple[object, ...]) -> None:
    """Compare the seeds that the parties hold."""
    population = parts.population
    own = {client: seed.root for client, seed in population.seeds.items()}
    assert len(set(own.values())) == len(own) == 3
    server = seeds_in(*held_by_server)
    assert not server & set(own.values()), "the server holds the seed of a client"
    assert all(isinstance(seed, bytes) for seed in server | set(own.values())), "a party holds the root seed"


@pytest.mark.parametrize("arm", ARMS)
def test_in_process_server_and_clients_are_given_seeds_of_their_own(arm):
    parts = parties(ARMS[arm], seed=5)
    server = (parts.plan, parts.aggregator, parts.release)
    check_each_holds_its_own(parts, server)
    if arm == "noise of the server":
        assert seeds_in(*server) == {party_seeds(Randomness(5), 3).server.root}, "the search finds what is there"


def test_a_server_that_is_given_the_root_or_a_clients_seed_is_caught():
    parts = parties(ARMS["noise of each owner"], seed=5)
    for wrong in (Randomness(5), parts.population.seeds[1]):
        plan = replace(parts.plan, sample_clients=partial(ignore, wrong))
        with pytest.raises(AssertionError, match="seed"):
            check_each_holds_its_own(parts, (plan,))


@pytest.mark.parametrize("arm", ARMS)
def test_the_server_app_of_a_whole_training_leads_to_no_seed_but_its_own(arm, monkeypatch):
    apps, given = [], []

    def spied(*held):
        apps.append(build_server_app(*held))
        return apps[-1]

    def watched(population, server, *others, **named):
        given.append(population)
        return train_federated(population, server, *others, **named)

    monkeypatch.setattr(run_module, "build_server_app", spied)
    monkeypatch.setattr("ppml.federation.run.train_federated", watched)
    noise = [getattr(ARMS[arm].privacy, "noise_multiplier", None)] * 3
    train(ARMS[arm], owners(), noise, foreign_images(), classes=10, rng=ROOT, report=ignore_row)
    clients = {seed.root for seed in given[0].seeds.values()}
    found = seeds_in(apps[0])
    assert len(clients) == 3 and not found & (clients | {ROOT.root})


def job_of(arm: Arm, folder: Path) -> Path:
    noise = [getattr(arm.privacy, "noise_multiplier", None)] * 3
    return sites.write_job(
        folder,
        arm,
        rng=ROOT,
        data=("digits", 125),
        classes=10,
        owned=owners(),
        test=foreign_images(),
        calibrated={"noise_multipliers": noise},
    )


@pytest.mark.parametrize("arm", ARMS)
def test_deployed_each_party_reads_its_own_seed_and_no_file_has_the_root(arm, tmp_path):
    job = job_of(ARMS[arm], tmp_path)
    every = {path.name: path.read_text() for path in tmp_path.glob("*.seed")}
    assert sorted(every) == ["client0.seed", "client1.seed", "client2.seed", "server.seed"]
    assert len(set(every.values())) == 4
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.glob("*.seed")), "others may not read a seed"
    public = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.suffix != ".seed")
    assert not any(seed.encode() in public or bytes.fromhex(seed) in public for seed in every.values())
    assert not {"root_seed", "seed", "rng"} & read_json(job).keys()

    for name in ("client0.seed", "client2.seed", "server.seed"):
        (tmp_path / name).unlink()
    (own,) = sites.population(str(job), (1,)).seeds.values()
    assert own.root.hex() == every["client1.seed"], "a site needs no other seed"
    (tmp_path / "server.seed").write_text(every["server.seed"])
    (tmp_path / "client1.seed").unlink()
    parts = sites.server(str(job))
    assert seeds_in(parts) <= {bytes.fromhex(every["server.seed"])}, "the server needs no seed of a client"


def test_on_ray_the_processes_of_clients_have_the_seeds_of_clients_alone(tmp_path):
    job = job_of(ARMS["noise of the server"], tmp_path)
    server = (tmp_path / "server.seed").read_text()
    (tmp_path / "server.seed").unlink()
    population = sites.population(str(job), (0, 1, 2))
    assert len(population.seeds) == 3 and bytes.fromhex(server) not in seeds_in(population)


def test_a_party_cannot_compute_the_noise_of_another():
    """Every value that a party derives from its seed differs from every value of another party on the same path."""
    seeds = party_seeds(ROOT, 3)
    given = [seeds.server, *seeds.clients.values()]
    drawn = [
        {one.child(*path).numpy().integers(2**62) for path in (("round", 1), ("round", 1, "noise"), ("noise",))}
        for one in given
    ]
    assert len(set().union(*drawn)) == sum(map(len, drawn))


def test_the_seeds_of_a_private_training_depend_on_its_mechanism(tmp_path):
    found = set()
    for number, multiplier in enumerate((1.0, 1.5)):
        arm = federated(privacy={**PRIVATE, "noise_multiplier": multiplier})
        job_of(arm, tmp_path / str(number))
        found |= {path.read_text() for path in (tmp_path / str(number)).glob("*.seed")}
    assert len(found) == 8
