"""Train a federated arm on another engine, on one machine or on several.

On one machine, with a comparison to the workflow's result::

    python -m ppml.pipeline.federate --configfile config/smoke.yaml --arm fl --engine deployment

On several machines, with one command for each site, see docs/deployment.md::

    python -m ppml.pipeline.federate prepare --configfile config/smoke.yaml --arm fl --server server.example.org:9092
    python -m ppml.pipeline.federate serve build/federate/server
    python -m ppml.pipeline.federate join build/federate/client0
    python -m ppml.pipeline.federate hold-keys build/federate/key-holder
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ppml.config.suggestions import suggestion
from ppml.errors import UserError
from ppml.io.atomic import read_json
from ppml.jobs.runner import run
from ppml.jobs.threads import use_one_thread
from ppml.pipeline.plan import Plan
from ppml.project import DEFAULT_CONFIG

PROGRAM = "python -m ppml.pipeline.federate"
SECONDS = 3600.0
"""Time limit of a deployment on one machine."""

FOLDER = Path("build/federate")
OWN_FILES = re.compile(r"job|sites|result\.json(\.fault)?|server|key-holder|client\d+")
"""Names in the folder of an earlier training, which a new training removes."""

APPS = "ppml.stages.flower_apps"
"""Module of the apps."""

print_now = partial(print, flush=True)
"""Print a line without delay, also into a file."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command of the first argument, or train on another engine of this machine."""
    from ppml.federation.engines.flower_processes import DeploymentFailed

    # Only the owner can read the files.
    os.umask(0o077)
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = COMMANDS.get(arguments[0]) if arguments else None
    name = arguments[0] if command else "federate"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(f"error: {name}: stopped"))
    try:
        if command:
            command(arguments[1:])
        else:
            compare_engine(arguments)
    except DeploymentFailed as error:
        raise UserError(f"{name if command else 'engine deployment'}: {error}") from None
    except KeyboardInterrupt:
        raise UserError(f"{name}: stopped; no process remains") from None


def compare_engine(argv: Sequence[str]) -> None:
    """Train, and compare the model's digest, the history and the accounts with those of the workflow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training_options(parser)
    parser.add_argument("--engine", choices=("ray", "deployment"), required=True)
    parser.add_argument("--workers", type=int, default=2, help="number of Ray processes")
    arguments = parser.parse_args(argv)
    plan = Plan.check({}, [arguments.configfile])
    job = write_job(plan, arguments.arm, arguments.seed, arguments.folder)
    from ppml.stages.federation_job import start_key_service

    started = time.monotonic()
    with start_key_service(str(job)):
        found = train_on_engine(arguments.engine, job, arguments.folder, arguments.workers)
    print(f"{arguments.engine}: model {found['model']}, {time.monotonic() - started:.1f} s")
    expected = read_workflow_result(plan, arguments.arm, arguments.seed, job)
    print(f"workflow: model {expected['model']}")
    missing = [client for client, own in enumerate(found["events"]) if own is None]
    if missing:
        raise UserError(
            f"the {arguments.engine} engine: client {missing[0]} gives no account of its training, so that no epsilon "
            "may be stated for it; the training has completed"
        )
    different = ["accounts" if name == "events" else name for name in expected if found[name] != expected[name]]
    if different:
        raise UserError(f"the {arguments.engine} engine and the workflow differ in: {', '.join(different)}")
    print("the same bits, history and accounts")


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for a training and its folder."""
    parser.add_argument("--configfile", default=DEFAULT_CONFIG)
    parser.add_argument("--arm", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--folder",
        type=Path,
        default=FOLDER,
        help="folder of the training; its old files are removed (default: %(default)s)",
    )


def prepare_folders(argv: Sequence[str]) -> None:
    """Create a folder for each site of a training on several machines."""
    parser = argparse.ArgumentParser(f"{PROGRAM} prepare", description=prepare_folders.__doc__)
    add_training_options(parser)
    parser.add_argument("--server", required=True, metavar="HOST:PORT", help="address of the server for all sites")
    parser.add_argument("--key-holder", default="", metavar="HOST:PORT", help="address of the key holder for all sites")
    parser.add_argument("--server-name", action="append", default=[], help="a further name in its certificate")
    parser.add_argument("--key-holder-name", action="append", default=[], help="a further name in its certificate")
    parser.add_argument("--answer-seconds", type=float, default=600.0, help="time limit of a client's reply")
    arguments = parser.parse_args(argv)
    check_address("--server", arguments.server)
    check_address("--key-holder", arguments.key_holder)
    plan = Plan.check({}, [arguments.configfile])
    job = write_job(plan, arguments.arm, arguments.seed, arguments.folder)
    from ppml.federation.engines.site import SiteConfig, write_credentials
    from ppml.stages.deployment_folders import needs_key_holder, split_job

    if needs_key_holder(job) != bool(arguments.key_holder):
        shutil.rmtree(job.parent)
        remedy, article = ("omit it", "no") if arguments.key_holder else ("give its HOST:PORT", "a")
        raise UserError(f"--key-holder: {remedy}; the aggregation of {arguments.arm} has {article} secret key")
    clients = len(read_json(job)["sizes"])
    if Path(plan.paths.run(arguments.arm, arguments.seed, "model.safetensors")).is_file():
        print(f"workflow: model {read_workflow_result(plan, arguments.arm, arguments.seed, job)['model']}")
    site = SiteConfig("", arguments.server, arguments.key_holder, clients, answer_seconds=arguments.answer_seconds)
    names = {"server_names": arguments.server_name, "key_holder_names": arguments.key_holder_name}
    write_credentials(arguments.folder, site, **names)
    split_job(job, arguments.folder, site)
    for name in sorted(path.name for path in arguments.folder.iterdir() if path.is_dir()):
        print(f"{arguments.folder / name}: copy it only to that site, and remove it from this machine")


def check_address(option: str, text: str) -> None:
    """Raise an error unless an option is empty or an address."""
    from ppml.federation.engines.tunnel import Address

    try:
        if text:
            Address.parse(text)
    except ValueError as error:
        raise UserError(f"{option}: {error}") from None


def parse_site(argv: Sequence[str], name: str, role: str, *, listens: bool) -> tuple[Path, str]:
    """Return the folder of a site and its listening address from the command line."""
    parser = argparse.ArgumentParser(f"{PROGRAM} {name}", description=f"Run the {role} of a training.")
    parser.add_argument("folder", type=Path, help="folder of this site from `prepare`")
    if listens:
        parser.add_argument("--listen", default="", metavar="HOST:PORT", help="listening address on this machine")
    arguments = parser.parse_args(argv)
    listen = arguments.listen if listens else ""
    check_address("--listen", listen)
    return arguments.folder, listen


def run_server(argv: Sequence[str]) -> None:
    """Run the server."""
    from ppml.federation.engines import site

    folder, listen = parse_site(argv, "serve", "server", listens=True)
    started = time.monotonic()
    result = read_json(site.run_server(folder, APPS, listen=listen, notice=print_now))
    for line in result["notices"]:
        print_now(line)
    print_now(f"model {result['model']}, {time.monotonic() - started:.1f} s; result: {folder / site.RESULT}")


def run_client(argv: Sequence[str]) -> None:
    """Run a client."""
    from ppml.federation.engines import site

    folder, _ = parse_site(argv, "join", "client", listens=False)
    print_now(f"the training has ended; model: {site.run_client(folder, APPS, notice=print_now)}")


def run_key_holder(argv: Sequence[str]) -> None:
    """Run the key holder."""
    from ppml.federation.engines import site
    from ppml.stages.federation_job import start_key_service

    folder, listen = parse_site(argv, "hold-keys", "key holder", listens=True)
    site.run_key_holder(folder, start_key_service, listen=listen, notice=print_now)


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "prepare": prepare_folders,
    "serve": run_server,
    "join": run_client,
    "hold-keys": run_key_holder,
}


def write_job(plan: Plan, arm: str, seed: int, folder: Path) -> Path:
    """Write the files of the sites from the files of the workflow."""
    import torch

    from ppml.stages.about import read_contract
    from ppml.stages.example_files import read_examples, split_by_owner
    from ppml.stages.federation_job import write_federation_job
    from ppml.stages.seeds import public_data, seed_randomness

    federated = [name for name, spec in plan.config.arms.items() if hasattr(spec.topology, "rounds")]
    if arm not in federated:
        raise UserError(f"--arm: got {arm!r}; {suggestion(arm, federated)}allowed: {', '.join(federated)}")
    if seed not in (seeds := plan.config.seeds_of(arm)):
        raise UserError(f"--seed: got {seed}; allowed: {', '.join(map(str, seeds))}")
    key = {"arm": arm, "seed": str(seed)}
    files = {**plan.examples(arm), **plan.partition_of(key), **plan.noise_of(key)}
    _require_made(*files.values())
    about, contract = read_json(files["about"]), read_contract(files["about"])
    examples, test = (read_examples(files[name], contract) for name in ("train", "test"))
    empty_folder(folder)
    return write_federation_job(
        (folder / "job").resolve(),
        plan.config.arms[arm],
        rng=seed_randomness(plan.config.seed, seed),
        data=public_data(about, files.get("partition")),
        contract=contract,
        owned=split_by_owner(examples, files.get("partition")),
        test=test.select(torch.arange(about["n_test"])),
        calibrated=read_json(files["noise"]) if "noise" in files else {},
    )


def _require_made(*files: str) -> None:
    for file in files:
        if not Path(file).exists():
            raise UserError(f"{file}: is missing; the workflow makes it: `make results` with the same CONFIG first")


def empty_folder(folder: Path) -> None:
    """Create an empty folder with private permissions, and remove the files of an earlier training."""
    from ppml.federation.engines.flower_processes import private_folder

    if folder.is_dir():
        foreign = sorted(path.name for path in folder.iterdir() if not OWN_FILES.fullmatch(path.name))
        if foreign:
            raise UserError(
                f"--folder: {folder} has {foreign[0]!r}, which is no file of a training; use an empty folder"
            )
        shutil.rmtree(folder)
    private_folder(folder)


def train_on_engine(engine: str, job: Path, folder: Path, workers: int) -> dict[str, Any]:
    """Train on an engine, and return the result."""
    result = (folder / "result.json").resolve()
    clients = len(read_json(job)["sizes"])
    if engine == "deployment":
        from ppml.federation.engines.deployment import run_deployed

        run_deployed((folder / "sites").resolve(), APPS, job, result, clients, seconds=SECONDS)
    else:
        from ppml.federation.engines.namespaces import namespace_command

        stage = [sys.executable, "-P", "-m", "ppml.stages.ray_training", str(job), str(result), str(workers)]
        if subprocess.run([*namespace_command(), *stage], check=False).returncode:
            # The process has printed the reason.
            sys.exit(1)
    found: dict[str, Any] = read_json(result)
    return found


def read_workflow_result(plan: Plan, arm: str, seed: int, job: Path) -> dict[str, object]:
    """Return model, history and events of the same training in the workflow."""
    from ppml.stages.federation_job import initial_model
    from ppml.stages.model_file import read_models, trained_digest

    model = initial_model(str(job))
    trained = plan.paths.run(arm, seed, "model.safetensors")
    _require_made(trained)
    (weights,) = read_models(trained)
    model.load_state_dict(weights)
    with Path(plan.paths.run(arm, seed, "history.csv")).open(encoding="utf-8", newline="") as file:
        rows = [{name: json.loads(value or "null") for name, value in row.items()} for row in csv.DictReader(file)]
    events = read_json(plan.paths.run(arm, seed, "events.json"))["owners"]
    return {"model": trained_digest(trained, model), "events": events, "history": rows}


if __name__ == "__main__":
    use_one_thread()
    run(main)
