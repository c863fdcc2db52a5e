"""Modules, state, layers and optimizers."""

import numpy as np
import pytest

import lockstep as ls
from lockstep import nn, optim


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.scale = nn.Parameter(ls.ones(4))
        self.register_buffer("offset", ls.zeros(4))

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x).relu()
        return x * self.scale + self.offset


def test_names_and_order():
    model = Small()
    assert [name for name, _ in model.named_parameters()] == [
        "scale",
        "first.weight",
        "first.bias",
        "blocks.0.weight",
        "blocks.0.bias",
        "blocks.1.weight",
        "blocks.1.bias",
    ]
    assert model.blocks[1].weight.name == "blocks.1.weight"
    assert [name for name, _ in model.named_buffers()] == ["offset"]


def test_weights_must_be_initialized():
    with pytest.raises(ls.UsageError, match="initialize"):
        Small()(ls.ones(1, 3))


def test_initial_values_depend_on_name_and_seed_alone():
    a, b, c = Small().initialize(1), Small().initialize(1), Small().initialize(2)
    assert a.weights_sha256() == b.weights_sha256() != c.weights_sha256()


def test_tied_weights_have_one_name():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(5, 3)
            self.head = nn.Linear(3, 5, bias=False)
            self.head.weight = self.embedding.weight

    model = Tied().initialize(0)
    assert [p.name for p in model.parameters()] == ["embedding.weight"]
    assert model.head.weight is model.embedding.weight


def test_state_goes_from_model_to_model():
    one, other = Small().initialize(0), Small()
    other.load_state_dict(one.state_dict())
    assert other.weights_sha256() == one.weights_sha256()
    state = one.state_dict()
    del state["scale"]
    state["more"] = ls.ones(1)
    with pytest.raises(ls.UsageError, match="missing: \\['scale'\\]; unexpected: \\['more'\\]"):
        other.load_state_dict(state)
    assert other.load_state_dict(state, strict=False) == (["scale"], ["more"])
    with pytest.raises(ls.UsageError, match="'scale': expected the shape"):
        other.load_state_dict({**one.state_dict(), "scale": ls.ones(5)})


def test_registration_is_checked():
    class Early(nn.Module):
        def __init__(self):
            self.weight = nn.Parameter(ls.ones(1))

    with pytest.raises(ls.UsageError, match="super"):
        Early()
    model = Small()
    with pytest.raises(ls.UsageError, match="'first' is registered"):
        model.first = 3
    with pytest.raises(ls.UsageError):
        model.add_module("a.b", nn.ReLU())
    with pytest.raises(ls.UsageError, match="holds"):
        model.first.add_module("up", model)
    model.first = nn.Linear(3, 2)
    assert model.first.weight.shape == (2, 3)
    del model.first
    with pytest.raises(AttributeError):
        model.first
    model.scale = None
    assert model.scale is None and "scale" not in dict(model.named_parameters())


def test_dropout_needs_a_scope_and_repeats_in_it():
    model = nn.Sequential(nn.Dropout(0.5))
    with pytest.raises(ls.UsageError):
        model(ls.ones(100))
    masks = []
    for _ in range(2):
        with ls.random_scope(0, 1, 0):
            masks.append(model(ls.ones(100)).tolist())
    assert masks[0] == masks[1] and set(masks[0]) == {0.0, 2.0}
    assert model.eval()(ls.ones(3)).tolist() == [1, 1, 1]


def test_hooks_of_modules():
    model = nn.Sequential(nn.ReLU())
    handle = model[0].register_forward_pre_hook(lambda module, args: (args[0] - 1,))
    model[0].register_forward_hook(lambda module, args, output: output * 10)
    assert model(ls.tensor([3.0])).tolist() == [20]
    handle.remove()
    assert model(ls.tensor([3.0])).tolist() == [30]


def test_recomputed_modules_give_the_same_gradients():
    digests = []
    for on in (False, True):
        model = Small().initialize(0)
        model.blocks[0].set_recompute(on)
        model(ls.ones(2, 3)).square().mean().backward()
        digests.append([p.grad.tolist() for p in model.parameters()])
    assert digests[0] == digests[1]


@pytest.mark.parametrize("kind", [optim.SGD, optim.Adam, optim.AdamW])
def test_optimizers_descend_and_continue(kind):
    def steps(model, optimizer, count):
        for _ in range(count):
            loss = (model(ls.ones(2, 3)) - 1).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return loss.item()

    model = Small().initialize(0)
    optimizer = kind(model.parameters(), lr=1e-2)
    first = steps(model, optimizer, 1)
    middle = steps(model, optimizer, 4)
    assert middle < first
    copy = Small()
    copy.load_state_dict(model.state_dict())
    second = kind(copy.parameters(), lr=1e-2)
    second.load_state_dict(optimizer.state_dict())
    steps(model, optimizer, 3), steps(copy, second, 3)
    assert copy.weights_sha256() == model.weights_sha256()


def test_schedules():
    schedule = optim.Schedule("linear", lr=1.0, min_lr=0.0, warmup=2, steps=10)
    assert schedule(1) == 0.5 and schedule(2) == 1.0 and schedule(10) == 0.0
    with pytest.raises(ls.UsageError, match="constant, linear or cosine"):
        optim.Schedule("quadratic")
    with pytest.raises(ls.UsageError):
        optim.SGD(nn.Linear(2, 2).initialize(0).parameters(), lr=float("nan")).step()


def test_decay_of_matrices_alone():
    weight, bias = nn.Parameter(ls.ones(2, 2)), nn.Parameter(ls.ones(2))
    weight.name, bias.name = "weight", "bias"
    optimizer = optim.AdamW([weight, bias], lr=0.5, weight_decay=0.5, decay="matrices")
    weight.grad, bias.grad = ls.zeros(2, 2), ls.zeros(2)
    optimizer.step()
    assert weight[0, 0].item() == 0.75 and bias[0].item() == 1


def test_functional_against_numpy():
    x = np.random.default_rng(0).normal(size=(4, 5)).astype("f4")
    loss = nn.functional.cross_entropy(ls.tensor(x), ls.tensor([0, 4, 2, 1]))
    rows = np.exp(x - x.max(1, keepdims=True))
    expected = -np.log(rows / rows.sum(1, keepdims=True))[range(4), [0, 4, 2, 1]].mean()
    assert abs(loss.item() - expected) < 1e-5
