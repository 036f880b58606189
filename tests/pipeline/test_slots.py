"""Slots: who performs which order of a search, and what becomes of the order of one that dies."""

from __future__ import annotations

from pathlib import Path

from remora.errors import RemoraError, StoreError, WorkerError
from remora.pipeline.search.perform import Order, Performed
from remora.pipeline.search.slots import Slots, orders
from remora.spec import Cluster, Space, Variant, load

SPACE = load(Space, Path(__file__).parents[1] / "e2e" / "tiny.yaml")
VARIANT = Variant(vision="clip-l-336", connector="linear", llm="phi-2", recipe="base")
TRAINED = Performed("trained")


class Driver:
    """Has so many orders; `ready` of them can be begun."""

    def __init__(self, count: int, ready: int) -> None:
        self.space = SPACE.model_copy(update={"cluster": Cluster(max_failures=1)})
        self.runs = Path()
        self.count, self.ready, self.begun = count, ready, 0
        self.ended: list[int] = []
        self.problems: list[RemoraError] = []
        self.full: RemoraError | None = None

    @property
    def over(self) -> bool:
        return len(self.ended) == self.count

    def look(self) -> None:
        """Nobody asks it to stop."""

    def next(self) -> Order | None:
        if self.full:
            raise self.full
        if self.begun == min(self.ready, self.count):
            return None
        self.begun += 1
        return Order(self.begun, "train", "s", "key", VARIANT, f"run-{self.begun}")

    def done(self, number: int, performed: Performed) -> None:
        self.ended.append(number)

    def failed(self, number: int, error: RemoraError) -> None:
        self.ended.append(number)
        self.problems.append(error)


def numbers(file: Path) -> list[int]:
    """What a slot that was let go was given."""
    return [order.number for order in orders(file)]


def opened(slots: Slots, name: str) -> Path:
    file = slots.open(name)
    assert file
    return file


def test_a_slot_is_given_one_order_after_the_other_and_let_go_at_the_end(tmp_path: Path) -> None:
    driver = Driver(3, ready=3)
    slots = Slots(driver, tmp_path)
    file = opened(slots, "one")
    for number in (1, 2, 3):
        slots.performed("one", number, TRAINED)
    assert driver.ended == [1, 2, 3] and slots.over and numbers(file) == [1, 2, 3]


def test_no_slot_is_opened_while_one_waits_and_those_that_wait_are_fed_first(tmp_path: Path) -> None:
    driver = Driver(4, ready=2)
    slots = Slots(driver, tmp_path)
    one, two = opened(slots, "one"), opened(slots, "two")
    slots.performed("one", 1, TRAINED)
    assert slots.open("three") is None, "one waits"
    driver.ready = 3
    assert slots.open("three") is None and driver.begun == 3, "the third is one's"
    driver.ready = 4
    three = opened(slots, "three")
    for name, number in (("three", 4), ("two", 2), ("one", 3)):
        slots.performed(name, number, TRAINED)
    assert [numbers(file) for file in (one, two, three)] == [[1, 3], [2], [4]]


def test_the_order_of_a_slot_that_died_is_another_ones_until_it_has_killed_too_many(tmp_path: Path) -> None:
    driver = Driver(2, ready=2)
    slots = Slots(driver, tmp_path)
    opened(slots, "one")
    two = opened(slots, "two")
    slots.died("one")
    slots.performed("two", 2, TRAINED)  # and now it has the first order
    assert not slots.over and slots.open("three") is None
    slots.died("two")
    assert slots.over and [type(p) for p in driver.problems] == [WorkerError]
    assert "run-1 died again and again" in str(driver.problems[0])
    assert [line.count('"number": 1,') for line in two.read_text().splitlines()] == [0, 1]


def test_a_slot_that_dies_while_it_waits_takes_nothing_with_it(tmp_path: Path) -> None:
    driver = Driver(2, ready=1)
    slots = Slots(driver, tmp_path)
    opened(slots, "one")
    slots.performed("one", 1, TRAINED)
    slots.died("one")
    driver.ready = 2
    opened(slots, "two")
    slots.performed("two", 2, TRAINED)
    assert driver.ended == [1, 2] and not driver.problems


def test_after_a_mistake_of_the_driver_nothing_more_is_handed_out(tmp_path: Path) -> None:
    driver = Driver(4, ready=4)
    slots = Slots(driver, tmp_path)
    one, two = opened(slots, "one"), opened(slots, "two")
    driver.full = StoreError("the disk is full")
    slots.performed("one", 1, TRAINED)
    assert slots.error is driver.full and slots.open("three") is None
    slots.performed("two", 2, WorkerError("lost"))
    assert numbers(one) == [1] and numbers(two) == [2] and driver.ended == [1, 2]
