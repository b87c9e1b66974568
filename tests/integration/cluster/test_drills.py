"""The main job, small, on real processes: each fault ends with nothing lost."""

from pathlib import Path

import pytest

from tests.integration.cluster.metactl_runner import last_json, metactl

SMALL = ("--regions=20", "--rows=2000", "--writers=4", "--interval=0.5", "--duration=2", "--lease-ms=2000")


@pytest.mark.parametrize("fault", ["site", "node", "leader", "pause", "restart"])
def test_nothing_acknowledged_is_lost(tmp_path: Path, fault: str) -> None:
    """P1, P2: every acknowledged row is there with its last value; P3 and P5 are printed, not asserted, here."""
    picture = tmp_path / "drill.svg"
    done = metactl(tmp_path, "demo", f"--fault={fault}", "--json", f"--picture={picture}", *SMALL)
    assert done.returncode == 0, done.stderr[-4000:]
    found = last_json(done.stdout)
    assert (found["lost"], found["wrong"], found["zombie_acks"]) == (0, 0, 0)
    assert found["acked"] >= 1000
    assert found["regions"] > 0
    assert found["moved"] >= found["regions"] - 1  # pause moves one back, under yet another incarnation
    assert found["replayed_entries"] > 0
    assert found["rto_ms_max"] >= found["rto_ms_p50"] > 0
    assert picture.read_text().startswith("<?xml")
    promise = "P5" if fault == "leader" else "P3"
    print(
        f"{promise}: {fault}: RTO max {found['rto_ms_max']:.0f} ms, lease {found['lease_ms']} ms, {found['phases_ms']}"
    )
    assert not list(tmp_path.glob("metasrv-demo-*")), "a clean drill leaves nothing behind"
