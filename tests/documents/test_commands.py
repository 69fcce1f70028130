"""The commands of the documents: each program, target, option and file exists. Nothing runs."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from ppml.config.load import load_config
from ppml.config.model import Config
from ppml.pipeline.status import read_plan

from .markdown import DOCUMENTS, ROOT, Document

UNCHECKED = {"git", "cd", "source", "scp", "rm", "export", "apt-get", "pip", "pre-commit"}
"""Programs of other projects: the documents name them, and no test reads their options."""
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = {
    name for line in re.findall(r"^[a-z][a-z -]*(?=:(?!=))", MAKEFILE, flags=re.MULTILINE) for name in line.split()
}
VARIABLES = {"ARMS", "NAME", "FROM", "CONFIG", "CORES", "PYTHON"}


class Command(NamedTuple):
    """A command of a document, without the folder of its program and without variables before it."""

    document: Document
    program: str
    arguments: list[str]

    def __str__(self) -> str:
        return f"{self.document.name}: {shlex.join([self.program, *self.arguments])}"


def commands_of(document: Document) -> list[Command]:
    """Return the commands in the code blocks of a document; a block without a language is one of commands, too."""
    found = []
    for block in document.blocks("", "bash"):
        for line in re.sub(r"\\\n", " ", block).splitlines():
            parts = [part.removeprefix(".venv/bin/") for part in shlex.split(line, comments=True)]
            while parts and re.match(r"[A-Z_]+=", parts[0]):
                parts = parts[1:]
            if parts:
                found.append(Command(document, parts[0], parts[1:]))
    return found


COMMANDS = [command for document in DOCUMENTS for command in commands_of(document)]
INLINE = [(document.name, target) for document in DOCUMENTS for target in re.findall(r"`make ([a-z-]+)", document.text)]


def configuration(command: Command, name: str, folder: Path) -> Path:
    """Return a configuration of the project, or the first one that the document shows, in a copy of the folder."""
    if (ROOT / name).is_file():
        return ROOT / name
    shown = [block for block in command.document.blocks("yaml") if "extends: " in block.partition("\n")[0]]
    assert shown, f"{command}: {name} is no file, and the document shows no configuration"
    shutil.copytree(ROOT / "config", folder / "config", dirs_exist_ok=True)
    path = folder / "config" / Path(name).name
    path.write_text(shown[0], encoding="utf-8")
    return path


@cache
def shipped(path: Path) -> Config:
    """Return a configuration of the project."""
    return load_config(path)


@cache
def snakemake_parser():
    from snakemake.cli import get_argument_parser

    return get_argument_parser()


@cache
def outputs() -> set[str]:
    """Return the targets of the default configuration: files and rules."""
    plan = read_plan([str(ROOT / "config" / "default.yaml")])
    return {name for job in plan.jobs() for name in (job.rule, *job.output_files())}


def check_make(command: Command, folder: Path) -> None:
    variables = dict(part.split("=", 1) for part in command.arguments if "=" in part)
    targets = [part for part in command.arguments if "=" not in part]
    assert set(targets) <= TARGETS, command
    assert set(variables) <= VARIABLES, command
    name = variables.get("CONFIG", "config/default.yaml")
    if len(Path(name).parts) == 1:
        return
    path = configuration(command, name, folder)
    config = shipped(path) if path.is_relative_to(ROOT) else load_config(path)
    arms = variables["ARMS"].split(",") if "ARMS" in variables else []
    assert set(arms) <= set(config.arms), command
    if "NAME" in variables:
        section = f"{targets[0]}s"
        reports = {f"{name}-{kind}" for name, one in config.experiments.items() for kind in getattr(one, section)}
        assert variables["NAME"] in reports, command


def check_snakemake(command: Command, folder: Path) -> None:
    parsed = snakemake_parser().parse_args(command.arguments)
    # A file of the user has no folder.
    files = [str(file) for file in parsed.configfile or [] if len(Path(file).parts) > 1]
    assert all((ROOT / file).is_file() for file in files), command
    assert set(map(str, parsed.targets)) <= outputs(), command


def check_dvc(command: Command, folder: Path) -> None:
    from dvc.cli import parse_args

    parse_args(command.arguments)


def check_ppml(command: Command, folder: Path) -> None:
    from click.exceptions import Exit

    from ppml.command.main import main

    name, *arguments = command.arguments
    if name == "--help":
        return
    try:
        main.commands[name].make_context(name, arguments)
    except Exit as finished:
        assert finished.exit_code == 0, command


def check_python(command: Command, folder: Path) -> None:
    first, *rest = command.arguments
    if first == "-m":
        module, *rest = rest
        spec = importlib.util.find_spec(module)
        assert spec is not None, command
        own = Path(str(spec.origin))
    else:
        own = ROOT / first
        assert own.is_file(), command
        if rest and (program := rest[0].removeprefix(".venv/bin/")) in CHECKS:
            return CHECKS[program](command._replace(program=program, arguments=rest[1:]), folder)
    if own.is_relative_to(ROOT) and not own.is_relative_to(ROOT / ".venv"):
        source = own.read_text(encoding="utf-8")
        assert all(option in source for option in rest if option.startswith("--")), command


CHECKS = {
    "make": check_make,
    "snakemake": check_snakemake,
    "dvc": check_dvc,
    "ppml": check_ppml,
    "python": check_python,
}


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_command_exists(command, tmp_path):
    if command.program not in UNCHECKED:
        assert command.program in CHECKS, f"{command}: unknown program"
        CHECKS[command.program](command, tmp_path)


def test_targets_in_sentences_exist():
    assert {f"{name}: make {target}" for name, target in INLINE if target not in TARGETS} == set()


@pytest.mark.parametrize(
    "line",
    [
        "make reslts",
        "make only ARMS=fl,nothing",
        "make figure NAME=techniques-summary",
        "make results CONFIG=config/nothing.yaml",
        "snakemake --core",
        "snakemake --cores 8 reports/nothing.md",
        "dvc metrics compare",
        "ppml predicts run image.png",
        "ppml account --steps many",
        "python -m ppml.nothing",
        "conda activate",
    ],
)
def test_wrong_command_is_found(line, tmp_path):
    program, *arguments = shlex.split(line)
    with pytest.raises(BaseException) as failure:
        assert program in CHECKS
        CHECKS[program](Command(Document(ROOT / "CONTRIBUTING.md"), program, arguments), tmp_path)
    assert not isinstance(failure.value, KeyboardInterrupt)


YAML = [(document, block) for document in DOCUMENTS for block in document.blocks("yaml")]


@pytest.mark.parametrize(("document", "block"), YAML, ids=[document.name for document, _ in YAML])
def test_configuration_loads(document, block, tmp_path):
    content = yaml.safe_load(block)
    if not set(content) <= set(Config.model_fields):
        # A profile of Snakemake.
        options = {action for one in snakemake_parser()._actions for action in one.option_strings}
        assert {f"--{key}" for key in content} <= options, document.name
        return
    shutil.copytree(ROOT / "config", tmp_path, dirs_exist_ok=True)
    text = block if "extends" in content else f"extends: default.yaml\n{block}"
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    assert load_config(tmp_path / "mine.yaml").arms
