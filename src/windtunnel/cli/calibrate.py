"""`windtunnel calibrate`: fit the cost model to measured kernels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from windtunnel.cli import options
from windtunnel.cli.common import DONE, command, output_problems, show, write_json

if TYPE_CHECKING:
    from windtunnel.cost.calibration.run import Calibration


@command
def calibrate(
    tables: Annotated[str, typer.Argument(metavar="TABLES_DIR", help="Measured tables, one folder per system.")],
    accelerators: Annotated[
        list[str] | None, typer.Argument(metavar="[ACCELERATOR]...", help="Only these. Default: all in the folder.")
    ] = None,
    out: Annotated[
        str | None, typer.Option("--out", metavar="DIR", help="Write the catalogue's entries there. Default: nowhere.")
    ] = None,
    date: Annotated[
        str | None, typer.Option("--date", metavar="YYYY-MM", help="Date of the entries. Required with --out.")
    ] = None,
    json_path: options.Json = None,
) -> int:
    """Fit each device's few constants to tables of measured kernels.

    The folder is `systems/data` of the package aiconfigurator-core, or one laid out alike. Half of the shapes at most
    are fitted, errors are of the others. Tables in a wrong unit, with negative or contradicting times, unknown columns
    or another device's name are refused.
    """
    from windtunnel.errors import InputError, Problem

    problems = output_problems(json=json_path)
    if not Path(tables).is_dir():
        problems.append(Problem("no such folder", tables))
    if out is not None and not Path(out).is_dir():
        problems.append(Problem("no such folder", "--out", got=out))
    if out is not None and not date:
        problems.append(Problem("is missing: the entries say when they were fitted", "--date"))
    if problems:
        raise InputError(problems)
    from windtunnel.cost.calibration.run import across, calibrate_folder, write

    found = calibrate_folder(Path(tables), accelerators or ())
    bands, _ = across(found)
    written = [str(path) for path in write(found, Path(out), date or "")] if out is not None else []
    rows = [row for name, one in found.items() for row in _rows(name, one)]
    show(_text(rows, written), json_path)
    record = {"format": "windtunnel-calibrate-1", "fits": rows, "across_devices": bands, "written": written}
    write_json(record, json_path)
    return DONE


def _rows(name: str, found: Calibration) -> list[dict[str, Any]]:
    return [
        {
            "accelerator": name,
            "operators": kind,
            "samples": one.samples,
            "median_error": one.median_error,
            "p90_error": one.p90_error,
            "bias": one.bias,
            "interval80": {"low": one.interval[0], "high": one.interval[1]},
            "source": found.origins[kind],
        }
        for kind, one in found.fits.items()
    ]


def _text(rows: list[dict[str, Any]], written: list[str]) -> str:
    from windtunnel.report.text import table

    cells = [
        (
            row["accelerator"],
            row["operators"],
            f"{row['samples']:,}",
            f"{row['median_error']:.1%}",
            f"{row['p90_error']:.1%}",
            f"{row['bias']:+.1%}",
            row["source"],
        )
        for row in rows
    ]
    header = ("accelerator", "operators", "samples", "median", "p90", "bias", "source")
    said = ["Errors on shapes that no fit has seen, predicted over measured:", table(header, cells, "<<>>>><")]
    if written:
        said.append("\n".join(["Written:", *(f"  {path}" for path in written)]))
    return "\n\n".join(said)
