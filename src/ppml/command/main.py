"""The console command ``ppml``; each subcommand imports its modules when it runs."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import click

from ppml import __version__
from ppml.command.checkout import run_in_checkout
from ppml.config.privacy_limits import MAX_DELTA, MAX_NOISE, MIN_DELTA, MIN_NOISE
from ppml.errors import UserError
from ppml.jobs.runner import printing

ACCOUNTANTS = ("tightest", "prv", "pld", "rdp", "gdp")
"""The accountants of :func:`ppml.account`, whose module takes seconds to import."""
TABLE_PACKAGES = ("pyarrow", "yaml", "pandas")
"""Packages of the extra ``workflow`` that read tables."""
EPILOG = (
    'Completion in the shell: put `eval "$(_PPML_COMPLETE=bash_source ppml)"` into ~/.bashrc, or the same with '
    "zsh_source into ~/.zshrc."
)


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ppml")
def main() -> None:
    """Privacy-preserving machine learning: use trained models, and look at results."""


@main.command(short_help="Predict examples with a trained model.")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--model", type=int, help="The number of the client, in a run with one model for each client.")
@click.option(
    "--configfile",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The configuration of the training, for a table that it declares in data.define.",
)
def predict(run: Path, files: tuple[Path, ...], model: int | None, configfile: Path | None) -> None:
    """Predict the examples in FILES with the trained model of RUN, for instance artifacts/runs/dp/seed0.

    A file is a PNG image, or an array in NumPy's format .npy: one example, or several. For the model of a table it may
    be a CSV or Parquet file with the columns of the data set; it needs no label, and other columns are ignored. One
    line for each example has the file, the class and its score, separated by tabs; class and score are empty for a row
    that a rule for missing values leaves out. The privacy statement of the model goes to standard error.

    A value that does not fit ends the command with status 1 and an error with its row; the first line of a file is
    row 1. Files are read in parts, so that lines of earlier rows may be printed by then.
    """
    with printing():
        from ppml.command.predict import predict_files

        predict_files(run, files, model, configfile)


@main.command(short_help="Write a first configuration for a table.")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), help="A new file, by default standard output."
)
@click.option("--label", metavar="COLUMN", help="The class, by default the last column with 2 to 20 values.")
@click.option("--site", metavar="COLUMN", help="The owner of a row: each value is a client.")
@click.option("--sensitive", metavar="COLUMN", multiple=True, help="A sensitive column; several are allowed.")
@click.option("--group", metavar="COLUMN", multiple=True, help="A column for splits by group; several are allowed.")
@click.option("--name", help="The name of the data set, by default from the name of the file.")
@click.option("--header/--no-header", default=None, help="Whether the first line has names, by default guessed.")
def describe(
    files: tuple[Path, ...],
    output: Path | None,
    label: str | None,
    site: str | None,
    sensitive: tuple[str, ...],
    group: tuple[str, ...],
    name: str | None,
    header: bool | None,
) -> None:
    """Write a first configuration for the table in FILES, CSV or Parquet: roles, ranges and lists of its columns.

    Several files have the same columns. Save the configuration in config/, correct it, and run make results. Ranges and
    lists come from the file: they are private facts until you confirm them.
    """
    with printing():
        if absent := [package for package in TABLE_PACKAGES if find_spec(package) is None]:
            raise UserError(f"the package {absent[0]} is not installed; pip install 'ppml-comparison[workflow]'")
        from ppml.command.describe import describe_files
        from ppml.data.describe.roles import Choices

        choices = Choices(label, site, sensitive, group)
        describe_files(files, choices, name=name, header=header, output=output)


@main.command()
@click.option(
    "--sample-rate", type=float, required=True, help="Expected batch size divided by the examples, at most 1."
)
@click.option("--noise-multiplier", type=float, required=True, help=f"From {MIN_NOISE:g} to {MAX_NOISE:g}.")
@click.option("--steps", type=int, required=True, help="Number of steps of the whole training.")
@click.option("--delta", type=float, default=1e-5, show_default=True, help=f"From {MIN_DELTA:g} to {MAX_DELTA:g}.")
@click.option("--accountant", type=click.Choice(ACCOUNTANTS), default=ACCOUNTANTS[0], show_default=True)
def account(sample_rate: float, noise_multiplier: float, steps: int, delta: float, accountant: str) -> None:
    """Print the epsilon of a planned training with DP-SGD."""
    with printing():
        from ppml.api.accounting import account

        print(
            account(
                sample_rate=sample_rate,
                noise_multiplier=noise_multiplier,
                steps=steps,
                delta=delta,
                accountant=accountant,
            )
        )


@main.command(short_help="Print the state of each result.")
@click.option(
    "--configfile",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A configuration, by default config/default.yaml; a later file overrides an earlier one.",
)
def status(configfile: tuple[Path, ...]) -> None:
    """Print the state of each result of the checkout in the current folder; no job runs."""
    options = ["--configfile", *map(str, configfile)] if configfile else []
    with printing():
        run_in_checkout("ppml.pipeline.status", options)


@main.command(short_help="Fetch the published results.")
@click.option("--from", "source", metavar="PATH-OR-URL", help="A bundle or a remote, in place of the default remote.")
def pull(source: str | None) -> None:
    """Fetch the published results into the checkout in the current folder."""
    with printing():
        run_in_checkout("ppml.pipeline.pull", [] if source is None else [f"--from={source}"])
