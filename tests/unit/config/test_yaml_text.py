"""What a YAML text means, where that is not plain."""

from windvane.config.yaml_text import parse_yaml


def test_a_value_that_is_a_key_elsewhere_stays_what_it_is() -> None:
    assert parse_yaml("a: &x null\nb: {*x : 1}\nc: *x") == {"a": None, "b": {"null": 1}, "c": None}
