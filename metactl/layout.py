"""What a local cluster is made of: which processes, where, with which configuration files. Writes the files."""

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from groundwork.adapters.config import TlsConfig

Kind = Literal["metasrv", "datanode", "frontend"]
PROGRAMS: Mapping[Kind, str] = {"metasrv": "metasrv", "datanode": "datanode-agent", "frontend": "metasrv-frontend"}
REPLICA_SITES = (1, 2, 3)
DATANODE_SITES = (1, 1, 2, 2)
FRONTEND_SITES = (1, 2)
Toml = Mapping[str, "str | int | float | bool | Sequence[str] | Toml"]


@dataclass(frozen=True)
class Timing:
    """The cluster's clocks, in milliseconds, and sizes that a drill may want smaller."""

    lease_ms: int = 3000
    beat_ms: int = 500
    election_ms_min: int = 400
    election_ms_max: int = 800
    flush_bytes: int = 32 << 20
    replay_objective_ms: int = 2000


@dataclass(frozen=True)
class Member:
    """One process of the cluster. `listen` is empty for frontends, which speak HTTP only."""

    name: str
    kind: Kind
    site: int
    listen: str
    http: str
    settings: Toml

    @property
    def locality(self) -> str:
        """Its site and zone."""
        return f"site-{self.site}/zone-a"


@dataclass(frozen=True)
class Layout:
    """A whole cluster in one folder."""

    folder: Path
    cluster_id: str
    members: tuple[Member, ...]
    timing: Timing

    def of(self, kind: Kind) -> list[Member]:
        """The members of one kind, in order of their sites."""
        return [m for m in self.members if m.kind == kind]

    def member(self, name: str) -> Member:
        """The member of that name."""
        return next(m for m in self.members if m.name == name)

    @property
    def metasrv_addresses(self) -> list[str]:
        """The gRPC addresses of all replicas."""
        return [m.listen for m in self.of("metasrv")]

    def config_path(self, name: str) -> Path:
        """Where a member's configuration is."""
        return self.folder / f"{name}.toml"

    def log_path(self, name: str) -> Path:
        """Where a member's standard error goes."""
        return self.folder / f"{name}.log"

    def write(self) -> None:
        """Write every member's configuration file and make the folders they name."""
        (self.folder / "objects").mkdir(parents=True, exist_ok=True)
        for member in self.members:
            (self.folder / member.name).mkdir(exist_ok=True)
            self.config_path(member.name).write_text(to_toml(member.settings))


def ports_needed(datanode_sites: Sequence[int] = DATANODE_SITES) -> int:
    """How many ports plan_layout wants: gRPC and HTTP, and frontends HTTP only."""
    return 2 * len(REPLICA_SITES) + 2 * len(datanode_sites) + len(FRONTEND_SITES)


def plan_layout(folder: Path, ports: Sequence[int], timing: Timing, cluster_id: str = "",
                datanode_sites: Sequence[int] = DATANODE_SITES,
                tls: Callable[[str], TlsConfig] | None = None) -> Layout:  # fmt: skip
    """Three metasrv in sites 1 to 3, datanodes of two lanes each where told, a frontend in sites 1 and 2.

    `tls` gives the PEM files of each member, by its name; without it all of them speak plain text on loopback.
    """
    folder = folder.resolve()
    cluster_id = cluster_id or secrets.token_hex(16)
    free = iter(f"127.0.0.1:{port}" for port in ports)
    replicas = {f"metasrv-{site}": (site, next(free), next(free)) for site in REPLICA_SITES}
    addresses = [listen for _, listen, _ in replicas.values()]
    objects: Toml = {"directory": str(folder / "objects")}
    common: Toml = {"cluster_id": cluster_id, "log_level": "info"}
    members: list[Member] = []

    def add(name: str, kind: Kind, site: int, listen: str, http: str, more: Toml) -> None:
        base: Toml = {**common, "node_id": name, "locality": f"site-{site}/zone-a", "http_listen": http}
        if kind != "frontend":
            base = {**base, "listen": listen, "data_dir": str(folder / name)}
        if tls is not None:
            more = {**more, "tls": msgspec.structs.asdict(tls(name))}
        members.append(Member(name, kind, site, listen, http, {**base, **more}))

    for name, (site, listen, http) in replicas.items():
        peers: Toml = {peer: address for peer, (_, address, _) in replicas.items()}
        clocks: Toml = {
            "lease_ms": timing.lease_ms, "beat_ms": timing.beat_ms,
            "election_ms_min": timing.election_ms_min, "election_ms_max": timing.election_ms_max,
        }  # fmt: skip
        add(name, "metasrv", site, listen, http, {"peers": peers, "object_store": objects, "timing": clocks})
    for number, site in enumerate(datanode_sites, start=1):
        engine: Toml = {"flush_bytes": timing.flush_bytes, "replay_objective_ms": timing.replay_objective_ms}
        more: Toml = {"metasrv": addresses, "log_store": "objects", "lanes": 2}
        add(f"dn-{number}", "datanode", site, next(free), next(free),
            {**more, "object_store": objects, "engine": engine})  # fmt: skip
    for number, site in enumerate(FRONTEND_SITES, start=1):
        add(f"fe-{number}", "frontend", site, "", next(free), {"metasrv": addresses})
    return Layout(folder, cluster_id, tuple(members), timing)


def to_toml(settings: Toml) -> str:
    """A TOML document: plain values first, then one section a mapping. Strings are TOML's basic strings."""
    plain = [f"{key} = {json.dumps(value)}" for key, value in settings.items() if not isinstance(value, Mapping)]
    sections = [
        "\n".join(["", f"[{key}]", *(f"{json.dumps(name)} = {json.dumps(item)}" for name, item in value.items())])
        for key, value in settings.items()
        if isinstance(value, Mapping)
    ]
    return "\n".join([*plain, *sections, ""])
