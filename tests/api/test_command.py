"""The console command."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import ppml
from ppml.command.main import ACCOUNTANTS, main
from ppml.command.predict import read_examples
from tests.conftest import RealData
from tests.workflow.project import ROOT

from .conftest import Run


def call(*arguments: object) -> Result:
    """Return the result of the command in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_help_names_every_subcommand_and_completion() -> None:
    output = call("--help").output
    assert all(name in output for name in ("account", "predict", "pull", "status", "_PPML_COMPLETE"))
    assert call("--version").output == f"ppml, version {ppml.__version__}\n"


def test_help_takes_little_processor_time() -> None:
    # The times of a process do not depend on other processes, unlike the time on a clock.
    code = "import sys; sys.argv = ['ppml', '--help']; from ppml.command.main import main; main()"
    before = os.times()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    after = os.times()
    assert after.children_user + after.children_system - before.children_user - before.children_system < 0.5


def test_shell_completes_subcommands() -> None:
    code = "from ppml.command.main import main; main(prog_name='ppml')"
    words = {"_PPML_COMPLETE": "bash_complete", "COMP_WORDS": "ppml st", "COMP_CWORD": "1"}
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **words}, capture_output=True, text=True)
    assert done.stdout == "plain,status\n"


def test_files_have_the_predictions_of_the_model(runs: dict[str, Run], real_data: RealData, tmp_path: Path) -> None:
    images, run = real_data.test.inputs[:3], runs["dp"].folder
    np.save(tmp_path / "three.npy", images)
    np.save(tmp_path / "float.npy", images[2] / 255)
    Image.fromarray(images[0, 0]).save(tmp_path / "grey.png")
    Image.fromarray(images[0, 0]).convert("RGB").save(tmp_path / "colour.PNG")
    names = ("three.npy", "float.npy", "grey.png", "colour.PNG")
    done = call("predict", run, *(tmp_path / name for name in names))
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    found = ppml.load(run).predict(images)
    lines = [[name, f"{scores.max():.4f}"] for name, scores in zip(found.names, found.scores, strict=True)]
    files = [*(f"three.npy[{place}]" for place in range(3)), *names[1:]]
    assert [row[0] for row in rows] == [str(tmp_path / name) for name in files]
    assert [row[1:] for row in rows] == [*lines, lines[2], lines[0], lines[0]]
    assert done.stderr == f"privacy: {found.privacy}\n"


def test_command_ends_with_the_reader_of_its_output(runs: dict[str, Run], real_data: RealData, tmp_path: Path) -> None:
    # The lines are longer than the buffer of a pipe.
    file = tmp_path / f"{'long' * 20}.npy"
    np.save(file, np.repeat(real_data.test.inputs[:1], 2000, axis=0))
    code = "import sys; from ppml.command.main import main; main(prog_name='ppml')"
    command = [sys.executable, "-c", code, "predict", str(runs["dp"].folder), str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline().startswith(str(file))
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 141 and errors.startswith("privacy: ") and errors.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.npy", b"text"), ("a.png", b"text"), ("a.csv", b"1,2"), ("absent.npy", None)],
)
def test_unreadable_file_is_one_line(runs: dict[str, Run], tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    done = call("predict", runs["dp"].folder, tmp_path / name)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"error: {tmp_path / name}")
    assert done.stderr.count("\n") == 1


def test_pickled_array_is_not_unpickled(runs: dict[str, Run], tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    done = call("predict", runs["dp"].folder, tmp_path / "a.npy")
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)


def npy(header: str, data: bytes = bytes(784)) -> bytes:
    """Return a file in NumPy's format."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header.encode() + b"\n" + data


def array(shape: str, kind: str = "|u1") -> bytes:
    return npy(f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}")


def png(image: Image.Image, edit: Callable[[bytes], bytes] = bytes) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return edit(stream.getvalue())


def archive() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, a=np.zeros((28, 28), np.uint8))
    return stream.getvalue()


def enlarge(content: bytes) -> bytes:
    """Return an image that announces 3,600,000,000 pixels."""
    head = b"IHDR" + struct.pack(">II", 60_000, 60_000) + content[24:29]
    return content[:12] + head + struct.pack(">I", zlib.crc32(head)) + content[33:]


GREY = Image.new("L", (28, 28), 100)
REFUSED = {
    "more bytes than the file": ("a.npy", array("(100000000000, 28, 28)")),
    "a shape beyond integers": ("a.npy", array(f"({10**30 // 3},)")),
    "a header that is cut": ("a.npy", npy("{'descr")),
    "an archive of arrays": ("a.npy", archive()),
    "half an image": ("a.png", png(GREY, lambda content: content[:50])),
    "an image of gigabytes": ("a.png", png(GREY, enlarge)),
    "another size": ("a.png", png(GREY.resize((29, 28)))),
    "16 bits": ("a.png", png(Image.fromarray(np.full((28, 28), 5000, np.uint16)))),
    "transparent pixels": ("a.png", png(Image.new("RGBA", (28, 28), (9, 9, 9, 0)))),
}


@pytest.mark.parametrize(("name", "content"), REFUSED.values(), ids=REFUSED)
def test_damaged_or_doubtful_file_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ppml.UserError) as caught:
        read_examples(tmp_path / name, (1, 28, 28))
    assert "\n" not in str(caught.value)


def test_image_keeps_its_pixels(tmp_path: Path) -> None:
    for image in (GREY, GREY.convert("RGBA"), GREY.convert("P"), GREY.convert("1")):
        (tmp_path / "a.png").write_bytes(png(image))
        assert read_examples(tmp_path / "a.png", (1, 28, 28)).tolist() == [np.asarray(image.convert("L")).tolist()]


def test_account_prints_statement() -> None:
    done = call("account", "--sample-rate", 1, "--noise-multiplier", 10, "--steps", 30)
    assert done.stdout == f"{ppml.account(sample_rate=1.0, noise_multiplier=10.0, steps=30)}\n"
    refused = call("account", "--sample-rate", 2, "--noise-multiplier", 10, "--steps", 30)
    assert (refused.exit_code, refused.stderr[:19]) == (1, "error: sample_rate:")


def test_accountants_are_those_of_the_package() -> None:
    from ppml.accounting.cross_check import TIGHTEST
    from ppml.accounting.epsilon import ACCOUNTANTS as KNOWN

    assert set(ACCOUNTANTS) == {TIGHTEST, *KNOWN}


@pytest.mark.parametrize("name", ["status", "pull"])
def test_command_outside_a_checkout_is_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = call(name)
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert str(tmp_path) in done.stderr


def test_command_runs_the_code_of_the_checkout(tmp_path: Path) -> None:
    package = tmp_path / "src/ppml/pipeline"
    package.mkdir(parents=True)
    (tmp_path / "Snakefile").touch()
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    for name in ("status", "pull"):
        (package / f"{name}.py").write_text("import sys\nprint('own code', *sys.argv[1:])\n")
    code = "import sys; sys.argv[0] = 'ppml'; from ppml.command.main import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    for arguments, passed in (
        (["status", "--configfile", "a.yaml", "--configfile", "b.yaml"], "--configfile a.yaml b.yaml"),
        (["pull", "--from", "-odd name"], "--from=-odd name"),
    ):
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert (done.stdout, done.stderr) == (f"own code {passed}\n", "")


def test_rows_before_a_refused_file_have_the_statement(
    runs: dict[str, Run], real_data: RealData, tmp_path: Path
) -> None:
    np.save(tmp_path / "good.npy", np.zeros((28, 28), dtype=np.uint8))
    done = call("predict", runs["dp"].folder, tmp_path / "good.npy", tmp_path / "absent.npy")
    statement, error = done.stderr.splitlines()
    assert (
        done.exit_code == 1 and statement.startswith("privacy: ") and error.startswith(f"error: {tmp_path}/absent.npy")
    )
