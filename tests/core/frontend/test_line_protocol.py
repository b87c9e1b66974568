"""Line protocol: payloads of real clients verbatim, every rule of the grammar, and both paths held to one answer."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from influxdb_client import Point, WritePrecision

from groundwork.core.errors import BadInput
from metasrv_frontend.core import line_protocol
from metasrv_frontend.core.line_protocol import TableLines, parse_lines
from metasrv_frontend.core.line_values import BadLine

Row = tuple[str, dict[str, str], dict[str, Any], int | None]


def rows(body: bytes | str, precision: str = "") -> list[Row]:
    """What was parsed, row by row in the order of tables; the time is None where there was none."""
    found: list[Row] = []
    raw = body.encode() if isinstance(body, str) else body
    for name, table in parse_lines(raw, precision).items():
        untimed = set(table.untimed)
        for i, series in enumerate(table.row_series):
            fields = {f.name: f.values[i] for f in table.fields.values() if f.values[i] is not None}
            found.append((name, table.series[series], fields, None if i in untimed else table.times_ns[i]))
    return found


def one(body: bytes | str, precision: str = "") -> Row:
    """The one row of a body."""
    (row,) = rows(body, precision)
    return row


def types(table: TableLines) -> dict[str, str]:
    """The types of a table's fields."""
    return {f.name: f.type for f in table.fields.values()}


TELEGRAF = b"""\
cpu,cpu=cpu0,host=ip-10-0-0-12 usage_user=4.2042042041,usage_system=1.3,usage_idle=94.4,usage_guest=0 1700000010000000000
cpu,cpu=cpu-total,host=ip-10-0-0-12 usage_user=3.5,usage_system=1.2,usage_idle=95.1,usage_guest=0 1700000010000000000
mem,host=ip-10-0-0-12 active=1286770688i,available_percent=71.1,buffered=97320960i,total=8201232384i 1700000010000000000
disk,device=nvme0n1p1,fstype=ext4,host=ip-10-0-0-12,mode=rw,path=/ free=31247794176i,used_percent=41.7 1700000010000000000
system,host=ip-10-0-0-12 load1=0.11,n_cpus=2i,n_users=0i 1700000010000000000
system,host=ip-10-0-0-12 uptime=86221i 1700000010000000000
system,host=ip-10-0-0-12 uptime_format="23:57" 1700000010000000000
docker_container_status,container_image=a/b\\ c,host=ip-10-0-0-12 oomkilled=false,exitcode=0i,container_id="f0\\"0" 1700000010000000000
"""  # noqa: E501 - what an agent sends is not folded


def test_an_agents_payload_verbatim() -> None:
    """A payload as Telegraf writes it: many measurements, fields of one measurement spread over lines."""
    tables = parse_lines(TELEGRAF)
    assert {n: len(t.row_series) for n, t in tables.items()} == {
        "cpu": 2, "mem": 1, "disk": 1, "system": 3, "docker_container_status": 1,
    }  # fmt: skip
    assert types(tables["system"]) == {"load1": "float64", "n_cpus": "int64", "n_users": "int64", "uptime": "int64",
                                       "uptime_format": "string"}  # fmt: skip
    assert tables["system"].fields["uptime"].values == [None, 86221, None]
    assert rows(TELEGRAF)[-1] == (
        "docker_container_status",
        {"container_image": "a/b c", "host": "ip-10-0-0-12"},
        {"oomkilled": False, "exitcode": 0, "container_id": 'f0"0'},
        1_700_000_010_000_000_000,
    )


def test_the_v2_clients_own_encoder() -> None:
    """What influxdb-client encodes, escapes and all, is read back as it was."""
    point = (
        Point("my measurement,x")
        .tag("host name", "a=b, c")
        .tag("region", "eu west")
        .field("text", 'say "hi" \\ now')
        .field("n", 7)
        .field("v", 1.5)
        .field("on", True)
        .field("odd key=1", 2.0)
        .time(datetime(2024, 1, 2, 3, 4, 5, 678901, tzinfo=UTC), WritePrecision.NS)
    )
    assert one(point.to_line_protocol()) == (
        "my measurement,x",
        {"host name": "a=b, c", "region": "eu west"},
        {"text": 'say "hi" \\ now', "n": 7, "v": 1.5, "on": True, "odd key=1": 2.0},
        1_704_164_645_678_901_000,
    )


@pytest.mark.parametrize(
    ("precision", "expected"),
    [("", 5), ("ns", 5), ("n", 5), ("us", 5_000), ("u", 5_000), ("ms", 5_000_000), ("s", 5 * 10**9),
     ("m", 300 * 10**9), ("h", 18_000 * 10**9)],
)  # fmt: skip
def test_precision(precision: str, expected: int) -> None:
    """Precisions of both generations of the protocol."""
    assert one("m f=1 5", precision)[3] == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("m f=1", ("m", {}, {"f": 1.0}, None)),
        ("m f=1i 5", ("m", {}, {"f": 1}, 5)),
        ("m f=-1i -5", ("m", {}, {"f": -1}, -5)),
        ("m f=18446744073709551615u", ("m", {}, {"f": (1 << 64) - 1}, None)),
        ("m f=-9223372036854775808i", ("m", {}, {"f": -(1 << 63)}, None)),
        ("m f=t,g=F,h=true,i=False,j=TRUE", ("m", {}, {"f": True, "g": False, "h": True, "i": False, "j": True}, None)),
        ("m f=1e3,g=-1.5E-2,h=.5,i=1.", ("m", {}, {"f": 1e3, "g": -0.015, "h": 0.5, "i": 1.0}, None)),
        (r"my\ m\,x,t\=a\ b=v\,w\=x\ y f=1", ("my m,x", {"t=a b": "v,w=x y"}, {"f": 1.0}, None)),
        (r"m,path=C:\temp\x f=1", ("m", {"path": r"C:\temp\x"}, {"f": 1.0}, None)),
        (r"m\= f=1", (r"m\=", {}, {"f": 1.0}, None)),
        (r'm f="a\"b\\c\d" 5', ("m", {}, {"f": r'a"b\c' + r"\d"}, 5)),
        ('m f="a, b=c d" 5', ("m", {}, {"f": "a, b=c d"}, 5)),
        ('m f="" 5', ("m", {}, {"f": ""}, 5)),
        ('m f="two\nlines",g=1 5', ("m", {}, {"f": "two\nlines", "g": 1.0}, 5)),
        ('m,t="q" f=1', ("m", {"t": '"q"'}, {"f": 1.0}, None)),
        ("  m   f=1   5  ", ("m", {}, {"f": 1.0}, 5)),
        ("m f=1 5\r", ("m", {}, {"f": 1.0}, 5)),
        ('m f="x" 5\r\n', ("m", {}, {"f": "x"}, 5)),
        ("温度,城市=北京 值=1.5", ("温度", {"城市": "北京"}, {"值": 1.5}, None)),
    ],
)
def test_one_line(line: str, expected: Row) -> None:
    """Types, escapes, quotes, blanks and times, one at a time."""
    assert one(line) == expected


def test_blank_lines_comments_and_line_ends() -> None:
    """They are skipped, and a comment may contain anything."""
    body = '# says "x\\\n\r\n\nm f=1 1\r\n   # more\nm f=2 2\n\n'
    assert [r[3] for r in rows(body)] == [1, 2]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("m", "no fields"),
        ("m,t=a", "no fields"),
        ("m,t= f=1", "not of the form key=value"),
        ("m,=a f=1", "not of the form key=value"),
        ("m,t=a=b f=1", "not of the form key=value"),
        (",t=a f=1", "measurement name"),
        ("m f=", "not of the form key=value"),
        ("m =1", "not of the form key=value"),
        ("m f=1,", "not of the form key=value"),
        ("m f=abc", "is none"),
        ("m f=1.5i", "is none"),
        ("m f=-1u", "outside 0 to"),
        ("m f=9223372036854775808i", "outside"),
        ("m f=18446744073709551616u", "outside"),
        ("m f=nan", "is none"),
        ("m f=inf", "is none"),
        ("m f=1_0", "is none"),
        ("m f=0x10", "is none"),
        ("m f=1e999", "too big"),
        ("m f=1 5 6", "after the timestamp"),
        ("m f=1 x", "not a whole number"),
        ("m f=1 1.5", "not a whole number"),
        ("m f=1 9223372036854775807", "1677 to 2262"),
        ("m f=1 99999999999999999999999", "1677 to 2262"),
        ("m,t=a,t=b f=1", "there twice"),
        ("m f=1,f=2", "there twice"),
        ("m,x=a x=1", "a tag and a field"),
        ('m f="abc 5', "does not end"),
        ('m f="a"b 5', "unexpected"),
        ('m f="a" 5 6', "after the timestamp"),
        (r"m,t=a\ f=1", "unescaped ="),
        ("m f=1i 1\nm f=1.5 2", "field type conflict"),
    ],
)
def test_refused(line: str, reason: str) -> None:
    """Each thing that is wrong is named, with its line; both paths refuse it."""
    with pytest.raises(BadLine, match=reason) as caught:
        rows("# first\n" + line)
    assert caught.value.line == 2 + line.count("\n") or "does not end" in reason


def test_the_line_number_counts_line_ends_inside_strings() -> None:
    """A person looks for the line in the body that was sent."""
    with pytest.raises(BadLine) as caught:
        rows('m f="a\nb\nc" 1\nm f="d" 2\nm f=oops 3')
    assert caught.value.line == 5


def test_bytes_that_are_no_text() -> None:
    """UTF-8 only, and the place is named."""
    with pytest.raises(BadLine, match=r"line 1.*not UTF-8"):
        rows(b"m,t=\xff f=1")


def test_precision_in_seconds_out_of_range() -> None:
    """Nanoseconds sent as seconds do not fit, and the hint says why."""
    with pytest.raises(BadLine, match="is the precision right"):
        rows("m f=1 1700000000000000000", "s")


def test_unknown_precision() -> None:
    """Named, with what there is."""
    with pytest.raises(BadInput, match="precision"):
        rows("m f=1", "fortnight")


def test_now_is_given_once() -> None:
    """Rows without a time get one time, the same for every attempt."""
    table = parse_lines(b"m f=1\nm f=2 7\nm f=3")["m"]
    table.assign_now(99)
    assert table.times_ns == [99, 7, 99]


def test_too_many_fields() -> None:
    """A table's columns are bounded."""
    body = b"m " + b",".join(b"f%d=1" % i for i in range(11))
    with pytest.raises(BadLine, match="more than 10 fields"):
        parse_lines(body, columns_max=10)


def test_a_body_of_absent_fields_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line with a field of its own would make a table of nulls, much bigger than the body."""
    monkeypatch.setattr(line_protocol, "NULLS_MAX", 1_000)
    body = b"\n".join(b"m f%d=1" % (i % 100) for i in range(200))
    with pytest.raises(BadLine, match="smaller requests"):
        parse_lines(body)


NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12).filter(
    lambda s: not s.endswith("\\") and not s.startswith("#") and s.strip() == s
)
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
VALUES = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False), st.integers(-(1 << 63), (1 << 63) - 1), st.booleans(), TEXTS
)


def escaped(name: str, specials: str) -> str:
    """As a client escapes a name."""
    return "".join("\\" + c if c in specials else c for c in name)


def encoded(row: Row) -> str:
    """One row as a line."""
    name, tags, fields, time_ns = row
    head = escaped(name, ", ") + "".join(f",{escaped(k, ',= ')}={escaped(v, ',= ')}" for k, v in tags.items())
    parts = []
    for key, value in fields.items():
        if isinstance(value, bool):
            text = "true" if value else "false"
        elif isinstance(value, int):
            text = f"{value}i"
        elif isinstance(value, float):
            text = repr(value)
        else:
            text = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        parts.append(f"{escaped(key, ',= ')}={text}")
    return f"{head} {','.join(parts)} {time_ns}"


@settings(deadline=None, max_examples=300)
@given(
    NAMES,
    st.dictionaries(NAMES.map(lambda n: "t" + n), NAMES, max_size=3),
    st.dictionaries(NAMES.map(lambda n: "f" + n), VALUES, min_size=1, max_size=4),
    st.integers(-(1 << 63), (1 << 63) - 2),
)
def test_round_trip(name: str, tags: dict[str, str], fields: dict[str, Any], time_ns: int) -> None:
    """Whatever a correct client writes is read as it was meant, also between other lines."""
    row: Row = (name, tags, fields, time_ns)
    before, after = "zz,a=b c=1 1", 'zz,a=b c=2,d="x" 2'
    found = rows("\n".join((before, encoded(row), after)))
    assert [r for r in found if r[3] not in (1, 2) or r[0] != "zz"] == [row]


def outcome(body: bytes, exact_only: bool) -> dict[str, Any] | None:
    """Everything that a path makes of a body, or None where it refuses it."""
    parser = line_protocol._Parser(body, 1, 1_000)
    try:
        parser.run(exact_only)
    except BadLine:
        return None
    return {
        name: (t.series, t.row_series, t.times_ns, t.untimed, types(t), [f.values for f in t.fields.values()])
        for name, t in parser.tables.items()
        if t.row_series
    }


@settings(deadline=None, max_examples=500)
@given(st.lists(st.text(st.sampled_from('abmf=, \\"1iu\n\t\r#.-_e\0'), max_size=25), max_size=4))
def test_both_paths_agree(lines: list[str]) -> None:
    """Any text at all gives the same rows, or a refusal, on the fast path and on the exact one."""
    body = "\n".join(lines).encode()
    assert outcome(body, exact_only=True) == outcome(body, exact_only=False)


PARTS = st.tuples(
    st.sampled_from(["m", "#m", "m,t=a", "m,t=a,u=b", " m", "\tm", "m,t", "m,t=a=b"]),
    st.sampled_from(
        ["f=1", "f=1,g=2i", "f=t", "f=1,f=2", "f=", "t=1", "f=1_0", "f=-1", "f=1e5,g=0i", "\tf=1", "f=\t1"]
    ),
    st.sampled_from(["", "5", "-5", "5 ", "5 6", "x", "5\r", "\t5", "5\t", "1_0"]),
).map(" ".join)


@settings(deadline=None, max_examples=500)
@given(st.lists(PARTS, max_size=4))
def test_both_paths_agree_on_lines(lines: list[str]) -> None:
    """The same for text that is nearly, or wholly, right."""
    body = "\n".join(lines).encode()
    assert outcome(body, exact_only=True) == outcome(body, exact_only=False)
