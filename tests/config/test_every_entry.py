"""Every command refuses an unreadable configuration with the same line."""

import subprocess
import sys

import pytest

from snakemake_logger_plugin_ppml.configuration import configuration_error

COMMANDS = {
    "snakemake": ["-m", "snakemake", "-n", "--cores", "1"],
    "status": ["-m", "ppml.pipeline.status"],
    "report": ["-m", "ppml.pipeline.html_report"],
    "federate": ["-m", "ppml.pipeline.federate", "--arm", "fl", "--engine", "ray"],
}


def refusal(root, command, *files):
    """Return the one line that a command prints for an error."""
    call = [sys.executable, *COMMANDS[command], "--configfile", *map(str, files)]
    done = subprocess.run(call, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    lines = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("Using workflow ")]
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_file_in_another_encoding_is_named_with_its_line(command, root, tmp_path):
    path = tmp_path / "latin.yaml"
    path.write_bytes("seed: 1\narms: {a: {label: Größe}}\n".encode("latin-1"))
    assert refusal(root, command, path) == f"error: {path}: is not UTF-8 (byte 0xf6 in line 2); save it as UTF-8"


@pytest.mark.parametrize("command", ["snakemake", "status"])
def test_missing_file_is_named_with_the_nearest_name(command, root, tmp_path):
    (tmp_path / "mine.yaml").touch()
    path = tmp_path / "mien.yaml"
    assert refusal(root, command, path) == f"error: {path}: does not exist; did you mean {tmp_path}/mine.yaml?"


def test_logger_names_the_unreadable_file(tmp_path):
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("seed: 1\n")
    bad.write_text("a: [\n")
    assert configuration_error(["-n", "--configfile", str(good), str(bad), "--cores", "1"]).startswith(f"{bad}: ")
    assert configuration_error([f"--configfile={bad}", "a.svg"]).startswith(f"{bad}: ")
    assert configuration_error(["--configfile", str(good), "--cores", "1"]) == ""
    assert configuration_error(["--config", "seed=1", "--cores", "1"]) == ""
    assert configuration_error(["--config", "seed=1", str(bad)]).startswith(f"{bad}: --config takes")


def test_target_after_the_option_is_no_configuration_file(tmp_path):
    good = tmp_path / "good.yaml"
    good.write_text("seed: 1\n")
    message = configuration_error(["--configfile", str(good), "reports/figures/a.svg"])
    assert message.startswith("reports/figures/a.svg: --configfile takes every name that follows it")
