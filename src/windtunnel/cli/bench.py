"""`windtunnel bench`: load a live engine with a workload and time every token."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from windtunnel.cli import options
from windtunnel.cli.common import DONE, INTERRUPTED, NO, command, output_problems, show, write_json
from windtunnel.cli.given import Given
from windtunnel.cli.progress import progress_bar
from windtunnel.cli.traffic import TRAFFIC, read_traffic

if TYPE_CHECKING:
    from windtunnel.live.endpoint import Endpoint
    from windtunnel.live.load import LoadSettings

KINDS = ("completions", "chat")
OWN = (
    "url", "endpoint", "served_model", "key_variable", "out", "timeout", "retries", "warmup", "salt", "token_ids",
    "reference",
)  # fmt: skip


@command
def bench(
    url: Annotated[
        str | None, typer.Option("--url", metavar="URL", help="The server, such as http://127.0.0.1:8000. Required.")
    ] = None,
    out: Annotated[
        str | None, typer.Option("--out", metavar="DIR", help="Folder for the measurement. Required.")
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", metavar="KIND", help="completions (exact lengths; default) or chat.")
    ] = None,
    served_model: Annotated[
        str | None, typer.Option("--served-model", metavar="NAME", help="Model name; default the only one served.")
    ] = None,
    trace: options.Trace = None,
    workload: options.Workload = None,
    rate: options.Rate = None,
    rate_scale: options.RateScale = None,
    limit: options.Limit = None,
    seed: options.Seed = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="S", help="A request that takes longer failed. Default 600.")
    ] = None,
    retries: Annotated[
        int | None, typer.Option("--retries", metavar="N", help="More attempts after 429, 502, 503. Default 0.")
    ] = None,
    warmup: Annotated[
        int | None, typer.Option("--warmup", metavar="N", help="Requests sent before the clock starts. Default 1.")
    ] = None,
    salt: Annotated[
        int | None,
        typer.Option("--salt", metavar="N", help="Other prompts of the same lengths, so that no cache knows them."),
    ] = None,
    token_ids: Annotated[
        str | None,
        typer.Option("--token-ids", metavar="A:B", help="Token ids that prompts are drawn from. Default 300:7999."),
    ] = None,
    key_variable: Annotated[
        str | None, typer.Option("--key-variable", metavar="NAME", help="Environment variable that holds the API key.")
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            metavar="PYTHON",
            help="The Python that ran `profile`, to measure this machine's speed before and after the load, a second "
            "each; or none. Default this Python for a server on this machine, otherwise none.",
        ),
    ] = None,
    settings: options.Settings = None,
    json_path: options.Json = None,
) -> int:
    """Replay traffic against an OpenAI-compatible server and keep the time of every token.

    Each request is sent exactly when the workload says, whatever became of earlier ones. Ctrl-C ends the run
    and keeps what was measured. The exit code is 1 when requests failed. Only the named address is talked to.
    """
    given = Given({name: value for name, value in locals().items() if name in (*OWN, *TRAFFIC)}, settings)
    given.problems += output_problems(json=json_path)
    seed = given.whole("seed", 0, 0)
    loaded = read_traffic(given, seed)
    server, load, folder = _read(given)
    about = {"workload": loaded.name if loaded else "", "seed": seed}
    warm = given.whole("warmup", 1, 0)
    python = _reference(given)
    given.check()
    assert loaded is not None
    from windtunnel.live.bench import Bench
    from windtunnel.live.bench import bench as run
    from windtunnel.live.statistics import summary
    from windtunnel.report.bench_text import bench_text

    with progress_bar() as progress:
        measured = run(Bench(loaded.table, server, load, folder, warm, about, [*loaded.notes], python), progress)
    found = summary(measured)
    show(bench_text(found, str(folder)), json_path)
    write_json(found, json_path)
    if len(measured) < len(loaded.table):
        return INTERRUPTED
    return DONE if found["answered"] == found["requests"] else NO


def _reference(given: Given) -> str | None:
    """The Python that measures this machine's speed, empty for this one; None where nobody does."""
    from windtunnel.live.endpoint import on_this_machine

    if not given.has("reference"):
        return "" if on_this_machine(given.text("url")) else None
    chosen = given.text("reference")
    if chosen == "none":
        return None
    if not os.access(chosen, os.X_OK) or Path(chosen).is_dir():
        given.wrong("reference", "is no program that can be run", "a Python with NumPy, or none")
    return chosen


def _read(given: Given) -> tuple[Endpoint, LoadSettings, Path]:
    """The endpoint, how to load it and where results go; mistakes are kept in `given`."""
    from windtunnel.live.endpoint import Endpoint, need_aiohttp, url_problem
    from windtunnel.live.load import LoadSettings
    from windtunnel.live.prompts import Vocabulary

    need_aiohttp()
    url, folder = given.text("url"), Path(given.text("out") or ".")
    if not given.has("url"):
        given.missing("url", "the address of the server")
    elif (problem := url_problem(url)) is not None:
        given.problems.append(problem)
    if not given.has("out"):
        given.missing("out", "a folder for the measurement")
    elif folder.is_file():
        given.wrong("out", "is a file, not a folder")
    elif folder.is_dir() and any(folder.iterdir()):
        given.wrong("out", "the folder is not empty, and measurements are not overwritten")
    variable = given.text("key_variable")
    if variable and not os.environ.get(variable):
        given.wrong("key_variable", "the environment variable is not set")
    kind = given.choice("endpoint", "completions", KINDS)
    vocabulary = Vocabulary()
    if given.has("token_ids"):
        first, _, last = given.text("token_ids").partition(":")
        if first.isdigit() and last.isdigit():
            with given:
                vocabulary = Vocabulary(int(first), int(last))
        else:
            given.wrong("token_ids", "must be two numbers", "FIRST:LAST")
    load = LoadSettings(
        timeout_s=given.positive("timeout") or 600.0,
        retries=given.whole("retries", 0, 0),
        vocabulary=vocabulary,
        salt=given.whole("salt", 0, 0),
    )
    key = os.environ.get(variable, "") if variable else ""
    return Endpoint(url, "chat" if kind == "chat" else "completions", given.text("served_model"), key), load, folder
