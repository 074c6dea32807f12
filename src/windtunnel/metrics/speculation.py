"""What speculative decoding did in a run: how much was accepted, and what drafting took."""

from __future__ import annotations

from windtunnel.serving.result import Simulation


def speculation_figures(simulation: Simulation) -> dict[str, float]:
    """The figures of a run with drafts, by name.

    - `draft_acceptance`: drafted tokens accepted over those verified; nan when none were.
    - `tokens_per_round`: tokens that a request gained in a step that verified drafts, its own included.
    - `drafted_share`: share of the requests' steps that verified drafts.
    - `drafting_share`: time of drafting over the time of all steps; may exceed 1 where it goes on beside the target.
    - `drafted_tokens`, `accepted_tokens`: how many tokens.
    """
    drafted, accepted = int(simulation.drafted.sum()), int(simulation.accepted.sum())
    rounds, with_drafts = int(simulation.rounds.sum()), int(simulation.draft_rounds.sum())
    busy_s = float(simulation.busy_s.sum())
    nan = float("nan")
    return {
        "draft_acceptance": accepted / drafted if drafted else nan,
        "tokens_per_round": 1.0 + accepted / with_drafts if with_drafts else nan,
        "drafted_share": with_drafts / rounds if rounds else nan,
        "drafting_share": float(simulation.drafting_s.sum()) / busy_s if busy_s else nan,
        "drafted_tokens": float(drafted),
        "accepted_tokens": float(accepted),
    }
