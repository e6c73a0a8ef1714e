"""The fair queue: classes in order, tenants in turn, bounded, and equal to a simple model of itself."""

import contextlib
from collections import Counter
from random import Random

import pytest

from windvane.core.priority import Priority
from windvane.core.waiting import PASSED_OVER_MAX, FairQueue, Full, Place

HIGH, NORMAL, LOW = Priority.HIGH, Priority.NORMAL, Priority.LOW


def queue_of(*waiting: tuple[str, Priority], places: int = 100) -> FairQueue[int]:
    queue: FairQueue[int] = FairQueue(places)
    for number, (tenant, priority) in enumerate(waiting):
        queue.put(tenant, priority, 1, number)
    return queue


def drain(queue: FairQueue[int]) -> list[int]:
    return [place.item for place in iter(queue.pop, None)]


def test_nobody_waits() -> None:
    queue: FairQueue[int] = FairQueue(3)
    assert (queue.peek(), queue.pop(), len(queue)) == (None, None, 0)


def test_one_tenant_goes_in_the_order_it_came() -> None:
    assert drain(queue_of(*[("a", NORMAL)] * 5)) == [0, 1, 2, 3, 4]


def test_higher_classes_go_first() -> None:
    assert drain(queue_of(("a", LOW), ("a", NORMAL), ("a", HIGH), ("b", HIGH))) == [2, 3, 1, 0]


def test_tenants_take_turns() -> None:
    queue = queue_of(*[("a", NORMAL)] * 4, *[("b", NORMAL)] * 2, ("c", NORMAL))
    assert drain(queue) == [0, 4, 6, 1, 5, 2, 3]


def test_turns_are_shared_by_cost() -> None:
    queue: FairQueue[str] = FairQueue(100)
    for _ in range(30):
        queue.put("big", NORMAL, 50, "big")
        queue.put("small", NORMAL, 10, "small")
    gone = Counter(place.item for place in (queue.pop() for _ in range(24)) if place)
    assert gone == {"small": 20, "big": 4}


def test_who_comes_later_owes_nothing_for_the_time_before() -> None:
    queue = queue_of(*[("hog", NORMAL)] * 50)
    for _ in range(20):
        queue.pop()
    queue.put("late", NORMAL, 1, 99)
    assert 99 in [place.item for place in (queue.pop(), queue.pop()) if place]


def test_leaving_and_coming_back_does_not_win_turns() -> None:
    queue: FairQueue[str] = FairQueue(100)
    for _ in range(60):
        queue.put("steady", NORMAL, 10, "steady")
    gone: Counter[str] = Counter()
    for _ in range(40):
        if not any(place.tenant == "hopper" for place in waiting(queue)):
            queue.put("hopper", NORMAL, 10, "hopper")
        place = queue.pop()
        assert place
        gone[place.item] += 1
    assert gone == {"steady": 20, "hopper": 20}


def waiting(queue: FairQueue[str]) -> list[Place[str]]:
    return [
        place for each in queue._classes for line in each.lines.values() for place in line.places
    ]


@pytest.mark.parametrize("below", [NORMAL, LOW])
def test_a_lower_class_gets_each_eighth_turn(below: Priority) -> None:
    queue = queue_of(*[("a", HIGH)] * 70, *[("b", below)] * 10)
    ranks = [place.priority for place in iter(queue.pop, None)]
    assert [turn for turn, rank in enumerate(ranks) if rank is below] == list(range(7, 80, 8))


def test_no_class_is_passed_over_for_longer_than_is_said() -> None:
    rng = Random(1)
    queue: FairQueue[int] = FairQueue(50)
    passed = dict.fromkeys(Priority, 0)
    for number in range(20_000):
        priority = rng.choices((HIGH, NORMAL, LOW), (8, 2, 1))[0]
        with contextlib.suppress(Full):
            queue.put(f"t{rng.randrange(5)}", priority, rng.randint(1, 9), number)
        if rng.random() < 0.4 and (place := queue.pop()) is not None:
            for each in Priority:
                passed[each] = passed[each] + 1 if queue.depth(each) else 0
            passed[place.priority] = 0
            assert max(passed.values()) <= PASSED_OVER_MAX + 1


def test_a_full_queue_refuses() -> None:
    queue = queue_of(("a", NORMAL), ("b", NORMAL), places=2)
    for tenant, priority in (("a", NORMAL), ("c", NORMAL), ("c", LOW)):
        with pytest.raises(Full):
            queue.put(tenant, priority, 1, 9)
    assert drain(queue) == [0, 1]


def test_a_higher_class_displaces_the_last_of_the_greediest_in_the_lowest() -> None:
    queue = queue_of(("a", LOW), ("b", LOW), ("b", LOW), ("a", NORMAL), places=4)
    _, displaced = queue.put("c", HIGH, 1, 9)
    assert displaced is not None
    assert (displaced.item, displaced.is_waiting) == (2, False)
    assert drain(queue) == [9, 3, 0, 1]


def test_a_tenant_with_fewer_displaces_the_last_of_the_greediest() -> None:
    queue = queue_of(*[("hog", NORMAL)] * 3, ("b", NORMAL), places=4)
    _, displaced = queue.put("c", NORMAL, 1, 9)
    assert displaced is not None
    assert displaced.item == 2
    with pytest.raises(Full):
        queue.put("b", NORMAL, 1, 10)  # it would have as many as the hog


def test_a_crowd_ends_with_equal_shares_of_the_places() -> None:
    queue: FairQueue[int] = FairQueue(40)
    rng = Random(3)
    for number in range(5_000):
        tenant = "hog" if rng.random() < 0.95 else f"t{rng.randrange(3)}"
        with contextlib.suppress(Full):
            queue.put(tenant, NORMAL, 1, number)
    held = Counter(place.tenant for place in waiting(queue))  # type: ignore[arg-type]
    assert max(held.values()) - min(held.values()) <= 1


def test_giving_up_a_place_twice_or_after_its_turn_is_nothing() -> None:
    queue: FairQueue[int] = FairQueue(9)
    first, _ = queue.put("a", NORMAL, 1, 1)
    second, _ = queue.put("a", NORMAL, 1, 2)
    assert queue.pop() is first
    queue.remove(first)
    queue.remove(second)
    queue.remove(second)
    assert (len(queue), queue.depth(NORMAL), queue.pop()) == (0, 0, None)


def test_places_left_behind_are_not_kept() -> None:
    """Whoever comes and leaves at once, for ever, must not fill the memory."""
    queue = queue_of(("patient", NORMAL))
    for number in range(20_000):
        place, _ = queue.put(f"t{number}", NORMAL, 1, number)
        queue.remove(place)
    kept = queue._classes[NORMAL.rank]
    assert len(kept._heap) <= 2 * len(kept.lines) + 17
    assert len(kept._owing) <= 1_000
    assert len(kept._sized) == 1


def test_how_many_go_before_is_not_said_too_low() -> None:
    rng = Random(5)
    for _ in range(200):
        queue: FairQueue[int] = FairQueue(100)
        for number in range(rng.randrange(40)):
            queue.put(f"t{rng.randrange(4)}", rng.choice(list(Priority)), 1, number)
        tenant, priority = f"t{rng.randrange(5)}", rng.choice(list(Priority))
        ahead = queue.ahead_of(tenant, priority)
        queue.put(tenant, priority, 1, 99)
        assert drain(queue).index(99) <= ahead + 2


class Model:
    """The same laws, in lists: slow, and plain to see."""

    def __init__(self, places: int) -> None:
        self.places = places
        self.waiting: list[Place[int]] = []
        self.passed = dict.fromkeys(Priority, 0)
        self.had: dict[tuple[Priority, str], int] = {}
        self.now = dict.fromkeys(Priority, 0)
        self.turn: dict[tuple[Priority, str], int] = {}
        self.grew: list[tuple[Priority, str, int]] = []
        self.turns = 0

    def of(self, priority: Priority, tenant: str | None = None) -> list[Place[int]]:
        return [
            place
            for place in self.waiting
            if place.priority is priority and tenant in (None, place.tenant)
        ]

    def put(self, place: Place[int]) -> Place[int] | str | None:
        victim = None
        if len(self.waiting) >= self.places:
            victim = self.victim(place)
            if victim is None:
                return "full"
            self.remove(victim)
        line = (place.priority, place.tenant)
        if not self.of(*line):
            self.had[line] = max(self.had.get(line, 0), self.now[place.priority])
            self.turns += 1
            self.turn[line] = self.turns
        self.waiting.append(place)
        self.grew.append((*line, len(self.of(*line))))
        return victim

    def victim(self, newcomer: Place[int]) -> Place[int] | None:
        lowest = max((place.priority for place in self.waiting), key=lambda each: each.rank)
        if lowest.rank < newcomer.priority.rank:
            return None
        sizes = Counter(place.tenant for place in self.of(lowest))
        most = max(sizes.values())
        is_own = lowest is newcomer.priority
        if is_own and sizes[newcomer.tenant] + 1 >= most:
            return None
        # Of several as greedy, the one that has been so for longest.
        for priority, tenant, size in self.since():
            if priority is lowest and size == most == sizes[tenant]:
                return self.of(lowest, tenant)[-1]
        raise AssertionError

    def since(self) -> list[tuple[Priority, str, int]]:
        last = {}
        for number, (priority, tenant, size) in enumerate(self.grew):
            last[priority, tenant] = (number, size)
        ordered = sorted((number, *line, size) for line, (number, size) in last.items())
        return [(priority, tenant, size) for _, priority, tenant, size in ordered]

    def remove(self, place: Place[int]) -> None:
        self.waiting.remove(place)
        self.shrink(place)

    def shrink(self, place: Place[int]) -> None:
        priority = place.priority
        self.grew.append((priority, place.tenant, len(self.of(priority, place.tenant))))
        if not self.of(priority):
            self.passed[priority] = 0
            self.now[priority] = 0
            self.had = {line: had for line, had in self.had.items() if line[0] is not priority}

    def pop(self) -> Place[int] | None:
        if not self.waiting:
            return None
        present = [each for each in Priority if self.of(each)]
        due = [each for each in present[1:] if self.passed[each] >= PASSED_OVER_MAX]
        chosen = (due or present)[0]
        tenants = {place.tenant for place in self.of(chosen)}
        tenant = min(tenants, key=lambda name: (self.had[chosen, name], self.turn[chosen, name]))
        place = self.of(chosen, tenant)[0]
        self.now[chosen] = self.had[chosen, tenant]
        self.had[chosen, tenant] += place.cost
        self.turns += 1
        self.turn[chosen, tenant] = self.turns
        self.waiting.remove(place)
        self.passed[chosen] = 0
        for each in present:
            if each.rank > chosen.rank:
                self.passed[each] += 1
        self.shrink(place)
        return place


@pytest.mark.parametrize("seed", range(40))
def test_it_does_what_its_model_does(seed: int) -> None:
    rng = Random(seed)
    queue: FairQueue[int] = FairQueue(12)
    model = Model(12)
    twins: dict[int, tuple[Place[int], Place[int]]] = {}
    for number in range(400):
        act = rng.random()
        if act < 0.55:
            tenant, priority = f"t{rng.randrange(4)}", rng.choice(list(Priority))
            place = Place(tenant, priority, rng.randint(1, 5), number)
            expected = model.put(place)
            try:
                mine, displaced = queue.put(tenant, priority, place.cost, number)
            except Full:
                assert expected == "full"
                continue
            assert (displaced.item if displaced else None) == getattr(expected, "item", None)
            twins[number] = (mine, place)
            if displaced:
                del twins[displaced.item]
        elif act < 0.85:
            peeked, popped, expected = queue.peek(), queue.pop(), model.pop()
            assert peeked is popped
            assert (popped.item if popped else None) == (expected.item if expected else None)
            if popped:
                del twins[popped.item]
        elif twins:
            mine, place = twins.pop(rng.choice(sorted(twins)))
            queue.remove(mine)
            model.remove(place)
        assert len(queue) == len(model.waiting)
        for each in Priority:
            assert queue.depth(each) == len(model.of(each))
