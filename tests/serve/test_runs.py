"""The dashboard: what it lists, and that nothing in a store breaks it or gets into its HTML."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from support.report_stores import A2, B1, add_complete
from support.serving import Site, running
from support.stored_runs import add_ended, add_submission, spec

from cefr_batch.job.stages import BY_NAME, PUBLISH
from cefr_batch.records import layout
from cefr_batch.records.training import logged_entries
from cefr_batch.runner import Session, State
from cefr_batch.serve.dashboard import STAGES, STATES, list_runs, run_details
from cefr_batch.store.local import LocalStore

FAILED, RUNNING, COMPLETE, NEWEST = (
    "tiny-a1-peft-v1",
    "tiny-a2-peft-v1",
    "llama1b-a2-unsloth-v1",
    "llama1b-b1-unsloth-v1",
)
HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(2)>'
LOG = """== train
step 2 epoch 0.50 loss 2.5 learning_rate 0.001 gradient_norm 0.9
step 4 epoch 1.00 loss 1.5 learning_rate 0.0005 gradient_norm 0.8
step 4 epoch 1.00 eval_loss 1.75
"""


@pytest.fixture
def runs(store: LocalStore) -> LocalStore:
    """A failed run, one whose job is gone, two complete ones, and one of which everything is damaged."""
    add_ended(store, FAILED, "FAILED", "2026-01-03T00:00:00+00:00")
    add_ended(store, RUNNING, "RUNNING", "2026-01-02T00:00:00+00:00")
    store.put(layout.run_key(RUNNING, "logs/attempt-1.log"), LOG.encode())
    store.put(
        layout.run_key(RUNNING, "logs/attempt-2.log"), b"step 4 epoch 1.00 loss 1.25\nstep 6 epoch 1.50 loss 1.0\n"
    )
    add_complete(store, COMPLETE, "A2", A2)
    add_complete(store, NEWEST, "B1", B1)
    for name in (layout.SPEC, layout.SUBMISSION, layout.STATUS, layout.METRICS):
        store.put(layout.run_key("broken-b1-peft-v1", name), b'{"run": ')
    return store


@pytest.fixture
def site(runs: LocalStore) -> Iterator[Site]:
    with running(runs) as site:
        yield site


def test_every_run_is_listed_with_its_state_and_the_broken_one_says_why(site: Site, runs: LocalStore) -> None:
    page = site.get("/runs").text
    for run in (FAILED, RUNNING, COMPLETE, NEWEST, "broken-b1-peft-v1"):
        assert f'href="/runs/{run}"' in page
    assert "it failed" in page
    assert page.count('class="badge succeeded"') == 2
    assert "is not valid JSON" in page
    assert "5 of 5 runs" in page


def test_without_models_the_runs_are_the_first_page(site: Site) -> None:
    start = site.get("/")
    assert (start.status, start.headers["location"]) == (307, "/runs")
    assert site.get("/?lang=tr").headers["location"] == "/runs?lang=tr"
    assert site.post("/write", {}).status == 404


def test_the_newest_is_first_and_all_states_have_a_name(runs: LocalStore) -> None:
    listed = [state.run for state in list_runs(Session(runs))]
    assert listed.index(FAILED) < listed.index(RUNNING)
    assert set(STATES) == set(State)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("level=A2", {RUNNING, COMPLETE}),
        ("state=FAILED", {FAILED, RUNNING}),
        ("text=LLAMA", {COMPLETE, NEWEST}),
        ("level=B1&text=llama", {NEWEST}),
        ("level=C1", set()),
        ("level=%3Cscript%3E", set()),
    ],
)
def test_runs_are_chosen_by_level_state_and_name(query: str, found: set[str], site: Site) -> None:
    page = site.get(f"/runs?{query}").text
    assert {run for run in (FAILED, RUNNING, COMPLETE, NEWEST) if f'href="/runs/{run}"' in page} == found
    assert "<script>" not in page


def test_a_complete_run_shows_figures_curves_and_where_its_report_is(site: Site) -> None:
    page = site.get(f"/runs/{NEWEST}").text
    assert "1.999 before, 0.508 after training" in page
    assert page.count("<svg viewBox") == 3
    assert f'href="/report?run={NEWEST}"' in page
    assert "training.learning_rate" in page
    report = site.get(f"/report?run={NEWEST}")
    assert report.status == 200
    assert "CEFR fine-tuning results" in report.text
    assert "sandbox" not in report.headers["content-security-policy"]
    assert report.headers["content-security-policy"].startswith("default-src 'none'")


def test_a_run_without_figures_has_the_curves_of_its_logs_with_repeated_steps_once(
    runs: LocalStore, site: Site
) -> None:
    details = run_details(Session(runs), RUNNING)
    assert details.metrics is None
    assert details.curves
    assert [(entry.step, entry.loss) for entry in details.curves.log] == [(2, 2.5), (4, 1.25), (6, 1.0)]
    page = site.get(f"/runs/{RUNNING}").text
    assert "step 6 epoch 1.50 loss 1.0" in page
    assert "step 2: 2.5" in page


def test_stages_are_in_the_readers_language(runs: LocalStore, site: Site) -> None:
    assert list(STAGES) == [*BY_NAME, PUBLISH], "each has a name for readers"
    status = json.loads(runs.get(layout.run_key(FAILED, layout.STATUS)))
    for stage, english, turkish in (
        ("train", "training", "eğitiliyor"),
        ("publish", "storing the results", "sonuçlar depoya yazılıyor"),
        ("of a later version", "of a later version", "of a later version"),
    ):
        runs.put_json(layout.run_key(FAILED, layout.STATUS), {**status, "stage": stage})
        for path in ("/runs?", f"/runs/{FAILED}?"):
            assert f">{english}<" in re.sub(r"\s*([<>])\s*", r"\1", site.get(path).text)
            assert f">{turkish}<" in re.sub(r"\s*([<>])\s*", r"\1", site.get(f"{path}lang=tr").text)


def test_an_older_attempts_log_can_be_read_too(site: Site) -> None:
    assert "epoch 0.50 loss 2.5" in site.get(f"/runs/{RUNNING}?attempt=1").text
    whole = site.get(f"/runs/{RUNNING}/log?attempt=1")
    assert (whole.headers["content-type"], whole.text) == ("text/plain; charset=utf-8", LOG)
    for wrong in ("9", "-1", "x", "1e1", "../1", "9" * 30):
        assert site.get(f"/runs/{RUNNING}?attempt={wrong}").status == 404
        assert site.get(f"/runs/{RUNNING}/log?attempt={wrong}").status == 404


@pytest.mark.parametrize("run", ["nothing", "..", "%2e%2e", "a%2fb", "..%2f..%2fetc", "A", "%00", "x" * 100])
def test_a_run_that_is_not_there_is_a_page_that_says_so(run: str, site: Site) -> None:
    for path in (f"/runs/{run}", f"/runs/{run}/log", f"/report?run={run}"):
        reply = site.get(path)
        assert reply.status in (404, 502)
        assert "Traceback" not in reply.text


def test_nothing_of_a_store_becomes_html(runs: LocalStore, site: Site) -> None:
    add_ended(runs, FAILED, "FAILED", "2026-01-03T00:00:00+00:00")
    status = json.loads(runs.get(layout.run_key(FAILED, layout.STATUS)))
    runs.put_json(
        layout.run_key(FAILED, layout.STATUS), {**status, "message": HOSTILE, "stage": HOSTILE, "host": HOSTILE}
    )
    settings = {"backend": HOSTILE, HOSTILE: {"x": HOSTILE}}
    runs.put_json(layout.run_key(FAILED, layout.SPEC), {**spec(FAILED, HOSTILE), "spec": settings})
    runs.put(
        layout.run_key(FAILED, "logs/attempt-1.log"), f"{HOSTILE}\n</pre>{HOSTILE}\x1b[31m\xff\n".encode("latin-1")
    )
    runs.put(f"{layout.RUNS}/{HOSTILE[:8]}/{layout.SPEC}", b"{}")
    for path in ("/runs", f"/runs/{FAILED}", f"/runs?text={'%3Cscript%3E'}", "/%3Cscript%3E"):
        page = site.get(path).text
        assert "<script>alert" not in page
        assert "<img" not in page
        assert "</pre>&lt;script" not in page


def test_a_damaged_run_has_a_page_with_what_is_left_of_it(site: Site) -> None:
    reply = site.get("/runs/broken-b1-peft-v1")
    assert reply.status == 200
    assert "is not valid JSON" in reply.text


@pytest.mark.parametrize(
    ("query", "accepted", "language"),
    [
        ("", "", "en"),
        ("", "tr-TR,tr;q=0.9,en;q=0.8", "tr"),
        ("", "de,en;q=0.5,tr;q=0.7", "tr"),
        ("", "tr;q=0, *", "en"),
        ("?lang=en", "tr", "en"),
        ("?lang=tr", "en", "tr"),
        ("?lang=xx", "tr;q=nonsense,;;,tr", "tr"),
    ],
)
def test_the_reader_gets_the_language_chosen_or_else_the_browsers(
    query: str, accepted: str, language: str, site: Site
) -> None:
    page = site.get(f"/runs{query}", Accept_Language=accepted).text
    assert f'<html lang="{language}">' in page
    assert ("Çalıştırmalar" in page) is (language == "tr")
    assert (f'href="/runs/{FAILED}?lang={language}"' in page) is (query in ("?lang=en", "?lang=tr"))


def test_an_empty_store_says_how_to_begin(store: LocalStore) -> None:
    with running(store) as site:
        assert "cefr-batch submit" in site.get("/runs").text
        assert site.get("/report").status == 404


def test_only_whole_lines_of_numbers_are_entries_of_a_log() -> None:
    assert [entry.step for entry in logged_entries(LOG)] == [2, 4, 4]
    for line in ("step 1 epoch 1.00", "step x epoch 1.00 loss 2", "step 1 epoch 1.00 loss nan", "step 1 epoch 1 loss 1e999",
                 "step 1 epoch 1.00 loss 2 more", "step 1 epoch 1.2.3 loss 2", "step 1 epoch - loss 2"):  # fmt: skip
        assert logged_entries(line) == []


def test_a_run_that_waits_has_no_log_yet(store: LocalStore) -> None:
    store.put_json(layout.run_key(FAILED, layout.SPEC), spec(FAILED, "2026-01-01T00:00:00+00:00"))
    add_submission(store, FAILED, "2026-01-01T00:00:00+00:00")
    with running(store) as site:
        assert "There is no log yet." in site.get(f"/runs/{FAILED}").text
