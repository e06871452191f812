"""When work beside training is due: counted from the end of the last, and a share of the time at most."""

from __future__ import annotations

import pytest

from undiffuse.training.cadence import Cadence


def course(every: float, costs, share: float, update: float = 1.0, until: float = 4000.0):
    """(begin, end) of each piece of work in a training of updates of so many seconds; costs: seconds of the pieces, the last one for ever."""
    now, found = [0.0], []
    cadence = Cadence(every, share, lambda: now[0])
    while now[0] < until:
        now[0] += update
        if cadence.due():
            began = now[0]
            with cadence.working():
                now[0] += costs[min(len(found), len(costs) - 1)]
            found.append((began, now[0]))
    assert cadence.spent == pytest.approx(sum(end - begin for begin, end in found))
    return found, now[0]


def test_a_preview_slower_than_its_interval_is_not_drawn_after_every_update():
    found, _ = course(60.0, [90.0], share=1.0)
    assert all(begin - end >= 60.0 for (_, end), (begin, _) in zip(found, found[1:], strict=False))


@pytest.mark.parametrize("every", [0.0, 5.0, 60.0])
@pytest.mark.parametrize("costs", [[0.1], [3.0], [90.0], [1.0, 50.0, 2.0, 2.0]])
@pytest.mark.parametrize("share", [0.05, 0.2])
def test_no_more_than_its_share_of_the_time(every, costs, share):
    found, _ = course(every, costs, share)
    assert found
    spans = [(begin, end, after) for (begin, end), (after, _) in zip(found, found[1:], strict=False)]
    assert all((end - begin) / (after - begin) <= share + 1e-9 for begin, end, after in spans)
    assert all(after - end >= every for _, end, after in spans)


def test_quick_work_comes_at_its_interval():
    found, _ = course(60.0, [0.5], share=0.05)
    assert all(60.0 <= begin - end < 61.0 for (_, end), (begin, _) in zip(found, found[1:], strict=False))


def test_the_time_of_work_that_fails_counts():
    now = [0.0]
    cadence = Cadence(1.0, 0.1, lambda: now[0])
    with pytest.raises(OSError, match="x"), cadence.working():
        now[0] += 10
        raise OSError("x")
    now[0] += 89
    assert not cadence.due()
    now[0] += 1
    assert cadence.due()
