import pytest

from cutaway.core.result import Result

from .cases import CASES, HOSTILE, ODD, results


@pytest.fixture(params=CASES)
def plain(request) -> Result:
    return results(["first", "second", "third"])[request.param]


@pytest.fixture(params=CASES)
def hostile(request) -> Result:
    return results(HOSTILE)[request.param]


@pytest.fixture(
    params=ODD,
    ids=lambda result: f"{type(result).__name__}{[list(array.shape) for array in result.arrays().values()][:1]}",
)
def odd(request) -> Result:
    return request.param
