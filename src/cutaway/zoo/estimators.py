"""A scikit-learn estimator as a `Model`: it can be run, and has no gradient and no layers to look into.

Only estimators in memory: a file of one is a pickle, a program that runs when it is read.
"""

from collections.abc import Sequence
from typing import Any

import joblib
import numpy as np
import torch
from torch import Tensor, nn

from cutaway.core.errors import BadOption, BadShape, NotPossible
from cutaway.core.model import Model
from cutaway.core.space import rows
from cutaway.core.trace import ScoreKind


class BlackBox(nn.Module):
    """An estimator behind a forward. Asked for a gradient, it refuses by name."""

    def __init__(self, estimator: Any, scores: ScoreKind) -> None:
        super().__init__()
        self.kind = type(estimator).__name__
        self._call = _predictor(estimator, scores)
        # Trees compare with float64 thresholds: float32 inputs could fall on the other side.
        self.register_buffer("precision", torch.zeros((), dtype=torch.float64))
        # The estimator's content, for the model's fingerprint.
        content = bytes.fromhex(joblib.hash(estimator, hash_name="sha1"))
        self.register_buffer("content", torch.tensor(list(content), dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        """Scores (n, classes), or (n, 1) for a regressor."""
        if x.requires_grad:
            raise NotPossible(
                f"{self.kind} is a black box without gradients; use a method that only runs it: occlusion, rise, "
                "insertion, deletion."
            )
        answer = np.asarray(self._call(x.detach().cpu().numpy()), dtype=np.float64)
        return torch.from_numpy(answer.reshape(len(x), -1).copy()).to(x.device)


def estimator_model(
    estimator: Any, *, columns: int | Sequence[str] | None = None, classes: Sequence[str] | None = None, name: str = ""
) -> Model:
    """A fitted classifier or regressor over rows of numbers.

    Args:
        estimator: Has `predict_proba`, `decision_function` or `predict`, the first of these is used.
        columns: Their names, or how many; the estimator's own by default.
        classes: Class names; the estimator's own by default.
        name: What to call it.
    """
    count = getattr(estimator, "n_features_in_", None)
    if count is None:
        raise BadOption(
            f"expected a fitted scikit-learn estimator; this {type(estimator).__name__} has not seen data yet."
        )
    own = getattr(estimator, "feature_names_in_", None)
    space = rows(_columns(columns, count, own))
    scores: ScoreKind = "probabilities" if hasattr(estimator, "predict_proba") else "values"
    found = getattr(estimator, "classes_", None)
    if classes is None and found is not None and (scores == "probabilities" or len(found) > 2):
        classes = [str(label) for label in found]
    model = Model(
        BlackBox(estimator, scores), space, classes=classes, name=name or type(estimator).__name__, scores=scores
    )
    model.notes.append("a scikit-learn estimator: a black box without gradients and layers")
    return model


def is_estimator(thing: Any) -> bool:
    """True for a scikit-learn classifier, regressor or pipeline, without importing scikit-learn."""
    return hasattr(thing, "predict") and hasattr(thing, "get_params") and not isinstance(thing, nn.Module)


def _columns(columns: int | Sequence[str] | None, count: int, own: Any) -> int | list[str]:
    wanted = columns if columns is not None else own if own is not None else count
    given = wanted if isinstance(wanted, int) else len(wanted)
    if given != count:
        raise BadShape(f"expected {count} columns, as the estimator was fitted on; got {given}.")
    return wanted if isinstance(wanted, int) else [str(column) for column in wanted]


def _predictor(estimator: Any, scores: ScoreKind) -> Any:
    if scores == "probabilities":
        method = estimator.predict_proba
    else:
        method = getattr(estimator, "decision_function", None) or estimator.predict
    own = getattr(estimator, "feature_names_in_", None)
    if own is None:
        return method
    # Fitted on a data frame, it wants one again, and warns about arrays.
    try:
        import pandas  # type: ignore[import-untyped]  # never a dependency, so its stubs are none either
    except ImportError:
        return method
    return lambda values: method(pandas.DataFrame(values, columns=own))
