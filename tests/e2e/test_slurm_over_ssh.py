"""Must show: a real Slurm from a laptop, over a real sshd, as another user; whatever becomes of the connection."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from clusters import slurm, sshd, until
from clusters.s3 import KEYS, NotInstalled, Server, seaweedfs
from clusters.sshd import LoginNode
from support.cluster_jobs import (
    SHORT,
    cefr_batch,
    checkpoint,
    complete,
    freeze_training,
    seen,
    state_of,
    step,
    thaw_training,
)
from support.runs import ROOT, settings

from cefr_batch.store import Store, open_store

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.usefixtures("aws"),
    pytest.mark.skipif(not os.environ.get("CEFR_BATCH_TEST_LONG"), reason="takes minutes: make e2e-long"),
]

# What ends a connection from within: the server's process for this session is killed, and nothing is said any more.
CUT = """
p=$$
while :; do case $(ps -o comm= -p $p) in sshd*) break;; esac; p=$(ps -o ppid= -p $p | tr -d ' '); done
kill -9 $p
"""


def unavailable(why: str) -> None:
    (pytest.fail if os.environ.get("CEFR_BATCH_REQUIRE_ALL") else pytest.skip)(why)


@pytest.fixture(scope="module")
def node() -> Iterator[LoginNode]:
    if why := slurm.why_not() or sshd.why_not():
        unavailable(why)
    version = os.environ.get("CEFR_BATCH_TEST_SLURM", slurm.NEWEST).split()[0]
    with slurm.cluster(version), sshd.login_node(str(Path(str(shutil.which("sbatch"))).parent)) as found:
        yield found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A store at an address of this machine that is not its loopback: laptops and nodes reach it alike."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        try:
            one.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            unavailable("needs an address besides the loopback")
        address = str(one.getsockname()[0])
    try:
        server = seaweedfs(tmp_path_factory.mktemp("seaweedfs"), host=address)
    except NotInstalled as exc:
        unavailable(str(exc))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def laptop(node: LoginNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of a laptop: the site file ``laptop``, ssh, and none of Slurm's commands that works."""
    sites, programs = tmp_path / "sites", tmp_path / "programs"
    sites.mkdir()
    programs.mkdir()
    for name in ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo", "srun"):
        (programs / name).write_text(f"#!/bin/sh\necho {name} >> {tmp_path}/called-here\nexit 1\n")
        (programs / name).chmod(0o755)
    (sites / "default.yaml").write_bytes((ROOT / "slurm" / "default.yaml").read_bytes())
    site = {
        "host": sshd.HOST,
        "python": str(node.python),
        "shared": f"{node.home}/shared folder",
        "cpus": 1,
        "memory": "2G",
    }
    more = {"time": "00:20:00", "signal_seconds": 30, "backend": "peft", "check_gpu": False}
    (sites / "laptop.yaml").write_text(json.dumps({"extends": "default", **site, **more}))
    node.whole()
    node.configure()
    shutil.rmtree(node.home / "shared folder", ignore_errors=True)  # what could not be removed without a network
    monkeypatch.setenv("CEFR_BATCH_SLURM", str(sites))
    return {**os.environ, "PATH": f"{node.laptop}:{programs}:{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Iterator[Path]:
    """The tiny model where every user can read it."""
    with TemporaryDirectory(prefix="cefr-batch-model-") as folder:
        Path(folder).chmod(0o755)
        yield shutil.copytree(tiny_model, Path(folder) / "tiny", copy_function=shutil.copyfile)


def words(command: str, model: Path, values: list[str]) -> list[str]:
    return [command, "--level", "B1", "--cluster", "slurm/laptop", *settings(f"model.name={model}", *values)]


def submit(laptop: dict[str, str], model: Path, values: list[str], store: Store) -> str:
    (run,) = json.loads(cefr_batch(*words("submit", model, values), "--json", store=store.url, env=laptop))["runs"]
    return str(run["run"])


def job_of(store: Store, run: str) -> str:
    handle = str(store.get_json(f"runs/{run}/submission.json")["handle"])
    assert handle.startswith("slurm://laptop@e2e/")
    return handle.rpartition("/")[2]


def jobs() -> list[str]:
    """The user's jobs that have not ended."""
    return slurm.run("squeue", "--noheader", f"--user={sshd.USER}", "--format=%i").split()


def left(node: LoginNode, folder: str) -> list[str]:
    """The files below a folder of the site, without what jobs printed."""
    found = (node.home / "shared folder" / folder).rglob("*")
    return [path.name for path in found if path.is_file() and path.suffix != ".out"]


def test_the_whole_life_of_a_run(
    node: LoginNode, laptop: dict[str, str], server: Server, model: Path, tmp_path: Path
) -> None:
    store = open_store(server.url("life"))
    checked = cefr_batch(*words("doctor", model, SHORT), store=store.url, env=laptop)
    assert f"ok       host {sshd.HOST}" in checked
    assert f"ok       python {node.python}" in checked
    run = submit(laptop, model, SHORT, store)
    job = job_of(store, run)
    freeze_training(store, run)
    state, reason = seen(store, run, env=laptop)
    assert state == "RUNNING"
    assert reason.startswith("RUNNING in Slurm on n")
    assert "train" in cefr_batch("logs", run, store=store.url, env=laptop)

    written = [path for path in (node.home / "shared folder").rglob("*") if path.is_file() and "work" not in path.parts]
    sent = [path for path in written if path.suffix in (".sh", ".pkl", ".json") and "cache" not in path.parts]
    assert {path.suffix for path in sent} == {".sh", ".pkl", ".json"}
    assert {(path.owner(), stat.S_IMODE(path.stat().st_mode)) for path in sent} == {(sshd.USER, 0o600)}
    secrets = [value.encode() for value in KEYS.values()]
    assert not [path for path in sent if path.suffix != ".json" for one in secrets if one in path.read_bytes()]
    assert not [one for one in secrets if one in slurm.run("scontrol", "show", "job", job).encode()]

    cefr_batch("cancel", run, store=store.url, env=laptop)
    thaw_training(store, run)
    until(lambda: slurm.state(job) not in ("RUNNING", "COMPLETING", "SIGNALING"))
    assert seen(store, run, env=laptop)[0] == "CANCELLED"
    assert left(node, "credentials") == []  # the job took them along
    stopped = checkpoint(store, run)
    cefr_batch("resume", run, store=store.url, env=laptop)
    assert job_of(store, run) != job
    until(lambda: complete(store, run) or step(store, run) > stopped)
    until(lambda: complete(store, run))
    assert store.get_json(f"runs/{run}/metrics.json")["attempts"] == 2
    until(lambda: left(node, "credentials") == [])
    assert not (tmp_path / "called-here").exists()

    node.configure(HostName="no-such-host.invalid")  # the cluster is gone
    cefr_batch("pull", run, "--to", str(tmp_path / "pulled"), store=store.url, env=laptop)
    assert (tmp_path / "pulled" / run / "adapter" / "adapter_model.safetensors").is_file()
    cefr_batch("report", run, "--out", str(tmp_path / "report"), store=store.url, env=laptop)
    assert (tmp_path / "report" / "report.html").is_file()


# Where a connection is cut during `submit`, the program that does it, and what is left of the submission.
NONE, RECORDED = "none", "recorded"
IN_EARNEST = 'case "$*" in *--test-only*) exec REAL "$@";; esac\n'
MOMENTS = {
    "at the first question": ("scontrol", f"{CUT}\nexit 1", NONE),
    "while files are sent": ("tar", f"head -c 1000 >/dev/null\n{CUT}\nexit 1", NONE),
    "before sbatch": ("sbatch", f"{IN_EARNEST}{CUT}\nexit 1", NONE),
    "before the answer of sbatch": ("sbatch", f'{IN_EARNEST}REAL "$@" > $HOME/answer\n{CUT}', NONE),
    "before the answer that files are named": (
        "mv",
        f'REAL "$@"\ncase "$*" in *submitted.pkl*) {CUT};; esac',
        RECORDED,
    ),
}


@pytest.mark.parametrize("back", [True, False], ids=["once", "for good"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_connection_that_is_cut_during_submit_leaves_a_recorded_job_or_none(
    node: LoginNode, laptop: dict[str, str], server: Server, model: Path, moment: str, back: bool
) -> None:
    """``for good``: from then on this machine has no network, and nothing can be taken back."""
    program, script, leaves = MOMENTS[moment]
    store = open_store(server.url(re.sub(r"\W", "-", f"{moment}-{back}")))
    node.cut_in(program, script, for_good=not back)
    done = subprocess.run(
        [sys.executable, "-m", "cefr_batch", *words("submit", model, SHORT), "--json", "--store", store.url],
        env=laptop, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert node.was_cut, done.stderr
    assert done.returncode == (leaves == NONE), done.stderr
    assert "Traceback" not in done.stderr
    if leaves == NONE:
        assert "nothing was started" in done.stderr or "no connection" in done.stderr or "was lost" in done.stderr
        assert [one.key for one in store.objects("runs/")] == []
        if back:
            assert jobs() == [], done.stderr
            assert left(node, "jobs") == left(node, "credentials") == [], done.stderr
        node.whole()
        assert_nothing_runs(store)
    else:
        assert back or "may fail in a minute" in done.stderr
        (recorded,) = json.loads(done.stdout)["runs"]
        node.whole()
        assert job_of(store, recorded["run"]) in jobs()
        until(lambda: complete(store, recorded["run"]))
        assert state_of(store, recorded["run"]) == "SUCCEEDED"


def assert_nothing_runs(store: Store) -> None:
    """A job that is in the queue all the same ends in a minute, since it is given nothing to do."""
    until(lambda: jobs() == [])
    assert [one.key for one in store.objects("runs/")] == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({}, r"its host key has changed, so nothing was sent"),
        ({"UserKnownHostsFile": "/dev/null"}, r"this machine does not know its host key; log in once with `ssh login`"),
        (
            {"IdentityFile": "/dev/null"},
            r"it refused the login \(.*Permission denied \(publickey\).*\); .*an SSH agent",
        ),
        ({"Port": 1}, r"it refuses connections \(.*Connection refused\); is its port right"),
        ({"HostName": "no-such-host.invalid"}, r"no such name is known \(.*\); correct `host` in the site file"),
    ],
    ids=["key changed", "key unknown", "no agent", "refused", "no such name"],
)
def test_why_there_is_no_connection_is_one_sentence(
    node: LoginNode, laptop: dict[str, str], server: Server, model: Path, changed: dict[str, object], message: str
) -> None:
    if not changed:
        known = node.folder / "another"
        other = (node.key.with_suffix(".pub")).read_text().split()[:2]
        known.write_text(f"[127.0.0.1]:{node.port} {' '.join(other)}\n")
        changed = {"UserKnownHostsFile": known}
    node.configure(**changed)
    failed = cefr_batch(*words("submit", model, SHORT), store=server.url("none"), code=1, env=laptop)
    (found,) = [line for line in failed.splitlines() if f"no connection to {sshd.HOST}: " in line]
    assert re.search(message, found), failed


def test_a_store_that_only_this_machine_has_is_refused(
    node: LoginNode, laptop: dict[str, str], model: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir(mode=0o700)
    refused = cefr_batch(*words("submit", model, SHORT), store=str(tmp_path / "mine"), code=1, env=laptop)
    assert "jobs cannot reach the store; give an address in object storage" in refused
