"""RISE: how well two halves of the masks agree, by the paper's formula and by cutaway's, on real photos.

The paper's formula gets 2,000 masks; the question is with how many masks the adjusted estimate agrees as well.
"""

import time

import cutaway as ct
from cutaway.attribution.masks import rise
from harness import save

PAPER, OURS = 2000, (100, 150, 200, 300, 400)
PHOTOS = ("chelsea", "coffee", "rocket")

model = ct.load("efficientnet-lite0")
found = {}
for name in PHOTOS:
    x = ct.data(f"photos/{name}").x
    predicted = int(model.predict(x).argmax())
    started = time.process_time()
    plain = rise(model, x, predicted, masks=PAPER, agreement=1, estimate="paper").checks["agreement"].value
    seconds = time.process_time() - started
    print(f"\n{name}, class {model.class_name(predicted)}, 224 x 224: rank correlation of the maps from two halves")
    print(f"  the paper's formula  {PAPER:5} masks {plain:7.3f} {seconds:7.1f} s of CPU")
    found[name] = {"paper": {"masks": PAPER, "halves": plain, "seconds": round(seconds, 1)}}
    for masks in OURS:
        started = time.process_time()
        ours = rise(model, x, predicted, masks=masks, agreement=1).checks["agreement"].value
        seconds = time.process_time() - started
        print(f"  adjusted             {masks:5} masks {ours:7.3f} {seconds:7.1f} s of CPU")
        found[name][f"adjusted {masks}"] = {"masks": masks, "halves": ours, "seconds": round(seconds, 1)}
    assert ours >= plain, f"{name}: {OURS[-1]} adjusted masks reach {ours:.3f}, not {plain:.3f}"
save(__file__, found)
