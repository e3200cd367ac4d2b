import pytest
import skimage.data
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from cutaway.core.checks import Check
from cutaway.core.result import Attribution, Cost, Curve, Pictures, Provenance, Ranking, Result, Scores, Table
from cutaway.report import Explanation, InputExplanation, MapExplanation

SIDE = 224

LIMITS = [
    "A map shows what moved this model's answer, not what is in the photo, and not what a person would look at.",
    "Deletion and insertion show the model photos unlike any that it learned from; part of their effect is that.",
    "Two methods that disagree may both be right: they answer different questions.",
    "One photo says nothing about the next one.",
]


@pytest.fixture(scope="session")
def photo() -> Tensor:
    image = torch.tensor(skimage.data.astronaut()).permute(2, 0, 1).float() / 255
    return interpolate(image[None], size=(SIDE, SIDE), mode="area")[0]


def made(method: str, **options: object) -> Provenance:
    return Provenance(
        method=method,
        options=options,
        model="efficientnet-lite0",
        model_fingerprint="3f" * 32,
        input="photos/astronaut",
        input_fingerprint="a1" * 32,
        target='logit("space shuttle")',
        seed=0,
        versions={"cutaway": "0.1.0", "torch": "2.13.0", "python": "3.11"},
        cost=Cost(forwards=640, backwards=96, seconds=7.34),
        created="2026-01-02T03:04:05Z",
    )


def blob(row: float, column: float, spread: float) -> Tensor:
    y, x = torch.meshgrid(torch.arange(float(SIDE)), torch.arange(float(SIDE)), indexing="ij")
    return torch.exp(-((y - row) ** 2 + (x - column) ** 2) / spread)


def attribution(title: str, values: Tensor, photo: Tensor, **extra: object) -> Attribution:
    name = title.lower().replace(" ", "_").replace("-", "_")
    return Attribution(
        title=title,
        values=values,
        target='logit("space shuttle")',
        input=photo[None],
        score=torch.tensor([9.31]),
        provenance=made(name, steps=32),
        checks={"finite": Check("all values are finite", "ok"), "gap": Check("0.4 % of the change is missing", "note")},
        **{"unit": "logit", **extra},
    )


def curves(seed: int, name: str) -> dict[str, Result]:
    x = torch.linspace(0, 1, 33)
    noise = 0.03 * torch.randn(33, generator=torch.Generator().manual_seed(seed)).cumsum(0) * x * (1 - x) * 4
    down, up = (
        (0.62 * torch.exp(-(4 + seed) * x) + noise).clamp(0),
        (0.62 * (1 - torch.exp(-(5 + seed) * x)) + noise).clamp(0),
    )
    random, edges = 0.62 * (1 - x**2), 0.62 * (1 - x)
    layers = ["none", *(f"_blocks.{i}" for i in range(15, -1, -3)), "_conv_stem"]
    fall = torch.linspace(1, 0.08 * seed, len(layers)) ** 2
    area = {"lower": 0.14 + seed / 50, "higher": 0.47 - seed / 50}
    labels = {"x_label": "share of pixels changed", "y_label": "probability of space shuttle"}

    def faithful(better: str, y: Tensor, a: Tensor, b: Tensor) -> Curve:
        return Curve(
            title={"lower": "Deletion", "higher": "Insertion"}[better],
            x=x,
            y={name: y, "random order": a, "edges first": b},
            low={"random order": a - 0.04},
            high={"random order": a + 0.04},
            summary={name: area[better], "random order": 0.41, "edges first": 0.31},
            summary_label="area under the curve",
            better=better,
            **labels,
        )

    return {
        "completeness": Scores(
            names=["gap", "gap share"],
            values=torch.tensor([0.034, 0.004]),
            unit="logit",
            better="lower",
            checks={"completeness": Check("the values add up to all but 0.4 % of the change", "ok", 0.004)},
        ),
        "deletion": faithful("lower", down, random, edges),
        "insertion": faithful("higher", up, random.flip(0), edges.flip(0)),
        "randomization": Curve(
            title="Randomisation",
            x=torch.arange(len(layers)),
            y={"similarity": fall},
            x_names=layers,
            x_label="layers with random weights, from the top",
            y_label="rank correlation with the map",
            summary={"similarity": float(fall[-1])},
            summary_label="similarity at the end",
            better="lower",
            checks={"sensitive": Check("the map changes when the weights are random, as it should", "ok")},
        ),
        "stability": Scores(
            title="Stability",
            names=["rank correlation", "overlap of the top tenth"],
            values=torch.tensor([0.83, 0.71]),
            low=torch.tensor([0.78, 0.6]),
            high=torch.tensor([0.88, 0.8]),
            unit="under noise of 2/255",
            better="higher",
        ),
    }


def verdicts() -> Table:
    """The table of `trust` for some of the maps."""
    hole = float("nan")
    cost = [1, 640, 96, 7.34]
    return Table(
        title="Which maps to believe",
        columns=[
            *("method", "verdict", "kept when weights are random", "deletion, below chance"),
            *("inputs", "forwards", "backwards", "seconds"),
        ],
        rows=[
            ["smoothgrad", "✓ passed", "✓ 0.31 (0.22 to 0.40)", "✓ 0.18 (0.10 to 0.26)", *cost],
            ["gradient", "! with care", "✓ 0.20", "! 0.04 (-0.01 to 0.09)", *cost],
            ["guided_backprop", "✕ do not rely on it", "✕ 0.98", "no time", *cost],
            ["lime", "not examined", "–", "–", 1, 0, 0, 0.0],
        ],
        extra={
            "value": torch.tensor([[0.31, 0.18], [0.2, 0.04], [0.98, hole], [hole, hole]], dtype=torch.float64),
            "low": torch.tensor([[0.22, 0.1], [hole, -0.01], [hole, hole], [hole, hole]], dtype=torch.float64),
            "high": torch.tensor([[0.4, 0.26], [hole, 0.09], [hole, hole], [hole, hole]], dtype=torch.float64),
        },
        checks={
            "smoothgrad": Check("Passed.", "ok"),
            "partial": Check("The budget of 9 s left out deletion (guided_backprop).", "warn"),
        },
    )


@pytest.fixture(scope="session")
def explanation(photo: Tensor) -> Explanation:
    """A page as a real run makes it, with maps that were made up."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 3, SIDE, SIDE, generator=generator)
    shuttle, face, helmet = blob(80, 195, 1500), blob(60, 105, 900), blob(185, 185, 1100)
    smooth = adaptive_avg_pool2d((shuttle + 0.2 * helmet)[None, None], 7)
    maps = {
        "Gradient": (
            attribution("Gradient", 0.1 * noise * (0.2 + shuttle), photo, unit="logit per input unit"),
            "warn",
        ),
        "Input x gradient": (attribution("Input x gradient", 0.05 * noise * (0.2 + shuttle) * photo, photo), "warn"),
        "SmoothGrad": (attribution("SmoothGrad", 0.02 * noise + 0.06 * (shuttle - 0.4 * face), photo), "ok"),
        "Integrated gradients": (
            attribution("Integrated gradients", 0.01 * noise * shuttle + 0.004 * shuttle - 0.002 * face, photo),
            "ok",
        ),
        "Guided backprop": (
            attribution(
                "Guided backprop", noise.abs() * photo.std(0), photo, signed=False, unit="logit per input unit"
            ),
            "fail",
        ),
        "Grad-CAM": (attribution("Grad-CAM", smooth, photo, signed=False, wrt="_blocks.15"), "ok"),
        "Occlusion": (
            attribution("Occlusion", adaptive_avg_pool2d((2.1 * shuttle - 0.9 * face)[None, None], 14), photo),
            "ok",
        ),
        "RISE": (
            attribution("RISE", (0.4 * shuttle + 0.1 * helmet - 0.2 * face)[None, None], photo, unit="probability"),
            "note",
        ),
    }
    sentences = {
        "ok": "It agrees with what the model does: removing what it marks lowers the answer faster than the controls.",
        "note": "It passes the tests, with 400 masks instead of the 2,000 of the paper.",
        "warn": "It changes much under noise that a person cannot see; read single pixels with care.",
        "fail": "It hardly changes when the weights are random: it shows edges of the photo, not what the model uses.",
    }
    shown = [
        MapExplanation(
            attribution=made_map,
            sentence=Check(sentences[status], status),
            evidence=curves(i, title),
            python=f'why = cutaway.run("{made_map.provenance.method}", model, x, target="space shuttle")',
            shell=f"cutaway run {made_map.provenance.method} --model efficientnet-lite0 --x photos/astronaut",
        )
        for i, (title, (made_map, status)) in enumerate(maps.items())
    ]
    units: list[Ranking | Pictures] = [
        Ranking(
            title=f"Strongest units of {layer}",
            names=[f"{layer}:{(37 * i) % 320}" for i in range(8)],
            values=torch.linspace(6.2, 1.9, 8),
            unit="largest activation over the photo",
            site=layer,
        )
        for layer in ("_blocks.10", "_conv_head")
    ]
    predictions = [
        ("space shuttle", 0.6213),
        ("missile", 0.1104),
        ("academic gown", 0.0451),
        ("mask", 0.02),
        ("drum", 0.0113),
    ]
    return Explanation(
        inputs=[
            InputExplanation(
                "astronaut.jpg", photo, predictions, 'logit("space shuttle")', shown, units, trust=verdicts()
            )
        ],
        model="efficientnet-lite0",
        limits=LIMITS,
        provenance={"model": "efficientnet-lite0", "weights": "3f" * 32, "seed": 0, "seconds": 61.4},
        python='import cutaway\n\nmodel = cutaway.load("efficientnet-lite0")\nx = cutaway.data("photos/astronaut")',
        shell="cutaway explain astronaut.jpg --model efficientnet-lite0 --seed 0",
    )
