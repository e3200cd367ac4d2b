"""Every law on every method: the common ones, those it claims, and a counter-example for those it does not.

Use it on a method of your own:

    for check in check_method(my_method, samples=4):
        check()
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from cutaway.core.errors import BadOption, CutawayError
from cutaway.testing.common import IN_BOTH_PRECISIONS, ONCE
from cutaway.testing.laws import CLAIMS, SHOWN_BROKEN
from cutaway.testing.subjects import Law, Trial

PRECISIONS = (torch.float64, torch.float32)


@dataclass(frozen=True)
class Check:
    """One law on one method, ready to be run.

    Attributes:
        name: Of the law, with the floating-point type where it is run in both: `complete[float64]`.
        law: The check itself; it raises `AssertionError` where the law is broken.
        trial: The method with its options.
        broken: True if the law is expected to be broken, since the method does not claim it.
    """

    name: str
    law: Law
    trial: Trial
    broken: bool = False

    def __call__(self) -> None:
        """Run it.

        Raises:
            AssertionError: The law is broken, or is kept although it is not claimed.
        """
        if not self.broken:
            self.law(self.trial)
            return
        try:
            self.law(self.trial)
        except (AssertionError, CutawayError):
            return
        raise AssertionError(
            f"{self.trial.method.name} keeps {self.law.__name__!r} but does not claim it: add it to laws=."
        )


def check_method(method: Any, **options: Any) -> Iterator[Check]:
    """The checks of a method, by name.

    Args:
        method: A function under `@method`, its catalogue entry, or its name.
        options: Options to try it with, so that it is fast; its `quick` ones are taken anyway.

    Raises:
        BadOption: The method claims a law that does not exist.
    """
    trial = Trial.of(method, options)
    unknown = set(trial.method.laws) - CLAIMS.keys()
    if unknown:
        raise BadOption(
            f"{trial.method.name} claims {', '.join(sorted(unknown))}; expected laws out of {', '.join(CLAIMS)}."
        )
    for law in ONCE:
        yield Check(law.__name__, law, trial)
    both = [
        *IN_BOTH_PRECISIONS,
        *(CLAIMS[name] for name in trial.method.laws if name not in ("seeded", "batch_independent")),
    ]
    for law in both:
        for dtype in PRECISIONS:
            yield Check(f"{law.__name__}[{str(dtype).removeprefix('torch.')}]", law, trial.typed(dtype))
    for name in SHOWN_BROKEN if trial.explains else ():
        if name not in trial.method.laws:
            yield Check(f"breaks_{name}", CLAIMS[name], trial, broken=True)
