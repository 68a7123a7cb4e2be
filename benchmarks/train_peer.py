"""Runs in the peers' environment: train one dictionary and write its weights. Called by `peers.train`."""

import importlib
import json
import os
import sys

import torch
from safetensors.torch import load_file, save_file


def main(function: str, given: str, made: str, settings: str) -> None:
    """`function` is `module:name`; files are safetensors; `settings` is JSON."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    module, _, name = function.partition(":")
    trained = getattr(importlib.import_module(module), name)(load_file(given)["rows"], **json.loads(settings))
    tensors = {**trained._asdict(), "tied": torch.tensor(trained.tied)}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, made)


if __name__ == "__main__":
    main(*sys.argv[1:])
