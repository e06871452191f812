"""Values of several conditions: every combination, and labels that tell them apart."""

from __future__ import annotations

from undiffuse.conditioning.condition_grid import ConditionGrid


def test_the_first_condition_changes_slowest_and_one_value_needs_no_label():
    values = {"class": ["cat", "dog"], "age": [1.0, 2.0], "side": ["left"]}
    grid = ConditionGrid(values, {name: [str(each) for each in several] for name, several in values.items()})
    assert [each["class"] for each in grid.combinations()] == ["cat", "cat", "dog", "dog"]
    assert [each["age"] for each in grid.combinations()] == [1.0, 2.0, 1.0, 2.0]
    assert grid.labels()[1] == "class cat, age 2.0"
    assert grid.cells()[1] == ["cat", "2.0", "left"]


def test_a_number_is_labelled_with_its_name_and_a_name_alone():
    assert ConditionGrid({"age": [1, 2]}, {"age": ["1", "2"]}, frozenset({"age"})).labels() == ["age 1", "age 2"]
    assert ConditionGrid({"class": ["a", "b"]}, {"class": ["a", "b"]}).labels() == ["a", "b"]
    assert ConditionGrid({}, {}).combinations() == [{}]
