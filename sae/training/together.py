"""Several trainers over one feed: each takes batch k as its step k, whatever becomes of the others."""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from sae.errors import DiskError, NumericsError
from sae.training.checkpoint import Checkpoints, save_refused_batch
from sae.training.data import Feed, IteratorFeed
from sae.training.stopping import Stop, StopRequest
from sae.training.trainer import Trainer


class Together:
    """One pass. A trainer that is refused a step stays as it was before that step, and so in every later checkpoint; the others
    go on. Gone on with, a checkpoint tries that step again, as the trainer furthest behind says which batch is read next."""

    def __init__(
        self,
        trainers: dict[str, Trainer],
        feed: Feed | IteratorFeed,
        saved: Checkpoints | None,
        request: StopRequest,
        checkpoint_seconds: float,
        *,
        resumed: bool,
        begun_on: dict[str, Any],
    ):
        self.begun_on = begun_on
        """The processor of the first step (`sae.provenance.processor`)."""
        self.names, self.trainers = list(trainers), list(trainers.values())
        self.feed, self.saved, self.request, self.every = feed, saved, request, checkpoint_seconds
        self.failures: dict[int, NumericsError] = {}
        """Why trainer i has stopped early."""
        self._kept: dict[int, tuple[dict[str, Tensor], dict[str, Any]]] = {}
        """What checkpoints hold of trainers whose own state is no longer the last good one."""
        self._saved_at = self._n_done() if resumed else None

    def run(self) -> None:
        """All steps of all trainers; between steps a checkpoint when it is due or when stopping is asked for."""
        if any(trainer.notices_late for trainer in self.trainers):
            self._save()  # something to fall back on
        last = time.monotonic()
        try:
            while going := self._going():
                self.request.check()
                if time.monotonic() - last >= self.every:
                    self._save()
                    last = time.monotonic()
                batch = self._read([self.trainers[i] for i in going])
                for i in going:
                    self._step(i, batch)
        except Stop:
            self._save()
            raise
        self._save()
        self.request.check()

    def _left(self) -> list[int]:
        return [i for i, trainer in enumerate(self.trainers) if i not in self.failures and trainer.n_done < trainer.n_steps]

    def _going(self) -> list[int]:
        """Those whose step is next: all, but where one goes on from further behind."""
        left = self._left()
        next_step = min((self.trainers[i].n_done for i in left), default=0)
        return [i for i in left if self.trainers[i].n_done == next_step]

    def _read(self, going: Sequence[Trainer]) -> Tensor:
        """Their batch, dead features resampled. Where the rows cannot be read (an iterator ended, or failed), all is saved."""
        try:
            if self.feed.position != going[0].n_done:
                self.feed.enter(going[0].n_done)
            draws = [(trainer, trainer.draw(self._others)) for trainer in going if trainer.resamples_now()]
            batch = self.feed.next()
        except Exception as error:
            self._save_for(error, "called again with whole rows, it goes on")
            raise
        for trainer, drawn in draws:  # only now, when nothing can stop the step: a stop before this changes nothing
            trainer.resample(drawn)
        return batch

    def _others(self, n_batches: int) -> Iterator[Tensor]:
        for batch in self.feed.others(n_batches):
            self.request.check()
            yield batch

    def _step(self, i: int, batch: Tensor) -> None:
        """One step; where it is refused, keep the batch and the last good state. Where an observer fails, such as a log on a full
        disk, the step is done, and all is saved."""
        step = self.trainers[i].n_done
        try:
            self.trainers[i].step(batch)
        except NumericsError as error:
            where = ""
            if self.saved is not None:
                kept = save_refused_batch(self.saved.folder, self.trainers[i].n_done, batch)
                where = f"; the batch is in {kept}, the last good state beside it"
                if self.trainers[i].notices_late and (start := self.saved.latest()) is not None:
                    self._kept[i] = start.of(i)
            self.failures[i] = NumericsError(f"{error}{where}")
            if n_left := len(self._left()):
                print(f"{self.names[i]} stops: {error}; {n_left} others go on", file=sys.stderr, flush=True)
        except Exception as error:
            if self.trainers[i].n_done > step:
                self._save_for(error, "called again when that is mended, it goes on")
            raise

    def _save_for(self, error: Exception, then: str) -> None:
        """Save all before `error` ends the training, and note to it whether that was possible."""
        if self.saved is None:
            return
        try:
            self._save()
        except DiskError as other:
            error.add_note(f"no checkpoint could be written either ({other}); the one before stays")
        else:
            error.add_note(f"all steps before are saved in {self.saved.folder}: {then}")

    def _n_done(self) -> list[int]:
        return [self._kept[i][1]["n_done"] if i in self._kept else trainer.n_done for i, trainer in enumerate(self.trainers)]

    def _save(self) -> None:
        """A checkpoint of all, if there is anything new, and no trouble that a trainer has yet to notice."""
        n_done = self._n_done()
        sound = all(trainer.sound or i in self.failures for i, trainer in enumerate(self.trainers))
        if self.saved is None or n_done == self._saved_at or not sound:
            return
        tensors: dict[str, Tensor] = {}
        numbers: list[dict[str, Any]] = []
        for i, trainer in enumerate(self.trainers):
            observed = {type(observer).__name__: observer.state() for observer in trainer.observers}
            part, stated = self._kept.get(i) or (trainer.tensors(), {**trainer.numbers(), "observers": observed})
            tensors |= {f"{i}.{name}": value for name, value in part.items()}
            numbers.append(stated)
        self.saved.save(max(n_done), tensors, {"trainers": numbers, "begun_on": self.begun_on})
        self._saved_at = n_done
