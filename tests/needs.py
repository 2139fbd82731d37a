"""What a test needs of the machine. Where it is missing, the test is skipped, and the reason names what to install."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

posix = pytest.mark.skipif(os.name != "posix", reason="Windows has no such signals")
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes, or limits them, by Linux")


def has_ipv6() -> bool:
    """Whether a socket can have an address of IPv6; that the system knows the protocol says less."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on this machine: its loopback needs the address ::1")

# The package of Debian that brings a command. What .ci/run installs is there on a machine of CI, or something is wrong.
INSTALLED_BY_CI = {
    "influxd": "influxdb",
    "influx": "influxdb-client",
    "wrk": "wrk",
    "ab": "apache2-utils",
    "curl": "curl",
    "goaccess": "goaccess",
    "nginx": "nginx-light",
    "faketime": "faketime",
    "mkfs.btrfs": "btrfs-progs",
    "ps": "procps",
    "strace": "strace",
    "systemd-analyze": "systemd",
    "victoria-metrics": "victoria-metrics",
}
PACKAGES = {
    **INSTALLED_BY_CI,
    "openssl": "openssl",
    "bash": "bash",
    "hostname": "hostname",
}


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """Let a file system in memory, of this size, be at a folder, which is made. Without the right to, skip."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if not sys.platform.startswith("linux") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a tmpfs: that takes Linux, and root")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def installed(command: str) -> str:
    """The command's path. Without it the test is skipped; or fails, where CI=true and .ci/run installs it."""
    path = shutil.which(command)
    if path is None:
        missing = pytest.fail if os.environ.get("CI") == "true" and command in INSTALLED_BY_CI else pytest.skip
        missing(f"no {command} on this machine: apt-get install {PACKAGES[command]}")
    return path


@contextlib.contextmanager
def control_group(controller: str, name: str, *limits: str) -> Iterator[str]:
    """A new control group of Linux, of version 1 or 2, that has a file of one of these names: yields its folder."""
    for root in (f"/sys/fs/cgroup/{controller}", "/sys/fs/cgroup"):  # version 1, version 2
        group = os.path.join(root, name)
        try:
            os.mkdir(group)
        except OSError:
            continue
        try:
            if any(os.path.exists(os.path.join(group, limit)) for limit in limits):
                yield group
                return
        finally:
            os.rmdir(group)
    pytest.skip(f"no control group that limits {controller} can be made here: be root, outside of a container")


@contextlib.contextmanager
def process_limit(tmp_name: str) -> Iterator[str]:
    """A control group whose number of processes and threads can be limited: yields its folder."""
    with control_group("pids", tmp_name, "pids.max") as group:
        yield group


@contextlib.contextmanager
def cpu_quota(tmp_name: str, cpus: float) -> Iterator[str]:
    """A control group whose processes may use so many CPUs: yields its folder."""
    with control_group("cpu", tmp_name, "cpu.cfs_quota_us", "cpu.max") as group:
        if os.path.exists(quota := os.path.join(group, "cpu.cfs_quota_us")):
            Path(group, "cpu.cfs_period_us").write_text("100000")
            Path(quota).write_text(f"{cpus * 100_000:.0f}")
        else:
            Path(group, "cpu.max").write_text(f"{cpus * 100_000:.0f} 100000")
        yield group


def imported(module: str, since: tuple[int, int] = (3, 9)) -> ModuleType:
    """A module of tests/requirements.txt. Where it is missing the test is skipped; or fails, where CI has installed it.

    `since` is the first Python for which tests/requirements.txt has it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a package imports in its turn
            return importlib.import_module(module)
    except ImportError:
        missing = pytest.fail if os.environ.get("CI") == "true" and sys.version_info >= since else pytest.skip
        missing(f"no {module} here: pip install -r tests/requirements.txt, for Python {since[0]}.{since[1]} or newer")
