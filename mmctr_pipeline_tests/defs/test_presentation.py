"""Metadata appear with numbers first, then pictures, and JSON last, under plain names."""

import dagster as dg

from mmctr_pipeline.defs.presentation import presented, presented_result

CURVE = dg.MetadataValue.md("![curve](data:image/png;base64,AA)")
CONFIGURATION = dg.MetadataValue.json({"a": 1})


def test_what_people_look_at_comes_first_and_the_configuration_last() -> None:
    found = presented(
        {
            "configuration": CONFIGURATION,
            "path": dg.MetadataValue.path("/a"),
            "device": "cpu",
            "curve": CURVE,
            "valid_auc": 0.85774321,
            "dagster/row_count": 7,
            "learning_rate": dg.MetadataValue.float(0.0001234567),
        }
    )
    assert list(found) == [
        *("valid AUC", "dagster/row_count", "learning rate"),
        *("curve", "device", "path", "configuration"),
    ]
    assert (found["valid AUC"], found["learning rate"]) == (0.85774, 0.00012346)
    assert found["dagster/row_count"] == 7


def test_a_plot_comes_before_the_seventh_number() -> None:
    found = presented({**{f"number_{n}": n for n in range(9)}, "curve": CURVE})
    assert list(found) == [
        *(f"number {n}" for n in range(6)),
        *("curve", "number 6", "number 7", "number 8"),
    ]


def test_the_value_and_the_data_version_of_an_output_stay() -> None:
    version = dg.DataVersion("1")
    output = presented_result(dg.Output(3, metadata={"a_b": 1}, data_version=version))
    assert (output.value, output.data_version) == (3, version)
    assert list(output.metadata) == ["a b"]
    assert presented_result(None) is None
