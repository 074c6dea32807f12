"""BatchLLM's global view: which requests share a prefix, and in which order the groups are served."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from windtunnel.workload.table import RequestTable


@dataclass(slots=True)
class _Node:
    """A prefix: `tokens` long, shared by the requests in `rows` (those that end here) and below."""

    tokens: int
    rows: list[int] = field(default_factory=list)
    children: dict[tuple[int, int], _Node] = field(default_factory=dict)
    count: int = 0
    saved: int = 0
    kept: bool = False


def prefix_groups(workload: RequestTable) -> npt.NDArray[np.float64]:
    """Rank of every request when groups that share a prefix are served one after another.

    The requests' segments form a tree. One level of prefixes is kept, chosen by dynamic
    programming to save the most prompt tokens: a node either is the common prefix of everything
    below it, which saves its tokens for all but one, or leaves the choice to its children. Groups
    are ordered by output per computed prompt token, the largest first (BatchLLM,
    arXiv:2412.03594, sections 4.1 and 5.1), requests within a group by row.
    """
    groups = _groups(workload) if workload.shares_prefixes else [(0, [i]) for i in range(len(workload))]
    prompt, output = workload.prompt_tokens, workload.output_tokens

    def heaviness(group: tuple[int, list[int]]) -> float:
        shared, rows = group
        computed = int(prompt[rows].sum()) - shared * (len(rows) - 1)
        return float(output[rows].sum()) / max(computed, 1)

    rank = np.zeros(len(workload))
    at = 0
    for _, rows in sorted(groups, key=lambda group: (-heaviness(group), group[1][0])):
        for i in sorted(rows):
            rank[i] = at
            at += 1
    return rank


def _groups(workload: RequestTable) -> list[tuple[int, list[int]]]:
    """Groups as (shared tokens, rows)."""
    root = _Node(0)
    order = [root]
    for i in range(len(workload)):
        node = root
        node.count += 1
        for s in range(workload.segment_offset[i], workload.segment_offset[i + 1]):
            piece = (int(workload.segment_id[s]), int(workload.segment_tokens[s]))
            if piece not in node.children:
                node.children[piece] = _Node(node.tokens + piece[1])
                order.append(node.children[piece])
            node = node.children[piece]
            node.count += 1
        node.rows.append(i)
    for node in reversed(order):  # children before parents
        below = sum(child.saved for child in node.children.values())
        node.saved = node.tokens * (node.count - 1)
        node.kept = node.saved >= below and node.tokens > 0
        node.saved = max(node.saved, below)
    found: list[tuple[int, list[int]]] = []
    stack = [root]
    while stack:
        node = stack.pop()
        if node.kept:
            found.append((node.tokens, _rows_below(node)))
        else:
            found.extend((0, [i]) for i in node.rows)
            stack.extend(node.children.values())
    return found


def _rows_below(node: _Node) -> list[int]:
    rows, stack = [], [node]
    while stack:
        one = stack.pop()
        rows += one.rows
        stack.extend(one.children.values())
    return rows
