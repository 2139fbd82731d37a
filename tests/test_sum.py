"""Which values of a query or a JSON object are numbers, and their exact sum."""

from __future__ import annotations

import json
import math
import time
import urllib.parse
from collections.abc import Iterable
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import assert_is_one_line, try_to

from webserver_influx import RequestError, exact_sum, json_nesting, json_values, numbers, query_values, sum_text

pytestmark = pytest.mark.smoke

LARGEST = 1.7976931348623157e308

# --- the numbers of a query


def query_numbers(query: str) -> list[float]:
    return numbers(query_values(query.encode()))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", []),
        ("a=3&b=3", [3, 3]),
        ("a=3&a=3", [3, 3]),
        ("a=1.5&b=-2&c=1e3&d=.5&e=5.", [1.5, -2, 1000, 0.5, 5]),
        ("a=1_000", [1000]),
        ("a", []),
        ("3", []),
        ("a=", []),
        ("=3", [3]),
        ("a=3=4", []),
        ("&&a=3&&", [3]),
        ("a=x&b=3", [3]),
        ("a=3;b=4", []),
        ("a=%EF%BB%BF3&b=4", [4]),  # a byte order mark belongs to the value
        ("a=nan&b=inf&c=-Infinity&d=1e999", []),
        ("a=%33", [3]),
        ("a=%2B3&b=+3&c=3+&d=%20-3%0A", [3, 3, 3, -3]),
        ("a=%2&b=%zz&c=%ff&d=4", [4]),
        ("a=%D9%A3", [3]),  # an Arabic three: float() reads it
        ("a=\u0663&b=4", [3, 4]),
        ("имя=3&b=4", [3, 4]),
        ("a=три&b=%D1%82%D1%80%D0%B8&c=4", [4]),
        ("a=0x10&b=1,5&c=1e5", [1e5]),
        ("a=" + "9" * 8000, []),
        ("a=3?b=4", []),
    ],
)
def test_the_numbers_of_a_query_are_found(query, expected):
    assert query_numbers(query) == expected


@pytest.mark.parametrize(
    "query", [b"a=\xff&b=4", b"a=3\xff&b=4", b"\xff=4", b"a=\xd9&b=%D9&c=4&\xd9\xa3=x", b"a=\x85&b=4"]
)
def test_a_value_that_is_not_utf_8_is_no_number(query):
    assert numbers(query_values(query)) == [4]


def numeric(values: Iterable[str]) -> list[float]:
    """The oracle: return the values that float() reads, if they are finite."""
    found = []
    for value in values:
        try:
            number = float(value)
        except ValueError:
            continue
        if math.isfinite(number):
            found.append(number)
    return found


QUERY_FRAGMENTS = ("a", "b", "=", "&", "&a=", "3", ".5", "1e5", "-", "%2", "%20", "%33", "%2B", "+", "%C3%A9", "%", "_")


@given(
    st.one_of(
        st.lists(st.sampled_from(QUERY_FRAGMENTS)).map("".join),
        st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, blacklist_characters="#")),
        st.lists(st.tuples(st.text(), st.one_of(st.text(), st.floats().map(repr)))).map(urllib.parse.urlencode),
    )
)
def test_the_numbers_of_a_query_are_those_that_urllib_finds(query):
    pairs = urllib.parse.parse_qsl(query, keep_blank_values=True)
    assert query_numbers(query) == numeric(value for _, value in pairs)


def test_numbers_are_what_float_reads_and_finite():
    assert numbers(["1", "x", "", "nan", "inf", b"2", 3.0, math.inf, " 4\n"]) == [1, 2, 3, 4]


# --- the numbers of a JSON object


def json_numbers(body: bytes) -> list[float]:
    return numbers(json_values(body))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"a": 3, "b": 3}', [3, 3]),
        ("{}", []),
        (' \t\r\n{"a":\n3}\r\n ', [3]),
        ('{"a": 3, "a": 4}', [3, 4]),
        ('{"a": 3, "b": {"c": 4}, "d": [5], "e": true, "f": false, "g": null}', [3]),
        ('{"a": "3", "b": " 4 ", "c": "x", "d": "", "e": "nan", "f": "-inf", "g": "1e999"}', [3, 4]),
        ('{"a": -1.5, "b": 1e3, "c": 1E-3, "d": -0, "e": 0.0}', [-1.5, 1000, 0.001, 0, 0]),
        ('{"a": 1e999, "b": -1e999, "c": 1}', [1]),
        ('{"a": "\\u0033", "b": "\\ud800", "c": "٣", "\\u0000": 1}', [3, 3, 1]),
        ('{"": 1}', [1]),
        ('{"a": "[[[", "b": 9007199254740993}', [9007199254740992]),
        ('\ufeff{"a": 3}', [3]),
        ('\ufeff\r\n {"a": "\ufeff4", "b": 3}', [3]),
    ],
)
def test_the_numbers_of_a_json_object_are_found(body, expected):
    assert json_numbers(body.encode()) == expected


def nested(depth: int, opening: str = "[", closing: str = "]") -> bytes:
    """Return an object with `depth` levels of nesting."""
    return ('{"b": 1, "a": ' + opening * (depth - 1) + closing * (depth - 1) + "}").encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" \r\n\t",
        b"\xff",
        b'{"a": "\xe9"}',
        b'{"a": "\xed\xa0\x80"}',
        '\ufeff\ufeff{"a": 3}'.encode(),
        ' \ufeff{"a": 3}'.encode(),
        '{"a": 3}\ufeff'.encode(),
        '{\ufeff"a": 3}'.encode(),
        "\ufeff".encode(),
        b"\xef\xbb{}",
        '{"a": 3}'.encode("utf-16"),
        '{"a": 3}'.encode("utf-16-le"),
        '{"a": 3}'.encode("utf-32"),
        b"[]",
        b"[3, 3]",
        b'[{"a": 3}]',
        b"3",
        b'"a"',
        b"null",
        b"true",
        b"{",
        b"}",
        b'{"a"}',
        b'{"a": }',
        b'{"a": 3,}',
        b'{"a": 3} x',
        b'{"a": 3}{"a": 3}',
        b"{a: 3}",
        b"{'a': 3}",
        b'{3: "a"}',
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": -Infinity}',
        b'{"b": [NaN]}',
        b'{"a": 03}',
        b'{"a": +3}',
        b'{"a": .5}',
        b'{"a": 5.}',
        b'{"a": 0x3}',
        b'{"a": 1_000}',
        b'{"a": "\n"}',
        b'{"a": "\\x"}',
        b'{"a": "\\\xc3\xa9"}',  # PyPy's json quotes the letter
        b'{"a": "',
        b'{"a": 3} // no comment',
        b"\0",
        b'{"a": 3}\0',
        b"\xc2\xa0{}",
        b"a=3&b=3",
        nested(101),
        nested(101, '{"a":[', "]}"),
        b"[" * 100_000,
        b"{" * 100_000,
        b'{"a":' * 100_000,
        b"[{" * 500_000,
        b"]" * 1000 + b"[" * 900,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":"\\\\",' + b'"b":[' * 101,
    ],
    ids=lambda body: repr(body[:24]),
)
def test_a_body_that_is_no_json_object_is_refused_with_one_line(body):
    with pytest.raises(RequestError) as caught:
        json_numbers(body)
    assert caught.value.status == 400
    assert_is_one_line(str(caught.value))
    assert str(caught.value).isascii(), "the length in bytes of a response is that in characters"


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ("[0, ", "]")])
def test_a_json_text_may_be_nested_a_hundred_deep(opening, closing):
    body = '{"b": 1, "a": ' + opening * 99 + "0" + closing * 99 + "}"
    assert json_numbers(body.encode()) == [1]


@pytest.mark.parametrize(
    "text",
    ["[" * 1000, "{[" * 1000, '\\"' + "[" * 1000, "\\\\" * 3 + '\\"' + "{" * 500, "]" * 500, '["' * 500, "\\" * 999],
    ids=lambda text: text[:8],
)
def test_brackets_in_strings_are_not_counted(text):
    assert json_numbers(json.dumps({"a": text, text: 3, "b": [text]}).encode()) == [3]


def test_brackets_side_by_side_are_not_deep():
    assert json_numbers(json.dumps({"a": [[]] * 1000, "b": [{}] * 1000, "c": 1}).encode()) == [1]


def depth_of(value) -> int:
    """The oracle: return the nesting of a document, not of a text."""
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


finite = st.floats(allow_nan=False, allow_infinity=False)
json_leaves = st.one_of(st.none(), st.booleans(), finite, st.text('[]{}"\\ a,:'))
any_json = st.recursive(
    json_leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text('[]{}"\\ a'), inner, max_size=4)),
)


@given(any_json, st.booleans())
def test_the_nesting_of_a_json_text_is_that_of_its_document(value, indented):
    filler = ["["] * 101  # in strings, so that the brackets of the text alone are too many
    text = json.dumps([value, filler], indent=1 if indented else None)
    assert json_nesting(text.encode()) == max(2, 1 + depth_of(value))


@given(st.one_of(st.binary(), st.text('[]{}",:\\ 01eENa"\n').map(str.encode), st.text().map(str.encode)))
def test_no_byte_string_makes_json_numbers_raise_anything_but_request_error(body):
    try_to(json_numbers, body)


@given(st.dictionaries(st.text(), st.one_of(json_leaves, st.integers(), st.lists(st.integers(), max_size=2))))
def test_the_numbers_of_any_json_object_are_those_of_its_dict(document):
    plain = [
        value for value in document.values() if isinstance(value, (int, float, str)) and not isinstance(value, bool)
    ]
    try:
        expected = numeric(map(str, plain))
    except OverflowError:
        return
    assert json_numbers(json.dumps(document).encode()) == expected


@pytest.mark.parametrize("digits", [10_000, 1_000_000])
def test_an_integer_of_a_million_digits_is_no_number_and_takes_no_time(digits):
    begin = time.process_time()
    assert json_numbers(b'{"a": %b, "b": 1}' % (b"9" * digits)) == [1]
    assert time.process_time() - begin < 2


# --- sums


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([], "Sum: 0"),
        ([3.0, 3.0], "Sum: 6.0"),
        ([0.1] * 10, "Sum: 1.0"),
        ([0.1, 0.2], "Sum: 0.30000000000000004"),
        ([1e16, 1.0, -1e16], "Sum: 1.0"),
        ([1.0, -1.0], "Sum: 0.0"),
        ([-0.0], "Sum: 0.0"),
        ([1e100], "Sum: 1e+100"),
        ([5e-324], "Sum: 5e-324"),
        ([1e308, 1e308], "Sum: inf"),
        ([-1e308, -1e308], "Sum: -inf"),
        ([1e308, 1e308, -1e308], "Sum: 1e+308"),
        ([1e308, 1e308, -1e308, -1e308], "Sum: 0.0"),
        ([1e308, 1e308, 5e-324, -1e308, -1e308], "Sum: 5e-324"),
        ([LARGEST, math.ulp(LARGEST) / 4], "Sum: 1.7976931348623157e+308"),
        ([LARGEST, math.ulp(LARGEST) / 2], "Sum: inf"),
        ([LARGEST, math.ulp(LARGEST) / 2, -5e-324], "Sum: 1.7976931348623157e+308"),
        (["1", b"2", 3.0, "x", "", "nan", "inf", "1e999", math.inf], "Sum: 6.0"),
        (["inf", "-inf", "nan"], "Sum: 0"),
        ([1e308, "x", 1e308, "-inf"], "Sum: inf"),
    ],
)
def test_a_sum_is_exact(values, text):
    assert sum_text(values) == text


def rounded_once(values: list[float]) -> float:
    """The oracle: return the sum of the exact fractions, converted to a float once."""
    exact = sum(map(Fraction, values))
    try:
        return float(exact)
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


extremes = st.sampled_from([LARGEST, -LARGEST, 2.0**970, 5e-324])
huge = st.one_of(st.floats(1e307, LARGEST), st.floats(-LARGEST, -1e307), extremes)


@given(st.one_of(st.lists(finite, min_size=1), st.lists(huge, min_size=1)))
def test_a_sum_is_rounded_once(values):
    assert sum_text(values) == f"Sum: {rounded_once(values)!r}"
    assert exact_sum(values) == rounded_once(values)


@given(st.lists(st.one_of(finite, huge), min_size=1, max_size=6), st.randoms())
def test_a_sum_does_not_depend_on_the_order(values, random):
    mixed = list(values)
    random.shuffle(mixed)
    assert sum_text(mixed) == sum_text(values)
