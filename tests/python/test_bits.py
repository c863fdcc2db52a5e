"""A model in Python ends with the bits of the same model in C++, on any number of ranks."""

import pytest

CASES = {
    "tiny_mlp": ("30", ["train.steps=30"], []),
    "tiny_gpt": ("6", ["train.steps=6", "model.dropout=0.1"], []),
}


@pytest.mark.parametrize("name", CASES)
def test_weights_are_those_of_lockstep_train(name, ranks, trained):
    steps, overrides, _ = CASES[name]
    config = f"configs/{name}.yaml"
    expected = trained(config, *overrides)
    for strategy in ("ddp", "fsdp"):
        for count in (1, 2, 4):
            said = ranks(count, "train_model.py", name, config, strategy, steps, *overrides)
            assert f"weights sha256:{expected}" in said, (name, strategy, count)
