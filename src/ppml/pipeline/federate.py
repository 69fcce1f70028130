"""Train a federated arm on another engine, on one machine or on several.

On one machine, and with a look at whether it comes to the bits that the workflow has::

    python -m ppml.pipeline.federate --configfile config/smoke.yaml --arm fl --engine deployment

On several, one command for each site, see docs/deployment.md::

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
from pathlib import Path
from typing import Any

from ppml.config.suggestions import suggestion
from ppml.config.yaml_file import read_yaml
from ppml.errors import UserError
from ppml.io.atomic import read_json
from ppml.pipeline.plan import Plan
from ppml.pipeline.project import DEFAULT_CONFIG
from ppml.stages.runner import run
from ppml.stages.threads import use_one_thread

ENGINES = ("ray", "deployment")
SECONDS = 3600.0
"""How long a deployment on one machine may take."""

FOLDER = Path("build/federate")
MADE_HERE = re.compile(r"job|sites|result\.json(\.fault)?|server|key-holder|client\d+")
"""What the folder of a training may hold when it is emptied."""


def main(argv: Sequence[str] | None = None) -> None:
    """Do what the first argument says, or train on another engine of this machine."""
    from ppml.federation.engines.flower_processes import DeploymentFailed

    # Whatever is written is for the owner alone.
    os.umask(0o077)
    given = list(sys.argv[1:] if argv is None else argv)
    command = COMMANDS.get(given[0]) if given else None
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(f"error: {given[0] if command else 'federate'}: stopped"))
    try:
        if command:
            command(given[1:])
        else:
            compare(given)
    except DeploymentFailed as error:
        raise UserError(f"{given[0] if command else 'engine deployment'}: {error}") from None
    except KeyboardInterrupt:
        raise UserError(f"{given[0] if command else 'federate'}: stopped; nothing is left running") from None


def compare(argv: Sequence[str]) -> None:
    """Train, and compare the model's digest, history and accounts with those of the workflow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training(parser)
    parser.add_argument("--engine", choices=ENGINES, required=True)
    parser.add_argument("--workers", type=int, default=2, help="processes of Ray")
    arguments = parser.parse_args(argv)
    plan = Plan.check(read_yaml(Path(arguments.configfile)), [arguments.configfile])
    job = prepare(plan, arguments.arm, arguments.seed, arguments.folder)
    from ppml.stages.federation_job import start_key_service

    started = time.monotonic()
    with start_key_service(str(job)):
        found = train_on_engine(arguments.engine, job, arguments.folder, arguments.workers)
    print(f"{arguments.engine}: model {found['model']}, {time.monotonic() - started:.1f} s")
    expected = read_workflow_result(plan, arguments.arm, arguments.seed, job)
    print(f"workflow: model {expected['model']}")
    without = [client for client, own in enumerate(found["events"]) if own is None]
    if without:
        raise UserError(
            f"the {arguments.engine} engine: client {without[0]} gives no account of its training, so that no epsilon "
            "may be stated for it; the training stands"
        )
    different = [name for name, value in expected.items() if found[name] != value]
    if different:
        raise UserError(f"the {arguments.engine} engine comes to another {', '.join(different)} than the workflow")
    print("the same bits, history and accounts")


def add_training(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose a training, and the folder that it gets."""
    parser.add_argument("--configfile", default=DEFAULT_CONFIG)
    parser.add_argument("--arm", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="is emptied first (default: %(default)s)")


def make_folders(argv: Sequence[str]) -> None:
    """Make a folder for each site of a training on several machines."""
    parser = argparse.ArgumentParser("federate.py prepare", description=make_folders.__doc__)
    add_training(parser)
    parser.add_argument("--server", required=True, metavar="HOST:PORT", help="where all sites reach the server")
    parser.add_argument("--key-holder", default="", metavar="HOST:PORT", help="where all sites reach the key holder")
    parser.add_argument("--server-name", action="append", default=[], help="a further name in its certificate")
    parser.add_argument("--key-holder-name", action="append", default=[], help="a further name in its certificate")
    parser.add_argument("--answer-seconds", type=float, default=600.0, help="how long a round waits for a site")
    arguments = parser.parse_args(argv)
    check_address("--server", arguments.server)
    check_address("--key-holder", arguments.key_holder)
    plan = Plan.check(read_yaml(Path(arguments.configfile)), [arguments.configfile])
    job = prepare(plan, arguments.arm, arguments.seed, arguments.folder)
    from ppml.federation.engines.site import SiteConfig, write_credentials
    from ppml.stages.deployment_folders import needs_key_holder, split_job

    if needs_key_holder(job) != bool(arguments.key_holder):
        shutil.rmtree(job.parent)
        said = "--key-holder: give its HOST:PORT" if not arguments.key_holder else "--key-holder: leave it out"
        how = "is" if not arguments.key_holder else "is not"
        raise UserError(f"{said}; the aggregation of {arguments.arm} {how} under a secret key")
    clients = len(read_json(job)["sizes"])
    if Path(plan.paths.run(arguments.arm, arguments.seed, "model.safetensors")).is_file():
        print(f"workflow: model {read_workflow_result(plan, arguments.arm, arguments.seed, job)['model']}")
    site = SiteConfig("", arguments.server, arguments.key_holder, clients, answer_seconds=arguments.answer_seconds)
    names = {"server_names": arguments.server_name, "key_holder_names": arguments.key_holder_name}
    write_credentials(arguments.folder, site, **names)
    split_job(job, arguments.folder, site)
    for name in sorted(path.name for path in arguments.folder.iterdir() if path.is_dir()):
        print(f"{arguments.folder / name}: carry it to that site alone, and remove it here")


def check_address(option: str, text: str) -> None:
    """Raise an error where an option is neither empty nor a host and a port."""
    from ppml.federation.engines.tunnel import Address

    try:
        if text:
            Address.parse(text)
    except ValueError as error:
        raise UserError(f"{option}: {error}") from None


def of_a_site(argv: Sequence[str], name: str, role: str, *, listens: bool) -> tuple[Path, str]:
    """Return the folder of a site, and where it listens, as the command line says."""
    parser = argparse.ArgumentParser(f"federate.py {name}", description=f"Be the {role} of a training.")
    parser.add_argument("folder", type=Path, help="of this site, as `prepare` has made it")
    if listens:
        parser.add_argument("--listen", default="", metavar="HOST:PORT", help="where this machine listens")
    arguments = parser.parse_args(argv)
    listen = arguments.listen if listens else ""
    check_address("--listen", listen)
    return arguments.folder, listen


def serve(argv: Sequence[str]) -> None:
    """Be the server."""
    from ppml.federation.engines import site

    folder, listen = of_a_site(argv, "serve", "server", listens=True)
    started = time.monotonic()
    result = read_json(site.serve(folder, APPS, listen=listen, notice=say))
    for line in result["notices"]:
        say(line)
    say(f"model {result['model']}, {time.monotonic() - started:.1f} s; result: {folder / site.RESULT}")


def join(argv: Sequence[str]) -> None:
    """Be a client."""
    from ppml.federation.engines import site

    folder, _ = of_a_site(argv, "join", "client", listens=False)
    say(f"the training has ended; model: {site.join(folder, APPS, notice=say)}")


def hold(argv: Sequence[str]) -> None:
    """Be the holder of the key."""
    from ppml.federation.engines import site
    from ppml.stages.federation_job import start_key_service

    folder, listen = of_a_site(argv, "hold-keys", "key holder", listens=True)
    site.hold_keys(folder, start_key_service, listen=listen, notice=say)


def say(line: str) -> None:
    """Print a line at once, also into a file."""
    print(line, flush=True)


APPS = "ppml.stages.flower_apps"
"""The module that has the apps."""

COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "prepare": make_folders,
    "serve": serve,
    "join": join,
    "hold-keys": hold,
}


def prepare(plan: Plan, arm: str, seed: int, folder: Path) -> Path:
    """Write the files that the sites read, from what the workflow has made."""
    import torch

    from ppml.stages.example_files import read_contract, read_examples, split_by_owner
    from ppml.stages.federation_job import write_federation_job
    from ppml.stages.seeds import public_data, seed_randomness

    if arm not in plan.config.arms or not hasattr(plan.config.arms[arm].topology, "rounds"):
        federated = [name for name, spec in plan.config.arms.items() if hasattr(spec.topology, "rounds")]
        raise UserError(f"--arm: got {arm!r}; {suggestion(arm, federated)}allowed: {', '.join(federated)}")
    if seed not in (seeds := plan.config.seeds_of(arm)):
        raise UserError(f"--seed: got {seed}; allowed: {', '.join(map(str, seeds))}")
    key = {"arm": arm, "seed": str(seed)}
    files = {**plan.examples(arm), **plan.partition_of(key), **plan.noise_of(key)}
    for file in files.values():
        if not Path(file).exists():
            raise UserError(f"{file}: is missing; the workflow makes it: `make results` with the same CONFIG first")
    about = read_json(files["about"])
    contract = read_contract(files["about"])
    examples, test = (read_examples(files[name], contract) for name in ("train", "test"))
    empty(folder)
    return write_federation_job(
        (folder / "job").resolve(),
        plan.config.arms[arm],
        rng=seed_randomness(plan.config.seed, seed),
        data=public_data(about, files["partition"]),
        contract=contract,
        owned=split_by_owner(examples, files["partition"]),
        test=test.select(torch.arange(about["n_test"])),
        calibrated=read_json(files["noise"]) if "noise" in files else {},
    )


def empty(folder: Path) -> None:
    """Make an empty folder that its owner alone can list, in the place of one that an earlier training had."""
    from ppml.federation.engines.flower_processes import private_folder

    if folder.is_dir():
        strange = sorted(path.name for path in folder.iterdir() if not MADE_HERE.fullmatch(path.name))
        if strange:
            raise UserError(f"--folder: {folder} holds {strange[0]!r}, which is of no training; give an empty folder")
        shutil.rmtree(folder)
    private_folder(folder)


def train_on_engine(engine: str, job: Path, folder: Path, workers: int) -> dict[str, Any]:
    """Return model, history and events that an engine comes to."""
    result = (folder / "result.json").resolve()
    clients = len(read_json(job)["sizes"])
    if engine == "deployment":
        from ppml.federation.engines.deployment import run_deployed

        run_deployed((folder / "sites").resolve(), APPS, job, result, clients, seconds=SECONDS)
    else:
        from ppml.federation.engines.namespaces import namespace_command

        stage = [sys.executable, "-P", "-m", "ppml.stages.ray_training", str(job), str(result), str(workers)]
        if subprocess.run([*namespace_command(), *stage], check=False).returncode:
            # It has said why.
            sys.exit(1)
    found: dict[str, Any] = read_json(result)
    return {name: found[name] for name in ("model", "history", "events")}


def read_workflow_result(plan: Plan, arm: str, seed: int, job: Path) -> dict[str, object]:
    """Return what the workflow has of the same training."""
    from safetensors.torch import load_file

    from ppml.learning.parameters import digest_of, flatten
    from ppml.stages.federation_job import initial_model

    model = initial_model(str(job))
    if not Path(trained := plan.paths.run(arm, seed, "model.safetensors")).exists():
        raise UserError(f"{trained}: is missing; the workflow makes it: `make results` with the same CONFIG first")
    weights = load_file(trained)
    model.load_state_dict({name.removeprefix("0."): value for name, value in weights.items()})
    with Path(plan.paths.run(arm, seed, "history.csv")).open(encoding="utf-8", newline="") as file:
        rows = [{name: json.loads(value or "null") for name, value in row.items()} for row in csv.DictReader(file)]
    events = read_json(plan.paths.run(arm, seed, "events.json"))["owners"]
    return {"model": digest_of(flatten(model)), "events": events, "history": rows}


if __name__ == "__main__":
    use_one_thread()
    run(main)
