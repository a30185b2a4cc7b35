"""What can be known of a SLURM site before anything is submitted to it."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cefr_batch.errors import LaunchError
from cefr_batch.files import existing_parent
from cefr_batch.launch.base import Check, training_packages
from cefr_batch.launch.slurm import client
from cefr_batch.launch.slurm.site import SlurmSite

# File systems that one machine has for itself (proc_filesystems(5), as /proc/mounts names them).
_OWN_DISK = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "overlay", "tmpfs", "ramfs", "rootfs"}
_ASK_PYTHON = """
import sys, submitit, cefr_batch
from importlib.util import find_spec
print("%d.%d" % sys.version_info[:2], *[name for name in sys.argv[1:] if find_spec(name) is None])
"""
_PYTHON_SECONDS = 60
_NEEDED = ("sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")


@dataclass(frozen=True)
class _Node:
    host: str
    cpus: int
    memory_mb: int
    gres: str
    features: frozenset[str]


def check(
    site: SlurmSite, where: str, folders: Iterable[Path], backends: Iterable[str], test: Callable[[], str]
) -> list[Check]:
    """Everything about the site ``where`` (its file). ``folders``: what every node must see; ``backends``: what the jobs
    train with; ``test``: a script for ``sbatch --test-only``, which has the last word where nothing else is wrong."""
    files = partial(_files, site, where, folders, tuple(backends))
    missing = [name for name in _NEEDED if shutil.which(name) is None]
    if missing:
        problem = f"there is no {', '.join(missing)} here; submit from a machine of the cluster (a login node)"
        return [Check("Slurm's commands", problem), *files(None)]
    try:
        version = client.slurm("sinfo", "--version").strip()
        partition, nodes = _partition(site)
    except LaunchError as exc:
        return [Check("Slurm", f"the controller does not answer: {exc}"), *files(None)]
    checks = [Check("Slurm", note=f"{version}, cluster {client.cluster_name()}")]
    checks += _resources(site, where, partition, nodes) if partition else [_no_partition(site, where)]
    checks += files(nodes)
    if not any(one.problem and not one.warning for one in checks):
        checks.append(_accepted(where, test()))
    return checks


def _partition(site: SlurmSite) -> tuple[Mapping[str, str], list[_Node]]:
    """The site's partition (the first of several, the cluster's default where it names none) and its nodes; empty if there
    is none."""
    wanted = site.partition.split(",")[0] if site.partition else None
    for line in client.slurm("scontrol", "show", "partition", "--oneliner").splitlines():
        found = client.parse_pairs(line)
        name = found.get("PartitionName")
        if name and (name == wanted or (wanted is None and found.get("Default") == "YES")):
            text = client.slurm("sinfo", "--noheader", "--Node", f"--partition={name}", "--format=%n|%c|%m|%G|%f")
            return found, [node for line in text.splitlines() if (node := _node(line))]
    return {}, []


def _node(line: str) -> _Node | None:
    parts = line.strip().split("|")
    if len(parts) != 5:
        return None
    host, cpus, memory, gres, features = parts
    return _Node(host, _number(cpus), _number(memory), gres, frozenset(features.split(",")))


def _number(text: str) -> int:
    """``4+`` is at least 4."""
    match = re.match(r"[0-9]+", text)
    return int(match[0]) if match else 0


def _no_partition(site: SlurmSite, where: str) -> Check:
    names = client.slurm("sinfo", "--noheader", "--format=%R").split()
    if site.partition is None:
        return Check("partition", f"{where}: partition: the cluster has no default one; valid: {', '.join(names)}")
    return Check("partition", f"{where}: partition: there is no {site.partition!r}; valid: {', '.join(names)}")


def _resources(site: SlurmSite, where: str, partition: Mapping[str, str], nodes: list[_Node]) -> Iterator[Check]:
    name = partition["PartitionName"]
    up = partition.get("State", "UP") == "UP"
    yield Check(
        f"partition {name}",
        "" if up else f"{where}: partition {name} is {partition['State']}, jobs would wait; ask who runs the cluster",
        note=f"{len(nodes)} nodes",
    )
    limit = client.seconds(partition.get("MaxTime", ""))
    yield Check(
        f"time {site.time}",
        f"{where}: time: {site.time} is more than the partition {name} allows ({partition['MaxTime']}); a job that "
        "needs longer is requeued at its limit and goes on"
        if limit is not None and site.seconds > limit
        else "",
    )
    yield _fits("cpus", site.cpus, max((node.cpus for node in nodes), default=0), where, name)
    yield _fits("memory", site.memory_mb, max((node.memory_mb for node in nodes), default=0), where, name, " MB")
    if site.gres:
        yield _gres(site, where, name, nodes)
    if site.constraint:
        yield _constraint(site.constraint, where, name, nodes)


def _fits(what: str, wanted: int, there: int, where: str, partition: str, unit: str = "") -> Check:
    problem = f"{where}: {what}: {wanted}{unit} are more than any node of {partition} has ({there}{unit})"
    return Check(f"{what} {wanted}{unit}", problem if wanted > there else "")


def _gres(site: SlurmSite, where: str, partition: str, nodes: list[_Node]) -> Check:
    known = {found for node in nodes for found in re.findall(r"([a-z_]+(?::[A-Za-z0-9_.-]+)?):([0-9]+)", node.gres)}
    request = site.gpu_request
    if request is None:
        return Check(f"gres {site.gres}", note="not a GPU; Slurm will tell")
    name, count = request
    most = max((int(n) for found, n in known if found == name or found.startswith(f"{name}:")), default=0)
    there = ", ".join(sorted({f"{found}:{n}" for found, n in known})) or "none"
    problem = f"{where}: gres: no node of {partition} has {site.gres}; what its nodes have: {there}"
    return Check(f"gres {site.gres}", problem if count > most else "", note=there)


def _constraint(constraint: str, where: str, partition: str, nodes: list[_Node]) -> Check:
    wanted = set(re.findall(r"(?<![*A-Za-z0-9_.-])[A-Za-z0-9_][A-Za-z0-9_.-]*", constraint))  # not the count in a*2
    known = {feature for node in nodes for feature in node.features if feature != "(null)"}
    unknown = sorted(wanted - known)
    there = ", ".join(sorted(known)) or "none"
    problem = f"{where}: constraint: no node of {partition} has {', '.join(unknown)}; features there: {there}"
    return Check(f"constraint {constraint}", problem if unknown else "")


def _files(
    site: SlurmSite, where: str, folders: Iterable[Path], backends: Sequence[str], nodes: list[_Node] | None
) -> Iterator[Check]:
    """Folders, image and Python, as far as they can be seen from here."""
    elsewhere = nodes is None or any(node.host.split(".")[0] != socket.gethostname().split(".")[0] for node in nodes)
    for folder in dict.fromkeys(folders):
        yield _shared(folder, where, elsewhere=elsewhere)
    box = site.container
    if box.runtime != "none":
        image = Path(str(box.image))
        gone = image.is_absolute() and not os.path.exists(image)
        yield Check(
            f"image {box.image}", f"{where}: container.image: there is no {image}; build or copy it" if gone else ""
        )
        backends = ()  # they are in the image
    yield _python(site, where, backends)


def _shared(folder: Path, where: str, *, elsewhere: bool) -> Check:
    existing = existing_parent(folder)
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        return Check(f"folder {folder}", f"{where}: {folder} cannot be written (shared, or the store)")
    kind = _file_system(existing)
    if not elsewhere or kind not in _OWN_DISK:
        return Check(f"folder {folder}", note=kind)
    problem = f"{folder} is on a disk of this machine ({kind}); every node must see it, so use a shared file system"
    return Check(f"folder {folder}", f"{where}: {problem}", warning=kind not in ("tmpfs", "ramfs"))


def _file_system(path: Path) -> str:
    """The type of the file system that holds ``path``, as /proc/mounts names it."""
    best, kind = -1, "unknown"
    try:
        lines = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return kind
    for line in lines:
        _, mount, found, *_ = line.split(" ")
        mount = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), mount)
        if path.resolve().is_relative_to(mount) and len(mount) >= best:
            best, kind = len(mount), found
    return kind


def _python(site: SlurmSite, where: str, backends: Sequence[str]) -> Check:
    """A pickle is read by the Python that wrote it: the same minor version, with submitit and cefr-batch. The job trains
    with this Python too, unless it is in a container."""
    python = site.python or sys.executable
    own = f"{sys.version_info[0]}.{sys.version_info[1]}"
    needed = dict.fromkeys(package for backend in backends for package in training_packages(backend))
    if not os.path.exists(python):
        return Check(
            f"python {python}", f"{where}: python: cannot be seen from here, so it is not checked", warning=True
        )
    ask = [python, "-c", _ASK_PYTHON, *needed]
    try:
        done = subprocess.run(
            ask, capture_output=True, text=True, env=client.environment(), cwd="/", timeout=_PYTHON_SECONDS
        )
        found, *missing = done.stdout.split() or [""]
        last = done.stderr.strip().splitlines()[-1:]
    except (OSError, subprocess.TimeoutExpired) as exc:
        found, last = "", [str(exc)]
    if not found:
        return Check(
            f"python {python}",
            f"{where}: python: {python} cannot start a job ({' '.join(last) or 'it does not run'}); name a program, and "
            "install cefr-batch[slurm] there",
        )
    problem = ""
    if found != own:
        problem = f"{where}: python: {python} is Python {found}, but this is {own}; submit with the same minor version"
    elif missing:
        problem = (
            f"{where}: python: {python} has no {', '.join(missing)}, which training with {' and '.join(backends)} needs; "
            "use an environment that has (make setup-unsloth), a container, or the other backend (--set backend=peft)"
        )
    return Check(f"python {python}", problem, note=found)


def _accepted(where: str, script: str) -> Check:
    """``sbatch --test-only``: what only the controller knows, such as account, QOS and their limits."""
    with tempfile.NamedTemporaryFile("w", suffix=".sh", encoding="utf-8") as file:
        file.write(script)
        file.flush()
        try:
            client.slurm("sbatch", "--test-only", file.name)
        except LaunchError as exc:
            return Check("sbatch --test-only", f"{where}: Slurm would refuse the job: {exc}")
    return Check("sbatch --test-only")
