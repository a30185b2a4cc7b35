"""A run whose training is to stop after a step, as a search asks: what it says and leaves, and that it goes on exactly."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from support.job_runs import adapter, claimed_run, start_training, stored, trained, work_folder
from typing_extensions import override

from cefr_batch.errors import NotReady
from cefr_batch.job.supervisor import run_job
from cefr_batch.records import layout
from cefr_batch.records.layout import default_work_root
from cefr_batch.records.manifest import Manifest
from cefr_batch.records.rung import Pause, RungRecord
from cefr_batch.runner import PruneRules, Session, State
from cefr_batch.runner.resume import resume_runs
from cefr_batch.runner.submission import read_spec
from cefr_batch.runner.wait import wait_until_ended
from cefr_batch.schedulers.local.scheduler import LocalRequest, LocalScheduler
from cefr_batch.store.local import LocalStore


class ThisProcess(LocalScheduler):
    """Stands in for this machine's queue: it takes jobs and starts none, so that the test runs them itself."""

    @override
    def submit(self, request: tuple[LocalRequest, ...]) -> list[str]:
        return [f"local://{socket.gethostname()}/999999999" for _ in request]


@pytest.mark.slow
def test_a_paused_run_goes_on_to_the_same_adapter_as_one_that_never_paused(tiny_model: Path, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    session, run = Session(store), claimed_run(store, tiny_model)
    resume_runs(store, [run], cluster=ThisProcess(), pauses={run: Pause(after_step=4)})
    resume_runs(store, [run], cluster=ThisProcess(), force=True)  # by its user, for a job of which nothing is known
    run_job(store, run, default_work_root())  # ends well, so that no scheduler starts it again

    (state,) = session.status([run])
    assert (state.state, state.settled, state.step, state.steps) == (State.PAUSED, True, 4, 8)
    assert state.reason.startswith("at step 4 of 8, as its search asked; `cefr-batch resume")
    assert wait_until_ended(store, [run], 60) == []
    assert session.find_removals(PruneRules(failed_days=0, keep=1, checkpoints=True)) == []
    rung = store.get_record(layout.run_key(run, layout.rung_name(4)), RungRecord)
    assert (rung.step, rung.best_step in (2, 4)) == (4, True)
    stages = {one.key.rpartition("/")[2] for one in store.objects(layout.run_key(run, layout.STAGES) + "/")}
    assert stages == {"data.json"}, "nothing was computed that a trial without a future does not need"

    # The same pause again, as after a kill between checkpoint and status: nothing is trained twice.
    store.delete(layout.run_key(run, layout.rung_name(4)))
    run_job(store, run, default_work_root())
    assert store.get_record(layout.run_key(run, layout.rung_name(4)), RungRecord).losses == rung.losses
    assert stored(store, run, "attempts/2.json")["repeated_steps"] == 0

    resume_runs(store, [run], cluster=ThisProcess(), force=True)
    assert not store.exists(layout.run_key(run, layout.PAUSE))
    run_job(store, run, default_work_root())
    assert session.status([run])[0].state is State.SUCCEEDED
    straight = work_folder(tmp_path / "straight", read_spec(store, run))
    output, _ = (process := start_training(straight)).communicate()
    assert process.returncode == 0, output
    assert store.get(layout.run_key(run, layout.ADAPTER_WEIGHTS)) == adapter(straight)
    metrics = stored(store, run, layout.METRICS)
    assert metrics["log"] == [entry.model_dump(exclude_unset=True) for entry in trained(straight).log]
    assert metrics["repeated_steps"] == 0
    assert rung.losses.response.tokens == metrics["tuned"]["response"]["tokens"]
    if rung.best_step == metrics["best"]["step"]:
        assert rung.losses.response.loss == metrics["tuned"]["response"]["loss"]
    manifest = store.get_record(layout.run_key(run, layout.MANIFEST), Manifest)
    assert layout.rung_name(4) in {one.key for one in manifest.objects}
    with pytest.raises(NotReady, match="is complete, there is nothing to resume"):
        resume_runs(store, [run], cluster=ThisProcess())
