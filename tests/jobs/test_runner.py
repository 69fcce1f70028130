import os
import subprocess
import sys
from pathlib import Path

import pytest

from ppml.config.datasets import DATASETS
from ppml.errors import UserError
from ppml.jobs.job import Job
from ppml.jobs.runner import exit_on_error, run


def outcome(main, capsys, files=()):
    """Return the exit status of a main function and its standard error."""
    with pytest.raises(SystemExit) as caught, exit_on_error(files):
        main()
    printed = capsys.readouterr()
    assert printed.out == ""
    return caught.value.code, printed.err


def failing(error):
    def main():
        raise error

    return main


def test_user_error_is_one_line_and_status_1(capsys):
    assert outcome(failing(UserError("data.train: got -1")), capsys) == (1, "error: data.train: got -1\n")


def test_os_error_is_one_line_with_file(tmp_path, capsys):
    status, line = outcome(lambda: (tmp_path / "a.json").read_text(), capsys)
    assert status == 1
    assert line == f"error: {tmp_path}/a.json: cannot be read: No such file or directory; check the name\n"


def test_error_about_file_of_job_names_command(tmp_path, capsys):
    file = tmp_path / "events.json"
    assert outcome(file.read_text, capsys, [file])[1].endswith("run `make results`\n")
    assert "workflow" not in outcome(file.read_text, capsys, [tmp_path / "other.json"])[1]


def test_unexpected_error_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run(failing(ZeroDivisionError()))


def test_main_function_runs_with_one_thread(monkeypatch):
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    for name in names:
        monkeypatch.setenv(name, "8")
    seen = []
    run(lambda: seen.append([os.environ[name] for name in names]))
    assert seen == [["1", "1", "1"]]


PRINTED = """
import os, sys
from ppml.errors import UserError
from ppml.jobs.runner import run

def main():
    print("first", flush=True)
    sys.stdin.read()
    for _ in range(LINES):
        print("next")
    OTHER

run(main)
"""


@pytest.mark.parametrize("other", ["pass", "raise UserError('bad row')"])
@pytest.mark.parametrize("lines", [1, 100_000])
@pytest.mark.parametrize("options", [[], ["-u"]])
def test_command_ends_silently_with_the_reader_of_its_output(other, lines, options):
    code = PRINTED.replace("LINES", str(lines)).replace("OTHER", other)
    command, pipes = (
        [sys.executable, *options, "-c", code],
        dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE),
    )
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == b"first\n"
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_another_broken_pipe_is_an_error():
    # As a connection to a remote that ends.
    other = "reading, writing = os.pipe(); os.close(reading); os.write(writing, b'x')"
    found = start("-c", PRINTED.replace("LINES", "1").replace("OTHER", other))
    assert found.stdout == "first\nnext\n" and assert_one_line(found) == "Broken pipe"


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_closed_output_takes_no_line(closed):
    code = PRINTED.replace("LINES", "1").replace("OTHER", "sys.stdout.write('last\\n'); raise UserError('bad row')")
    found = subprocess.run(
        ["sh", "-c", f'exec "$0" "$@" {closed}', sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        input="",
    )
    assert found.returncode == 1
    expected = ("", "error: bad row\n") if closed == ">&-" else ("first\nnext\nlast\n", "")
    assert (found.stdout, found.stderr) == expected


def start(*command):
    """Run a command, and return its status, output and errors."""
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, input="")


def start_stage(name, job):
    """Run a job of a stage like the workflow."""
    return start("-m", "ppml.jobs", name, *job.options())


def assert_one_line(found):
    """Return the one error line of a failed command."""
    assert found.returncode == 1
    assert found.stderr.startswith("error: ") and found.stderr.count("\n") == 1
    assert "Traceback" not in found.stdout + found.stderr
    return found.stderr.removeprefix("error: ").rstrip("\n")


def test_damaged_raw_file_is_one_line_in_a_real_process(tmp_path):
    source = DATASETS["mnist"]
    raw = {name: tmp_path / name for name in source.file_names}
    for path in raw.values():
        path.write_bytes(b"half a file")
    counts = {"train": 10, "test": 5, "selection": "first", "evaluate_on": "test"}
    facts = {"source": source.to_json(), "contract": source.contract.to_json(), "catalogued": True}
    spec = {"dataset": "mnist", **facts, **counts}
    outputs = {name: tmp_path / "out" / name for name in ("train", "test", "about")}
    message = assert_one_line(start_stage("subset", Job(spec, raw, outputs)))
    assert message.startswith(f"mnist: {tmp_path}/train-images-idx3-ubyte.gz: has MD5 ")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is missing")
def test_full_disk_is_one_line_in_a_real_process(tmp_path):
    code = (
        "import sys; from ppml.io.atomic import atomic_write; from ppml.jobs.runner import run\n"
        "def main():\n"
        "    with atomic_write(sys.argv[1]) as temporary:\n"
        "        temporary.unlink()\n"
        "        temporary.symlink_to('/dev/full')\n"
        "        temporary.write_text('x')\n"
        "run(main)"
    )
    message = assert_one_line(start("-c", code, str(tmp_path / "x.csv")))
    assert message == (
        f"{tmp_path}/x.csv: cannot be written: No space left on device; free space on the disk of {tmp_path}, or set "
        "`folders` in the configuration to another one"
    )
    assert list(tmp_path.iterdir()) == []


def test_output_below_file_is_one_line_of_real_stage(tmp_path):
    (tmp_path / "events.json").write_text('{"owners": [], "planned_steps": []}')
    (tmp_path / "file").touch()
    outputs = {"privacy": tmp_path / "file" / "out" / "privacy.json"}
    job = Job({"privacy": {"kind": "none"}}, {"events": tmp_path / "events.json"}, outputs)
    assert f"{tmp_path}/file/out: cannot be made: Not a directory" in assert_one_line(start_stage("account", job))
