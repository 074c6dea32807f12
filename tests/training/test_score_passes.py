from __future__ import annotations

import pytest

from windtunnel.operators.training import attention, score_passes


def moved(*, backward: bool, flash: bool, **flags: bool) -> float:
    found = attention(
        4096.0,
        4096.0 * 2048,
        4096.0,
        q_heads=12.0,
        kv_heads=12.0,
        head_dim=64,
        v_head_dim=64,
        backward=backward,
        flash=flash,
        passes=score_passes(backward=backward, **flags),
    )
    return float(found.moved_bytes)


@pytest.mark.parametrize("backward", [False, True])
def test_scores_move_more_the_less_is_fused(backward: bool) -> None:
    flash = moved(backward=backward, flash=True)
    fused = moved(backward=backward, flash=False)
    dropped = moved(backward=backward, flash=False, dropout=True)
    plain = moved(backward=backward, flash=False, dropout=True, fused=False)
    assert flash < fused < dropped < plain
    # The whole square of 16-bit scores, as often as is said.
    square = 12 * 2 * 4096 * 2048 * 2
    assert fused - flash == pytest.approx(square * score_passes(backward=backward))
    assert dropped - fused == pytest.approx(square * 2.5)
