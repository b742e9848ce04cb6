"""Parts of tensors whose axes are products and sequences of sizes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from search_spaces.layout import Layout, axis
from supernet.slices import Extent, Slices

CPU = torch.device("cpu")
QKV = (axis((3, "heads", "key")), axis("width"))


def qkv(heads: int, key: int, width: int) -> Extent:
    layout = Layout({"heads": heads, "key": key, "width": width}, {"qkv.weight": QKV})
    return Extent.of("qkv.weight", (3 * heads * key, width), layout)


def plain(*shape: int) -> Extent:
    return Extent.of("weight", shape, Layout())


def numbered(shape: torch.Size) -> Tensor:
    return torch.arange(float(shape.numel())).reshape(shape)


def test_every_row_of_a_fused_projection_keeps_its_role() -> None:
    store, own = qkv(4, 6, 10), qkv(2, 5, 7)
    whole = numbered(store.shape)
    expected = whole.reshape(3, 4, 6, 10)[:, :2, :5, :7].reshape(own.shape)
    part = own.within(store, CPU)
    assert not part.is_view
    assert torch.equal(part.of(whole), expected)
    assert not torch.equal(expected, whole[: own.shape[0], : own.shape[1]]), "a plain prefix would be other rows"


def test_of_two_maps_one_behind_the_other_each_gives_its_first_channels() -> None:
    def concatenated(width: int, returned: int) -> Extent:
        layout = Layout({"width": width, "returned": returned}, {"w": (axis("width"), axis("width", "returned"))})
        return Extent.of("w", (width, width + returned, 3, 3), layout)

    store, own = concatenated(6, 4), concatenated(3, 2)
    whole = numbered(store.shape)
    assert torch.equal(own.within(store, CPU).of(whole), whole[:3][:, [0, 1, 2, 6, 7]])


@pytest.mark.parametrize(
    ("own", "store"),
    [((2, 3), (4, 5)), ((3, 5), (4, 5)), ((4, 3), (4, 5)), ((1, 4), (2, 5))],  # runs apart, one run, runs apart, one
)
def test_of_each_head_its_first_channels_are_taken(own: tuple[int, int], store: tuple[int, int]) -> None:
    def extent(heads: int, width: int) -> Extent:
        channels = axis(("heads", "width"))
        layout = Layout({"heads": heads, "width": width}, {"w": (channels, channels)})
        return Extent.of("w", (heads * width, heads * width, 3, 3), layout)

    part, whole = extent(*own).within(extent(*store), CPU), extent(*store)
    tensor = numbered(whole.shape).contiguous(memory_format=torch.channels_last)
    heads, width = own
    by_head = tensor.reshape(*store, *store, 3, 3)[:heads, :width, :heads, :width]
    expected = by_head.reshape(part.shape)
    found = part.copy_of(tensor)
    assert torch.equal(found, expected) and torch.equal(part.of(tensor), expected)
    assert found.is_contiguous(memory_format=torch.channels_last), "convolutions are fast with what the tensor has"
    padded = part.padded(expected, tensor.shape, tensor.stride())
    assert torch.equal(part.of(padded), expected) and padded.sum() == expected.sum()


@pytest.mark.parametrize(("kernel", "first"), [(7, 0), (5, 1), (3, 2), (1, 3)])
def test_of_a_kernel_the_middle_is_taken(kernel: int, first: int) -> None:
    whole = numbered(torch.Size((4, 1, 7, 7)))
    part = plain(2, 1, kernel, kernel).within(plain(4, 1, 7, 7), CPU)
    middle = slice(first, first + kernel)
    assert part.is_view
    assert torch.equal(part.of(whole), whole[:2, :, middle, middle])


def test_without_a_layout_it_is_the_first_entries_as_a_view() -> None:
    whole = numbered(torch.Size((5, 4)))
    view = plain(3, 2).within(plain(5, 4), CPU).of(whole)
    view.zero_()
    assert whole[:3, :2].abs().sum() == 0
    assert whole.count_nonzero() == 5 * 4 - 6


@pytest.mark.parametrize(
    ("own", "store"), [(plain(3, 5), plain(3, 4)), (qkv(2, 7, 4), qkv(4, 6, 4)), (plain(24, 4), qkv(2, 4, 4))]
)
def test_what_is_no_part_of_the_store_is_refused(own: Extent, store: Extent) -> None:
    with pytest.raises(ValueError, match="no part of the store's"):
        own.within(store, CPU)


def test_a_layout_that_the_tensor_does_not_have_is_refused() -> None:
    layout = Layout({"heads": 2, "key": 3, "width": 4}, {"qkv.weight": QKV})
    with pytest.raises(AssertionError, match=r"has shape \(17, 4\), its layout says \(18, 4\)"):
        Extent.of("qkv.weight", (17, 4), layout)


def test_the_store_holds_the_most_of_each_size() -> None:
    joined = qkv(4, 2, 10).joined(qkv(2, 6, 7))
    assert joined.shape == (3 * 4 * 6, 10)
    for own in (qkv(4, 2, 10), qkv(2, 6, 7)):
        assert own.within(joined, CPU).shape == own.shape


def test_gradients_come_back_to_where_the_part_lies() -> None:
    store, own = qkv(3, 4, 6), qkv(2, 3, 5)
    whole = numbered(store.shape).requires_grad_(True)
    kernel = torch.zeros(4, 1, 5, 5, requires_grad=True)
    parts = [own.within(store, CPU), plain(2, 1, 3, 3).within(plain(4, 1, 5, 5), CPU)]
    taken = Slices.apply(parts, whole, kernel)
    weight = torch.randn(own.shape, generator=torch.Generator().manual_seed(0))
    ((taken[0] * weight).sum() + 2 * taken[1].sum()).backward()
    expected = torch.zeros(3, 3, 4, 6)
    expected[:, :2, :3, :5] = weight.reshape(3, 2, 3, 5)
    assert whole.grad is not None
    assert kernel.grad is not None
    assert torch.equal(whole.grad, expected.reshape(store.shape))
    assert kernel.grad[:2, :, 1:4, 1:4].eq(2).all()
    assert kernel.grad.sum() == 2 * 2 * 9
