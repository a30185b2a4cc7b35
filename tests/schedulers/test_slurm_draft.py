"""A site file from what sinfo and sacctmgr print: commands that are there, that refuse, that hang; odd lines."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cefr_batch.schedulers.draft import as_yaml, draft_text
from cefr_batch.schedulers.slurm import draft as slurm_draft
from cefr_batch.schedulers.slurm.draft import associations, draft, partitions
from cefr_batch.schedulers.slurm.machine import ThisMachine
from cefr_batch.schedulers.slurm.site import load_site

# sinfo --noheader --format=%P|%a|%l|%c|%m|%D|%G: of a cluster with two kinds of GPU nodes
SINFO = """\
cpu*|up|infinite|64|256000+|40|(null)
gpu|up|2-00:00:00|32|128000|4|gpu:rtx4090:4(S:0-1)
gpu|up|2-00:00:00|48+|256000|1|gpu:a100:8(S:0-3),tmpdisk:1000
old|drain|1:00:00|8|16000|2|gpu:2
"""


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder before all others on PATH, for commands that stand in for Slurm's."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def command(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def prints(folder: Path, name: str, text: str) -> None:
    command(folder, name, f"cat <<'END'\n{text}\nEND")


def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, dict[str, object]]:
    """The text of the site file that is drafted, and what of it is set."""
    text = draft_text("A site.", draft())
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "drafted.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    load_site("drafted")  # raises unless it is a valid site
    return text, yaml.safe_load(text)


def test_partition_gpu_and_account_are_those_that_the_cluster_shows(
    commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prints(commands, "sinfo", SINFO)
    prints(commands, "sacctmgr", "linguists|linguists|normal,long\nlinguists|teachers|normal")
    text, settings = site(tmp_path, monkeypatch)
    chosen = {key: settings[key] for key in ("extends", "partition", "gres", "gpu", "account")}
    expected = {"extends": "default", "partition": "gpu", "gres": "gpu:rtx4090:1", "gpu": "rtx4090"}
    assert chosen == {**expected, "account": "linguists"}
    assert "cpu (no GPU, the default)" in text
    assert "old (4 x GPU, down)" in text
    assert "linguists, teachers" in text
    assert "normal, long" in text


def test_a_python_that_cannot_use_the_gpu_is_said(
    commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_draft, "installed_torch", lambda: ("2.13.0+cpu", None))
    prints(commands, "sinfo", SINFO)
    prints(commands, "sacctmgr", "")
    text, settings = site(tmp_path, monkeypatch)
    assert settings["gres"] == "gpu:rtx4090:1"
    assert "Not known: this Python's torch (2.13.0+cpu) cannot use a GPU." in text
    assert '\n# python: "/path/to/cefr-batch/.venv-unsloth/bin/python"\n' in text
    prints(commands, "sinfo", "debug*|up|30:00|4|8000|1|(null)")
    assert "cannot use a GPU" not in draft_text("A site.", draft())


def test_a_small_partition_limits_cpus_memory_and_time(
    commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prints(commands, "sinfo", "debug*|up|30:00|4|8000|1|(null)")
    prints(commands, "sacctmgr", "a|a|")
    text, settings = site(tmp_path, monkeypatch)
    assert {key: settings[key] for key in ("gres", "cpus", "memory", "time")} == {
        "gres": None,
        "cpus": 4,
        "memory": "8000M",
        "time": "00:30:00",
    }
    assert "No node of debug has a GPU" in text


def test_what_cannot_be_found_out_is_a_comment_that_says_why(
    commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sinfo hangs, sacctmgr refuses: the file is there within the bound, and valid."""
    monkeypatch.setattr(slurm_draft, "_SECONDS", 0.3)
    command(commands, "sinfo", "exec sleep 600")
    command(commands, "sacctmgr", "echo 'sacctmgr: error: slurmdbd: Connection refused' >&2; exit 1")
    text, settings = site(tmp_path, monkeypatch)
    assert not {"partition", "gres", "gpu", "cpus", "memory", "time", "account"} & settings.keys()
    one_line = text.replace("\n# ", " ")
    assert "Not known: sinfo got no answer from the Slurm controller in 0.3 s" in one_line
    assert "Not known: sacctmgr: slurmdbd: Connection refused; ask your cluster's administrators whether" in one_line
    assert "sacctmgr show assoc" not in text, "it would fail in the same way"
    assert "# partition: gpu\n" in text
    assert "# account: my-project\n" in text


def test_a_clone_in_the_place_of_the_shared_folder_is_not_taken(
    commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(slurm_draft, "LOCAL_FILE_SYSTEMS", set())
    prints(commands, "sinfo", SINFO)
    prints(commands, "sacctmgr", "")
    text, settings = site(tmp_path, monkeypatch)
    assert settings["shared"] == "~/cefr-batch-jobs"
    for name in (".git", "cefr_batch"):
        (tmp_path / "cefr-batch-jobs" / name).mkdir(parents=True)
    text = draft_text("A site.", draft())
    assert f"{tmp_path}/cefr-batch-jobs is a clone of cefr-batch" in text.replace("\n# ", " ")
    assert "shared" not in yaml.safe_load(text)


@pytest.mark.parametrize("other", ["", "n2"])
def test_a_home_on_a_local_disk_will_do_where_this_machine_is_the_only_node(
    other: str, commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(slurm_draft, "LOCAL_FILE_SYSTEMS", {ThisMachine().folder(tmp_path)[1]})
    nodes = f"{ThisMachine().node}.example.edu\n{other}"
    command(commands, "sinfo", f"case $2 in --Node) echo '{nodes}' ;; *) echo 'all*|up|1:00|8|64000|1|gpu:2' ;; esac")
    prints(commands, "sacctmgr", "")
    text, settings = site(tmp_path, monkeypatch)
    assert settings.get("shared") == (None if other else "~/cefr-batch-jobs")
    assert ("seems to be a local disk" in text) == bool(other)


def test_a_gpu_that_slurm_does_not_name_and_one_that_is_not_known(
    commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prints(commands, "sinfo", "all*|up|infinite|64|256000|2|gpu:2")
    prints(commands, "sacctmgr", "")
    text, settings = site(tmp_path, monkeypatch)
    assert settings["gres"] == "gpu:1"
    assert "gpu" not in settings
    assert "Slurm does not say which GPU it is" in text
    assert "sacctmgr shows no account of yours" in text
    (odd,) = partitions("x|up|1:00|8|64000|1|gpu:voodoo2:1")
    assert "voodoo2 is not a GPU that cefr-batch knows" in draft_text("", slurm_draft._gpu(odd))


@given(st.text(alphabet="gpu:|*+,()0123456789abZ \n", max_size=120))
def test_no_output_of_slurm_crashes_a_draft(text: str) -> None:
    for partition in partitions(text):
        draft_text("", [*slurm_draft._gpu(partition), *slurm_draft._limits(partition)])
    associations(text)


@given(st.recursive(st.text() | st.integers() | st.none(), lambda inner: st.lists(inner, max_size=3), max_leaves=4))
def test_a_value_of_a_draft_is_read_as_what_it_was(value: object) -> None:
    assert yaml.safe_load(f"key: {as_yaml(value)}") == {"key": value}
