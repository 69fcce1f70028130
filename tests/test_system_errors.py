"""Descriptions of operating-system errors fit the refused operation, for a user without root permission."""

import errno
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ppml.system_errors import describe_os_error

# Operations for one process without root permission, in a prepared folder.
OPERATIONS = {
    "read": "Path('locked-file').read_bytes()",
    "read in a locked folder": "Path('locked/a').read_text()",
    "list": "list(Path('locked').iterdir())",
    "write": "write_text('mine/a.csv', 'x')",
    "write to a file that is for reading": "Path('locked-file').write_text('x')",
    "make a folder": "Path('mine/b').mkdir()",
    "remove": "Path('mine/kept').unlink()",
    "start": "subprocess.run(['./locked-file'])",
    "start nothing": "subprocess.run(['no-such-program'])",
    "read nothing": "Path('nothing').read_text()",
    "read in no folder": "Path('no/thing').read_text()",
    "read a dead link": "Path('dead').read_text()",
    "read a folder": "Path('open').read_text()",
    "write over a folder": "Path('open').write_text('x')",
    "a file for a folder": "write_text('file/out/a', 'x')",
    "a circle": "Path('circle').read_text()",
    "a long name": "write_text('open/' + 300 * 'a', 'x')",
    "too many open": "[Path('file').open() for _ in range(60)]",
    "a temporary file": "fill(tempfile.NamedTemporaryFile())",
    "a full disk": "Path('/dev/full').write_text('x')",
    "no temporary folder": "tempfile.gettempdir()",
}
CODE = """
import json, os, resource, shutil, subprocess, sys, tempfile
from pathlib import Path
from ppml.io.atomic import write_text
from ppml.system_errors import describe_os_error
import ppml.config.privacy_limits

os.geteuid() == 0 and os.setuid(65534)
resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50))

def fill(temporary):
    with temporary:
        # A full file system, which names no file.
        os.dup2(os.open('/dev/full', os.O_WRONLY), temporary.fileno())
        temporary.write(bytes(10))
        temporary.flush()

found = {}
for name, operation in json.loads(sys.argv[1]).items():
    if name == 'no temporary folder':
        tempfile.tempdir = None
        tempfile._candidate_tempdir_list = lambda: ['/no/such/folder']
    try:
        exec(operation)
    except OSError as error:
        found[name] = describe_os_error(error)
        del error
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def descriptions():
    # Outside pytest's folder, which other users may not enter.
    with tempfile.TemporaryDirectory(prefix="operations-") as folder:
        yield describe_all(Path(folder))


def describe_all(folder):
    folder.chmod(0o755)
    for name in ("locked", "mine", "open"):
        (folder / name).mkdir()
    for name in ("locked-file", "file", "mine/kept", "locked/a"):
        (folder / name).touch()
    (folder / "dead").symlink_to("gone")
    (folder / "circle").symlink_to("circle")
    (folder / "open").chmod(0o777)
    (folder / "mine").chmod(0o555)
    (folder / "locked").chmod(0)
    (folder / "locked-file").chmod(0)
    done = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps(OPERATIONS)], cwd=folder, capture_output=True, text=True, check=True
    )
    (folder / "locked").chmod(0o755)
    return {name: text.replace(str(folder), "HERE") for name, text in json.loads(done.stdout).items()}


@pytest.mark.parametrize(
    ("operation", "start", "remedy"),
    [
        ("read", "locked-file: cannot be read: Permission denied; ", "grant read permission, or name another file"),
        ("read in a locked folder", "locked/a: cannot be read: ", "grant permission to enter the folder HERE/locked"),
        ("list", "locked: cannot be listed: ", "grant permission to read the folder"),
        ("write", "mine/a.csv: cannot be written: ", "grant write permission to the folder mine, or set `folders` in "),
        ("write to a file that is for reading", "locked-file: cannot be written: ", "grant write permission"),
        ("make a folder", "mine/b: cannot be made: ", "grant write permission to the folder mine, or set `folders`"),
        ("remove", "mine/kept: cannot be removed: ", "grant write permission to the folder mine"),
        ("start", "./locked-file: cannot be started: ", "grant permission to execute it"),
        ("start nothing", "no-such-program: cannot be started: ", "install it, or put its folder into PATH"),
        ("read nothing", "nothing: cannot be read: No such file or directory; ", "check the name"),
        ("read in no folder", "no/thing: cannot be read: ", "there is no folder no"),
        ("read a dead link", "dead: cannot be read: ", "it is a link to gone, which does not exist"),
        ("read a folder", "open: cannot be read: Is a directory; ", "move it elsewhere, or name another file"),
        ("write over a folder", "open: cannot be written: Is a directory; ", "move it elsewhere, or name another file"),
        (
            "a file for a folder",
            "file/out: cannot be made: Not a directory; ",
            "HERE/file is a file, where a folder is",
        ),
        ("a circle", "circle: cannot be read: ", "the links form a circle"),
        ("a long name", "open/aaa", "cannot be written: File name too long; use shorter names"),
        ("too many open", "file: cannot be read: Too many open files; ", "ulimit -n"),
        ("a temporary file", "/", "or set TMPDIR to another folder"),
        ("a full disk", "/dev/full: cannot be written: No space left on device; ", "free space on the disk of /dev"),
        ("no temporary folder", "no folder for temporary files can be used; ", "set TMPDIR to a writable folder"),
    ],
)
def test_error_names_file_operation_cause_and_remedy(operation, start, remedy, descriptions):
    assert descriptions[operation].startswith(start) and remedy in descriptions[operation]
    assert "\n" not in descriptions[operation]


def test_only_write_errors_suggest_other_folders(descriptions):
    writing = {"write", "write to a file that is for reading", "make a folder", "remove", "a full disk"}
    assert {name for name, text in descriptions.items() if "`folders` in the configuration" in text} == writing
    assert not [text for text in descriptions.values() if "delete" in text or "make results" in text]


def describe_raised(number, file):
    """Return the description of an error while reading a file."""
    try:
        raise OSError(number, os.strerror(number), file)
    except OSError as error:
        return describe_os_error(error)


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EIO, "dmesg"),
        (errno.ESTALE, "mount it again"),
        (errno.EROFS, "set `folders`"),
        (errno.EDQUOT, "free space in that quota"),
        (errno.EPERM, "independent of permissions"),
        (errno.EFBIG, "ulimit -f"),
        (errno.ENOMEM, "fewer cores"),
    ],
)
def test_rare_errors_have_remedies(number, remedy):
    text = describe_raised(number, "out/model.safetensors")
    assert text.startswith("out/model.safetensors: cannot be ") and remedy in text


def test_error_without_file_or_number_is_unchanged():
    assert describe_os_error(OSError("odd\nthing")) == "odd thing"
    assert describe_os_error(OSError(errno.ETIMEDOUT, "Connection timed out")) == "Connection timed out"


@pytest.mark.parametrize(("made", "remedy"), [(True, "the workflow makes this file"), (False, "check the name")])
def test_missing_output_suggests_workflow_run(made, remedy, tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        Path(tmp_path / "a.json").read_text(encoding="utf-8")
    assert remedy in describe_os_error(caught.value, makes=lambda file: made and file == str(tmp_path / "a.json"))
