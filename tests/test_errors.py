"""Problems say where, what, what is allowed and what was probably meant."""

from __future__ import annotations

from windtunnel.errors import InputError, Problem, SpecError, WindtunnelError, nearest, shorten


def test_a_problem_reads_as_one_line() -> None:
    problem = Problem("unknown metric", "--slo", "ttfx_p99", "'ttfx'", "ttft, tpot, e2e", "ttft")
    assert str(problem) == (
        "--slo: ttfx_p99: unknown metric, got 'ttfx'; allowed: ttft, tpot, e2e; did you mean 'ttft'?"
    )


def test_all_problems_are_in_the_message() -> None:
    error = SpecError([Problem("one"), Problem("two", "f.yaml", "a.b")])
    assert str(error) == "one\nf.yaml: a.b: two"
    assert isinstance(error, InputError)
    assert isinstance(error, WindtunnelError)
    assert len(InputError("plain").problems) == 1


def test_nearest_ignores_case_and_gives_nothing_when_nothing_is_close() -> None:
    assert nearest("H100_SXM", ["h100-sxm", "l4"]) == "h100-sxm"
    assert nearest("zzz", ["h100-sxm", "l4"]) == ""


def test_long_values_are_shortened() -> None:
    assert len(shorten("x" * 500)) == 60
