"""The study: Optuna's trials in SQLite, which a killed search takes up again where it was."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertline.components.tuning.space import METHOD, Dimension, Space
from bertline.components.tuning.trials import Trial
from bertline.errors import UserError

if TYPE_CHECKING:
    import optuna

FILE = "trials.db"
# Trials at random before TPE proposes. Optuna's 10 would be half of 20 trials.
AT_RANDOM = 5
# Complete trials before one is pruned, and of them those that were as far: a median of fewer is luck.
PRUNE_AFTER, PRUNE_AGAINST = 4, 3
# Trials are compared at the same quarter of their schedules. After its first epoch a trial of four has a high learning
# rate, and would lose to a trial of one, whose rate has come down to zero.
PARTS = 4
LEAST_FOR_IMPORTANCES = 6  # complete trials; with fewer the regression behind the importances fits anything

# Attributes of Optuna's trials: whether the config's own values lie in the space; a Trial as JSON; ...
_START, _FIGURES, _INTERRUPTED, _SECONDS = "start", "figures", "interrupted", "seconds"


class Proposal:
    """A trial to be run.

    Attributes:
        number: among the trials that count, from 1.
        values: by key.
        trial: Optuna's.
        seconds: that it has been trained for: before it was interrupted, and since.
    """

    def __init__(self, number: int, values: dict[str, Any], trial: optuna.Trial):
        self.number, self.values, self.trial = number, values, trial
        self.seconds = trial.user_attrs.get(_SECONDS, 0.0)
        self._reported: set[int] = set()

    def falls_behind(self, losses: Sequence[float], epochs: int) -> bool:
        """Notes the validation losses so far; whether the trial should be pruned.

        Args:
            losses: of each epoch that is done.
            epochs: of the whole training.
        """
        for epoch, loss in enumerate(losses, start=1):
            part = PARTS * epoch // epochs
            if part and part not in self._reported:
                self.trial.report(loss, part)
                self._reported.add(part)
        return self.number > 1 and len(losses) < epochs and self.trial.should_prune()


class Study:
    """A search's trials.

    Args:
        folder: of the SQLite file; it is made.
        name: names the study in the file. It stands for everything that a loss depends on.
        space: what is searched.
        own: the values that the config itself has.
        seed: of what is proposed.
    """

    def __init__(self, folder: Path, name: str, space: Space, own: Mapping[str, Any], seed: int):
        optuna = library()
        self._space, self._own, self._seed = (
            space,
            dict(own),
            seed & 0x7FFFFFFF,
        )  # what NumPy takes, with room to count up
        self._storage = _storage(folder)
        self._study = optuna.create_study(
            storage=self._storage,
            study_name=name,
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=PRUNE_AFTER, n_min_trials=PRUNE_AGAINST),
        )
        for trial in self._study.get_trials(states=[optuna.trial.TrialState.RUNNING]):  # its process was killed
            if _FIGURES in trial.user_attrs:
                self._tell(trial.number, Trial(**json.loads(trial.user_attrs[_FIGURES])))
            else:
                self._interrupt(trial)

    def propose(self) -> Proposal:
        """The next trial: the config itself, then one that was interrupted, then what TPE proposes.

        The proposals depend only on the trials before: a search that was killed goes on as if it had not been.
        """
        optuna = library()
        counted = len(self.trials())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study.sampler = optuna.samplers.TPESampler(
                seed=self._seed + counted, n_startup_trials=AT_RANDOM, multivariate=True, group=True
            )
        waiting = self._study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.WAITING])
        if not counted and not waiting:
            inside = self._space.holds(self._own)
            self._study.enqueue_trial(self._named(self._own) if inside else {}, user_attrs={_START: inside})
        trial = self._study.ask()
        if _START in trial.user_attrs:
            if trial.user_attrs[_START]:
                self._sampled(trial)  # TPE learns from it, too
            return Proposal(counted + 1, self._own, trial)
        return Proposal(counted + 1, self._sampled(trial), trial)

    def _sampled(self, trial: optuna.Trial) -> dict[str, Any]:
        method = self._space.method
        values = {METHOD: _suggest(trial, method)} if method else {}
        for each in self._space.of_method(values.get(METHOD)):
            values[each.key] = each.rounded(_suggest(trial, each))
        return values

    def _named(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values by the names of their dimensions, as Optuna has them."""
        tried = self._space.of_method(values.get(METHOD))
        named = {each.name: values[each.key] for each in tried}
        return {METHOD: values[METHOD], **named} if self._space.method else named

    def end(self, proposal: Proposal, figures: Trial) -> None:
        """Notes how a trial ended."""
        proposal.trial.set_user_attr(_FIGURES, json.dumps(vars(figures)))
        self._tell(proposal.trial.number, figures)

    def _tell(self, number: int, figures: Trial) -> None:
        state = library().trial.TrialState
        if figures.state == "complete":
            self._study.tell(number, figures.loss)
        else:
            self._study.tell(number, state=state.PRUNED if figures.state == "pruned" else state.FAIL)

    def interrupt(self, proposal: Proposal) -> None:
        """Marks a trial as interrupted; its values come again, and its training goes on from its checkpoint."""
        self._interrupt(self._study.trials[proposal.trial.number], proposal.seconds)

    def _interrupt(self, trial: optuna.trial.FrozenTrial, seconds: float = 0.0) -> None:
        start = {_START: trial.user_attrs[_START]} if _START in trial.user_attrs else {}
        if start or trial.params:
            self._study.enqueue_trial(trial.params, user_attrs={_SECONDS: seconds, **start})
        self._storage.set_trial_user_attr(trial._trial_id, _INTERRUPTED, True)
        self._study.tell(trial.number, state=library().trial.TrialState.FAIL)

    @property
    def seconds(self) -> float:
        """Spent on trials, on those too that wait to go on. What a killed process did last is not counted."""
        waiting = self._study.get_trials(deepcopy=False, states=[library().trial.TrialState.WAITING])
        return sum(trial.seconds for trial in self.trials()) + sum(
            trial.user_attrs.get(_SECONDS, 0.0) for trial in waiting
        )

    def trials(self) -> list[Trial]:
        """The trials that count, in their order."""
        ended = (trial.user_attrs.get(_FIGURES) for trial in self._study.get_trials(deepcopy=False))
        return [Trial(**json.loads(figures)) for figures in ended if figures]

    def importances(self) -> dict[str, float]:
        """By key, how much of the losses' spread it explains (fANOVA: Hutter, Hoos and Leyton-Brown, ICML 2014).

        Only keys that all complete trials have are compared; {} while there are too few of them, or all lost alike.
        """
        optuna = library()
        complete = self._study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])
        complete = [trial for trial in complete if trial.params]
        shared = set.intersection(*(set(trial.params) for trial in complete)) if complete else set()
        losses = {trial.value for trial in complete}
        if len(complete) < LEAST_FOR_IMPORTANCES or len(shared) < 2 or len(losses) < 2:
            return {}
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=self._seed)
        found = optuna.importance.get_param_importances(self._study, evaluator=evaluator, params=sorted(shared))
        keys = {each.name: each.key for each in self._space.dimensions}
        return {keys[name]: float(share) for name, share in found.items()}


def _suggest(trial: optuna.Trial, each: Dimension) -> Any:
    if not each.is_range:
        return trial.suggest_categorical(each.name, each.values)
    suggest = trial.suggest_int if each.is_whole else trial.suggest_float
    return suggest(each.name, *each.values, log=each.log)


def _storage(folder: Path) -> optuna.storages.RDBStorage:
    """The SQLite file, which is made if it is not there.

    Raises:
        UserError: it cannot be read.
    """
    optuna = library()
    import sqlalchemy

    folder.mkdir(parents=True, exist_ok=True)
    file = folder / FILE
    try:
        return optuna.storages.RDBStorage(str(sqlalchemy.URL.create("sqlite", database=str(file))))
    except sqlalchemy.exc.DatabaseError as error:
        raise UserError(
            f"{file}: the trials cannot be read: {error.orig}. Move the file away to start anew."
        ) from error


def require() -> None:
    """Raises UserError where the extra is not installed."""
    if find_spec("optuna") is None:
        raise UserError("tuning needs Optuna; `pip install 'bertline[tuning]'` brings it.")


def library() -> Any:
    """Optuna, with its messages in the log.

    Raises:
        UserError: the extra is not installed.
    """
    require()
    import optuna

    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()
    return optuna
