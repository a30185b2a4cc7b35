"""The scheduler's side: how it reads Slurm's answers, passes secrets on, and reports an unusable site. Slurm's commands
are stand-ins here (tests/e2e/test_slurm.py has the real ones)."""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from cefr_batch.errors import NotReady, SchedulerError, SpecError
from cefr_batch.records import layout
from cefr_batch.records.submission import Submission
from cefr_batch.records.timestamps import now
from cefr_batch.runner import Session
from cefr_batch.runner.findings import Findings
from cefr_batch.runner.prepare import prepare
from cefr_batch.schedulers import Check, Job, JobGroup, JobSpec, State
from cefr_batch.schedulers.slurm import client
from cefr_batch.schedulers.slurm.scheduler import SlurmScheduler
from cefr_batch.schedulers.slurm.script import folder_name
from cefr_batch.store.local import LocalStore

SITES = Path(__file__).parents[2] / "slurm"
STORE = "s3://bucket/prefix"
JOBS = [Job("run-a", "slurm://e2e/7"), Job("run-b", "slurm://e2e/8_0"), Job("run-c", "slurm://e2e/8_1")]
Say = Callable[..., None]


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Say:
    """Makes a stand-in of one of Slurm's commands: what it prints, or how it fails. Each call is recorded."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setenv("CEFR_BATCH_SLURM", str(tmp_path / "sites"))
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites" / "default.yaml").write_bytes((SITES / "default.yaml").read_bytes())
    (tmp_path / "sites" / "here.yaml").write_text(
        json.dumps({"extends": "default", "shared": str(tmp_path / "shared"), "cpus": 4, "memory": "8G"})
    )

    def make(name: str, *lines: str, fails: str = "") -> None:
        text = "\n".join(lines)
        (tmp_path / f"{name}.txt").write_text(f"{text}\n" if text else "")
        ending = f"echo '{name}: error: {fails}' >&2; exit 1" if fails else f"cat {tmp_path}/{name}.txt"
        (tmp_path / name).write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/{name}.calls\n{ending}\n')
        (tmp_path / name).chmod(0o755)

    make("scontrol", "ClusterName             = e2e")
    make("sacct")
    make("squeue")
    make("scancel")
    return make


def calls(folder: Path, name: str) -> list[str]:
    file = folder / f"{name}.calls"
    return file.read_text().splitlines() if file.exists() else []


def observed(*jobs: Job, scheduler: SlurmScheduler | None = None) -> list[tuple[State, str]]:
    found = (scheduler or SlurmScheduler("here")).observe(jobs or JOBS)
    return [(found[job].state, found[job].reason) for job in jobs or JOBS]


def test_one_sacct_for_all_runs_and_one_squeue_for_those_that_have_not_ended(say: Say, tmp_path: Path) -> None:
    say("sacct", "7|COMPLETED|0:0|00:01:00|n1|None", "8_0|RUNNING|0:0|00:00:10|n2|None", "8_[1]|PENDING|0:0|0|None|x")
    say("squeue", "8_0|RUNNING|0:11|n2|None", "8_1|PENDING|0:00||Resources")
    scheduler = SlurmScheduler("here")
    assert observed(scheduler=scheduler) == [
        (State.SUCCEEDED, "COMPLETED in Slurm on n1 after 00:01:00"),
        (State.RUNNING, "RUNNING in Slurm on n2 for 0:11"),
        (State.PENDING, "PENDING in Slurm (Resources)"),
    ]
    observed(scheduler=scheduler)  # again at once: whoever polls does not load the controller
    assert [line.split("--jobs=")[1] for line in calls(tmp_path, "sacct")] == ["7,8"]
    about = [line.partition("--jobs=")[2].split()[:1] for line in calls(tmp_path, "squeue")]
    assert about == [["8"], []]  # the second: when it will be the turn of what waits


def squeue(folder: Path, queue: str, start: str = "") -> None:
    """squeue as a stand-in that answers both questions: what is queued, and when it starts."""
    (folder / "start.txt").write_text(start)
    (folder / "squeue.txt").write_text(f"{queue}\n")
    (folder / "squeue").write_text(
        f'#!/bin/sh\necho "$@" >> {folder}/squeue.calls\n'
        f"case $* in *--start*) cat {folder}/start.txt;; *) cat {folder}/squeue.txt;; esac\n"
    )


def test_a_waiting_job_says_its_place_and_when_it_is_expected_to_start(say: Say, tmp_path: Path) -> None:
    start = "9|30|gpu|N/A\n7|20|gpu|2026-11-26T13:00:00\n6|10|gpu|N/A\n"
    squeue(tmp_path, "7|PENDING|0:00||Priority", start)
    expected = "PENDING in Slurm (Priority); place 2 of 3 in gpu; expected to start at 2026-11-26 13:00:00"
    assert observed(JOBS[0]) == [(State.PENDING, expected)]
    say("scontrol", "ClusterName = e2e", "PrivateData = jobs,usage")  # then squeue shows only the user's own jobs
    assert observed(JOBS[0])[0][1] == "PENDING in Slurm (Priority); expected to start at 2026-11-26 13:00:00"
    squeue(tmp_path, "7|RUNNING|0:10|n1|None", start)
    assert observed(JOBS[0])[0][1] == "RUNNING in Slurm on n1 for 0:10"
    assert len([line for line in calls(tmp_path, "squeue") if "--start" in line]) == 2


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("QOSMaxWallDurationPerJobLimit", "its `time` is longer than this limit allows, so it will never start"),
        ("PartitionTimeLimit", "its `time` is longer than this limit allows"),
        ("ReqNodeNotAvail, UnavailableNodes:n1", "nodes that it needs are down, drained or reserved"),
        ("JobHeldUser", "`scontrol release` lets it go"),
    ],
)
def test_why_a_job_waits_is_told_in_words(say: Say, tmp_path: Path, reason: str, words: str) -> None:
    squeue(tmp_path, f"7|PENDING|0:00||{reason}")
    ((state, text),) = observed(JOBS[0])
    assert state is State.PENDING
    assert f"PENDING in Slurm ({reason}: " in text
    assert words in text


@pytest.mark.parametrize("fails", ["Slurm accounting storage is disabled", "Connection refused"])
def test_without_accounting_the_queue_is_believed(say: Say, fails: str) -> None:
    say("sacct", fails=fails)
    say("squeue", "7|FAILED|0:10|n1|NonZeroExitCode", "8_0|RUNNING|0:11|n2|None")
    states = [state for state, _ in observed()]
    assert states == [State.FAILED, State.RUNNING, State.UNKNOWN]


def test_unreadable_output_of_sacct_is_ignored(say: Say) -> None:
    say("sacct", "slurmdbd: something", "||||||", "7|RUNNING")
    say("squeue", "7|RUNNING|0:10|n1|None")
    assert observed(JOBS[0])[0][0] is State.RUNNING


def test_when_neither_answers_the_error_names_both(say: Say) -> None:
    say("sacct", fails="Connection refused")
    say("squeue", fails="Unable to contact slurm controller")
    with pytest.raises(SchedulerError, match=r"Unable to contact slurm controller; and sacct: Connection refused"):
        observed()


@pytest.fixture
def silent(say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, int]]:
    """Slurm's commands never answer; the function says how often each was called."""
    monkeypatch.setattr(client, "QUESTION_SECONDS", 0.2)
    for name in ("scontrol", "squeue", "sacct", "scancel"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/{name}.calls\nexec sleep 600\n')
    return lambda: {name: len(calls(tmp_path, name)) for name in ("scontrol", "squeue", "sacct", "scancel")}


def test_a_controller_that_does_not_answer_is_asked_one_bounded_question(
    silent: Callable[[], dict[str, int]],
) -> None:
    scheduler = SlurmScheduler("here")
    with pytest.raises(SchedulerError, match=r"scontrol got no answer .* in 0\.2 s.*; and sacct got no answer"):
        observed(scheduler=scheduler)
    with pytest.raises(SchedulerError, match=r"scontrol got no answer from the Slurm controller in 0\.2 s"):
        scheduler.cancel(JOBS, STORE)
    assert silent() == {"scontrol": 1, "squeue": 0, "sacct": 1, "scancel": 0}


def test_cancel_asks_a_silent_controller_once_and_leaves_the_store_as_it_was(
    silent: Callable[[], dict[str, int]], tmp_path: Path
) -> None:
    session = Session(str(tmp_path / "store"))
    key = layout.run_key("b1-v1", layout.SUBMISSION)
    there = Submission(
        run="b1-v1",
        cluster="slurm/here",
        handle="slurm://e2e/7",
        submitted_at=now(),
        submitted_by="me",
        cancelled_at=None,
        attempts_before=0,
    )
    session.store.put_record(key, there)
    with pytest.raises(SchedulerError, match="got no answer from the Slurm controller"):
        session.cancel(["b1-v1"])
    assert silent()["scontrol"] == 1
    assert session.store.get_record(key, Submission) == there
    (state,) = session.status(["b1-v1"])
    assert state.state is State.UNKNOWN
    assert "scontrol got no answer" in state.reason


def test_a_job_that_has_ended_is_known_from_accounting_while_the_controller_is_silent(
    silent: Callable[[], dict[str, int]], say: Say
) -> None:
    say("sacct", "7|COMPLETED|0:0|00:01:00|n1|None", "8_0|RUNNING|0:0|00:00:10|n2|None")
    assert [state for state, _ in observed()] == [State.SUCCEEDED, State.RUNNING, State.UNKNOWN]
    assert silent()["squeue"] == 0


def test_a_preempted_job_is_not_finished_while_the_queue_does_not_answer(say: Say) -> None:
    say("sacct", "7|PREEMPTED|0:0|00:00:22|n1|None")
    say("squeue", fails="Unable to contact slurm controller")
    assert observed(JOBS[0])[0][0] is State.UNKNOWN


def test_a_job_that_is_running_according_to_accounting_alone_is_unknown(say: Say) -> None:
    """As after a controller that died before it had saved a new job: its record in accounting never ends."""
    say("sacct", "7|RUNNING|0:0|00:00:22|n1|None")
    assert observed(JOBS[0])[0][0] is State.UNKNOWN


def test_an_invalid_handle_does_not_hide_the_other_jobs(say: Say) -> None:
    say("sacct", "7|COMPLETED|0:0|00:01:00|n1|None")
    found = [state for state, _ in observed(Job("run-x", "slurm://broken"), JOBS[0])]
    assert found == [State.UNKNOWN, State.SUCCEEDED]


def test_an_array_that_accounting_knows_in_part_is_looked_up_in_the_queue(say: Say) -> None:
    say("sacct", "8_0|COMPLETED|0:0|00:01:00|n1|None")
    say("squeue", "8_1|RUNNING|0:22|n1|None")
    assert [state for state, _ in observed(*JOBS[1:])] == [State.SUCCEEDED, State.RUNNING]


def test_a_preempted_job_that_was_requeued_is_not_finished(say: Say) -> None:
    say("sacct", "7|PREEMPTED|0:0|00:00:22|n1|None")
    say("squeue", "7|COMPLETING|0:22|n1|None")
    assert observed(JOBS[0])[0][0] is State.RUNNING


@pytest.mark.parametrize(
    ("line", "state", "text"),
    [
        ("OUT_OF_MEMORY|0:125|00:01:00|n1", State.FAILED, "it ran out of main memory; raise `memory`"),
        ("TIMEOUT|0:0|00:01:00|n1", State.FAILED, "its time limit before it had stored a checkpoint"),
        ("NODE_FAIL|0:0|00:01:00|n1", State.FAILED, "its node failed, and Slurm did not requeue it"),
        ("PREEMPTED|0:0|00:01:00|n1", State.PREEMPTED, "Slurm did not requeue it"),
        ("FAILED|3:0|00:01:00|n1", State.FAILED, "FAILED in Slurm with exit code 3:0 on n1 after 00:01:00"),
        ("CANCELLED by 1000|0:0|00:01:00|n1", State.CANCELLED, "CANCELLED in Slurm on n1"),
        ("BRAND_NEW|0:0|00:01:00|n1", State.UNKNOWN, "BRAND_NEW in Slurm"),
    ],
)
def test_a_job_that_ended_says_why(say: Say, line: str, state: State, text: str) -> None:
    say("sacct", f"7|{line}|None")
    ((found, reason),) = observed(JOBS[0])
    assert found is state
    assert text in reason


def test_a_job_of_another_cluster_is_unknown_and_cannot_be_cancelled_here(say: Say) -> None:
    other = Job("run-x", "slurm://elsewhere/9")
    ((state, reason),) = observed(other)
    assert (state, "cluster elsewhere" in reason) == (State.UNKNOWN, True)
    with pytest.raises(SchedulerError, match="cancel it from a machine of that cluster"):
        SlurmScheduler("here").cancel([other], STORE)


SCRIPT = f"/shared jobs/e2e/x/{'0' * 32}_submission.sh /shared jobs/e2e/x"
UID = os.getuid()
OWN = (
    f"7|{UID}|{SCRIPT}|run-a",
    f"8_0|{UID}|{SCRIPT}|cefr-batch",
    f"8_1|{UID}|{SCRIPT}|cefr-batch",
)  # JOBS, as squeue knows them


def test_cancel_removes_pending_jobs_and_signals_running_ones_in_two_calls_for_all(say: Say, tmp_path: Path) -> None:
    say("squeue", *OWN)
    SlurmScheduler("here").cancel(JOBS, STORE)
    assert calls(tmp_path, "scancel") == [
        "--state=PENDING 7 8_0 8_1",
        "--state=RUNNING --signal=INT 7 8_0 8_1",
    ]


def test_cancel_asks_whose_the_jobs_are_in_one_call(say: Say, tmp_path: Path) -> None:
    say("squeue", *OWN, "slurm_load_jobs: a warning")
    SlurmScheduler("here").cancel(JOBS, STORE)
    assert calls(tmp_path, "squeue") == ["--array --noheader --states=all --jobs=7,8 --format=%i|%U|%o|%j"]
    assert len(calls(tmp_path, "scancel")) == 2


@pytest.mark.parametrize(
    "entry",
    [
        f"7|{UID}|{SCRIPT}|run-z",
        f"7|{UID}|/home/me/train.sh|run-a",
        f"7|{UID}|/home/me/train.sh|nightly|report",
    ],
)
def test_a_job_that_is_not_the_run_s_is_not_cancelled(say: Say, tmp_path: Path, entry: str) -> None:
    """Slurm gives the number of a job again after a while; or submission.json was edited."""
    say("squeue", entry)
    with pytest.raises(SchedulerError, match=r"Slurm's job 7 .* is not the job of run-a, so it was not cancelled"):
        SlurmScheduler("here").cancel(JOBS, STORE)
    assert calls(tmp_path, "scancel") == []


def test_another_user_s_job_is_not_cancelled(say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 4242)  # a stand-in: the tests may run as root, who may cancel any job
    say("squeue", f"7|4243|{SCRIPT}|run-a")
    with pytest.raises(SchedulerError, match="another user submitted it, who can cancel it"):
        SlurmScheduler("here").cancel(JOBS, STORE)
    assert calls(tmp_path, "scancel") == []


@pytest.mark.parametrize(
    "fails", ["Kill job error on job id 7: Invalid job id specified", "Job/step already completing or completed", ""]
)
def test_cancel_reaches_the_other_jobs_when_one_has_ended(say: Say, tmp_path: Path, fails: str) -> None:
    """scancel ends with 1 then, in 22.05 without a word."""
    say("squeue", *OWN)
    say("scancel", fails=fails)
    if not fails:
        (tmp_path / "scancel").write_text(f"#!/bin/sh\necho >> {tmp_path}/scancel.calls\nexit 1\n")
    SlurmScheduler("here").cancel(JOBS, STORE)
    assert len(calls(tmp_path, "scancel")) == 2


@pytest.mark.parametrize("answer", ["", "slurm_load_jobs: something else"])
def test_a_job_that_slurm_does_not_name_is_not_cancelled_by_its_number_alone(
    say: Say, tmp_path: Path, answer: str
) -> None:
    say("squeue", *([answer] if answer else []), *OWN[1:])
    SlurmScheduler("here").cancel(JOBS, STORE)
    assert calls(tmp_path, "scancel") == ["--state=PENDING 8_0 8_1", "--state=RUNNING --signal=INT 8_0 8_1"]


def test_a_cancel_that_does_not_reach_the_controller_is_an_error(say: Say) -> None:
    say("squeue", *OWN)
    say("scancel", fails="Unable to contact slurm controller")
    with pytest.raises(SchedulerError, match="Unable to contact"):
        SlurmScheduler("here").cancel(JOBS, STORE)


def test_the_tail_of_a_job_s_log_is_what_it_printed(say: Say, tmp_path: Path) -> None:
    printed(tmp_path, "run-b", "8_1", "srun: error: something\n")  # an array's are in the folder of its first run
    scheduler = SlurmScheduler("here")
    assert scheduler.tail_log(JOBS[2], STORE) == "srun: error: something"
    assert scheduler.tail_log(JOBS[0], STORE) == ""
    (tmp_path / "shared" / "jobs" / "7_0_log.out").write_text("as 0.1.0 named it")
    assert scheduler.tail_log(JOBS[0], STORE) == "as 0.1.0 named it"


def printed(tmp_path: Path, run: str, job: str, text: str, cluster: str = "e2e", store: str = STORE) -> None:
    """What a job printed, where Slurm writes it."""
    folder = tmp_path / "shared" / "jobs" / cluster / folder_name(run, store)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{job}_0_log.out").write_text(text)


def test_the_output_of_a_job_with_the_same_number_elsewhere_is_not_shown(say: Say, tmp_path: Path) -> None:
    """Another cluster with the same shared folder, another store, and another run of an earlier life of the numbers."""
    printed(tmp_path, "run-a", "7", "of the cluster west", cluster="west")
    printed(tmp_path, "run-a", "7", "of another store", store="s3://other")
    scheduler = SlurmScheduler("here")
    assert scheduler.tail_log(JOBS[0], STORE) == ""
    printed(tmp_path, "run-a", "7", "its own")
    printed(tmp_path, "run-z", "7", "of another run")
    assert scheduler.tail_log(JOBS[0], STORE) == "its own"


SECRETS = {
    "AWS_ACCESS_KEY_ID": "planted-id",
    "AWS_SECRET_ACCESS_KEY": "planted-key",
    "CEFR_BATCH_NOTIFY_TEAM": "mailto://me:planted@example.org",
    "HF_TOKEN": "hf_planted",
}


@pytest.mark.parametrize("how", ["file", "environment"])
def test_secrets_reach_the_job_as_the_site_says_and_are_nowhere_else(
    say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """sbatch is a stand-in that writes down its environment, which is what Slurm hands on to the job."""
    for name, value in {**SECRETS, "SLURM_JOB_ID": "1", "SBATCH_TIMELIMIT": "1", "SBATCH_RESERVATION": "mine"}.items():
        monkeypatch.setenv(name, value)
    site = tmp_path / "sites" / "here.yaml"
    site.write_text(
        json.dumps({**json.loads(site.read_text()), "credentials": how, "notify": "CEFR_BATCH_NOTIFY_TEAM"})
    )
    say("srun")
    (tmp_path / "sbatch").write_text(f"#!/bin/sh\nenv > {tmp_path}/sbatch.env\necho 7\n")
    (tmp_path / "sbatch").chmod(0o755)
    scheduler = SlurmScheduler("here")
    request = scheduler.render(JobGroup((JobSpec("run-a", "s3://b/p"),)))
    assert scheduler.submit(request) == ["slurm://e2e/7"]
    given = dict(line.split("=", 1) for line in (tmp_path / "sbatch.env").read_text().splitlines() if "=" in line)
    assert {name: given[name] for name in SECRETS if name in given} == (SECRETS if how == "environment" else {})
    assert given["SBATCH_RESERVATION"] == "mine"
    assert not {"SLURM_JOB_ID", "SBATCH_TIMELIMIT"} & set(given)
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == "planted-key"
    files = [path for path in (tmp_path / "shared").rglob("*") if path.is_file()]
    keys = [path for path in files if path.parent.parent.name == "credentials"]
    assert len(keys) == (how == "file")
    for path in keys:
        assert json.loads(path.read_text()) == SECRETS
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    others = [path for path in files if path not in keys]
    assert len(others) >= 2  # the script and the pickle
    assert not [path for path in others if b"planted" in path.read_bytes()]
    assert "planted" not in scheduler.describe(request)


def files_below(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]


def test_what_a_failed_submission_wrote_is_removed(say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its second script, which Slurm refuses, and of its first, which is cancelled."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-key")
    say("srun")
    refusing_sbatch(tmp_path, "--gres=gpu:2")
    scheduler = SlurmScheduler("here")
    specs = (JobSpec("run-a", "s3://b/p"), JobSpec("run-b", "s3://b/p", gpus=2))
    with pytest.raises(SchedulerError, match="QOSMaxSubmitJobPerUserLimit"):
        scheduler.submit(scheduler.render(JobGroup(specs)))
    assert calls(tmp_path, "scancel") == ["7"]
    assert files_below(tmp_path / "shared") == []


def test_credentials_are_written_where_the_store_needs_them_and_forgotten_with_their_jobs(
    say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = tmp_path / "shared" / "credentials" / "e2e"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-key")
    say("srun")
    say("sbatch", "7")
    scheduler = SlurmScheduler("here")

    def submit(store: str) -> list[Path]:
        scheduler.submit(scheduler.render(JobGroup((JobSpec("run-a", store),))))
        return sorted(keys.glob("*")) if keys.exists() else []

    assert submit(f"file://{tmp_path}/store") == []  # a folder needs no keys
    (first,) = submit("s3://b/p")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "new-key")
    both = submit("s3://b/p")
    assert len(both) == 2
    assert all(json.loads(path.read_text()) == {"AWS_SECRET_ACCESS_KEY": "new-key"} for path in both)
    (second,) = set(both) - {first}
    alive = second.stem.partition("-")[2].partition("_")[0]
    for path in both:
        os.utime(path, (0, 0))
    say("squeue", f"/x/{alive}_submission.sh /x")  # the other was cancelled before it started, or lost its node
    scheduler._forget_old_credentials(client.Slurm(), "e2e")
    assert list(keys.iterdir()) == [second]
    say("squeue", fails="Unable to contact slurm controller")
    scheduler._forget_old_credentials(client.Slurm(), "e2e")
    assert list(keys.iterdir()) == [second]


def refusing_sbatch(folder: Path, what: str) -> None:
    """sbatch takes a first script as job 7, which squeue then shows, and refuses those with ``what`` in command or text."""
    (folder / "sbatch").write_text(
        '#!/bin/bash\nscript=$(printf "%s\\n" "$@" | grep _submission.sh)\n'
        f'if echo "$@" | cat - "$script" | grep -q -e \'{what}\'; then\n'
        f"echo 'sbatch: error: QOSMaxSubmitJobPerUserLimit' >&2; exit 1; fi\n"
        f'echo "7|$script" > {folder}/squeue.txt\necho 7\n'
    )
    (folder / "sbatch").chmod(0o755)


def test_a_refusal_of_sbatch_is_quoted_and_what_was_submitted_before_is_cancelled(say: Say, tmp_path: Path) -> None:
    say("srun")
    refusing_sbatch(tmp_path, "--gres=gpu:2")
    scheduler = SlurmScheduler("here")
    specs = (JobSpec("run-a", "s3://b/p"), JobSpec("run-b", "s3://b/p", gpus=2))
    with pytest.raises(SchedulerError, match=r"Slurm did not accept the job: .*QOSMaxSubmitJobPerUserLimit"):
        scheduler.submit(scheduler.render(JobGroup(specs)))
    assert calls(tmp_path, "scancel") == ["7"]


def test_the_runs_go_ahead_if_only_the_report_is_refused(
    say: Say, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    say("srun")
    refusing_sbatch(tmp_path, "afterany")
    scheduler = SlurmScheduler("here")
    specs = (JobSpec("run-a", "s3://b/p"), JobSpec("run-b", "s3://b/p"))
    handles = scheduler.submit(scheduler.render(JobGroup(specs, "s3://b/p/reports/x")))
    assert handles == ["slurm://e2e/7_0", "slurm://e2e/7_1"]
    assert "no report will be written after the runs: Slurm did not accept the job" in caplog.text
    assert calls(tmp_path, "scancel") == []


def test_the_script_that_is_submitted_is_the_one_that_is_shown(say: Say, tmp_path: Path) -> None:
    say("srun")
    say("sbatch", "7;e2e")
    scheduler = SlurmScheduler("here")
    request = scheduler.render(JobGroup((JobSpec("run-a", "s3://b/p"),)))
    scheduler.submit(request)
    folder = tmp_path / "shared" / "jobs" / "e2e" / request.scripts[0].folder
    assert (folder / "7_submission.sh").read_text() == request.scripts[0].text
    (sent,) = calls(tmp_path, "sbatch")
    shown = scheduler.describe(request).splitlines()[0]
    script = re.search(r"\S+_submission\.sh", sent)
    assert script
    assert shown.replace("CLUSTER", "e2e") == f"$ sbatch {sent.replace(script[0], 'script-1.sh')}"


def submit_one(folder: Path, sbatch: str) -> list[str]:
    """Submit one job where sbatch is a script that sees the path of its job's script as ``$script``."""
    (folder / "sbatch").write_text(
        '#!/bin/bash\nscript=$(printf "%s\\n" "$@" | grep _submission.sh)\n'
        f'echo "$script" > {folder}/script\n{sbatch}\n'
    )
    (folder / "sbatch").chmod(0o755)
    scheduler = SlurmScheduler("here")
    return scheduler.submit(scheduler.render(JobGroup((JobSpec("run-a", "s3://b/p"),))))


def test_a_wrapper_of_sbatch_that_prints_about_other_jobs_does_not_give_them_to_the_run(
    say: Say, tmp_path: Path
) -> None:
    assert submit_one(tmp_path, "echo '1 other job waiting: job 74'; echo 75") == ["slurm://e2e/75"]
    assert calls(tmp_path, "scancel") == []


@pytest.mark.parametrize("printed", ["echo '1 other job waiting: job 74'", ":"], ids=["another job", "nothing"])
def test_an_answer_of_sbatch_without_a_job_id_is_an_error_and_only_the_job_of_this_script_is_cancelled(
    say: Say, tmp_path: Path, printed: str
) -> None:
    (tmp_path / "squeue").write_text(
        f'#!/bin/sh\necho "74|/other/script.sh"\necho "75|$(cat {tmp_path}/script)"\necho "76|$(cat {tmp_path}/script).sh"\n'
    )
    with pytest.raises(
        SchedulerError, match=r"should print a job id last.*the job that it submitted \(75\) was cancelled"
    ):
        submit_one(tmp_path, printed)
    assert calls(tmp_path, "scancel") == ["75"]
    assert files_below(tmp_path / "shared") == []


def test_an_answer_without_a_job_id_where_nothing_was_submitted_or_slurm_is_down(say: Say, tmp_path: Path) -> None:
    say("squeue", "74|/other/script.sh")
    with pytest.raises(SchedulerError, match="it submitted no job"):
        submit_one(tmp_path, "echo 'have a nice day'")
    say("squeue", fails="Unable to contact slurm controller")
    with pytest.raises(
        SchedulerError, match=r"whether it submitted a job is not known .*Unable to contact.*look for /"
    ):
        submit_one(tmp_path, "echo 'have a nice day'")
    assert calls(tmp_path, "scancel") == []


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between two looks at the queue, which are not made."""
    pauses: list[float] = []
    monkeypatch.setattr(client, "sleep", pauses.append)
    return pauses


LATE = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"


@pytest.mark.parametrize(
    ("fails", "message"),
    [
        (f"echo '{LATE}' >&2; exit 1", "Socket timed out on send/recv operation"),
        ("exec sleep 60", r"got no answer from the Slurm controller in 0\.5 s"),
        ("echo 'wrapper: mail could not be sent' >&2; exit 3", "mail could not be sent"),
    ],
    ids=["sbatch gave up", "no answer", "a wrapper failed afterwards"],
)
def test_a_job_that_was_submitted_though_sbatch_failed_is_taken_back(
    say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pauses: list[float], fails: str, message: str
) -> None:
    """squeue shows the user's own job 74 too, which has the run's name."""
    monkeypatch.setattr(client, "_TIMEOUT_SECONDS", 0.5)
    entries = f'echo "74|/home/me/train.sh" > {tmp_path}/squeue.txt; echo "75|$script" >> {tmp_path}/squeue.txt'
    with pytest.raises(SchedulerError, match=rf"{message}.*the job that it submitted \(75\) was cancelled"):
        submit_one(tmp_path, f"{entries}; {fails}")
    assert calls(tmp_path, "scancel") == ["75"]


def test_a_job_that_the_controller_takes_after_sbatch_has_given_up_is_taken_back(
    say: Say, tmp_path: Path, no_pauses: list[float]
) -> None:
    (tmp_path / "squeue").write_text(
        f"#!/bin/sh\necho x >> {tmp_path}/looks; [ $(wc -l < {tmp_path}/looks) -lt 3 ] && exit\n"
        f'echo "75|$(cat {tmp_path}/script)"\n'
    )
    with pytest.raises(SchedulerError, match=r"\(75\) was cancelled"):
        submit_one(tmp_path, f"echo '{LATE}' >&2; exit 1")
    assert calls(tmp_path, "scancel") == ["75"]
    assert len(no_pauses) == 2


def test_a_refusal_is_quoted_alone(say: Say, tmp_path: Path, no_pauses: list[float]) -> None:
    with pytest.raises(SchedulerError) as caught:
        submit_one(tmp_path, "echo 'sbatch: error: invalid account' >&2; exit 1")
    assert str(caught.value) == "Slurm did not accept the job: sbatch: invalid account"
    assert not no_pauses


def test_a_job_of_another_cluster_that_sbatch_names_has_its_cluster_in_the_handle(say: Say, tmp_path: Path) -> None:
    assert submit_one(tmp_path, "echo '75;west'") == ["slurm://west/75"]


def test_a_folder_that_cannot_be_written_is_an_error_before_anything_is_submitted(say: Say, tmp_path: Path) -> None:
    (tmp_path / "shared").write_text("a file where the folder should be")
    with pytest.raises(SchedulerError, match=r"cannot write to .*shared/jobs/e2e/.*: .*set `shared` in the site file"):
        submit_one(tmp_path, "echo 7")
    assert not (tmp_path / "script").exists()


PARTITIONS = (
    "PartitionName=gpu Default=YES MaxTime=04:00:00 State=UP TRES=cpu=8",
    "PartitionName=old Default=NO MaxTime=UNLIMITED State=DOWN",
)


def write_cluster(say: Say, tmp_path: Path, **site: object) -> None:
    """A site on a cluster of two nodes. The same stand-in answers `scontrol show` of both kinds."""
    for name in ("sbatch", "srun"):
        say(name)
    say("scontrol", "ClusterName = e2e", "MaxArraySize = 1001", *PARTITIONS)
    (tmp_path / "sinfo").write_text(
        "#!/bin/sh\ncase $* in *--version*) echo slurm 24.11.5;; *%R*) echo gpu; echo old;;\n"
        "*) echo 'far1|16|64000|gpu:rtx4090:2(S:0-1)|ampere,ib'; echo 'far2|16|32000+|(null)|(null)';; esac\n"
    )
    (tmp_path / "sinfo").chmod(0o755)
    base = {"extends": "default", "shared": str(tmp_path / "shared"), "time": "01:00:00", "check_gpu": False}
    (tmp_path / "sites" / "here.yaml").write_text(json.dumps({**base, **site}))


def problems(say: Say, tmp_path: Path, backend: str = "peft", **site: object) -> list[str]:
    """What is wrong with a site on that cluster."""
    write_cluster(say, tmp_path, **site)
    checks = SlurmScheduler("here").check([backend], "s3://b/p")
    assert all(check.what for check in checks)
    return [check.problem for check in checks if check.problem]


def test_a_valid_site_has_no_problem_but_that_its_folder_may_not_be_shared(say: Say, tmp_path: Path) -> None:
    (only,) = problems(say, tmp_path)
    assert "is on a local disk of this machine" in only or "use a shared file system" in only


def test_every_problem_of_a_site_is_reported_at_once(say: Say, tmp_path: Path) -> None:
    found = problems(
        say,
        tmp_path,
        time="08:00:00",
        cpus=64,
        memory="1T",
        gres="gpu:h100:1",
        constraint="hopper&ib&80gb*2",
        python=str(tmp_path / "no-python"),
        container={"runtime": "apptainer", "image": "/no/such.sif"},
    )
    text = "\n".join(found)
    for expected in (
        "time: 08:00:00 is more than the partition gpu allows (04:00:00)",
        "cpus: 64 are more than any node of gpu has (16)",
        "memory: 1048576 MB are more than any node of gpu has (64000 MB)",
        "gres: no node of gpu has gpu:h100:1; its nodes have: gpu:rtx4090:2",
        "constraint: no node of gpu has 80gb, hopper; features of its nodes: ampere, ib",
        "container.image: there is no /no/such.sif",
        "no-python does not exist on this machine, so it could not be checked; the nodes must have it",
    ):
        assert expected in text, text
    assert all("here.yaml" in problem for problem in found)


def test_settings_that_cannot_be_used_do_not_hide_what_the_cluster_says(
    say: Say, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An unknown key, broken rules, a wrong partition, and an account that only gives a warning: all in one go."""
    write_cluster(
        say, tmp_path, partitoin="gpu", time="00:02:00", options=["--array=1"], partition="gpus", account="his"
    )
    say("sacctmgr", "mine")
    scheduler, store = SlurmScheduler("here"), LocalStore(tmp_path / "store")
    expected = (
        "partitoin: unknown key (did you mean partition?)",
        "time: 00:02:00 leaves no time to train",
        "options: --array=1: set by cefr-batch itself",
        "partition: there is no 'gpus'",
    )
    shown = [check.problem for check in Session(store).check(scheduler)]
    for check in (*expected, "account: his is not one of yours"):
        assert sum(check in one for one in shown) == 1, shown
    for dry_run in (False, True):
        caplog.clear()
        with pytest.raises(NotReady) as caught:
            prepare([], scheduler=scheduler, store=store, dry_run=dry_run)
        text = str(caught.value)
        assert [one for one in expected[:3] if text.count(one) != 1] == []
        assert ("there is no 'gpus'" in text) != dry_run
        assert caplog.text.count("account: his is not one of yours") == 1, "warnings are shown beside problems, once"


def test_where_a_value_cannot_be_used_the_other_settings_are_checked_and_the_cluster_is_not_asked(
    say: Say, tmp_path: Path
) -> None:
    write_cluster(say, tmp_path, memory=32, time="00:02:00")
    scheduler = SlurmScheduler("here")
    (only,) = scheduler.check(["peft"], "s3://b/p")
    assert only.problem == "slurm/here.yaml has a value that cannot be used, so the cluster was not asked"
    assert only.warning
    store = LocalStore(tmp_path / "store")
    shown = "\n".join(check.problem for check in Session(store).check(scheduler))
    assert "memory: must be text in quotes" in shown
    assert "time: 00:02:00 leaves no time" in shown
    with pytest.raises(SpecError):
        scheduler.render(JobGroup((JobSpec("r", "s3://b/p"),)))


def test_a_shared_folder_in_a_clone_is_refused_with_force_too(say: Say, tmp_path: Path) -> None:
    for name in (".git", "cefr_batch"):
        (tmp_path / "clone" / name).mkdir(parents=True)
    for folder, lies in (("clone", "is"), ("clone/jobs", f"lies in {tmp_path}/clone,")):
        write_cluster(say, tmp_path, shared=str(tmp_path / folder))
        forced = Findings()
        forced.add(SlurmScheduler("here").check(["peft"], "s3://b/p"), force=True)
        (problem,) = map(str, forced.problems)
        assert f"shared: {tmp_path}/{folder} {lies} a clone of cefr-batch, and jobs would write" in problem
        assert "--force" not in problem


def test_rules_of_a_host_and_of_a_container_leave_the_other_checks(say: Say, tmp_path: Path) -> None:
    text = "\n".join(problems(say, tmp_path, partition="gpus", container={"runtime": "apptainer"}))
    assert "there is no 'gpus'" in text
    assert "there is no None" not in text


def test_a_python_that_cannot_train_or_start_a_job_is_reported_before_anything_is_submitted(
    say: Say, tmp_path: Path
) -> None:
    text = "\n".join(problems(say, tmp_path, backend="no_such_backend"))
    assert f"python: {sys.executable} has no no_such_backend, which training with no_such_backend needs" in text
    image = tmp_path / "image.sif"
    image.touch()
    inside = problems(say, tmp_path, backend="no_such_backend", container={"runtime": "apptainer", "image": str(image)})
    assert not any("no_such_backend" in one for one in inside)
    folder = "\n".join(problems(say, tmp_path, python=str(tmp_path)))
    assert f"python: {tmp_path} cannot start a job ([Errno 13] Permission denied" in folder


def test_an_image_without_unsloth_is_told_before_a_job_finds_out(say: Say, tmp_path: Path) -> None:
    def of_backend(image: str, backend: str = "unsloth", **site: object) -> list[Check]:
        container = {"runtime": "apptainer", "image": image}
        write_cluster(say, tmp_path, container=container, **site)
        return [one for one in SlurmScheduler("here").check([backend], "s3://b/p") if one.what == "backend unsloth"]

    (by_name,) = of_backend("docker://registry.example.org/cefr-batch:1-cpu")
    assert by_name.refuses
    assert by_name.opinion
    assert by_name.problem.startswith(
        "slurm/here.yaml: container.image: docker://registry.example.org/cefr-batch:1-cpu has the name"
    )
    assert of_backend("docker://registry.example.org/cefr-batch:1-cpu", "peft") == []
    (without_gpu,) = of_backend("docker://registry.example.org/cpus/cefr-batch:1", gres=None)
    assert without_gpu.warning
    assert "jobs get no GPU and would train with Unsloth" in without_gpu.problem
    assert of_backend("docker://registry.example.org/cpus/cefr-batch:1", gres=None, options=["--gpus=1"]) == []
    write_cluster(say, tmp_path, gres=None)
    assert SlurmScheduler("here").check_settings(["unsloth"]) == [], "without a container the Python itself is asked"


@pytest.mark.skipif("+cpu" not in version("torch"), reason="this Python's torch can use a GPU")
def test_a_torch_without_cuda_is_reported_before_a_job_waits_for_a_gpu(say: Say, tmp_path: Path) -> None:
    assert any("which cannot use a GPU; use an" in one for one in problems(say, tmp_path, check_gpu=True))
    without = problems(say, tmp_path, check_gpu=True, gres=None, gpu=None)
    image = tmp_path / "image.sif"
    image.touch()
    inside = problems(say, tmp_path, check_gpu=True, container={"runtime": "apptainer", "image": str(image)})
    assert not any("cannot use a GPU" in one for one in (*without, *inside))


def test_a_partition_that_does_not_exist_or_is_down_is_reported(say: Say, tmp_path: Path) -> None:
    assert any("there is no 'gpus'; valid: gpu, old" in one for one in problems(say, tmp_path, partition="gpus"))
    assert any("partition old is DOWN" in one for one in problems(say, tmp_path, partition="old"))


def found(say: Say, tmp_path: Path, test_only: str = "", **site: object) -> list[Check]:
    """The checks of a site on that cluster that are not well, but for its folder, which is this machine's. Its Python is a
    stand-in. ``test_only``: why sbatch refuses now."""
    python = tmp_path / "python"
    own = json.dumps({"python": f"{sys.version_info[0]}.{sys.version_info[1]}"})
    python.write_text(f"#!/bin/sh\necho '{own}'\n")
    python.chmod(0o755)
    write_cluster(say, tmp_path, **{"python": str(python), **site})
    say("sbatch", fails=test_only)
    checks = SlurmScheduler("here").check(["peft"], "s3://b/p")
    return [check for check in checks if check.problem and not check.what.startswith("folder")]


def test_each_of_several_partitions_is_checked(say: Say, tmp_path: Path) -> None:
    """A job runs where it can: what is wrong in one partition is a warning, what is wrong in all of them a refusal."""
    (only,) = found(say, tmp_path, partition="gpu,old")
    assert "partition old is DOWN" in only.problem
    assert not only.refuses
    too_long = found(say, tmp_path, partition="old,gpu", time="08:00:00")
    assert ["the partition gpu allows" in one.problem for one in too_long] == [False, True]
    assert [one.refuses for one in too_long] == [True, True]
    missing = found(say, tmp_path, partition="gpu,nowhere")
    assert ["there is no 'nowhere'" in one.problem for one in missing] == [True]
    assert missing[0].refuses


def test_options_that_choose_the_partition_or_nodes_are_what_is_checked(say: Say, tmp_path: Path) -> None:
    (down,) = found(say, tmp_path, partition="gpu", options=["--partition=old"])
    assert "partition old is DOWN" in down.problem
    assert found(say, tmp_path, options=["--nodelist=far[1-2]"]) == []
    (tmp_path / "sinfo").write_text(
        '#!/bin/sh\necho "$@" >> "$0.calls"\ncase $* in *--version*) echo slurm 24.11.5;; *--nodes=far2*) ;;\n'
        "*) echo 'far1|16|64000|gpu:2|x';; esac\n"
    )
    site = tmp_path / "sites" / "here.yaml"
    site.write_text(json.dumps({**json.loads(site.read_text()), "options": ["--nodelist=far2"]}))
    (tmp_path / "sinfo").chmod(0o755)
    told = [one.problem for one in SlurmScheduler("here").check(["peft"], "s3://b/p") if one.refuses]
    assert any("sinfo shows no node of gpu in far2" in one for one in told), told


@pytest.mark.parametrize(
    ("site", "text"),
    [
        ({"gres": "gres:gpu:rtx4090:3"}, "gres: no node of gpu has gres:gpu:rtx4090:3; its nodes have: gpu:rtx4090:2"),
        ({"gres": "gpu:1,shard:2"}, "gres: no node of gpu has gpu:1,shard:2"),
        ({"gres": None, "options": ["--gpus=h100:1"]}, "options: no node of gpu has --gpus=h100:1"),
        ({"gres": None, "options": ["--gpus-per-task=4"]}, "options: no node of gpu has --gpus-per-task=4"),
        ({"gres": "gpu:a:b:c"}, "gres gpu:a:b:c cannot be read ('gpu:a:b:c' is not name[[:type]:count])"),
        ({"gres": "gpu:rtx4090:1", "gpu": "a100"}, "gpu: a100 is not the GPU that jobs request (rtx4090)"),
        ({"mem_per_cpu": "32G"}, "mem_per_cpu x cpus: 262144 MB are more than any node of gpu has"),
    ],
)
def test_gpus_and_memory_in_every_form_are_compared_with_the_nodes(
    say: Say, tmp_path: Path, site: dict[str, Any], text: str
) -> None:
    (only,) = found(say, tmp_path, **site)
    assert text in only.problem


@pytest.mark.parametrize(
    ("site", "text"),
    [
        ({"qos": "short"}, "time: 01:00:00 is more than the QOS short allows (1800 s), so jobs would never start"),
        ({"options": ["--qos=short"]}, "the QOS short allows"),
        ({"qos": "long"}, ""),
        ({"array_size": 2000}, "array_size: the cluster takes arrays of up to 1001 jobs; set array_size: 1001"),
    ],
)
def test_limits_of_the_qos_and_of_arrays_are_told_before_submitting(
    say: Say, tmp_path: Path, site: dict[str, Any], text: str
) -> None:
    say("sacctmgr", "normal|", "short|00:30:00", "long|2-00:00:00")
    told = found(say, tmp_path, **site)
    assert [text in one.problem for one in told] == [True] * bool(text)


def test_an_account_that_is_not_the_users_is_a_warning(say: Say, tmp_path: Path) -> None:
    say("sacctmgr", "linguists", "teachers", "linguists")
    (only,) = found(say, tmp_path, account="nobody")
    assert "account: nobody is not one of yours, which are linguists, teachers (sacctmgr)" in only.problem
    assert only.warning
    assert found(say, tmp_path, account="teachers") == []
    say("sacctmgr", fails="Connection refused")
    assert found(say, tmp_path, account="nobody") == []


def test_without_accounting_the_qos_is_not_checked(say: Say, tmp_path: Path) -> None:
    say("sacctmgr", fails="Connection refused")
    assert found(say, tmp_path, qos="short") == []


@pytest.mark.parametrize("site", [{"cpus": None, "memory": None}, {"gpu": "a100-80gb", "gres": None}])
def test_what_the_cluster_decides_is_not_compared(say: Say, tmp_path: Path, site: dict[str, Any]) -> None:
    assert found(say, tmp_path, **site) == []


@pytest.mark.parametrize(
    "answer",
    [
        "allocation failure: Requested node configuration is not available",
        "allocation failure: Required node not available (down, drained or reserved)",
        "allocation failure: Requested nodes are busy",
        "allocation failure: Requested partition configuration not available now",
    ],
)
def test_what_slurm_could_not_start_now_it_would_queue_so_that_is_a_warning(
    say: Say, tmp_path: Path, answer: str
) -> None:
    (only,) = found(say, tmp_path, answer)
    assert f"Slurm could not start the job now (sbatch: {answer}); it waits until that changes" in only.problem
    assert only.warning


def test_a_setup_that_bash_cannot_read_is_told_before_anything_is_submitted(say: Say, tmp_path: Path) -> None:
    (only,) = found(say, tmp_path, setup=["module load cuda", "if true; then", "fi"])
    assert "here.yaml: setup: bash cannot read it (line " in only.problem
    assert "each line must be a complete command" in only.problem
    assert only.refuses
    assert found(say, tmp_path, setup=["if true; then", "true; fi"], setup_errors="ignore") == []


def test_what_a_job_said_of_its_end_is_found_in_what_it_printed(say: Say, tmp_path: Path) -> None:
    said = "cefr-batch: stopped: setup: module load cuda (exit code 1)\nslurmstepd: error: something\n"
    printed(tmp_path, "run-a", "7", said)
    scheduler = SlurmScheduler("here")
    assert scheduler.last_words(JOBS[0], STORE) == "setup: module load cuda (exit code 1)"
    assert scheduler.last_words(JOBS[1], STORE) == ""


def test_force_overrides_what_is_an_opinion_and_nothing_else(say: Say, tmp_path: Path) -> None:
    checks = found(say, tmp_path, time="08:00:00", gres="gpu:h100:1", python=str(tmp_path))
    refused, forced = Findings(), Findings()
    refused.add(checks)
    forced.add(checks, force=True)
    assert len(refused.problems) == 3
    assert sum("(--force submits it anyway)" in str(one) for one in refused.problems) == 2
    assert [str(one) for one in forced.problems] == [one.problem for one in checks if "python" in one.what]
    assert len(forced.warnings) == 2
    (account,) = found(say, tmp_path, "Batch job submission failed: Invalid account or account/partition combination")
    assert account.refuses
    assert account.opinion


def test_without_slurm_the_check_says_so_once(say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    checks = SlurmScheduler("here").check(["peft"], "s3://b/p")
    assert "there is no sbatch, srun, squeue, scancel, scontrol, sinfo here" in checks[0].problem
