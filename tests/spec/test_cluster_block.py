"""The cluster block: a number of workers, or a range."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from remora.spec import Cluster


@pytest.mark.parametrize(
    ("said", "least", "most", "elastic"), [(2, 2, 2, False), ([1, 2], 1, 2, True), ((3, 3), 3, 3, False)]
)
def test_workers_are_a_number_or_a_range(said, least, most, elastic):
    cluster = Cluster(workers=said)
    assert (cluster.least_workers, cluster.most_workers, cluster.elastic) == (least, most, elastic)
    assert Cluster.model_validate(cluster.model_dump(mode="json")) == cluster


@pytest.mark.parametrize("said", [0, [2, 1], [0, 2], [1], [1, 2, 3], "2", True, 1.5])
def test_other_workers_are_refused_in_one_line(said):
    with pytest.raises(ValidationError) as e:
        Cluster(workers=said)
    (error,) = e.value.errors()
    assert "neither a number of workers (1 or more) nor [min, max]" in error["msg"]
