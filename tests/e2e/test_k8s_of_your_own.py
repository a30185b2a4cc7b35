"""A run on a cluster that is there already. Where, say KUBECONFIG, CEFR_BATCH_TEST_CLUSTER=k8s/NAME (a site) and
CEFR_BATCH_TEST_STORE=s3://… (its keys are in the environment)."""

from __future__ import annotations

import json
import os

import pytest
from cluster_jobs import cefr_batch, step
from clusters import until

from cefr_batch.launch import State, get_launcher
from cefr_batch.launch.k8s.client import connect
from cefr_batch.launch.k8s.launcher import Place
from cefr_batch.launch.submission import read_submission
from cefr_batch.store import open_store

CLUSTER, STORE = (os.environ.get(f"CEFR_BATCH_TEST_{name}", "") for name in ("CLUSTER", "STORE"))


@pytest.mark.e2e
@pytest.mark.skipif(not (CLUSTER and STORE), reason="needs CEFR_BATCH_TEST_CLUSTER and CEFR_BATCH_TEST_STORE")
def test_a_run_whose_pod_is_deleted_completes() -> None:
    cefr_batch("doctor", "--cluster", CLUSTER, store=STORE)
    words = ["submit", "--level", "B1", "--cluster", CLUSTER, "--json", "--set", "data.examples=200"]
    (run,) = [one["run"] for one in json.loads(cefr_batch(*words, store=STORE))["runs"]]
    store = open_store(STORE)
    until(lambda: step(store, run) > 2, 1800)
    submission = read_submission(store, run)
    assert submission
    place = Place.of(submission.handle)
    for pod in connect(place.context).pods(place.namespace, f"job-name={place.job.name}"):
        connect(place.context).core.delete_namespaced_pod(pod["metadata"]["name"], place.namespace)
    launcher = get_launcher(CLUSTER)
    until(lambda: launcher.observe([submission.job])[submission.job].state.finished, 3600)
    assert launcher.observe([submission.job])[submission.job].state is State.SUCCEEDED
    assert store.get_json(f"runs/{run}/metrics.json")["attempts"] == 2
    assert "as its manifest says" in cefr_batch("verify", run, store=STORE)
