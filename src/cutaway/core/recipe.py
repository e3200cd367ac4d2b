"""How a network is trained, as a value: what methods need that train a network again.

The same recipe and seed give the same weights on the same machine. Training uses one thread, since sums over several
threads differ in the last digit, and touches no global random state.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cutaway.core.dataset import Examples
from cutaway.core.errors import BadShape
from cutaway.core.progress import track
from cutaway.core.site import Site
from cutaway.core.space import Space
from cutaway.core.taps import Edit, Taps

# From the network and the numbers of some examples: what a step lowers.
Lesson = Callable[[nn.Module, Tensor], Tensor]


def _is_highest(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.argmax(1) == labels


def _as_they_are(x: Tensor, generator: torch.Generator) -> Tensor:
    return x


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained.

    Attributes:
        build: The network with fresh weights, drawn from torch's global stream.
        train, test: The data: inputs in one tensor, and a label for each.
        space, classes: Of the model.
        name: Of the model.
        epochs, batch: Passes over the training data, and how many examples a step sees.
        rate: Highest learning rate; it rises and falls once (one-cycle, AdamW).
        varied: A random change of the inputs that keeps the label true.
        loss, right: From what the network gives and the labels, one for each example: what training lowers, and which
            answers are right. By default the labels are classes, and the highest logit should be theirs.
        fit: A training loop of one's own, in place of the numbers above: it takes the fresh network, the examples and a
            seed, and leaves the network trained.
        tokenizer, embedding: Of the model, for text.
        output: Which part of the output the classes are, where there are several.
    """

    build: Callable[[], nn.Module]
    train: Callable[[], Examples]
    space: Space
    test: Callable[[], Examples] | None = None
    classes: tuple[str, ...] = ()
    name: str = "network"
    epochs: int = 10
    rate: float = 0.01
    varied: Callable[[Tensor, torch.Generator], Tensor] = _as_they_are
    batch: int = 64
    loss: Callable[[Any, Tensor], Tensor] = functional.cross_entropy
    right: Callable[[Any, Tensor], Tensor] = _is_highest
    fit: Callable[[nn.Module, Examples, int], None] | None = None
    tokenizer: Callable[[], Any] | None = None
    embedding: str = ""
    output: str = ""


def follow(
    recipe: Recipe,
    data: Examples,
    *,
    seed: int,
    epochs: int | None = None,
    lesson: Lesson | None = None,
    device: torch.device | None = None,
) -> nn.Module:
    """Train a fresh network by a recipe.

    Args:
        recipe: How.
        data: On what; its inputs are one tensor.
        seed: Of the first weights, of the order of the examples, and of their changes.
        epochs: Passes over the data; the recipe's own number by default.
        lesson: What a step lowers, instead of the recipe's loss on the varied inputs.
        device: Where; on the CPU if not given.

    Returns:
        The network in eval mode.

    Raises:
        BadShape: The data have no labels, or are not one tensor.
    """
    if data.labels is None or not isinstance(data.x, Tensor) or not len(data):
        raise BadShape("expected training examples with labels, and inputs in one tensor; got none of that kind.")
    with alone(seed, device):
        module = recipe.build().to(device)
        if recipe.fit is not None and lesson is None:
            recipe.fit(module, data, seed)
        else:
            generator = torch.Generator().manual_seed(seed)
            _fit(recipe, module, data, generator, recipe.epochs if epochs is None else epochs, lesson)
    return module.eval()


def through(
    module: nn.Module,
    x: Tensor,
    *,
    read: Sequence[Site] = (),
    edit: Mapping[Site, Edit] | None = None,
) -> tuple[Any, dict[Site, Tensor]]:
    """One forward of training: what the network gives and what was read, with the graph; places can be edited."""
    with Taps(module, read=read, edits=edit or {}, leaf=None, rows=len(x), stop=None) as taps:
        found = module(x)
    taps.check()
    return found, taps.found


def _fit(
    recipe: Recipe, module: nn.Module, data: Examples, generator: torch.Generator, epochs: int, lesson: Lesson | None
) -> None:
    batch = min(recipe.batch, len(data))
    steps = epochs * (len(data) // batch)
    optimizer = torch.optim.AdamW(module.parameters(), lr=recipe.rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=steps)
    lesson = lesson or _of_labels(recipe, data, generator)
    module.train()
    for rows in track(_batches(len(data), batch, epochs, generator), f"training {recipe.name}", total=steps):
        loss = lesson(module, rows)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own signature
        optimizer.step()
        schedule.step()


def _of_labels(recipe: Recipe, data: Examples, generator: torch.Generator) -> Lesson:
    """The recipe's own loss, on inputs that vary."""
    inputs, labels = data.x, data.labels
    assert isinstance(inputs, Tensor)
    assert labels is not None

    def lesson(module: nn.Module, rows: Tensor) -> Tensor:
        x = recipe.space.normalised(recipe.varied(inputs[rows], generator))
        device = next((p.device for p in module.parameters()), x.device)
        return recipe.loss(module(x.to(device)), labels[rows].to(device))

    return lesson


def _batches(count: int, batch: int, epochs: int, generator: torch.Generator) -> Iterator[Tensor]:
    for _ in range(epochs):
        order = torch.randperm(count, generator=generator)[: count - count % batch]
        yield from torch.split(order, batch)


@contextmanager
def alone(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """One thread and an own stream of random numbers; what was before comes back."""
    threads = torch.get_num_threads()
    places = [device] if device is not None and device.type == "cuda" else []
    try:
        torch.set_num_threads(1)
        with torch.random.fork_rng(devices=places), torch.inference_mode(False), torch.enable_grad():
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)
