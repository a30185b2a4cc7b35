"""Fault after fault against one run after another, until as many faults have hit as were asked for."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock
from support.runs import same_as, settings

from cefr_batch.records.layout import local_queue
from chaos.arena import Arena
from chaos.faults import Attack, Fault

SETTINGS = [  # as small as a run can be that still stores several checkpoints: most of its time it imports libraries
    "backend=peft",
    "data.examples=40",
    "data.words_per_example=3",
    "lora.rank=4",
    "evaluation.max_examples=4",
    "generation.examples=1",
    "generation.max_new_tokens=8",
    "training.batch_size=2",
    "training.gradient_accumulation_steps=1",
    "training.epochs=4",
    "training.eval_steps=10",
    "training.logging_steps=7",
]
LIMIT_SECONDS = 300.0  # in which an attempt ends or goes on, once its fault has passed
_ENDED = {"SUCCEEDED", "FAILED", "PREEMPTED"}
_TRACEBACK = "Traceback (most recent call last)"


def tell(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, flush=True)


def possible(faults: Iterable[Fault], arena: Arena) -> list[Fault]:
    """Those that this store and this machine allow; of the others it tells why not."""
    reasons = [(fault, fault.why_not(arena)) for fault in faults]
    for fault, why in reasons:
        if why:
            tell(f"skipped: {fault.kind}: {why}")
    return [fault for fault, why in reasons if not why]


@dataclass
class Campaign:
    """``reference``: reads a document of the run that was left alone. In seconds: ``longest``, for which a fault lasts at
    most, and ``pause``, until the next one at most."""

    arena: Arena
    model: Path
    reference: Callable[[str], Any]
    dice: random.Random
    faults: Sequence[Fault]
    longest: float
    pause: float
    counts: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    attempts: int = 0
    _bag: list[Fault] = field(default_factory=list)

    def attack(self, faults: int) -> None:
        """Attack one run after another, with so many faults in all; each must end as the reference did."""
        while self.counts.total() < faults:
            attack = Attack(self.arena, self._submitted(), self.dice, self.longest)
            try:
                self._attack_run(attack, faults)
                self._check(attack.run)
            except BaseException:
                _tell_all(attack)
                raise
            finally:
                attack.kill_job()

    def _submitted(self) -> str:
        words = ["submit", "--level", "B1", "--json", *settings(f"model.name={self.model}", *SETTINGS)]
        done = self.arena.command(*words)
        assert done.returncode == 0, done.stderr
        self.runs += 1
        self.attempts += 1
        return str(json.loads(done.stdout)["runs"][0]["run"])

    def _attack_run(self, attack: Attack, faults: int) -> None:
        """Until the run is complete. When there were enough faults, whatever is left of it is left alone."""
        while not attack.complete:
            if self.counts.total() < faults:
                self._wait_a_moment(attack)
                self._strike(attack, self._next())
            else:
                _settle(attack, lambda: attack.job is None)
            if attack.job is None and not attack.complete:
                self._resume(attack)
        _settle(attack, lambda: attack.job is None)

    def _next(self) -> Fault:
        """Each kind once in a random order, then all of them again."""
        if not self._bag:
            self._bag = self.dice.sample(self.faults, len(self.faults))
        return self._bag.pop()

    def _wait_a_moment(self, attack: Attack) -> None:
        """Until the next fault, rather short than long, but no longer than the attempt lives. A random moment has no
        condition to wait for."""
        deadline = time.monotonic() + self.pause * self.dice.random() ** 2
        while time.monotonic() < deadline and attack.job is not None:
            time.sleep(0.1)

    def _strike(self, attack: Attack, fault: Fault) -> None:
        lived, was = attack.job is not None, attack.status()
        if not fault.strike(attack):
            self._bag.insert(0, fault)  # it found nothing to hit, and is tried again
            return
        attack.may_end |= not fault.survived
        self.counts[fault.kind] += 1
        where = f"{was.get('stage', 'before its first sign of life')} {was.get('step') or ''}"
        tell(f"{self.counts.total():4} {attack.run} attempt {was.get('attempt', 0)} at {where}: {fault.kind}")
        lifted = attack.status()
        _settle(attack, lambda: attack.job is None or attack.status() != lifted)
        if lived and not attack.may_end and attack.job is None and not attack.complete:
            raise AssertionError(f"{fault.kind} ended the attempt: {attack.status().get('message')}")

    def _resume(self, attack: Attack) -> None:
        (found,) = json.loads(self.arena.command("status", attack.run, "--json").stdout)["runs"]
        tell(f"     {found['state']}: {str(found['reason']).partition(chr(10))[0]}")
        assert found["state"] in _ENDED, found
        assert "internal error" not in found["reason"], found["reason"]
        _check_texts(self.arena, attack.run)
        if found["state"] != "SUCCEEDED":
            done = self.arena.command("resume", attack.run, env=attack.next_env)
            assert done.returncode == 0, done.stderr
            attack.next_env, attack.may_end = {}, False
            self.attempts += 1

    def _check(self, run: str) -> None:
        """The run is as the reference is, and nothing was left behind."""
        arena = self.arena
        same_as(self.reference, lambda name: arena.store.get_json(f"runs/{run}/{name}"))
        verified = arena.command("verify", run)
        assert verified.returncode == 0, verified.stderr
        _check_texts(arena, run)
        assert arena.store.discard_unfinished("runs/") == 0, "unfinished uploads are left"
        assert not arena.work(run).root.exists(), "the work folder is left"
        own = {arena.url, str(arena.work(run).root)}
        alive = [one.info for one in psutil.process_iter(["pid", "cmdline"]) if own & set(one.info["cmdline"] or [])]
        assert alive == [], "processes are left"
        for lock in (*arena.work(run).root.parent.glob("*.lock"), *local_queue().glob("*.lock")):
            with FileLock(lock, timeout=0):
                pass


def _settle(attack: Attack, condition: Callable[[], bool]) -> None:
    """Wait until the attempt has ended or goes on; there is a bound to it."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{attack.run} does nothing for {LIMIT_SECONDS:.0f} s"
        time.sleep(0.2)


def _check_texts(arena: Arena, run: str) -> None:
    """Nothing that a user may read shows a traceback."""
    for where, text in _texts(arena, run):
        assert _TRACEBACK not in text, f"{where}:\n{text}"


def _texts(arena: Arena, run: str) -> Iterator[tuple[str, str]]:
    yield "printed by commands", "\n".join(arena.printed)
    launch_log = arena.work(run).launch_log
    if launch_log.is_file():
        yield "launch.log", launch_log.read_text(errors="replace")
    for stored in arena.store.objects(f"runs/{run}/"):
        if stored.key.endswith((".log", "status.json")):
            yield stored.key, arena.store.get(stored.key).decode(errors="replace")


def _tell_all(attack: Attack) -> None:
    """What there is to find the reason of a failure: the ends of all texts, since the disks go with the test."""
    for where, text in _texts(attack.arena, attack.run):
        tell(f"--- {where}:\n{text[-3000:]}")


def totals(campaign: Campaign) -> str:
    """The count of faults by kind."""
    name, total = campaign.arena.name, campaign.counts.total()
    lines = [f"{count:5}  {kind}" for kind, count in sorted(campaign.counts.items())]
    return "\n".join([f"{name}: {total} faults in {campaign.attempts} attempts at {campaign.runs} runs:", *lines])
