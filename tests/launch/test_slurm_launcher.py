"""The launcher's side: what it makes of Slurm's answers, of its keys, and of a site that is not well. Slurm's commands
are stand-ins here (tests/e2e/test_slurm.py has the real ones)."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cefr_batch.errors import LaunchError
from cefr_batch.launch import Batch, Job, JobOrder, State
from cefr_batch.launch.slurm import client
from cefr_batch.launch.slurm import launcher as module
from cefr_batch.launch.slurm.launcher import SlurmLauncher

SITES = Path(__file__).parents[2] / "slurm"
JOBS = [Job("run-a", "slurm://e2e/7"), Job("run-b", "slurm://e2e/8_0"), Job("run-c", "slurm://e2e/8_1")]
Say = Callable[..., None]


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Say:
    """Makes a stand-in of one of Slurm's commands: what it prints, or how it fails. Each call is written down."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr(module, "_last", None)
    client.cluster_name.cache_clear()
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


def observed(*jobs: Job) -> list[tuple[State, str]]:
    found = SlurmLauncher("here").observe(jobs or JOBS)
    return [(found[job].state, found[job].reason) for job in jobs or JOBS]


def test_one_sacct_for_all_runs_and_one_squeue_for_those_that_have_not_ended(say: Say, tmp_path: Path) -> None:
    say("sacct", "7|COMPLETED|0:0|00:01:00|n1|None", "8_0|RUNNING|0:0|00:00:10|n2|None", "8_[1]|PENDING|0:0|0|None|x")
    say("squeue", "8_0|RUNNING|0:11|n2|None", "8_1|PENDING|0:00||Resources")
    assert observed() == [
        (State.SUCCEEDED, "COMPLETED in Slurm on n1 after 00:01:00"),
        (State.RUNNING, "RUNNING in Slurm on n2 for 0:11"),
        (State.PENDING, "PENDING in Slurm (Resources)"),
    ]
    observed()  # again at once: whoever watches does not ask every second
    assert [line.split("--jobs=")[1] for line in calls(tmp_path, "sacct")] == ["7,8"]
    assert [line.split("--jobs=")[1].split()[0] for line in calls(tmp_path, "squeue")] == ["8"]


@pytest.mark.parametrize("fails", ["Slurm accounting storage is disabled", "Connection refused"])
def test_without_accounting_the_queue_is_right(say: Say, fails: str) -> None:
    say("sacct", fails=fails)
    say("squeue", "7|FAILED|0:10|n1|NonZeroExitCode", "8_0|RUNNING|0:11|n2|None")
    states = [state for state, _ in observed()]
    assert states == [State.FAILED, State.RUNNING, State.UNKNOWN]


def test_accounting_that_prints_nonsense_is_passed_over(say: Say) -> None:
    say("sacct", "slurmdbd: something", "||||||", "7|RUNNING")
    say("squeue", "7|RUNNING|0:10|n1|None")
    assert observed(JOBS[0])[0][0] is State.RUNNING


def test_when_neither_answers_the_error_names_both(say: Say) -> None:
    say("sacct", fails="Connection refused")
    say("squeue", fails="Unable to contact slurm controller")
    with pytest.raises(LaunchError, match=r"Unable to contact slurm controller; and sacct: Connection refused"):
        observed()


def test_a_preempted_job_is_not_finished_while_the_queue_does_not_answer(say: Say) -> None:
    say("sacct", "7|PREEMPTED|0:0|00:00:22|n1|None")
    say("squeue", fails="Unable to contact slurm controller")
    assert observed(JOBS[0])[0][0] is State.UNKNOWN


def test_a_job_that_only_accounting_takes_for_running_is_unknown(say: Say) -> None:
    """As after a controller that died before it had saved a new job: its record in accounting never ends."""
    say("sacct", "7|RUNNING|0:0|00:00:22|n1|None")
    assert observed(JOBS[0])[0][0] is State.UNKNOWN


def test_a_handle_that_is_none_does_not_hide_the_others(say: Say) -> None:
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
        ("OUT_OF_MEMORY|0:125|00:01:00|n1", State.FAILED, "its memory ran out; raise `memory`"),
        ("TIMEOUT|0:0|00:01:00|n1", State.FAILED, "its time limit before it had stored a checkpoint"),
        ("NODE_FAIL|0:0|00:01:00|n1", State.FAILED, "its node failed, and Slurm did not requeue it"),
        ("PREEMPTED|0:0|00:01:00|n1", State.PREEMPTED, "Slurm did not requeue it"),
        ("FAILED|3:0|00:01:00|n1", State.FAILED, "FAILED in Slurm with exit code 3:0 on n1 after 00:01:00"),
        ("CANCELLED by 1000|0:0|00:01:00|n1", State.CANCELLED, "CANCELLED in Slurm on n1"),
        ("BRAND_NEW|0:0|00:01:00|n1", State.UNKNOWN, "BRAND_NEW in Slurm"),
    ],
)
def test_a_job_that_died_says_why(say: Say, line: str, state: State, text: str) -> None:
    say("sacct", f"7|{line}|None")
    ((found, reason),) = observed(JOBS[0])
    assert found is state
    assert text in reason


def test_a_job_of_another_cluster_is_unknown_and_cannot_be_cancelled_here(say: Say) -> None:
    other = Job("run-x", "slurm://elsewhere/9")
    ((state, reason),) = observed(other)
    assert (state, "cluster elsewhere" in reason) == (State.UNKNOWN, True)
    with pytest.raises(LaunchError, match="cancel it from a machine of that cluster"):
        SlurmLauncher("here").cancel([other])


def test_cancel_takes_waiting_jobs_out_and_asks_running_ones_in_two_calls_for_all(say: Say, tmp_path: Path) -> None:
    SlurmLauncher("here").cancel(JOBS)
    assert calls(tmp_path, "scancel") == [
        "--state=PENDING 7 8_0 8_1",
        "--state=RUNNING --signal=INT 7 8_0 8_1",
    ]


@pytest.mark.parametrize(
    "fails", ["Kill job error on job id 7: Invalid job id specified", "Job/step already completing or completed", ""]
)
def test_cancel_asks_the_others_when_one_job_has_ended(say: Say, tmp_path: Path, fails: str) -> None:
    """scancel ends with 1 then, in 22.05 without a word."""
    say("scancel", fails=fails)
    if not fails:
        (tmp_path / "scancel").write_text(f"#!/bin/sh\necho >> {tmp_path}/scancel.calls\nexit 1\n")
    SlurmLauncher("here").cancel(JOBS)
    assert len(calls(tmp_path, "scancel")) == 2


def test_a_cancel_that_does_not_reach_the_controller_is_an_error(say: Say) -> None:
    say("scancel", fails="Unable to contact slurm controller")
    with pytest.raises(LaunchError, match="Unable to contact"):
        SlurmLauncher("here").cancel(JOBS)


def test_the_last_output_of_a_job_is_what_it_printed(say: Say, tmp_path: Path) -> None:
    (tmp_path / "shared" / "jobs").mkdir(parents=True)
    (tmp_path / "shared" / "jobs" / "8_1_0_log.out").write_text("srun: error: something\n")
    launcher = SlurmLauncher("here")
    assert launcher.last_output(JOBS[2], "s3://b/p") == "srun: error: something"
    assert launcher.last_output(JOBS[0], "s3://b/p") == ""


SECRETS = {"AWS_ACCESS_KEY_ID": "planted-id", "AWS_SECRET_ACCESS_KEY": "planted-key", "HF_TOKEN": "hf_planted"}


@pytest.mark.parametrize("how", ["file", "environment"])
def test_keys_reach_the_job_as_the_site_says_and_are_nowhere_else(
    say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """sbatch is a stand-in that writes down its environment, which is what Slurm hands on to the job."""
    for name, value in {**SECRETS, "SLURM_JOB_ID": "1", "SBATCH_TIMELIMIT": "1", "SBATCH_RESERVATION": "mine"}.items():
        monkeypatch.setenv(name, value)
    site = tmp_path / "sites" / "here.yaml"
    site.write_text(json.dumps({**json.loads(site.read_text()), "credentials": how}))
    say("srun")
    (tmp_path / "sbatch").write_text(f"#!/bin/sh\nenv > {tmp_path}/sbatch.env\necho Submitted batch job 7\n")
    (tmp_path / "sbatch").chmod(0o755)
    launcher = SlurmLauncher("here")
    request = launcher.render(Batch((JobOrder("run-a", "s3://b/p"),)))
    assert launcher.submit(request) == ["slurm://e2e/7"]
    given = dict(line.split("=", 1) for line in (tmp_path / "sbatch.env").read_text().splitlines() if "=" in line)
    assert {name: given[name] for name in SECRETS if name in given} == (SECRETS if how == "environment" else {})
    assert given["SBATCH_RESERVATION"] == "mine"
    assert not {"SLURM_JOB_ID", "SBATCH_TIMELIMIT"} & set(given)
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == "planted-key"
    files = [path for path in (tmp_path / "shared").rglob("*") if path.is_file()]
    keys = [path for path in files if path.parent.name == "credentials"]
    assert len(keys) == (how == "file")
    for path in keys:
        assert json.loads(path.read_text()) == SECRETS
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    others = [path for path in files if path not in keys]
    assert len(others) >= 2  # the script and the pickle
    assert not [path for path in others if b"planted" in path.read_bytes()]
    assert "planted" not in launcher.describe(request)


def refusing_sbatch(folder: Path, what: str) -> None:
    """sbatch takes a first script as job 7, and refuses those whose command or text has ``what``."""
    (folder / "sbatch").write_text(
        f'#!/bin/sh\nif echo "$@" | cat - "$(eval echo \\$$#)" | grep -q -e \'{what}\'; then\n'
        "echo 'sbatch: error: QOSMaxSubmitJobPerUserLimit' >&2; exit 1; fi\necho Submitted batch job 7\n"
    )
    (folder / "sbatch").chmod(0o755)


def test_an_sbatch_that_refuses_is_told_in_its_words_and_what_was_submitted_before_is_taken_back(
    say: Say, tmp_path: Path
) -> None:
    say("srun")
    refusing_sbatch(tmp_path, "--gres=gpu:2")
    launcher = SlurmLauncher("here")
    orders = (JobOrder("run-a", "s3://b/p"), JobOrder("run-b", "s3://b/p", gpus=2))
    with pytest.raises(LaunchError, match=r"Slurm did not take the job: .*QOSMaxSubmitJobPerUserLimit"):
        launcher.submit(launcher.render(Batch(orders)))
    assert calls(tmp_path, "scancel") == ["7"]


def test_a_report_that_is_refused_does_not_take_the_runs_with_it(
    say: Say, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    say("srun")
    refusing_sbatch(tmp_path, "afterany")
    launcher = SlurmLauncher("here")
    orders = (JobOrder("run-a", "s3://b/p"), JobOrder("run-b", "s3://b/p"))
    handles = launcher.submit(launcher.render(Batch(orders, "s3://b/p/reports/x")))
    assert handles == ["slurm://e2e/7_0", "slurm://e2e/7_1"]
    assert "warning: no report will be made after the runs: Slurm did not take the job" in capsys.readouterr().err
    assert calls(tmp_path, "scancel") == []


def test_the_script_that_is_sent_is_the_one_that_is_shown(say: Say, tmp_path: Path) -> None:
    say("srun")
    say("sbatch", "Submitted batch job 7")
    launcher = SlurmLauncher("here")
    request = launcher.render(Batch((JobOrder("run-a", "s3://b/p"),)))
    launcher.submit(request)
    assert (tmp_path / "shared" / "jobs" / "7_submission.sh").read_text() == request.scripts[0].text


PARTITIONS = (
    "PartitionName=gpu Default=YES MaxTime=04:00:00 State=UP TRES=cpu=8",
    "PartitionName=old Default=NO MaxTime=UNLIMITED State=DOWN",
)


def problems(say: Say, tmp_path: Path, backend: str = "peft", **site: object) -> list[str]:
    """What is wrong with a site on a cluster of two nodes. The same stand-in answers `scontrol show` of both kinds."""
    for name in ("sbatch", "srun"):
        say(name)
    say("scontrol", "ClusterName = e2e", *PARTITIONS)
    (tmp_path / "sinfo").write_text(
        "#!/bin/sh\ncase $* in *--version*) echo slurm 24.11.5;; *%R*) echo gpu; echo old;;\n"
        "*) echo 'far1|16|64000|gpu:rtx4090:2(S:0-1)|ampere,ib'; echo 'far2|16|32000+|(null)|(null)';; esac\n"
    )
    (tmp_path / "sinfo").chmod(0o755)
    file = tmp_path / "sites" / "here.yaml"
    base = {"extends": "default", "shared": str(tmp_path / "shared"), "time": "01:00:00"}
    file.write_text(json.dumps({**base, **site}))
    checks = SlurmLauncher("here").check([backend], "s3://b/p")
    assert all(check.what for check in checks)
    return [check.problem for check in checks if check.problem]


def test_a_site_that_is_well_has_no_problem_but_that_its_folder_may_not_be_shared(say: Say, tmp_path: Path) -> None:
    (only,) = problems(say, tmp_path)
    assert "is on a disk of this machine" in only or "use a shared file system" in only


def test_everything_that_is_wrong_with_a_site_is_told_at_once(say: Say, tmp_path: Path) -> None:
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
        "gres: no node of gpu has gpu:h100:1; what its nodes have: gpu:rtx4090:2",
        "constraint: no node of gpu has 80gb, hopper; features there: ampere, ib",
        "container.image: there is no /no/such.sif",
        "python: cannot be seen from here",
    ):
        assert expected in text, text
    assert all("here.yaml" in problem for problem in found)


def test_a_python_that_cannot_train_or_not_even_start_is_told_before_anything_is_submitted(
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


def test_a_partition_that_is_not_there_or_not_up(say: Say, tmp_path: Path) -> None:
    assert any("there is no 'gpus'; valid: gpu, old" in one for one in problems(say, tmp_path, partition="gpus"))
    assert any("partition old is DOWN" in one for one in problems(say, tmp_path, partition="old"))


def test_without_slurm_the_check_says_so_once(say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    checks = SlurmLauncher("here").check(["peft"], "s3://b/p")
    assert "there is no sbatch, srun, squeue, scancel, scontrol, sinfo here" in checks[0].problem
