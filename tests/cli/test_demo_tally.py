"""The demo's verdict: converged only when every node holds exactly what was saved, with equal values."""

from __future__ import annotations

from mynosql.cli.demo_tally import Tally

SAVED = {"a": "1", "b": "2", "c": "3"}


def tally(**sides: dict[str, str]) -> Tally:
    whole = {"logger": dict(SAVED), "mirror": dict(SAVED), "reader": dict(SAVED), **sides}
    return Tally(saved=dict(SAVED), sides=whole, raw_bytes=1_000, disk_bytes=250)


def test_equal_sides_have_converged() -> None:
    found = tally()
    assert found.is_converged
    assert (found.lost, found.delivered) == (0, 3)
    assert "converged: all 3 records are equal on logger, mirror, reader" in found.report()


def test_a_record_that_is_missing_on_one_side_is_lost() -> None:
    found = tally(mirror={"a": "1", "b": "2"})
    assert not found.is_converged
    assert (found.lost, found.delivered) == (1, 2)
    assert any("NOT converged: the mirror lacks" in line and "c" in line for line in found.report())


def test_a_record_with_other_values_is_lost() -> None:
    found = tally(reader={"a": "1", "b": "x", "c": "3"})
    assert (found.lost, found.is_converged) == (1, False)


def test_a_record_missing_on_two_sides_is_counted_once() -> None:
    assert tally(mirror={"a": "1", "b": "2"}, reader={"a": "1", "b": "2"}).lost == 1


def test_a_record_that_nobody_saved_is_found() -> None:
    found = tally(reader={**SAVED, "ghost": "9"})
    assert not found.is_converged
    assert any("holds what nobody saved: ghost" in line for line in found.report())


def test_a_problem_without_a_lost_record_is_no_convergence() -> None:
    found = tally()
    found.problems.append("this did not hold: an offline reader tells held from not held")
    assert not found.is_converged
    assert any("did not hold" in line for line in found.report())


def test_nothing_saved_or_nothing_compared_is_no_convergence() -> None:
    assert not Tally().is_converged
    nothing_compared = Tally(saved=dict(SAVED))
    assert not nothing_compared.is_converged
    assert nothing_compared.lost == 3
    assert "NOT converged: nothing was compared" in nothing_compared.report()


def test_many_findings_are_shortened() -> None:
    saved = {f"reading/{n}": "x" for n in range(1_000)}
    text = "\n".join(Tally(saved=saved, sides={"mirror": {}}).report())
    assert "and 995 more" in text
    assert len(text) < 2_000


def test_the_report_has_the_figures() -> None:
    found = tally()
    found.queued_while_cut, found.queued_while_dead, found.wire_bytes = 801, 412, 182_400
    text = "\n".join(found.report())
    for shown in ("801", "412", "182.4 kB", "250 B", "1.0 kB, 4.0 times"):
        assert shown in text
