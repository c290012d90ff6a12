"""Which rows to label next, from a model's probabilities and the texts' vectors.

With a model: the least sure rows, spread by clusters (Zhdanov, "Diverse mini-batch Active Learning", 2019). Several
times as many rows as wanted are clustered by k-means, each weighted by how unsure the model is, and the row nearest to
each centre is taken. Uncertainty alone would choose the same doubt over and over.

Without one: typical rows (Hacohen, Dekel and Weinshall, "Active Learning on a Budget: Opposite Strategies Suit High and
Low Budgets", ICML 2022). The texts are clustered, and of each cluster the row in the densest part of it is taken.
Before there is a model of the task, odd rows teach less than usual ones.

scikit-learn clusters. All is decided by the rows, their order and the seed.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

CANDIDATES_PER_ROW = 10  # the paper's beta: so many times more rows are clustered than are taken
CLUSTERS = 500  # at most, without a model, as in the paper: beyond, a cluster gives more than one row
NEIGHBOURS = 20  # the paper's, for how dense the surroundings of a row are
MEMBERS = 5_000  # of a cluster whose distances are computed; an even sample of a larger one
WHOLE = 20_000_000  # rows x clusters; above it k-means goes by batches of rows, which takes seconds instead of minutes


def uncertainty(probabilities: np.ndarray, *, multi_label: bool) -> np.ndarray:
    """How unsure a model is of each row, float64 [rows], from 0 to 1.

    With one label: 1 minus the margin between the two most probable labels. With several: that of the label nearest to
    0.5, whose margin is |2p - 1| (Brinker, "On Active Learning in Multi-label Classification", 2006).

    Args:
        probabilities: float [rows, labels].
        multi_label: whether each label has a probability of its own.
    """
    probabilities = np.asarray(probabilities, np.float64)
    if multi_label:
        return 1 - np.abs(2 * probabilities - 1).min(axis=1)
    top = np.sort(probabilities, axis=1)[:, -2:]
    return 1 - (top[:, 1] - top[:, 0])


def diverse(vectors: np.ndarray, doubts: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The places of rows that are unsure and unlike each other, int64 [at most count], the least sure first.

    Args:
        vectors: float32 [rows, hidden], of length 1.
        doubts: float [rows], as `uncertainty` gives them.
        count: how many are wanted.
        seed: of the clusters' first centres.
    """
    if len(vectors) <= count:
        return np.argsort(-doubts, kind="stable")
    # A model that is sure of all rows has no weights to give; then all count the same.
    labels, centres = _clusters(vectors, count, seed, weights=np.maximum(doubts, 1e-6))
    distances = np.linalg.norm(vectors - centres[labels], axis=1)
    # Rows that are exactly alike leave a cluster empty, so the least sure of the others fill up.
    nearest = _first_of_each(labels, np.lexsort((-doubts, distances)))
    others = np.setdiff1d(np.argsort(-doubts, kind="stable"), nearest, assume_unique=True)
    others = others[np.argsort(-doubts[others], kind="stable")]
    chosen = np.concatenate([nearest, others])[:count]
    return chosen[np.argsort(-doubts[chosen], kind="stable")]


def typical(vectors: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The places of typical rows of different kinds, int64 [at most count], those of the largest clusters first.

    Args:
        vectors: float32 [rows, hidden], of length 1.
        count: how many are wanted.
        seed: of the clusters' first centres.
    """
    if len(vectors) <= count:
        return np.arange(len(vectors))
    labels, _ = _clusters(vectors, min(count, CLUSTERS), seed)
    sizes = np.bincount(labels)
    largest_first = np.argsort(-sizes, kind="stable")
    ranked = [_by_density(vectors, np.flatnonzero(labels == label)) for label in largest_first if sizes[label]]
    return np.fromiter(_in_turn(ranked, count), np.int64)


def _in_turn(ranked: list[np.ndarray], count: int) -> Iterator[int]:
    """One row of each cluster, then the next of each, until there are enough."""
    given = 0
    for turn in range(max(map(len, ranked))):
        for members in ranked:
            if turn < len(members) and given < count:
                given += 1
                yield members[turn]


def _clusters(
    vectors: np.ndarray, count: int, seed: int, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The cluster of each row, int [rows], and the centres, float32 [count, hidden]."""
    import warnings

    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    kind = KMeans if len(vectors) * count <= WHOLE else MiniBatchKMeans
    # One thread: sums of several depend on how the rows were dealt out.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than clusters
        fitted = kind(count, random_state=seed, n_init=1).fit(vectors, sample_weight=weights)
    return fitted.labels_, fitted.cluster_centers_


def _first_of_each(labels: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The first row of each cluster in an order of all rows."""
    _, places = np.unique(labels[order], return_index=True)
    return order[places]


def _by_density(vectors: np.ndarray, members: np.ndarray) -> np.ndarray:
    """The members of a cluster, those with the nearest neighbours first: the inverse is the paper's typicality."""
    from sklearn.neighbors import NearestNeighbors
    from threadpoolctl import threadpool_limits

    members = members[:: -(-len(members) // MEMBERS)]
    if len(members) < 3:
        return members
    with threadpool_limits(1):
        search = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(members) - 1), algorithm="brute")
        distances, _ = search.fit(vectors[members]).kneighbors()  # without the row itself
    return members[np.argsort(distances.mean(axis=1), kind="stable")]
