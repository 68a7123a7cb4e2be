"""`sae tree`: what a feature splits into. Heavy imports stand inside, as in `cli`."""

from pathlib import Path
from typing import Annotated

import typer

FeatureId = Annotated[str, typer.Argument(help="A feature of the smallest dictionary, such as A/0/12.")]
Larger = Annotated[list[str], typer.Argument(help="Larger dictionaries of the same transformer, the smaller first: A/1 A/2.")]


def tree(
    id: FeatureId,
    larger: Larger,
    tokens: Annotated[int, typer.Option(min=2, help="Held-out tokens to read.")] = 131_072,
    least: Annotated[float, typer.Option(min=0.0, max=0.99, help="Masked cosine of an edge.")] = 0.4,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
    root: Annotated[Path, typer.Option(help="The folder that holds the runs.")] = Path("data"),
) -> None:
    """The tree of one feature through larger dictionaries, with the masked cosine of each edge."""
    from sae.library import locate, open_several, split_id
    from sae.splitting.graph import SplittingConfig, find_splitting
    from sae.splitting.tree import tree_of
    from sae.storage.tokens import TokenStore

    name, index = split_id(id, root)
    config = SplittingConfig(n_tokens=tokens, least_cosine=least, dictionaries=[name, *larger])
    source, dictionaries = open_several(config.dictionaries, root, device)
    found = find_splitting(source, dictionaries, TokenStore.open(locate(name, root).tokens), config)
    typer.echo("\n".join(tree_of(found, index).lines()))
