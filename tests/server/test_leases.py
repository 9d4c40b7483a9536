"""Leases: two clocks, a bounded number, a memory budget."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from nnsam3d.server.leases import Leases
from nnsam3d.server.refusal import Refusal


@dataclass
class FakeSession:
    image: int = 0
    windows: int = 0

    def forget_windows(self) -> None:
        self.windows = 0

    def cancel(self) -> None:
        pass


@dataclass
class FakeConversation:
    session: FakeSession = field(default_factory=FakeSession)
    ahead: int = 0

    @property
    def image_bytes(self) -> int:
        return self.session.image

    @property
    def nbytes(self) -> int:
        return self.session.image + self.session.windows + self.ahead

    def forget_ahead(self) -> None:
        self.ahead = 0


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def leases(clock: Clock, **options: Any) -> Leases:
    settings = {"limit": 3, "idle": 100.0, "liveness": 10.0, "budget": 100, **options}
    return Leases(FakeConversation, clock=clock, **settings)  # type: ignore[arg-type]


def test_a_silent_client_loses_its_lease_and_a_resting_one_later() -> None:
    clock = Clock()
    table = leases(clock)
    silent, resting = table.claim(), table.claim()
    for second in range(5, 100, 5):
        clock.now = second
        table.find(resting.token, "lives")
        if second <= 10:
            table.find(silent.token, "looks")  # touches no clock
    assert len(table) == 1
    assert table.remaining(resting) == 5
    with pytest.raises(Refusal) as error:
        table.find(silent.token)
    assert error.value.status == 410
    clock.now = 101
    with pytest.raises(Refusal):
        table.find(resting.token, "lives")


def test_a_request_under_way_keeps_its_lease() -> None:
    clock = Clock()
    table = leases(clock)
    lease = table.claim()
    table.touch(lease, 1)
    clock.now = 1000
    table.expire()
    table.touch(lease, -1)
    assert table.find(lease.token) is lease


def test_places_are_bounded_and_come_back() -> None:
    table = leases(Clock(), limit=2)
    first = table.claim()
    table.claim()
    with pytest.raises(Refusal) as error:
        table.claim()
    assert (error.value.status, error.value.headers["Retry-After"]) == (503, "10")
    table.release(first.token)
    table.release(first.token)
    table.claim()


def test_the_budget_takes_windows_of_the_longest_rested_and_never_an_image() -> None:
    clock = Clock()
    table = leases(clock)
    made = []
    for clock.now in range(3):
        lease = table.claim()
        lease.conversation.session = FakeSession(image=20, windows=20)  # type: ignore[assignment]
        made.append(lease)
    table.make_room()  # 120 of 100
    assert [lease.conversation.session.windows for lease in made] == [0, 20, 20]  # type: ignore[attr-defined]
    with pytest.raises(Refusal) as error:
        table.reserve(61, but=made[2])  # its own image will go: 40 + 61
    assert error.value.status == 503
    table.reserve(60, but=made[2])
    table.make_room()
    assert [lease.conversation.session.windows for lease in made] == [0, 0, 0]  # type: ignore[attr-defined]
    assert [lease.conversation.session.image for lease in made] == [20, 20, 20]  # type: ignore[attr-defined]
