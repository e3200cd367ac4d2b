"""A network whose middle is known only from records: photos in, the activations that were stored for them out."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import cutaway as ct


class Recorded(nn.Module):
    """Gives each photo that it knows the activations that a network had at `mixed4d`."""

    def __init__(self, photos: Tensor, activations: Tensor) -> None:
        super().__init__()
        self.register_buffer("photos", photos)
        self.register_buffer("activations", activations)
        self.mixed4d = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        far = (x.detach()[:, None] - self.photos[None]).abs().amax((2, 3, 4))
        assert float(far.amin(1).max()) < 1e-3, "a photo without a record"
        return self.mixed4d(self.activations[far.argmin(1)]).mean((2, 3))


def recorded(folder: Path) -> tuple[ct.Model, dict[str, Tensor]]:
    """The model of a folder `building-blocks`, and its photos by name, each (1, 3, 224, 224) in [0, 1]."""
    photos, activations = {}, []
    for path in sorted((folder / "npy").glob("*_mixed4d_activations.npy")):
        name = path.name.removesuffix("_mixed4d_activations.npy")
        pixels = np.asarray(Image.open(folder / "input_images" / f"{name}.jpeg").convert("RGB"))
        photos[name] = torch.from_numpy(pixels.copy()).movedim(2, 0)[None].float() / 255
        activations.append(torch.from_numpy(np.load(path)).float().movedim(3, 1))
    net = Recorded(torch.cat(list(photos.values())), torch.cat(activations))
    return ct.Model(net.eval(), ct.images(224), scores="values", name="inception (recorded)"), photos


def sprites(folder: Path) -> Tensor:
    """The picture of every channel of mixed4d from the sheet of 24 rows of 22, (528, 3, 110, 110) in [0, 1]."""
    sheet = torch.from_numpy(np.asarray(Image.open(folder / "sprite_mixed4d_channel.jpeg").convert("RGB")).copy())
    return sheet.unflatten(0, (24, 110)).unflatten(2, (22, 110)).permute(0, 2, 4, 1, 3).flatten(0, 1).float() / 255
