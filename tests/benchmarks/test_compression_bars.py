import factories
import pytest

from benchmarks import compression


def made(name, seeds=1, **figures):
    """A student as the benchmark has it: 2 times as fast, a third of the bytes, 84% right where its teacher has 85%."""
    report = {**factories.compression_report().model_dump(mode="json"), **figures}
    return [{"student": name, "seed": seed, "figures": report} for seed in range(seeds)]


@pytest.mark.parametrize(
    ("name", "figures", "told"),
    [
        ("layers", {}, [("accuracy -0.0100, at least -0.01", True), ("2.00 times the examples a second, at", True)]),
        ("layers", {"faster": 1.79}, [("accuracy -0.0100", True), ("1.79 times the examples a second, at", False)]),
        ("static", {}, [("accuracy -0.0100, at least -0.06", True), ("2.00 times the examples a second, at", False)]),
        ("vocabulary", {}, [("accuracy -0.0100, at least -0.00", False), ("33.3% of the bytes, at most 60%", True)]),
        ("int8", {"same": 0.994}, [("33.3% of the bytes, at most 30%", False), ("99.40% of the rows keep", False)]),
    ],
)
def test_a_students_figures_stand_beside_its_bars(name, figures, told):
    bars = compression.bars(name, made(name, seeds=2, **figures))
    assert [holds for _, holds in bars] == [holds for _, holds in told]
    for (text, _), (start, _) in zip(bars, told, strict=True):
        assert text.startswith(start)


def test_a_student_of_a_seed_is_a_line():
    expected = "layers     seed 0  accuracy 0.8500 to 0.8400: -0.0100 ("
    assert compression.line(made("layers")[0]).startswith(expected)
