from collections.abc import Callable

import pytest
import torch

from cutaway.core.checks import Check
from cutaway.core.result import Attribution, Provenance


@pytest.fixture
def make() -> Callable[..., Attribution]:
    """Makes small results whose making differs by seed."""

    def attribution(seed: int = 0, scale: float = 1.0, **made: str) -> Attribution:
        provenance = Provenance(
            method="gradient",
            options={"wrt": "input", "steps": 8},
            model="tiny",
            model_fingerprint="ab" * 32,
            input_fingerprint="cd" * 32,
            target="logit(0)",
            seed=seed,
            versions={"cutaway": "0.1"},
            created=f"2026-01-01T00:00:{seed:02d}Z",
        )
        return Attribution(
            title="Gradient",
            values=scale * torch.arange(12, dtype=torch.float64).view(1, 3, 2, 2).transpose(2, 3),
            target="logit(0)",
            extra={"b": torch.ones(2), "a": torch.zeros(0)},
            checks={
                "finite": Check("all 12 values are finite", "ok", 12.0),
                "gap": Check("large", "warn", float("nan")),
            },
            provenance=Provenance(**{**provenance.__dict__, **made}),
        )

    return attribution
