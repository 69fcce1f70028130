"""Linux namespaces (``man 7 namespaces``): processes with their own network, process table and mounts.

Flower 1.41 serves the APIs for nodes, for starting runs and for tasks on the same port, and authenticates only nodes.
So that no other user of the machine can reach that port, Flower's processes run in namespaces: only they have sockets
on their loopback interface. The program ``unshare`` of util-linux makes the namespaces; where the system allows user
namespaces, this needs no rights. All processes of the namespaces end with the first one, so that none remains.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import subprocess
from functools import cache

from ppml.errors import UserError

NAMESPACES = ("--net", "--pid", "--mount-proc", "--fork", "--kill-child=SIGKILL")
AS_ROOT = ("--user", "--map-root-user")
"""Without rights, the namespaces belong to a user namespace, in which the user counts as root."""

_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 0x1
"""``SIOCGIFFLAGS``, ``SIOCSIFFLAGS`` and ``IFF_UP``, see ``man 7 netdevice``."""

REFUSED = (
    "private network namespaces cannot be made: {why}; on a machine without them every user could register a node, "
    "start a run and read all messages; allow user namespaces (`sysctl kernel.unprivileged_userns_clone=1`, "
    "`sysctl user.max_user_namespaces=10000`), or run this as root; the in-process engine needs none"
)


@cache
def namespace_command() -> tuple[str, ...]:
    """Return the beginning of a command that runs in new namespaces.

    Raises
    ------
    UserError
        The system does not allow namespaces.
    """
    unshare = shutil.which("unshare")
    if unshare is None:
        raise UserError(REFUSED.format(why="the program `unshare` of util-linux is not installed"))
    tried = [(unshare, *rights, *NAMESPACES) for rights in ((), AS_ROOT)]
    for command in tried if os.geteuid() == 0 else tried[1:]:
        done = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return command
    raise UserError(REFUSED.format(why=" ".join(done.stderr.split()) or f"exit code {done.returncode}"))


def raise_loopback() -> None:
    """Activate the loopback interface of a new network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        name = b"lo".ljust(16, b"\0")
        (flags,) = struct.unpack_from("h", fcntl.ioctl(handle, _GET_FLAGS, name + bytes(16)), 16)
        fcntl.ioctl(handle, _SET_FLAGS, name + struct.pack("h", flags | _UP) + bytes(14))
