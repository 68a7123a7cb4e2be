"""Which part of a job's tasks a process does: local processes, torchrun, Slurm arrays and Kubernetes indexed jobs all say it
alike."""

import os
from typing import NamedTuple

from sae.errors import ConfigError


class Share(NamedTuple):
    """One of `n` processes: it does every `n`-th task, from task `first` on."""

    first: int = 0
    n: int = 1

    @classmethod
    def parse(cls, text: str) -> "Share":
        """From `i/N`, i from 0."""
        try:
            share = cls(*(int(part) for part in text.split("/")))
        except (ValueError, TypeError):
            share = cls(0, 0)
        if not 0 <= share.first < share.n:
            raise ConfigError(f"share {text!r}: must be i/N with i from 0 to N - 1, such as 0/4")
        return share

    @classmethod
    def of_environment(cls) -> "Share | None":
        """What torchrun, a Slurm array or a Kubernetes indexed job says in the environment; None where none does."""
        pairs = (
            ("RANK", "WORLD_SIZE", 0),
            ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", int(os.environ.get("SLURM_ARRAY_TASK_MIN", "0"))),
            ("JOB_COMPLETION_INDEX", "JOB_COMPLETIONS", 0),
        )
        for index, n, first in pairs:
            if index in os.environ and n in os.environ:
                return cls.parse(f"{int(os.environ[index]) - first}/{os.environ[n]}")
        return None
