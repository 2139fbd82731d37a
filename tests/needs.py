"""Skips tests that need a command, a right or a system that this machine lacks; the reason names what to install."""

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
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's /proc or process limits")


def has_ipv6() -> bool:
    """Return whether a socket can be bound to ::1. socket.has_ipv6 only means that Python was built with IPv6."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on this machine: its loopback needs the address ::1")

# Maps each command to its Debian package. .ci/run installs these, so with CI=true a missing one fails the test.
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
    """Create a folder and mount a tmpfs of this size on it; skip the test where that is not permitted."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if not sys.platform.startswith("linux") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a tmpfs: needs Linux and root")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def installed(command: str) -> str:
    """Return the command's path. If it is missing, skip the test; with CI=true and if .ci/run installs it, fail."""
    path = shutil.which(command)
    if path is None:
        missing = pytest.fail if os.environ.get("CI") == "true" and command in INSTALLED_BY_CI else pytest.skip
        missing(f"no {command} on this machine: apt-get install {PACKAGES[command]}")
    return path


@contextlib.contextmanager
def control_group(controller: str, name: str, *limits: str) -> Iterator[str]:
    """Create a control group (version 1 or 2) that has one of these limits; yield its folder, and remove it."""
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
    pytest.skip(f"cannot create a control group that limits {controller}: needs root, outside a container")


@contextlib.contextmanager
def process_limit(tmp_name: str) -> Iterator[str]:
    """Create a control group that can limit the number of processes and threads; yield its folder."""
    with control_group("pids", tmp_name, "pids.max") as group:
        yield group


@contextlib.contextmanager
def cpu_quota(tmp_name: str, cpus: float) -> Iterator[str]:
    """Create a control group whose processes may use this many CPUs in all; yield its folder."""
    with control_group("cpu", tmp_name, "cpu.cfs_quota_us", "cpu.max") as group:
        if os.path.exists(quota := os.path.join(group, "cpu.cfs_quota_us")):
            Path(group, "cpu.cfs_period_us").write_text("100000")
            Path(quota).write_text(f"{cpus * 100_000:.0f}")
        else:
            Path(group, "cpu.max").write_text(f"{cpus * 100_000:.0f} 100000")
        yield group


def imported(module: str, since: tuple[int, int] = (3, 9)) -> ModuleType:
    """Import a module of tests/requirements.txt. If it is missing, skip the test; with CI=true, fail.

    `since` is the oldest Python for which tests/requirements.txt has it; on an older one, always skip.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the packages that this one imports
            return importlib.import_module(module)
    except ImportError:
        missing = pytest.fail if os.environ.get("CI") == "true" and sys.version_info >= since else pytest.skip
        missing(f"no {module} here: pip install -r tests/requirements.txt, for Python {since[0]}.{since[1]} or newer")
