"""The small dict of places against Python's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cefr_batch.data import places
from cefr_batch.data.places import FirstPlaces


@given(
    numbers=st.lists(st.integers(-3, 30) | st.integers(-(2**63), 2**63 - 1)), buckets=st.sampled_from([1, 4, 1 << 15])
)
def test_first_places_are_those_of_a_dict(numbers: list[int], buckets: int) -> None:
    ours, plain = FirstPlaces(), dict[int, int]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(places, "_BUCKETS", buckets)
        for place, number in enumerate(numbers):
            assert ours.setdefault(number, place) == plain.setdefault(number, place)
