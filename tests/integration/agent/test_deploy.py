"""What deploy/ ships: valid files that agree with one another and with the programs."""

import configparser
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import datanode_agent.config
import metasrv.config
from groundwork.adapters.config import load_config
from metasrv_frontend.config import FrontendConfig, check_config

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
EXAMPLES = sorted(DEPLOY.glob("example/*/*.toml"))
UNITS = sorted(DEPLOY.glob("systemd/*.service"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_example_is_accepted(path: Path) -> None:
    """Every example file passes its program's own check."""
    if path.name == "metasrv.toml":
        metasrv.config.load(path)
    elif path.name == "datanode.toml":
        datanode_agent.config.load(path)
    else:
        check_config(load_config(path, FrontendConfig))


def test_examples_agree() -> None:
    """One cluster id, one bucket, the same replicas everywhere, node ids and localities of their own site."""
    files = {path: tomllib.loads(path.read_text()) for path in EXAMPLES}
    assert [p.parent.name for p in files] == ["site-1"] * 3 + ["site-2"] * 3 + ["site-3"]
    assert len({f["cluster_id"] for f in files.values()}) == 1
    assert len({f["object_store"]["s3_bucket"] for f in files.values() if "object_store" in f}) == 1
    peers = next(f["peers"] for f in files.values() if "peers" in f)
    for path, f in files.items():
        assert f.get("peers", peers) == peers
        assert f.get("metasrv", list(peers.values())) == list(peers.values())
        assert f["locality"].split("/")[0] == path.parent.name
        assert f["node_id"].endswith(path.parent.name.removeprefix("site"))
        assert f["tls"]["certificate"] == f"/etc/metasrv/tls/{f['node_id']}.pem"


@pytest.mark.parametrize("path", UNITS, ids=lambda p: p.name)
def test_unit_runs_a_program_that_exists(path: Path) -> None:
    """The commands of a unit are console scripts of this project, with a file that step 5 installs."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    installed = {example.name for example in EXAMPLES}
    commands = re.findall(r"^Exec\w+=-?/opt/metasrv/bin/(\S+).*--config /etc/metasrv/(\S+)$", path.read_text(), re.M)
    assert commands
    for program, file in commands:
        assert program in scripts
        assert file in installed


def test_the_datanode_unit_keeps_its_promises() -> None:
    """A death is witnessed, a node id that was taken over is not fought for, and stopping has the time it needs."""
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(DEPLOY / "systemd" / "datanode-agent.service")
    service = unit["Service"]
    assert service["ExecStopPost"].removeprefix("-").split()[1:2] == ["release"]
    assert service["RestartPreventExitStatus"] == "3"
    assert service["Type"] == "notify"
    example = datanode_agent.config.load(DEPLOY / "example" / "site-1" / "datanode.toml")
    assert int(service["TimeoutStopSec"]) * 1000 > 2 * example.stop_deadline_ms


def test_certificates_for_every_kind_of_name(tmp_path: Path) -> None:
    """make-certificates signs for the node id, host names and addresses, with one authority for all."""
    script = str(DEPLOY / "make-certificates")
    for node, *hosts in (("metasrv-1", "s1.example.net", "127.0.0.1"), ("dn-1", "localhost", "::1")):
        done = subprocess.run([script, str(tmp_path), node, *hosts], capture_output=True, text=True, check=True)
        assert f"{node}.pem" in done.stdout
        verify = ["openssl", "verify", "-CAfile", str(tmp_path / "authority.pem"), str(tmp_path / f"{node}.pem")]
        assert subprocess.run(verify, capture_output=True, check=False).returncode == 0
        shown = subprocess.run(
            ["openssl", "x509", "-in", str(tmp_path / f"{node}.pem"), "-noout", "-ext", "subjectAltName"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert f"DNS:{node}" in shown
        assert (tmp_path / f"{node}.key").stat().st_mode & 0o077 == 0
    assert subprocess.run([script, str(tmp_path)], capture_output=True, check=False).returncode == 2
