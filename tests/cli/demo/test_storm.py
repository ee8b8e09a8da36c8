"""The demo's service: what a request gets depends on the seed and the member, and a kill comes when all wait."""

from functools import partial
from random import Random

from tgmembership_async.cli.demo.storm import Storm, kill_points
from tgmembership_async.grants.model import GrantRequest
from tgmembership_async.testing.fake.fault_effects import FaultPlan

PATH = b"/bot1/key/addMember"


def a_storm(*, members: int = 100, kills: int = 0, concurrency: int = 4) -> Storm:
    requests = [GrantRequest(f"r{number}", 1, number + 1) for number in range(members)]
    return Storm(requests, fault_rate=0.05, kills=kills, concurrency=concurrency, seed=7)


def asked(storm: Storm, member_id: int) -> FaultPlan:
    return storm.plan_faults("POST", PATH, b'{"plan_id": 1, "member_id": %d}' % member_id)


def outcome(plan: FaultPlan) -> tuple[object, ...]:
    return plan.effect, plan.wait_before, plan.wait_after, plan.fault


def test_the_faults_of_a_member_do_not_depend_on_the_order_of_the_requests() -> None:
    wanted = [member for member in range(1, 101) for _ in range(3)]
    shuffled = Random(0).sample(wanted, len(wanted))
    found: list[dict[int, list[tuple[object, ...]]]] = []
    for order in (wanted, shuffled):
        storm = a_storm()
        plans: dict[int, list[tuple[object, ...]]] = {}
        for member in order:
            plans.setdefault(member, []).append(outcome(asked(storm, member)))
        found.append(plans)
    assert found[0] == found[1]
    assert len({repr(plan) for plans in found[0].values() for plan in plans}) > 10


def test_a_kill_comes_when_every_grant_in_flight_waits_and_takes_effect_as_the_seed_says() -> None:
    effects: list[dict[int, bool]] = []
    for order in (1, -1):
        storm, kills = a_storm(kills=1), list[str]()
        point = storm.arm(partial(kills.append, "killed"))
        assert point is not None
        assert [asked(storm, member).wait_after < 1 for member in range(1, point + 1)] == [True] * point
        in_flight = [point + 1 + number for number in range(4)][::order]
        held: dict[int, bool] = {}
        for member in in_flight:
            assert not kills
            plan = asked(storm, member)
            assert plan.wait_after > 1_000
            held[member] = plan.effect
        assert kills == ["killed"]
        assert asked(storm, point + 5).wait_after < 1, "nothing is held after the kill"
        effects.append(held)
        assert storm.arm(lambda: None) is None
    assert effects[0] == effects[1]


def test_a_kill_near_the_end_waits_for_no_more_than_there_are_members() -> None:
    storm, kills = a_storm(members=3, kills=1, concurrency=8), list[str]()
    point = storm.arm(lambda: kills.append("killed"))
    assert point is not None
    for member in range(point + 1, 4):
        asked(storm, member)
    assert kills == ["killed"]


def test_no_kill_waits_for_members_that_were_killed_before() -> None:
    storm = a_storm(members=3, kills=4, concurrency=8)
    assert storm.arm(lambda: None) is not None
    for member in range(1, 4):
        asked(storm, member)
    assert storm.arm(lambda: None) is None
    assert asked(storm, 3).wait_after < 1


def test_no_kill_comes_after_an_interrupt() -> None:
    storm, kills = a_storm(kills=2), list[str]()
    storm.arm(lambda: kills.append("killed"))
    asked(storm, 100)
    assert storm.disarm(), "a request is held"
    assert [asked(storm, member).wait_after < 1 for member in range(90, 100)] == [True] * 10
    assert not kills
    assert storm.arm(lambda: None) is None


def test_a_request_that_grants_nothing_is_answered_during_a_kill() -> None:
    storm = a_storm(kills=1)
    storm.arm(lambda: None)
    storm.clear_faults()
    assert outcome(storm.plan_faults("GET", b"/bot1/key/getPlans")) == (True, 0, 0, None)


def test_kill_points_are_in_order_and_within_the_file() -> None:
    assert kill_points(1, 2, 0) == [0, 0]
    points = kill_points(1_000, 20, 3)
    assert points == sorted(points)
    assert 0 <= points[0] < points[-1] < 1_000
