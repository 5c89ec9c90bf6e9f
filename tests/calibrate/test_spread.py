from __future__ import annotations

from collections import Counter

import pytest

from surgery.calibrate.spread import taken


@pytest.mark.parametrize(("count", "limit"), [(1, 1), (7, 3), (1000, 100), (1000, 999), (1001, 7), (123456, 5000)])
def test_one_image_of_each_run_of_equal_length_is_read(count: int, limit: int) -> None:
    found = taken(count, limit)
    assert len(found) == limit
    assert all(count * i // limit <= number < count * (i + 1) // limit for i, number in enumerate(found))


def test_where_no_fewer_are_asked_for_all_are_read() -> None:
    assert list(taken(5, None)) == list(taken(5, 5)) == list(taken(5, 9)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("limit", [50, 100, 200, 250])
def test_no_class_is_missed_be_they_sorted_or_take_turns(limit: int) -> None:
    for class_of in (lambda i: i // 100, lambda i: i % 10):
        counts = Counter(class_of(i) for i in taken(1000, limit))
        assert len(counts) == 10
        assert max(counts.values()) <= 1.5 * limit / 10
