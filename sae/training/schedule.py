"""What changes along a run, in fractions of it: the learning rate, lambda, and when dead features are resampled."""

from dataclasses import dataclass

from sae.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Positions in a run of `n_steps` steps, numbered from 0."""

    n_steps: int
    warmup: float
    """Fraction of the run over which the learning rate rises linearly from 0."""
    decay: float
    """Fraction of the run, at its end, over which the learning rate falls linearly to 0."""
    l1_warmup: float
    """Fraction of the run over which lambda rises linearly from 0."""
    resample_at: tuple[float, ...]
    """Fractions of the run at which dead features are resampled."""
    resample_window: float
    """Fraction of the run, right before each resampling, in which a feature must stay silent to count as dead."""
    rewarm: float
    """Fraction of the run over which the learning rate rises again from a tenth after each resampling; 0 keeps it."""

    def __post_init__(self) -> None:
        if list(self.resample_at) != sorted(set(self.resample_at)) or not all(0 < at < 1 for at in self.resample_at):
            raise ConfigError(f"'resample_at' = {list(self.resample_at)}: must be rising fractions of the run between 0 and 1")
        for name in ("warmup", "decay", "l1_warmup", "resample_window", "rewarm"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"'{name}' = {getattr(self, name)}: must be a fraction of the run, 0 to 1")
        if self.warmup + self.decay > 1:
            raise ConfigError(f"'warmup' {self.warmup} and 'decay' {self.decay} together are longer than the run")

    @property
    def resample_steps(self) -> tuple[int, ...]:
        """Steps after which to resample."""
        return tuple(max(1, round(at * self.n_steps)) for at in self.resample_at)

    @property
    def window_steps(self) -> int:
        return max(1, round(self.resample_window * self.n_steps))

    def counters_start(self, step: int) -> bool:
        """Whether firing is counted afresh from `step` on: a window's length before each resampling."""
        return any(step == max(0, at - self.window_steps) for at in self.resample_steps)

    def learning_rate(self, step: int) -> float:
        """Factor on the base learning rate at `step`."""
        factor = min(1.0, (step + 1) / max(1.0, self.warmup * self.n_steps))
        if self.decay:
            factor = min(factor, (self.n_steps - step) / (self.decay * self.n_steps))
        since = min((step - at for at in self.resample_steps if step >= at), default=None)
        if self.rewarm and since is not None:
            factor *= min(1.0, 0.1 + 0.9 * (since + 1) / max(1.0, self.rewarm * self.n_steps))
        return factor

    def l1(self, step: int) -> float:
        """Factor on lambda at `step`."""
        return min(1.0, (step + 1) / max(1.0, self.l1_warmup * self.n_steps))
