"""What one run of a model saw: activations by place, and the output."""

from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from cutaway.core.errors import BadOption, BadShape, NotPossible
from cutaway.core.site import OUTPUT, Site

ScoreKind = Literal["logits", "probabilities", "values"]


class Trace(Mapping[Site, Tensor]):
    """Activations by `Site` (or its text), batch axis first.

    A unit, head or position of a place that was read is cut out on demand: `trace["conv3:12"]` works if `conv3` was
    read.
    """

    def __init__(
        self,
        found: dict[Site, Tensor],
        modules: Mapping[str, nn.Module],
        scores: ScoreKind,
        class_index: Callable[[str | int, int], int],
        named: int = 0,
    ) -> None:
        """A trace from whole tensors by site, as `Model.run` fills it; `named` counts the model's class names."""
        self._found = found
        self._modules = modules
        self._scores = scores
        self._class_index = class_index
        self._named = named

    def __getitem__(self, site: "Site | str") -> Tensor:
        """The activation at a place.

        Raises:
            BadOption: The place was not read.
        """
        site = Site.of(site)
        if site.whole not in self._found:
            read = ", ".join(map(str, self._found)) or "nothing"
            raise BadOption(f"{site} was not read in this run (read: {read}); add it to read=[...].")
        whole = self._found[site.whole]
        return whole if site.is_whole else whole[site.index(whole, self._modules.get(site.module))]

    def __iter__(self) -> Iterator[Site]:
        """The places that were read."""
        return iter(self._found)

    def __len__(self) -> int:
        """How many places were read."""
        return len(self._found)

    def as_leaves(self) -> "Trace":
        """The same activations as leaves of a graph of their own, to differentiate what is computed from them."""
        leaves = {site: t.detach().requires_grad_(t.is_floating_point()) for site, t in self._found.items()}
        return Trace(leaves, self._modules, self._scores, self._class_index, self._named)

    def rows(self) -> "list[Trace]":
        """A trace for each input, with one row."""
        parts = {site: torch.split(t, 1) for site, t in self._found.items()}
        count = min((len(p) for p in parts.values()), default=0)
        about = (self._modules, self._scores, self._class_index, self._named)
        return [Trace({site: p[i] for site, p in parts.items()}, *about) for i in range(count)]

    @property
    def output(self) -> Tensor:
        """The model's output tensor: logits for most classifiers."""
        return self[OUTPUT]

    @property
    def probabilities(self) -> Tensor:
        """Class probabilities, (n, classes): a softmax of logits, or the sigmoid of a single logit for two classes.

        Raises:
            NotPossible: The model gives values that are neither logits nor probabilities.
        """
        if self._scores == "values":
            raise NotPossible("this model gives values, not class scores; use logit(k) for its k-th output.")
        if self._scores == "probabilities":
            out = self.scores
            return torch.cat([1 - out, out], dim=1) if out.shape[1] == 1 else out
        return self.log_probabilities.exp()

    @property
    def log_probabilities(self) -> Tensor:
        """Logarithms of the class probabilities, (n, classes)."""
        if self._scores == "logits":
            z = self._columns()
            return logsigmoid(torch.cat([-z, z], dim=1)) if z.shape[1] == 1 else torch.log_softmax(z, dim=1)
        return self.probabilities.clamp_min(torch.finfo(self.output.dtype).tiny).log()

    @property
    def scores(self) -> Tensor:
        """The output as (n, classes).

        A single logit of a model with two named classes stands for the second; the first has its negative.
        """
        out = self._columns()
        halves = out.shape[1] == 1 and self._named == 2 and self._scores == "logits"
        return torch.cat([-out, out], dim=1) if halves else out

    def _columns(self) -> Tensor:
        out = self.output
        if out.ndim == 1:
            return out[:, None]
        if out.ndim != 2:
            raise BadShape(
                f"expected an output (n, classes); got {tuple(out.shape)}. "
                "Name one number of it with a unit target, such as unit('output:3@5,6')."
            )
        return out

    def class_index(self, name: "str | int", width: int | None = None) -> int:
        """The column of a class, checked against the width of the output, or of the probabilities."""
        return self._class_index(name, self.scores.shape[1] if width is None else width)

    def module(self, site: Site) -> nn.Module | None:
        """The module behind a place, if it is one."""
        return self._modules.get(site.module)
