"""Must show: runs in object storage, whole and safe whatever the server and the network do."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from clusters.proxy import Proxy
from clusters.s3 import KEYS, Server
from support.runs import ROOT, settings
from support.stored_runs import add_complete, add_ended, days_ago

from cefr_batch.files import sha256_file
from cefr_batch.store import Store, open_store

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("aws")]

SETTINGS = [
    "backend=peft",
    "data.examples=60",
    "lora.rank=4",
    "evaluation.max_examples=6",
    "generation.examples=2",
    "generation.max_new_tokens=8",
    "training.batch_size=2",
    "training.gradient_accumulation_steps=1",
    "training.epochs=4",
    "training.eval_steps=20",
    "training.logging_steps=7",
]
# What a machine's environment may hold, and nobody else may ever see.
PLANTED = {
    "HF_TOKEN": "hf_plantedSecretToken",
    "WANDB_API_KEY": "planted-wandb-secret",
    "AWS_SESSION_TOKEN": "",
    "GITHUB_TOKEN": "ghp_plantedSecret",
    "DATABASE_URL": "postgres://user:planted-password@db/x",
    "MY_PASSWORD": "planted-in-plain-sight",
}


def seeded(name: str) -> random.Random:
    seed = os.environ.get("CEFR_BATCH_TEST_SEED") or str(time.time_ns())
    print(f"CEFR_BATCH_TEST_SEED={seed} ({name})")
    return random.Random(seed)


def cefr_batch(*arguments: str, store: str, cwd: Path = ROOT, env: dict[str, str] | None = None) -> str:
    """Run a command; it must succeed. Returns what it printed."""
    command = [sys.executable, "-m", "cefr_batch", *arguments, "--store", store]
    done = subprocess.run(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


def adapter_sha256(store: Store, run: str) -> str:
    objects = store.get_json(f"runs/{run}/manifest.json")["objects"]
    return next(str(o["sha256"]) for o in objects if o["key"] == "adapter/adapter_model.safetensors")


def test_a_run_from_submit_to_a_pull_elsewhere_and_no_secret_anywhere(
    server: Server, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    url = server.url("smoke")
    submit = ("submit", "--level", "B1", *settings(f"model.name={tiny_model}", *SETTINGS))
    printed = [cefr_batch(*submit, "--dry-run", store=url), cefr_batch(*submit, "--wait", store=url)]
    store = open_store(url)
    (run,) = store.folders("runs/")

    elsewhere, fresh = tmp_path / "elsewhere", {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **KEYS}
    elsewhere.mkdir()
    for command in (("pull", "--level", "B1"), ("pull", run, "--only", "adapter"), ("verify", run), ("status",)):
        printed.append(cefr_batch(*command, store=url, cwd=elsewhere, env=fresh))
    printed.append(cefr_batch("report", "--out", str(elsewhere / "report"), store=url, cwd=elsewhere, env=fresh))
    manifest = store.get_json(f"runs/{run}/manifest.json")["objects"]
    for entry in manifest:
        data = (elsewhere / "pulled" / run / entry["key"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == entry["sha256"]
    assert {entry["key"].split("/")[0] for entry in manifest} >= {"adapter", "merged", "tensorboard", "plots", "logs"}

    places = {stored.key: store.get(stored.key) for stored in store.objects("")}
    for folder in (elsewhere, Path(os.environ["CEFR_BATCH_CACHE"])):
        places |= {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    places |= {f"output {number}": text.encode() for number, text in enumerate(printed)}
    assert len(places) > 60
    assert f"runs/{run}/logs/attempt-1.log" in places
    for secret in (*filter(None, PLANTED.values()), KEYS["AWS_SECRET_ACCESS_KEY"], "planted-password"):
        found = [name for name, data in places.items() if secret.encode() in data]
        assert found == [], secret


LARGE = 1_200_000_000
KILLS = 10
LOST_AT_MOST = 64_000_000


def test_pull_killed_at_ten_random_moments_fetches_little_twice(server: Server, tmp_path: Path) -> None:
    dice = seeded("pull")
    run, name = "tiny-b1-peft-v1", "merged/model.safetensors"
    store = open_store(server.url("large"))
    sha256 = _add_large(store, run, name, tmp_path / "large")
    folder = tmp_path / "pulled"

    with Proxy(server.port) as proxy:
        command = [sys.executable, "-m", "cefr_batch", "pull", run, "--to", str(folder)]
        command += ["--store", server.url("large", port=proxy.port)]

        def pull_until(enough: Callable[[int], bool]) -> tuple[int, int]:
            """Start pull, kill it when enough was fetched; return what was fetched and what is on the disk then."""
            before = proxy.down_bytes
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while process.poll() is None and not enough(proxy.down_bytes - before):
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
            process.wait()
            until_quiet(proxy)
            return proxy.down_bytes - before, on_disk(folder)

        lost, there = [], 0
        for kill in range(KILLS):
            share = dice.uniform(0.2, 1.8) * LARGE / (KILLS + 1)
            fetched, now = pull_until(lambda count, share=share: count > share)  # type: ignore[misc]
            lost.append(fetched - (now - there))
            there = now
            assert there < LARGE, f"it was done after {kill} kills"
        before = proxy.down_bytes
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        last = proxy.down_bytes - before
    print("fetched again after each kill, MB:", [round(count / 1e6, 1) for count in lost])
    assert max(lost) < LOST_AT_MOST
    assert last <= LARGE - there + LOST_AT_MOST
    assert sha256_file(folder / run / name) == sha256
    assert list(folder.rglob(".aside-*")) == []


def _add_large(store: Store, run: str, name: str, path: Path) -> str:
    dice = random.Random(0)
    with path.open("wb") as file:
        for _ in range(LARGE // 10_000_000):
            file.write(dice.randbytes(10_000_000))
    add_complete(store, run, {"adapter/x": b"1"})
    sha256 = store.put_file(f"runs/{run}/{name}", path)
    manifest = store.get_json(f"runs/{run}/manifest.json")
    manifest["objects"].append({"key": name, "size": path.stat().st_size, "sha256": sha256})
    store.put_json(f"runs/{run}/manifest.json", manifest)
    path.unlink()
    return sha256


def on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def until_quiet(proxy: Proxy) -> None:
    """Wait until nothing passes any more."""
    count = -1
    while count != proxy.down_bytes:
        count = proxy.down_bytes
        time.sleep(0.1)


RUNS = 1000


def add_killed_or_failed(store: Store, run: str, number: int) -> None:
    add_ended(store, run, "RUNNING" if number % 2 else "FAILED", days_ago(1))


@pytest.mark.parametrize(
    ("add", "state", "requests_per_run"),
    [
        (lambda store, run, _: add_complete(store, run, {}), "SUCCEEDED", 1),
        (add_killed_or_failed, "FAILED", 4),
    ],
    ids=["complete", "unfinished"],
)
def test_status_and_list_of_1000_runs(
    add: Callable[[Store, str, int], None],
    state: str,
    requests_per_run: int,
    server: Server,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = server.url("many")
    store = open_store(url)
    levels = ("a1", "a2", "b1", "b2", "c1")
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: add(store, f"tiny-{levels[n % 5]}-peft-v{n // 5 + 1}", n), range(RUNS)))
    for command in ("list", "status"):
        count = _CountedRequests()
        out, requests, seconds, computing = count.of(command, url)
        assert out.count(f" {state} ") == RUNS
        with capsys.disabled():
            print(
                f"\n{command} of {RUNS} runs that are {state}: {seconds:.1f} s, of which it computed {computing:.1f} s; "
                f"{requests} requests ({requests / RUNS:.2f} per run)"
            )
        assert requests <= requests_per_run * RUNS + 10


class _CountedRequests:
    """The command in a process of its own, that tells how many HTTP requests it made, and its CPU time."""

    CODE = (
        "import sys, time, urllib3.connectionpool as h\n"
        "from cefr_batch.cli.main import main\n"
        "real, count = h.HTTPConnectionPool.urlopen, []\n"
        "def urlopen(self, *arguments, **options):\n"
        "    count.append(1)\n"
        "    return real(self, *arguments, **options)\n"
        "h.HTTPConnectionPool.urlopen = urlopen\n"
        "code = main(sys.argv[1:])\n"
        "print(len(count), time.process_time(), file=sys.stderr)\n"
        "sys.exit(code)\n"
    )

    def of(self, command: str, url: str) -> tuple[str, int, float, float]:
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", self.CODE, command, "--store", url], capture_output=True, text=True, check=True
        )
        requests, computing = done.stderr.split()[-2:]
        return done.stdout, int(requests), time.monotonic() - started, float(computing)
