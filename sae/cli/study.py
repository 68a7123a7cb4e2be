"""`sae study` and `sae report`: what is found out about a feature and a dictionary. Heavy imports stand inside, as in `cli`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sae.errors import ConfigError

Hypothesis = Annotated[str, typer.Argument(help="arabic, hebrew, dna, base64 ..., or a name for one of your own.")]
Root = Annotated[Path, typer.Option(help="The folder that holds the runs.")]
DATA = Path("data")


def study(
    hypothesis: Hypothesis,
    dictionary: Annotated[str, typer.Option(help="Whose best feature is studied.")] = "A/1",
    other: Annotated[
        str, typer.Option(help="Where it is looked for again, such as B/1; otherwise universality is not tested.")
    ] = "",
    pattern: Annotated[str, typer.Option(help="Your own: a regular expression.")] = "",
    string: Annotated[list[str] | None, typer.Option(help="Your own: a string, as it stands; may be given again.")] = None,
    characters: Annotated[str, typer.Option(help="Your own: an alphabet.")] = "",
    kind: Annotated[list[str] | None, typer.Option(help="Your own: a kind of document; may be given again.")] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Held-out tokens that the figures are over.")] = 131_072,
    choice_tokens: Annotated[int, typer.Option(min=1, help="Further ones, on which the feature is chosen.")] = 131_072,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
    root: Root = DATA,
) -> None:
    """The five claims of the feature that is best for a hypothesis: specific, sensitive, causal, not a neuron, universal; each
    with its figures, their controls and a verdict."""
    from sae.claims.config import ClaimsConfig
    from sae.claims.study import study as study_claims
    from sae.library import locate, open_sides
    from sae.proxies.hypotheses import HYPOTHESES
    from sae.storage.tokens import TokenStore

    given = {"pattern": pattern, "strings": tuple(string or ()), "characters": characters, "kinds": tuple(kind or ())}
    own: dict[str, Any] = {key: value for key, value in given.items() if value}
    if own and hypothesis in HYPOTHESES:
        raise ConfigError(
            f"'{hypothesis}' is a hypothesis of the library; give your own another name, or leave out {', '.join(own)}"
        )
    if not own and hypothesis not in HYPOTHESES:
        raise ConfigError(
            f"no hypothesis '{hypothesis}'; there are {', '.join(HYPOTHESES)}, or say what yours is with --pattern, --string, "
            "--characters or --kind"
        )
    config = ClaimsConfig(
        hypotheses=() if own else (hypothesis,),
        own={hypothesis: own} if own else {},
        other=other,
        n_tokens=tokens,
        n_choice_tokens=choice_tokens,
        seed=seed,
    )
    side, second = open_sides(dictionary, other or dictionary, root, device)
    for found in study_claims(TokenStore.open(locate(dictionary, root).tokens), side, config, second if other else None):
        typer.echo(str(found))


def report(
    name: Annotated[str, typer.Argument(help="A dictionary: its name under --root, such as A/1, or the path of its folder.")],
    open_it: Annotated[bool, typer.Option("--open/--no-open", help="Open it in a browser, or only print where it is.")] = False,
    root: Root = DATA,
) -> None:
    """Put all that the stages found out about a dictionary into one page, and the same into Markdown; the page of its features
    then links to it."""
    import webbrowser

    from sae.library import locate
    from sae.web.report import report as write_report

    folder = write_report(locate(name, root))
    typer.echo(f"{folder / 'index.html'}\n{folder / 'report.md'}")
    if open_it and not webbrowser.open((folder / "index.html").as_uri()):
        typer.echo("(no browser could be opened here; open the file yourself)", err=True)
