"""Real conversion, with coremltools; everything behind it on a Core ML of which we say what it does."""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import coremltools
import pytest

from latency_lut.backends.base import Backend, DeviceGone, Job, Session, blocks_job, network_job, one_torch_thread
from latency_lut.backends.coreml import CoreMLBackend
from latency_lut.backends.protocol import Measurement, Sample, measure
from latency_lut.backends.registry import make_backend
from latency_lut.measurement.manifest import checksum
from search_spaces import SearchSpace, UserError, get_space
from tests.contracts.backend import FileBackendContract, graphs_of_every_kind
from tests.latency_lut.fake_coreml import (
    FakeCoreML,
    describe,
    mac,
    model_structure,
    native_library,
    operations,
)
from tests.latency_lut.fake_iphone import FakePhone, connected
from tests.rounding import assert_equal_but_for_rounding

ROOT = Path(__file__).parents[3]


@pytest.fixture
def core() -> Iterator[FakeCoreML]:
    """This machine's."""
    core = FakeCoreML()
    with mac(core):
        yield core


@pytest.fixture
def phone(tmp_path: Path) -> Iterator[FakePhone]:
    (tmp_path / "phone").mkdir()
    with connected(FakePhone(tmp_path / "phone")) as phone:
        yield phone


class Exports(dict[tuple[Any, ...], Path]):
    """Packages of this module's tests, each converted once."""

    folder: Path

    def path(self, job: Job, precision: str = "float16") -> Path:
        key = (precision, job.arch, tuple(block.key for block in job.blocks))
        if key not in self:
            path = self.folder / f"{len(self):04d}.mlpackage"
            with one_torch_thread():
                CoreMLBackend(precision=precision).export(job, path)
            self[key] = path
        return self[key]

    def spec(self, job: Job, precision: str = "float16") -> Any:
        return coremltools.utils.load_spec(str(self.path(job, precision)))


EXPORTS = Exports()


@pytest.fixture(scope="module", autouse=True)
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    EXPORTS.folder = tmp_path_factory.mktemp("exports")
    return EXPORTS


@pytest.fixture(scope="module")
def packages(tiny: SearchSpace) -> dict[str, Path]:
    """Three blocks, by key, each alone in a package."""
    return {block.key: EXPORTS.path(blocks_job([block])) for block in tiny.lower(tiny.largest)[:3]}


def sessions(backend: CoreMLBackend, packages: dict[str, Path]) -> dict[str, Session]:
    return {key: backend.load(path) for key, path in packages.items()}


def measured(backend: CoreMLBackend, loaded: dict[str, Session], samples: int = 40, **options: Any) -> Measurement:
    runs = {name: session.run for name, session in loaded.items()}
    return measure(runs, backend.settings(samples), backend.clock, **options)


class ConvertingOnce(CoreMLBackend):
    def prepare(self, job: Job) -> Session:
        return self.load(EXPORTS.path(job))


class TestCoreML(FileBackendContract):
    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def on_a_mac(cls) -> Iterator[None]:
        with mac(FakeCoreML()):
            yield

    @classmethod
    def make_backend(cls) -> CoreMLBackend:
        return ConvertingOnce()

    @pytest.mark.heavy  # half a second each
    def test_every_kind_of_block_runs_alone_and_after_others(self, backend: Backend, tiny: SearchSpace) -> None:
        super().test_every_kind_of_block_runs_alone_and_after_others(backend, tiny)


FLOAT16, FLOAT32 = 65552, 65568  # of FeatureTypes.proto


@pytest.mark.parametrize(("precision", "dtype"), [("float16", FLOAT16), ("float32", FLOAT32)])
def test_a_network_is_an_ml_program_of_one_precision(precision: str, dtype: int, tiny: SearchSpace) -> None:
    spec = EXPORTS.spec(network_job(tiny, tiny.largest), precision)
    (source,), (target,) = spec.description.input, spec.description.output
    assert spec.WhichOneof("Type") == "mlProgram"
    assert spec.specificationVersion == coremltools.target.iOS17
    assert (source.name, list(source.type.multiArrayType.shape)) == ("x", [1, 3, 32, 32])
    assert (target.name, list(target.type.multiArrayType.shape)) == ("y", [1, tiny.num_classes])
    assert source.type.multiArrayType.dataType == target.type.multiArrayType.dataType == dtype
    types = [op.type for op in operations(spec) if op.type != "const"]
    assert types.count("conv") > 12 and "cast" not in types
    mil = coremltools.proto.MIL_pb2
    wanted = {"float16": mil.FLOAT16, "float32": mil.FLOAT32}[precision]
    outputs = {op.outputs[0].type.tensorType.dataType for op in operations(spec) if op.type != "const"}
    assert outputs == {wanted}
    assert describe(spec) == "whole network"


def test_a_detector_and_parts_of_its_head_give_all_that_they_make() -> None:
    space = get_space("mobileone-nano+ssdlite", 64, 1)
    head = next(block for block in space.lower(space.smallest) if block.kind == "box_head")
    for job, shapes in (
        (network_job(space, space.smallest), [[1, 508, 2], [1, 508, 4]]),
        (blocks_job([head] * 2), [[1, 36, 8, 8]] * 2),
    ):
        outputs = EXPORTS.spec(job, "float32").description.output
        assert [output.name for output in outputs] == ["y", "y1"]
        assert [list(output.type.multiArrayType.shape) for output in outputs] == shapes
        assert {output.type.multiArrayType.dataType for output in outputs} == {FLOAT32}


@pytest.mark.heavy
def test_every_kind_of_block_is_the_program_of_its_job(tiny: SearchSpace) -> None:
    for job in graphs_of_every_kind(tiny):
        spec = EXPORTS.spec(job)
        (source,) = spec.description.input
        assert list(source.type.multiArrayType.shape) == [1, *job.input_shape]
        assert describe(spec) == " + ".join(dict.fromkeys(block.key for block in job.blocks))
        convolutions = sum(op.type in {"conv", "linear"} for op in operations(spec))
        assert convolutions >= len(job.blocks)
        assert not any(op.type == "cast" for op in operations(spec))


@pytest.mark.heavy
@pytest.mark.heavy
def test_another_process_writes_the_same_bytes(tiny: SearchSpace, tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from latency_lut.backends.base import blocks_job
from latency_lut.backends.coreml import CoreMLBackend
from tests.latency_lut.conftest import make_tiny
space = make_tiny()
CoreMLBackend().export(blocks_job(space.lower(space.largest)[-2:]), Path(sys.argv[1]))
"""
    CoreMLBackend().export(blocks_job(tiny.lower(tiny.largest)[-2:]), tmp_path / "a.mlpackage")
    subprocess.run([sys.executable, "-c", program, tmp_path / "b.mlpackage"], check=True, cwd=ROOT)
    assert checksum(tmp_path / "a.mlpackage") == checksum(tmp_path / "b.mlpackage")
    files = {file.name for file in (tmp_path / "a.mlpackage").rglob("*") if file.is_file()}
    assert files == {"Manifest.json", "model.mlmodel", "weight.bin"}


def test_a_program_computes_what_the_module_does(tiny: SearchSpace) -> None:
    import torch

    from nas.exporting.coreml import load_program
    from nas.exporting.mil import Interpreter

    job = network_job(tiny, tiny.largest)
    package = coremltools.models.MLModel(str(EXPORTS.path(job, "float32")), skip_model_load=True)
    images = torch.randn(1, *job.input_shape)
    (output,) = Interpreter(load_program(package))({"x": images}).values()
    with torch.no_grad():
        assert_equal_but_for_rounding(output, job.module()(images), job.module())


def test_times_are_those_that_core_ml_reports(core: FakeCoreML, packages: dict[str, Path]) -> None:
    base = {key: 50_000 * (1 + i) for i, key in enumerate(packages)}
    core.duration_ns = lambda model, n: base[model] + n % 7
    backend = CoreMLBackend()
    loaded = sessions(backend, packages)
    assert backend.clock.now_ns() == 0, "loading is not timed"
    core.durations_ns.clear()
    result = measured(backend, loaded)
    assert backend.clock.now_ns() == sum(core.durations_ns)
    for key, timing in result.timings.items():
        assert len(timing.samples_ms) == 40
        assert base[key] / 1e6 <= timing.min_ms <= timing.median_ms <= (base[key] + 6) / 1e6
    assert result.unclean_share is None, "Core ML does not tell who waited"


def test_one_model_is_loaded_at_a_time_and_compiled_once(core: FakeCoreML, packages: dict[str, Path]) -> None:
    backend = CoreMLBackend()
    measured(backend, sessions(backend, packages))
    assert core.most_loaded == 1
    assert sorted(model for done, model in core.log if done == "compile") == sorted(packages)
    for key in packages:
        visits = [done for done, model in core.log if model == key and done != "predict"]
        assert visits[:2] == ["compile", "load"]
        assert visits.count("load") >= 5
    for (done, model), (then, other) in zip(core.log, core.log[1:], strict=False):
        assert then != "load" or other == model or done in {"unload", "compile"}
    backend_models = core.loaded.copy()
    assert len(backend_models) == 1


@pytest.mark.parametrize("unit", ["all", "cpu_only", "cpu_and_gpu", "cpu_and_ne"])
def test_compute_units_are_core_mls(unit: str, core: FakeCoreML, packages: dict[str, Path]) -> None:
    backend = make_backend("coreml", compute_unit=unit)
    assert isinstance(backend, CoreMLBackend)
    backend.load(next(iter(packages.values()))).run(1)
    assert core.units == {unit.upper()}
    assert backend.describe().compute_unit == unit


def test_a_mac_is_described(core: FakeCoreML) -> None:
    runtime = CoreMLBackend(compute_unit="cpu_and_ne").describe()
    assert (runtime.runtime, runtime.runtime_version) == ("Core ML", f"15.5 (coremltools {coremltools.__version__})")
    assert (runtime.compute_unit, runtime.precision, runtime.threads) == ("cpu_and_ne", "float16", 0)


@pytest.mark.parametrize("doing", ["compile", "load", "predict"])
def test_a_model_that_core_ml_refuses_is_named(doing: str, core: FakeCoreML, packages: dict[str, Path]) -> None:
    key = list(packages)[1]
    core.refusal = lambda what, model: "ANECCompile() FAILED (11)\nand more" if (what, model) == (doing, key) else None
    backend = CoreMLBackend(compute_unit="cpu_and_ne")
    with pytest.raises(UserError) as error:
        measured(backend, sessions(backend, packages))
    said = {"compile": "compile", "load": "load", "predict": "run"}[doing]
    assert (
        str(error.value)
        == f"Core ML cannot {said} {packages[key].name} ({key}) on cpu_and_ne: ANECCompile() FAILED (11)"
    )
    assert len(core.loaded) <= 1


@pytest.mark.parametrize("where", ["core", "phone"])
def test_a_package_is_only_read(
    where: str, packages: dict[str, Path], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """coremltools normalizes the manifest of a package that it opens; the checksum would not hold any more."""
    request.getfixturevalue(where)
    path = tmp_path / "a.mlpackage"
    shutil.copytree(next(iter(packages.values())), path)
    written = checksum(path)
    coremltools.utils.load_spec(str(path))
    assert checksum(path) == written, "ours is in coremltools' own form"
    with (path / "Manifest.json").open("a") as file:
        file.write("\n\n")
    before = checksum(path)
    CoreMLBackend(device="Anna's iPhone" if where == "phone" else None).load(path).run(1)
    assert checksum(path) == before


PLACEMENTS = {"conv": ("ne", 0.3), "gelu": ("cpu", 0.1)}


def test_shares_of_devices_follow_the_estimated_cost(core: FakeCoreML, tiny: SearchSpace) -> None:
    job = network_job(tiny, tiny.largest)
    path = EXPORTS.path(job)
    types = [op.type for op in operations(EXPORTS.spec(job)) if op.type != "const"]
    core.placement = lambda op: PLACEMENTS.get(op, ("gpu", 0.05))
    costs = {"ne": 0.3 * types.count("conv"), "cpu": 0.1 * types.count("gelu")}
    costs["gpu"] = 0.05 * (len(types) - types.count("conv") - types.count("gelu"))
    shares = CoreMLBackend().load(path).devices
    assert shares == pytest.approx({name: cost / sum(costs.values()) for name, cost in costs.items()})

    core.placement = lambda op: ("ne" if op == "conv" else "cpu", None)
    share = types.count("conv") / len(types)
    assert CoreMLBackend().load(path).devices == pytest.approx({"ne": share, "cpu": 1 - share})


def test_no_shares_where_core_ml_does_not_tell(core: FakeCoreML, packages: dict[str, Path]) -> None:
    path = next(iter(packages.values()))
    core.placement = lambda _: (None, None)
    assert CoreMLBackend().load(path).devices == {}
    core.has_plans = False
    assert CoreMLBackend().load(path).devices == {}


@pytest.mark.parametrize("samples", [2, 5, 12, 40, 100])
def test_every_graph_is_visited_several_times(samples: int) -> None:
    here = CoreMLBackend().settings(samples)
    assert here.samples == samples
    assert samples / here.samples_per_visit >= min(samples, 5)
    there = CoreMLBackend(device="phone").settings(samples)
    assert there.samples == min(samples, 12) and there.min_sample_ms == 0
    assert there.samples / there.samples_per_visit >= min(samples, 3)


def test_elsewhere_it_says_what_to_do() -> None:
    for use in (CoreMLBackend().describe, lambda: CoreMLBackend(device="x").load(Path("a.mlpackage"))):
        with pytest.raises(UserError, match=r"runs on macOS.*latency_lut.export --backend coreml.*latency_lut.measure"):
            use()


def test_measuring_needs_no_torch_and_leaves_nothing_behind(packages: dict[str, Path], tmp_path: Path) -> None:
    """On this machine and on a device; no file, no console of the app, no word from destructors."""
    program = """
import sys, tempfile
from pathlib import Path
class Blocked:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in {"torch", "timm", "torchvision"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
from latency_lut.backends.registry import make_backend
from latency_lut.backends.protocol import measure
from tests.latency_lut.fake_coreml import FakeCoreML, mac
from tests.latency_lut.fake_iphone import FakePhone, connected
def use(backend):
    session = backend.load(Path(sys.argv[1]))
    times = measure({"a": session.run}, backend.settings(6), backend.clock).timings
    print(backend.describe().os[:3], session.devices, len(times["a"].samples_ms))
tempfile.tempdir = sys.argv[2]
with mac(FakeCoreML()):
    use(make_backend("coreml", compute_unit="cpu_and_ne"))
phones = connected(FakePhone(Path(sys.argv[3])))
phone = phones.__enter__()
use(make_backend("coreml", device=phone.name))
print(phone.running)
backend = make_backend("coreml", device=phone.name)
use(backend)
assert "torch" not in sys.modules
"""
    folders = [tmp_path / "temporary", tmp_path / "app"]
    for folder in folders:
        folder.mkdir()
    command = [sys.executable, "-c", program, str(next(iter(packages.values()))), *map(str, folders)]
    done = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert lines[1:] == ["iOS {'ne': 1.0} 6", "False", "iOS {'ne': 1.0} 6"]
    assert lines[0].endswith(" {'ne': 1.0} 6")
    assert not re.search("ignored|Warning|Traceback", done.stderr), done.stderr
    assert not list(folders[0].glob("coreml-*"))


class TestPhone:
    def test_times_are_those_that_the_device_reports(
        self, phone: FakePhone, packages: dict[str, Path], capfd: pytest.CaptureFixture[str]
    ) -> None:
        backend = CoreMLBackend(compute_unit="cpu_and_ne", device=phone.name)
        loaded = sessions(backend, packages)
        capfd.readouterr()
        core = phone.core
        core.durations_ns.clear()
        result = measured(backend, loaded)
        assert backend.clock.now_ns() == sum(core.durations_ns)
        assert all(len(timing.samples_ms) == 12 for timing in result.timings.values())
        assert len(core.durations_ns) == 3 * 3 * (1 + 4)
        assert core.most_loaded == 1 and core.units == {"CPU_AND_NE"}
        assert [done for done, _ in core.log].count("unload") == [done for done, _ in core.log].count("load") - 1
        assert phone.dtypes == {"Float16"}
        assert capfd.readouterr() == ("", ""), "coremltools draws a bar for each message"

    def test_is_described(self, phone: FakePhone) -> None:
        runtime = CoreMLBackend(device=phone.name).describe()
        assert (runtime.device, runtime.os) == ("iPhone16,1 iPhone 15 Pro", "iOS 18.5")
        assert runtime.runtime_version == f"18.5 (coremltools {coremltools.__version__})"
        assert not phone.running, "describing starts nothing"

    def test_an_unknown_one_is_refused_with_those_there_are(self, phone: FakePhone) -> None:
        with pytest.raises(UserError) as error:
            CoreMLBackend(device="Bob's iPhone").describe()
        expected = """--device is "Bob's iPhone"; connected: "Anna's iPhone" ('Old iPad' is unavailable)"""
        assert str(error.value) == expected
        phone.connected = False
        with pytest.raises(UserError, match="connected: none"):
            CoreMLBackend(device="Old iPad").describe()

    def test_which_it_is_is_a_fact_of_its_times(self, phone: FakePhone) -> None:
        assert CoreMLBackend(device=phone.name).facts() == {"udid": "udid-iPhone16,1"}
        assert CoreMLBackend().facts() == {}

    def test_two_of_one_name_are_refused(self, phone: FakePhone) -> None:
        phone.twin = True
        with pytest.raises(UserError) as error:
            CoreMLBackend(device=phone.name).describe()
        which = "udid-iPhone16,1, udid-iPhone17,2"
        expected = f"""--device is "Anna's iPhone", the name of 2 connected devices: {which}; connect one alone"""
        assert str(error.value) == expected

    def test_plans_are_the_devices(self, phone: FakePhone, packages: dict[str, Path]) -> None:
        path = next(iter(packages.values()))
        phone.core.placement = lambda op: PLACEMENTS.get(op, ("gpu", 0.05))
        devices = CoreMLBackend(device=phone.name).load(path).devices
        assert devices == pytest.approx({"ne": 0.75, "cpu": 0.25})
        phone.core.has_plans = False
        assert CoreMLBackend(device=phone.name).load(path).devices == {}

    def test_no_inputs_and_outputs_pile_up(
        self, phone: FakePhone, packages: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        backend = CoreMLBackend(device=phone.name)
        measured(backend, sessions(backend, packages))
        left = [file for file in tmp_path.rglob("*.bin") if phone.folder not in file.parents]
        assert 0 < sum(file.name != "weight.bin" for file in left) <= 2 * (1 + 4), "of the last visit"

    @pytest.mark.parametrize("console_notices", [True, False])
    def test_what_was_measured_before_it_disconnects_is_kept(
        self, console_notices: bool, phone: FakePhone, packages: dict[str, Path]
    ) -> None:
        phone.console_notices = console_notices
        backend = CoreMLBackend(device=phone.name)
        loaded = sessions(backend, packages)
        phone.disconnects_at = len(phone.core.durations_ns) + 17
        taken: dict[str, list[Sample]] = {}
        with pytest.raises(DeviceGone, match=r"^Anna's iPhone does not answer any more .* kept.*same command") as error:
            measured(backend, loaded, on_visit=lambda name, samples: taken.setdefault(name, []).extend(samples))
        assert "\n" not in str(error.value)
        assert sum(map(len, taken.values())) == 12, "of three visits"

        phone.disconnects_at, phone.connected = None, True
        phone.core.loaded.clear()
        again = CoreMLBackend(device=phone.name)
        loaded = sessions(again, packages)
        phone.core.durations_ns.clear()
        result = measured(again, loaded, taken=taken)
        assert len(phone.core.durations_ns) == 6 * (1 + 4), "of six more visits"
        assert all(len(timing.samples_ms) == 12 for timing in result.timings.values())

    def test_a_model_that_it_refuses_is_named(self, phone: FakePhone, packages: dict[str, Path]) -> None:
        key = list(packages)[1]
        phone.core.refusal = lambda doing, model: "ANECCompile() FAILED" if (doing, model) == ("load", key) else None
        backend = CoreMLBackend(device=phone.name)
        with pytest.raises(UserError) as error:
            sessions(backend, packages)
        assert (
            str(error.value)
            == f"Core ML on Anna's iPhone cannot load {packages[key].name} ({key}): ANECCompile() FAILED"
        )

    def test_an_app_that_cannot_be_installed(
        self, phone: FakePhone, packages: dict[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        phone.installs = False
        monkeypatch.setenv("DEVELOPMENT_TEAM", "ABC123")
        with pytest.raises(UserError, match=r"no valid signature.; .*Developer Mode.*DEVELOPMENT_TEAM"):
            CoreMLBackend(device=phone.name).load(next(iter(packages.values())))
        assert phone.app == "com.coremltools.modelrunnerd.abc123"


class TestFake:
    """What is replaced looks like what it replaces."""

    def test_replaced_functions_have_the_signatures_of_coremltools(self, tmp_path: Path) -> None:
        from coremltools.models.ml_program.experimental import remote_device

        phone = FakePhone(tmp_path)
        for real, fake in (
            (remote_device._DeviceCtl._run_command, phone.run_command),
            (remote_device._DeviceCtl._run_command_async, phone.run_command_async),
            (remote_device._ModelRunnerAppBuilder.build, phone.build),
        ):
            parameters = [list(inspect.signature(function).parameters.values()) for function in (real, fake)]
            assert [(p.name, p.kind, p.default) for p in parameters[0]] == [
                (p.name, p.kind, p.default) for p in parameters[1]
            ]

    def test_the_native_library_has_what_coremltools_calls(self) -> None:
        folder = Path(coremltools.__file__).parent / "models"
        source = "".join(file.read_text() for file in folder.rglob("*.py"))
        library = vars(native_library(FakeCoreML()))
        names = {name for name in library if name.startswith("_ML")}
        assert names <= set(re.findall(r"libcoremlpython import (\w+)", source))
        for name in ("_MLModelProxy", "_MLComputePlanProxy"):
            methods = {m for m in dir(library[name]) if not m.startswith("_")} - {"core", "plan"}
            assert methods and all(re.search(rf"[._]{method}\(", source) for method in methods)

    def test_the_plan_is_made_of_coremltools_own_classes(self, packages: dict[str, Path]) -> None:
        structure = model_structure(coremltools.utils.load_spec(str(next(iter(packages.values())))))
        assert type(structure).__module__ == "coremltools.models.compute_plan"
        assert {op.operator_name for op in structure.program.functions["main"].block.operations} >= {"conv", "const"}
