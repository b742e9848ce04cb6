"""Evaluated archs as an Optuna study: what has been measured is never measured again, by this search or its resumption.

A study lives in a database: a file beside the result, or a server that many hosts see. optuna-dashboard shows it, live
or later. Samplers do not work on it: a strategy is a function of its seed and of the accuracies it is told, so it
keeps its own state in memory, and going on is running it again with the study answering what is known.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nas.storage import open_storage, readable
from search_spaces import Arch, SearchSpace, UserError

# Accuracies of archs, in groups as they are known, in any order.
Evaluate = Callable[[Sequence[Arch]], Iterator[tuple[Sequence[Arch], Sequence[float]]]]

FACTS = "facts"


@dataclass(frozen=True)
class Evaluation:
    """
    Args:
        accuracy: a fraction.
        seconds: its share of the time since others were known before it.
        seconds_since_start: of the search, pauses between its resumptions left out.
    """

    arch: Arch
    accuracy: float
    seconds: float
    seconds_since_start: float


class Study:
    """
    Args:
        url: of the database, as SQLAlchemy takes it; `$NAME` in it stands for an environment variable.
        name: of the study in it; made if it is missing.
        metrics: costs of an arch, recorded with its trial; the objectives are accuracy and `mes`.
        facts: what accuracies and metrics depend on beside the arch: the same whenever the study is opened.

    Raises:
        UserError: no such database, a locked or damaged one, or a study of other facts.
    """

    def __init__(
        self,
        url: str,
        name: str,
        space: SearchSpace,
        metrics: Callable[[Arch], dict[str, Any]],
        facts: Mapping[str, Any],
    ) -> None:
        import optuna

        self.url, self.space, self.metrics = url, space, metrics
        self.evaluations: list[Evaluation] = []  # what this search has asked for, in its order
        with readable(url):
            self._study = optuna.create_study(
                storage=open_storage(url), study_name=name, directions=["maximize", "maximize"], load_if_exists=True
            )
            self._check(name, {"space": space.name, **facts})
            found = [self._read(trial) for trial in self._study.get_trials(deepcopy=False)]
        self.known = {evaluation.arch: evaluation for evaluation in found}
        self._asked: set[Arch] = set()
        self._start = time.monotonic() - max((e.seconds_since_start for e in found), default=0.0)

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
                    evaluation = Evaluation(arch, accuracy, (now - start) / len(group), now)
                    self._record(evaluation, step)
                    self.known[arch] = evaluation
                start = self.seconds
        for arch in archs:
            if arch not in self._asked:
                self._asked.add(arch)
                self.evaluations.append(self.known[arch])
        return [self.known[arch].accuracy for arch in archs]

    @property
    def seconds(self) -> float:
        """Since the start of the search, pauses between its resumptions left out."""
        return time.monotonic() - self._start

    def _check(self, name: str, facts: dict[str, Any]) -> None:
        before = self._study.user_attrs.get(FACTS)
        if before is None:
            self._study.set_user_attr(FACTS, facts)
        elif other := [fact for fact, value in facts.items() if before.get(fact) != value]:
            raise UserError(
                f"study {name} in {self.url} is of another {' and '.join(other)}; search under another --name"
            )

    def _record(self, evaluation: Evaluation, step: int) -> None:
        import optuna

        metrics, choices = self.metrics(evaluation.arch), self.space.choices
        attributes = {
            "arch": self.space.to_json(evaluation.arch),
            "accuracy": evaluation.accuracy,  # JSON, so that it reads back as the same double from any database
            **metrics,
            "seconds": evaluation.seconds,
            "seconds_since_start": evaluation.seconds_since_start,
            "step": step,
        }
        trial = optuna.trial.create_trial(
            values=[evaluation.accuracy, metrics["mes"]],
            params={c.name: v for c, v in zip(choices, evaluation.arch.values, strict=True)},
            distributions={c.name: optuna.distributions.CategoricalDistribution(c.options) for c in choices},
            user_attrs=attributes,
        )
        with readable(self.url):
            self._study.add_trial(trial)

    def _read(self, trial: Any) -> Evaluation:
        attributes = trial.user_attrs
        numbers = (float(attributes[name]) for name in ("accuracy", "seconds", "seconds_since_start"))
        return Evaluation(self.space.from_json(attributes["arch"]), *numbers)
