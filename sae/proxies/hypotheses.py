"""The hypotheses, as data: what kind of text a feature might be for, and how its proxy is made."""

import re
import string
from dataclasses import dataclass, field
from typing import Any, Literal, final

from sae.config import build
from sae.errors import ConfigError
from sae.proxies.competing import Competing
from sae.proxies.labels import OfKind, Pattern, strings
from sae.proxies.likelihood import Alphabet, Proxy
from sae.proxies.scripts import Script

Reading = Literal["sign", "clipped", "score"]
"""What of a score is correlated with activations: 1 where it is positive and 0 elsewhere, max(score, 0), or the score.

The paper's words: "the activity of the Arabic script proxy (thresholded at 0)", beside a remark that correlation "takes
magnitude into account", so max(score, 0), and Hebrew likewise; "we binarize the [DNA] proxy (based on its sign)"; of
base64's score nothing, so that is taken as it is. The first two are reported for every hypothesis. The last can't be had
where min_tokens > 1, as a document that has only begun scores -inf there."""


@final
@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """A kind of text, and the proxy for it."""

    name: str
    title: str
    """As people write it."""
    kinds: tuple[str, ...]
    """The kinds of document that are truly of it (of `TokenStore.kinds`)."""
    proxy: Proxy
    reading: Reading
    """How the paper reads the score for its correlation."""
    paper: float | None = None
    """Pearson correlation of the paper's best feature with its proxy (TM, A/1, 4,096 features)."""

    def __post_init__(self) -> None:
        if self.reading == "score" and isinstance(self.proxy, Alphabet) and self.proxy.min_tokens > 1:
            raise ConfigError(
                f"hypothesis '{self.name}': a score of min_tokens = {self.proxy.min_tokens} may be -inf; read its sign"
            )


HYPOTHESES: dict[str, Hypothesis] = {
    hypothesis.name: hypothesis
    for hypothesis in (
        Hypothesis(
            name="arabic",
            title="Arabic",
            kinds=("arabic",),
            # The paper says "including e.g." these two; presentation forms and Extended-A occur in no text of ours.
            proxy=Script(blocks=((0x0600, 0x06FF), (0x0750, 0x077F))),
            reading="clipped",
            paper=0.74,
        ),
        Hypothesis(
            name="hebrew",
            title="Hebrew",
            kinds=("hebrew",),
            proxy=Script(blocks=((0x0590, 0x05FF),)),
            reading="clipped",
            paper=0.55,
        ),
        Hypothesis(
            name="dna",
            title="DNA",
            kinds=("dna",),
            proxy=Alphabet(characters="ATCG", min_tokens=2),
            reading="sign",
            paper=0.80,
        ),
        Hypothesis(
            name="base64",
            title="base64",
            kinds=("base64", "pem"),  # a certificate is base64 between two lines of dashes
            proxy=Alphabet(characters=string.ascii_letters + string.digits + "+/"),
            reading="score",
            paper=0.38,
        ),
        Hypothesis(
            name="hexadecimal",
            title="hexadecimal",
            kinds=("hexadecimal",),
            # Both cases: digests are lower, dumps upper; 22 letters cost ln(22/16) = 0.32 nats a character over 16.
            proxy=Alphabet(characters=string.digits + "abcdefABCDEF"),
            reading="score",
        ),
        # The paper's proxies for these find much else; the same kinds by models that compete (docs/method.md).
        *(
            Hypothesis(
                name=f"{kind}-competing", title=f"{title} (competing)", kinds=kinds, proxy=Competing(kind=kind), reading="sign"
            )
            for kind, title, kinds in (
                ("dna", "DNA", ("dna",)),
                ("base64", "base64", ("base64", "pem")),
                ("hexadecimal", "hexadecimal", ("hexadecimal",)),
            )
        ),
    )
}


@final
@dataclass(frozen=True, kw_only=True)
class OwnHypothesis:
    """One of `ProxiesConfig.own`: what makes a token of it, one of the four."""

    pattern: str = ""
    """A regular expression; tokens that lie in a match, at least with one byte."""
    strings: tuple[str, ...] = ()
    """The same for strings as they stand."""
    characters: str = ""
    """An alphabet, whose characters are drawn evenly (the paper's way with base64)."""
    kinds: tuple[str, ...] = ()
    """Kinds of document; beside one of the others they are what the proxy is judged by."""
    title: str = ""
    """As people write it; its name where empty."""

    def made(self, name: str) -> Hypothesis:
        """The hypothesis. Raises `ConfigError` where it does not say, or says twice, what makes a token of it."""
        ways: list[Proxy] = []
        if self.pattern:
            ways.append(Pattern(expression=self.pattern))
        if self.strings:
            ways.append(strings(*self.strings))
        if self.characters:
            ways.append(Alphabet(characters=self.characters))
        if not ways and self.kinds:
            ways.append(OfKind(kinds=self.kinds))
        if len(ways) != 1:
            raise ConfigError(f"hypothesis '{name}' must have one of pattern, strings, characters and kinds; it has {len(ways)}")
        reading: Reading = "score" if self.characters else "sign"
        return Hypothesis(name=name, title=self.title or name, kinds=self.kinds, proxy=ways[0], reading=reading)


@final
@dataclass(frozen=True, kw_only=True)
class ProxiesConfig:
    """Section `proxies`: which hypotheses are tried, on how much held-out text."""

    n_tokens: int = 524288
    """Held-out positions (BOS included) in randomly chosen contexts; all of the held-out split where it has fewer."""
    hypotheses: tuple[str, ...] = tuple(HYPOTHESES)
    """Of those that come with the library."""
    own: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Further hypotheses by name, each with fields of `OwnHypothesis`: {emails: {pattern: '\\w+@\\w+'}}."""
    n_sample_tokens: int = 1048576
    """Train positions, in randomly chosen contexts, from which P(script) and the meaning of cut characters are estimated."""
    n_strongest: int = 100
    """How many of a unit's strongest tokens must be of a kind for the unit to count as one of that kind."""
    purity: float = 0.95
    """The fraction of them that must be."""
    seed: int = 0
    """Chooses the contexts."""

    def __post_init__(self) -> None:
        for name in self.hypotheses:
            if name not in HYPOTHESES:
                raise ConfigError(f"no hypothesis '{name}'; there are {', '.join(HYPOTHESES)}")
        if len({*self.hypotheses, *self.own}) < len(self.hypotheses) + len(self.own) or not self.hypotheses + tuple(self.own):
            raise ConfigError(f"hypotheses must name each one once, and at least one, not {[*self.hypotheses, *self.own]}")
        for name in self.own:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
                raise ConfigError(f"'own' has {name!r}: a name of letters, digits, _ . and - (a plot's file is named by it)")
        self.chosen()
        if min(self.n_tokens, self.n_sample_tokens, self.n_strongest) < 1:
            raise ConfigError(
                f"n_tokens, n_sample_tokens and n_strongest must be at least 1, not "
                f"{self.n_tokens}, {self.n_sample_tokens}, {self.n_strongest}"
            )
        if not 0 < self.purity <= 1:
            raise ConfigError(f"purity is a fraction in (0, 1], not {self.purity}")

    def chosen(self) -> list[Hypothesis]:
        """All that are to be tried. Raises `ConfigError` for one of `own` that says nothing, or too much."""
        own = ((name, build(OwnHypothesis, values, f"proxies.own.{name}")) for name, values in self.own.items())
        return [*(HYPOTHESES[name] for name in self.hypotheses), *(each.made(name) for name, each in own)]
