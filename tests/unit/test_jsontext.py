"""JSON as text: what json reads back is what was written."""

import json

from hypothesis import given, strategies as st

from sfu import jsontext

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_what_was_written_is_read_back(value):
    assert json.loads(jsontext.write(value)) == value


def test_it_is_written_without_spaces_and_names_letters_as_they_are():
    assert (
        jsontext.write({"name": "Zoë", "n": [1, 2.5, None, True]}) == '{"name":"Zoë","n":[1,2.5,null,true]}'
    )


def test_half_of_a_surrogate_pair_is_escaped():
    """A frame of a socket may hold one; no encoding of text can."""
    assert jsontext.write({"x": "a\ud83d"}) == '{"x":"a\\ud83d"}'
    assert jsontext.write({"\udc00": 1}) == '{"\\udc00":1}'


@given(VALUES)
def test_a_copy_is_equal(value):
    assert jsontext.copied(value) == value


def test_a_copy_shares_nothing():
    document = {"members": [{"id": "ada"}]}
    copy = jsontext.copied(document)
    copy["members"][0]["id"] = "bob"
    assert document == {"members": [{"id": "ada"}]}
