"""What a job computed goes to the store while it runs: a thread that mirrors the job's folder.

Order is the contract: a folder's files first, then the record that says they are complete.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from typing import Any

from cefr_batch import layout
from cefr_batch.errors import Damaged, NotFound
from cefr_batch.files import read_json, write_json
from cefr_batch.layout import WorkDir
from cefr_batch.store.base import Store
from cefr_batch.store.manifest import local_path
from cefr_batch.store.transfer import Item, download, upload

# What each stage leaves besides its record.
ARTIFACTS = {"train": layout.ADAPTER, "merge": layout.MERGED, "plots": layout.PLOTS}


@dataclass
class Mirror:
    """A run's folder and its place in the store. Not thread-safe: one caller at a time."""

    store: Store
    run: str
    work: WorkDir
    keep_checkpoints: int
    _sent: dict[str, tuple[int, int]] = field(default_factory=dict)  # name -> size, mtime of growing files
    _stored: set[str] = field(default_factory=set)  # stages and checkpoints known to be stored whole

    def key(self, name: str) -> str:
        return layout.run_key(self.run, name)

    def push(self) -> None:
        """Send what is new: logs and TensorBoard, complete checkpoints, finished stages."""
        self._drop_superseded()
        self.push_growing()
        self._push_checkpoints()
        self._push_stages()

    def push_growing(self) -> None:
        for folder in (layout.LOGS, layout.TENSORBOARD):
            for name in self._files(folder):
                stat = self.work.path(name).stat()
                mark = (stat.st_size, stat.st_mtime_ns)
                if self._sent.get(name) != mark:
                    # read whole first: the file may grow meanwhile
                    self.store.put(self.key(name), self.work.path(name).read_bytes())
                    self._sent[name] = mark

    def _push_checkpoints(self) -> None:
        for name in map(layout.checkpoint_name, self.work.checkpoints()):
            if name in self._stored:
                continue
            manifest = read_json(self.work.path(name) / layout.CHECKPOINT_MANIFEST)
            self._send([f"{name}/{file['name']}" for file in manifest["files"]])
            marker = f"{name}/{layout.CHECKPOINT_MANIFEST}"
            self.store.put_file(self.key(marker), self.work.path(marker))
            self._stored.add(name)
            self._prune_checkpoints(manifest)

    def _drop_superseded(self) -> None:
        """While the store cannot be reached checkpoints pile up here: only those that would be kept there wait for it."""
        steps = self.work.checkpoints()
        if len(steps) > self.keep_checkpoints:
            newest = read_json(self.work.path(layout.checkpoint_name(steps[-1])) / layout.CHECKPOINT_MANIFEST)
            for step in set(steps[: -self.keep_checkpoints]) - {newest["best_step"]}:
                rmtree(self.work.path(layout.checkpoint_name(step)), ignore_errors=True)

    def _prune_checkpoints(self, newest: dict[str, Any]) -> None:
        """Keep the newest ``keep_checkpoints`` and the best. The marker goes first: half-deleted is not complete."""
        keep = {layout.checkpoint_name(s) for s in self.stored_checkpoints()[-self.keep_checkpoints :]}
        keep |= {layout.checkpoint_name(newest["step"]), layout.checkpoint_name(newest["best_step"] or newest["step"])}
        prefix = self.key(layout.CHECKPOINTS) + "/"
        keys = [o.key for o in self.store.objects(prefix)]
        for key in sorted(keys, key=lambda k: not k.endswith(f"/{layout.CHECKPOINT_MANIFEST}")):
            name = f"{layout.CHECKPOINTS}/{key.removeprefix(prefix).partition('/')[0]}"
            if name not in keep:
                self.store.delete(key)

    def _push_stages(self) -> None:
        for record in sorted(self.work.path(layout.STAGES).glob("*.json"), key=lambda f: f.stat().st_mtime_ns):
            stage = record.stem
            if stage in self._stored:
                continue
            folder = ARTIFACTS.get(stage)
            objects = self._send(list(self._files(folder))) if folder else []
            self.store.put_json(self.key(layout.stage_name(stage)), {**read_json(record), "objects": objects})
            self._stored.add(stage)

    def _send(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Store these files, several at a time; say what was stored."""
        hashes = upload(self.store, {self.key(name): self.work.path(name) for name in names})
        sizes = {name: self.work.path(name).stat().st_size for name in names}
        return [{"key": name, "size": sizes[name], "sha256": hashes[self.key(name)]} for name in names]

    def stored_stages(self) -> set[str]:
        """The stages whose record is in the store: finished, with everything they left."""
        prefix = self.key(layout.STAGES) + "/"
        return {Path(o.key).stem for o in self.store.objects(prefix)}

    def attempts(self) -> list[Any]:
        """The records of all attempts of the run."""
        return [self.store.get_json(stored.key) for stored in self.store.objects(self.key(layout.ATTEMPTS) + "/")]

    def stored_checkpoints(self) -> list[int]:
        """The steps of the complete checkpoints in the store, ascending."""
        prefix = self.key(layout.CHECKPOINTS) + "/step-"
        markers = (o.key for o in self.store.objects(prefix) if o.key.endswith(f"/{layout.CHECKPOINT_MANIFEST}"))
        return sorted(int(k.removeprefix(prefix).partition("/")[0]) for k in markers)

    def pull_stages(self) -> set[str]:
        """Bring what finished stages left to this folder, records last; return the finished stages."""
        finished = self.stored_stages()
        records = {name: self.store.get_json(self.key(name)) for name in map(layout.stage_name, sorted(finished))}
        self._fetch({item["key"]: item for record in records.values() for item in record["objects"]})
        for name, record in records.items():
            write_json(self.work.path(name), record)
        self._stored |= finished
        return finished

    def pull_checkpoints(self) -> None:
        """Bring the newest complete checkpoint and its best one to this folder, unless newer ones are here already.

        One that is damaged or not all there (two jobs of a run may have written it at once) is passed over for the one
        before it, and stored again when training comes to its step again.
        """
        stored = self.stored_checkpoints()
        self._stored |= {layout.checkpoint_name(step) for step in stored}
        for step in reversed(stored):
            if max(self.work.checkpoints(), default=0) >= step:
                return
            try:
                best = self._fetch_checkpoint(step)["best_step"]
                if best in stored and best != step:
                    self._fetch_checkpoint(best)
                return
            except (Damaged, NotFound) as exc:
                print(f"the checkpoint of step {step} is passed over: {exc}", flush=True)
                rmtree(self.work.path(layout.checkpoint_name(step)), ignore_errors=True)
                self._stored.discard(layout.checkpoint_name(step))

    def _fetch_checkpoint(self, step: int) -> dict[str, Any]:
        name = layout.checkpoint_name(step)
        marker = f"{name}/{layout.CHECKPOINT_MANIFEST}"
        manifest: dict[str, Any] = self.store.get_json(self.key(marker))
        self._fetch({f"{name}/{file['name']}": file for file in manifest["files"]})
        write_json(self.work.path(marker), manifest)
        return manifest

    def _fetch(self, files: Mapping[str, Any]) -> None:
        """Bring these files to this folder, each with the size and SHA-256 that are recorded of it.

        Raises ``StoreError`` before anything is written if the place of one is outside of this folder.
        """
        paths = {
            Item(self.key(name), file["size"], file["sha256"]): local_path(self.work.root, name)
            for name, file in files.items()
        }
        download(self.store, list(paths), paths.__getitem__)

    def _files(self, folder: str) -> Iterator[str]:
        root = self.work.path(folder)
        for path in sorted(root.rglob("*")):
            if path.is_file() and not path.is_symlink() and not path.name.startswith("."):
                yield f"{folder}/{path.relative_to(root).as_posix()}"


class Background:
    """Calls ``beat`` every ``interval`` seconds in a thread. A failure is kept for the next ``check`` and tried again."""

    def __init__(self, beat: Callable[[], None], interval: float) -> None:
        self._beat, self._interval = beat, interval
        self._stop = threading.Event()
        self.failure: Exception | None = None
        self._thread = threading.Thread(target=self._loop, name="sync", daemon=True)

    def __enter__(self) -> Background:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _loop(self) -> None:
        while not self._stop.wait(self._interval):
            try:
                self._beat()
                self.failure = None
            except Exception as exc:
                if str(exc) != str(self.failure):
                    print(f"storing is delayed, will try again: {exc}", flush=True)
                self.failure = exc
