"""Teachers of timm's smallest architectures and of our own winners."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor, nn

from nas import runs
from nas.data.batches import normalize
from nas.data.splits import IMAGENET, Normalization
from nas.exporting.export import Config as ExportConfig
from nas.exporting.export import export
from nas.exporting.parity import example_images, normalized
from nas.exporting.winner import Winner, load_winners
from nas.runs.checkpoint import load_tensors, save_tensors
from nas.training.teacher import (
    Teacher,
    TeacherConfig,
    distilled,
    load_teacher,
    may_move,
    teacher_facts,
    use_both_classifiers,
)
from search_spaces import UserError
from search_spaces.command import parse
from search_spaces.command.files import read_json, write_json
from tests.nas.synthetic_run import add_retrain, make_run
from tests.rounding import assert_equal_but_for_rounding

CLASSES = ("blue", "green", "red")
CPU = torch.device("cpu")
HALF = Normalization((0.5,) * 3, (0.5,) * 3)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def network(name: str = "test_resnet", num_classes: int = 3, **options: Any) -> Any:
    """A network whose classes and statistics are not at their initial values."""
    model: Any = timm.create_model(name, num_classes=num_classes, **options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            nn.init.normal_(module.running_mean, std=0.1)
    nn.init.normal_(model.get_classifier().weight)
    return model.eval()


def saved(path: str, model: nn.Module) -> str:
    save_file(model.state_dict(), path)
    return path


def load(classes: tuple[str, ...] = CLASSES, ours: Normalization = IMAGENET, **flags: Any) -> Teacher:
    teacher = load_teacher(TeacherConfig(**flags), classes, ours, CPU)
    assert teacher is not None
    return teacher


# ---- what a teacher computes


@pytest.mark.parametrize("ours", [IMAGENET, HALF], ids=["ImageNet's", "a half"])
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit.r160_in1k"])
def test_a_timm_network_sees_images_of_its_own_normalization(name: str, ours: Normalization) -> None:
    model = network(name)
    raw = example_images(4, 160)
    expected = model(normalized(raw, model.pretrained_cfg["mean"], model.pretrained_cfg["std"]))
    assert expected.std(dim=0).max() > 0.01
    teacher = load(teacher=name, teacher_checkpoint=saved("w.safetensors", model), ours=ours)
    logits = teacher(normalize(raw, CPU, ours))
    assert_equal_but_for_rounding(logits, expected, model)


@pytest.mark.parametrize(("ours", "theirs"), [(16, 160), (320, 160)])
def test_images_are_resized_as_pillow_does(ours: int, theirs: int) -> None:
    see = Teacher(nn.Identity(), TeacherConfig(), (theirs, theirs), HALF, IMAGENET)
    raw = example_images(2, ours)[1:] // 2 + 60  # smooth, far from black and white: Pillow clips there
    picture = Image.fromarray(raw[0].permute(1, 2, 0).numpy()).resize((theirs, theirs), Image.Resampling.BICUBIC)
    resized = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(1, theirs, theirs, 3)
    expected = normalized(resized.permute(0, 3, 1, 2), (0.5,) * 3, (0.5,) * 3)
    torch.testing.assert_close(see(normalize(raw, CPU)), expected, rtol=0, atol=1.1 * 2 / 255)


@pytest.mark.parametrize(("name", "pixels"), [("test_vit", 32), ("test_resnet", 48)])
def test_a_network_trained_at_another_size(name: str, pixels: int) -> None:
    model = network(name, **({"img_size": pixels} if name == "test_vit" else {}))
    teacher = load(teacher=name, teacher_checkpoint=saved("w.safetensors", model), teacher_image_size=pixels)
    seen: list[torch.Size] = []
    teacher.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    assert teacher(torch.randn(2, 3, 16, 16)).shape == (2, 3)
    assert seen == [(2, 3, pixels, pixels)]


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "efficientformerv2_s0"])
def test_networks_with_two_heads_give_one_tensor(name: str) -> None:
    teacher = load(teacher=name, teacher_checkpoint=saved("w.safetensors", timm.create_model(name, num_classes=3)))
    assert teacher(torch.randn(1, 3, 32, 32)).shape == (1, 3)


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_a_teacher_is_frozen(kind: Any) -> None:
    teacher = load(teacher="test_resnet", teacher_checkpoint=saved("w.safetensors", network()), distillation=kind)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    student, images = nn.Linear(3 * 16 * 16, 3), torch.randn(4, 3, 16, 16)
    criterion = teacher.distil(nn.CrossEntropyLoss(), images)
    criterion(student(images.flatten(1)), torch.tensor([0, 1, 2, 0])).backward()
    assert student.weight.grad is not None
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())
    assert not any(module.training for module in teacher.modules())
    assert not teacher(images.requires_grad_()).requires_grad
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())


# ---- the loss


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Logits of a student and a teacher of 8 images, and labels that are not always the teacher's."""
    return torch.randn(8, 5, requires_grad=True), 3 * torch.randn(8, 5), torch.arange(8) % 5


@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_hard_distillation_is_equation_3_of_deit(weight: float) -> None:
    logits, teaching, labels = batch()
    smoothed = nn.CrossEntropyLoss(label_smoothing=0.1)
    loss = distilled(smoothed, teaching, weight, "hard")(logits, labels)
    picked = -logits.log_softmax(dim=1)[torch.arange(8), teaching.argmax(dim=1)].mean()
    torch.testing.assert_close(loss, (1 - weight) * smoothed(logits, labels) + weight * picked)


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_of_two_classifiers_one_learns_the_labels_and_the_other_the_teacher(kind: Any) -> None:
    """DeiT's `DistillationLoss`, as in EfficientFormerV2's released code; its soft loss per image, as in the paper."""
    (first, teaching, labels), (second, _, _) = batch(), batch()
    loss = distilled(nn.CrossEntropyLoss(label_smoothing=0.1), teaching, 0.25, kind)((first, second), labels)
    of_labels = F.cross_entropy(first, labels, label_smoothing=0.1)
    wanted = F.one_hot(teaching.argmax(dim=1), 5) if kind == "hard" else teaching.softmax(dim=1)
    torch.testing.assert_close(loss, 0.75 * of_labels - 0.25 * (wanted * second.log_softmax(dim=1)).sum(dim=1).mean())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("efficientformerv2_s0", {"img_size": 32}),
        ("deit_tiny_distilled_patch16_224", {"img_size": 32, "depth": 1}),
        ("test_resnet", {}),
    ],
)
def test_both_classifiers_of_a_student_learn(name: str, options: dict[str, Any]) -> None:
    student: Any = timm.create_model(name, num_classes=5, **options)
    _, teaching, labels = batch()
    images, criterion = torch.randn(8, 3, 32, 32), distilled(nn.CrossEntropyLoss(), teaching, 0.5, "hard")
    two = name != "test_resnet"
    for both in (False, True):
        if both:
            use_both_classifiers(student)
        student.train().zero_grad()
        criterion(student(images), labels).backward()
        if two:
            assert torch.equal(student.head.bias.grad, student.head_dist.bias.grad) is not both, "the second is of use"
    assert isinstance(student.eval()(images), Tensor), "averaged at inference"


@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_soft_distillation_is_the_divergence_from_the_teacher(weight: float) -> None:
    logits, teaching, labels = batch()
    loss = distilled(nn.CrossEntropyLoss(), teaching, weight, "soft")(logits, labels)
    (gradient,) = torch.autograd.grad(loss, logits)
    divergence = F.kl_div(logits.log_softmax(1), teaching.log_softmax(1), reduction="batchmean", log_target=True)
    expected = (1 - weight) * F.cross_entropy(logits, labels) + weight * divergence
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, logits)[0])
    entropy = -(teaching.softmax(1) * teaching.log_softmax(1)).sum(dim=1).mean()
    torch.testing.assert_close(loss, expected + weight * entropy)


def test_mixed_images_have_mixed_labels_and_the_teachers_view_of_the_mixture() -> None:
    teacher = load(teacher="test_resnet", teacher_checkpoint=saved("w.safetensors", network()), distillation_weight=0.3)
    images, target = Mixup(num_classes=3)(torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 0]))
    logits = torch.randn(4, 3)
    loss = teacher.distil(SoftTargetCrossEntropy(), images)(logits, target)
    parts = [-(labels * logits.log_softmax(1)).sum(1).mean() for labels in (target, teacher(images).softmax(1))]
    torch.testing.assert_close(loss, 0.7 * parts[0] + 0.3 * parts[1])


def test_bf16_logits_are_compared_in_float32() -> None:
    logits, teaching, labels = batch()
    loss = distilled(nn.CrossEntropyLoss(), teaching.bfloat16(), 1.0, "soft")(logits.bfloat16(), labels)
    assert loss.dtype == torch.float32


# ---- checkpoints of timm's networks


@pytest.mark.parametrize("suffix", ["pth", "pt"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state, other: state,
        lambda state, other: {"state_dict": {f"module.{n}": t for n, t in state.items()}, "epoch": 3},
        lambda state, other: {"model": other, "model_ema": state},
    ],
)
def test_state_dicts_as_trainers_save_them(suffix: str, wrap: Callable[..., Any]) -> None:
    model = network()
    torch.save(wrap(model.state_dict(), network().state_dict()), f"w.{suffix}")
    state = load(teacher="test_resnet", teacher_checkpoint=f"w.{suffix}").network.network.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


class _Opened:
    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("content", [_Opened(), {"state_dict": {}, "x": _Opened()}, nn.Linear(2, 2)])
def test_nothing_is_unpickled(content: Any) -> None:
    torch.save(content, "w.pth")
    with pytest.raises(UserError, match=r"w.pth cannot be read, or not .* \(Weights only load failed.*save the"):
        load(teacher="test_resnet", teacher_checkpoint="w.pth")
    assert not Path("executed").exists()


def spoil(state: dict[str, Tensor], **tensors: Tensor | None) -> dict[str, Tensor]:
    changed = {**state, **{name.replace("__", "."): tensor for name, tensor in tensors.items()}}
    return {name: tensor for name, tensor in changed.items() if tensor is not None}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "w.pth cannot be read, or not without executing it (EOFError); save"),
        ([1, 2], "w.pth holds a list, no tensors by name; save"),
        ({}, "w.pth holds nothing, no tensors by name; save the network's state_dict() alone, best as .safetensors"),
        ({"net": {}, "epoch": 1}, "w.pth holds net, epoch, no tensors by name; save"),
        (spoil(network(num_classes=1000).state_dict()), "w.pth has 1000 classes, the data 3; give a checkpoint"),
        (
            spoil(network().state_dict(), fc__bias=None, fc__x=torch.zeros(1), bn1__weight=torch.zeros(1)),
            "w.pth does not fit test_resnet at 160 px: 1 tensors missing, 1 unknown, 1 of another shape (such as bn1.",
        ),
        (spoil(network().state_dict(), fc__bias=torch.tensor([0, 1, float("nan")])), "w.pth: fc.bias is not finite"),
    ],
)
def test_a_checkpoint_that_does_not_fit(content: Any, message: str) -> None:
    if isinstance(content, bytes):
        Path("w.pth").write_bytes(content)
    else:
        torch.save(content, "w.pth")
    assert message in refused(teacher="test_resnet", teacher_checkpoint="w.pth")


def test_a_vision_transformer_of_another_size_says_how_to_give_it() -> None:
    path = saved("w.safetensors", network("test_vit", img_size=32))
    message = refused(teacher="test_vit", teacher_checkpoint=path)
    assert "w.safetensors does not fit test_vit at 160 px" in message and "another size (pos_embed is" in message
    assert "--teacher-image-size" in message


def refused(classes: tuple[str, ...] = CLASSES, **flags: Any) -> str:
    with pytest.raises(UserError) as error:
        load(classes, **flags)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--teacher resnt18", "--teacher resnt18 is neither a folder here nor a network of timm"),
        ("--teacher resnt18 --teacher-checkpoint w", "; the nearest are resnet18"),
        ("--teacher resnet18.no_such_tag --teacher-checkpoint w", "the nearest are resnet18"),
        ("--teacher hf-hub:timm/resnet18.a1_in1k", "--teacher hf-hub:timm/resnet18.a1_in1k is neither a folder here"),
        ("--teacher resnet18", "--teacher resnet18 has no weights, and none are downloaded; give --teacher-checkpoint"),
        ("--teacher resnet18 --teacher-checkpoint w", "--teacher-checkpoint w is no file; give the weights of resnet1"),
        ("--teacher-checkpoint w", "--teacher-checkpoint is for a teacher; name one with --teacher"),
        ("--distillation hard", "--distillation is for a teacher; name one with --teacher"),
        ("--distillation soft", "--distillation is for a teacher; name one with --teacher"),
        ("--teacher x --distillation-weight 0", "--distillation-weight is 0.0; give a number above 0 and at most 1"),
        ("--teacher . --teacher-checkpoint w", "--teacher . is a folder, with weights of its own; leave out --teacher"),
        ("--teacher .", "--teacher . has no model.safetensors; give a folder that nas.retrain has finished, or that"),
    ],
)
def test_flags_that_name_no_teacher(flags: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        load_teacher(parse(TeacherConfig, flags.split(), "train", ""), CLASSES, IMAGENET, CPU)
    assert message in str(error.value)


def test_without_flags_there_is_no_teacher() -> None:
    assert load_teacher(TeacherConfig(), CLASSES, IMAGENET, CPU) is None
    assert teacher_facts(TeacherConfig()) == {}


# ---- our winners


@pytest.fixture(scope="module")
def our_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ours") / "r"
    add_retrain(folder, make_run(folder, 32, list(CLASSES)), ("one", "two"))
    export(ExportConfig(run=str(folder), winners=("one",), formats=("timm",)))
    return folder


@pytest.fixture(scope="module")
def winner(our_run: Path) -> Winner:
    return load_winners(our_run, ("one",))[0]


@pytest.mark.parametrize("where", ["retrain/one", "export/one", "export/one/model.safetensors"])
def test_a_winner_teaches_from_either_folder(our_run: Path, winner: Winner, where: str) -> None:
    raw = example_images(4, 32)
    logits = load(teacher=str(our_run / where))(normalize(raw, CPU))
    model = winner.model()
    expected = model(normalized(raw, winner.info.mean, winner.info.std))
    assert expected.std(dim=0).max() > 0.05
    assert_equal_but_for_rounding(logits, expected, model)


def test_an_exported_winner_needs_nothing_but_its_weights(our_run: Path) -> None:
    shutil.copytree(our_run / "export/one", "sent")
    Path("sent/model.py").write_text("raise SystemExit('executed')")
    assert load(teacher="sent")(torch.randn(1, 3, 16, 16)).shape == (1, 3)


def test_classes_in_another_order_are_put_in_ours(our_run: Path) -> None:
    images, there = torch.randn(4, 3, 32, 32), str(our_run / "retrain/one")
    theirs, ours = load(teacher=there)(images), load(("red", "blue", "green"), teacher=there)(images)
    assert torch.equal(ours, theirs[:, [2, 0, 1]])


def test_a_timm_teachers_own_order_of_classes_is_respected() -> None:
    path, images = saved("w.safetensors", network()), torch.randn(4, 3, 160, 160)
    Path("classes.txt").write_text("red\nblue\ngreen\n")
    flags: dict[str, Any] = {"teacher": "test_resnet", "teacher_checkpoint": path}
    plain, ordered = load(**flags)(images), load(**flags, teacher_classes="classes.txt")(images)
    assert torch.equal(ordered, plain[:, [1, 2, 0]])
    before = teacher_facts(TeacherConfig(**flags, teacher_classes="classes.txt"))
    Path("classes.txt").write_text("red\ngreen\nblue\n")
    assert teacher_facts(TeacherConfig(**flags, teacher_classes="classes.txt")) != before


def test_a_timm_teachers_own_normalization_is_respected() -> None:
    model, raw = network(), example_images(4, 160)
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    flags: dict[str, Any] = {"teacher": "test_resnet", "teacher_checkpoint": saved("w.safetensors", model)}
    logits = load(**flags, teacher_mean=mean, teacher_std=std)(normalize(raw, CPU))
    torch.testing.assert_close(logits, model(normalized(raw, mean, std)), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("blue", "green"), "teacher has 3 classes, the data 2; give a checkpoint trained on these classes"),
        (("blue", "cyan", "lime"), "teacher does not know the classes cyan, lime; give a checkpoint trained on these"),
    ],
)
@pytest.mark.parametrize("where", ["retrain/one", "export/one"])
def test_a_winner_of_other_classes(our_run: Path, where: str, classes: tuple[str, ...], message: str) -> None:
    assert message in refused(classes, teacher=str(our_run / where))


def test_a_winner_that_is_not_whole(our_run: Path) -> None:
    shutil.copytree(our_run, "r")
    path = Path("r/retrain/two/model.safetensors")
    state, info = load_tensors(path)
    save_tensors(path, {**state, "head.bias": torch.full((3,), float("inf"))}, info)
    assert "model.safetensors: head.bias is not finite" in refused(teacher="r/retrain/two")
    save_tensors(path, {name: tensor for name, tensor in state.items() if name != "head.bias"}, info)
    assert "1 tensors missing, 0 unknown, 0 of another shape (such as head.bias)" in refused(teacher="r/retrain/two")
    path.write_bytes(path.read_bytes()[:1000])
    assert "model.safetensors is truncated or no checkpoint of ours" in refused(teacher="r/retrain/two")
    path.unlink()
    assert "--teacher r/retrain/two has no model.safetensors" in refused(teacher="r/retrain/two")


def test_a_winner_away_from_its_run(our_run: Path) -> None:
    shutil.copytree(our_run / "retrain/one", "a/b/one")
    assert "a/b/one/model.safetensors is no winner, retrained in its run or exported" in refused(teacher="a/b/one")
    assert "--teacher-image-size is for timm's networks" in refused(teacher="a/b/one", teacher_image_size=32)
    shutil.copytree(our_run, "r")
    write_json(Path("r/retrain/one/result.json"), {"name": "one"})
    assert "r/retrain/one/result.json is not of this version" in refused(teacher="r/retrain/one")


def test_a_winner_by_a_link_or_from_beside_it(our_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("best").symlink_to(our_run / "retrain/one")
    load(teacher="best")
    monkeypatch.chdir(our_run / "retrain/two")
    load(teacher="../one")
    load(teacher=".")


# ---- resuming


def test_a_resumed_run_refuses_another_teacher_and_finds_a_moved_one() -> None:
    begun = TeacherConfig(teacher="test_resnet", teacher_checkpoint=saved("w.safetensors", network()))
    sha256 = hashlib.sha256(Path("w.safetensors").read_bytes()).hexdigest()
    assert teacher_facts(begun) == {"teacher_sha256": sha256}
    runs.begin(Path("stage"), begun, **teacher_facts(begun))
    runs.reopen(Path("stage"), begun, (), may_move(begun), **teacher_facts(begun))
    moved = replace(begun, teacher_checkpoint=shutil.move("w.safetensors", "moved.safetensors"))
    runs.record(Path("stage"), runs.reopen(Path("stage"), moved, (), may_move(moved), **teacher_facts(moved)))
    assert read_json(Path("stage/config.json"))["teacher_checkpoint"] == "moved.safetensors"
    saved("moved.safetensors", network())
    with pytest.raises(
        UserError, match=rf"cannot resume stage with other settings: teacher_sha256 was '{sha256}', now"
    ):
        runs.reopen(Path("stage"), moved, (), may_move(moved), **teacher_facts(moved))
