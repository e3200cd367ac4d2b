"""Makes the pictures of README and pages: `python docs/images/make.py [NAME ...]`, all of them without a name."""

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"


def chelsea() -> None:
    """The README's picture, by running the README's own Python."""
    code = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)[0]
    with tempfile.TemporaryDirectory() as folder:
        before = Path.cwd()
        os.chdir(folder)
        exec(compile(code, "README.md", "exec"), {})
        shutil.copy("why.png", IMAGES / "chelsea.png")
        os.chdir(before)


def refutation() -> None:
    """Two boards: a position of four in a row, and the line that refutes a move in it."""
    from matplotlib.figure import Figure

    import cutaway as ct
    from cutaway.attribution.games import InARow

    why = ct.run("move_contrast", "gomoku", "moves:c3 a1 c4", target='logit("c2") - logit("f6")')
    game, (shown, *_, line) = InARow(6, 6, 4), why.rows[0]
    figure = Figure(figsize=(6.4, 3.3))
    state = game.read("c3 a1 c4")
    assert game.show(state) == shown
    for place, played in enumerate(([], line.split()[:2])):
        axes = figure.add_subplot(1, 2, place + 1, aspect="equal", xlim=(-0.6, 5.6), ylim=(-0.6, 5.6))
        axes.set(xticks=range(6), xticklabels=list("abcdef"), yticks=range(6), yticklabels=range(1, 7))
        axes.grid(color="0.85")
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        title = f"1 {played[0]}? 2 {played[1]}, and x cannot be stopped" if played else "o to move: why c2 and not f6?"
        axes.set_title(title, fontsize=9)
        after, numbers = state, {}
        for number, name in enumerate(played, start=1):
            numbers[game.names.index(name)] = number
            after = game.play(after, game.names.index(name))
        for cell, mark in enumerate("".join(reversed(game.show(after).split("/")))):
            if mark != ".":
                colours = {"facecolor": "0.15" if mark == "x" else "white", "edgecolor": "0.15"}
                axes.scatter(cell % 6, cell // 6, s=230, zorder=2, **colours)
                label = numbers.get(cell, mark)
                style = {"ha": "center", "va": "center", "color": "white" if mark == "x" else "0.15", "fontsize": 9}
                axes.text(cell % 6, cell // 6 - 0.02, label, **style)
        for cell in game.threats(after) if played else []:
            axes.scatter(cell % 6, cell // 6, s=90, marker="x", color="#c0392b", zorder=2)
    figure.tight_layout()
    figure.savefig(IMAGES / "refutation.png", dpi=110)


def tree_of_words() -> None:
    """The tree of a sentence, for its method's page."""
    import cutaway as ct

    text = "the film was not very good , but the cast is great"
    why = ct.run("agglomerative_decomposition", "sentiment-lstm", text, target="logit(1) - logit(0)")
    ct.plot.png(why, IMAGES / "tree_of_words.png", dpi=90)


def tree_of_regions() -> None:
    """The tree of a shape, for its method's page."""
    import cutaway as ct

    image, options = ct.data("shapes/test")[:1], {"features": "superpixels:30", "target": "circle"}
    why = ct.run("agglomerative_decomposition", "shapes-cnn", image, **options)
    ct.plot.png(why, IMAGES / "tree_of_regions.png", dpi=80)


def relevance() -> None:
    """Three rules of LRP on one photo."""
    from matplotlib.figure import Figure

    import cutaway as ct

    model, x = ct.load("efficientnet-lite0"), ct.data("photos/chelsea").x
    figure = Figure(figsize=(5.0, 1.4))
    for place, rule in enumerate(("epsilon", "epsilon_plus", "epsilon_gamma_box")):
        values = ct.run("lrp", model, x, target="tiger cat", rule=rule).values[0].sum(0)
        edge = float(values.abs().flatten().kthvalue(int(0.99 * values.numel())).values)
        axes = figure.add_subplot(1, 4, place + 2)
        axes.imshow(values, cmap="RdBu_r", vmin=-edge, vmax=edge)
        axes.set_title(rule, fontsize=7)
        axes.set_axis_off()
    axes = figure.add_subplot(1, 4, 1)
    axes.imshow(x[0].permute(1, 2, 0).numpy())
    axes.set_axis_off()
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.02, top=0.88, wspace=0.04)
    _small(figure, "relevance.png")


def marked_text() -> None:
    """A marked sentence, for the page about text."""
    import cutaway as ct

    text = "A gripping, funny film, but the ending is a mess."
    why = ct.run("integrated_gradients", "sentiment-lstm", text, target="positive")
    ct.plot.png(why, IMAGES / "marked_text.png", dpi=80)


def waterfall() -> None:
    """The steps of a row, for the page about tables; fetches its data."""
    import cutaway as ct

    why = ct.run("integrated_gradients", "what-if-compas", "what-if-compas[3]", target="high risk")
    ct.plot.png(why, IMAGES / "waterfall.png", dpi=80)


def extremal() -> None:
    """What six masks of growing area leave of a photo, with the score of each."""
    from matplotlib.figure import Figure

    import cutaway as ct
    from cutaway.attribution.veil import blurring

    model, x = ct.load("efficientnet-lite0"), ct.data("photos/chelsea").x
    found = ct.run("extremal_perturbation", model, x, target="tiger cat")
    masks, scores = found.extra["masks"][0], found.extra["scores"][0]
    pictures = blurring(model, x)(masks[:, None])
    figure = Figure(figsize=(7.2, 1.6))
    for place, (picture, area, score) in enumerate(zip(pictures, found.extra["areas"][0], scores, strict=True)):
        axes = figure.add_subplot(1, 6, place + 1)
        axes.imshow(picture.permute(1, 2, 0).numpy())
        axes.set_title(f"{float(area):.0%}: {float(score):.1f}", fontsize=8)
        axes.set_axis_off()
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.02, top=0.86, wspace=0.06)
    _small(figure, "extremal.png")


def inversion() -> None:
    """A photo, an image with the same activation, and one with the same activation in the channels kept."""
    from matplotlib.figure import Figure

    import cutaway as ct

    model, x = ct.load("efficientnet-lite0"), ct.data("photos/chelsea").x
    found = ct.run("extremal_channels", model, x, target="tiger cat", layer="_blocks.10", invert=150)
    figure = Figure(figsize=(4.6, 1.75))
    named = {"photo": x, "all 112 channels": found.extra["whole"], "40 % of them": found.extra["kept"]}
    for place, (name, picture) in enumerate(named.items()):
        axes = figure.add_subplot(1, 3, place + 1)
        axes.imshow(picture[0].permute(1, 2, 0).numpy())
        axes.set_title(name, fontsize=8)
        axes.set_axis_off()
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.02, top=0.88, wspace=0.06)
    _small(figure, "inversion.png")


def kernel_shapley() -> None:
    """Sixteen cells of a photo, for the page of the method."""
    import cutaway as ct

    why = ct.run("kernel_shapley", "efficientnet-lite0", "photos/chelsea", target="tiger cat", features="cells:4")
    with ct.plot.style.themed("light"):
        _small(ct.plot.draw(why), "kernel_shapley.png", dpi=75, colours=256)


def interaction() -> None:
    """Pairs of words as arcs and as a matrix."""
    import cutaway as ct

    text, options = "the plot is thin , but the acting is not bad", {"fill": "pad", "target": "positive"}
    why = ct.run("shapley_interaction", "sentiment-lstm", text, **options)
    with ct.plot.style.themed("light"):
        _small(ct.plot.draw(why), "interaction.png", dpi=80, colours=256)


def deeplift() -> None:
    """A photo's map from a blurred baseline, for the page of the method."""
    import cutaway as ct

    why = ct.run("deeplift", "efficientnet-lite0", "photos/chelsea", target="tiger cat", baseline="blur:10")
    with ct.plot.style.themed("light"):
        _small(ct.plot.draw(why), "deeplift.png", dpi=70, colours=128)


def attention_permutation() -> None:
    """Each sentence under shuffled attention, for the page of the method."""
    _sentences("attention_permutation")


def attention_adversary() -> None:
    """Each sentence's farthest attention with the same output, for the page of the method."""
    _sentences("attention_adversary")


def _sentences(method: str) -> None:
    import cutaway as ct

    found = ct.run(method, "sentiment-lstm", ct.data("sst2/dev").x)
    with ct.plot.style.themed("light"):
        _small(ct.plot.draw(found), f"{method}.png", dpi=80, colours=64)


def _small(figure: Any, name: str, dpi: int = 110, colours: int = 128) -> None:
    """A figure with photos as a PNG of few colours, which is a third of the size."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        figure.savefig(f"{folder}/large.png", dpi=dpi)
        with Image.open(f"{folder}/large.png") as large:
            large.convert("RGB").quantize(colours).save(IMAGES / name, optimize=True)


PICTURES = {
    f.__name__: f
    for f in (
        relevance,
        marked_text,
        waterfall,
        chelsea,
        refutation,
        tree_of_words,
        tree_of_regions,
        extremal,
        inversion,
        kernel_shapley,
        interaction,
        deeplift,
        attention_permutation,
        attention_adversary,
    )
}

if __name__ == "__main__":
    for name in sys.argv[1:] or PICTURES:
        PICTURES[name]()
