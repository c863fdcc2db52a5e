"""Tensors: values, views, NumPy, DLPack, and what is refused."""

import copy
import gc
import pickle

import numpy as np
import pytest

import lockstep as ls

DTYPES = {
    ls.float32: "float32",
    ls.float16: "float16",
    ls.int64: "int64",
    ls.int32: "int32",
    ls.uint8: "uint8",
    ls.bool: "bool",
}


def arange(*shape):
    return ls.from_numpy(np.arange(np.prod(shape), dtype="f4").reshape(shape))


def test_numbers_become_tensors():
    assert ls.tensor([1.5, 2]).dtype == ls.float32
    assert ls.tensor([[1], [2]]).dtype == ls.int64
    assert ls.tensor([True]).dtype == ls.bool
    assert ls.tensor([[1, 2], [3, 4]]).tolist() == [[1, 2], [3, 4]]
    assert ls.tensor(2**62 + 1).item() == 2**62 + 1
    assert ls.tensor(np.ones((2, 3), "f8"), dtype=ls.float32).shape == (2, 3)


@pytest.mark.parametrize("bad", [[[1], [1, 2]], [[1], 2], [1, [2]]])
def test_ragged_lists_are_refused(bad):
    with pytest.raises(ls.UsageError, match="level"):
        ls.tensor(bad)


def test_float64_is_refused_by_name():
    with pytest.raises(ls.UnsupportedType, match="astype"):
        ls.tensor(np.ones(2))
    with pytest.raises(TypeError):
        ls.from_numpy(np.ones(2))


@pytest.mark.parametrize("dtype", DTYPES)
def test_numpy_shares_memory(dtype):
    tensor = ls.full((2, 3), 1, dtype)
    array = tensor.numpy()
    assert array.dtype == DTYPES[dtype] and array.shape == (2, 3)
    array[1, 2] = 0
    assert tensor[1, 2].item() == 0
    back = ls.from_numpy(array)
    back[0, 0] = 0
    assert tensor[0, 0].item() == 0


def test_numpy_keeps_the_memory():
    array = ls.full((1000,), 7).numpy()
    gc.collect()
    assert (array == 7).all()


def test_tensors_keep_the_array():
    tensor = ls.from_numpy(np.full(1000, 7, "f4"))
    gc.collect()
    assert tensor.sum().item() == 7000


def test_strided_arrays():
    array = np.arange(24, dtype="f4").reshape(4, 6)
    assert ls.from_numpy(array[::2, 1::2]).tolist() == array[::2, 1::2].tolist()
    assert ls.from_numpy(array.T).tolist() == array.T.tolist()
    with pytest.raises(ls.UsageError, match="backwards"):
        ls.from_numpy(array[::-1])
    array.setflags(write=False)
    with pytest.raises(ls.UsageError, match="read-only"):
        ls.from_numpy(array)


def test_expanded_tensors_are_read_only_in_numpy():
    array = ls.ones(1, 3).expand(4, 3).numpy()
    with pytest.raises(ValueError):
        array[0, 0] = 2


def test_dlpack_both_ways():
    tensor = arange(2, 3)
    array = np.from_dlpack(tensor)
    array_of = tensor.numpy()
    array_of[0, 0] = 9
    assert array[0, 0] == 9
    source = np.arange(4, dtype="i4")
    taken = ls.from_dlpack(source)
    source[0] = 5
    del source
    gc.collect()
    assert taken.tolist() == [5, 1, 2, 3] and taken.dtype == ls.int32


def test_unused_and_used_capsules():
    ls.ones(3).__dlpack__()
    capsule = ls.ones(3).__dlpack__()

    class Twice:
        __dlpack__ = lambda self: capsule  # noqa: E731
        __dlpack_device__ = lambda self: (1, 0)  # noqa: E731

    assert ls.from_dlpack(Twice()).tolist() == [1, 1, 1]
    with pytest.raises(ValueError):
        ls.from_dlpack(Twice())


@pytest.mark.parametrize(
    "index",
    [
        0,
        -1,
        (1, 2),
        slice(1, 3),
        (slice(None), 1),
        (slice(0, 4, 2), slice(1, None, 3)),
        (Ellipsis, 2),
        (None, 1, Ellipsis),
        (slice(2, 2),),
        (slice(-100, 100), None, -1),
    ],
)
def test_indices_as_numpy(index):
    array = np.arange(24, dtype="f4").reshape(4, 6)
    assert ls.from_numpy(array)[index].tolist() == array[index].tolist()
    x = ls.tensor(array, requires_grad=True)
    (x[index] * 2).sum().backward()
    expected = np.zeros_like(array)
    expected[index] = 2
    assert x.grad.tolist() == expected.tolist()


def test_rows_by_a_tensor():
    x = ls.tensor(np.arange(12, dtype="f4").reshape(4, 3), requires_grad=True)
    rows = x[ls.tensor([[3, 0], [3, 3]])]
    assert rows.shape == (2, 2, 3) and rows[0, 0].tolist() == [9, 10, 11]
    rows.sum().backward()
    assert x.grad[:, 0].tolist() == [1, 0, 0, 3]
    with pytest.raises(ls.UsageError):
        x[ls.tensor([4])]


@pytest.mark.parametrize("index", [(4,), (0, 6), (0, 0, 0), -5])
def test_indices_outside(index):
    with pytest.raises((IndexError, ls.UsageError)):
        arange(4, 6)[index]


def test_writes_through_an_index():
    x = ls.zeros(3, 4)
    x[1, ::2] = 5
    x[:, 3] = ls.tensor([1.0, 2.0, 3.0])
    assert x.tolist() == [[0, 0, 0, 1], [5, 0, 5, 2], [0, 0, 0, 3]]


def test_broadcasting_and_operators_as_numpy():
    a, b = np.arange(6, dtype="f4").reshape(2, 3) + 1, np.arange(3, dtype="f4") + 2
    x, y = ls.tensor(a), ls.tensor(b)
    for op in ["__add__", "__sub__", "__mul__", "__truediv__"]:
        assert getattr(x, op)(y).tolist() == getattr(a, op)(b).tolist()
        assert getattr(x, op)(2).tolist() == getattr(a, op)(np.float32(2)).tolist()
    assert (1 - x).tolist() == (1 - a).tolist()
    assert (2 / x).tolist() == (np.float32(2) / a).tolist()
    assert (x < 3).tolist() == (a < 3).tolist()
    assert (x == ls.tensor(a)).tolist() == [[True] * 3] * 2
    assert (ls.tensor([7, 8]) // 2).tolist() == [3, 4]
    assert (x @ ls.tensor(a.T)).tolist() == (a @ a.T).tolist()


def test_arrays_do_not_mix_with_tensors():
    with pytest.raises(TypeError):
        np.ones(3, "f4") + ls.ones(3)


def test_arithmetic_in_place_is_refused():
    x = ls.ones(2)
    with pytest.raises(ls.UsageError, match="x = x \\+ y"):
        x += 1


def test_truth_and_length():
    assert bool(ls.tensor(2.0)) and not bool(ls.tensor([0]))
    with pytest.raises(ls.UsageError, match="ambiguous"):
        bool(ls.ones(2))
    assert len(ls.ones(3, 2)) == 3
    with pytest.raises(TypeError):
        len(ls.tensor(1.0))


def test_pickling_is_refused_with_a_reason():
    with pytest.raises(TypeError, match="checkpoint"):
        pickle.dumps(ls.ones(2))
    copied = copy.deepcopy(ls.ones(2, requires_grad=True))
    assert copied.requires_grad and copied.tolist() == [1, 1]


def test_text():
    assert repr(ls.tensor([1.0, 2.0])) == "tensor([1.0, 2.0], dtype=float32)"
    assert "5000 values" in repr(ls.ones(5000))


def test_values_that_an_integer_cannot_hold():
    with pytest.raises(ls.UsageError):
        ls.tensor([300]).to(ls.uint8)


def test_memory_that_comes_and_goes_is_not_lent():
    weight = ls.nn.Linear(2, 2).weight
    with pytest.raises(ls.UsageError, match="initialize"):
        weight.detach().numpy()


def test_a_tensor_that_nobody_made():
    for kind in (ls.Tensor, ls.Parameter):
        with pytest.raises((ls.UsageError, TypeError)):
            kind.__new__(kind).sum()


def test_whole_numbers_stay_whole():
    large = 2**53 + 1
    x = ls.zeros(2, dtype=ls.int64)
    x[0] = large
    assert x.numpy().tolist() == [large, 0]
    x.fill_(-large)
    assert x.numpy().tolist() == [-large, -large]
    with pytest.raises(ls.UsageError, match="is not a value of"):
        x[0] = 2**63
    assert ls.tensor([16777217.0, 0.5], dtype=ls.int64).numpy().tolist() == [16777217, 0]


def test_source_and_target_may_overlap():
    x = ls.tensor(np.arange(1000, dtype=np.float32))
    x[1:] = x[:-1]
    assert np.array_equal(x.numpy(), np.r_[0, np.arange(999)].astype(np.float32))
    x[1:].copy_(x[:-1])
    assert np.array_equal(x.numpy()[2:], np.arange(998).astype(np.float32))


def test_array_makes_a_copy_on_request():
    x = ls.zeros(2)
    assert np.shares_memory(x.__array__(), x.numpy())
    assert not np.shares_memory(x.__array__(copy=True), x.numpy())
    with pytest.raises(ValueError, match="needs a copy"):
        x.__array__(np.float64, copy=False)
