"""`cutaway train NAME`: make one of our own networks again."""

from pathlib import Path

import click

from cutaway.cli.progress import bars
from cutaway.zoo.train import Labels
from cutaway.zoo.train import train as train_network


@click.command()
@click.argument("name")
@click.option(
    "--out", type=click.Path(path_type=Path), help="The .safetensors file to write; NAME.safetensors here if not given."
)
@click.option("--seed", default=0, show_default=True, help="Seed of weights, order and augmentation.")
@click.option(
    "--labels",
    type=click.Choice(["true", "permuted"]),
    default="true",
    show_default=True,
    help="permuted: labels given out at random, for the test label-randomization.",
)
def train(name: str, out: Path | None, seed: int, labels: Labels) -> None:
    """Train one of cutaway's own networks by its recipe: `cutaway train shapes-cnn`."""
    with bars():
        trained = train_network(name, seed=seed, labels=labels)
    path = trained.save(out or Path(f"{name}.safetensors"))
    click.echo(f"{path}: {trained.accuracy:.1%} of test examples right")
    if trained.learned is not None:
        click.echo(f"{trained.learned:.1%} of the permuted labels are known by heart")
