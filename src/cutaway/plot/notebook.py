"""What a notebook shows: the picture, the checks and nothing that needs a server, a script or the network."""

import base64

from markupsafe import Markup

from cutaway.core.result import Attribution, Result, Table
from cutaway.plot import attribution, table, tokens
from cutaway.plot.drawing import describe, png_bytes

# Icon, word: a status is never told by colour alone.
STATUS = {"ok": ("✓", "ok"), "note": ("•", "note"), "warn": ("!", "careful"), "fail": ("✕", "fails")}
MOST_ROWS = 100


def html(result: Result) -> str:
    """The result as a piece of HTML; every text in it is escaped."""
    if isinstance(result, Table):
        body = _table(result)
    elif isinstance(result, Attribution) and attribution.kind_of(result) == "tokens":
        body = _text(result)
    else:
        body = _picture(result)
    heading = Markup("<strong>{}</strong>").format(result.title or type(result).__name__)
    return str(Markup('<div class="ct-result">{}{}{}</div>').format(heading, body, checks(result)))


def checks(result: Result) -> Markup:
    """The result's checks as a list: icon, word, sentence."""
    if not result.checks:
        return Markup("")
    items = [
        Markup('<li><span aria-hidden="true">{}</span> <b>{}</b> ({}): {}</li>').format(
            STATUS[check.status][0], name.replace("_", " "), STATUS[check.status][1], str(check)
        )
        for name, check in result.checks.items()
    ]
    return Markup('<ul style="list-style:none;padding-left:0">{}</ul>').format(Markup("").join(items))


def data_uri(data: bytes, kind: str = "image/png") -> str:
    """Bytes as an address that needs no file."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _text(result: Attribution) -> Markup:
    texts = [tokens.marked(result, i) for i in range(min(len(result.tokens), attribution.MOST_ROWS))]
    style = Markup("<style>{}</style>").format(Markup(tokens.css()))
    return style + tokens.legend(result) + Markup("").join(texts)


def _picture(result: Result) -> Markup:
    source = data_uri(png_bytes(result))
    return Markup('<div><img style="max-width:100%" alt="{}" src="{}"></div>').format(describe(result), source)


def _table(result: Table) -> Markup:
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(name) for name in result.columns)
    rows = [
        Markup("<tr>{}</tr>").format(Markup("").join(Markup("<td>{}</td>").format(table.cell(v)) for v in row))
        for row in result.rows[:MOST_ROWS]
    ]
    more = len(result.rows) - len(rows)
    caption = Markup("<caption>{} more rows are not shown</caption>").format(more) if more else Markup("")
    return Markup("<table>{}<thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(
        caption, head, Markup("").join(rows)
    )
