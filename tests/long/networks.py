"""Simulated machines: network namespaces with one address each on a common bridge."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

NET = "10.77.17"
PREFIX, BRIDGE = "ppml-test-", "ppml-test"


def ip(*arguments: str) -> None:
    """Run ``ip`` of iproute2."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@contextmanager
def machines(names: Sequence[str]) -> Iterator[dict[str, str]]:
    """Create a network namespace for each name, and yield the addresses; skip the test without permission."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("only root can create network namespaces with addresses, with `ip` of iproute2")
    remove(names)
    addresses = {name: f"{NET}.{number}" for number, name in enumerate(names, start=1)}
    try:
        try:
            ip("link", "add", BRIDGE, "type", "bridge")
            ip("link", "set", BRIDGE, "up")
            for number, (name, address) in enumerate(addresses.items()):
                ip("netns", "add", f"{PREFIX}{name}")
                ip("link", "add", f"ppmlt{number}", "type", "veth", "peer", "name", "eth0", "netns", f"{PREFIX}{name}")
                ip("link", "set", f"ppmlt{number}", "master", BRIDGE, "up")
                inside = ("-n", f"{PREFIX}{name}")
                ip(*inside, "addr", "add", f"{address}/24", "dev", "eth0")
                ip(*inside, "link", "set", "eth0", "up")
                ip(*inside, "link", "set", "lo", "up")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"this system refuses network namespaces: {error.stderr.strip()}")
        yield addresses
    finally:
        remove(names)


def remove(names: Sequence[str]) -> None:
    """Delete the namespaces and the bridge."""
    for name in names:
        subprocess.run(["ip", "netns", "del", f"{PREFIX}{name}"], check=False, capture_output=True)
    subprocess.run(["ip", "link", "del", BRIDGE], check=False, capture_output=True)


def on(name: str, *command: str) -> list[str]:
    """Return a command line that runs ``command`` on a machine."""
    return ["ip", "netns", "exec", f"{PREFIX}{name}", *command]
