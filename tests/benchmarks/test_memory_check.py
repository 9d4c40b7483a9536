"""The estimate against a real training step; docs/planning.md has the whole table."""

from __future__ import annotations

import sys

import pytest

from benchmarks.memory_check import SMALL, case_of, estimated, in_a_process, row


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
def test_the_estimate_is_the_real_peak() -> None:
    case = SMALL[0]
    assert estimated(case) == pytest.approx(in_a_process(case), rel=0.15)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
@pytest.mark.parametrize("case", SMALL[1:], ids=str)
def test_every_line_of_the_table(case) -> None:
    assert estimated(case) == pytest.approx(in_a_process(case), rel=0.15)


def test_a_case_survives_json() -> None:
    case = SMALL[3]
    assert case_of({**case.__dict__, "patch": list(case.patch)}) == case
    assert "| 0.90 |" in row(case, 9 * 10**8, 10**9)
