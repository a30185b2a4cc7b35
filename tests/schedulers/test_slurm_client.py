"""What Slurm's commands print, in the forms of several versions, awkward lines included."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cefr_batch.errors import SchedulerError
from cefr_batch.schedulers import State
from cefr_batch.schedulers.slurm import client
from cefr_batch.schedulers.slurm.client import (
    Accepted,
    Record,
    Turn,
    parse_id,
    parse_pairs,
    parse_sacct,
    parse_sbatch,
    parse_squeue,
    parse_turns,
    seconds,
)
from cefr_batch.schedulers.slurm.states import STATES

# sacct --allocations --noheader --parsable2 --format=JobID,State,ExitCode,Elapsed,NodeList,Reason
SACCT = {
    # Captured from 22.05.8.
    "7|COMPLETED|0:0|00:00:24|n2|None": [Record(7, None, "COMPLETED", "0:0", "00:00:24", "n2")],
    "7|PREEMPTED|0:0|00:00:22|n1|None": [Record(7, None, "PREEMPTED", "0:0", "00:00:22", "n1")],
    "7|PENDING|0:0|00:00:00|None assigned|BeginTime": [Record(7, None, "PENDING", "0:0", "00:00:00", "", "BeginTime")],
    "7|CANCELLED by 0|0:0|00:00:00|n1|None": [Record(7, None, "CANCELLED", "0:0", "00:00:00", "n1")],
    "7|FAILED|0:15|00:00:00|n1|None": [Record(7, None, "FAILED", "0:15", "00:00:00", "n1")],
    "2_1|COMPLETED|0:0|00:00:46|n2|None": [Record(2, 1, "COMPLETED", "0:0", "00:00:46", "n2")],
    # As sacct(1) of 23.11, 24.05 and 25.05 describes them: arrays that wait, more reasons, longer lists of nodes.
    "2_[4-6]|PENDING|0:0|00:00:00|None assigned|JobArrayTaskLimit": [
        Record(2, task, "PENDING", "0:0", "00:00:00", "", "JobArrayTaskLimit") for task in (4, 5, 6)
    ],
    "2_[3,5-6%2]|PENDING|0:0|00:00:00|None assigned|Priority": [
        Record(2, task, "PENDING", "0:0", "00:00:00", "", "Priority") for task in (3, 5, 6)
    ],
    "9|OUT_OF_MEMORY|0:125|1-02:03:04|gpu-a[01-03,7]|None": [
        Record(9, None, "OUT_OF_MEMORY", "0:125", "1-02:03:04", "gpu-a[01-03,7]")
    ],
    "9|OUT_OF_ME+|0:125|00:01:00|n1|None": [Record(9, None, "OUT_OF_MEMORY", "0:125", "00:01:00", "n1")],
    "9|CANCELLED+|0:0|00:01:00|n1|None": [Record(9, None, "CANCELLED", "0:0", "00:01:00", "n1")],
    "9|NODE_FAIL|1:0|00:01:00|None|a | b": [Record(9, None, "NODE_FAIL", "1:0", "00:01:00", "", "a|b")],
    "9|BRAND_NEW|0:0|00:01:00|n1|None": [Record(9, None, "BRAND_NEW", "0:0", "00:01:00", "n1")],
    # Not a job of ours: steps, parts of heterogeneous jobs, what a broken accounting prints.
    "9.batch|COMPLETED|0:0|00:00:24|n2|": [],
    "9+1|RUNNING|0:0|00:00:24|n2|None": [],
    "9|COMPLETED": [],
    "": [],
    "sacct: error: slurmdbd: Connection refused": [],
}
# squeue --array --noheader --states=all --format=%i|%T|%M|%N|%r
SQUEUE = {
    "7|RUNNING|1:02|n1|None": [Record(7, None, "RUNNING", "", "1:02", "n1")],
    "7|COMPLETING|0:20|n1|None": [Record(7, None, "COMPLETING", "", "0:20", "n1")],
    "7|SIGNALING|0:20|n1|None": [Record(7, None, "SIGNALING", "", "0:20", "n1")],
    "2_5|PENDING|0:00||(Resources)": [Record(2, 5, "PENDING", "", "0:00", "", "Resources")],
    "7|PENDING|0:00||ReqNodeNotAvail, UnavailableNodes:n1|n2": [
        Record(7, None, "PENDING", "", "0:00", "", "ReqNodeNotAvail, UnavailableNodes:n1|n2")
    ],
    "slurm_load_jobs error": [],
}


@pytest.mark.parametrize("line", SACCT)
def test_a_line_of_sacct(line: str) -> None:
    assert list(parse_sacct(line)) == SACCT[line]


@pytest.mark.parametrize("line", SQUEUE)
def test_a_line_of_squeue(line: str) -> None:
    assert list(parse_squeue(line)) == SQUEUE[line]


def test_every_state_of_slurm_has_one_of_ours_and_a_new_one_is_unknown() -> None:
    """The job states of squeue(1) and sacct(1), 22.05 to 25.05."""
    assert Record(1, None, "BRAND_NEW").meaning.state is State.UNKNOWN
    ended = (
        "BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED LAUNCH_FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED RECONFIG_FAIL"
    )
    ended += " REVOKED TIMEOUT"
    alive = "COMPLETING CONFIGURING EXPEDITING PENDING POWER_UP_NODE REQUEUED REQUEUE_FED REQUEUE_HOLD RESIZING"
    alive += " RESV_DEL_HOLD RUNNING SIGNALING SPECIAL_EXIT STAGE_OUT STOPPED SUSPENDED UPDATE_DB"
    assert {name for name, known in STATES.items() if known.state.finished} == set(ended.split())
    assert {name for name, known in STATES.items() if not known.state.finished} == set(alive.split())


@given(st.text(max_size=60))
def test_no_output_of_slurm_crashes_a_parser(text: str) -> None:
    for parse in (parse_sacct, parse_squeue):
        assert all(isinstance(record, Record) for record in parse(text))
    list(parse_id(text))
    parse_sbatch(text)
    parse_turns(text)


@pytest.mark.parametrize(
    ("printed", "accepted"),
    [
        ("7\n", Accepted(7)),
        ("7;e2e\n", Accepted(7, "e2e")),
        ("sbatch: project 12 has 300 hours left\n1 other job waiting: job 74\n75\n", Accepted(75)),
        ("", None),
        ("Submitted batch job 7\n", None),
        ("7\n1 other job waiting: job 74\n", None),
        ("-7", None),
        ("7 8", None),
    ],
)
def test_the_id_of_a_submitted_job_is_the_last_line_and_nothing_else_is_taken_for_one(
    printed: str, accepted: Accepted | None
) -> None:
    assert parse_sbatch(printed) == accepted


@given(st.integers(1, 10**9), st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 9)), min_size=1, max_size=5))
def test_an_array_s_ids_are_expanded(job: int, ranges: list[tuple[int, int]]) -> None:
    text = ",".join(f"{first}-{first + more}" if more else f"{first}" for first, more in ranges)
    expected = [(job, n) for first, more in ranges for n in range(first, first + more + 1)]
    assert list(parse_id(f"{job}_[{text}%4]")) == expected
    assert list(parse_id(f"{job}_[{text}]")) == expected


def test_a_job_s_place_is_that_of_its_priority_in_its_partition() -> None:
    """Lines of `squeue --start --format=%i|%Q|%P|%S`, as 22.05 to 26.05 print them, in order of start."""
    found = parse_turns(
        "9|4294901750|gpu|2026-11-26T13:00:00\n8_[0-2,5%2]|4294901752|gpu|2026-11-26T12:00:00\n7|10|cpu|N/A\n"
        "6|4294901750|gpu|N/A\nsqueue: a warning\n12_3|1|gpu|2026-11-27T08:00:00\n"
    )
    first = Turn(1, 4, "gpu", "2026-11-26T12:00:00")
    expected: dict[client.JobKey, Turn] = {
        **{(8, task): first for task in (0, 1, 2, 5)},
        (6, None): Turn(2, 4, "gpu"),  # of two with equal priority the older
        (9, None): Turn(3, 4, "gpu", "2026-11-26T13:00:00"),
        (12, 3): Turn(4, 4, "gpu", "2026-11-27T08:00:00"),
        (7, None): Turn(1, 1, "cpu"),
    }
    assert found == expected


def test_steps_of_an_array_and_lists_cut_short() -> None:
    assert list(parse_id("7_[0-8:4]")) == [(7, 0), (7, 4), (7, 8)]
    assert list(parse_id("7_[1,3,...]")) == [(7, 1), (7, 3)]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("30", 1800),
        ("30:00", 1800),
        ("08:00:00", 28800),
        ("1-00:00:00", 86400),
        ("1-12", 129600),
        ("2-01:30", 178200),
        ("UNLIMITED", None),
        ("INFINITE", None),
    ],
)
def test_time_limits(text: str, value: int | None) -> None:
    assert seconds(text) == value


def test_a_line_of_scontrol() -> None:
    found = parse_pairs(
        "PartitionName=gpu Default=YES QoS=N/A MaxNodes=UNLIMITED MaxTime=1-00:00:00 State=UP "
        "TRES=cpu=8,mem=32000M,node=2 TRESBillingWeights=CPU=1.0,GRES/gpu=2.0 SuspendTime=NONE"
    )
    assert (found["PartitionName"], found["Default"], found["MaxTime"], found["State"]) == (
        "gpu",
        "YES",
        "1-00:00:00",
        "UP",
    )
    assert found["TRES"] == "cpu=8,mem=32000M,node=2"


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of stand-ins for Slurm's commands; nothing else is on the PATH but the system's tools."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin" if not Path("/usr/bin/sacct").exists() else f"{folder}:/bin")
    return folder


def stand_in(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_the_error_of_a_command_that_fails_quotes_its_message(commands: Path) -> None:
    stand_in(commands, "squeue", "echo 'squeue: error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(SchedulerError, match=r"^squeue: Unable to contact slurm controller$"):
        client.Slurm().run("squeue")
    with pytest.raises(
        SchedulerError, match=r"there is no no-such-command here; run this on a machine of the cluster .*login node"
    ):
        client.Slurm().run("no-such-command")


def test_a_queue_that_knows_none_of_the_jobs_any_more_is_empty(commands: Path) -> None:
    stand_in(commands, "squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert client.Slurm().queued([1, 2]) == []


def test_variables_of_an_allocation_do_not_reach_slurm_s_commands(
    commands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "SLURM_JOB_ID",
        "SLURM_CPUS_PER_TASK",
        "SLURMD_NODENAME",
        "SRUN_DEBUG",
        "PMI_RANK",
        "SQUEUE_PARTITION",
        "SLURM_CONF",
    ):
        monkeypatch.setenv(name, "1")
    stand_in(commands, "squeue", "env")
    seen = {line.partition("=")[0] for line in client.Slurm().run("squeue").splitlines()}
    assert "SLURM_CONF" in seen
    assert not [
        name
        for name in seen
        if name.startswith(("SLURM_", "SLURMD_", "SRUN_", "SQUEUE_", "PMI_")) and name != "SLURM_CONF"
    ]
    assert os.environ["SLURM_JOB_ID"] == "1"


def test_the_stand_ins_are_what_is_called(commands: Path) -> None:
    stand_in(commands, "sacct", "echo here")
    assert subprocess.run(["sacct"], capture_output=True, text=True, check=True).stdout == "here\n"
