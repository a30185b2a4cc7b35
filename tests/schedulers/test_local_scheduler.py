"""Local jobs: in order, one at a time, detached from whoever started them."""

from __future__ import annotations

import errno
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from support.stand_in import StandInLauncher, started, until

from cefr_batch.errors import SchedulerError
from cefr_batch.schedulers import Job, JobGroup, JobSpec, State
from cefr_batch.schedulers.local.queue import QueueSlot, jobs_ahead
from cefr_batch.schedulers.local.scheduler import LocalRequest, LocalScheduler
from cefr_batch.store.local import LocalStore

HOST = socket.gethostname()
scheduler = StandInLauncher()


def submit(store: LocalStore, *runs: str) -> list[Job]:
    handles = scheduler.submit(scheduler.render(JobGroup(tuple(JobSpec(run, store.url) for run in runs))))
    return [Job(run, handle) for run, handle in zip(runs, handles, strict=True)]


def pid_of(job: Job) -> int:
    return int(job.handle.rpartition("/")[2])


def state_of(job: Job) -> State:
    return scheduler.observe([job])[job].state


def has_started(folder: Path, count: int) -> Callable[[], bool]:
    return lambda: len(started(folder)) == count


def waits_for(job: Job, others: str) -> Callable[[], bool]:
    return lambda: scheduler.observe([job])[job].reason == f"waiting for {others} before it"


def is_gone(job: Job) -> Callable[[], bool]:
    return lambda: state_of(job).finished


@pytest.mark.slow
def test_three_jobs_run_one_at_a_time_in_the_order_of_their_submission(store: LocalStore, folder: Path) -> None:
    jobs = submit(store, "run-a", "run-b", "run-c")
    for count, job in enumerate(jobs, 1):
        until(has_started(folder, count))
        observed = scheduler.observe(jobs)
        assert observed[job].state is State.RUNNING
        for before, later in enumerate(jobs[count:], 1):
            assert observed[later].state is State.PENDING
            assert observed[later].reason == f"waiting for {before} job{'s' * (before > 1)} before it"
        (folder / f"{job.run}.finish").touch()
    until(is_gone(jobs[-1]))
    assert started(folder) == ["run-a", "run-b", "run-c"]


def test_a_killed_waiting_job_and_a_killed_running_job_both_leave_the_queue(store: LocalStore, folder: Path) -> None:
    first, second, third, fourth = submit(store, "run-a", "run-b", "run-c", "run-d")
    until(lambda: started(folder) == ["run-a"])
    until(waits_for(third, "2 jobs"))
    os.kill(pid_of(second), signal.SIGKILL)
    until(is_gone(second))
    until(waits_for(third, "1 job"))
    os.kill(pid_of(first), signal.SIGKILL)
    until(lambda: started(folder) == ["run-a", "run-c"])
    assert state_of(third) is State.RUNNING
    until(waits_for(fourth, "1 job"))


def test_a_job_submitted_later_waits_although_the_queue_was_cleaned_up_meanwhile(
    store: LocalStore, folder: Path
) -> None:
    first, second = submit(store, "run-a", "run-b")
    (folder / "run-a.finish").touch()
    until(lambda: started(folder) == ["run-a", "run-b"])
    (third,) = submit(store, "run-c")
    until(lambda: state_of(third) is State.PENDING)
    (folder / "run-b.finish").touch()
    until(lambda: started(folder) == ["run-a", "run-b", "run-c"])
    assert is_gone(first)()
    assert is_gone(second)()


def test_a_slot_whose_process_died_blocks_nobody() -> None:
    code = "from cefr_batch.schedulers.local.queue import QueueSlot; print(QueueSlot.take().path)"
    dead = Path(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip())
    assert dead.exists()
    with QueueSlot.take().turn():
        assert not dead.exists()


def test_a_slot_whose_owner_s_process_id_now_belongs_to_another_process_blocks_nobody() -> None:
    recycled = QueueSlot.take()
    record = json.loads(recycled.path.read_text())
    recycled.path.write_text(json.dumps({**record, "started": record["started"] - 3600}))
    with QueueSlot.take().turn():
        assert jobs_ahead() == {os.getpid(): 0}


def test_a_slot_assigned_to_a_process_that_has_ended_already_blocks_nobody() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    QueueSlot.take().assign(ended.pid)
    assert jobs_ahead() == {}


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"pid": "x"}', "\x00"])
def test_a_damaged_slot_blocks_nobody(content: str) -> None:
    damaged = QueueSlot.take()
    damaged.path.write_text(content)
    with QueueSlot.take().turn():
        assert jobs_ahead() == {os.getpid(): 0}


def test_a_slot_taken_after_the_clock_was_set_back_is_still_behind_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    first = QueueSlot.take()
    monkeypatch.setattr("time.time_ns", lambda: 1)
    assert QueueSlot.take().path.name > first.path.name


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP], ids=["NFS", "Lustre", "FUSE"])
def test_a_queue_on_a_file_system_without_locks_keeps_the_order_and_says_what_to_do(
    store: LocalStore, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    """``flock`` is a stand-in that fails as the kernel does there."""

    def flock(file: object, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    (before,) = submit(store, "run-a")
    slot = QueueSlot.take()
    assert jobs_ahead()[os.getpid()] == 1
    (folder / "run-a.finish").touch()
    with slot.turn():
        assert is_gone(before)()
    assert "set CEFR_BATCH_CACHE to a folder on a local disk" in caplog.text
    (check,) = [one for one in LocalScheduler().check([], "file:///store") if one.what == "locks of the queue"]
    assert check.warning
    assert "set CEFR_BATCH_CACHE to a folder on a local disk" in check.problem


def test_a_job_survives_the_hang_up_of_the_terminal_it_was_started_from(store: LocalStore, folder: Path) -> None:
    code = textwrap.dedent(
        f"""
        import fcntl, sys, termios, time
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        sys.path.insert(0, {str(Path(__file__).parents[1])!r})
        from support.stand_in import StandInLauncher
        from cefr_batch.schedulers import JobGroup, JobSpec
        scheduler = StandInLauncher()
        print(*scheduler.submit(scheduler.render(JobGroup((JobSpec("run-a", {store.url!r}),)))), flush=True)
        time.sleep(60)
        """
    )
    terminal, end = pty.openpty()
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdin=end, stdout=end, stderr=end, start_new_session=True, close_fds=True
    )
    os.close(end)
    job = Job("run-a", os.read(terminal, 1000).decode().strip())
    until(lambda: started(folder) == ["run-a"])
    os.close(terminal)
    assert parent.wait(20) == -signal.SIGHUP
    assert state_of(job) is State.RUNNING
    process = psutil.Process(pid_of(job))
    assert os.getsid(process.pid) == process.pid
    assert process.terminal() is None
    (folder / "run-a.finish").touch()
    until(lambda: store.exists("runs/run-a/manifest.json"))


def test_a_job_that_ends_leaves_no_zombie_in_a_submitter_that_lives_on(store: LocalStore, folder: Path) -> None:
    (job,) = submit(store, "run-a")
    until(lambda: started(folder) == ["run-a"])
    os.kill(pid_of(job), signal.SIGKILL)
    until(is_gone(job))
    until(lambda: not psutil.pid_exists(pid_of(job)))


def test_a_process_id_that_now_belongs_to_another_process_is_neither_seen_as_the_job_nor_stopped() -> None:
    innocent = subprocess.Popen(["sleep", "60"])
    try:
        job = Job("run-a", f"local://{HOST}/{innocent.pid}")
        assert scheduler.observe([job])[job].state is State.FAILED
        scheduler.cancel([job], "file:///store")
        time.sleep(0.1)
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()


def test_cancel_lets_a_running_job_store_its_checkpoint_and_may_be_repeated(store: LocalStore, folder: Path) -> None:
    (job,) = submit(store, "run-a")
    until(lambda: started(folder) == ["run-a"])
    scheduler.cancel([job], store.url)
    until(is_gone(job))
    assert store.get_json("runs/run-a/status.json")["state"] == "PREEMPTED"
    scheduler.cancel([job], store.url)


def test_a_job_is_stopped_under_another_name_of_its_store(store: LocalStore, folder: Path, tmp_path: Path) -> None:
    (job,) = submit(store, "run-a")
    until(lambda: started(folder) == ["run-a"])
    (tmp_path / "alias").symlink_to(store.root)
    scheduler.cancel([job], (tmp_path / "alias").as_uri())
    until(is_gone(job))


def test_a_job_of_another_store_is_not_stopped(store: LocalStore, folder: Path) -> None:
    """Two stores may have runs of one name, and a process id is given again."""
    (job,) = submit(store, "run-a")
    until(lambda: started(folder) == ["run-a"])
    scheduler.cancel([job], f"{store.url}-2")
    time.sleep(0.2)
    assert state_of(job) is State.RUNNING


def test_cancel_ends_a_waiting_job_at_once(store: LocalStore, folder: Path) -> None:
    first, second = submit(store, "run-a", "run-b")
    until(lambda: started(folder) == ["run-a"])
    until(lambda: state_of(second) is State.PENDING)
    scheduler.cancel([second], store.url)
    until(is_gone(second), seconds=5)
    assert state_of(first) is State.RUNNING
    assert started(folder) == ["run-a"]


def test_a_job_of_another_machine_is_unknown_here_and_cannot_be_cancelled_here() -> None:
    job = Job("run-a", "local://elsewhere/1")
    seen = scheduler.observe([job])[job]
    assert seen.state is State.UNKNOWN
    assert "elsewhere" in seen.reason
    with pytest.raises(SchedulerError, match="elsewhere"):
        scheduler.cancel([job], "file:///store")


def test_jobs_of_which_one_is_elsewhere_are_all_left_alone(store: LocalStore, folder: Path) -> None:
    (here,) = submit(store, "run-a")
    until(has_started(folder, 1))
    with pytest.raises(SchedulerError, match="run-b runs on elsewhere"):
        scheduler.cancel([here, Job("run-b", "local://elsewhere/1")], store.url)
    assert state_of(here) is State.RUNNING


def test_jobs_of_which_one_is_another_user_s_are_all_left_alone(
    store: LocalStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's answer stands in for another user."""
    mine, theirs = submit(store, "run-a", "run-b")
    until(lambda: started(folder) == ["run-a"])
    until(lambda: state_of(theirs) is State.PENDING)
    kill = os.kill

    def refuse(pid: int, number: int) -> None:
        if pid == pid_of(theirs):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        kill(pid, number)

    with monkeypatch.context() as patch:
        patch.setattr(os, "kill", refuse)
        with pytest.raises(SchedulerError, match=r"run-b .* belongs to another user"):
            scheduler.cancel([mine, theirs], store.url)
    time.sleep(0.2)
    assert state_of(mine) is State.RUNNING


def test_a_command_that_cannot_be_started_leaves_nothing_in_the_queue(store: LocalStore) -> None:
    class Broken(LocalScheduler):
        def process(self, spec: JobSpec) -> LocalRequest:
            return replace(super().process(spec), command=("/no/such/program", spec.run))

    broken = Broken()
    with pytest.raises(SchedulerError, match="cannot start /no/such/program run-a"):
        broken.submit(broken.render(JobGroup((JobSpec("run-a", store.url),))))
    assert jobs_ahead() == {}


def test_the_rendered_request_is_the_command_that_is_started_and_rendering_writes_nothing(
    store: LocalStore, tmp_path: Path
) -> None:
    real = LocalScheduler()
    (request,) = real.render(JobGroup((JobSpec("run-a", store.url),)))
    assert request.command[1:5] == ("-m", "cefr_batch", "run-job", "run-a")
    assert request.command[0] == sys.executable
    text = real.describe((request,))
    assert " ".join(request.command) in text
    assert str(request.log) in text
    assert not any(tmp_path.iterdir())


def test_check_names_what_is_missing_and_what_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = LocalScheduler()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CEFR_BATCH_WORK", str(tmp_path / "file" / "work"))
    problems = [check.problem for check in real.check(["no_such_backend"], "file:///store")]
    assert any("no_such_backend" in problem and sys.executable in problem for problem in problems)
    assert any(str(tmp_path / "file" / "work") in problem for problem in problems)
    assert "no_such_backend" not in real.backends()
