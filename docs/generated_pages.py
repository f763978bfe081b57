"""A Sphinx extension that writes the pages made from what is there: committed results and installed plugins."""

import json
from pathlib import Path

from sciml.registry import KINDS, installed
from sciml.report import HEADINGS, Report

RESULTS = "results/index.md"
PLUGINS = "reference/plugins"


def write_pages(app):
    """Write the pages anew; one whose text stays the same is left alone, so that Sphinx does not read it again."""
    source = Path(app.srcdir)
    pages = {source / RESULTS: results_page(source / "results")}
    for plugin in sorted(installed().plugins):
        pages[source / PLUGINS / f"{plugin}.md"] = plugin_page(plugin)
    for stale in set((source / PLUGINS).glob("*.md")) - set(pages):
        stale.unlink()
    for path, text in pages.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def results_page(folder: Path) -> str:
    """One section for each `<plugin>/<experiment>/<preset>/report.json` below `folder`."""
    lines = ["# Results", "", "Every number below was measured by the command that stands above it.", ""]
    found = sorted(path.parent for path in folder.glob("*/*/*/report.json"))
    if not found:
        lines += ["No result has been committed yet. `sciml run` writes its own report: see [](../first-run.md)."]
    for directory in found:
        lines += section(Report.load(directory), directory, directory.relative_to(folder))
    return "\n".join(lines) + "\n"


def section(report: Report, directory: Path, place: Path) -> list[str]:
    lines = [f"## {report.experiment}, {report.preset}", "", f"{plain(report.paper)}.", "", "```console"]
    lines += [f"$ {report.command}", "```", "", *table(*report.table()), ""]
    if compared := report.comparison():
        lines += ["Beside the published numbers:", "", *table(HEADINGS, compared), ""]
    lines += [f"- {plain(str(line))}" for line in (*report.bars, *report.notes)]
    environment = dict(report.environment)
    minutes = report.wall_time / 60
    machine = (environment.get(key, "unknown") for key in ("processor", "cores", "cuda", "platform"))
    lines += [
        "- Machine: {}, {} cores, CUDA: {}; {}.".format(*map(plain, machine)),
        f"- Commit: `{environment.get('commit', 'unknown')}`; wall time: {minutes:.1f} min.",
        "",
    ]
    for figure in sorted(directory.glob("figures/*.png")):
        caption = figure.stem.replace("-", " ")
        lines += [f"![{caption}]({(place / 'figures' / figure.name).as_posix()})", ""]
    lines += [":::{admonition} Configuration", ":class: note dropdown", "", "```json"]
    return [*lines, *json.dumps(report.config, indent=2).splitlines(), "```", ":::", ""]


def plugin_page(plugin: str) -> str:
    """What the plugin registers, and the public names of its package."""
    names = {kind: [e for e in installed().entries[kind].values() if e.distribution == plugin] for kind in KINDS}
    module = next(entry.module for entries in names.values() for entry in entries).partition(".")[0]
    lines = [f"# {plugin}", ""]
    lines += [f"- {kind}: {', '.join(f'`{e.name}`' for e in entries)}" for kind, entries in names.items() if entries]
    directive = ["", "```{eval-rst}", f".. automodule:: {module}", "   :imported-members:", "```"]
    return "\n".join([*lines, *directive]) + "\n"


def table(headings, rows) -> list[str]:
    cells = [["`" + cell + "`" if i == 0 else plain(cell) for i, cell in enumerate(row)] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in ([plain(h) for h in headings], *cells)]
    return [lines[0], "|" + "---|" * len(headings), *lines[1:]]


def plain(text: str) -> str:
    """Markdown that shows exactly `text`, also in a table."""
    for character in "\\`*_[]<>|$#{}":
        text = text.replace(character, "\\" + character)
    return text


def setup(app):
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True}
