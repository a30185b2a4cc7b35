"""A run on a cluster that exists already: the one of KUBECONFIG, CEFR_BATCH_TEST_CLUSTER=k8s/NAME (a site) and
CEFR_BATCH_TEST_STORE=s3://… (its keys are in the environment)."""

from __future__ import annotations

import json
import os

import pytest
from clusters import until
from kubernetes.client import CoreV1Api
from kubernetes.config import new_client_from_config
from support.cluster_jobs import cefr_batch, step

from cefr_batch.runner.submission import job_of, read_submission
from cefr_batch.schedulers import State, get_scheduler
from cefr_batch.schedulers.k8s.scheduler import JobReference
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
    reference = JobReference.parse(submission.handle)
    pods = CoreV1Api(new_client_from_config(context=reference.context))
    pods.delete_collection_namespaced_pod(reference.namespace, label_selector=f"job-name={reference.job.name}")
    scheduler = get_scheduler(CLUSTER)
    job = job_of(submission)
    until(lambda: scheduler.observe([job])[job].state.finished, 3600)
    assert scheduler.observe([job])[job].state is State.SUCCEEDED
    assert store.get_json(f"runs/{run}/metrics.json")["attempts"] == 2
    assert "match its manifest" in cefr_batch("verify", run, store=STORE)
