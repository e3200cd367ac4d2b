"""The papers behind the methods, by the key that `@method(paper=...)` names."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from pybtex.database import Entry, Person, parse_string
from pybtex.richtext import Text

from cutaway.core.errors import NotPossible, unknown_name


@dataclass(frozen=True)
class Paper:
    """Where an idea was published.

    Attributes:
        key: As in references.bib: first author and year.
        authors: Full names, in the paper's order.
        title: As printed, without TeX.
        year: Of publication.
        url: Where it can be read freely.
    """

    key: str
    authors: tuple[str, ...]
    title: str
    year: int
    url: str

    @property
    def short(self) -> str:
        """The citation in running text: "Petsiuk et al. 2018"."""
        names = [author.split()[-1] for author in self.authors]
        who = f"{names[0]} et al." if len(names) > 2 else " and ".join(names)
        return f"{who} {self.year}"

    @property
    def citation(self) -> str:
        """The citation in full, for a list of papers."""
        return f"{', '.join(self.authors)}. {self.title}. {self.year}. {self.url}"

    def as_json(self) -> dict[str, object]:
        """The paper as data, for the catalogue and the report."""
        return {"key": self.key, "authors": list(self.authors), "title": self.title, "year": self.year, "url": self.url}


@cache
def papers() -> Mapping[str, Paper]:
    """Every entry of references.bib by its key."""
    source = files("cutaway.core").joinpath("references.bib").read_text(encoding="utf-8")
    entries = parse_string(source, "bibtex").entries
    return {key: _paper(key, entry) for key, entry in entries.items()}


def paper(key: str) -> Paper:
    """The entry of that key."""
    try:
        return papers()[key]
    except KeyError:
        raise unknown_name("paper", key, papers(), "All are in cutaway/core/references.bib.") from None


def _paper(key: str, entry: Entry) -> Paper:
    missing = {"title", "year", "url"} - set(entry.fields) | ({"author"} - set(entry.persons))
    if missing:
        raise NotPossible(f"expected author, title, year and url for {key!r} in references.bib; no {sorted(missing)}.")
    title = str(Text.from_latex(entry.fields["title"]))
    authors = tuple(_full_name(person) for person in entry.persons["author"])
    return Paper(key, authors, title, int(entry.fields["year"]), entry.fields["url"])


def _full_name(person: Person) -> str:
    return " ".join([*person.first_names, *person.middle_names, *person.prelast_names, *person.last_names])
