"""The catalogue as text and as plain values: a list per kind with its key figures, one entry in full."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from windtunnel.errors import Problem, SpecError, nearest
from windtunnel.report import technique_pages
from windtunnel.report.json import plain, to_json
from windtunnel.report.text import number, paragraph, table
from windtunnel.serving.policies import PolicyInfo, policies
from windtunnel.specs import load
from windtunnel.specs.engine import EngineSpec
from windtunnel.specs.fields import Spec
from windtunnel.specs.hardware import AcceleratorSpec, FabricSpec, NodeSpec, PriceSpec
from windtunnel.specs.model import ModelSpec
from windtunnel.specs.prices import price_table
from windtunnel.specs.workload import WorkloadSpec
from windtunnel.units import format_bytes, format_seconds, format_si

if TYPE_CHECKING:
    from windtunnel.evidence.reproduce import Entry

Row = tuple[str, ...]


def _model(spec: ModelSpec) -> Row:
    total, active = spec.parameters(), spec.active_parameters()
    return (
        number(total / 1e9) + "B",
        "" if active == total else number(active / 1e9) + "B",
        str(spec.layers),
        f"{spec.heads}/{'MLA' if spec.latent else spec.kv_heads}",
        number(spec.kv_bytes_per_token(2.0) / 1024),
        f"{spec.max_context_tokens:,}",
    )


def _accelerator(spec: AcceleratorSpec) -> Row:
    peak = spec.peak_flops_per_s
    return (
        number(spec.memory_bytes / 2**30),
        f"{spec.memory_bandwidth_bytes_per_s / 1e12:.3g}",
        number(next((peak[d] for d in ("bf16", "fp16", "fp32") if d in peak), float("nan")) / 1e12),
        number(next((peak[d] for d in ("fp8", "int8") if d in peak), float("nan")) / 1e12),
        spec.scale_up or spec.host_link,
        f"{spec.max_w:.0f}",
    )


def _node(spec: NodeSpec) -> Row:
    network = f"{spec.nics} x {spec.nic_bytes_per_s * 8 / 1e9:.0f} Gb" if spec.nics else "none"
    return (str(spec.accelerators), spec.topology, network, spec.fabric)


def _fabric(spec: FabricSpec) -> Row:
    return (spec.scope, f"{spec.bytes_per_s / 1e9:.4g}", format_seconds(spec.latency_s), f"{spec.efficiency:.0%}")


def _engine(spec: EngineSpec) -> Row:
    return (
        spec.version,
        spec.scheduler,
        str(spec.max_num_seqs),
        f"{spec.max_num_batched_tokens:,}",
        str(spec.block_size),
        format_seconds(spec.step_host_s),
    )


def _workload(spec: WorkloadSpec) -> Row:
    arrivals = spec.arrivals
    rate = "" if arrivals.kind in ("closed", "at_once") else f"{arrivals.rate_per_s:.3g}"
    return (f"{spec.requests:,}", arrivals.kind, rate, _length(spec.prompt), _length(spec.output))


def _length(length: Any) -> str:
    if length.kind == "fixed":
        return str(length.tokens)
    if length.kind == "lognormal":
        return f"~{length.median_tokens:.0f}"
    middle = min(range(len(length.levels)), key=lambda i: abs(length.levels[i] - 0.5))
    return f"~{length.tokens[middle]:.0f}"


_COLUMNS: dict[str, tuple[Row, str, Callable[[Any], Row]]] = {
    "models": (("size", "active", "layers", "heads", "KV KiB", "context"), "<>>>>>>", _model),
    "accelerators": (("GiB", "TB/s", "TF16", "TF8", "link", "W"), "<>>>><>", _accelerator),
    "nodes": (("size", "topology", "network", "fabric"), "<><<<", _node),
    "fabrics": (("scope", "GB/s", "latency", "efficiency"), "<<>>>", _fabric),
    "engines": (("version", "scheduler", "seqs", "tokens", "block", "host/step"), "<<<>>>>", _engine),
    "workloads": (("requests", "arrivals", "req/s", "prompt", "output"), "<><>>>", _workload),
}
_LEGEND = {
    "models": "size: parameters. active: those a token passes through, where there are experts. heads: query/KV. "
    "KV KiB: cache of one token at 16 bits.",
    "accelerators": "TF16, TF8: dense peak at 16 and 8 bits, TFLOP/s. GiB as software sees it.",
    "nodes": "size: accelerators in the server. network: cards and their rate.",
    "fabrics": "GB/s per port and direction; efficiency: share of it that large messages reach.",
    "workloads": "prompt, output: tokens, ~ marks a median.",
}


def _known(kind: str) -> str:
    """The catalogue's name for a kind, singular and capitals forgiven."""
    folded = kind.casefold()
    names = (*load.KINDS, "prices", "policies", "techniques", "papers")
    for name in names:
        if folded in (name, name.removesuffix("s"), name.replace("ies", "y")):
            return name
    raise SpecError(Problem("unknown kind", "catalogue", "", repr(kind), ", ".join(names), nearest(kind, names)))


def kinds() -> dict[str, int]:
    """How many entries each kind has."""
    return {
        **{kind: len(load.names(kind)) for kind in load.KINDS},
        "prices": len(prices()),
        "policies": len(policies()),
        "techniques": len(technique_pages.technique_records()),
        "papers": technique_pages.paper_count(),
    }


def kinds_text() -> str:
    """The kinds and how many entries each has."""
    rows = [(kind, str(count), f"windtunnel catalogue {kind}") for kind, count in kinds().items()]
    return table(("kind", "entries", "list with"), rows, "<><")


def specs(kind: str) -> dict[str, Spec]:
    """Every entry of a kind, by name."""
    return {name: load.resolve(kind, name) for name in load.names(kind)}


def entries(kind: str) -> list[Any]:
    """Every entry of a kind as plain values."""
    kind = _known(kind)
    if kind == "prices":
        return [plain(price) for price in prices()]
    if kind == "policies":
        return [plain(policy) for policy in policies()]
    if kind == "techniques":
        return technique_pages.technique_records()
    if kind == "papers":
        return [plain(paper) for paper in _papers()]
    return [entry(kind, name) for name in load.names(kind)]


def entries_text(kind: str) -> str:
    """The entries of a kind as a table of key figures."""
    kind = _known(kind)
    if kind == "prices":
        return _prices_text()
    if kind == "policies":
        return _policies_text()
    if kind == "techniques":
        return technique_pages.techniques_text()
    if kind == "papers":
        return _papers_text()
    header, align, figures = _COLUMNS[kind]
    rows = [(name, *figures(spec)) for name, spec in specs(kind).items()]
    text = table(("name", *header), rows, align)
    return f"{text}\n\n{paragraph(_LEGEND[kind])}" if kind in _LEGEND else text


def entry(kind: str, name: str) -> dict[str, Any]:
    """One entry as plain values, with what follows from them."""
    kind = _known(kind)
    if kind == "prices":
        return {"accelerator": name, "prices": [plain(price) for price in _prices_of(name)]}
    if kind == "techniques":
        return technique_pages.technique_record(technique_pages.technique_of(name))
    if kind == "papers":
        return _paper(name)
    if kind == "policies":
        return {"name": name, "policies": [plain(policy) for policy in _policies_of(name)]}
    spec = load.load(kind, name, "catalogue")
    value: dict[str, Any] = plain(spec)
    if isinstance(spec, ModelSpec):
        value["parameters"] = spec.parameters()
        value["active_parameters"] = spec.active_parameters()
        value["kv_bytes_per_token_16_bit"] = spec.kv_bytes_per_token(2.0)
    return value


def entry_text(kind: str, name: str) -> str:
    """One entry in full: every field with its value, then its sources."""
    kind = _known(kind)
    if kind == "prices":
        return _prices_text(name)
    if kind == "policies":
        return _policy_text(name)
    if kind == "techniques":
        return technique_pages.technique_text(name)
    if kind == "papers":
        return to_json(_paper(name)).rstrip()
    value = entry(kind, name)
    sources = value.pop("sources", None) or []
    title = value.pop("title", "") or value["name"]
    rows = [(key, _shown(key, item)) for key, item in _flat(value) if item not in (None, "", [])]
    width = max(len(key) for key, _ in rows)
    lines = [title, "", *(paragraph(item, 0, f"{key:{width}}  ") for key, item in rows)]
    if sources:
        lines += ["", "Sources"]
    for source in sources:
        said = f"{source['kind']}: {source['source']}"
        said += f", {source['date']}" if source["date"] else ""
        said += f" ({', '.join(source['fields'])})" if source["fields"] else ""
        lines.append(paragraph(said, 2, "- "))
        if source["url"]:
            lines.append(f"    {source['url']}")
    return "\n".join(lines)


def _flat(value: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, item in value.items():
        if isinstance(item, dict):
            found += _flat(item, f"{prefix}{key}.")
        else:
            found.append((prefix + key, item))
    return found


def _shown(key: str, value: Any) -> str:
    """A field's value in the unit that its name's suffix says."""
    if isinstance(value, list):
        text = ", ".join(str(item) for item in value)
        return text if len(text) <= 200 else f"{len(value)} values, {value[0]} to {value[-1]}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if key.endswith("flops_per_s") or ".flops_per_s" in key or key.startswith("peak_flops_per_s"):
        return format_si(value, "FLOP/s")
    if key.endswith("bytes_per_s"):
        return format_si(value, "B/s")
    if "bytes" in key:
        return format_bytes(value)
    if key.endswith("_hz"):
        return format_si(value, "Hz")
    if key.endswith("_per_s"):
        return f"{value:.4g} per second"
    if key.endswith("_s"):
        return format_seconds(value) if value else "0 s"
    if key.endswith("_w"):
        return f"{value:g} W"
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"


def prices() -> list[PriceSpec]:
    """Every packaged price."""
    return [price for price, _ in price_table()]


def _prices_of(accelerator: str) -> list[PriceSpec]:
    name = load.resolve("accelerators", accelerator, "catalogue prices").name
    return [price for price in prices() if price.accelerator == name]


def _prices_text(accelerator: str = "") -> str:
    shown = _prices_of(accelerator) if accelerator else prices()
    rows = [(p.accelerator, f"{p.usd_per_h:.2f}", p.provider, p.region, p.date) for p in shown]
    text = table(("accelerator", "$/h", "provider", "region", "date"), rows, "<><<<")
    return f"{text}\n\n{paragraph('US dollars per accelerator and hour, on demand; --price NAME=USD overrides them.')}"


def _papers() -> tuple[Entry, ...]:
    """Papers with an experiment; what runs them is imported only when they are asked for."""
    from windtunnel.evidence.reproduce import entries

    return entries()


def _papers_text() -> str:
    from windtunnel.report.gallery_text import listing_text

    return f"{listing_text(_papers())}\n\nRun them with `windtunnel reproduce ID`."


def _paper(name: str) -> dict[str, Any]:
    from windtunnel.evidence.reproduce import find, in_full

    value: dict[str, Any] = plain(in_full(find([name])[0]))
    return value


def _policies_of(name: str) -> list[PolicyInfo]:
    """The policies of this name (a router and a scheduler may share one)."""
    found = [policy for policy in policies() if policy.name == name.casefold()]
    if not found:
        names = tuple(dict.fromkeys(policy.name for policy in policies()))
        raise SpecError(Problem("unknown policy", "catalogue", "", repr(name), ", ".join(names), nearest(name, names)))
    return found


def _policies_text() -> str:
    lines: list[str] = []
    width = max(len(policy.name) for policy in policies())
    for kind, title in (("scheduler", "Schedulers"), ("router", "Routers"), ("eviction", "Orders of eviction")):
        lines += [title, ""]
        lines += [paragraph(p.summary, 2, f"{p.name:{width}}  ") for p in policies() if p.kind == kind]
        lines.append("")
    lines.append(paragraph("Set them as an engine's scheduler and eviction, and by --router."))
    return "\n".join(lines)


def _policy_text(name: str) -> str:
    return "\n\n".join(
        "\n".join((f"{p.title} ({p.kind})", "", paragraph(p.summary), paragraph(f"Source: {p.source}")))
        for p in _policies_of(name)
    )


def schema(kind: str) -> dict[str, Any]:
    """The JSON Schema of a kind."""
    from windtunnel.specs.schema import json_schema

    return json_schema(kind)
