"""The network that the report recommends: why, how it does class by class, and how its images must be prepared."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from nas import runs
from nas.data.pixels import preprocessing
from nas.inspection.page import closer_look
from nas.inspection.text import origin
from nas.reporting.data import Artifacts, Json, read_artifacts
from nas.reporting.verdict import taken
from nas.runs.folders import WEIGHTS
from nas.runs.results import REMEDY, Inspection, check_inspection
from search_spaces import UserError
from search_spaces.command.files import sha256
from search_spaces.command.page import Markup, html, joined
from search_spaces.command.typed import load_typed

MOST_IMAGES = 10_000  # of a test split that is looked at for the page without being asked for
ANY_INSPECTION: Any = Annotated[Inspection, check_inspection]


def recommended(a: Artifacts) -> str | None:
    """The name of that network, if it is one of the run's trained ones."""
    network = taken(a.baselines) if a.baselines else None
    found = _of_searches(a)
    name = Path(network.folder).name if network else found["name"] if found and not a.baselines else None
    return name if name in a.retrained else None


def _of_searches(a: Artifacts) -> Json | None:
    """What the newest search of the run that recommends any network does."""
    return a.searches[a.recommending]["recommended"] if a.recommending else None


def _place(folder: Path, name: str) -> Path:
    return folder / "evaluate" / f"{name}-retrained-test.json"


def look_closer(folder: Path) -> None:
    """Evaluates the recommended network on the test split, as nas.evaluate does, unless that is done; says why not."""
    a = read_artifacts(folder)
    name = recommended(a)
    if name is None or _inspected(a, name):
        return
    search = a.baselines.search if a.baselines else a.recommending
    flags = ["--run", str(folder), "--retrained", name, "--split", "test", *(["--search", search] if search else [])]
    command = shlex.join(["python", "-m", "nas.evaluate", *flags])
    if a.info.splits.test > MOST_IMAGES:
        print(f"{a.info.splits.test:,} test images: for {name} class by class, {command}")
        return
    from nas.inspection.evaluate import Config, evaluate  # which needs torch

    try:
        with runs.called_as(command):
            of = _place(folder, name).stem
            evaluate(Config(retrained=(name,), run=str(folder), split="test", search=search, name=of))
    except UserError as error:
        print(f"the page does not show {name} class by class: {error}")


def _inspected(a: Artifacts, name: str) -> Json | None:
    """What was found of the network with the weights that it has now, if it was looked at."""
    path = _place(a.folder, name)
    if not path.exists():
        return None
    found: Json = load_typed(ANY_INSPECTION, path, REMEDY)
    network, weights = found["networks"][0], a.folder / "retrain" / name / WEIGHTS
    if network["arch"] != a.retrained[name]["arch"]:
        return None
    return found if not weights.exists() or network.get("weights_sha256") == sha256(weights) else None


def closer(a: Artifacts) -> Iterator[Markup]:
    """Sections on the recommended network, class by class."""
    name = recommended(a)
    if name and (found := _inspected(a, name)):
        yield from closer_look(found, f"{found['networks'][0]['name']}: {origin(found)}")


def preparation(a: Artifacts) -> Iterator[Markup]:
    """How an image must be prepared for any network of the run."""
    if not a.retrained:
        return
    info = a.info
    side = info.image_size
    mean, std = (", ".join(f"{x:g}" for x in of) for of in (info.mean, info.std))
    steps = {
        "Size": preprocessing(side),
        "Values": f"0 to 255 divided by 255, less the mean ({mean}), divided by the deviation ({std}) of R, G, B",
        "Order": f"float32, (images, channels, height, width): (N, 3, {side}, {side}); Core ML takes the RGB image",
        "Answer": f"{info.num_classes} scores, the highest is of the class; in the order of classes.txt: {_some(info)}",
    }
    yield html("<h2>How to prepare an image</h2>\n")
    yield html("<dl>\n{}</dl>\n", joined(html("<dt>{}</dt><dd>{}</dd>\n", *step) for step in steps.items()))


def _some(info: runs.RunInfo) -> str:
    """The first classes."""
    return ", ".join(info.classes[:10]) + (", …" if len(info.classes) > 10 else "")
