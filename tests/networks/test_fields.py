"""Fields of a config: what each kind accepts, and that nothing is dropped."""

import pytest

from rats_jax.fields import (
    anything,
    flag,
    integer,
    listed,
    number,
    one_of,
    only,
    optional,
    per_block,
    read_fields,
)


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        (integer(4), [1, 7], [0, -1, 2.0, True, None, "4", [4]]),
        (integer(4, least=0), [0], [-1, False]),
        (number(1.0), [1, 0.5], [0, -1, float("nan"), float("inf"), True, None, "1"]),
        (number(0, positive=False), [0, -1.5], [float("-inf"), float("nan"), False]),
        (flag(False), [True, False, None], [0, 1, "true"]),  # null is false, as in PyTorch
        (flag(True), [True, False], [0, 1, None, "true"]),
        (one_of("a", "b", None), ["a", "b", None], ["c", False, 0]),
        (one_of(1, 0), [1, 0], [True, False, 2, None]),
        (only(False), [False, None], [True, 0]),
        (only(None), [None], [False, 0, ""]),
        (only("default"), ["default"], [None, "other"]),
        (only((1, 2)), [[1, 2], (1, 2)], [[2, 1], 1]),
        (anything(), [None, 3, "x", []], []),
        (optional(integer(1)), [None, 3], [0, "x"]),
        (per_block(integer(1)), [3, [1, 2], (4,)], [[], [1, None], 0]),
        (listed((1,), integer(1)), [[1, 2], (3,)], [[], 1, [0]]),
    ],
)
def test_a_kind_of_field_accepts_what_it_says(field, good, bad):
    assert all(field.holds(value) for value in good)
    assert not any(field.holds(value) for value in bad)
    for value in bad:
        with pytest.raises(ValueError) as caught:
            read_fields({"name": value}, {"name": field})
        assert str(caught.value) == f"name={value!r}: expected {field.expected}"


def test_defaults_stand_in_and_lists_become_tuples():
    fields = {"a": integer(4), "b": listed((1,), per_block(integer(1)))}
    assert read_fields({}, fields) == {"a": 4, "b": (1,)}
    assert read_fields({"b": [1, [2, 3]], "a": 5}, fields) == {"a": 5, "b": (1, (2, 3))}


def test_a_field_that_is_not_known_is_refused_unless_it_says_nothing():
    fields = {"a": integer(4)}
    assert read_fields({"_class_name": "X", "b": None, "c": 3}, fields, ignored=["c"]) == {"a": 4}
    with pytest.raises(ValueError, match=r"^b=0: expected null: the field is not known here$"):
        read_fields({"b": 0}, fields)
