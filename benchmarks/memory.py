"""Peak memory of gradient methods on a batch of eight images, against captum's with its own defaults.

    python benchmarks/memory.py

Each contender runs once in a process of its own, since memory that one has freed serves the next. cutaway runs as many
inputs at once as its chunk holds, whatever the number of steps or samples; captum runs all, unless it is told a size.
"""

import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable

import torch
from captum.attr import DeepLift, IntegratedGradients, NoiseTunnel, Saliency

import cutaway as ct
from cutaway.attribution.deeplift import deeplift
from cutaway.attribution.expected import expected_gradients
from cutaway.attribution.gradient import gradient
from cutaway.attribution.noise import smoothgrad, vargrad
from cutaway.attribution.path import integrated_gradients
from harness import _forget_peak, _memory, save
from separate import separate

warnings.filterwarnings("ignore", message=".*(hooks|gradients)")
net = separate()
model = ct.Model(net, ct.images(112), name="resnet18")
x = torch.rand(8, 3, 112, 112, generator=torch.Generator().manual_seed(0))
target, steps, samples = 5, 50, 25


def integrated(**options: int) -> torch.Tensor:
    return IntegratedGradients(net).attribute(x.clone(), target=target, n_steps=steps, **options).detach()


def tunnel(kind: str, **options: int) -> torch.Tensor:
    settings = {"nt_type": kind, "nt_samples": samples, "stdevs": 0.15, "target": target, "abs": False, **options}
    return NoiseTunnel(Saliency(net)).attribute(x.clone().requires_grad_(), **settings).detach()


# By case: the contenders, and the least correlation of their answers with the first one's.
CASES: dict[str, tuple[float, dict[str, Callable[[], torch.Tensor]]]] = {
    "one gradient": (
        0.999,
        {
            "captum Saliency": lambda: Saliency(net).attribute(x.clone().requires_grad_(), target=target, abs=False),
            "cutaway gradient": lambda: gradient(model, x, target).values,
        },
    ),
    "integrated gradients, 50 steps": (
        0.99,
        {
            "captum IntegratedGradients": integrated,
            "captum, internal_batch_size=8": lambda: integrated(internal_batch_size=8),
            "cutaway integrated_gradients": lambda: (
                integrated_gradients(model, x, target, tol=0.0, max_steps=steps).values
            ),
        },
    ),
    "smoothgrad, 25 samples": (
        0.9,
        {
            "captum NoiseTunnel": lambda: tunnel("smoothgrad"),
            "captum, nt_samples_batch_size=1": lambda: tunnel("smoothgrad", nt_samples_batch_size=1),
            "cutaway smoothgrad": lambda: smoothgrad(model, x, target, samples=samples).values,
        },
    ),
    "vargrad, 25 samples": (
        0.8,
        {
            "captum NoiseTunnel": lambda: tunnel("vargrad"),
            "cutaway vargrad": lambda: vargrad(model, x, target, samples=samples).values,
        },
    ),
    "expected gradients, 50 samples": (
        0.0,
        {"cutaway expected_gradients": lambda: expected_gradients(model, x, target, samples=steps).values},
    ),
    "deeplift": (
        0.999,
        {
            "captum DeepLift": lambda: DeepLift(net).attribute(x.clone().requires_grad_(), target=target),
            "cutaway deeplift": lambda: deeplift(model, x, target).values,
        },
    ),
}


def alone(case: str, name: str) -> None:
    """In a process of its own: run one contender and print what it took."""
    _forget_peak()
    before, started = _memory("VmRSS"), time.process_time()
    answer = CASES[case][1][name]().detach()
    seconds, peak = time.process_time() - started, _memory("VmHWM") - before
    # A thousand entries are enough to tell whether two maps are one.
    print(json.dumps({"seconds": seconds, "peak_mib": peak, "answer": answer.flatten()[::301].tolist()}))


def compared() -> dict[str, dict[str, dict[str, float]]]:
    """All contenders, one after the other."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for case, (least, contenders) in CASES.items():
        print(f"\n{case}\n  {'':36}{'seconds':>9}{'peak MiB':>10}")
        answers = []
        for name in contenders:
            told = subprocess.run([sys.executable, __file__, case, name], capture_output=True, text=True, check=True)
            figures = json.loads(told.stdout.splitlines()[-1])
            answers.append(torch.tensor(figures.pop("answer")))
            found.setdefault(case, {})[name] = {k: round(v, 2) for k, v in figures.items()}
            print(f"  {name:36}{figures['seconds']:9.2f}{figures['peak_mib']:10.0f}")
            alike = float(torch.corrcoef(torch.stack([answers[0], answers[-1]]))[0, 1])
            assert alike >= least, f"{name} gives another map: correlation {alike:.3f}"
    return found


if __name__ == "__main__":
    if len(sys.argv) == 3:
        alone(*sys.argv[1:])
    else:
        figures = compared()
        case = figures["integrated gradients, 50 steps"]
        share = case["cutaway integrated_gradients"]["peak_mib"] / case["captum IntegratedGradients"]["peak_mib"]
        print(f"\nintegrated gradients: {share:.3f} of captum's peak")
        assert share < 0.6
        save(__file__, figures)
