"""Condensing embeddings: equal to brute force, whatever the files, the threads and the interruptions."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from remora.condense import kmeans
from remora.condense.duplicates import components, medians
from remora.condense.filters import drawn
from remora.condense.source import embedding_files
from remora.condense.steps import Condenser, Embedded, Step
from remora.condense.vectors import Vectors
from remora.errors import DataError
from remora.spec import Condensation
from remora.spec.condensation import Clusters
from support.condense_reference import coreset, one_of_each_component, unit


def clustered(n: int, width: int = 16, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """n pictures about a few centres, of any length, a third of them near-copies of others; and their texts."""
    g = np.random.default_rng(seed)
    centres = g.standard_normal((12, width))
    images = centres[g.integers(0, 12, n)] + 0.9 * g.standard_normal((n, width))
    copies = np.flatnonzero(g.random(n) < 0.35)
    images[copies] = images[g.integers(0, copies + 1)] + 0.05 * g.standard_normal((len(copies), width))
    images *= g.uniform(0.5, 2, (n, 1))
    return images.astype(np.float32), (images + g.standard_normal((n, width))).astype(np.float32)


def write(folder: Path, rows: np.ndarray, cuts: tuple[int, ...] = ()) -> Vectors:
    folder.mkdir(parents=True)
    for i, part in enumerate(np.split(rows, cuts)):
        np.save(folder / f"part_{i}.npy", part)
    return Vectors(embedding_files(str(folder)))


def spec(**changes: object) -> Condensation:
    given = {"images": "unread", "texts": "unread"}
    facts = {"name": "x", "embeddings": given, "clusters": {"count": 20}, "duplicate": 0.86, "sample": 20}
    return Condensation.model_validate(facts | changes)


def run(folder: Path, images: Vectors, texts: Vectors, threads: int = 1, **changes: object) -> list[Step]:
    return Condenser(spec(**changes), Embedded(images, texts, "made up"), folder, threads).run()


def test_it_is_the_brute_force_coreset(tmp_path):
    images, texts = clustered(3000)
    steps = run(tmp_path / "steps", write(tmp_path / "i", images), write(tmp_path / "t", texts))
    labels, centroids = steps[0].load("labels"), steps[0].load("centroids")
    wanted = coreset(images, texts, labels, centroids, 0.86, (0.4, 0.6), (0.15, 0.35))
    for step, rows in zip(steps[1:4], wanted, strict=True):
        assert step.load("rows").tolist() == rows, step.name
    assert [s.counts["kept"] for s in steps[1:]] == [*map(len, wanted), 20]
    assert all(later.counts["from"] == earlier.counts["kept"] for earlier, later in pairwise(steps))
    assert len(wanted[0]) < 2400 and len(wanted[2]) > 40  # the data does have copies, and the filters do chain
    sample = steps[4].load("rows")
    assert set(sample) < set(wanted[2]) and np.all(np.diff(sample) > 0)


def test_labels_are_the_nearest_centroids(tmp_path):
    images, _ = clustered(3000)
    vectors = write(tmp_path / "i", images)
    centroids = kmeans.fit(vectors, Clusters(count=30, points=40), seed=3).centroids
    labels, mean = kmeans.assign(vectors, centroids)
    distances = np.linalg.norm(unit(images)[:, None] - centroids[None].astype(np.float64), axis=2)
    assert np.array_equal(labels, distances.argmin(axis=1))
    assert mean == pytest.approx(distances.min(axis=1).mean(), abs=1e-6)


def test_many_centroids_are_met_in_blocks(monkeypatch):
    g = np.random.default_rng(0)
    points, centroids = g.standard_normal((50, 8)).astype(np.float32), g.standard_normal((37, 8)).astype(np.float32)
    whole, near = kmeans.nearest(points, centroids, kmeans.half_norms(centroids))
    monkeypatch.setattr(kmeans, "BLOCK", 5)
    labels, reached = kmeans.nearest(points, centroids, kmeans.half_norms(centroids))
    assert np.array_equal(labels, whole) and np.allclose(reached, near, atol=1e-5)


def test_clusters_are_as_tight_as_scikit_learns(tmp_path):
    from sklearn.cluster import KMeans

    images, _ = clustered(1500)
    vectors = write(tmp_path / "i", images)
    _, ours = kmeans.assign(vectors, kmeans.fit(vectors, Clusters(count=20), seed=0).centroids)
    theirs = KMeans(20, n_init=1, random_state=0, init="random").fit(unit(images))
    distance = np.linalg.norm(unit(images) - theirs.cluster_centers_[theirs.labels_], axis=1).mean()
    assert ours < 1.02 * distance


def test_every_cluster_has_a_member_where_points_allow(tmp_path):
    """Nine points in ten are the same: most of the first centroids are too, and all but one of those stay empty."""
    g = np.random.default_rng(0)
    rows = np.repeat(g.standard_normal((1, 8)), 1000, axis=0)
    rows[::10] = g.standard_normal((100, 8))
    vectors = write(tmp_path / "i", rows.astype(np.float32))
    fitted = kmeans.fit(vectors, Clusters(count=50, points=20), seed=0)
    labels, _ = kmeans.assign(vectors, fitted.centroids)
    assert len(np.unique(labels)) == 50


@pytest.mark.slow
def test_files_threads_and_seeds(tmp_path):
    """Other files and another number of threads give the same bytes; another seed does not."""
    images, texts = clustered(9000)
    first = run(tmp_path / "a", write(tmp_path / "ai", images), write(tmp_path / "at", texts))
    cut = write(tmp_path / "bi", images, (1, 4095, 4097, 7000)), write(tmp_path / "bt", texts, (8999,))
    second = run(tmp_path / "b", *cut, threads=3)
    for a, b in zip(first, second, strict=True):
        names = sorted(p.name for p in a.folder.iterdir())
        assert names == sorted(p.name for p in b.folder.iterdir())
        assert all((a.folder / n).read_bytes() == (b.folder / n).read_bytes() for n in names), a.name
    third = run(tmp_path / "c", *cut, seed=1)
    assert third[-1].load("rows").tolist() != first[-1].load("rows").tolist()


def test_half_precision_and_rows_without_a_direction(tmp_path):
    images, texts = clustered(400)
    images[7], images[8, 3], images[9, 0] = 0, np.nan, np.inf
    steps = run(tmp_path / "s", write(tmp_path / "i", images.astype(np.float16)), write(tmp_path / "t", texts))
    assert np.flatnonzero(steps[0].load("labels") == kmeans.NOWHERE).tolist() == [7, 8, 9]
    assert steps[0].counts["from"] == 400 and steps[0].counts["kept"] == 397
    assert steps[1].load("representative")[[7, 8, 9]].tolist() == [-1, -1, -1]
    assert not set(steps[1].load("rows")) & {7, 8, 9}


def test_only_what_is_missing_is_made(tmp_path):
    images, texts = clustered(800)
    read = write(tmp_path / "i", images), write(tmp_path / "t", texts)
    first = run(tmp_path / "s", *read)
    assert all(s.seconds is not None for s in first)
    assert all(s.seconds is None for s in run(tmp_path / "s", *read))
    changed = run(tmp_path / "s", *read, centroid_rank=[0.5, 0.9])
    assert [s.seconds is None for s in changed] == [True, True, True, False, False]
    with (first[1].folder / "rows.npy").open("r+b") as f:
        f.seek(200)
        f.write(b"torn")
    again = run(tmp_path / "s", *read)
    assert [s.seconds is None for s in again] == [True, False, True, True, True]
    assert again[-1].load("rows").tolist() == first[-1].load("rows").tolist()


def test_a_step_that_fails_leaves_nothing(tmp_path, monkeypatch):
    images, texts = clustered(800)
    read = write(tmp_path / "i", images), write(tmp_path / "t", texts)
    with monkeypatch.context() as broken:
        broken.setattr("remora.condense.steps.centroid_similarity", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(tmp_path / "s", *read)
    assert sorted(p.name.rpartition("-")[0] for p in (tmp_path / "s").iterdir()) == [
        "clusters",
        "duplicates",
        "text-rank",
    ]
    assert [s.seconds is None for s in run(tmp_path / "s", *read)] == [True, True, True, False, False]


def test_filters_that_are_left_out(tmp_path):
    images, texts = clustered(800)
    read = write(tmp_path / "i", images), write(tmp_path / "t", texts)
    steps = run(tmp_path / "s", *read, text_rank=None, centroid_rank=None, sample=None)
    assert [s.name for s in steps] == ["clusters", "duplicates"]


def test_what_does_not_fit_is_told(tmp_path):
    images, texts = clustered(100)
    read, fewer = write(tmp_path / "i", images), write(tmp_path / "t", texts[:99])
    with pytest.raises(DataError, match="100 embedded pictures but 99 texts"):
        run(tmp_path / "s", read, fewer)
    with pytest.raises(DataError, match=r"500 clusters for 100 embeddings; lower clusters\.count"):
        run(tmp_path / "s", read, read, clusters={"count": 500})
    with pytest.raises(
        DataError, match=r"centroid-rank keeps nothing of what was left \(clusters 100, duplicates \d+, text-rank \d+\)"
    ):
        run(tmp_path / "s", read, read, centroid_rank=[0, 0.001])
    (tmp_path / "w").mkdir()
    np.save(tmp_path / "w" / "a.npy", np.zeros((2, 3)))
    np.save(tmp_path / "w" / "b.npy", np.zeros((2, 4)))
    with pytest.raises(DataError, match=r"b\.npy has width 4, .*a\.npy has 3"):
        Vectors(embedding_files(str(tmp_path / "w")))
    (tmp_path / "w" / "a.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match=r"a\.npy: unreadable embeddings"):
        Vectors(embedding_files(str(tmp_path / "w")))
    with pytest.raises(DataError, match=r"no \.npy file"):
        embedding_files(str(tmp_path))


def test_files_are_read_in_the_order_of_their_numbers(tmp_path):
    for i in range(12):
        np.save(tmp_path / f"img_emb_{i}.npy", np.full((1, 2), i + 1.0))
    assert [f.stem for f in embedding_files(str(tmp_path))] == [f"img_emb_{i}" for i in range(12)]


@pytest.mark.parametrize("order", ["clump first", "shuffled"])
@pytest.mark.parametrize("side", [3, 64])
def test_components_are_those_of_a_search(side, order, monkeypatch):
    """Long chains and dense clumps, in blocks of cosines of any size."""
    monkeypatch.setattr("remora.condense.duplicates.SIDE", side)
    angles = np.concatenate([3 + np.zeros(30), np.arange(40) * 0.05, np.random.default_rng(0).uniform(3.5, 6, 60)])
    if order == "shuffled":
        np.random.default_rng(1).shuffle(angles)
    rows = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    threshold = float(np.cos(0.06))
    found = components(rows, threshold)
    kept = np.flatnonzero(medians(found, np.arange(130.0)) == np.arange(130))
    everything = one_of_each_component(rows, np.zeros(130, int), np.zeros((1, 2)), threshold)
    assert len(np.unique(found)) == len(kept) == len(everything)
    joined = rows.astype(np.float64) @ rows.T > threshold
    assert all(found[a] == found[b] for a, b in zip(*np.nonzero(joined), strict=True))


def test_a_pair_that_float32_cannot_decide_is_decided():
    """Cosines within a few ulps of the threshold fall as float64 says; one exactly at it is no edge."""
    g = np.random.default_rng(0)
    base = unit(g.standard_normal((1, 512))).astype(np.float32)
    other = unit(g.standard_normal((2000, 512)))
    across = unit(other - (other @ base.T) * base)
    near = 0.86 + g.uniform(-2e-7, 2e-7, (2000, 1))
    rows = np.concatenate([base, near * base + np.sqrt(1 - near**2) * across]).astype(np.float32)
    exact = rows.astype(np.float64) @ rows[0].astype(np.float64) > 0.86
    assert 500 < exact.sum() < 1500
    assert np.array_equal(components(rows, 0.86) == components(rows, 0.86)[0], exact)
    assert len(np.unique(components(np.eye(2, dtype=np.float32), 0.0))) == 2


def test_the_median_and_its_ties():
    labels = np.array([5, 5, 5, 2, 2, 2, 2, 9])
    distances = np.array([3.0, 1.0, 2.0, 4.0, 1.0, 2.0, 3.0, 0.0])
    assert medians(labels, distances).tolist() == [2, 2, 2, 6, 6, 6, 6, 7]  # of four the third
    assert medians(np.zeros(4, int), np.ones(4)).tolist() == [2] * 4  # equal distances: by position


@pytest.mark.slow
def test_a_large_cluster_needs_no_matrix_of_all_pairs():
    rows = np.ones((12_000, 4), np.float32) / 2
    tracemalloc.start()
    assert not components(rows, 0.86).any()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 12_000**2 / 2


def test_a_larger_sample_holds_the_smaller():
    rows = np.arange(0, 1000, 3)
    assert set(drawn(rows, 10, 7)) < set(drawn(rows, 50, 7))
    assert drawn(rows, 10_000, 7).tolist() == rows.tolist()
