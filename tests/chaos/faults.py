"""What is done to a run: one small class for each kind of fault."""

from __future__ import annotations

import math
import random
import shutil
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import ClassVar

import psutil
from clusters.proxy import Proxy
from typing_extensions import override

from chaos.arena import Arena, child_of

_DEAD_SECONDS = 60.0


@dataclass
class Attack:
    """A run under attack. ``longest``: seconds for which a fault lasts at most; ``next_env``: for the run's next attempt;
    ``may_end``: a fault has hit this attempt that may end it."""

    arena: Arena
    run: str
    dice: random.Random
    longest: float
    next_env: dict[str, str] = field(default_factory=dict)
    may_end: bool = False

    @property
    def job(self) -> psutil.Process | None:
        """The run's job, while it lives."""
        return self.arena.job(self.run)

    @property
    def complete(self) -> bool:
        return self.arena.complete(self.run)

    def status(self) -> dict[str, object]:
        """What the job wrote last; empty before."""
        return self.arena.status(self.run)

    def hold(self, seconds: float = 10.0) -> None:
        """Let a fault last: of its nature there is nothing to wait for. Short times are as likely as long ones."""
        time.sleep(math.exp(self.dice.uniform(math.log(0.3), math.log(min(seconds, self.longest)))))

    def targets(self, which: str) -> list[psutil.Process]:
        """The living processes of the run that are meant by ``job``, ``child`` or ``both``."""
        job = self.job
        child = child_of(job) if job else None
        chosen = {"job": [job], "child": [child], "both": [job, child]}[which]
        return [one for one in chosen if one]

    def send(self, number: signal.Signals, which: str) -> bool:
        """Send a signal to ``targets``. Returns whether there were any."""
        found = self.targets(which)
        for process in found:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        return bool(found)

    def kill_job(self) -> None:
        """SIGKILL; the kernel takes the children with it."""
        if (job := self.job) is None:
            return
        with suppress(psutil.NoSuchProcess):
            family = [job, *job.children(recursive=True)]
            job.kill()
            _, alive = psutil.wait_procs(family, timeout=_DEAD_SECONDS)
            assert not alive, f"these outlived their job: {alive}"


class Fault(ABC):
    """One kind of fault. ``survived``: an attempt goes on when the fault has passed."""

    survived: ClassVar[bool] = False

    @property
    @abstractmethod
    def kind(self) -> str:
        """What it is called in the count."""

    def why_not(self, arena: Arena) -> str:
        """Why it cannot be done there; empty if it can."""
        return ""

    @abstractmethod
    def strike(self, attack: Attack) -> bool:
        """Do it, and lift it again. Returns whether it hit anything."""


@dataclass(frozen=True)
class Killed(Fault):
    """SIGKILL of the job, its child or both; ``forget``: the machine's folder is lost, too."""

    which: str
    forget: bool = False

    @property
    @override
    def kind(self) -> str:
        return f"SIGKILL of {self.which}{', its folder lost' * self.forget}"

    @override
    def strike(self, attack: Attack) -> bool:
        hit = attack.send(signal.SIGKILL, self.which)
        if self.forget:
            attack.kill_job()
            shutil.rmtree(attack.arena.work(attack.run).root, ignore_errors=True)
        return hit


@dataclass(frozen=True)
class Stopped(Fault):
    """SIGSTOP of one process for up to a minute, then SIGCONT."""

    which: str
    survived: ClassVar[bool] = True

    @property
    @override
    def kind(self) -> str:
        return f"SIGSTOP of {self.which}"

    @override
    def strike(self, attack: Attack) -> bool:
        found = attack.targets(self.which)
        with suppress(psutil.NoSuchProcess):
            for process in found:
                process.suspend()
            attack.hold(60.0)
            for process in found:
                process.resume()
        return bool(found)


@dataclass(frozen=True)
class Signalled(Fault):
    """A signal that asks the job, or its child, to end."""

    number: signal.Signals
    which: str

    @property
    @override
    def kind(self) -> str:
        return f"{self.number.name} to {self.which}"

    @override
    def strike(self, attack: Attack) -> bool:
        return attack.send(self.number, self.which)


@dataclass(frozen=True)
class OtherClock(Fault):
    """The next attempt runs with a clock that is hours ahead or behind; minutes where it signs requests: S3 servers refuse
    a signature that is a quarter of an hour off, and say so."""

    kind = "clocks apart"

    @override
    def why_not(self, arena: Arena) -> str:
        return "" if arena.clock else "there is no C compiler"

    @override
    def strike(self, attack: Attack) -> bool:
        attack.kill_job()
        seconds = attack.dice.choice((-10, -5, -1, 1, 5, 10)) * (60 if attack.arena.server else 3600)
        attack.next_env = {"LD_PRELOAD": str(attack.arena.clock), "CHAOS_CLOCK_SECONDS": str(seconds)}
        return True


@dataclass(frozen=True)
class Full(Fault):
    """No byte is free on the disk of this name for a while."""

    disk: str

    @property
    @override
    def kind(self) -> str:
        return f"disk full: {self.disk}"

    @override
    def why_not(self, arena: Arena) -> str:
        if self.disk not in arena.disks:
            return "this store has no folder"
        return "" if arena.disks[self.disk].real else "mounting is not permitted"

    @override
    def strike(self, attack: Attack) -> bool:
        with attack.arena.disks[self.disk].full():
            attack.hold()
        return True


class _OfProxy(Fault):
    """Something that the proxy before the store does to every connection."""

    @override
    def why_not(self, arena: Arena) -> str:
        return "" if arena.proxy else "this store is not behind a proxy"

    @override
    def strike(self, attack: Attack) -> bool:
        assert attack.arena.proxy
        self.begin(attack.arena.proxy)
        attack.hold()
        self.end(attack.arena.proxy)
        return True

    def begin(self, proxy: Proxy) -> None:
        """Begin with it."""

    def end(self, proxy: Proxy) -> None:
        """Let it pass."""


@dataclass(frozen=True)
class Cut(_OfProxy):
    """Every open connection to the store is reset."""

    kind = "store cut"
    survived: ClassVar[bool] = True

    @override
    def begin(self, proxy: Proxy) -> None:
        proxy.cut()


@dataclass(frozen=True)
class Slow(_OfProxy):
    """Every piece takes half a second longer."""

    kind = "store slow"
    survived: ClassVar[bool] = True

    @override
    def begin(self, proxy: Proxy) -> None:
        proxy.delay_seconds = 0.5

    @override
    def end(self, proxy: Proxy) -> None:
        proxy.delay_seconds = 0.0


@dataclass(frozen=True)
class Refusing(_OfProxy):
    """The store takes no connection."""

    kind = "store refusing"
    survived: ClassVar[bool] = True

    @override
    def begin(self, proxy: Proxy) -> None:
        proxy.refusing = True
        proxy.cut()

    @override
    def end(self, proxy: Proxy) -> None:
        proxy.refusing = False


@dataclass(frozen=True)
class Answering(_OfProxy):
    """Every request is answered with this error."""

    status: str
    code: str
    survived: ClassVar[bool] = True

    @property
    @override
    def kind(self) -> str:
        return f"store answering {self.status} {self.code}"

    @override
    def begin(self, proxy: Proxy) -> None:
        body = f"<Error><Code>{self.code}</Code><Message>{self.code}</Message></Error>".encode()
        head = f"HTTP/1.1 {self.status} No\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}"
        proxy.answer = f"{head}\r\nConnection: close\r\n\r\n".encode() + body
        proxy.cut()

    @override
    def end(self, proxy: Proxy) -> None:
        proxy.answer = None


@dataclass(frozen=True)
class DamagedUpload(_OfProxy):
    """One byte of an upload is flipped on its way."""

    kind = "byte of an upload flipped"
    survived: ClassVar[bool] = True

    @override
    def strike(self, attack: Attack) -> bool:
        proxy = attack.arena.proxy
        assert proxy
        before, proxy.damage_upload_larger_than = proxy.damaged, 4096
        _wait(lambda: proxy.damaged > before or attack.job is None)
        proxy.damage_upload_larger_than = None
        return proxy.damaged > before


@dataclass(frozen=True)
class DamagedDownload(_OfProxy):
    """One byte of what the next attempt reads is flipped on its way: the machine's folder is lost, so it reads a lot."""

    kind = "byte of a download flipped"

    @override
    def strike(self, attack: Attack) -> bool:
        assert attack.arena.proxy
        Killed("job", forget=True).strike(attack)
        attack.arena.proxy.damage_object_after = attack.dice.randrange(8)
        return True


@dataclass(frozen=True)
class ServerKilled(Fault):
    """The store's server is killed, and started again with the same data."""

    kind = "store's server killed"
    survived: ClassVar[bool] = True

    @override
    def why_not(self, arena: Arena) -> str:
        return "" if arena.server else "this store has no server"

    @override
    def strike(self, attack: Attack) -> bool:
        assert attack.arena.server
        attack.arena.server.kill()
        attack.hold()
        attack.arena.server.start()
        return True


FAULTS: Sequence[Fault] = (
    *(Killed(which) for which in ("job", "child", "both")),
    Killed("job", forget=True),
    Stopped("job"),
    Stopped("child"),
    *(Signalled(number, "job") for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)),
    Signalled(signal.SIGTERM, "child"),
    OtherClock(),
    *(Full(name) for name in ("store", "work", "cache", "tmp")),
    Cut(),
    Slow(),
    Refusing(),
    Answering("503", "SlowDown"),
    Answering("403", "ExpiredToken"),
    DamagedUpload(),
    DamagedDownload(),
    ServerKilled(),
)


def _wait(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    """Until it is true, or the time is over."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
