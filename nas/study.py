"""Evaluated archs as an Optuna study: what has been measured is never measured again, by this search or its resumption.

The study is a journal file beside the result; optuna-dashboard shows it, live or later.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from search_spaces import Arch, SearchSpace, UserError


class Study:
    """
    Args:
        path: the journal; made if missing, continued if there.
        metrics: costs of an arch, recorded with its trial; the objectives are accuracy and `mes`.
    """

    def __init__(self, path: Path, space: SearchSpace, metrics: Callable[[Arch], dict[str, Any]]) -> None:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space, self.metrics = space, metrics
        _mend(path)
        try:
            self._study = optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(path))),
                study_name=space.name,
                directions=["maximize", "maximize"],
                load_if_exists=True,
            )
            trials = self._study.get_trials(deepcopy=False)
            # JSON writes each double so that it reads back as the same double
            self.accuracy = {space.from_json(t.user_attrs["arch"]): t.values[0] for t in trials}
        except (ValueError, KeyError, TypeError, AssertionError, UserError) as error:
            raise UserError(
                f"{path} is no study of {space.name} ({error}); remove it, or search under a --name"
            ) from None

    def accuracies(
        self, base: Arch, archs: Sequence[Arch], evaluate: Callable[[Arch, Sequence[Arch]], list[float]]
    ) -> list[float]:
        """Accuracy of each arch; `evaluate(base, archs)` is asked, all at once, for those not in the study."""
        new = [arch for arch in dict.fromkeys(archs) if arch not in self.accuracy]
        if new:
            found = evaluate(base, new)
            self._study.add_trials([self._trial(a, v) for a, v in zip(new, found, strict=True)])
            self.accuracy.update(zip(new, found, strict=True))
        return [self.accuracy[arch] for arch in archs]

    def _trial(self, arch: Arch, accuracy: float) -> Any:
        import optuna

        metrics = self.metrics(arch)
        return optuna.trial.create_trial(
            values=[accuracy, metrics["mes"]],
            params={c.name: v for c, v in zip(self.space.choices, arch.values, strict=True)},
            distributions={c.name: optuna.distributions.CategoricalDistribution(c.options) for c in self.space.choices},
            user_attrs={"arch": self.space.to_json(arch), **metrics},
        )


def _mend(path: Path) -> None:
    """Removes what a killed process may have left: half a line at the journal's end, and its lock.

    The folder is this process's own (`runs.begin`, `runs.reopen`), so nobody else holds the lock.
    """
    path.with_name(path.name + ".lock").unlink(missing_ok=True)
    if path.exists():
        whole = path.read_bytes()
        if end := len(whole) - (whole.rfind(b"\n") + 1):
            os.truncate(path, len(whole) - end)
