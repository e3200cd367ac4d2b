"""A report on any list of results."""

from collections.abc import Iterable
from pathlib import Path

from cutaway.core.errors import BadOption
from cutaway.core.result import Result
from cutaway.report import data, files, page, views


def write(
    results: Result | Iterable[Result], path: str | Path, *, title: str = "", intro: str = "", overwrite: bool = False
) -> Path:
    """Write a section per result.

    Args:
        results: Results of any shape, in the order of the page.
        path: The HTML file, or a folder in which `report.html` is made.
        title: Of the page.
        intro: A paragraph under the title.
        overwrite: Replace files that are there already, also if cutaway did not write them.

    Returns:
        The path of the HTML file. It is written last, so where it stands, the other files do too.
    """
    results = [results] if isinstance(results, Result) else list(results)
    for result in results:
        if not isinstance(result, Result):
            raise BadOption(f"expected results as cutaway.run returns them; got {type(result).__name__}.")
    title = title or (results[0].title if len(results) == 1 else f"Report on {len(results)} results") or "Report"
    sections = [views.section(result, i + 1) for i, result in enumerate(results)]
    content = data.content(title, results=results)
    inside = data.inside_html(content)
    html = page.render("report.html", title=title, intro=intro, sections=sections, data=inside, lang="en")
    pictures = {
        f"{i + 1:02d}-{files.slug(s['title'])}": result
        for i, (s, result) in enumerate(zip(sections, results, strict=True))
    }
    return files.write(path, html, data.to_json(content), pictures, overwrite=overwrite)
