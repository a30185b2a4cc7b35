"""A login node: a real sshd on loopback, for a user of its own whose shell finds nothing but a Unix system, and whose login
shell finds Slurm's commands. Debian's openssh-server, and root."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from clusters import until
from clusters.s3 import free_ports

USER, HOST = "cefr-batch-e2e", "login"
TOOLS = (  # what is on PATH on the other side
    "awk", "bash", "cat", "cut", "dd", "df", "dirname", "echo", "env", "find", "grep", "head", "id", "kill", "ls", "mkdir",
    "mktemp", "mv", "printf", "ps", "rm", "rmdir", "sed", "sh", "sleep", "tail", "tar", "test", "touch", "tr", "uname",
)  # fmt: skip
_SSHD = "/usr/sbin/sshd"


def why_not() -> str:
    """Why no sshd can be started here; empty if it can."""
    if os.geteuid() != 0:
        return "needs root, to start an sshd for another user"
    if not os.path.exists(_SSHD) and not shutil.which("apt-get"):
        return "needs sshd, or apt-get to install it"
    return ""


@dataclass
class LoginNode:
    """``folder``: of the server and of the client that ``laptop`` puts on PATH; ``home``: of the user on the other side."""

    folder: Path
    home: Path
    port: int

    @property
    def key(self) -> Path:
        return self.folder / "id_ed25519"

    @property
    def laptop(self) -> Path:
        """A folder for PATH: ssh with this test's configuration, as a user's own is in ~/.ssh/config."""
        return self.folder / "laptop"

    @property
    def python(self) -> Path:
        """The Python that the user on the other side has installed cefr-batch for."""
        return self.home / "env" / "python"

    def configure(self, **changed: object) -> None:
        """Write the client's configuration; its connections end."""
        values = {
            "HostName": "127.0.0.1", "Port": self.port, "User": USER, "IdentityFile": self.key, "IdentityAgent": "none",
            "IdentitiesOnly": "yes", "UserKnownHostsFile": self.folder / "known_hosts", "StrictHostKeyChecking": "yes",
            "ControlMaster": "auto", "ControlPersist": "60", "ControlPath": self.folder / "%C",
        }  # fmt: skip
        self.disconnect()
        lines = [f"  {name} {value}" for name, value in {**values, **changed}.items() if value is not None]
        (self.folder / "config").write_text("\n".join([f"Host {HOST}", *lines, ""]))

    def disconnect(self) -> None:
        if (self.folder / "config").exists():
            subprocess.run([self.laptop / "ssh", "-O", "exit", HOST], capture_output=True)

    @property
    def was_cut(self) -> bool:
        """Whether the connection was cut where ``cut_in`` said."""
        return (self.home / "cut").exists()

    def cut_in(self, program: str, script: str, *, for_good: bool) -> None:
        """Have a program on the other side run this instead, once; ``REAL`` in it is the program itself. ``for_good``: ssh
        has no network from then on."""
        tool, real = self.folder / "tools" / program, shutil.which(program)
        done = f"touch {self.home}/cut{f' {self.home}/no-network' * for_good}"
        text = script.replace("REAL", str(real)).replace("kill -9", f"{done}; kill -9")
        whole = f'#!/bin/sh\n[ ! -e {self.home}/cut ] || exec {real} "$@"\n{text}\n'
        tool.unlink(missing_ok=True)
        tool.write_text(whole)
        tool.chmod(0o755)

    def whole(self) -> None:
        """Undo what ``cut_in`` did."""
        for name in ("cut", "no-network"):
            (self.home / name).unlink(missing_ok=True)
        for path in (self.folder / "tools").iterdir():
            if not path.is_symlink():
                path.unlink()
                if path.name in TOOLS:
                    path.symlink_to(str(shutil.which(path.name, path="/usr/bin:/bin")))


@contextmanager
def login_node(path: str) -> Iterator[LoginNode]:
    """A login node. ``path``: where its login shell finds Slurm's commands."""
    subprocess.run([Path(__file__).with_name("packages.sh"), "openssh-server"], check=True)
    subprocess.run(["userdel", "--force", "--remove", USER], capture_output=True)
    subprocess.run(["useradd", "--create-home", "--shell", "/bin/bash", "--password", "*", USER], check=True)
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="cefr-batch-sshd-") as folder:
        node = LoginNode(Path(folder), Path(pwd.getpwnam(USER).pw_dir), free_ports(1)[0])
        server = _start(node, path)
        try:
            yield node
        finally:
            node.disconnect()
            server.terminate()
            server.wait()
            subprocess.run(["userdel", "--force", "--remove", USER], capture_output=True)


def _start(node: LoginNode, path: str) -> subprocess.Popen[bytes]:
    folder = node.folder
    folder.chmod(0o755)
    for name in ("laptop", "tools"):
        (folder / name).mkdir()
    for name in TOOLS:
        if found := shutil.which(name, path="/usr/bin:/bin"):
            (folder / "tools" / name).symlink_to(found)
    ssh = f'exec {shutil.which("ssh")} -F {folder}/config "$@"'
    lost = "echo 'ssh: connect to host login port 22: Network is unreachable' >&2; exit 255"
    (node.laptop / "ssh").write_text(f"#!/bin/sh\n[ ! -e {node.home}/no-network ] || {{ {lost}; }}\n{ssh}\n")
    (node.laptop / "ssh").chmod(0o755)
    _key(node.key)
    _key(folder / "host_key")
    (folder / "authorized_keys").write_bytes(node.key.with_suffix(".pub").read_bytes())
    host_key = (folder / "host_key.pub").read_text().split()[:2]
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{node.port} {' '.join(host_key)}\n")
    _furnish(node, path)
    options = {
        "Port": node.port, "ListenAddress": "127.0.0.1", "HostKey": folder / "host_key", "PidFile": "none", "UsePAM": "no",
        "AuthorizedKeysFile": folder / "authorized_keys", "StrictModes": "no", "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no", "AllowUsers": USER, "SetEnv": f"PATH={folder}/tools",
    }  # fmt: skip
    (folder / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in options.items()))
    node.configure()
    command = [_SSHD, "-D", "-E", str(folder / "sshd.log"), "-f", str(folder / "sshd_config")]
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    until(lambda: subprocess.run([node.laptop / "ssh", HOST, "exit"], capture_output=True).returncode == 0, 30)
    node.disconnect()
    return server


def _furnish(node: LoginNode, path: str) -> None:
    """The home folder: greetings, Slurm's commands for login shells alone, a Python with the packages of this one."""
    (node.home / ".bashrc").write_text("echo 'Welcome to the cluster. Your quota: 7%'\n")
    (node.home / ".bash_profile").write_text(
        f"echo 'Maintenance on Friday'\nexport PATH={node.folder}/tools:{path}:/usr/bin:/bin\n"
    )
    node.python.parent.mkdir()
    packages = ":".join(one for one in sys.path if one.endswith("site-packages") or (Path(one) / "cefr_batch").is_dir())
    node.python.write_text(f'#!/bin/sh\nexport PYTHONPATH={packages}\nexec {_interpreter()} "$@"\n')
    node.python.chmod(0o755)
    subprocess.run(["chown", "-R", f"{USER}:", node.home], check=True)


def _interpreter() -> str:
    """A Python of this one's minor version that the user may run."""
    found = [os.path.realpath(sys.executable), f"/usr/bin/python3.{sys.version_info[1]}"]
    check = ["runuser", "-u", USER, "--"]
    return next(one for one in found if subprocess.run([*check, one, "-c", ""], capture_output=True).returncode == 0)


def _key(path: Path) -> None:
    for one in (path, path.with_suffix(".pub")):
        one.unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
