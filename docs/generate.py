"""Write the reference pages from the specs' own schema and the catalogue; `--check` only compares."""

from __future__ import annotations

import sys
from pathlib import Path

from windtunnel.specs import load
from windtunnel.specs.schema import SCHEMAS, reference_markdown

DOCS = Path(__file__).parent


def catalogue_page() -> str:
    """Every catalogue name, by kind."""
    lines = [
        "# The catalogue",
        "",
        "Generated from the packaged data. `windtunnel catalogue KIND NAME` shows an entry",
        "with its sources.",
        "",
    ]
    for kind in load.KINDS:
        entries = load.names(kind)
        lines += [f"## {kind} ({len(entries)})", ""]
        for name in entries:
            title = getattr(load.resolve(kind, name), "title", "")
            lines.append(f"- `{name}`" + (f": {title}" if title else ""))
        lines.append("")
    return "\n".join(lines)


def pages() -> dict[Path, str]:
    """Every generated page and its text."""
    found = {DOCS / "reference" / f"{kind}.md": reference_markdown(kind) for kind in SCHEMAS}
    found[DOCS / "reference" / "catalogue.md"] = catalogue_page()
    return found


def main(check: bool) -> int:
    """Write the pages, or with `check` list those that differ; returns the exit code."""
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if check:
            print(f"out of date: {path.relative_to(DOCS.parent)}; run `make docs`")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(pages()[path], encoding="utf-8")
            print(f"wrote {path.relative_to(DOCS.parent)}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
