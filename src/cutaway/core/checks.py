"""Sentences about a result that carry their own verdict and number."""

from typing import Any, Literal

Status = Literal["ok", "note", "warn", "fail"]


def shortest(number: float) -> str:
    """A number as the shortest text that reads back to it: 0.5, 5, 0.123456789."""
    short = f"{number:g}"
    return short if float(short) == number else repr(number)


class Check(str):
    """A plain sentence, with a status and the number behind it.

    Attributes:
        status: `ok` (as it should be), `note` (worth knowing), `warn` (read with care), `fail` (do not rely on it).
        value: The measured number, if there is one.
    """

    status: Status
    value: float | None

    def __new__(cls, sentence: str, status: Status = "ok", value: float | None = None) -> "Check":
        """A check from its sentence."""
        check = super().__new__(cls, sentence)
        check.status = status
        check.value = value
        return check

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep status and value through copying."""
        return (Check, (str(self), self.status, self.value))
