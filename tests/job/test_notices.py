"""Notices of a run's end, to a real mail server and a real receiver of webhooks: one for each event, whatever is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from support.job_runs import claimed_run, stored
from support.stored_runs import add_complete, add_ended, add_submission, days_ago

from cefr_batch.config.schema import NotifySpec
from cefr_batch.job import notices
from cefr_batch.job.notices import Notices, split_addresses
from cefr_batch.records import layout
from cefr_batch.runner.submission import newest_attempt
from cefr_batch.schedulers.sites import SITE_NOTIFY
from cefr_batch.store.local import LocalStore

PASSWORD = "s3cr3t-of-the-mailbox"
RUN = "tiny-b1-peft-v1"


@dataclass
class Received:
    """What a webhook receiver and a mail server on loopback were sent. ``addresses``: for the environment variable."""

    hooks: list[dict[str, Any]] = field(default_factory=list)
    mails: list[Message] = field(default_factory=list)
    addresses: str = ""

    async def handle_DATA(self, _server: object, _session: object, envelope: Any) -> str:
        self.mails.append(message_from_bytes(envelope.content))
        return "250 OK"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture
def received() -> Iterator[Received]:
    got = Received()

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.hooks.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    web = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    Thread(target=web.serve_forever, args=(0.02,), daemon=True).start()
    mail = Controller(got, hostname="127.0.0.1", port=free_port())
    mail.start()
    sender = f"mailto://127.0.0.1:{mail.port}?from=job@example.org&to=me@example.org&smtp=127.0.0.1&mode=insecure"
    got.addresses = f"json://me:{PASSWORD}@127.0.0.1:{web.server_port}/runs\n{sender}"
    yield got
    mail.stop()
    web.shutdown()
    web.server_close()


def run_job(store: LocalStore, run: str, work: Path, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cefr_batch", "run-job", run, "--store", store.url, "--work", str(work)]
    inherited = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=inherited)


def everything(store: LocalStore) -> bytes:
    return b"".join(store.get(one.key) for one in store.objects(""))


@pytest.mark.slow
def test_completion_is_told_once_under_kill_and_resume(tiny_model: Path, tmp_path: Path, received: Received) -> None:
    """Killed in training, resumed, and started again when it is complete; the addresses are in no log and no object."""
    store = LocalStore(tmp_path / "store")
    run = claimed_run(store, tiny_model, "notify=CEFR_BATCH_NOTIFY_TEAM", "training.max_steps=40")
    environment = {"CEFR_BATCH_NOTIFY_TEAM": received.addresses}
    job = run_job(store, run, tmp_path / "work", **environment)
    while not any(layout.CHECKPOINTS in one.key for one in store.objects(layout.run_key(run) + "/")):
        assert job.poll() is None, job.communicate()[0]
        time.sleep(0.02)
    job.send_signal(signal.SIGKILL)
    job.communicate()
    assert (received.hooks, received.mails) == ([], [])
    outputs = []
    for _ in range(2):
        job = run_job(store, run, tmp_path / "work", **environment)
        outputs.append(job.communicate()[0])
        assert job.returncode == 0, outputs[-1]
    (hook,), (mail,) = received.hooks, received.mails
    assert hook["title"] == mail["Subject"] == f"cefr-batch: {run} completed"
    losses = stored(store, run, layout.METRICS)
    assert f"Loss of the responses: {losses['baseline']['response']['loss']:.3f} before, " in hook["message"]
    assert "Level A2, 40 steps" in hook["message"]
    assert stored(store, run, "notices/completed.json")["outcome"] == "sent"
    assert "notices/completed.json" not in json.dumps(stored(store, run, layout.MANIFEST))
    assert PASSWORD not in "".join(outputs)
    assert PASSWORD.encode() not in everything(store)


@pytest.mark.slow
def test_a_failure_is_told_once_however_often_it_is_retried_and_again_after_resume(
    tiny_model: Path, tmp_path: Path, received: Received
) -> None:
    store, model = LocalStore(tmp_path / "store"), tmp_path / "model"
    shutil.copytree(tiny_model, model)
    run = claimed_run(store, model, "notify=CEFR_BATCH_NOTIFY")
    shutil.rmtree(model)
    for _ in range(2):
        job = run_job(store, run, tmp_path / "work", CEFR_BATCH_NOTIFY=received.addresses)
        output, _ = job.communicate()
        assert job.returncode, output
    (hook,) = received.hooks
    assert len(received.mails) == 1
    assert hook["title"] == f"cefr-batch: {run} failed"
    first, *_ = hook["message"].splitlines()
    assert first == stored(store, run, layout.STATUS)["message"].partition("\n")[0]
    assert f"model {model}" in first
    add_submission(store, run, days_ago(0))  # as resume records it: a new one, after so many attempts
    key = layout.run_key(run, layout.SUBMISSION)
    store.put_json(key, {**store.get_json(key), "attempts_before": newest_attempt(store, run)})
    job = run_job(store, run, tmp_path / "work", CEFR_BATCH_NOTIFY=received.addresses)
    assert job.communicate()
    assert len(received.hooks) == 2


def test_preemptions_are_told_when_they_are_a_loop_and_once(
    store: LocalStore, received: Received, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CEFR_BATCH_NOTIFY", received.addresses)
    settings = NotifySpec(preemptions=3)
    told = []
    for attempt in range(1, 6):
        Notices(store, RUN, settings).ended("PREEMPTED", attempt, f"stopped after a checkpoint at step {attempt}")
        told.append(len(received.hooks))
    assert told == [0, 0, 1, 1, 1]
    assert received.hooks[0]["title"] == f"cefr-batch: {RUN} keeps being preempted"
    assert "stopped 3 times since it was submitted" in received.hooks[0]["message"]
    assert "stopped after a checkpoint at step 3" in received.hooks[0]["message"]


def test_what_somebody_cancelled_and_events_that_nobody_wants_are_not_told(
    store: LocalStore, received: Received, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CEFR_BATCH_NOTIFY", received.addresses)
    add_ended(store, RUN, "CANCELLED", days_ago(0))
    for attempt in range(1, 5):
        Notices(store, RUN, NotifySpec()).ended("PREEMPTED", attempt, "cancelled")
    other = "tiny-b1-peft-v2"
    Notices(store, other, NotifySpec(events=["completed"])).ended("FAILED", 1, "no")
    Notices(store, other, None).ended("FAILED", 1, "no")
    assert received.hooks == []
    assert not list(store.objects(layout.run_key(other) + "/"))


def test_a_site_tells_of_runs_without_such_a_setting(
    store: LocalStore, received: Received, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CEFR_BATCH_NOTIFY_SITE", received.addresses)
    monkeypatch.setenv(SITE_NOTIFY, NotifySpec(variable="CEFR_BATCH_NOTIFY_SITE").model_dump_json())
    Notices(store, RUN, None).ended("FAILED", 1, "the disk is full\nmore of it")
    assert received.hooks[0]["message"].splitlines()[:2] == ["the disk is full", f"cefr-batch logs {RUN}"]
    monkeypatch.setenv(SITE_NOTIFY, "{")
    Notices(store, "tiny-b1-peft-v2", None).ended("FAILED", 1, "no")
    assert len(received.hooks) == 1


def test_a_dead_endpoint_costs_no_more_than_the_bound_and_does_not_keep_others_from_being_told(
    store: LocalStore, received: Received, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody listens; a server that never answers, which is still silent when the job has gone on."""
    monkeypatch.setenv("CEFR_BATCH_NOTIFY", f"json://127.0.0.1:{free_port()}/{PASSWORD}, {received.addresses}")
    Notices(store, RUN, NotifySpec()).ended("FAILED", 1, "no")
    assert len(received.hooks) == len(received.mails) == 1
    record = stored(store, RUN, "notices/failed-after-0.json")
    assert (record["outcome"], record["reason"]) == ("not sent", "JSON did not accept it")

    monkeypatch.setattr(notices, "_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("CEFR_BATCH_NOTIFY", f"json://127.0.0.1:{silent.getsockname()[1]}/{PASSWORD}")
        Notices(store, "tiny-b1-peft-v2", NotifySpec()).ended("FAILED", 1, "no")
    record = stored(store, "tiny-b1-peft-v2", "notices/failed-after-0.json")
    assert (record["outcome"], record["reason"]) == ("not sent", "no answer in 0.5 s")
    assert PASSWORD.encode() not in everything(store)


def test_a_job_that_was_killed_while_it_sent_is_not_repeated_by_another(
    store: LocalStore, received: Received, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CEFR_BATCH_NOTIFY", received.addresses)
    add_complete(store, RUN)

    def killed(*_: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(notices, "_sent", killed)
        with pytest.raises(KeyboardInterrupt):
            Notices(store, RUN, NotifySpec()).completed()
    Notices(store, RUN, NotifySpec()).completed()
    assert received.hooks == []
    assert stored(store, RUN, "notices/completed.json")["outcome"] == "sending"


@pytest.mark.parametrize(
    ("addresses", "reason"),
    [
        ("", "the job has no environment variable CEFR_BATCH_NOTIFY"),
        (f"nonsense://{PASSWORD} hello", "2 of the addresses are of no kind that apprise knows"),
    ],
)
def test_why_nothing_was_sent_is_stored_without_an_address(
    addresses: str, reason: str, store: LocalStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CEFR_BATCH_NOTIFY", addresses)
    Notices(store, RUN, NotifySpec()).ended("FAILED", 1, "no")
    assert stored(store, RUN, "notices/failed-after-0.json")["reason"] == reason
    assert PASSWORD not in caplog.text


def test_addresses_are_separated_by_white_space_or_commas() -> None:
    assert split_addresses(" json://a/b,c mailto://x?to=a,b,slack://t/u/v\n\ntgram://1 ") == [
        "json://a/b,c",
        "mailto://x?to=a,b",
        "slack://t/u/v",
        "tgram://1",
    ]
