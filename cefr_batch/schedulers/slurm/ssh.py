"""A cluster's login node, through this user's own OpenSSH: its configuration, its agent, its jump hosts, one connection.

The other side needs a POSIX shell with tar, and bash for what only a login shell finds. What is run there, and what is
written, goes by standard input: command lines are seen by all users of a login node.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import stat
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from threading import RLock
from typing import NoReturn
from uuid import uuid4

from typing_extensions import override

from cefr_batch.errors import SchedulerError
from cefr_batch.files import TAIL_BYTES
from cefr_batch.schedulers.slurm.machine import AnswerLost, SlurmMachine

_CONNECT_SECONDS = 15
_LOGIN_SECONDS, _PERSON_SECONDS = 40.0, 180.0  # for the first answer; where a person may be asked for a second factor
_FILE_SECONDS = 60.0
_QUIET_SECONDS = 10.0  # for which a login that failed is not tried again

# What the login's shell gets, whichever it is (csh and fish quote otherwise than sh): read as many bytes as the first line
# says, run them, and leave the rest to them as their input. dd, since other programs read ahead.
_START = "exec sh -c 'read -r n; eval \"$(dd bs=1 count=$n 2>/dev/null)\"'"
_OPTIONS = {
    "ConnectTimeout": _CONNECT_SECONDS,
    "ServerAliveInterval": 5,  # a connection that is gone is noticed after 15 s
    "ServerAliveCountMax": 3,
    "LogLevel": "ERROR",
    "RemoteCommand": "none",
    "PermitLocalCommand": "no",
    "ClearAllForwardings": "yes",
    "ForwardAgent": "no",
    "ForwardX11": "no",
}
_SHARED = {"ControlMaster": "auto", "ControlPersist": "10m"}
_LONGEST_FOLDER = 44  # of a socket's path, of which macOS allows 104 bytes and ssh needs 58
# Variables of the login that would change what Slurm's commands do or print.
_CLEAN = (
    r"""for v in $(env | sed -nE "s/^(S(BATCH|QUEUE|ACCT|INFO|CANCEL)_[A-Za-z0-9_]*)=.*/\1/p"); do unset "$v"; done"""
)

# What ssh says when there is no connection, and what that means. {said}: its last line.
_NO_CONNECTION = {
    r"IDENTIFICATION HAS CHANGED": (
        "its host key has changed, so nothing was sent. Ask its administrators whether they changed it; if they "
        "did, `ssh-keygen -R {name}` forgets the old one, and `ssh {host}` shows the new one"
    ),
    r"Host key verification failed|No .* host key is known": (
        "this machine does not know its host key; log in once with `ssh {host}` and compare the key that it shows"
    ),
    r"Permission denied|Too many authentication failures": (
        "it refused the login ({said}); `ssh {host}` must work without a password: start an SSH agent and give it your key "
        "(`ssh-add`), or run this in a terminal, where you can be asked"
    ),
    r"Could not resolve hostname": (
        "no such name is known ({said}); correct `host` in the site file, or connect to the network that knows it"
    ),
    r"Connection refused": "it refuses connections ({said}); is its port right in ~/.ssh/config?",
    r"timed out|No route to host|Network is unreachable|Host is down": (
        "it does not answer ({said}); is this machine connected to the network, or to the VPN that the cluster needs?"
    ),
    r"[Bb]ad configuration option": "ssh cannot use its configuration ({said}); correct that line",
    r"Bad owner or permissions": "ssh refuses its configuration ({said}); that file must be yours: `chmod 600` it",
}


class OverSsh(SlurmMachine):
    """A machine by the name that ``ssh`` takes: ``user@login.cluster.edu``, or a ``Host`` of ~/.ssh/config.

    One command at a time: a server allows ten in one connection. The connection stays for ten minutes, for other processes
    of this user too. Constructing it connects to nothing.
    """

    def __init__(self, host: str) -> None:
        self.host = host
        self._lock = RLock()
        self._reached = False
        self._failure: SchedulerError | None = None
        self._failed_at = float("-inf")

    @property
    @override
    def where(self) -> str:
        return f"on {self.host}"

    @property
    @override
    def no_slurm(self) -> str:
        node = "set `host` in the site file to a login node, where Slurm's commands are"
        return f"on {self.host}, in a login shell either; {node}"

    @cached_property
    @override
    def node(self) -> str:
        return self._output("uname -n").strip().split(".")[0]

    @cached_property
    @override
    def uid(self) -> int:
        return int(self._output("id -u"))

    @property
    @override
    def variables(self) -> Mapping[str, str]:
        return {}

    @override
    def run(
        self,
        command: Sequence[str],
        *,
        stdin: str = "",
        env: Mapping[str, str] | None = None,
        login: bool = False,
        timeout: float,
    ) -> subprocess.CompletedProcess[str]:
        begin = f"{_CLEAN}; {self._says_so}"
        exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in (env or {}).items())
        here = (
            f"if command -v {shlex.quote(command[0])} >/dev/null 2>&1; then {begin}; exec {shlex.join(command)}; fi\n"
        )
        in_login_shell = shlex.join(["exec", "bash", "-lc", f'{begin}; exec "$@"', "bash", *command])
        script = exports + ("" if login else here) + in_login_shell
        done = self._call(script, stdin.encode(), timeout=timeout)
        if done.returncode == 127:
            raise FileNotFoundError(f"{command[0]}: not found {self.where}")
        output, error = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
        return subprocess.CompletedProcess(command, done.returncode, output, error)

    @override
    def lacks(self, programs: Iterable[str]) -> list[str]:
        look = 'for name do command -v "$name" >/dev/null 2>&1 || printf "%s\\n" "$name"; done'
        names = self._output(shlex.join(["set", "--", *programs]) + f"; {look}").split()
        if not names:
            return []
        return self._output(shlex.join(["exec", "bash", "-lc", f"{self._says_so}; {look}", "bash", *names])).split()

    @override
    def folder(self, path: Path) -> tuple[bool, str]:
        script = (
            f'p={_quoted(path)}; while [ ! -e "$p" ]; do p=$(dirname -- "$p"); done\n'
            '[ -d "$p" ] && [ -w "$p" ] && echo yes || echo no; df -PT -- "$p" 2>/dev/null; :'
        )
        writable, *table = self._output(script).splitlines()
        kind = table[1].split()[1:2] if len(table) > 1 else []
        return writable == "yes", "".join(kind) or "unknown"

    @override
    def nearest_with(self, names: Sequence[str], folder: Path) -> Path | None:
        has_all = " && ".join(f'[ -e "$p"/{shlex.quote(name)} ]' for name in names)
        script = (
            f"p={_quoted(folder)}; while :; do\n"
            f'if {has_all}; then printf "%s\\n" "$p"; exit; fi\n'
            '[ "$p" != / ] || exit 0; p=$(dirname -- "$p"); done'
        )
        found = self._output(script).strip()
        return Path(found) if found else None

    @override
    def write(self, folder: Path, files: Mapping[str, bytes], *, private: bool = False) -> None:
        to = _quoted(folder)
        script = (
            f"umask 077; mkdir -p -- {to} && d=$(mktemp -d {to}/.sent.XXXXXX) || exit 1\ntrap 'rm -rf \"$d\"' EXIT\n"
            f'tar -xf - -C "$d" && mv -f -- "$d"/* {to}/'
        )
        self._output(script, _archive(files), OSError)

    @override
    def rename(self, folder: Path, names: Mapping[str, str]) -> None:
        move = 'move() { [ ! -e "$1" ] || mv -f -- "$1" "$2"; }'
        moves = [shlex.join(["move", old, new]) for old, new in names.items()]
        self._output(" && ".join([f"{move}; cd -- {_quoted(folder)}", *moves]), error=OSError)

    @override
    def remove(self, files: Iterable[Path]) -> None:
        files = list(files)
        names = [str(path) for path in files]
        folders = list(dict.fromkeys(str(path.parent) for path in files))
        with suppress(SchedulerError):
            if names:
                rmdir = shlex.join(["rmdir", "--", *folders])
                self._output(f"{shlex.join(['rm', '-f', '--', *names])}; {rmdir} 2>/dev/null; :")

    @override
    def find(self, folder: Path, pattern: str, *, minutes: int = 0) -> list[Path]:
        wanted = "*".join(shlex.quote(part) if part else "" for part in pattern.split("*"))
        old = f' && [ -n "$(find "$f" -prune -mmin +{minutes})" ]' if minutes else ""
        script = (
            f"cd -- {_quoted(folder)} 2>/dev/null || exit 0\n"
            f'ls -1dt -- {wanted} 2>/dev/null | while IFS= read -r f; do [ -f "$f" ]{old} && printf "%s\\n" "$f"; done; :'
        )
        return [folder / name for name in self._output(script).splitlines()]

    @override
    def tail(self, path: Path) -> str:
        return self._output(f"tail -c {TAIL_BYTES} -- {_quoted(path)} 2>/dev/null; :").strip()

    @cached_property
    def _mark(self) -> str:
        """What is printed where the answer begins: shells print greetings before it."""
        return uuid4().hex

    @property
    def _says_so(self) -> str:
        return f"echo {self._mark}"

    def _output(self, script: str, data: bytes = b"", error: type[Exception] = SchedulerError) -> str:
        """What a shell script prints. Raises ``error`` with its message if it fails."""
        try:
            done = self._call(f"{self._says_so}\n{script}", data, timeout=_FILE_SECONDS)
        except subprocess.TimeoutExpired as exc:
            raise AnswerLost(f"{self.host} did not answer in {exc.timeout:g} s; try again later") from exc
        if done.returncode:
            lines = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
            raise error(f"{lines[-1]} ({self.where})")
        return done.stdout.decode(errors="replace")

    def _call(self, script: str, data: bytes, *, timeout: float) -> subprocess.CompletedProcess[bytes]:
        """Run a script that prints ``_mark`` before its answer, which is returned. ``data``: its standard input."""
        with self._lock:
            if self._failure and time.monotonic() - self._failed_at < _QUIET_SECONDS:
                raise self._failure
            done = self._ssh(script, data, timeout if self._reached else max(timeout, self._login_seconds))
            _, begun, answer = done.stdout.rpartition(f"{self._mark}\n".encode())
            if done.returncode == 255:
                self._reached = False
                self._fail(done.stderr.decode(errors="replace"), begun=bool(begun))
            if not begun and done.returncode != 127:
                said = b" ".join([*done.stdout.split(), *done.stderr.split()]).decode(errors="replace")[-300:]
                raise SchedulerError(
                    f"{self.host} did not run a command over SSH but said {said!r}; set `host` in the site file to a login "
                    "node that allows it"
                )
            self._reached, self._failure = True, None
            return subprocess.CompletedProcess(done.args, done.returncode, answer, done.stderr)

    def _fail(self, said: str, *, begun: bool) -> NoReturn:
        """Raise what ssh's exit code 255 means."""
        last = (said.strip().splitlines() or ["ssh says nothing"])[-1].strip()
        for pattern, meaning in _NO_CONNECTION.items():
            if not begun and (found := re.search(f".*(?:{pattern}).*", said)):
                words = meaning.format(said=found[0].strip(), host=self.host, name=self.host.rpartition("@")[2])
                self._failure, self._failed_at = (
                    SchedulerError(f"no connection to {self.host}: {words}"),
                    time.monotonic(),
                )
                raise self._failure from ConnectionError(said)
        raise AnswerLost(f"the connection to {self.host} was lost ({last}); try again")

    def _ssh(self, script: str, data: bytes, timeout: float) -> subprocess.CompletedProcess[bytes]:
        """ssh's own exit code and output. Its messages go to a file: a process of its that stays would keep a pipe open."""
        text = script.encode()
        command = ["ssh", "-T", *_as_arguments(self._options), "--", self.host, _START]
        with tempfile.TemporaryFile() as errors:
            try:
                done = subprocess.run(
                    command,
                    input=b"%d\n%s%s" % (len(text), text, data),
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    timeout=timeout,
                )
            except FileNotFoundError as exc:
                raise SchedulerError("there is no ssh here; install OpenSSH's client") from exc
            errors.seek(0)
            return subprocess.CompletedProcess(command, done.returncode, done.stdout, errors.read())

    @cached_property
    def _options(self) -> dict[str, object]:
        batch = {} if _can_ask() else {"BatchMode": "yes"}
        return {**batch, **_OPTIONS, **({} if self._shares_already else _connection())}

    @property
    def _shares_already(self) -> bool:
        """Whether the user's configuration says where a connection is shared; then it says how, too."""
        with suppress(OSError, subprocess.SubprocessError):
            shown = subprocess.run(
                ["ssh", "-G", "--", self.host], stdin=subprocess.DEVNULL, capture_output=True, timeout=_CONNECT_SECONDS
            )
            return bool(re.search(rb"^controlpath (?!none$)", shown.stdout, re.MULTILINE))
        return False

    @property
    def _login_seconds(self) -> float:
        return _LOGIN_SECONDS if "BatchMode" in self._options else _PERSON_SECONDS


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _as_arguments(options: Mapping[str, object]) -> list[str]:
    return [word for name, value in options.items() for word in ("-o", f"{name}={value}")]


def _can_ask() -> bool:
    """Whether there is a terminal in which ssh can ask for a password or a second factor."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _connection() -> dict[str, object]:
    """The options for one connection that stays and is reused; none where there is no folder for its socket."""
    folder = Path(os.environ.get("XDG_RUNTIME_DIR") or "/tmp", f"cefr-batch-{os.getuid()}")  # noqa: S108 (checked below)
    if len(os.fsencode(folder)) > _LONGEST_FOLDER:
        folder = Path("/tmp", folder.name)  # noqa: S108
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
            return {**_SHARED, "ControlPath": f"{folder}/%C"}
    return {}


def _archive(files: Mapping[str, bytes]) -> bytes:
    """A tar archive of files with mode 600."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(data), 0o600, int(time.time())
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()
