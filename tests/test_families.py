"""Each family goes from the digits to files and a report, on few of the images: what a user of it relies on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

from latency_lut.measurement.build import BuildConfig
from nas import api
from nas.data import embedded
from nas.exporting.parity import example_images, normalized
from tests.latency_lut.fake import SizedMachine
from tests.rounding import assert_equal_but_for_rounding

IMAGES = 80
TRAIN: dict[str, Any] = {"epochs": 1, "batch_size": 16, "amp": "off"}
SHORT: dict[str, Any] = {"loss": "ce", "sampling": "uniform", "num_random": 1}  # a step trains one network


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pixels, labels = embedded.written()
    monkeypatch.setattr(embedded, "written", lambda: (pixels[:IMAGES], labels[:IMAGES]))
    monkeypatch.setattr(BuildConfig, "make_backend", lambda _: SizedMachine())
    monkeypatch.setattr("nas.exporting.files.measure_file", lambda *_: (0.5, 0.6, False))
    monkeypatch.setattr("nas.exporting.files.peak_memory", lambda *_: 1_000_000)


@pytest.mark.parametrize(
    "name",
    [
        "efficientformerv2-nano",
        "efficientvit-nano",
        "mobileone-nano",
        "mobilevit-nano",
        pytest.param("mobilevit-tiny", marks=pytest.mark.heavy),
    ],
)
def test_a_family_goes_from_digits_to_files_and_a_report(name: str) -> None:
    run = api.train_supernet(space=name, run="r", **SHORT, **TRAIN)
    space = run.info.search_space()
    assert run.info.classes == embedded.CLASSES and space.num_classes == len(embedded.CLASSES)

    table = run.build_table(samples=2)
    assert table.space == name and {*table.rows} == {*space.all_blocks()}
    limit = 1.25 * table.latency_ms(space, space.smallest)
    assert limit < table.latency_ms(space, space.largest)

    found = run.search(strategy="random", budget=2, winners=1, calibration_images=16, max_latency_ms=limit)
    latencies = [table.latency_ms(space, space.from_json(row["arch"])) for row in found.result["evaluations"]]
    assert list(found.evaluated["latency_ms"]) == pytest.approx(latencies)
    assert max(latencies) <= limit

    (winner,) = found.retrain(**TRAIN)
    assert found.result["winners"][0]["arch"] == space.to_json(winner.arch)
    network = winner.model()

    folder = run.export(formats=["onnx"]) / winner.name
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    images = normalized(example_images(4, space.image_size), run.info.mean, run.info.std)
    (logits,) = session.run(["logits"], {"images": images.numpy()})
    assert_equal_but_for_rounding(torch.from_numpy(logits), network(images).detach(), network)
    assert logits.std(axis=0).max() > 0, "not the same of every image"

    page = run.report().read_text(encoding="utf-8")
    assert name in page and winner.name in page
