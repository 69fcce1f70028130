"""Train a federated arm on another engine, and say whether it comes to the bits that the workflow has.

``python workflow/federate.py --configfile config/smoke.yaml --arm fl --engine deployment``
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from plan import DEFAULT, Plan

from ppml.config.load import read_yaml
from ppml.errors import UserError
from ppml.records.files import read_json
from ppml.stages.runner import run
from ppml.stages.threads import one_thread

ENGINES = ("ray", "deployment")
SECONDS = 3600.0
"""How long a deployment may take."""


def main(argv: Sequence[str] | None = None) -> None:
    """Train, and compare the model's digest, history and accounts with those of the workflow."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configfile", default=DEFAULT)
    parser.add_argument("--arm", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=ENGINES, required=True)
    parser.add_argument("--workers", type=int, default=2, help="processes of Ray")
    parser.add_argument("--folder", type=Path, default=Path("build/federate"), help="is emptied first")
    arguments = parser.parse_args(argv)
    plan = Plan.check(read_yaml(Path(arguments.configfile)), [arguments.configfile])
    job = prepare(plan, arguments.arm, arguments.seed, arguments.folder)
    from ppml.stages.sites import hold_keys

    started = time.monotonic()
    with hold_keys(str(job)):
        found = on_engine(arguments.engine, job, arguments.folder, arguments.workers)
    print(f"{arguments.engine}: model {found['model']}, {time.monotonic() - started:.1f} s")
    expected = in_workflow(plan, arguments.arm, arguments.seed, job)
    print(f"workflow: model {expected['model']}")
    different = [name for name, value in expected.items() if found[name] != value]
    if different:
        raise UserError(f"the {arguments.engine} engine comes to another {', '.join(different)} than the workflow")
    print("the same bits, history and accounts")


def prepare(plan: Plan, arm: str, seed: int, folder: Path) -> Path:
    """Write the files that the sites read, from what the workflow has made."""
    import torch

    from ppml.stages.seeds import public_data, seed_randomness
    from ppml.stages.sites import write_job
    from ppml.stages.storage import owned_by, read_examples

    if arm not in plan.config.arms or not hasattr(plan.config.arms[arm].topology, "rounds"):
        federated = [name for name, spec in plan.config.arms.items() if hasattr(spec.topology, "rounds")]
        raise UserError(f"--arm: got {arm!r}; allowed: {', '.join(federated)}")
    files = plan.examples(arm)
    about = read_json(files["about"])
    records, test = (read_examples(files[name], plan.dataset(arm)) for name in ("train", "test"))
    noise = plan.noise_of(arm, seed)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return write_job(
        (folder / "job").resolve(),
        plan.config.arms[arm],
        rng=seed_randomness(plan.config.seed, seed),
        data=public_data(about, plan.partition_of(arm, seed)[0]),
        classes=about["classes"],
        owned=owned_by(records, plan.partition_of(arm, seed)[0]),
        test=test.select(torch.arange(about["n_test"])),
        calibrated=read_json(noise[0]) if noise else {},
    )


def on_engine(engine: str, job: Path, folder: Path, workers: int) -> dict[str, object]:
    """Return model, history and events that an engine comes to."""
    from ppml.stages import deployed, sites

    result = (folder / "result.json").resolve()
    clients = len(read_json(job)["sizes"])
    if engine == "deployment":
        from ppml.federation.engines.deployment import DeploymentFailed, run_deployed

        try:
            run_deployed((folder / "sites").resolve(), deployed.__name__, job, result, clients, seconds=SECONDS)
        except DeploymentFailed as error:
            raise UserError(f"engine deployment: {error}") from None
    else:
        from ppml.federation.engines.ray import run_on_ray
        from ppml.federation.standing import RoundFailed

        population = partial(sites.population, str(job), tuple(range(clients)))
        try:
            deployed.write(str(result), run_on_ray(sites.server(str(job)), population, workers=workers))
        except RoundFailed as error:
            raise UserError(f"engine ray: {error}") from None
    found: dict[str, object] = read_json(result)
    return {name: found[name] for name in ("model", "history", "events")}


def in_workflow(plan: Plan, arm: str, seed: int, job: Path) -> dict[str, object]:
    """Return what the workflow has of the same training."""
    from safetensors.torch import load_file

    from ppml.learning.vectors import digest_of, flat_parameters
    from ppml.stages.sites import initial_model

    model = initial_model(str(job))
    weights = load_file(plan.run(arm, seed, "model.safetensors"))
    model.load_state_dict({name.removeprefix("0."): value for name, value in weights.items()})
    with Path(plan.run(arm, seed, "history.csv")).open(encoding="utf-8", newline="") as file:
        rows = [{name: json.loads(value or "null") for name, value in row.items()} for row in csv.DictReader(file)]
    events = read_json(plan.run(arm, seed, "events.json"))["owners"]
    return {"model": digest_of(flat_parameters(model)), "events": events, "history": rows}


if __name__ == "__main__":
    one_thread()
    run(main)
