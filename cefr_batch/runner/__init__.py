"""The Python API: what the command line, notebooks and other programs call.

``Session`` is the way in::

    session = runner.Session(store="./runs")
    runs = session.submit(["A1", "B1"], cluster="local")
    states = session.wait(runs)

Importing this loads no training library and no client of a cluster or an object store. The report across levels stands
above this package: ``cefr_batch.report.write_report``.
"""

from cefr_batch.records.submission import Submission
from cefr_batch.runner.artifacts import Artifacts, Verification
from cefr_batch.runner.cancel import Cancellation
from cefr_batch.runner.clock import Clock
from cefr_batch.runner.launch import Launch, Request
from cefr_batch.runner.logs import LogUpdate
from cefr_batch.runner.prune import PruneRules, Removal
from cefr_batch.runner.session import Session
from cefr_batch.runner.status import RunState
from cefr_batch.schedulers.base import State

__all__ = [
    "Artifacts",
    "Cancellation",
    "Clock",
    "Launch",
    "LogUpdate",
    "PruneRules",
    "Removal",
    "Request",
    "RunState",
    "Session",
    "State",
    "Submission",
    "Verification",
]
