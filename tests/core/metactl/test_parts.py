"""Small parts of metactl: TOML, line protocol, targeted paths, ports, durations, region names."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from groundwork.core.errors import BadInput
from groundwork.core.ids import region_id
from groundwork.core.table import Column, Role, Schema, TableInfo
from metactl.commands.change import duration_ms
from metactl.inputs import Paths, files_under, sample, to_line
from metactl.layout import Timing, plan_layout, ports_needed, to_toml
from metactl.ledger import Row
from metactl.ports import PortHolder
from metactl.render import bytes_text, parse_region, show_region

SCHEMA = Schema(1, (Column("path", "string", Role.TAG), Column("t", "timestamp_ns", Role.TIME)))


def test_toml_round_trips() -> None:
    """What the launcher writes is what a TOML reader reads, sections and odd names included."""
    settings = {"a": 'x"y\\z', "n": 3, "list": ["p", "q"], "peers": {"metasrv-1": "127.0.0.1:1"}, "on": True}
    assert tomllib.loads(to_toml(settings)) == settings


def test_the_layout_is_the_promised_cluster(tmp_path: Path) -> None:
    """3 metasrv in three sites, 4 datanodes of two lanes in sites 1 and 2, 2 frontends, every port different."""
    layout = plan_layout(tmp_path, range(20_000, 20_000 + ports_needed()), Timing())
    assert [m.site for m in layout.of("metasrv")] == [1, 2, 3]
    assert [m.site for m in layout.of("datanode")] == [1, 1, 2, 2]
    assert [m.site for m in layout.of("frontend")] == [1, 2]
    assert all(m.settings["lanes"] == 2 and m.settings["log_store"] == "objects" for m in layout.of("datanode"))
    addresses = [a for m in layout.members for a in (m.listen, m.http) if a]
    assert len(set(addresses)) == len(addresses) == ports_needed()


def test_a_second_holder_never_gets_the_same_port() -> None:
    """Two launchers side by side have different ports, and a port given back is free again."""
    one, two = PortHolder(), PortHolder()
    mine = one.take(5)
    assert not set(mine) & set(two.take(5))
    assert not two.hold(mine)
    one.close()
    assert two.hold(mine)
    two.close()


HOLD_ONE = "import sys; from metactl.ports import PortHolder; sys.exit(not PortHolder().hold([int(sys.argv[1])]))"


def test_a_port_is_held_against_launchers_with_other_folders(tmp_path: Path) -> None:
    """Another process, whose temporary folder is another one, cannot hold what is held here; it can once it is free."""
    holder = PortHolder()
    [port] = holder.take(1)

    def another() -> int:
        environment = {**os.environ, "TMPDIR": str(tmp_path)}
        return subprocess.run([sys.executable, "-c", HOLD_ONE, str(port)], env=environment, check=False).returncode

    assert another() == 1
    holder.close()
    assert another() == 0
    assert list(tmp_path.iterdir()) == []


def test_line_protocol_escapes_tags() -> None:
    """Commas, spaces and equal signs in a path are escaped; an empty suffix and an absent field are left out."""
    assert to_line("m", Row("/a b,c=d", "", 5, 7)) == r"m,path=/a\ b\,c\=d size=7i 5"
    assert to_line("m", Row("/a", ".py", 5, 7, 9)) == "m,path=/a,suffix=.py size=7i,cpu_ms=9i 5"


def test_files_become_rows(tmp_path: Path) -> None:
    """One row a regular file, mtime and size as the file system has them; links are not followed; the limit holds."""
    (tmp_path / "one.txt").write_text("12345")
    (tmp_path / "two").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "one.txt")
    rows = list(files_under(tmp_path, 10))
    assert [(r.path, r.suffix, r.size) for r in rows] == [
        (str(tmp_path / "one.txt"), ".txt", 5), (str(tmp_path / "two"), "", 0)
    ]  # fmt: skip
    assert rows[0].time_ns == (tmp_path / "one.txt").stat().st_mtime_ns
    assert len(list(files_under(tmp_path, 1))) == 1


def test_samples_cover_every_region() -> None:
    """Each region gets live rows of real processes, and each row belongs to the region whose batch it is in."""
    table = TableInfo(1, "m", SCHEMA, ("path",), tuple(region_id(1, p) for p in range(40)))
    batches = sample(Paths("w0", table.region_of), list(table.region_ids))
    assert set(batches) == set(table.region_ids)
    for region, rows in batches.items():
        assert rows
        assert all(table.region_of({"path": row.path}) == region for row in rows)
        assert len({row.path for row in rows}) == len(rows)


def test_durations_have_units() -> None:
    """A maintenance of '10' is refused: ten what?"""
    assert [duration_ms(t) for t in ("500ms", "90s", "10m", "2h")] == [500, 90_000, 600_000, 7_200_000]
    for text in ("10", "-1s", "1.5h", "s", ""):
        with pytest.raises(BadInput, match="--for"):
            duration_ms(text)


def test_regions_are_named_by_table_and_partition() -> None:
    """What is shown can be typed."""
    region = 3 << 32 | 17
    assert show_region(region) == "3.17"
    assert parse_region("3.17") == region == parse_region(str(region))
    with pytest.raises(BadInput, match="region"):
        parse_region("cpu")


def test_bytes_are_readable() -> None:
    """Bytes, KiB, MiB, GiB."""
    assert [bytes_text(n) for n in (0, 2048, 5 << 20, 3 << 30)] == ["0 B", "2.0 KiB", "5.0 MiB", "3.0 GiB"]
