"""Classes by number and by name."""

from collections.abc import Sequence

from cutaway.core.errors import BadOption, unknown_name


def class_index(name: int | str, classes: Sequence[str] | None, width: int | None, model: str) -> int:
    """The output column of a class.

    Args:
        name: A number, a class name, or one of the synonyms that a name lists after commas; upper and lower case alike.
        classes: The names, if the model has them.
        width: Number of columns, once the output has been seen.
        model: Name of the model, for messages.

    Raises:
        UnknownName: No class of that name.
        BadOption: A number outside the columns, or a name that several classes share.
    """
    count = width if width is not None else len(classes) if classes else None
    if isinstance(name, int):
        if name < 0 or (count is not None and name >= count):
            valid = f"0 to {count - 1}" if count is not None else "0 up"
            raise BadOption(f"expected a class of {model} from {valid}; got {name}.")
        return name
    if not classes:
        raise unknown_name("class", name, [], f"{model} has no class names; give a number, or classes=[...] to Model.")
    wanted = name.strip().lower()
    for match in (lambda c: c.lower() == wanted, lambda c: wanted in [s.strip().lower() for s in c.split(",")]):
        found = [i for i, c in enumerate(classes) if match(c)]
        if len(found) == 1:
            return found[0]
        if found:
            raise BadOption(f"{name!r} names {len(found)} classes of {model}: {found[:5]}; give the number.")
    raise unknown_name("class", name, classes, f"{model} has {len(classes)} classes.")
