"""Networks profiled by the runtime's own time of every operator: which networks, and the report and page of them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

from tqdm import tqdm

from latency_lut.backends.base import Backend, OperatorTime, Runtime, network_job, require
from latency_lut.backends.protocol import ANCHOR, Timing
from latency_lut.backends.registry import Target
from latency_lut.measurement.sessions import measure_sessions
from latency_lut.measurement.timm_models import PREFIX, timm_job
from latency_lut.profiling.plot import document
from latency_lut.profiling.report import Network, Profile, Report, Varied, to_json
from latency_lut.tables.of_run import SpaceFlags
from search_spaces import Arch, SearchSpace, UserError
from search_spaces.command import check_idle, flag
from search_spaces.command.files import slug, write_json, write_text

PROFILES = Path("runs/profiles")
Kinds = tuple[str, ...]  # of the blocks that a choice leaves out together, in the order of execution


@dataclass(frozen=True)
class ProfileConfig(SpaceFlags, Target):
    model: str | None = flag(None, "a timm model, timm/NAME, with random weights")
    arch: str | None = flag(None, "a network of the space: its name, or a JSON file")
    repeats: int = flag(50, "profiled runs, and undisturbed samples without profiling", minimum=2, maximum=1000)
    kind: tuple[str, ...] = flag(
        (), "kind of blocks that a space's networks have fewer and fewer of (default: of which most can be left out)"
    )
    num_random: int = flag(4, "random networks of a space, beside those", minimum=0)
    seed: int = flag(0, "which random networks")
    out: str | None = flag(None, "page with the plot (default: in runs/profiles); the JSON is written beside it")
    json: bool = flag(False, "print JSON instead of text")


# ---- what to profile


def fewer_and_fewer(space: SearchSpace, kinds: Kinds) -> list[Arch]:
    """The largest network, and it without the first blocks of these kinds, the first two of each, …, all that can be
    left out while all others stay as they are.

    The first go first: networks with few attention blocks are published with theirs last in a stage.
    """
    archs = [space.largest]
    while following := next((arch for gone, arch in _without_blocks(space, archs[-1]) if gone == kinds), None):
        archs.append(following)
    return archs


def _without_blocks(space: SearchSpace, arch: Arch) -> Iterator[tuple[Kinds, Arch]]:
    """Networks that lack some blocks, all others being as they are: the kinds of those blocks, and the network."""
    before = space.lower(arch)
    for action in space.slim(arch):
        after = space.lower(action.arch)
        if len(after) < len(before):
            kept = set(after)
            gone = tuple(block.kind for block in before if block not in kept)
            if len(gone) == len(before) - len(after):
                yield gone, action.arch


def optional_kinds(space: SearchSpace) -> dict[Kinds, list[Arch]]:
    """`fewer_and_fewer` of the kinds that one choice leaves out together, the longest series first."""
    together = dict.fromkeys(kinds for kinds, _ in _without_blocks(space, space.largest))
    series = {kinds: fewer_and_fewer(space, kinds) for kinds in together}
    return dict(sorted(series.items(), key=lambda item: -len(item[1])))


def space_networks(space: SearchSpace, kinds: Kinds, num_random: int, seed: int) -> list[Network]:
    """Networks of the space with every number of blocks of these kinds (of none: of which most can be left out), and
    random ones.

    Raises:
        UserError: blocks of these kinds cannot be left out, or none of any kind.
    """
    series = optional_kinds(space)
    if not series:
        raise UserError(f"{space.name} has no block that can be left out of its largest network; name one with --arch")
    if kinds and kinds not in series:
        raise UserError(f"--kind is {' '.join(kinds)}; of {space.name} give {' or '.join(map(' '.join, series))}")
    kinds, rng = kinds or next(iter(series)), random.Random(seed)

    def network(name: str, arch: Arch, *, random: bool) -> Network:
        counts = Counter(block.kind for block in space.lower(arch))
        varied = Varied(" + ".join(kinds), min(counts[kind] for kind in kinds), random)
        return Network(name, network_job(space, arch), space.to_json(arch), varied)

    archs = series[kinds]
    fewer = [network(f"largest without {i}" if i else "largest", arch, random=False) for i, arch in enumerate(archs)]
    return fewer + [network(f"random {i + 1}", space.sample(rng), random=True) for i in range(num_random)]


def _chosen(config: ProfileConfig) -> tuple[str, list[Network]]:
    """Title and networks."""
    if one := config.model or config.arch:
        check_idle(config, ("kind", "num_random", "seed"), f"networks of a space, and {one} is one")
    if config.model is not None:
        for name in ("arch", "space", "run"):
            if (value := getattr(config, name)) is not None:
                raise UserError(f"--model is {config.model!r} and --{name} {value!r}; give one of them")
        job = timm_job(config.model, config.image_size, config.num_classes)
        network = Network(f"{PREFIX}{config.model.removeprefix(PREFIX)}", job)
        return f"{network.name} at {network.job.input_shape[2]} px", [network]
    space = config.of_run().search_space()
    if config.arch is None:
        return f"{space.name} at {space.image_size} px", space_networks(
            space, config.kind, config.num_random, config.seed
        )
    name = config.arch if config.arch.lower() in space.named else Path(config.arch).stem
    network = Network(name, network_job(space, arch := space.load_arch(config.arch)), space.to_json(arch))
    return f"{name} of {space.name} at {space.image_size} px", [network]


# ---- profiling


def profile_networks(networks: Sequence[Network], backend: Backend, repeats: int) -> tuple[list[Profile], bool]:
    """Profiles, and whether other work disturbed them.

    Raises:
        UserError: the backend does not report operators, or cannot run a network at its size.
    """
    profiles, busy = [], False
    for network in tqdm(networks, desc="profiling", disable=None, leave=False):
        operators = _operators(network, backend, repeats)
        # Alone, not interleaved with the other networks: the profiled runs had the caches for themselves too. It is its
        # own anchor: where waiting is unknown, its spread tells whether the machine was busy. Means, as the operators'.
        session, settings = backend.prepare(network.job), replace(backend.settings(repeats), runs_together=True)
        measured = measure_sessions({ANCHOR: session}, backend, settings)
        profiles.append(Profile(network, _undisturbed_ms(measured.timings[ANCHOR]), operators))
        busy |= measured.busy
    return profiles, busy


def _undisturbed_ms(timing: Timing) -> float:
    """Mean of the faster half, as those of the operators are."""
    samples_ms = sorted(timing.samples_ms)
    return mean(samples_ms[: (len(samples_ms) + 1) // 2])


def _operators(network: Network, backend: Backend, repeats: int) -> tuple[OperatorTime, ...]:
    try:
        operators = backend.profile(network.job, repeats)
    except UserError:
        raise
    except Exception as error:  # of timm, of torch's exporter or of the runtime: they have no common base class
        _, height, width = network.job.input_shape
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        raise UserError(
            f"{network.name} cannot be built or run by {backend.name} at {height} x {width} px ({reason}); "
            "give another --image-size, --model or --backend"
        ) from error
    if not operators:
        raise UserError(f"{backend.name} reported no operators of {network.name}; give --backend onnxruntime")
    return operators


def _out(config: ProfileConfig, title: str, backend: str, runtime: Runtime) -> Path:
    what = slug(title.replace(" of ", " ").replace(" at ", " ").replace(" px", "px"))
    out = Path(config.out) if config.out else PROFILES / f"{what}-{runtime.slug(backend)}.html"
    if out.is_dir() or out.suffix != ".html":
        raise UserError(f"--out is {out}; give a file that ends in .html")
    return out


def profile(config: ProfileConfig) -> tuple[Report, Path]:
    """Profiles what the config names; returns the report and the page that it is in, its JSON beside it."""
    require("plotly", "pip install plotly")  # for the page, and another environment may lack it
    title, networks = _chosen(config)
    backend = config.make_backend()
    runtime = backend.describe()
    out = _out(config, title, backend.name, runtime)
    profiles, busy = profile_networks(networks, backend, config.repeats)
    report = Report(title, backend.name, runtime, busy, tuple(profiles))
    write_json(out.with_suffix(".json"), to_json(report))
    write_text(out, document(report))
    return report, out
