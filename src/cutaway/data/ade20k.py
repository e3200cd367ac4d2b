"""Three photos of ADE20K whose every pixel has the name of an object: the sample of the scene parsing challenge.

A label picture has numbers from 1 to 150, in the order of `ade20k.txt`; 0 is none of these (Zhou et al. 2017).
"""

from importlib.resources import files

import torch

from cutaway.core.dataset import Examples
from cutaway.core.errors import BadShape
from cutaway.core.space import Space
from cutaway.data import label_maps
from cutaway.data.fetch import Collection
from cutaway.data.images import read, to_units
from cutaway.data.sets import DataSet

NAME, COUNT = "ade20k-sample", 3
FILES = Collection(
    NAME,
    homes=("https://raw.githubusercontent.com/CSAILVision/sceneparsing/master/sampleData/",),
    sums={
        "images/ADE_val_00000001.jpg": "99f7af15a7bd66f3d2ad8b98f1b41941c27407a35d303f9b70724cb231a36098",
        "images/ADE_val_00000002.jpg": "ce373a18513e5a357d7fd2d2f70e1db2249417635068e108cd85ddca08195f30",
        "images/ADE_val_00000003.jpg": "d5dc6cad44ed8f9bee5888ac297db36a174c1f480a557746312a7e928aa83620",
        "annotations/ADE_val_00000001.png": "e085b2d2d8fbc15260c4fb9d0617ead1ab85d905dd0a06c7fb7b69e8604586d7",
        "annotations/ADE_val_00000002.png": "18578c873b1a9633d4ee1cf24646d49521e33e95328f1c744292aa3b8be0b6af",
        "annotations/ADE_val_00000003.png": "35dc69169905f718cfdeee1cac2496a90d1a74adf447920ea0353bce9af9c2b9",
    },
)


def scenes(which: range, space: Space | None = None) -> Examples:
    """The photos at these positions, with the objects in them."""
    names = tuple(files("cutaway.data").joinpath("ade20k.txt").read_text(encoding="utf-8").splitlines())
    x, maps, found = [], [], [f"ADE_val_{i + 1:08d}" for i in which]
    for name in found:
        picture = read(FILES.path(f"images/{name}.jpg"))
        labels = label_maps.numbers(FILES.path(f"annotations/{name}.png"), f"{name}.png")
        if labels.shape[::-1] != picture.image.size or labels.max() > len(names):
            raise BadShape(f"{name}.png: expected labels up to {len(names)} for each pixel of the photo.")
        x.append(to_units(picture.fitted(space), space))
        maps.append(label_maps.fitted(labels, picture.image.size, space)[None])
    concepts = {"object": torch.stack(maps)}
    return Examples(
        x=torch.stack(x), names=found, source=NAME, concepts=concepts, concept_names={"object": ("", *names)}
    )


DATASETS = (DataSet(NAME, "three photos of ADE20K with the object at each pixel (fetched)", COUNT, scenes),)
