"""Settings shared by all tests: one thread less than greedy, no network, no W&B server."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test workers with two threads each wait for one another on two cores
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")
