"""Where in the picture the positions of a layer are centred."""

from torch import Tensor

from cutaway.core.checks import Check
from cutaway.core.errors import NotPossible
from cutaway.core.model import Model
from cutaway.core.receptive import Axis, Field, receptive_field
from cutaway.core.site import Site
from cutaway.dissection.units import activations


def anchors(model: Model, site: Site, row: Tensor) -> tuple[Field, Check]:
    """Where the layer's positions are centred; spread evenly over the picture where that cannot be told."""
    act = activations(model, row, str(site))
    down, across = act.shape[2:]
    try:
        field = receptive_field(model, site, row)
    except NotPossible as fault:
        height, width = row.shape[2:]
        even = [Axis(side / n, side / n / 2 - 0.5, side) for side, n in ((height, down), (width, across))]
        return Field(even[0], even[1]), Check(f"Maps of {down} x {across} were spread evenly: {fault}", "note")
    text = (
        f"Positions of {site} are {field.y.step:g} x {field.x.step:g} pixels apart, the first centred at "
        f"{field.y.first:g}, {field.x.first:g}; maps of {down} x {across} were enlarged from there."
    )
    if field.everywhere:
        return field, Check(f"{text} Something before it looks at the whole picture, too.", "note")
    return field, Check(text, "ok")
