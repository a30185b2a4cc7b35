"""A cluster over SSH. ``ssh`` is a stand-in here, a script that runs what it is given on this machine, as another shell
would, or fails as the real one does (tests/e2e/test_slurm_over_ssh.py has a real sshd and a real Slurm)."""

from __future__ import annotations

import json
import os
import pickletools
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from clusters.sshd import TOOLS

from cefr_batch.errors import SchedulerError, SpecError
from cefr_batch.schedulers import Job, JobGroup, JobSpec, State
from cefr_batch.schedulers.draft import draft_text
from cefr_batch.schedulers.slurm import client, draft, ssh
from cefr_batch.schedulers.slurm.client import Slurm
from cefr_batch.schedulers.slurm.machine import AnswerLost, SlurmMachine, ThisMachine
from cefr_batch.schedulers.slurm.scheduler import SlurmScheduler
from cefr_batch.schedulers.slurm.site import load_site
from cefr_batch.schedulers.slurm.ssh import OverSsh

SITES = Path(__file__).parents[2] / "slurm"
STORE = "s3://bucket/prefix"
HOST = "me@login.example.org"
Fails = Callable[[str], None]


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The other side: a home folder, with programs in ``bin`` that a login shell alone finds, in ``tools`` that all do."""
    home = tmp_path / "there"
    for name in ("bin", "tools", "laptop"):
        (home / name).mkdir(parents=True)
    for name in TOOLS:  # and none of a Slurm that this machine may have
        if found := shutil.which(name):
            (home / "tools" / name).symlink_to(found)
    (home / ".bash_profile").write_text(f"echo greetings\nexport PATH={home}/bin:{home}/tools\n")
    program = (
        f"#!/bin/sh\n# a stand-in for ssh\nprintf '%s\\n' \"$@\" >> {home}/arguments; echo >> {home}/calls\n"
        f'[ "$1" != -G ] || {{ cat {home}/shown 2>/dev/null; exit; }}\n'
        f"[ ! -e {home}/fails ] || {{ cat {home}/fails >&2; exit 255; }}\n"
        f"for command do :; done\necho 'Welcome!'\n"
        f'exec /usr/bin/env -i HOME={home} SQUEUE_STATES=PD SBATCH_TIMELIMIT=1 PATH={home}/tools sh -c "$command"\n'
    )
    (home / "laptop" / "ssh").write_text(program)
    (home / "laptop" / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{home}/laptop:{home}/tools")
    monkeypatch.setattr(ssh, "_can_ask", lambda: False)
    monkeypatch.chdir(tmp_path)
    with TemporaryDirectory(prefix="r", dir="/tmp") as runtime:  # a socket's path has 104 bytes at most
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        yield home


def put(path: Path, script: str) -> None:
    path.unlink(missing_ok=True)  # never write through a link
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def calls(there: Path) -> int:
    return len((there / "calls").read_text().splitlines())


def options(there: Path) -> list[str]:
    """The options of the last call."""
    words = (there / "arguments").read_text().splitlines()
    last = len(words) - words[::-1].index("-T")
    return words[last : words.index("--", last)]


def test_options_that_nothing_can_hang_on_and_one_connection_that_only_this_user_can_use(there: Path) -> None:
    OverSsh(HOST).run(["echo"], timeout=5)
    given = options(there)
    assert {"BatchMode=yes", "ConnectTimeout=15", "ServerAliveInterval=5", "RemoteCommand=none"} <= set(given)
    folder = Path(os.environ["XDG_RUNTIME_DIR"], f"cefr-batch-{os.getuid()}")
    assert {"ControlMaster=auto", "ControlPersist=10m", f"ControlPath={folder}/%C"} <= set(given)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert (there / "arguments").read_text().splitlines()[-2:] == [HOST, ssh._START]


def test_a_configuration_that_shares_connections_already_is_left_alone(there: Path) -> None:
    (there / "shown").write_text("controlmaster auto\ncontrolpath /home/me/.ssh/%C\n")
    OverSsh(HOST).run(["echo"], timeout=5)
    assert not [one for one in options(there) if one.startswith("Control")]
    (there / "shown").write_text("controlmaster false\ncontrolpath none\n")
    OverSsh(HOST).run(["echo"], timeout=5)
    assert [one for one in options(there) if one.startswith("ControlPath")]


def test_a_person_is_asked_where_there_is_a_terminal(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "_can_ask", lambda: True)
    OverSsh(HOST).run(["echo"], timeout=5)
    assert not [one for one in options(there) if "BatchMode" in one]


def test_a_folder_that_others_can_write_holds_no_connection(there: Path) -> None:
    folder = Path(os.environ["XDG_RUNTIME_DIR"], f"cefr-batch-{os.getuid()}")
    folder.mkdir()
    folder.chmod(0o777)
    OverSsh(HOST).run(["echo"], timeout=5)
    assert not [one for one in options(there) if one.startswith("Control")]
    folder.rmdir()
    folder.symlink_to(there)
    OverSsh(HOST).run(["echo"], timeout=5)
    assert not [one for one in options(there) if one.startswith("Control")]


def test_a_folder_whose_name_is_too_long_for_a_socket_is_not_used(
    there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", f"{tmp_path}/{'x' * 60}")
    OverSsh(HOST).run(["echo"], timeout=5)
    (found,) = [one for one in options(there) if one.startswith("ControlPath=")]
    assert found == f"ControlPath=/tmp/cefr-batch-{os.getuid()}/%C"


def test_a_site_file_is_drafted_from_what_the_login_node_shows(
    there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its partitions, its user and account, its home folder; not those of the laptop."""
    monkeypatch.setattr(draft, "LOCAL_FILE_SYSTEMS", set())
    monkeypatch.setattr("getpass.getuser", lambda: pytest.fail("the laptop's user is asked for"))
    put(there / "bin" / "sinfo", "echo 'gpu*|up|1:00:00|16|64000|2|gpu:rtx4090:2'")
    put(there / "tools" / "id", "echo meryem")
    put(there / "bin" / "sacctmgr", f'echo "$*" > {there}/asked; echo "theirs|theirs|normal"')
    text = draft_text("A site.", SlurmScheduler().draft(HOST))
    found = yaml.safe_load(text)
    assert found["host"] == HOST
    assert (found["partition"], found["gres"], found["account"]) == ("gpu", "gpu:rtx4090:1", "theirs")
    assert "name=meryem" in (there / "asked").read_text()
    assert found["shared"] == f"{there}/cefr-batch-jobs"
    assert f'\n# python: "{there}/cefr-batch/.venv-unsloth/bin/python"\n' in text
    assert "make setup-unsloth" in text
    sites = tmp_path / "slurm"
    sites.mkdir()
    (sites / "far.yaml").write_text(text)
    with pytest.raises(SpecError, match="python: missing") as caught:
        load_site("far")
    assert len(caught.value.problems) == 1
    assert SlurmScheduler("far").check(["peft"], STORE)[0].what == f"host {HOST}", "the cluster is asked all the same"
    (sites / "far.yaml").write_text(text.replace("# python:", "python:"))
    assert load_site("far").gpu == "rtx4090"


def test_a_clone_at_the_host_is_no_folder_for_jobs(there: Path) -> None:
    put(there / "bin" / "sinfo", "echo 'cpu*|up|1:00:00|16|64000|2|(null)'")
    for name in (".git", "cefr_batch"):
        (there / "a clone" / name).mkdir(parents=True)
    machine = OverSsh(HOST)
    for folder in (there / "a clone", there / "a clone" / "not" / "there"):
        assert machine.nearest_with((".git", "cefr_batch"), folder) == there / "a clone"
        assert ThisMachine().nearest_with((".git", "cefr_batch"), folder) == there / "a clone"
    assert machine.nearest_with((".git", "cefr_batch", "no"), there / "a clone") is None
    assert ThisMachine().nearest_with((".git", "cefr_batch", "no"), there / "a clone") is None
    (there / "a clone").rename(there / "cefr-batch-jobs")
    (shared,) = (one for one in SlurmScheduler().draft(HOST) if one.key == "shared")
    assert not shared.known
    assert "is a clone of cefr-batch" in shared.why


def test_a_host_that_is_not_reached_has_no_draft(there: Path) -> None:
    (there / "fails").write_text("ssh: connect to host login.example.org port 22: Connection timed out")
    with pytest.raises(SchedulerError, match="no connection to"):
        SlurmScheduler().draft(HOST)


def test_a_command_gets_its_input_and_variables_and_no_argument_of_ssh_shows_them(there: Path) -> None:
    secret, text = 'it\'s "$HOME" `id` ğ\n!', "line 1\nçığ"
    done = OverSsh(HOST).run(["sh", "-c", 'cat; echo "|$A|$1"', "sh", "a b"], stdin=text, env={"A": secret}, timeout=5)
    assert done.stdout == f"{text}|{secret}|a b\n"
    assert "HOME" not in (there / "arguments").read_text()


def test_a_program_that_only_a_login_shell_finds_is_run_and_greetings_are_no_answer(there: Path) -> None:
    put(there / "bin" / "squeue", 'echo "$0 $* $SQUEUE_STATES"; exit 3')
    put(there / "tools" / "sinfo", "echo at once")
    machine = OverSsh(HOST)
    done = machine.run(["squeue", "a b"], timeout=5)
    assert (done.stdout, done.returncode) == (f"{there}/bin/squeue a b \n", 3)
    assert machine.run(["sinfo"], timeout=5).stdout == "at once\n"
    assert machine.lacks(["squeue", "sinfo", "sbatch"]) == ["sbatch"]
    with pytest.raises(FileNotFoundError):
        machine.run(["sbatch"], timeout=5)
    with pytest.raises(SchedulerError, match=rf"there is no sbatch on {HOST}, in a login shell either; set `host`"):
        Slurm(machine).run("sbatch")


def test_the_login_s_own_variables_for_slurm_s_commands_do_not_reach_them(there: Path) -> None:
    shown = OverSsh(HOST).run(["env"], timeout=5).stdout
    assert "HOME=" in shown
    assert "SQUEUE_STATES" not in shown
    assert "SBATCH_TIMELIMIT" not in shown


@pytest.fixture(params=["this machine", "over ssh"])
def machine(request: pytest.FixtureRequest, there: Path) -> SlurmMachine:
    return ThisMachine() if request.param == "this machine" else OverSsh(HOST)


def test_files_of_either_machine(machine: SlurmMachine, tmp_path: Path) -> None:
    """What both do alike: here and over ssh."""
    folder = tmp_path / "a 'b' [c]" / "d"
    machine.write(folder, {"x.json": b"1", "y.json": bytes(range(256)) * 300}, private=True)
    assert (folder / "y.json").read_bytes() == bytes(range(256)) * 300
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    machine.write(folder, {"x.json": b"new"}, private=True)
    assert sorted(path.name for path in folder.iterdir()) == ["x.json", "y.json"]

    os.utime(folder / "y.json", (0, 0))
    assert machine.find(folder, "*.json") == [folder / "x.json", folder / "y.json"]
    assert machine.find(folder.parent, "*/y*") == [folder / "y.json"]
    assert machine.find(folder, "*.json", minutes=60) == [folder / "y.json"]
    assert machine.find(folder, "z*") == machine.find(folder / "none", "*") == []
    machine.rename(folder, {"x.json": "it's.json"})
    assert machine.tail(folder / "it's.json") == "new"
    assert len(machine.tail(folder / "y.json").encode()) >= 1990
    assert machine.tail(folder / "none") == ""
    writable, kind = machine.folder(folder / "e" / "f")
    assert writable
    assert (writable, kind) == ThisMachine().folder(folder)
    assert machine.folder(folder / "y.json" / "f")[0] is False

    machine.remove([folder / "it's.json", folder / "none"])
    assert folder.exists()
    machine.remove(path for path in [folder / "y.json"])
    assert not folder.exists()
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"(?i)not a directory|file exists"):
        machine.write(tmp_path / "file" / "below", {"x": b""})


def test_either_machine_says_who_and_where_it_is(machine: SlurmMachine) -> None:
    assert machine.uid == os.getuid()
    assert machine.node == ThisMachine().node
    assert machine.run(["sh", "-c", "echo out; echo err >&2; exit 5"], timeout=5).returncode == 5


def test_what_is_sent_in_part_is_not_kept(there: Path, tmp_path: Path) -> None:
    """tar sees the end of a connection that was cut."""
    folder = tmp_path / "sent"
    put(there / "tools" / "tar", 'head -c 1000 | /usr/bin/tar "$@" 2>/dev/null || /bin/tar "$@"')
    with pytest.raises(OSError, match=HOST):
        OverSsh(HOST).write(folder, {"x": b"1" * 5000})
    assert list(folder.iterdir()) == []


REFUSALS = {
    "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.": (
        r"its host key has changed, so nothing was sent\. .*`ssh-keygen -R login\.example\.org`"
    ),
    "No ED25519 host key is known for x and you have requested strict checking.\nHost key verification failed.": (
        rf"does not know its host key; log in once with `ssh {HOST}`"
    ),
    "me@login.example.org: Permission denied (publickey,keyboard-interactive).": (
        r"refused the login \(.*Permission denied \(publickey,keyboard-interactive\)\.\); .*`ssh-add`"
    ),
    "ssh: Could not resolve hostname login.example.org: Name or service not known": (
        r"no such name is known \(.*Name or service not known\); correct `host`"
    ),
    "ssh: connect to host login.example.org port 22: Connection refused": r"it refuses connections \(.*is its port right",
    "ssh: connect to host login.example.org port 22: Connection timed out": r"it does not answer \(.*the VPN",
    "ssh: connect to host login.example.org port 22: No route to host": r"it does not answer \(.*No route",
    "Connection timed out during banner exchange": r"it does not answer \(Connection timed out during banner exchange\)",
    "/home/me/.ssh/config: line 3: Bad configuration option: hots\n/home/me/.ssh/config: terminating, 1 bad options": (
        r"ssh cannot use its configuration \(/home/me/.ssh/config: line 3: Bad .* option: hots\); correct that line"
    ),
    "Bad owner or permissions on /home/me/.ssh/config": r"\(Bad owner .* on /home/me/.ssh/config\); .*`chmod 600`",
}


@pytest.mark.parametrize("said", REFUSALS)
def test_why_there_is_no_connection_is_one_sentence_and_asked_once(there: Path, said: str) -> None:
    (there / "fails").write_text(said)
    machine = OverSsh(HOST)
    for _ in range(2):
        with pytest.raises(SchedulerError, match=rf"^no connection to {HOST}: .*{REFUSALS[said]}") as caught:
            machine.run(["squeue"], timeout=5)
        assert not isinstance(caught.value, AnswerLost)
        assert client.is_silent(caught.value)
    assert calls(there) == 2  # ssh -G, and the one login


@pytest.mark.slow
@pytest.mark.parametrize(
    "said", ["Connection to login.example.org closed by remote host.", "client_loop: send disconnect: Broken pipe", ""]
)
def test_a_connection_that_is_lost_is_no_answer_and_tried_again(there: Path, said: str) -> None:
    (there / "fails").write_text(said)
    machine = OverSsh(HOST)
    with pytest.raises(AnswerLost, match=rf"the connection to {HOST} was lost \(.+\); try again"):
        machine.run(["squeue"], timeout=5)
    (there / "fails").unlink()
    assert machine.run(["echo", "7"], timeout=5).stdout == "7\n"


@pytest.mark.slow
def test_a_command_that_does_not_answer_is_bounded(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "_LOGIN_SECONDS", 0.1)
    with pytest.raises(SchedulerError, match=r"sleep got no answer from the Slurm controller in 0\.3 s"):
        Slurm(OverSsh(HOST)).run("sleep", "60", timeout=0.3)


def test_a_login_that_runs_no_commands_is_named(there: Path) -> None:
    put(there / "laptop" / "ssh", "[ $1 = -G ] || { echo 'This account is currently not available.'; exit 1; }")
    with pytest.raises(
        SchedulerError, match=rf"{HOST} did not run a command .*'This account is currently not available\.'"
    ):
        OverSsh(HOST).run(["squeue"], timeout=5)


def test_without_ssh_the_error_says_what_to_install(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(there))
    with pytest.raises(SchedulerError, match="there is no ssh here; install OpenSSH's client"):
        OverSsh(HOST).run(["squeue"], timeout=5)


@pytest.fixture
def site(there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Writes the site file ``far``, and Slurm's commands of the other side."""
    sites = tmp_path / "sites"
    sites.mkdir()
    monkeypatch.setenv("CEFR_BATCH_SLURM", str(sites))
    (sites / "default.yaml").write_bytes((SITES / "default.yaml").read_bytes())

    def write(**changed: object) -> None:
        values = {"host": HOST, "python": sys.executable, "shared": f"{there}/shared", "gres": None, **changed}
        given = {key: value for key, value in values.items() if value != "unset"}
        (sites / "far.yaml").write_text(json.dumps({"extends": "default", **given}))

    write()
    put(there / "bin" / "scontrol", "echo 'ClusterName = e2e'")
    put(
        there / "bin" / "sbatch",
        f'for s do :; done; echo "$*" >> {there}/sbatch.calls; env > {there}/sbatch.env; echo 7',
    )
    put(there / "bin" / "squeue", "exit 0")
    put(there / "bin" / "sacct", "echo '7|RUNNING|0:0|00:00:10|n1|None'")
    put(there / "bin" / "scancel", f'echo "$@" >> {there}/scancel.calls')
    return write


def submit(store: str = STORE) -> list[str]:
    scheduler = SlurmScheduler("far")
    return scheduler.submit(scheduler.render(JobGroup((JobSpec("run-a", store),))))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["file", "environment"])
def test_a_job_is_submitted_with_its_files_and_secrets_there(
    site: Callable[..., None], there: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-key")
    monkeypatch.setenv("SOMETHING_ELSE", "of this machine")
    site(credentials=how)
    assert submit() == ["slurm://far@e2e/7"]
    files = {path.suffix: path for path in (there / "shared").rglob("*") if path.is_file()}
    assert files.keys() == {".sh", ".pkl", *([".json"] if how == "file" else [])}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files.values()} == {0o600}
    assert files[".sh"].name == "7_submission.sh"
    given = (there / "sbatch.env").read_text()
    assert ("planted-key" in given) == (how == "environment")
    assert "SOMETHING_ELSE" not in given
    assert "planted-key" not in (there / "arguments").read_text()
    assert "planted-key" not in (there / "sbatch.calls").read_text()


def test_a_job_gets_the_environment_of_a_login_shell(site: Callable[..., None], there: Path) -> None:
    """As when it is submitted on the login node: `module` is a function that a login shell defines and exports."""
    with (there / ".bash_profile").open("a") as profile:
        profile.write("module() { :; }\nexport -f module\n")
    sbatch = there / "tools" / "sbatch"  # any shell finds it
    sbatch.write_text((there / "bin" / "sbatch").read_text().replace("#!/bin/sh", "#!/bin/bash"))  # sh drops functions
    sbatch.chmod(0o755)
    (there / "bin" / "sbatch").unlink()
    submit()
    assert "BASH_FUNC_module%%=" in (there / "sbatch.env").read_text()


def test_a_pickle_for_another_python_holds_names_alone(site: Callable[..., None], there: Path) -> None:
    """So that a laptop's Python may be newer or older than the cluster's."""
    submit()
    (pickle,) = (there / "shared").rglob("*.pkl")
    found = list(pickletools.genops(pickle.read_bytes()))
    protocols = [argument for one, argument, _ in found if one.name == "PROTO"]
    assert protocols <= [5]
    texts = [str(argument) for one, argument, _ in found if "UNICODE" in one.name]
    modules = {text for text in texts if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", text)} | {"signal"} & set(texts)
    assert modules == {"submitit.core.utils", "cefr_batch.schedulers.slurm.job", "signal"}


def test_jobs_are_looked_up_and_cancelled_over_the_host_of_their_site(site: Callable[..., None], there: Path) -> None:
    job = Job("run-a", "slurm://far@e2e/7")
    script = f"{there}/shared/{'0' * 32}_submission.sh /x"
    put(
        there / "bin" / "squeue",
        f"case $* in *%U*) echo '7|{os.getuid()}|{script}|run-a';; *) echo '7|RUNNING|1|n1|None';; esac",
    )
    scheduler = SlurmScheduler()  # of no site, as status and cancel ask
    (found,) = scheduler.observe([job]).values()
    assert (found.state, found.reason) == (State.RUNNING, "RUNNING in Slurm on n1 for 1")
    scheduler.cancel([job], STORE)
    assert (there / "scancel.calls").read_text().splitlines()[-1].endswith(" 7")
    (elsewhere,) = scheduler.observe([Job("run-b", "slurm://far@other/7")]).values()
    assert "its job is on the cluster other" in elsewhere.reason


def test_a_login_node_without_the_site_file_asks_its_own_slurm(site: Callable[..., None], there: Path) -> None:
    job = Job("run-a", "slurm://unknown-site@e2e/7")
    with pytest.raises(SchedulerError, match="there is no squeue here; run this on a machine of the cluster"):
        SlurmScheduler().observe([job])
    for name in ("scontrol", "sacct", "squeue"):
        (there / "laptop" / name).symlink_to(there / "bin" / name)
    put(there / "bin" / "squeue", "echo '7|RUNNING|1|n1|None'")
    (found,) = SlurmScheduler().observe([job]).values()
    assert found.state is State.RUNNING


def test_a_site_file_that_cannot_be_used_makes_its_own_jobs_unknown(site: Callable[..., None], there: Path) -> None:
    (there.parent / "sites" / "broken.yaml").write_text("extends: default\nhots: me@login\n")
    put(there / "bin" / "squeue", "echo '7|RUNNING|1|n1|None'")
    good, bad = Job("run-a", "slurm://far@e2e/7"), Job("run-b", "slurm://broken@e2e/7")
    found = SlurmScheduler().observe([good, bad])
    assert found[good].state is State.RUNNING
    assert found[bad].state is State.UNKNOWN
    assert "hots: unknown key (did you mean host?)" in found[bad].reason


def test_a_host_that_cannot_be_reached_is_said_once(site: Callable[..., None], there: Path) -> None:
    (there / "fails").write_text("ssh: connect to host login.example.org port 22: No route to host")
    (check,) = SlurmScheduler("far").check(["peft"], STORE)
    assert check.refuses
    assert check.problem.startswith(f"no connection to {HOST}: it does not answer")
    with pytest.raises(SchedulerError) as caught:
        SlurmScheduler().observe([Job("run-a", "slurm://far@e2e/7")])
    assert str(caught.value).count("no connection") == 1


def test_a_host_that_cannot_be_reached_does_not_hide_the_jobs_of_another(
    site: Callable[..., None], there: Path
) -> None:
    site(host="gone")
    sites = there.parent / "sites"
    (sites / "near.yaml").write_text(json.dumps({**json.loads((sites / "far.yaml").read_text()), "host": HOST}))
    put(there / "bin" / "squeue", "echo '7|RUNNING|1|n1|None'")
    program = (there / "laptop" / "ssh").read_text()
    put(
        there / "laptop" / "ssh",
        'case "$*" in *" gone "*) echo "Permission denied (publickey)." >&2; exit 255;; esac\n' + program,
    )
    near, far = Job("run-a", "slurm://near@e2e/7"), Job("run-b", "slurm://far@e2e/7")
    found = SlurmScheduler().observe([near, far])
    assert found[near].state is State.RUNNING
    assert found[far].state is State.UNKNOWN
    assert "no connection to gone" in found[far].reason


@pytest.mark.parametrize("taken", [True, False], ids=["taken by Slurm", "not taken"])
def test_a_submission_whose_answer_is_lost_is_looked_up_by_its_script_and_taken_back(
    site: Callable[..., None], there: Path, monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    monkeypatch.setattr(client, "sleep", lambda seconds: None)
    took = f'echo "7|$script" > {there}/queue' if taken else ":"
    put(there / "bin" / "sbatch", f"for a do case $a in *_submission.sh) script=$a;; esac; done; {took}; exit 255")
    put(there / "bin" / "squeue", f"cat {there}/queue 2>/dev/null; exit 0")
    what = r"the job that it submitted \(7\) was cancelled" if taken else "it submitted no job"
    with pytest.raises(SchedulerError, match=rf"the connection to {HOST} was lost .*{what}"):
        submit()
    assert (there / "scancel.calls").exists() == taken
    assert [path for path in (there / "shared").rglob("*") if path.is_file()] == []


def test_files_whose_naming_is_not_answered_are_named_again(site: Callable[..., None], there: Path) -> None:
    """The job was taken: it is recorded, and finds its pickle."""
    put(
        there / "tools" / "mv",
        f'/bin/mv "$@"; case "$*" in *submitted.pkl) mkdir {there}/once 2>/dev/null && kill -9 $PPID;; esac',
    )
    put(
        there / "laptop" / "ssh.real",
        (there / "laptop" / "ssh").read_text().partition("\n")[2].replace("exec /usr", "/usr"),
    )
    put(there / "laptop" / "ssh", f'{there}/laptop/ssh.real "$@"; code=$?; [ $code -ne 137 ] || exit 255; exit $code')
    assert submit() == ["slurm://far@e2e/7"]
    assert (there / "once").exists()
    assert [path.name for path in (there / "shared").rglob("*.pkl")] == ["7_submitted.pkl"]
    assert not (there / "scancel.calls").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"python": None}, f"python: missing; set it, in your site file, to the absolute path of a Python on {HOST}"),
        ({"shared": "~/cefr-batch"}, "shared: ~/cefr-batch is a path of this machine"),
        ({"shared": "unset"}, "shared: ~/cefr-batch-jobs is a path of this machine"),
        ({"python": "~/env/bin/python"}, "python: ~/env/bin/python is a path of this machine"),
        (
            {"container": {"runtime": "apptainer", "image": "./x.sif"}},
            "container.image: ./x.sif is a path of this machine",
        ),
        ({"host": "-oProxyCommand=reboot"}, "host: must be what ssh takes"),
        ({"host": "a b"}, "host: must be what ssh takes"),
    ],
)
def test_a_site_with_a_host_says_where_everything_is_there(
    site: Callable[..., None], changed: dict[str, object], message: str
) -> None:
    site(**changed)
    with pytest.raises(SpecError, match=re.escape(message)):
        load_site("far")


@pytest.mark.slow
def test_a_store_that_the_cluster_cannot_reach_is_refused(
    site: Callable[..., None], there: Path, tmp_path: Path
) -> None:
    loopback = "s3://b/p?endpoint_url=http://localhost:9000"
    with pytest.raises(SchedulerError, match=r"http://localhost:9000 is this machine itself"):
        submit(loopback)
    for name in ("srun", "sinfo"):
        put(there / "bin" / name, "exit 0")

    def problem(store: str) -> list[str]:
        found = SlurmScheduler("far").check(["peft"], store)
        return [one.problem for one in found if one.what == f"store {store}" and one.problem]

    assert "is this machine itself" in "".join(problem(loopback))
    assert problem(STORE) == []
    assert problem(f"file://{tmp_path}/store") == []  # the stand-in's other side has this folder too
    put(there / "tools" / "test", "exit 1")  # a stand-in for a machine that has not
    assert "jobs cannot reach the store; give an address in object storage" in "".join(
        problem(f"file://{tmp_path}/store")
    )
    assert list(tmp_path.glob(".cefr-batch-*")) == []
