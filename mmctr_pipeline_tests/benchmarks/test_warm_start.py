"""The benchmark of warm starts says when training from scratch should be the default."""

from benchmarks.warm_start import faults


def test_a_warm_start_is_a_good_default_if_it_is_not_worse_and_four_times_as_fast() -> None:
    assert faults(low=-0.003, ratio=4.0) == []
    assert faults(low=-0.0031, ratio=12.0) == [
        "the warm start may be worse by 0.0031 AUC, more than 0.003"
    ]
    assert faults(low=0.01, ratio=3.9) == ["training from scratch takes only 3.9 times as long"]
