"""What counts as a change between an object that is sent and the server's answer."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cefr_batch.schedulers.k8s.changes import changes_of

JSON = st.recursive(
    st.integers() | st.booleans() | st.text(min_size=1, max_size=3),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3) | st.dictionaries(st.text(max_size=3), inner, min_size=1, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=30, deadline=None)
@given(JSON)
def test_what_comes_back_as_it_was_sent_is_no_change(value: Any) -> None:
    assert list(changes_of(value, copy.deepcopy(value))) == []


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text(max_size=3), JSON, min_size=1, max_size=4), st.data())
def test_each_field_that_is_absent_is_named_and_no_other(value: dict[str, Any], data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(sorted(value)))
    kept = {key: one for key, one in value.items() if key != gone}
    assert [(one.field, one.dropped) for one in changes_of({"spec": value}, {"spec": {**kept, "added-": 1}})] == [
        (f"spec.{gone}", True)
    ]


@pytest.mark.parametrize(
    ("sent", "got", "expected"),
    [
        ({"memory": "1024Mi"}, {"memory": "1Gi"}, []),
        ({"memory": "1Gi"}, {"memory": "2Gi"}, ["memory from '1Gi' to '2Gi'"]),
        ({"value": "", "list": [], "none": None}, {}, []),
        (
            {"env": [{"name": "A", "value": "1"}]},
            {"env": [{"name": "X", "value": "2"}, {"name": "A", "value": "1"}]},
            [],
        ),
        (
            {"env": [{"name": "A", "value": "1"}]},
            {"env": [{"name": "A", "value": "2"}]},
            ["env[0].value from '1' to '2'"],
        ),
        ({"tolerations": [{"key": "a"}]}, {"tolerations": [{"key": "b"}, {"key": "a", "operator": "Equal"}]}, []),
        ({"n": 1}, {"n": 2}, ["n from 1 to 2"]),
        ({"flag": False}, {"flag": True}, ["flag from False to True"]),
    ],
)
def test_what_servers_and_webhooks_do(sent: Any, got: Any, expected: list[str]) -> None:
    assert [str(one) for one in changes_of(sent, got)] == expected
