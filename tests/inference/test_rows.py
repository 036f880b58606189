"""Which prompts go together: everything once, alike, within the batch and the memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from small_llms import rows

from remora.inference.rows import Row, plan
from remora.marks import IMAGE

LIMIT = 8
AMPLE = 10**9

prompts = st.lists(
    st.builds(
        lambda before, images, tail: Row(
            (*[3] * before, *[IMAGE] * 2 * len(images), *[4] * tail), tuple(images), LIMIT
        ),
        st.integers(1, 3),
        st.lists(st.integers(0, 3), max_size=2),
        st.integers(0, 9),
    ),
    max_size=40,
)


def held(batch: list[Row], padded: bool) -> int:
    """Tokens that a batch's caches hold: every row's, and the bodies that they were copied from."""
    longest = max(len(row.ids) for row in batch) + LIMIT
    return len(batch) * longest + sum(
        r.body for r in {(row.ids[: row.body], row.images): row for row in batch}.values()
    )


@given(prompts, st.booleans(), st.integers(1, 9), st.integers(1, 300))
def test_every_row_is_in_one_batch_that_fits(asked, padded, most, tokens):
    batches = [[asked[i] for i in batch] for batch in plan(asked, padded, most, tokens)]
    assert sorted(i for batch in plan(asked, padded, most, tokens) for i in batch) == list(range(len(asked)))
    for batch in batches:
        assert len({(r.head, r.body) if padded else len(r.ids) for r in batch}) == 1
        assert len(batch) <= most
        assert len(batch) == 1 or held(batch, padded) <= tokens
        assert batch == sorted(batch, key=lambda row: len(row.ids))


@given(prompts, st.booleans(), st.randoms())
def test_the_batches_do_not_follow_the_order_of_the_rows_where_it_says_nothing(asked, padded, random):
    """How many batches there are, and how long their rows, is the same for any order."""
    mixed = random.sample(asked, len(asked))
    sizes = [
        sorted((len(b), max(len(order[i].ids) for i in b)) for b in plan(order, padded, 64, AMPLE))
        for order in (asked, mixed)
    ]
    assert sizes[0] == sizes[1]


def test_the_questions_about_a_picture_stay_together_where_they_fit():
    asked = rows([5] * 12, each=3, limit=LIMIT)
    batches = list(plan(asked, True, 7, AMPLE))
    assert batches == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    assert list(plan(asked, True, 2, AMPLE)) == [[i, i + 1] for i in range(0, 12, 2)]  # they do not


def test_long_prompts_go_with_long_ones():
    asked = rows([30, 2, 28, 3], each=1, limit=LIMIT)
    assert list(plan(asked, True, 2, AMPLE)) == [[1, 3], [2, 0]]


def test_memory_bounds_a_batch_and_a_row_that_exceeds_it_goes_alone():
    asked = rows([5] * 6, each=6, limit=LIMIT)
    alone = len(asked[0].ids) + LIMIT
    assert [len(b) for b in plan(asked, True, 64, 3 * alone + asked[0].body)] == [3, 3]
    assert [len(b) for b in plan(asked, True, 64, 3 * alone + asked[0].body - 1)] == [2, 2, 2]
    assert [len(b) for b in plan(asked, True, 64, 1)] == [1] * 6


def test_the_longest_answer_of_a_batch_is_what_every_row_has_room_for():
    asked = [Row((3, 4), (), 1), Row((3, 5), (), 1), Row((3, 6), (), 10)]
    assert [len(b) for b in plan(asked, True, 64, 3 * 12)] == [3]
    assert [len(b) for b in plan(asked, True, 64, 3 * 12 - 1)] == [2, 1]


def test_parts_of_a_prompt():
    (row,) = rows([3], each=1, images=2, head=5)
    assert (row.head, row.body, len(row.ids)) == (5, 13, 16)
    (row,) = rows([0], each=1, head=5)
    assert (row.head, row.body) == (5, 5)  # the picture's last token predicts the answer
    assert (Row((3, 4), ()).head, Row((3, 4), ()).body) == (0, 0)
    one, other = Row((3, IMAGE, 5), (0,)), Row((3, IMAGE, 6), (1,))
    assert one.shared(1) == other.shared(1) and one.shared(2) != other.shared(2)
