"""The web server on a real socket, and runs of the tiny model with real adapters for it to serve."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from support.report_stores import set_spec
from support.stand_in import until
from support.stored_runs import add_complete
from typing_extensions import override

from cefr_batch.config.load import load_spec
from cefr_batch.config.schema import Level
from cefr_batch.data import load_dataset
from cefr_batch.runner import Session
from cefr_batch.serve.app import make_app
from cefr_batch.serve.guard import own_names
from cefr_batch.serve.writers import Draw, Question, TextCallback, Voice
from cefr_batch.serve.writing import Writing
from cefr_batch.store.datasets import store_dataset
from cefr_batch.store.local import LocalStore

WORDS = ["travel", "decide", "ice cream"]


@dataclass(frozen=True)
class Reply:
    """What the server answered."""

    status: int
    headers: Mapping[str, str]
    data: bytes

    @property
    def text(self) -> str:
        return self.data.decode()

    @property
    def events(self) -> list[dict[str, Any]]:
        """Those of a stream."""
        return [json.loads(line) for line in self.text.splitlines()]


@dataclass(frozen=True)
class Site:
    """A server that runs."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)

    def get(self, path: str, **headers: str) -> Reply:
        return self._ask("GET", path, None, headers)

    def post(self, path: str, value: Any, **headers: str) -> Reply:
        return self._ask("POST", path, json.dumps(value).encode(), {"Content-Type": "application/json", **headers})

    def _ask(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Reply:
        connection = self.connect()
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        reply = Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        connection.close()
        return reply


class Scripted:
    """A stand-in for models: writes the same answer, a part at a time, as far as a test lets it."""

    voices: Sequence[Voice] = (Voice("one", Level.A2), Voice("two", Level.B1))

    def __init__(self, text: str, *, fails: Exception | None = None) -> None:
        self.text, self.fails = text, fails
        self.may_go_on = threading.Semaphore(0)
        self.written = 0
        self.begun = threading.Event()
        self.ended = threading.Event()

    def control_token(self, words: Sequence[str]) -> str | None:
        return None

    def write(
        self, questions: Sequence[Question], words: Sequence[str], draw: Draw | None, on_text: TextCallback
    ) -> None:
        self.begun.set()
        try:
            for end in range(1, len(self.text) + 1):
                assert self.may_go_on.acquire(timeout=60)
                self.written = end
                for number in range(len(questions)):
                    on_text(number, self.text[:end], end == len(self.text))
            if self.fails:
                raise self.fails
        finally:
            self.ended.set()


class Free(Scripted):
    """Writes all at once."""

    @override
    def write(
        self, questions: Sequence[Question], words: Sequence[str], draw: Draw | None, on_text: TextCallback
    ) -> None:
        self.may_go_on.release(len(self.text))
        super().write(questions, words, draw, on_text)


@contextmanager
def running(store: LocalStore, writing: Writing | None = None) -> Iterator[Site]:
    """A server of this store in a thread of this process."""
    app = make_app(Session(store), own_names("127.0.0.1"), writing)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=5))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        until(lambda: server.started)
        try:
            yield Site(listening.getsockname()[1])
        finally:
            if writing:
                writing.close()
            server.should_exit = True
            thread.join(30)
    assert not thread.is_alive()


def add_adapter_run(store: LocalStore, model: Path, level: str, folder: Path, *, rank: int = 4, seed: int = 0) -> str:
    """A complete run of a level whose adapter, made by PEFT, has random weights; its dataset is in the store too."""
    run = f"tiny-{level.lower()}-peft-v1"
    adapter = make_adapter(model, folder / run, rank=rank, seed=seed)
    files = {f"adapter/{file.name}": file.read_bytes() for file in sorted(adapter.iterdir())}
    add_complete(store, run, files)
    settings = [f"model.name={model}", "backend=peft", "data.examples=20", "data.words_per_example=3"]
    settings += [f"lora.rank={rank}", f"lora.alpha={2 * rank}"]
    spec = load_spec(level, overrides=settings)
    dataset = load_dataset(spec.data, spec.level)
    store_dataset(store, dataset)
    set_spec(store, run, spec, dataset.sha256)
    return run


def make_adapter(model: Path, folder: Path, *, rank: int, seed: int) -> Path:
    """Saved by PEFT; its random weights change every token's probability."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, init_lora_weights=False)
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), config)
    tuned.save_pretrained(folder)
    return folder
