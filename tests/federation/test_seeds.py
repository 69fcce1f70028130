"""The seed of each party, which reveals nothing about the randomness of another party, on any engine."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from ppml.federation import run as run_module
from ppml.federation.factory import party_seeds
from ppml.federation.run import build_server_app, train_federated
from ppml.io.atomic import read_json
from ppml.randomness import Randomness
from ppml.stages import federation_job
from ppml.training import train

from .parties import CONTRACT, PRIVATE, Federation, federated, foreign_images, owners, parties
from .runs import ignore, ignore_row
from .scanner import reachable
from .test_engines import RNG as ROOT
from .test_engines import noise_of, write_job

CLIENT = {"kind": "client", "noise_multiplier": 1.0}
ARMS = {
    "local noise": federated(privacy=PRIVATE),
    "central noise": federated(privacy=CLIENT, weighting="uniform"),
    "without privacy": federated(),
}


def seeds_in(*given: object) -> set[bytes | int]:
    """Return all seeds that are reachable from the objects of a party."""
    return {one.root for one in reachable(*given) if isinstance(one, Randomness)}


def check_separate_seeds(parts: Federation, held_by_server: tuple[object, ...]) -> None:
    """Check that parties have separate seeds, and the root seed none."""
    pool = parts.pool
    own = {client: seed.root for client, seed in pool.seeds.items()}
    assert len(set(own.values())) == len(own) == 3
    server = seeds_in(*held_by_server)
    assert not server & set(own.values()), "the server has the seed of a client"
    assert all(isinstance(seed, bytes) for seed in server | set(own.values())), "a party has the root seed"


@pytest.mark.parametrize("arm", ARMS)
def test_parties_in_process_have_separate_seeds(arm):
    parts = parties(ARMS[arm], seed=5)
    server = (parts.settings, parts.aggregator, parts.sum_mechanism)
    check_separate_seeds(parts, server)
    if arm == "central noise":
        assert seeds_in(*server) == {party_seeds(Randomness(5), 3).server.root}, (
            "the search must find the seed of the server"
        )


def test_server_with_root_or_client_seed_is_detected():
    parts = parties(ARMS["local noise"], seed=5)
    for wrong in (Randomness(5), parts.pool.seeds[1]):
        settings = replace(parts.settings, sample_clients=partial(ignore, wrong))
        with pytest.raises(AssertionError, match="seed"):
            check_separate_seeds(parts, (settings,))


@pytest.mark.parametrize("arm", ARMS)
def test_server_app_has_only_its_own_seed(arm, monkeypatch):
    apps, given = [], []

    def recording_app(*parts):
        apps.append(build_server_app(*parts))
        return apps[-1]

    def recording_pool(pool, server, *others, **named):
        given.append(pool)
        return train_federated(pool, server, *others, **named)

    monkeypatch.setattr(run_module, "build_server_app", recording_app)
    monkeypatch.setattr("ppml.federation.run.train_federated", recording_pool)
    train(ARMS[arm], owners(), noise_of(ARMS[arm]), foreign_images(), contract=CONTRACT, rng=ROOT, report=ignore_row)
    clients = {seed.root for seed in given[0].seeds.values()}
    found = seeds_in(apps[0])
    assert len(clients) == 3 and not found & (clients | {ROOT.root})


@pytest.mark.parametrize("arm", ARMS)
def test_deployed_parties_read_only_their_own_seeds(arm, tmp_path):
    job = write_job(ARMS[arm], tmp_path)
    every = {path.name: path.read_text() for path in tmp_path.glob("*.seed")}
    assert sorted(every) == ["client0.seed", "client1.seed", "client2.seed", "server.seed"]
    assert len(set(every.values())) == 4
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.glob("*.seed")), "other users must not read a seed"
    public = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.suffix != ".seed")
    assert not any(seed.encode() in public or bytes.fromhex(seed) in public for seed in every.values())
    assert not {"root_seed", "seed", "rng"} & read_json(job).keys()

    for name in ("client0.seed", "client2.seed", "server.seed"):
        (tmp_path / name).unlink()
    (own,) = federation_job.load_clients(str(job), (1,)).seeds.values()
    assert own.root.hex() == every["client1.seed"], "a site needs no other seed"
    (tmp_path / "server.seed").write_text(every["server.seed"])
    (tmp_path / "client1.seed").unlink()
    parts = federation_job.load_server(str(job))
    assert seeds_in(parts) <= {bytes.fromhex(every["server.seed"])}, "the server needs no seed of a client"


def test_ray_clients_have_no_server_seed(tmp_path):
    job = write_job(ARMS["central noise"], tmp_path)
    server = (tmp_path / "server.seed").read_text()
    (tmp_path / "server.seed").unlink()
    pool = federation_job.load_clients(str(job), (0, 1, 2))
    assert len(pool.seeds) == 3 and bytes.fromhex(server) not in seeds_in(pool)


def test_parties_cannot_compute_each_others_noise():
    """The values of different parties on the same path are different."""
    seeds = party_seeds(ROOT, 3)
    given = [seeds.server, *seeds.clients.values()]
    drawn = [
        {one.child(*path).numpy().integers(2**62) for path in (("round", 1), ("round", 1, "noise"), ("noise",))}
        for one in given
    ]
    assert len(set().union(*drawn)) == sum(map(len, drawn))


def test_seeds_of_a_private_training_depend_on_its_mechanism(tmp_path):
    found = set()
    for number, multiplier in enumerate((1.0, 1.5)):
        arm = federated(privacy={**PRIVATE, "noise_multiplier": multiplier})
        write_job(arm, tmp_path / str(number))
        found |= {path.read_text() for path in (tmp_path / str(number)).glob("*.seed")}
    assert len(found) == 8
