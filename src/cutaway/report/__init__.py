"""Results as one HTML file that needs no network, with the same content as JSON and the pictures beside it.

`write` makes a section per result; `write_explanation` makes the page of `cutaway explain`. Both write `NAME.html`,
`NAME.json` and the folder `NAME_pictures`. Every name, label and sentence from outside is escaped, and the page's own
policy forbids everything but its one style sheet, its one script and pictures inside it.
"""

from cutaway.core.callable import make_callable
from cutaway.report.explain import write_explanation
from cutaway.report.explanation import Explanation, InputExplanation, MapExplanation
from cutaway.report.listing import write

__all__ = ["Explanation", "InputExplanation", "MapExplanation", "write", "write_explanation"]

make_callable(__name__, write)
