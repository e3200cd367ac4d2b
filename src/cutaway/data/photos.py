"""Freely licensed photos that scikit-image and scikit-learn carry in their wheels."""

from functools import partial
from importlib.resources import files

import torch

from cutaway.core.dataset import Examples
from cutaway.core.space import Space
from cutaway.data.images import read, to_units
from cutaway.data.sets import DataSet

PHOTOS = {
    "astronaut": ("skimage.data", "astronaut.png", "Eileen Collins in a space suit (NASA, public domain)"),
    "camera": ("skimage.data", "camera.png", "man with a camera on a tripod, grey (Lav Varshney, CC0)"),
    "chelsea": ("skimage.data", "chelsea.png", "a tabby cat's face (Stéfan van der Walt, CC0)"),
    "china": ("sklearn.datasets.images", "china.jpg", "a Chinese pavilion (danielbuechele, CC BY 2.0)"),
    "coffee": ("skimage.data", "coffee.png", "an espresso cup on a wooden table (Rachel Michetti, CC0)"),
    "flower": ("sklearn.datasets.images", "flower.jpg", "a flower (vultilion, CC BY 2.0)"),
    "hubble": ("skimage.data", "hubble_deep_field.jpg", "distant galaxies (NASA, public domain)"),
    "retina": ("skimage.data", "retina.jpg", "the back of a human eye (Mikael Häggström, CC0)"),
    "rocket": ("skimage.data", "rocket.jpg", "a Falcon 9 on its launch pad (SpaceX, public domain)"),
}


def photos(names: tuple[str, ...], which: range, space: Space | None = None) -> Examples:
    """The photos with these positions among `names`."""
    wanted = [names[i] for i in which]
    x = torch.stack([photo(name, space) for name in wanted])
    return Examples(x=x, names=wanted, source=f"photos/{wanted[0]}" if len(wanted) == 1 else "photos")


def photo(name: str, space: Space | None) -> torch.Tensor:
    """One photo, (channels, height, width)."""
    package, file, _ = PHOTOS[name]
    return to_units(read(files(package).joinpath(file).read_bytes(), name).fitted(space), space)


DATASETS = (
    DataSet("photos", "all bundled photos", len(PHOTOS), partial(photos, tuple(PHOTOS))),
    *(DataSet(f"photos/{name}", about, 1, partial(photos, (name,))) for name, (_, _, about) in PHOTOS.items()),
)
