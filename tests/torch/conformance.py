"""Every collective of torch.distributed over lockstep, against values computed locally.

lockstep run -n 1, 2 or 4 -- python3 conformance.py
"""

import functools
import operator

import torch
import torch.distributed as dist
from ranks import COMPLEX, EVERY_TYPE, FLOATS, INTEGERS, equal, join, layouts, run, values

RANK, SIZE = join()
SHAPES = [(5,), (3, 4), (0,), (2, 0), (1,)]
OP = dist.ReduceOp


def reduced(op, tensors):
    """What lockstep promises: the operation on all ranks' tensors, in their type."""
    dtype = tensors[0].dtype
    if dtype == torch.bool:
        either = {op: operator.or_ for op in (OP.SUM, OP.MAX, OP.BOR)} | {OP.BXOR: operator.xor}
        return functools.reduce(either.get(op, operator.and_), tensors)
    pairs = {
        OP.SUM: operator.add,
        OP.AVG: operator.add,
        OP.PRODUCT: operator.mul,
        OP.MIN: torch.minimum,
        OP.MAX: torch.maximum,
        OP.BAND: operator.and_,
        OP.BOR: operator.or_,
        OP.BXOR: operator.xor,
    }
    exact = [t.double() for t in tensors] if op == OP.AVG and dtype not in COMPLEX else tensors
    total = functools.reduce(pairs[op], exact)
    return (total / SIZE).to(dtype) if op == OP.AVG else total


def reductions():
    """Every (type, operation) that is supported."""
    for dtype in EVERY_TYPE:
        yield dtype, OP.SUM
        if dtype not in COMPLEX:
            yield from ((dtype, op) for op in (OP.PRODUCT, OP.MIN, OP.MAX))
        if dtype in FLOATS + COMPLEX:
            yield dtype, OP.AVG
        if dtype in INTEGERS + [torch.bool]:
            yield from ((dtype, op) for op in (OP.BAND, OP.BOR, OP.BXOR))


def everyone(shape, dtype, salt=0):
    return [values(r, shape, dtype, salt) for r in range(SIZE)]


def test_all_reduce():
    for dtype, op in reductions():
        for shape in SHAPES:
            for layout, tensor in layouts(shape, dtype):
                tensor.copy_(values(RANK, shape, dtype))
                dist.all_reduce(tensor, op=op)
                equal(tensor, reduced(op, everyone(shape, dtype)), f"{dtype} {op} {shape} {layout}")


def test_reduce_changes_the_root_alone():
    for root in range(SIZE):
        for dtype, op in reductions():
            for layout, tensor in layouts((3, 4), dtype):
                tensor.copy_(values(RANK, (3, 4), dtype))
                dist.reduce(tensor, root, op=op)
                mine = values(RANK, (3, 4), dtype)
                want = reduced(op, everyone((3, 4), dtype)) if RANK == root else mine
                equal(tensor, want, f"{dtype} {op} {layout} root {root}")


def test_all_reduce_coalesced():
    tensors = [values(RANK, shape, torch.float32, i) for i, shape in enumerate(SHAPES)]
    dist.all_reduce_coalesced(tensors)
    for i, (tensor, shape) in enumerate(zip(tensors, SHAPES)):
        equal(tensor, reduced(OP.SUM, everyone(shape, torch.float32, i)), f"tensor {i}")


def test_reduce_scatter():
    for dtype, op in reductions():
        for shape in SHAPES:
            parts = [reduced(op, everyone(shape, dtype, i)) for i in range(SIZE)]
            for layout, output in layouts(shape, dtype):
                inputs = [values(RANK, shape, dtype, i) for i in range(SIZE)]
                dist.reduce_scatter(output, inputs, op=op)
                equal(output, parts[RANK], f"list {dtype} {op} {shape} {layout}")
                for i in range(SIZE):
                    equal(inputs[i], values(RANK, shape, dtype, i), "the inputs stay")
                output.zero_()
                dist._reduce_scatter_base(output, torch.cat([i.flatten() for i in inputs]), op=op)
                equal(output, parts[RANK], f"flat {dtype} {op} {shape} {layout}")


def test_broadcast():
    for root in range(SIZE):
        for dtype in EVERY_TYPE:
            for shape in SHAPES:
                for layout, tensor in layouts(shape, dtype):
                    tensor.copy_(values(RANK, shape, dtype))
                    dist.broadcast(tensor, root)
                    what = f"{dtype} {shape} {layout} root {root}"
                    equal(tensor, values(root, shape, dtype), what)


def test_all_gather():
    for dtype in EVERY_TYPE:
        for shape in SHAPES:
            want = everyone(shape, dtype)
            for layout, tensor in layouts(shape, dtype):
                tensor.copy_(values(RANK, shape, dtype))
                outputs = [next(layouts(shape, dtype))[1] for _ in range(SIZE)]
                outputs[0] = dict(layouts(shape, dtype))["transposed"]
                dist.all_gather(outputs, tensor)
                for r in range(SIZE):
                    equal(outputs[r], want[r], f"list {dtype} {shape} {layout} from {r}")
                flat = torch.zeros(SIZE * tensor.numel(), dtype=dtype)
                dist._all_gather_base(flat, tensor)
                joined = torch.cat([w.flatten() for w in want])
                equal(flat, joined, f"flat {dtype} {shape} {layout}")


def test_all_gather_into_views_of_one_tensor():
    flat = torch.zeros(SIZE, 6)
    outputs = list(flat.unbind(0))
    outputs[RANK].copy_(values(RANK, (6,), torch.float32))
    dist.all_gather(outputs, outputs[RANK])
    equal(flat, torch.stack(everyone((6,), torch.float32)), "views in order")
    dist.all_gather(outputs[::-1], values(RANK, (6,), torch.float32))
    equal(flat.flip(0), torch.stack(everyone((6,), torch.float32)), "views in reverse order")


def test_all_gather_coalesced():
    inputs = [values(RANK, shape, torch.int64, i) for i, shape in enumerate(SHAPES)]
    outputs = [[torch.zeros(s, dtype=torch.int64) for s in SHAPES] for _ in range(SIZE)]
    dist.all_gather_coalesced(outputs, inputs)
    for r in range(SIZE):
        for i, shape in enumerate(SHAPES):
            equal(outputs[r][i], values(r, shape, torch.int64, i), f"tensor {i} of rank {r}")


def test_gather():
    for root in range(SIZE):
        for dtype in EVERY_TYPE:
            for layout, tensor in layouts((3, 4), dtype):
                tensor.copy_(values(RANK, (3, 4), dtype))
                outputs = [dict(layouts((3, 4), dtype))[layout] for _ in range(SIZE)]
                outputs = outputs if RANK == root else None
                dist.gather(tensor, outputs, dst=root)
                for r in range(SIZE if RANK == root else 0):
                    equal(outputs[r], values(r, (3, 4), dtype), f"{dtype} {layout} root {root}")


def test_scatter():
    for root in range(SIZE):
        for dtype in EVERY_TYPE:
            for layout, output in layouts((3, 4), dtype):
                inputs = [values(root, (3, 4), dtype, r) for r in range(SIZE)]
                inputs = inputs if RANK == root else None
                dist.scatter(output, inputs, src=root)
                equal(output, values(root, (3, 4), dtype, RANK), f"{dtype} {layout} root {root}")


def test_all_to_all_of_equal_parts():
    for dtype in EVERY_TYPE:
        send = torch.cat([values(RANK, (2, 3), dtype, r) for r in range(SIZE)])
        want = torch.cat([values(r, (2, 3), dtype, RANK) for r in range(SIZE)])
        for layout, output in layouts((2 * SIZE, 3), dtype):
            dist.all_to_all_single(output, send)
            equal(output, want, f"{dtype} {layout}")


def rows(sender, receiver):
    """How many rows go from one rank to another: none between some."""
    return (2 * sender + receiver) % 3


def test_all_to_all_of_unequal_parts():
    for dtype in EVERY_TYPE:
        parts = [values(RANK, (rows(RANK, r), 3), dtype, r) for r in range(SIZE)]
        want = [values(r, (rows(r, RANK), 3), dtype, RANK) for r in range(SIZE)]
        ours, theirs = [len(p) for p in parts], [len(w) for w in want]
        for layout, output in layouts((sum(theirs), 3), dtype):
            dist.all_to_all_single(output, torch.cat(parts), theirs, ours)
            equal(output, torch.cat(want), f"single {dtype} {layout}")
        outputs = [torch.zeros_like(w) for w in want]
        dist.all_to_all(outputs, parts)
        for r in range(SIZE):
            equal(outputs[r], want[r], f"list {dtype} from {r}")


def test_splits_that_are_equal_here_and_unequal_elsewhere():
    counts = [[2] * SIZE for _ in range(SIZE)]
    counts[SIZE - 1][SIZE - 1] = 5
    send = values(RANK, (sum(counts[RANK]), 2), torch.int32)
    output = torch.zeros(sum(counts[r][RANK] for r in range(SIZE)), 2, dtype=torch.int32)
    dist.all_to_all_single(output, send, [counts[r][RANK] for r in range(SIZE)], counts[RANK])
    want = [values(r, (sum(counts[r]), 2), torch.int32).split(counts[r])[RANK] for r in range(SIZE)]
    equal(output, torch.cat(want), "splits")


def test_an_exchange_meets_no_message_of_the_user():
    if SIZE == 1:
        return
    here, there = (RANK + 1) % SIZE, (RANK - 1) % SIZE
    message = torch.zeros(1)
    pending = dist.irecv(message, there)  # posted before the exchange, sent after it
    output = torch.zeros(SIZE)
    dist.all_to_all_single(output, torch.full((SIZE,), float(RANK)), [1] * SIZE, [1] * SIZE)
    equal(output, torch.arange(SIZE, dtype=torch.float32), "exchange")
    dist.isend(torch.full((1,), 50.0 + RANK), here)
    pending.wait()
    equal(message, torch.full((1,), 50.0 + there), "message")


def test_send_and_recv():
    if SIZE == 1:
        return
    for dtype in EVERY_TYPE:
        for shape in SHAPES:
            for layout, tensor in layouts(shape, dtype):
                # Around the ring: all send first, and nobody waits for ever.
                filled = torch.empty_like(tensor).copy_(values(RANK, shape, dtype))
                pending = dist.isend(filled, (RANK + 1) % SIZE, tag=7)
                dist.recv(tensor, (RANK - 1) % SIZE, tag=7)
                pending.wait()
                equal(tensor, values((RANK - 1) % SIZE, shape, dtype), f"{dtype} {shape} {layout}")


def test_results_without_a_wait():
    """A future, a poll and a call whose handle is dropped all bring their results."""
    strided = torch.empty(8)[::2].copy_(values(RANK, (4,), torch.float32))
    want = reduced(OP.SUM, everyone((4,), torch.float32))
    future = dist.all_reduce(strided, async_op=True).get_future()
    future.wait()
    equal(strided, want, "future")
    equal(future.value()[0], want, "value of the future")
    strided.copy_(values(RANK, (4,), torch.float32))
    work = dist.all_reduce(strided, async_op=True)
    while not work.is_completed():
        pass
    assert work.is_success()
    equal(strided, want, "poll")
    later = torch.empty(8)[::2].copy_(values(RANK, (4,), torch.float32))
    dist.all_reduce(later, async_op=True)
    future = dist.barrier(async_op=True).get_future()
    future.wait()
    while not torch.equal(later, want):  # the limit of the test ends this
        pass


def test_callbacks_of_futures_may_communicate():
    steps = []

    def second(future):
        total = future.value()[0]
        other = dist.all_reduce(total.clone(), async_op=True)
        other.get_future().wait()
        other.wait()
        steps.append(other.result()[0])
        return total

    tensor = torch.ones(3)
    dist.all_reduce(tensor, async_op=True).get_future().then(second).wait()
    equal(steps[0], torch.full((3,), float(SIZE * SIZE)), "a call from a callback")


def test_many_calls_under_way():
    tensors = [values(RANK, (100,), torch.float32, i) for i in range(60)]
    works = [dist.all_reduce(t, async_op=True) for t in tensors]
    futures = [w.get_future() for w in works]
    for i in reversed(range(60)):
        futures[i].wait()
        equal(tensors[i], reduced(OP.SUM, everyone((100,), torch.float32, i)), f"call {i}")


def test_subgroups():
    for ranks in ([0], list(range(SIZE)), list(range(1, SIZE)), list(range(0, SIZE, 2))):
        if not ranks:
            continue
        group = dist.new_group(ranks)
        if RANK not in ranks:
            continue
        tensor = values(RANK, (4,), torch.float32)
        dist.all_reduce(tensor, group=group)
        equal(tensor, sum(values(r, (4,), torch.float32) for r in ranks), f"group {ranks}")
        tensor = values(RANK, (4,), torch.float32)
        dist.broadcast(tensor, ranks[-1], group=group)
        equal(tensor, values(ranks[-1], (4,), torch.float32), f"broadcast in {ranks}")
        dist.destroy_process_group(group)


def test_objects():
    objects = [None] * SIZE
    dist.all_gather_object(objects, {"rank": RANK, "text": "x" * RANK})
    assert objects == [{"rank": r, "text": "x" * r} for r in range(SIZE)], objects
    shared = [f"from {RANK}", RANK]
    dist.broadcast_object_list(shared, src=SIZE - 1)
    assert shared == [f"from {SIZE - 1}", SIZE - 1], shared
    mine = [None]
    dist.scatter_object_list(mine, [("for", r) for r in range(SIZE)], src=0)
    assert mine == [("for", RANK)], mine


def test_sums_are_carried_in_float32_and_in_a_fixed_order():
    generator = torch.Generator().manual_seed(5)
    terms = torch.randn(SIZE, 1000, generator=generator)

    def tree(low, high):
        """A node splits at the largest power of two below its size."""
        if high - low == 1:
            return terms_in_f32[low]
        half = 1 << ((high - low - 1).bit_length() - 1)
        return tree(low, low + half) + tree(low + half, high)

    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        terms_in_f32 = terms.to(dtype).to(wide)
        tensor = terms[RANK].clone().to(dtype)
        dist.all_reduce(tensor)
        equal(tensor, tree(0, SIZE).to(dtype), f"sum of {dtype}")
        tensor = terms[RANK].clone().to(dtype)
        dist.all_reduce(tensor, op=OP.AVG)
        equal(tensor, (tree(0, SIZE) / SIZE).to(dtype), f"average of {dtype}")


def test_an_average_of_large_halves_does_not_overflow():
    tensor = torch.full((3,), 60000.0, dtype=torch.float16)
    dist.all_reduce(tensor, op=OP.AVG)
    equal(tensor, torch.full((3,), 60000.0, dtype=torch.float16), "average")


def test_the_profiler_sees_calls_from_start_to_end():
    with torch.autograd.profiler.profile() as profile:
        dist.all_reduce(torch.ones(3))
        dist.all_reduce_coalesced([torch.ones(2), torch.ones(2)])
    events = [e for e in profile.function_events if e.name == "lockstep:all_reduce"]
    assert len(events) == 2 and all(e.is_async for e in events), events


def test_leaves_that_require_grad():
    parameter = torch.nn.Parameter(values(RANK, (4, 3), torch.float32))
    for root in {0, SIZE - 1}:
        with torch.no_grad():
            parameter.copy_(values(RANK, (4, 3), torch.float32))
        dist.broadcast(parameter.t(), root)  # not contiguous: copied in and out
        equal(parameter.data, values(root, (4, 3), torch.float32), f"parameter from {root}")
    dist.broadcast(parameter, 0)
    assert parameter.requires_grad and parameter.is_leaf


run([test for name, test in list(globals().items()) if name.startswith("test_")], RANK)
