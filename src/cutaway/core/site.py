"""A place in a network, as text: the same string in Python, on the command line and in a URL.

conv3              the output of a module
conv3:12           its channel 12 (its neuron 12 after a linear layer, its dimension 12 at every token)
conv3:12@4,5       that channel at row 4, column 5
conv3@4,5          all channels at row 4, column 5
blocks.2.attn:h3   attention head 3, where the module's output has the heads side by side
relu#2             the third call of a module that runs more than once
lstm/0             the first part of an output that is a tuple; encoder/last_hidden_state, of a dictionary
input              the pixels or columns as the user gives them; for text, the embedding of each token
output             what the model answers: its logits
"""

import re
from dataclasses import dataclass

from torch import Tensor, nn

from cutaway.core.errors import BadOption, BadShape, NotPossible

_FORM = re.compile(
    r"(?P<module>\w[\w.\-]*)"
    r"(?:#(?P<call>[0-9]+))?"
    r"(?P<part>(?:/\w[\w.\-]*)*)"
    r"(?::(?P<unit>h?[0-9]+))?"
    r"(?:@(?P<position>[0-9]+(?:,[0-9]+)*))?"
)


@dataclass(frozen=True)
class Site:
    """A place: a module's output, or some of it.

    Attributes:
        module: Dotted path of the module, or `input`, or `output`.
        call: Which call, where the module runs several times in one forward.
        part: Path to one tensor inside an output that is a tuple or dictionary.
        unit: Channel, neuron or dimension.
        head: Attention head.
        position: Row and column of an image's activation, or the position of a token.
    """

    module: str
    call: int | None = None
    part: tuple[str, ...] = ()
    unit: int | None = None
    head: int | None = None
    position: tuple[int, ...] | None = None

    @classmethod
    def of(cls, text: "str | Site") -> "Site":
        """Read a site from its text.

        Raises:
            BadOption: The text is not of the form above.
        """
        if isinstance(text, Site):
            return text
        match = _FORM.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise BadOption(
                f"expected a place such as conv3, conv3:12, conv3:12@4,5 or blocks.2.attn:h3; got {text!r}."
            )
        unit, position = match["unit"], match["position"]
        return cls(
            module=match["module"],
            call=None if match["call"] is None else int(match["call"]),
            part=tuple(match["part"].split("/")[1:]),
            unit=int(unit) if unit and not unit.startswith("h") else None,
            head=int(unit[1:]) if unit and unit.startswith("h") else None,
            position=tuple(int(p) for p in position.split(",")) if position else None,
        )

    def __str__(self) -> str:
        """The text that `of` reads."""
        call = "" if self.call is None else f"#{self.call}"
        unit = f":{self.unit}" if self.unit is not None else f":h{self.head}" if self.head is not None else ""
        at = "" if self.position is None else "@" + ",".join(map(str, self.position))
        return f"{self.module}{call}{''.join('/' + p for p in self.part)}{unit}{at}"

    @property
    def whole(self) -> "Site":
        """The same place without unit, head and position."""
        return Site(self.module, self.call, self.part)

    @property
    def is_whole(self) -> bool:
        """True if the site is a whole tensor, not a unit, head or position of it."""
        return self.unit is None and self.head is None and self.position is None

    def index(self, tensor: Tensor, module: nn.Module | None = None) -> tuple[slice | int, ...]:
        """The index of this unit and position in a tensor at the whole site, batch axis first.

        Raises:
            BadShape: The unit or position lies outside the tensor.
        """
        index: list[slice | int] = [slice(None)] * tensor.ndim
        axis = unit_axis(tensor, module)
        if self.unit is not None:
            self._inside(self.unit, tensor.shape[axis], "unit")
            index[axis] = self.unit
        if self.head is not None:
            heads = head_count(module, str(self))
            self._inside(self.head, heads, "head")
            size = tensor.shape[axis] // heads
            index[axis] = slice(self.head * size, (self.head + 1) * size)
        if self.position is not None:
            axes = [a for a in range(1, tensor.ndim) if a != axis]
            if len(axes) != len(self.position):
                raise BadShape(
                    f"expected {len(axes)} coordinates in {str(self)!r}, "
                    f"since {self.whole} has shape {tuple(tensor.shape)}."
                )
            for a, p in zip(axes, self.position, strict=True):
                self._inside(p, tensor.shape[a], "position")
                index[a] = p
        return tuple(index)

    def _inside(self, value: int, size: int, what: str) -> None:
        if value >= size:
            raise BadShape(f"expected a {what} below {size} at {self.whole}; got {str(self)!r}.")


INPUT = Site("input")
OUTPUT = Site("output")


def unit_axis(tensor: Tensor, module: nn.Module | None = None) -> int:
    """The axis that counts units: channels of an image, dimensions of a token, neurons of a layer."""
    if tensor.ndim < 2:
        raise BadShape(f"expected an activation with units; got shape {tuple(tensor.shape)}.")
    if isinstance(module, nn.Linear | nn.Embedding) or len(getattr(module, "normalized_shape", ())) == 1:
        return tensor.ndim - 1  # these work on the last axis, whatever the others are
    sequence = tensor.ndim == 3 and not isinstance(module, nn.Conv1d | nn.BatchNorm1d | nn.ConvTranspose1d)
    return 2 if sequence else 1


# What the projection after the heads is called in the usual libraries.
_MIXERS = {"out_proj", "out_lin", "o_proj", "c_proj", "proj", "to_out", "wo"}


def head_count(module: nn.Module | None, site: str) -> int:
    """How many attention heads a module says that it has.

    Raises:
        NotPossible: The module says nothing of heads, or its output mixes them.
    """
    mixes = next((name for name, _ in module.named_children() if name in _MIXERS), "") if module is not None else ""
    if mixes:
        raise NotPossible(
            f"no single head at {site!r}: {type(module).__name__} mixes its heads in {mixes!r} before its output. "
            "Choose the whole place, or a module inside whose output has the heads side by side."
        )
    for name in ("num_heads", "num_attention_heads", "n_heads", "n_head"):
        if isinstance(heads := getattr(module, name, None), int):
            return heads
    raise NotPossible(f"no heads at {site!r}: {type(module).__name__} has no num_heads. Name an attention module.")
