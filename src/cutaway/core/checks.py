"""Sentences about a result that carry their own verdict and number."""

from collections.abc import Mapping
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
        interval: Where that number lies with some confidence, if that is known; what it covers is in the sentence.
    """

    status: Status
    value: float | None
    interval: tuple[float, float] | None

    def __new__(
        cls,
        sentence: str,
        status: Status = "ok",
        value: float | None = None,
        interval: tuple[float, float] | None = None,
    ) -> "Check":
        """A check from its sentence."""
        check = super().__new__(cls, sentence)
        check.status = status
        check.value = value
        check.interval = interval
        return check

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep what goes with the sentence through copying."""
        return (Check, (str(self), self.status, self.value, self.interval))

    def as_json(self) -> dict[str, Any]:
        """The check as data; without an interval there is no entry for one."""
        data: dict[str, Any] = {"text": str(self), "status": self.status, "value": self.value}
        return data if self.interval is None else data | {"interval": list(self.interval)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Check":
        """The inverse of `as_json`."""
        ends = data.get("interval")
        return cls(data["text"], data["status"], data["value"], (ends[0], ends[1]) if ends else None)
