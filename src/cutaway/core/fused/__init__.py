"""Convolution, batch normalisation and activation in one pass over memory, wherever a network has them in a row."""

from cutaway.core.fused.chain import Chain
from cutaway.core.fused.fusion import Fusion, is_watched
from cutaway.core.fused.learn import Learner
from cutaway.core.fused.run import Misfit, Run

__all__ = ["Chain", "Fusion", "Learner", "Misfit", "Run", "is_watched"]
