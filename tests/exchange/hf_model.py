#!/usr/bin/env python3
"""What Hugging Face's transformers writes, reads and computes.

scripts/check_transformers runs it where transformers is installed.

hf_model.py write FOLDER [--kind gpt2|llama|llama-tied] [--shards N] [--activation NAME]
    a small model with random weights, and expected.json beside it
hf_model.py compute FOLDER IDS OUT
    logits and loss of the model in FOLDER for the token ids of a JSON file
Both write {"input_ids": [T], "loss": nats, "logits": [[vocab]…]}, as `lockstep eval --logits` does.
"""

import argparse
import json
import os

os.environ["HF_HUB_OFFLINE"] = "1"
import torch  # noqa: E402
import transformers  # noqa: E402


def evaluate(model, ids):
    model.eval()
    tokens = torch.tensor([ids])
    with torch.no_grad():
        out = model(tokens, labels=tokens)
    return {"input_ids": ids, "loss": float(out.loss), "logits": out.logits[0].tolist()}


def save(values, path):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(values, file)


def write(args):
    torch.manual_seed(0)
    if args.kind == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=257, n_positions=64, n_embd=48, n_layer=3, n_head=4,
            activation_function=args.activation, bos_token_id=None, eos_token_id=None
        )
    else:
        config = transformers.LlamaConfig(
            vocab_size=257, max_position_embeddings=64, hidden_size=48,
            intermediate_size=80, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, tie_word_embeddings=args.kind == "llama-tied",
            bos_token_id=None, eos_token_id=None
        )
    model = transformers.AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        # Large enough that a swapped or transposed tensor shows.
        torch.nn.init.normal_(parameter, 0, 0.2)
    size = sum(p.numel() for p in model.parameters()) * 4
    largest = size // args.shards + 4096 if args.shards > 1 else "5GB"
    model.save_pretrained(args.folder, max_shard_size=largest)
    save(evaluate(model, torch.randint(257, (64,)).tolist()),
         os.path.join(args.folder, "expected.json"))


def compute(args):
    model, info = transformers.AutoModelForCausalLM.from_pretrained(args.folder,
                                                                    output_loading_info=True)
    for what, names in info.items():
        assert not names, f"{what}: {names}"
    with open(args.ids, encoding="utf-8") as file:
        save(evaluate(model, json.load(file)["input_ids"]), args.out)


parser = argparse.ArgumentParser()
commands = parser.add_subparsers(required=True)
command = commands.add_parser("write")
command.add_argument("folder")
command.add_argument("--shards", type=int, default=1)
command.add_argument("--kind", choices=["gpt2", "llama", "llama-tied"], default="gpt2")
command.add_argument("--activation", default="gelu_new")
command.set_defaults(run=write)
command = commands.add_parser("compute")
command.add_argument("folder")
command.add_argument("ids")
command.add_argument("out")
command.set_defaults(run=compute)
arguments = parser.parse_args()
arguments.run(arguments)
