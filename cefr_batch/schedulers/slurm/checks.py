"""Checks of a SLURM site before anything is submitted to it: its settings against the cluster's partitions and nodes."""

from __future__ import annotations

import getpass
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from cefr_batch import __version__
from cefr_batch.errors import SchedulerError, UsageError
from cefr_batch.files import existing_parent
from cefr_batch.planning.gpus import find_gpu, recognized_gpu
from cefr_batch.schedulers.base import Check, training_packages
from cefr_batch.schedulers.slurm import client
from cefr_batch.schedulers.slurm.client import Slurm
from cefr_batch.schedulers.slurm.gres import Asked, Gres, parse_gres
from cefr_batch.schedulers.slurm.machine import AnswerLost, SlurmMachine
from cefr_batch.schedulers.slurm.site import SlurmSite
from cefr_batch.store import store_folder, unreachable_endpoint

# File systems that are not shared between machines, as /proc/mounts names them.
LOCAL_FILE_SYSTEMS = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "overlay", "tmpfs", "ramfs", "rootfs"}
_PYTHON_PROBE = """
import json, sys
sys.path.remove("")
import submitit, cefr_batch
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path
torch = find_spec("torch")
built = run_path(str(Path(torch.origin).with_name("version.py"))) if torch and torch.origin else {}
print(json.dumps({
    "python": "%d.%d" % sys.version_info[:2],
    "version": cefr_batch.__version__,
    "missing": [name for name in sys.argv[1:] if find_spec(name) is None],
    "cpu_torch": str(built["__version__"]) if built and built["cuda"] is None else "",
}))
"""
_PYTHON_SECONDS, _BASH_SECONDS, _QOS_SECONDS, _PATH_SECONDS = 60, 10, 10, 20
_COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")


# Of what sbatch --test-only says, what holds for this moment alone: nodes that are down, drained, reserved or, after a
# restart of the controller, not known yet (slurm_strerror of 22.05 to 26.05). Such a job waits in the queue.
_FOR_NOW = re.compile(
    r"not available|busy|in use|down|drained|Unable to contact|timed out|Zero Bytes|Connection|no answer", re.IGNORECASE
)


@dataclass(frozen=True)
class _Node:
    host: str
    cpus: int
    memory_mb: int
    gres: tuple[Gres, ...] | None  # None: what sinfo printed is not understood
    features: frozenset[str]


@dataclass(frozen=True)
class _Partition:
    """A partition of the site, what ``scontrol show partition`` says of it, and its nodes (those of ``--nodelist``)."""

    name: str
    settings: Mapping[str, str]
    nodes: list[_Node]


def check(
    slurm: Slurm, site: SlurmSite, where: str, store_url: str, backends: Iterable[str], script: str
) -> list[Check]:
    """Check a site; every problem at once, none raised but that of a host that cannot be reached. Blocks until Slurm's
    commands have answered.

    ``where``: the site file, for messages; ``backends``: what the jobs train with; ``script``: of a job, for
    ``bash -n`` and, if nothing else is wrong, for ``sbatch --test-only``. The site may break rules of its own.
    """
    machine = slurm.machine
    files = partial(_files, machine, site, where, store_url, tuple(backends))
    if missing := machine.lacks(_COMMANDS):
        problem = f"there is no {', '.join(missing)} {machine.no_slurm}"
        return [Check("Slurm's commands", problem), *files(None)]
    try:
        version = slurm.run("sinfo", "--version").strip()
        settings, known = slurm.configuration(), _known_partitions(slurm)
        wanted: list[str | None] = [*_wanted(site, known)]
        found = [_Partition(name, known[name], _nodes(slurm, site, name)) for name in wanted if name and name in known]
        checks = [Check("Slurm", note=f"{version}, cluster {settings['ClusterName']}")]
    except SchedulerError as exc:
        next_step = "" if client.TRY_LATER in str(exc) else f"; {client.TRY_LATER}"
        return [Check("Slurm", f"{exc}{next_step}"), *files(None)]
    checks += [_no_partition(where, name, known) for name in wanted or [None] if name not in known]
    checks += [*_of_partitions(site, where, found), *_unread(site, where), *_other_gpu(site, where)]
    checks += [*_array(site, where, settings), *_account(slurm, site, where), *_qos(slurm, site, where, found)]
    checks += files([node for one in found for node in one.nodes])
    if site.setup:
        checks.append(_syntax(where, script))
    if not any(one.refuses for one in checks) and not any(site.broken_rules()):
        checks.append(_accepted(slurm, where, script))
    return checks


def _known_partitions(slurm: Slurm) -> dict[str, Mapping[str, str]]:
    lines = slurm.run("scontrol", "show", "partition", "--oneliner").splitlines()
    found = (client.parse_pairs(line) for line in lines)
    return {one["PartitionName"]: one for one in found if one.get("PartitionName")}


def _wanted(site: SlurmSite, known: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The partitions that a job may start in; the cluster's default, if it has one, where the site names none."""
    if named := site.chosen("partition"):
        return named.split(",")
    return [name for name, settings in known.items() if settings.get("Default") == "YES"]


def _nodes(slurm: Slurm, site: SlurmSite, partition: str) -> list[_Node]:
    listed = site.chosen("nodelist")
    only = [f"--nodes={listed}"] if listed and "/" not in listed else []  # a path would be a file of names
    text = slurm.run("sinfo", "--noheader", "--Node", f"--partition={partition}", *only, "--format=%n|%c|%m|%G|%f")
    return [node for line in text.splitlines() if (node := _node(line))]


def _node(line: str) -> _Node | None:
    parts = line.strip().split("|")
    if len(parts) != 5:
        return None
    host, cpus, memory, text, features = parts
    gres: tuple[Gres, ...] | None = None
    with suppress(ValueError):
        gres = tuple(parse_gres(text))
    return _Node(host, client.number(cpus), client.number(memory), gres, frozenset(features.split(",")))


def _no_partition(where: str, name: str | None, known: Iterable[str]) -> Check:
    names = ", ".join(known)
    if name is None:
        problem = f"{where}: partition: the cluster has no default partition; set one of: {names}"
    else:
        problem = f"{where}: partition: there is no {name!r}; valid: {names}"
    return Check("partition", problem, opinion=True)


def _of_partitions(site: SlurmSite, where: str, found: Sequence[_Partition]) -> Iterator[Check]:
    """The checks of each partition. What is wrong in one is only a warning if a job can start in another."""
    each = [list(_resources(site, where, one)) for one in found]
    usable = any(not any(one.refuses for one in checks) for checks in each)
    for checks in each:
        yield from (replace(one, opinion=True, warning=one.warning or usable) for one in checks)


def _resources(site: SlurmSite, where: str, partition: _Partition) -> Iterator[Check]:
    name, nodes = partition.name, partition.nodes
    state, limit = partition.settings.get("State", "UP"), partition.settings.get("MaxTime", "")
    waits = f"{where}: partition {name} is {state}, so jobs would wait; ask your cluster's administrators"
    yield Check(f"partition {name}", "" if state == "UP" else waits, note=f"{len(nodes)} nodes")
    most = client.seconds(limit)
    too_long = (
        f"{where}: time: {site.time} is more than the partition {name} allows ({limit}); lower it: a job that needs "
        "longer is requeued at its limit and resumes from its checkpoint"
    )
    yield Check(f"time {site.time}", too_long if most is not None and site.seconds > most else "")
    if not nodes:
        what = f"sinfo shows no node of {name}" + (f" in {listed}" if (listed := site.chosen("nodelist")) else "")
        yield Check(f"nodes of {name}", f"{where}: {what}, so jobs may wait for ever; check partition and options")
        return
    if site.cpus:
        yield _fits("cpus", site.cpus, max(node.cpus for node in nodes), where, name)
    if site.memory_mb:
        setting = "memory" if site.memory else "mem_per_cpu x cpus"
        yield _fits(setting, site.memory_mb, max(node.memory_mb for node in nodes), where, name, " MB")
    yield from (_gres(one, where, name, nodes) for one in site.asked if one.entries)
    if constraint := site.chosen("constraint"):
        yield _constraint(constraint, where, name, nodes)


def _fits(setting: str, wanted: int, most: int, where: str, partition: str, unit: str = "") -> Check:
    problem = f"{where}: {setting}: {wanted}{unit} are more than any node of {partition} has ({most}{unit}); lower it"
    return Check(f"{setting} {wanted}{unit}", problem if wanted > most else "")


def _gres(asked: Asked, where: str, partition: str, nodes: list[_Node]) -> Check:
    """Whether one node has all that one setting or option asks for."""
    known = [node.gres for node in nodes if node.gres is not None]
    shown = sorted({str(one) for gres in known for one in gres})
    available = ", ".join(shown) or "none"
    setting, text = ("gres", asked.text) if asked.where == "gres" else ("options", f"{asked.where}={asked.text}")
    wanted = [one for one in asked.entries if asked.where == "gres" or one.gpus]
    fits = any(all(one.of(gres) >= one.count for one in wanted) for gres in known)
    problem = f"{where}: {setting}: no node of {partition} has {text}; its nodes have: {available}"
    unsure = len(known) < len(nodes)  # what sinfo printed of some node is not understood: it may have it
    return Check(f"{setting} {text}", "" if fits else problem, note=available, warning=unsure)


def _array(site: SlurmSite, where: str, settings: Mapping[str, str]) -> Iterator[Check]:
    most = client.number(settings.get("MaxArraySize", ""))
    if 0 < most < site.array_size:
        problem = f"{where}: array_size: the cluster takes arrays of up to {most} jobs; set array_size: {most}"
        yield Check(f"array_size {site.array_size}", problem, warning=True)


def _account(slurm: Slurm, site: SlurmSite, where: str) -> Iterator[Check]:
    """Whether the account is one of the user's: not every cluster refuses another. Nothing where there is no accounting, and
    of a host, whose user has another name."""
    name = site.chosen("account")
    if not name or site.host:
        return
    user = f"user={getpass.getuser()}"
    show = ("sacctmgr", "--noheader", "--parsable2", "show", "associations", user, "format=Account")
    try:
        accounts = sorted(set(slurm.run(*show, timeout=_QOS_SECONDS).split()))
    except SchedulerError:
        return
    if accounts:
        problem = (
            f"{where}: account: {name} is not one of yours, which are {', '.join(accounts)} (sacctmgr); take one of these: "
            "some clusters refuse jobs of another"
        )
        yield Check(f"account {name}", "" if name.lower() in accounts else problem, warning=True)


def _qos(slurm: Slurm, site: SlurmSite, where: str, found: Sequence[_Partition]) -> Iterator[Check]:
    """Whether the site's QOS and those of its partitions allow its time; nothing where there is no accounting."""
    named = [site.chosen("qos"), *(one.settings.get("QoS") for one in found)]
    names = {name for name in named if name and name != "N/A"}
    if not names:
        return
    show = ("sacctmgr", "--noheader", "--parsable2", "show", "qos", "format=Name,MaxWall")
    try:
        rows = [line.split("|") for line in slurm.run(*show, timeout=_QOS_SECONDS).splitlines()]
        limits = {row[0]: client.seconds(row[1]) for row in rows if len(row) == 2}
    except (SchedulerError, ValueError):
        return
    own = site.chosen("qos")
    if own and limits and own not in limits:
        problem = f"{where}: qos: there is no {own}; valid: {', '.join(limits)} (sacctmgr); some clusters refuse others"
        yield Check(f"QOS {own}", problem, warning=True)
    for name, most in limits.items():
        if name not in names:
            continue
        too_long = (
            f"{where}: time: {site.time} is more than the QOS {name} allows ({most} s), so jobs would never start"
        )
        yield Check(f"QOS {name}", too_long if most is not None and site.seconds > most else "", opinion=True)


def _unread(site: SlurmSite, where: str) -> Iterator[Check]:
    """What may ask for GPUs, and cannot be read."""
    for one in site.asked:
        if one.why:
            yield Check(
                f"{one.where} {one.text}",
                f"{where}: {one.where} {one.text} cannot be read ({one.why}), so it is not known whether jobs get a GPU: a "
                "container is given one if there is one, and check_gpu checks nothing",
                warning=True,
            )


def _other_gpu(site: SlurmSite, where: str) -> Iterator[Check]:
    """Whether ``gpu`` is the GPU that jobs ask for."""
    try:
        said = find_gpu(site.gpu) if site.gpu else None
    except UsageError:  # told where memory is checked
        return
    for kind in dict.fromkeys(entry.kind for one in site.asked for entry in one.entries if entry.gpus and entry.kind):
        known = recognized_gpu(kind)
        if said and known and said.key.partition("-")[0] != known.key.partition("-")[0]:
            yield Check(
                f"gpu {site.gpu}",
                f"{where}: gpu: {site.gpu} is not the GPU that jobs request ({kind}), so memory, time and cost are "
                f"computed for the wrong one: set gpu: {known.key}",
                warning=True,
            )


def _constraint(constraint: str, where: str, partition: str, nodes: list[_Node]) -> Check:
    wanted = set(re.findall(r"(?<![*A-Za-z0-9_.-])[A-Za-z0-9_][A-Za-z0-9_.-]*", constraint))  # not the count in a*2
    known = {feature for node in nodes for feature in node.features if feature != "(null)"}
    unknown = sorted(wanted - known)
    available = ", ".join(sorted(known)) or "none"
    problem = (
        f"{where}: constraint: no node of {partition} has {', '.join(unknown)}; features of its nodes: {available}"
    )
    return Check(f"constraint {constraint}", problem if unknown else "")


def _files(
    machine: SlurmMachine,
    site: SlurmSite,
    where: str,
    store_url: str,
    backends: Sequence[str],
    nodes: list[_Node] | None,
) -> Iterator[Check]:
    """Folders, image and Python, as far as the machine can see them that submits."""
    elsewhere = nodes is None or any(node.host.split(".")[0] != machine.node for node in nodes)
    store = store_folder(store_url)
    if site.host:
        yield _reachable(machine, store_url, store)
    if problem := in_a_clone(machine, Path(site.shared)):
        yield Check("shared", f"{where}: shared: {problem}")
    for folder in dict.fromkeys([Path(site.shared), *([store] if store else [])]):
        yield _shared(machine, folder, where, elsewhere=elsewhere)
    if site.container.runtime != "none" and (image := site.container.image):
        missing = image.startswith("/") and _is_missing(machine, image)
        yield Check(
            f"image {image}",
            f"{where}: container.image: there is no {image}; build or copy it" if missing else "",
            opinion=True,  # the nodes may have it
        )
    if site.python or not site.host:
        in_image = site.container.runtime != "none"
        yield _python(machine, site, where, () if in_image else backends)


def in_a_clone(machine: SlurmMachine, folder: Path) -> str:
    """What is wrong with a folder for jobs that is, or lies in, a clone of this project; empty if all is well."""
    clone = machine.nearest_with((".git", "cefr_batch"), folder)
    lies = "is" if clone == folder else f"lies in {clone},"
    writes = "jobs would write their files into it; set another folder"
    return f"{folder} {lies} a clone of cefr-batch, and {writes}" if clone else ""


def _reachable(machine: SlurmMachine, store_url: str, store: Path | None) -> Check:
    """Whether a store that this machine writes is the one that jobs of another machine find: of a folder, by a file that is
    written here and looked for there."""
    what = f"store {store_url}"
    if store is None:
        return Check(what, unreachable_endpoint(store_url, inside="job", there="node"))
    existing = existing_parent(store)
    try:
        with tempfile.NamedTemporaryFile(dir=existing, prefix=".cefr-batch-") as file:
            missing = _is_missing(machine, file.name)
    except OSError as exc:
        return Check(
            what, f"the folder {store} cannot be written: {exc.strerror or exc}; give access or change --store"
        )
    problem = (
        f"the folder {existing} of this machine is not there {machine.where}, so jobs cannot reach the store; give an "
        "address in object storage (--store s3://bucket/prefix), or a folder that both machines have under the same path"
    )
    return Check(what, problem if missing else "")


def _is_missing(machine: SlurmMachine, path: str) -> bool:
    try:
        return machine.run(["test", "-e", path], timeout=_PATH_SECONDS).returncode != 0
    except subprocess.TimeoutExpired as exc:
        raise AnswerLost(f"{exc}; {client.TRY_LATER}") from exc


def _shared(machine: SlurmMachine, folder: Path, where: str, *, elsewhere: bool) -> Check:
    writable, kind = machine.folder(folder)
    if not writable:
        return Check(
            f"folder {folder}",
            f"{where}: the folder {folder} cannot be written; give access or change `shared` or --store",
        )
    if kind not in LOCAL_FILE_SYSTEMS:
        return Check(f"folder {folder}", note=kind)
    if not elsewhere:
        return Check(f"folder {folder}", note=f"{kind}, which the nodes see, since they are this machine")
    problem = (
        f"{folder} is on a local disk ({kind}) {machine.where}; every node must see it, so use a shared file system"
    )
    return Check(f"folder {folder}", f"{where}: {problem}", warning=kind not in ("tmpfs", "ramfs"), opinion=True)


def _python(machine: SlurmMachine, site: SlurmSite, where: str, backends: Sequence[str]) -> Check:
    """Whether the nodes' Python can start a job: it must have submitit and cefr-batch, and this Python's minor version. It
    must be able to train, too, unless jobs run in a container. A host's may be of another version: what is sent there names
    classes and holds nothing of them."""
    python = site.python or sys.executable
    what, prefix = f"python {python}", f"{where}: python: {python}"
    try:
        found = _probe(machine, python, [name for backend in backends for name in training_packages(backend)])
    except FileNotFoundError:
        unchecked = f"{prefix} does not exist {machine.where}, so it could not be checked"
        return Check(what, f"{unchecked}; the nodes must have it: if they do not, correct `python`", warning=True)
    own = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if found.error:
        problem = f"{prefix} cannot start a job ({found.error}); name a Python interpreter that has cefr-batch[slurm]"
    elif found.python != own and not site.host:
        problem = f"{prefix} is Python {found.python}, but this is {own}; submit with the same minor version"
    elif found.missing:
        problem = (
            f"{prefix} has no {', '.join(found.missing)}, which training with {' and '.join(backends)} needs; use an "
            "environment that has it (make setup-unsloth), a container, or the other backend (--set backend=peft)"
        )
    elif found.cpu_torch and backends and site.gpus and site.check_gpu:
        problem = (
            f"{prefix} has torch {found.cpu_torch}, which cannot use a GPU; use an environment that can (make "
            "setup-unsloth), or, for jobs without a GPU, `gres: null` and `gpu: null`"
        )
    elif site.host and found.version != __version__:
        problem = f"{prefix} has cefr-batch {found.version}, but this is {__version__}; install the same version there"
        return Check(what, problem, note=found.python, warning=True)
    else:
        problem = ""
    return Check(what, problem, note=found.python)


@dataclass(frozen=True)
class _Interpreter:
    """A Python, the version of its cefr-batch, which packages it lacks, and the version of its torch if that was built
    without CUDA; or the ``error`` for which it starts no job."""

    python: str = ""
    version: str = ""
    missing: Sequence[str] = ()
    cpu_torch: str = ""
    error: str = ""


def _probe(machine: SlurmMachine, python: str, packages: Iterable[str]) -> _Interpreter:
    """What an interpreter has of these packages. Raises ``FileNotFoundError`` if it is not there."""
    ask = [python, "-c", _PYTHON_PROBE, *dict.fromkeys(packages)]
    try:
        done = machine.run(ask, env=client.without_allocation(machine.variables), timeout=_PYTHON_SECONDS)
    except FileNotFoundError:
        raise
    except (OSError, SchedulerError, subprocess.TimeoutExpired) as exc:
        return _Interpreter(error=str(exc))
    try:
        return _Interpreter(**json.loads(done.stdout))
    except (ValueError, TypeError):
        return _Interpreter(error=(done.stderr.strip().splitlines() or ["it does not run"])[-1])


def _syntax(where: str, script: str) -> Check:
    """``bash -n``: whether a shell can read the lines of ``setup``, of which each must be a complete command."""
    try:
        english = {**os.environ, "LC_ALL": "C"}  # the line's number is read from what bash says
        done = subprocess.run(
            ["bash", "-n"], input=script, env=english, capture_output=True, text=True, timeout=_BASH_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        return Check("setup", f"{where}: setup was not checked: {exc}", warning=True)
    said = (done.stderr.strip().splitlines() or [""])[0].removeprefix("bash: ")
    line = re.match(r"line ([0-9]+)", said)
    text = script.splitlines()[int(line[1]) - 1 : int(line[1])] if line else []
    problem = (
        f"{where}: setup: bash cannot read it ({said}{': ' if text else ''}{''.join(text)}); each line must be a complete "
        "command, so write `if …; then …; fi` on one line"
    )
    return Check("setup", problem if done.returncode else "")


def _accepted(slurm: Slurm, where: str, script: str) -> Check:
    """``sbatch --test-only``: checks what only the controller knows, such as the account, the QOS and their limits."""
    what = "sbatch --test-only"
    try:
        slurm.run("sbatch", "--test-only", stdin=script)
    except AnswerLost:
        raise
    except SchedulerError as exc:
        if _FOR_NOW.search(str(exc)):
            waits = f"{where}: Slurm could not start the job now ({exc}); it waits until that changes"
            return Check(what, waits, warning=True)
        refused = f"{where}: Slurm would refuse the job ({exc}); correct the site file"
        return Check(what, refused, opinion=True)
    return Check(what)
