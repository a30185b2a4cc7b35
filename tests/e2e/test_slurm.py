"""Must show: runs on a real Slurm, whatever Slurm does to them.

Each test runs on the oldest version, and those marked ``newest_slurm`` on the newest besides; `make e2e-slurm-all` runs all
tests on all versions.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clusters import slurm, until
from clusters.s3 import KEYS, Server
from support.cluster_jobs import (
    LONG,
    SHORT,
    STUDY,
    TRIAL,
    adapter_sha256,
    assert_crossed,
    assert_same_search,
    attempt,
    begin_here,
    cefr_batch,
    checkpoint,
    complete,
    freeze_training,
    search,
    seen,
    state_of,
    step,
    thaw_training,
    training,
)
from support.runs import ROOT, SMOKE, settings

from cefr_batch import report, runner
from cefr_batch.models.device import installed_torch
from cefr_batch.store import Store, open_store

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("aws")]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "cluster" in metafunc.fixturenames:
        newest = [slurm.NEWEST] * bool(list(metafunc.definition.iter_markers("newest_slurm")))
        versions = os.environ.get("CEFR_BATCH_TEST_SLURM", "").split() or [slurm.OLDEST, *newest]
        metafunc.parametrize("cluster", versions, indirect=True, scope="module")


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest) -> Iterator[None]:
    if why := slurm.why_not():
        (pytest.fail if os.environ.get("CEFR_BATCH_REQUIRE_ALL") else pytest.skip)(why)
    with slurm.cluster(request.param):
        slurm.script("user-signal", "off")
        yield


@pytest.fixture
def site(cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Writes the site file ``e2e``, whose shared folder is this test's own."""
    sites = tmp_path / "sites"
    sites.mkdir()
    monkeypatch.setenv("CEFR_BATCH_SLURM", str(sites))
    monkeypatch.delenv("CEFR_BATCH_CACHE")  # the site's own
    for name in ("SLURM_JOB_ID", "SLURM_CPUS_PER_TASK", "SLURM_MEM_PER_NODE"):  # as if called inside an allocation
        monkeypatch.setenv(name, "64")
    models = Path(os.environ.get("CEFR_BATCH_TEST_MODELS", tmp_path / "cache" / "models"))
    shared = tmp_path / "shared folder"
    (shared / "cache").mkdir(parents=True)
    (shared / "cache" / "models").symlink_to(models)

    def write(**more: object) -> None:
        base = {
            "cpus": 1,
            "memory": "2G",
            "time": "00:20:00",
            "signal_seconds": 30,
            "backend": "peft",
            "check_gpu": False,
        }
        values = {"extends": "default", **base, "shared": str(shared), **more}
        (sites / "default.yaml").write_bytes((ROOT / "slurm" / "default.yaml").read_bytes())
        (sites / "e2e.yaml").write_text(json.dumps(values))

    write()
    return write


def submit(model: Path, values: list[str], store: str, *levels: str, cross: bool = False) -> list[str]:
    """Submit runs of the tiny model; returns their names. ``cross``: each evaluates the others' sets, too."""
    words = ["submit", *(word for level in levels for word in ("--level", level)), "--cluster", "slurm/e2e", "--json"]
    words += ["--cross-evaluate"] * cross
    printed = cefr_batch(*words, *settings(f"model.name={model}", *values), store=store)
    return [run["run"] for run in json.loads(printed)["runs"]]


def job_of(store: Store, run: str) -> str:
    handle = str(store.get_json(f"runs/{run}/submission.json")["handle"])
    assert handle.startswith("slurm://e2e/")
    return handle.rpartition("/")[2]


def test_disturbed_runs_end_with_the_same_adapter_as_one_left_alone(
    site: Callable[..., None], tiny_model: Path, tmp_path: Path
) -> None:
    """One run begins on this machine and is killed there, is preempted twice, once on a cluster that sends SIGTERM and once
    on one that sends the job's own signal, and loses its node once; one comes to its time limit; one is left alone."""
    store = open_store(str(tmp_path / "store"))
    here = {**os.environ, "CEFR_BATCH_CACHE": str(tmp_path / "cache")}
    first = begin_here(store, [f"model.name={tiny_model}", "backend=peft", *LONG], env=here)
    cefr_batch("resume", first, "--cluster", "slurm/e2e", store=store.url)
    (second,) = submit(tiny_model, LONG, store.url, "B1")
    job, limited = job_of(store, first), job_of(store, second)

    freeze_training(store, second)
    for user_signal in ("off", "on"):
        slurm.script("user-signal", user_signal)
        freeze_training(store, first)
        slurm.preempt(job)
        assert state_of(store, first) == "PENDING"
        slurm.start_now(job)
    freeze_training(store, first)
    slurm.end_soon(limited)
    until(lambda: "Caught signal SIGUSR2" in slurm.printed(tmp_path / "shared folder" / "jobs", limited))
    slurm.run("scontrol", "update", f"jobid={limited}", "TimeLimit=20")  # while it still runs: it soon starts again
    thaw_training(store, second)
    lost = slurm.node(job)
    slurm.script("kill-node", lost)
    slurm.start_now(job)  # on the other node, once the other run has left it
    slurm.script("start-node", lost)
    third = submit(tiny_model, LONG, store.url, "B1")[0]
    for run in (first, second, third):
        until(lambda run=run: complete(store, run))  # type: ignore[misc]

    metrics = {run: store.get_json(f"runs/{run}/metrics.json") for run in (first, second, third)}
    print({run: (found["attempts"], found["repeated_steps"]) for run, found in metrics.items()})
    assert [metrics[run]["attempts"] for run in (first, second, third)] == [5, 2, 1]
    assert metrics[first]["repeated_steps"] > 0  # of the attempts that were killed
    assert metrics[second]["repeated_steps"] == metrics[third]["repeated_steps"] == 0
    assert adapter_sha256(store, first) == adapter_sha256(store, second) == adapter_sha256(store, third)
    assert metrics[first]["log"] == metrics[third]["log"] == metrics[second]["log"]


def test_an_array_of_levels_and_the_report_after_it(
    site: Callable[..., None], server: Server, tiny_model: Path
) -> None:
    store = open_store(server.url("array"))
    runs = submit(tiny_model, SHORT, store.url, "A1", "A2", "B1", cross=True)
    jobs = [job_of(store, run) for run in runs]
    array = jobs[0].partition("_")[0]
    assert jobs == [f"{array}_{n}" for n in range(3)]
    queued = slurm.run("squeue", "--noheader", "--format=%j|%E").splitlines()
    assert [line for line in queued if line.startswith("cefr-batch-report|afterany:")]
    report = f"reports/{runs[0]}/report.json"
    until(lambda: store.exists(report))
    levels = [level["level"] for level in store.get_json(report)["levels"]]
    assert levels == ["A1", "A2", "B1"]
    assert all(complete(store, run) for run in runs)
    markdown = store.get(f"reports/{runs[0]}/report.md").decode()
    assert all(run in markdown for run in runs)
    assert_crossed(store, runs)


def test_the_smoke_run_in_object_storage_through_a_restart_of_the_controller_and_without_accounting(
    site: Callable[..., None], server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SmolLM2 on B1 from submit to a pull elsewhere; meanwhile slurmctld dies, and sacct does not work."""
    store = open_store(server.url("smoke"))
    words = ["submit", "--level", "B1", *SMOKE, "--cluster", "slurm/e2e", "--wait", "--store", store.url]
    waiting = subprocess.Popen(
        [sys.executable, "-m", "cefr_batch", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    run = "smollm2-b1-peft-v1"
    until(lambda: store.exists(f"runs/{run}/status.json") or waiting.poll() is not None)
    job = job_of(store, run)
    assert "gpu:1" in slurm.run("squeue", "--noheader", f"--jobs={job}", "--format=%b")
    secrets = [key.encode() for key in KEYS.values()]
    assert not [key for key in secrets if key in slurm.run("scontrol", "show", "job", job).encode()]

    (tmp_path / "bin").mkdir()
    broken = tmp_path / "bin" / "sacct"
    broken.write_text("#!/bin/sh\necho 'sacct: error: Slurm accounting storage is disabled' >&2\nexit 1\n")
    broken.chmod(0o755)
    without = {**os.environ, "PATH": f"{broken.parent}:{os.environ['PATH']}"}
    for env in (without, None):
        state, reason = seen(store, run, env=env)
        assert state == "RUNNING"
        assert reason.startswith("RUNNING in Slurm on n")
    slurm.script("restart-controller")
    assert seen(store, run, env=without)[1].startswith("RUNNING in Slurm on n")

    printed, _ = waiting.communicate(timeout=1800)
    assert waiting.returncode == 0, printed
    assert f"{run}: SUCCEEDED" in printed
    assert seen(store, run, env=without)[0] == "SUCCEEDED"
    elsewhere = tmp_path / "elsewhere"
    monkeypatch.setenv("HOME", str(elsewhere))
    cefr_batch("pull", run, "--to", str(elsewhere), store=store.url)
    assert (elsewhere / run / "merged" / "model.safetensors").stat().st_size > 200e6
    assert "match its manifest" in cefr_batch("verify", run, store=store.url)

    stored = [store.get(one.key) for one in store.objects("") if one.size < 2**20]
    written = [path for path in (tmp_path / "shared folder" / "jobs").rglob("*") if path.is_file()]
    assert len(stored) > 20
    assert len(written) >= 3  # the script, the pickle, what the job printed
    assert not [key for key in secrets for data in (*stored, *(p.read_bytes() for p in written)) if key in data]


@pytest.mark.newest_slurm
def test_two_hundred_runs_are_one_array_and_one_question(
    site: Callable[..., None], tiny_model: Path, tmp_path: Path
) -> None:
    """Counted by wrappers around the real sbatch and sacct."""
    store = open_store(str(tmp_path / "store"))
    (tmp_path / "bin").mkdir()
    for name in ("sbatch", "sacct"):
        wrapper = tmp_path / "bin" / name
        wrapper.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/{name}.calls\nexec {shutil.which(name)} "$@"\n')
        wrapper.chmod(0o755)
    counted = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    site(array_limit=1, options=["--hold"])
    values = settings(f"model.name={tiny_model}", *SHORT, "training.seed=1..200")
    started = time.monotonic()
    printed = cefr_batch(
        "submit", "--level", "B1", "--cluster", "slurm/e2e", "--json", *values, store=store.url, env=counted
    )
    submitted = time.monotonic() - started
    runs = [run["run"] for run in json.loads(printed)["runs"]]
    jobs = [job_of(store, run) for run in runs]
    array = jobs[0].partition("_")[0]
    assert jobs == [f"{array}_{n}" for n in range(200)]
    seeds = [store.get_json(f"runs/{run}/spec.json")["spec"]["training"]["seed"] for run in runs]
    assert seeds == list(range(1, 201))
    calls = [line for line in (tmp_path / "sbatch.calls").read_text().splitlines() if "--test-only" not in line]
    assert [("afterany" in line) for line in calls] == [False, True]  # the array, and the report after it

    (tmp_path / "sacct.calls").unlink()
    started = time.monotonic()
    states = json.loads(cefr_batch("list", "--json", store=store.url, env=counted))["runs"]
    listed = time.monotonic() - started
    assert [state["state"] for state in states] == ["PENDING"] * 200
    assert len((tmp_path / "sacct.calls").read_text().splitlines()) == 1
    print(f"200 runs: submitted in {submitted:.1f} s, listed in {listed:.1f} s")
    cefr_batch("cancel", *runs, store=store.url)
    until(lambda: slurm.state(array).replace("CANCELLED", "").strip() == "")
    states = json.loads(cefr_batch("list", "--json", store=store.url))["runs"]
    assert [state["state"] for state in states] == ["CANCELLED"] * 200
    slurm.run("scancel", "--name=cefr-batch-report")


def test_a_running_job_that_is_cancelled_stores_a_checkpoint_and_goes_on_when_resumed(
    site: Callable[..., None], tiny_model: Path, tmp_path: Path
) -> None:
    store = open_store(str(tmp_path / "store"))
    (run,) = submit(tiny_model, LONG, store.url, "B1")
    freeze_training(store, run)
    cefr_batch("cancel", run, store=store.url)
    thaw_training(store, run)
    job = job_of(store, run)
    until(lambda: slurm.state(job) not in ("RUNNING", "COMPLETING", "SIGNALING"))
    assert state_of(store, run) == "CANCELLED"
    stopped = checkpoint(store, run)
    assert stopped == store.get_json(f"runs/{run}/status.json")["step"]
    cefr_batch("resume", run, store=store.url)
    assert job_of(store, run) != job
    freeze_training(store, run)
    assert step(store, run) > stopped
    slurm.run("scancel", job_of(store, run))  # behind cefr-batch's back
    until(lambda: slurm.state(job_of(store, run)) == "CANCELLED")
    assert state_of(store, run) == "CANCELLED"


@pytest.mark.newest_slurm
def test_the_python_api_submits_stops_resumes_pulls_and_reports(
    site: Callable[..., None], tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The calls that README shows, from this process."""
    session = runner.Session(str(tmp_path / "store"))
    overrides = [f"model.name={tiny_model}", *LONG, "training.epochs=8"]
    runs = session.submit(["A1", "B1"], cluster="slurm/e2e", overrides=overrides)
    freeze_training(session.store, runs[1])
    session.cancel(runs[1:])
    thaw_training(session.store, runs[1])
    seen = [state for states in session.watch(runs) for state in states]
    assert {state.state for state in seen if state.run == runs[0]} >= {runner.State.SUCCEEDED}
    assert [state.state for state in session.status(runs)] == [runner.State.SUCCEEDED, runner.State.CANCELLED]
    session.resume(runs[1:])
    assert f"/reports/{runs[0]} does not wait for {runs[1]}; once all its runs have ended, " in caplog.text
    assert [state.state for state in session.wait(runs)] == [runner.State.SUCCEEDED] * 2
    assert session.logs(runs[1], attempt=1) != session.logs(runs[1])
    folder = session.pull(runs[0], to=tmp_path / "pulled", only=["adapter"])
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()
    written = report.write_report(session.store, str(tmp_path / "report"), runs=runs)
    assert str(tmp_path / "report" / "report.html") in written


HOSTILE = 'it\'s $(touch pwned) `id` "q" ğüş; # % \\'


@pytest.mark.newest_slurm
def test_a_hostile_setting_reaches_slurm_as_it_is(site: Callable[..., None], tiny_model: Path, tmp_path: Path) -> None:
    site(options=[f"--comment={HOSTILE}", "--hold"])
    store = open_store(str(tmp_path / "store"))
    (run,) = submit(tiny_model, SHORT, store.url, "B1")
    job = job_of(store, run)
    assert slurm.run("squeue", "--noheader", f"--jobs={job}", "--format=%k") == HOSTILE
    slurm.run("scancel", job)
    site(partition=HOSTILE)
    words = ["submit", "--level", "B1", "--cluster", "slurm/e2e", *settings(f"model.name={tiny_model}", *SHORT)]
    refused = cefr_batch(*words, store=store.url, code=1)
    assert f"partition: there is no {HOSTILE!r}; valid: gpu, urgent" in refused
    assert not (ROOT / "pwned").exists()


def test_runs_in_a_container_one_of_them_preempted(
    site: Callable[..., None], unpacked: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """charliecloud's ch-run under Slurm; scontrol and squeue are on the node, not in the image."""
    site(container={"runtime": "charliecloud", "image": str(unpacked)})
    store = open_store(str(tmp_path / "store"))
    disturbed, alone = (submit(tiny_model, LONG, store.url, "B1")[0] for _ in range(2))
    job = job_of(store, disturbed)
    freeze_training(store, disturbed)
    python = training(store, disturbed)[0].cmdline()[0]
    assert (unpacked / python.lstrip("/")).is_symlink()
    assert not Path(python).exists()  # it is the image's, not this machine's
    slurm.preempt(job)
    slurm.start_now(job)
    for run in (disturbed, alone):
        until(lambda run=run: complete(store, run))  # type: ignore[misc]
    assert [store.get_json(f"runs/{run}/metrics.json")["attempts"] for run in (disturbed, alone)] == [2, 1]
    assert adapter_sha256(store, disturbed) == adapter_sha256(store, alone)
    assert (tmp_path / "shared folder" / "work" / "cache").is_dir()


@pytest.mark.newest_slurm
def test_a_first_site_file_is_that_of_this_cluster(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Path
) -> None:
    """What init takes from sinfo and sacctmgr passes every check against the cluster that they speak of; a torch that cannot
    use the cluster's GPUs is named by both."""
    monkeypatch.chdir(tmp_path)
    program = [sys.executable, "-m", "cefr_batch"]
    subprocess.run([*program, "init", "--slurm"], check=True, capture_output=True)
    text = Path("slurm", "mysite.yaml").read_text(encoding="utf-8")
    for line in ("partition: gpu", "gres: gpu:rtx4090:1", "gpu: rtx4090", "account: root"):
        assert line in text.splitlines()
    words = ["doctor", "--cluster", "slurm/mysite", *settings(f"model.name={tiny_model}", *SHORT), "--store", "store"]
    torch, cuda = installed_torch()
    if cuda is None:
        refused = subprocess.run([*program, *words], capture_output=True, text=True)
        (wrong,) = [line for line in refused.stdout.splitlines() if line.startswith("WRONG")]
        assert f"{sys.executable} has torch {torch}, which cannot use a GPU" in wrong
        assert "# python: " in text
        with Path("slurm", "mysite.yaml").open("a", encoding="utf-8") as file:
            file.write("check_gpu: false\n")
    checked = subprocess.run([*program, *words], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "ok       gres gpu:rtx4090:1" in checked.stdout
    assert "ok       sbatch --test-only" in checked.stdout


@pytest.mark.skipif(not os.environ.get("CEFR_BATCH_TEST_LONG"), reason="takes minutes: make e2e-long")
def test_a_search_with_a_preempted_trial_is_the_search_that_this_machine_makes(
    site: Callable[..., None], tiny_model: Path, tmp_path: Path
) -> None:
    """A search on Slurm needs nothing but what `submit` and `resume` use: its trials are an array, with the site's limit."""
    site(array_limit=2)
    store, alone = (open_store(str(tmp_path / name)) for name in ("store", "alone"))
    search(store, tiny_model, "--cluster", "slurm/e2e")
    freeze_training(store, TRIAL)
    slurm.preempt(job := job_of(store, TRIAL))
    slurm.start_now(job)
    cefr_batch("search", "--resume", STUDY, "--wait", store=store.url)
    assert attempt(store, TRIAL) >= 2
    search(alone, tiny_model, "--wait", env={**os.environ, "CEFR_BATCH_CACHE": str(tmp_path / "cache")})
    assert_same_search(store, alone)
