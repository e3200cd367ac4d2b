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
WORD_METHODS = (
    "leave_one_out", "erasure", "smallest_flip", "lime", "exact_shapley", "permutation_shapley", "l_shapley",
    "c_shapley", "owen_shapley", "contextual_decomposition", "first_derivative", "variance_saliency",
)  # fmt: skip


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
    _beside("relevance", {rule: ("lrp", {"rule": rule}) for rule in ("epsilon", "epsilon_plus", "epsilon_gamma_box")})


def coarse_maps() -> None:
    """All maps from the last layer with positions on one photo."""
    names = ("cam", "grad_cam", "grad_cam_plus_plus", "layer_cam", "score_cam", "guided_grad_cam")
    _beside("coarse_maps", {name: (name, {"most": 200} if name == "score_cam" else {}) for name in names})


def slopes() -> None:
    """Maps from gradients at shaken inputs, and from references of noise."""
    names = ("gradient", "smoothgrad", "smoothgrad_squared", "vargrad", "expected_gradients")
    _beside("slopes", {name: (name, {}) for name in names}, colours=64, dpi=90)


def whole_photo_maps() -> None:
    """Maps that sum to the change from a baseline, or come from hiding parts."""
    names = ("integrated_gradients", "occlusion", "rise")
    _beside("whole_photo_maps", {name: (name, {}) for name in names}, colours=64, dpi=90)


def backward_passes() -> None:
    """Maps of one backward pass each."""
    names = ("gradient", "input_x_gradient", "guided_backprop", "deconvnet")
    _beside("backward_passes", {name: (name, {}) for name in names}, colours=64, dpi=90)


def words() -> None:
    """One sentence by all methods whose parts are words: a line for each, in shares of its largest value."""
    import torch
    from matplotlib.figure import Figure

    import cutaway as ct

    model, text = ct.load("sentiment-lstm"), "the film was not very good , but the cast is great"
    lines, opinion = {}, "logit(1) - logit(0)"
    for name in WORD_METHODS:
        why = ct.run(name, model, text, target="logprob(1)" if name == "erasure" else opinion)
        values = why.values[0]
        each = values if values.ndim == 1 else values.sum(-1)
        lines[name] = (each / each.abs().max()).tolist()
    figure = Figure(figsize=(6.4, 3.3))
    axes = figure.add_subplot()
    axes.imshow(torch.tensor(list(lines.values())), cmap="RdBu_r", vmin=-1.3, vmax=1.3, aspect="auto")
    axes.set_xticks(range(len(text.split())), text.split(), fontsize=8)
    axes.set_yticks(range(len(lines)), [name.replace("_", " ") for name in lines], fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.subplots_adjust(left=0.27, right=0.995, bottom=0.08, top=0.99)
    _small(figure, "words.png")


def _beside(name: str, runs: dict[str, tuple[str, dict[str, Any]]], colours: int = 128, dpi: int = 110) -> None:
    """A photo and its maps by several methods, red for the class and blue against it."""
    from matplotlib.figure import Figure

    import cutaway as ct

    model, x = ct.load("efficientnet-lite0"), ct.data("photos/chelsea").x
    count = len(runs) + 1
    figure = Figure(figsize=(1.25 * count, 1.4))
    for place, (title, (method, options)) in enumerate(runs.items()):
        values = ct.run(method, model, x, target="tiger cat", **options).values[0]
        values = values.sum(0) if values.ndim == 3 else values
        edge = float(values.abs().flatten().kthvalue(max(int(0.99 * values.numel()), 1)).values)
        axes = figure.add_subplot(1, count, place + 2)
        axes.imshow(values, cmap="RdBu_r", vmin=-edge, vmax=edge)
        axes.set_title(title, fontsize=7)
        axes.set_axis_off()
    axes = figure.add_subplot(1, count, 1)
    axes.imshow(x[0].permute(1, 2, 0).numpy())
    axes.set_axis_off()
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.02, top=0.88, wspace=0.04)
    _small(figure, f"{name}.png", dpi=dpi, colours=colours)


def meaningful_perturbation() -> None:
    """What has to be hidden for a shape to be gone."""
    _drawn("meaningful_perturbation", "shapes-cnn", "shapes/test[0:1]")


def decomposition_interaction() -> None:
    """What words have in pairs, by parts of the opinion."""
    _pairs("decomposition_interaction")


def integrated_hessians() -> None:
    """What words have in pairs, by second derivatives."""
    _pairs("integrated_hessians")


def _pairs(method: str) -> None:
    import cutaway as ct

    text = "the film was not very good , but the cast is great"
    _result(ct.run(method, "sentiment-lstm", text, target="logit(1) - logit(0)"), f"{method}.png")


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


def attention_adversarial_training() -> None:
    """Networks trained again beside two originals, for the page of the method; about six minutes."""
    import math

    import cutaway as ct
    from cutaway.core.budget import limits

    for kind in ("average", "lstm"):
        with limits(forwards=math.inf):
            found = ct.run("attention_adversarial_training", f"sentiment-{kind}", "sst2/dev")
        with ct.plot.style.themed("light"):
            _small(ct.plot.draw(found), f"attention_adversarial_training_{kind}.png", dpi=80, colours=64)


def _sentences(method: str) -> None:
    import cutaway as ct

    found = ct.run(method, "sentiment-lstm", ct.data("sst2/dev").x)
    with ct.plot.style.themed("light"):
        _small(ct.plot.draw(found), f"{method}.png", dpi=80, colours=64)


def visualize() -> None:
    """Units from early to late, a class, and four unlike pictures of one unit, for the page of the method."""
    import torch

    import cutaway as ct

    model = ct.load("efficientnet-lite0")
    units = "[" + ", ".join(f'unit("_blocks.{k}")' for k in ("1:5", "4:16", "9:45")) + ', logit("volcano")]'
    first = ct.run("visualize", model, objective=units)
    unlike = ct.run("visualize", model, objective='unit("_blocks.6:7")', copies=4, diversity=1.0)
    captions = ["block 1, unit 5", "block 4, unit 16", "block 9, unit 45", "logit of volcano"]
    _strip(torch.cat([first.images, unlike.images]), [*captions, *["block 6, unit 7"] * 4], "visualize")


def deep_dream() -> None:
    """One photo, dreamt on by three layers, for the page of the method."""
    layers = ("_blocks.2", "_blocks.6", "_blocks.9")
    _of_chelsea("deep_dream", [{"objective": f'energy("{layer}")'} for layer in layers], layers)


def invert() -> None:
    """One photo from the activations of three layers, for the page of the method."""
    layers = ("_blocks.2", "_blocks.6", "_blocks.10")
    _of_chelsea("invert", [{"layer": layer} for layer in layers], layers)


def caricature() -> None:
    """One photo overdone by three layers, for the page of the method."""
    layers = ("_blocks.2", "_blocks.6", "_blocks.10")
    _of_chelsea("caricature", [{"layer": layer} for layer in layers], layers)


def unit_pictures() -> None:
    """Four units of a small network, three pictures of each."""
    from dataclasses import replace

    import cutaway as ct

    data = "shapes/test[0:400]"
    found = ct.run(
        "unit_pictures", "shapes-cnn", data, site="relu4", k=3, quantile=0.95, categories="shape;texture", resolution=48
    )
    shown = replace(
        found, title="", images=found.images[:12], captions=found.captions[:12], headings=found.headings[:4]
    )
    _small(ct.plot(shown), "unit_pictures.png", dpi=70, colours=96)


def activation_atlas() -> None:
    """Takes some minutes."""
    from PIL import Image

    import cutaway as ct

    made: Any = ct.run(
        "activation_atlas", "efficientnet-lite0", "imagenet-samples", layer="_blocks.10", levels=1, steps=96
    )
    picture = Image.fromarray((made.images[0].movedim(0, -1) * 255).byte().numpy())
    picture.resize((448, 448), Image.Resampling.LANCZOS).quantize(64).save(IMAGES / "activation_atlas.png")


def _of_chelsea(method: str, options: list[dict[str, Any]], names: tuple[str, ...]) -> None:
    import torch

    import cutaway as ct

    model = ct.load("efficientnet-lite0")
    x = ct.data("photos/chelsea", space=model.space).x
    made = [ct.run(method, model, x, **given).images for given in options]
    _strip(
        torch.cat([x, *made]), ["the photo", *(name.lstrip("_").replace("blocks.", "block ") for name in names)], method
    )


def _strip(images: Any, captions: list[str], name: str) -> None:
    """Pictures four to a line, small."""
    import cutaway as ct
    from cutaway.core.result import Pictures

    with ct.plot.style.themed("light"):
        figure = ct.plot.draw(Pictures(title=name.replace("_", " "), images=images.float(), captions=captions))
        _small(figure, f"{name}.png", dpi=70, colours=64 if len(images) <= 4 else 24)


def semantic_dictionary() -> None:
    """Four positions of a shape and their channels, with icons."""
    _drawn("semantic_dictionary", "shapes-cnn", "shapes/test[0:1]", layer="relu4", places=3, icons=128)


def activation_grid() -> None:
    """The grid of a middle layer."""
    _drawn("activation_grid", "efficientnet-lite0", "photos/chelsea", layer="_blocks.10", steps=96)


def activation_groups() -> None:
    """A photo in six groups with icons."""
    options = {"layer": "_blocks.10", "target": "tiger cat", "icons": 128}
    _drawn("activation_groups", "efficientnet-lite0", "photos/chelsea", **options)


def spatial_attribution() -> None:
    """Positions of a middle layer that speak for a class."""
    _drawn("spatial_attribution", "efficientnet-lite0", "photos/chelsea", layer="_blocks.10", target="tiger cat")


def top_patches() -> None:
    """Patches and patterns of three units."""
    options = {"layer": "relu3", "units": ("1", "30", "31"), "k": 3}
    _drawn("top_patches", "shapes-cnn", "shapes/test[0:500]", **options)


def filters() -> None:
    """The first filters of a real network."""
    _drawn("filters", "efficientnet-lite0", "photos/chelsea")


def _drawn(method: str, model: str, x: str, **options: Any) -> None:
    """The drawing of a result, small; with more colours the fewer pixels, so that scales keep theirs."""
    import cutaway as ct

    result = ct.run(method, model, x, **options)
    dpi, colours = (60, 192) if method in ("spatial_attribution", "meaningful_perturbation") else (66, 96)
    with ct.plot.style.themed("light"):
        _small(ct.plot.draw(result), f"{method}.png", dpi=dpi, colours=colours)


def pixel_flipping() -> None:
    """Falls over regions flipped, eight pictures of shapes."""
    import cutaway as ct

    x = ct.data("shapes/test[0:8]")
    _result(ct.run("pixel_flipping", "shapes-cnn", x, "integrated_gradients", fills="blur"), "pixel_flipping.png")


def deletion() -> None:
    """A photo goes, cell by cell."""
    import cutaway as ct

    found = ct.run("deletion", "efficientnet-lite0", "photos/chelsea", "integrated_gradients", fills="zero")
    _result(found, "deletion.png")


def insertion() -> None:
    """A photo comes back, cell by cell."""
    import cutaway as ct

    _result(ct.run("insertion", "efficientnet-lite0", "photos/chelsea", "grad_cam", fills="blur"), "insertion.png")


def parameter_randomization() -> None:
    """A map that hardly notices random weights."""
    import cutaway as ct

    x = ct.data("shapes/test[0:8]")
    _result(ct.run("parameter_randomization", "shapes-cnn", x, "guided_backprop"), "parameter_randomization.png")


def agreement() -> None:
    """Six methods, each with each."""
    import cutaway as ct

    methods = "gradient;input_x_gradient;integrated_gradients;smoothgrad;guided_backprop;grad_cam"
    _result(ct.run("agreement", "shapes-cnn", ct.data("shapes/test[0:8]"), methods=methods), "agreement.png")


def disagreement() -> None:
    """Where four methods differ in one picture."""
    import cutaway as ct

    _result(ct.run("disagreement", "shapes-cnn", "shapes/test[0]"), "disagreement.png")


def trust() -> None:
    """The table of verdicts as the page of `cutaway explain` has it, by a browser."""
    import cutaway as ct
    from cutaway.report import Explanation, compose, write_explanation

    model, x = ct.load("shapes-cnn"), ct.data("shapes/test[3]")
    done = [one for one, _ in compose.inputs(model, x, compose.chosen(None))]
    with tempfile.TemporaryDirectory() as folder:
        page = write_explanation(Explanation(inputs=done, model=model.name), Path(folder) / "why.html")
        # Only the table is wanted; the page's own policy would refuse the rule that hides the rest.
        hide = "<style>header,footer,section:not([aria-labelledby$=-table]){display:none!important}</style></head>"
        html = re.sub(r"<meta http-equiv=[^>]*>", "", page.read_text("utf-8")).replace("</head>", hide, 1)
        page.write_text(html, "utf-8")
        _of_a_page(page, (1240, 1400), 32, "trust.png")


def microscope() -> None:
    """The page of one unit, as `cutaway microscope` makes it, by a browser."""
    import cutaway as ct
    from cutaway.report.microscope import microscope as site

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "units"
        site(ct.load("shapes-cnn"), ct.data("shapes/test[0:500]"), out, layers=["relu3"], units="30", k=3)
        _of_a_page(out / "relu3" / "00030.html", (1080, 820), 128, "microscope.png")


def _of_a_page(page: Path, size: tuple[int, int], colours: int, name: str) -> None:
    """What a browser shows of a page, without the margins."""
    import subprocess

    from PIL import Image, ImageChops

    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        flags = f"--headless --no-sandbox --disable-gpu --hide-scrollbars --window-size={size[0]},{size[1]}"
        command = ["chromium", *flags.split(), f"--user-data-dir={folder}/profile", f"--screenshot={shot}"]
        subprocess.run([*command, page.as_uri()], check=True, capture_output=True, timeout=90)
        with Image.open(shot) as whole:
            picture = whole.convert("RGB")
            ground = Image.new("RGB", picture.size, picture.getpixel((0, 0)))
            left, top, right, bottom = ImageChops.difference(picture, ground).getbbox() or (0, 0, *picture.size)
            width, height = picture.size
            part = picture.crop((max(left - 8, 0), max(top - 8, 0), min(right + 8, width), min(bottom + 8, height)))
            part.quantize(colours).save(IMAGES / name, optimize=True)


def fragility_top_k() -> None:
    """A picture and its map, before an attack and after it."""
    from matplotlib.figure import Figure

    import cutaway as ct

    model, x = ct.load("shapes-cnn"), ct.data("shapes/test[3]").x
    found = ct.run("fragility_top_k", model, x, "gradient")
    figure = Figure(figsize=(5.6, 1.6))
    for place, (name, picture) in enumerate({"picture": x, "attacked": found.extra["attacked"]}.items()):
        sizes = ct.run("gradient", model, picture).values[0].sum(0).abs()
        axes = [figure.add_subplot(1, 4, k + 1) for k in (place, place + 2)]
        axes[0].imshow(picture[0].permute(1, 2, 0).numpy())
        axes[1].imshow(sizes, cmap="Greys", vmax=float(sizes.quantile(0.99)))
        for one, title in zip(axes, (name, f"map of the {name}" if not place else "map after"), strict=True):
            one.set_title(title, fontsize=8)
            one.set_axis_off()
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.02, top=0.86, wspace=0.06)
    _small(figure, "fragility_top_k.png")


# Tests whose result is drawn as it comes: the network, its examples, the map that is tested, and options.
EVIDENCE: dict[str, tuple[str, str, str | None, dict[str, Any]]] = {
    "stability": ("shapes-cnn", "shapes/test[0:8]", "gradient", {}),
    "max_sensitivity": ("shapes-cnn", "shapes/test[0:8]", "gradient", {}),
    "sensitivity_n": ("shapes-cnn", "shapes/test[0:8]", "integrated_gradients", {}),
    "infidelity": ("shapes-cnn", "shapes/test[0:8]", "gradient", {}),
    "pointing_game": ("shapes-cnn", "shapes/test[0:16]", "grad_cam", {}),
    "energy_in_region": ("shapes-cnn", "shapes/test[0:16]", "grad_cam", {}),
    "completeness": ("shapes-cnn", "shapes/test[0:8]", "integrated_gradients", {}),
    "word_deletion": ("sentiment-lstm", "sst2/dev", "leave_one_out", {}),
    "attention_correlation": ("sentiment-lstm", "sst2/dev", None, {}),
    "attention_uniform": ("sentiment-lstm", "sst2/dev", None, {}),
}


def evidence() -> None:
    """Each test on a map of a small network, for the page of the test."""
    import cutaway as ct

    for name, (model, data, attribution, options) in EVIDENCE.items():
        x = ct.data(data)
        some = x.x[:60] if data.startswith("sst2") else x
        more = {} if attribution is None else {"attribution": attribution}
        _result(ct.run(name, model, some, **more, **options), f"{name}.png")


def rotation_test() -> None:
    """Detectors of a small network's units, and of rotated ones."""
    import cutaway as ct

    options = {"site": "relu3", "quantile": 0.95, "resolution": 48, "steps": 4}
    _result(ct.run("rotation_test", "shapes-cnn", "shapes/test[0:400]", **options), "rotation_test.png")


def compositional_explanation() -> None:
    """IoU by the length of formulas, of a small network's units and after their answers were dealt out."""
    from matplotlib.figure import Figure

    import cutaway as ct

    options = {"site": "relu3", "quantile": 0.95, "resolution": 48}
    found = ct.run("compositional_explanation", "shapes-cnn", "shapes/test[0:400]", **options)
    with ct.plot.style.themed("light"):
        figure = Figure(figsize=(4.2, 2.6), layout="constrained")
        axes = figure.add_subplot()
        for name, label, colour in (("iou", "the units", "C0"), ("shuffled", "dealt out to other pictures", "0.6")):
            by_length = found.extra[name]
            lengths = range(1, by_length.shape[1] + 1)
            axes.plot(lengths, by_length.T, color=colour, alpha=0.15, linewidth=0.7)
            axes.plot(lengths, by_length.mean(0), color=colour, marker="o", label=label)
        axes.set(xlabel="concepts in the formula, at most", ylabel="IoU", xticks=lengths, ylim=(0, None))
        axes.legend(frameon=False, fontsize=8)
        _small(figure, "compositional_explanation.png", dpi=90, colours=64)


def _result(result: Any, name: str, dpi: int = 75) -> None:
    import cutaway as ct

    with ct.plot.style.themed("light"):
        _small(ct.plot.draw(result), name, dpi=dpi, colours=64)


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
        coarse_maps,
        slopes,
        backward_passes,
        whole_photo_maps,
        words,
        meaningful_perturbation,
        decomposition_interaction,
        integrated_hessians,
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
        attention_adversarial_training,
        visualize,
        deep_dream,
        invert,
        caricature,
        semantic_dictionary,
        activation_grid,
        activation_groups,
        spatial_attribution,
        top_patches,
        filters,
        activation_atlas,
        unit_pictures,
        pixel_flipping,
        deletion,
        insertion,
        parameter_randomization,
        agreement,
        disagreement,
        fragility_top_k,
        evidence,
        trust,
        microscope,
        rotation_test,
        compositional_explanation,
    )
}

if __name__ == "__main__":
    for name in sys.argv[1:] or PICTURES:
        PICTURES[name]()
