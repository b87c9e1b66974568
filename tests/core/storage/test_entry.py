"""The entry codec: what is written is read, and damage is a value."""

from hypothesis import given
from hypothesis import strategies as st

from groundwork.core.entry import HEADER_BYTES, BadEntry, Entry, Kind, encode, iter_entries
from groundwork.core.ids import Lane, first_token, region_id

LANE = Lane("dn-1", first_token(3) + 7, 5)
U32 = st.integers(0, (1 << 32) - 1)
U64 = st.integers(0, (1 << 64) - 1)
ENTRIES = st.builds(
    Entry,
    st.sampled_from([int(k) for k in Kind]), U64, U64, U64, U32, U32,
    st.binary(max_size=200), st.just(LANE.incarnation), st.just(LANE.index),
)  # fmt: skip


def _bytes(entry: Entry | BadEntry) -> Entry | BadEntry:
    return entry._replace(payload=bytes(entry.payload)) if isinstance(entry, Entry) else entry


@given(st.lists(ENTRIES, max_size=6))
def test_entries_come_back_in_order(entries: list[Entry]) -> None:
    """A chunk of any entries is read back as those entries, each beginning at a multiple of 8 bytes."""
    encoded = [encode(e, LANE) for e in entries]
    assert all(len(e) % 8 == 0 for e in encoded)
    assert [_bytes(e) for e in iter_entries(b"".join(encoded), verify=True)] == entries


def test_the_header_is_56_bytes_for_ever() -> None:
    """Golden bytes: an entry that was written once can be read for ever."""
    entry = Entry(Kind.DATA, region_id(7, 2), first_token(1) + 4, 99, 3, 2, b"payload")
    raw = encode(entry, Lane("dn-1", first_token(1) + 3, 1))
    assert HEADER_BYTES == 56
    assert raw.hex() == (
        "4d454e01010001000200000003000000" "0400000000010000" "0200000007000000" "0500000000010000"
        "6300000000000000" "07000000" "eef777a7" "7061796c6f616400"
    )  # fmt: skip


def test_other_regions_are_skipped_without_a_look_at_their_payload() -> None:
    """Replay takes what it wants: a damaged payload of another region is not even noticed."""
    entries = [Entry(Kind.DATA, region, 1, 1, 1, 1, b"x" * 50) for region in (1, 2, 1, 3)]
    raw = bytearray(b"".join(encode(e, LANE) for e in entries))
    raw[HEADER_BYTES + 60 + HEADER_BYTES] ^= 1
    assert [e.region for e in iter_entries(bytes(raw), {1, 3}, verify=True) if isinstance(e, Entry)] == [1, 1, 3]
    bad = [e for e in iter_entries(bytes(raw), verify=True) if isinstance(e, BadEntry)]
    assert [(b.region, b.framed) for b in bad] == [(2, True)]


def test_payloads_are_views() -> None:
    """Nothing is copied: a payload looks into the chunk."""
    raw = encode(Entry(Kind.DATA, 1, 1, 1, 1, 1, b"abc"), LANE)
    (entry,) = iter_entries(raw)
    assert isinstance(entry, Entry)
    assert isinstance(entry.payload, memoryview)
    assert entry.payload.obj is raw


@given(st.lists(ENTRIES, min_size=1, max_size=4), st.data())
def test_damage_is_a_value_never_an_exception(entries: list[Entry], data: st.DataObject) -> None:
    """Whatever is cut or flipped, the iteration ends, and what it yields besides damage was really written."""
    raw = bytearray(b"".join(encode(e, LANE) for e in entries))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    cut = bytes(raw[: data.draw(st.integers(0, len(raw)))])
    found = [_bytes(e) for e in iter_entries(cut, verify=True)]
    assert [e for e in found if isinstance(e, Entry) and e not in entries] == []


def test_a_newer_format_says_so() -> None:
    """An entry of a newer release is not damage to be guessed at: the reason says what to run."""
    raw = bytearray(encode(Entry(Kind.DATA, 1, 1, 1, 1, 1, b"abc"), LANE))
    raw[3] += 1
    (bad,) = iter_entries(bytes(raw))
    assert isinstance(bad, BadEntry)
    assert "run the newer release" in bad.reason
