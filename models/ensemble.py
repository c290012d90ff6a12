"""An ensemble: several trainings that differ in their seed only, and whose answers are averaged.

Lakshminarayanan, Pritzel and Blundell, "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles",
NeurIPS 2017. The mean is that of the probabilities, as there: each member has one voice, where in a mean of logits one
that is very sure outvotes all others. What is passed on are the logits of that mean. So the temperature, which is
fitted on them and divides them, the thresholds and the explanations need not know that there are several members.

The vector of a row is the mean of the members' vectors. They start from the same weights, so their directions mean
nearly the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from bertline.models.family import Batch, Classifier, Family, Frozen

_MEMBER = "member-{}"


def folder(weights: Path, member: int, members: int) -> Path:
    """Where the weights of a member lie, counted from 1; the folder itself where there is only one."""
    return weights / _MEMBER.format(member) if members > 1 else weights


def folders(weights: Path) -> list[Path]:
    """The folder of each member that was saved in a folder of weights."""
    found = []
    while (member := weights / _MEMBER.format(len(found) + 1)).is_dir():
        found.append(member)
    return found or [weights]


def load(family: Family, weights: Path) -> list[Classifier]:
    """The members that were saved.

    Args:
        family: of the members.
        weights: the folder of all of them.

    Raises:
        UserError: the folder holds no saved classifier.
    """
    return [family.load(member) for member in folders(weights)]


def mean(logits: Sequence[tf.Tensor], *, multi_label: bool) -> tf.Tensor:
    """The logits of the mean of the members' probabilities, float32 [rows, labels].

    Args:
        logits: of each member, float32 [rows, labels]. Those of one member are returned as they are.
        multi_label: whether each label has a probability of its own.
    """
    if len(logits) == 1:
        return logits[0]
    members = tf.stack(logits)
    if multi_label:
        yes, no = tf.math.log_sigmoid(members), tf.math.log_sigmoid(-members)
        return tf.reduce_logsumexp(yes, axis=0) - tf.reduce_logsumexp(no, axis=0)
    return tf.reduce_logsumexp(tf.nn.log_softmax(members), axis=0) - tf.math.log(float(len(logits)))


class FrozenEnsemble(tf.Module):
    """The members as one module to export.

    Args:
        members: at least one.
        multi_label: as in `mean`.
    """

    def __init__(self, members: Sequence[Frozen], *, multi_label: bool):
        super().__init__()
        self._members, self._multi_label = list(members), multi_label

    def logits(self, batch: Batch) -> tf.Tensor:
        """The logits of the mean, float32 [batch, labels]; the batch as in Frozen."""
        return self.vectors_and_logits(batch)[1]

    def vectors_and_logits(self, batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        """The mean of the members' pooled vectors, float32 [batch, hidden], and the logits of their mean."""
        vectors, logits = zip(*(member.vectors_and_logits(batch) for member in self._members), strict=True)
        return tf.add_n(vectors) / len(vectors), mean(logits, multi_label=self._multi_label)
