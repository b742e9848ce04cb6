"""Evaluated archs as an Optuna study: what has been measured is never measured again, by this search or its resumption.

A study lives in a file beside the result, or in a database that many hosts see. optuna-dashboard shows it, live or
later. Samplers do not work on it: a strategy is a function of its seed and of the accuracies it is told, so it
keeps its own state in memory, and going on is running it again with the study answering what is known.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

from nas.evaluation.racing import Finish
from nas.searching.storage import open_storage, readable
from search_spaces import Arch, SearchSpace, UserError
from search_spaces.command.forecast import Forecast
from search_spaces.command.typed import Amount, Count, Fraction, read_typed

# Accuracies of archs, in groups as they are known, in any order.
Evaluate = Callable[[Sequence[Arch]], Iterator[tuple[Sequence[Arch], Sequence[float]]]]

RunRace = Callable[[Arch, Sequence[Arch], Sequence[float]], list[Finish]]  # `Evaluator.race`

FACTS = "facts"
ESTIMATE = "accuracy_estimate"  # of a trial that was pruned
RACE = ("images_seen", "rough_images_seen", "led")  # of a trial that was in a race


class Recorded(TypedDict):
    """Attributes of a trial, beside the metrics of its arch."""

    arch: dict[str, Any]
    accuracy: NotRequired[Fraction]
    accuracy_estimate: NotRequired[Fraction]
    seconds: Amount
    seconds_since_start: Amount
    step: Count
    images_seen: NotRequired[Count]


def _check_known(trial: Recorded) -> None:
    if ("accuracy" in trial) == ("accuracy_estimate" in trial):
        raise ValueError("has not one of accuracy and accuracy_estimate")


Measured = Annotated[Recorded, _check_known]


class Raced(TypedDict):
    """Of a trial that was in a race."""

    images_seen: Count
    rough_images_seen: Count
    led: bool


@dataclass(frozen=True)
class Evaluation:
    """
    Args:
        accuracy: a fraction; an estimate if it was dropped from a race.
        seconds: its share of the time since others were known before it.
        seconds_since_start: of the search, pauses between its resumptions left out.
        step: of the search, that asked for it.
        race: how it ended, if it was evaluated in one.
    """

    arch: Arch
    accuracy: float
    seconds: float
    seconds_since_start: float
    step: int
    race: Finish | None = None


class Study:
    """
    Args:
        place: a file, or a database's address as SQLAlchemy takes it, `$NAME` in it standing for an environment
            variable.
        name: of the study there; made if it is missing.
        metrics: costs of an arch, recorded with its trial; the objectives are accuracy and `mes`.
        facts: what accuracies and metrics depend on beside the arch: the same whenever the study is opened.

    Raises:
        UserError: no such place, a locked or damaged one, or a study of other facts.
    """

    def __init__(
        self,
        place: str | Path,
        name: str,
        space: SearchSpace,
        metrics: Callable[[Arch], dict[str, Any]],
        facts: Mapping[str, Any],
    ) -> None:
        import optuna

        self.place, self.name, self.space, self.metrics = place, name, space, metrics
        self.forecast: Forecast | None = None  # is told of each arch that is evaluated
        self.evaluations: list[Evaluation] = []  # what this search has asked for, in its order
        self.dropped: list[Evaluation] = []  # from its races
        with readable(place):
            storage = open_storage(place)
            if name in optuna.get_all_study_names(storage):  # to read it writes nothing
                self._study = optuna.load_study(study_name=name, storage=storage)
            else:
                self._study = optuna.create_study(
                    storage=storage, study_name=name, directions=["maximize", "maximize"], load_if_exists=True
                )
            self._check({"space": space.name, **facts})
            found = [self._read(trial) for trial in self._study.get_trials(deepcopy=False)]
        self.known = {e.arch: e for e in found if not _is_dropped(e)}
        self._known_dropped = {(e.step, e.arch): e for e in found if _is_dropped(e)}
        self._asked: set[Arch] = set()
        self._before = max((e.seconds_since_start for e in found), default=0.0)
        self.start_clock()

    def start_clock(self) -> None:
        """To be called again where the search begins, if something else takes time between its opening and that."""
        self._start = time.monotonic() - self._before

    def accuracies(self, archs: Sequence[Arch], evaluate: Evaluate, step: int) -> list[float]:
        """Accuracy of each arch; `evaluate` is asked for those not in the study, which records each as it comes.

        Args:
            step: of the search, recorded with the trials.
        """
        if new := [arch for arch in dict.fromkeys(archs) if arch not in self.known]:
            start = self.seconds
            for group, found in evaluate(new):
                now = self.seconds
                for arch, accuracy in zip(group, found, strict=True):
                    self._add(Evaluation(arch, accuracy, (now - start) / len(group), now, step))
                start = self.seconds
        return [self._ask(self.known[arch]).accuracy for arch in archs]

    def race(self, base: Arch, archs: Sequence[Arch], gains: Sequence[float], run: RunRace, step: int) -> list[Finish]:
        """How each arch ends; `run(base, archs, gains)` is asked for those that no step before this one has finished.

        A race that was killed while it was recorded is run again as it was: it is a function of these arguments.
        """
        earlier = {arch for arch in archs if arch in self.known and self.known[arch].step < step}
        racing = {arch: gain for arch, gain in zip(archs, gains, strict=True) if arch not in earlier}
        if any((step, arch) not in self._known_dropped and arch not in self.known for arch in racing):
            start = self.seconds
            found = run(base, list(racing), list(racing.values()))
            now = self.seconds
            for arch, finish in zip(racing, found, strict=True):
                self._add(Evaluation(arch, finish.accuracy, (now - start) / len(racing), now, step, finish))
        ends = [self._ask(self._known_dropped.get((step, arch)) or self.known[arch]) for arch in archs]
        return [e.race if e.race and e.arch in racing else Finish(e.accuracy, 0) for e in ends]

    def _add(self, evaluation: Evaluation) -> None:
        if _is_dropped(evaluation):
            missing = self._known_dropped.setdefault((evaluation.step, evaluation.arch), evaluation) is evaluation
        else:
            missing = self.known.setdefault(evaluation.arch, evaluation) is evaluation
        if missing:
            self._record(evaluation)
            if self.forecast:
                self.forecast.update()

    def _ask(self, evaluation: Evaluation) -> Evaluation:
        if _is_dropped(evaluation):
            self.dropped.append(evaluation)
        elif evaluation.arch not in self._asked:
            self._asked.add(evaluation.arch)
            self.evaluations.append(evaluation)
        return evaluation

    @property
    def recorded(self) -> list[Arch]:
        """What has been evaluated, also those that a race dropped."""
        return [*self.known, *(arch for _, arch in self._known_dropped)]

    @property
    def seconds(self) -> float:
        """Since the start of the search, pauses between its resumptions left out."""
        return time.monotonic() - self._start

    def _check(self, facts: dict[str, Any]) -> None:
        before = self._study.user_attrs.get(FACTS)
        if before is None:
            self._study.set_user_attr(FACTS, facts)
        elif other := [fact for fact, value in facts.items() if before.get(fact) != value]:
            raise UserError(
                f"study {self.name} in {self.place} is of another {' and '.join(other)}; search under another --name"
            )

    def _record(self, evaluation: Evaluation) -> None:
        import optuna

        dropped, race = _is_dropped(evaluation), evaluation.race
        metrics, choices = self.metrics(evaluation.arch), self.space.choices
        attributes = {
            "arch": self.space.to_json(evaluation.arch),
            # JSON, so that it reads back as the same double from any database
            ESTIMATE if dropped else "accuracy": evaluation.accuracy,
            **metrics,
            "seconds": evaluation.seconds,
            "seconds_since_start": evaluation.seconds_since_start,
            "step": evaluation.step,
            **({name: getattr(race, name) for name in RACE} if race else {}),
        }
        states = optuna.trial.TrialState
        trial = optuna.trial.create_trial(
            state=states.PRUNED if dropped else states.COMPLETE,
            values=None if dropped else [evaluation.accuracy, metrics["mes"]],
            params={c.name: v for c, v in zip(choices, evaluation.arch.values, strict=True)},
            distributions={c.name: optuna.distributions.CategoricalDistribution(c.options) for c in choices},
            user_attrs=attributes,
        )
        with readable(self.place):
            self._study.add_trial(trial)

    def _read(self, trial: Any) -> Evaluation:
        found = read_typed(Measured, trial.user_attrs, f"trial {trial.number}")
        dropped, arch = ESTIMATE in found, self.space.from_json(found["arch"])
        accuracy = found["accuracy_estimate"] if dropped else found["accuracy"]
        race = None
        if "images_seen" in found:
            of = read_typed(Raced, trial.user_attrs, f"trial {trial.number}")
            race = Finish(accuracy, of["images_seen"], of["rough_images_seen"], led=of["led"], dropped=dropped)
        return Evaluation(arch, accuracy, found["seconds"], found["seconds_since_start"], found["step"], race)


def _is_dropped(evaluation: Evaluation) -> bool:
    return evaluation.race is not None and evaluation.race.dropped
