"""Names and numbers that identify things, and the arithmetic on them.

A token is `generation << 40 | n`, from one counter in the replicated state; tokens only grow. A region id is
`table_id << 32 | partition`. A lane belongs to one incarnation of one datanode and has one writer in its whole life.
"""

import re
from typing import NamedTuple

import msgspec

from groundwork.core.errors import BadInput

TOKEN_COUNTER_BITS = 40
REGION_PARTITION_BITS = 32
_NODE_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


def first_token(generation: int) -> int:
    """The first token of a generation: 1 for a bootstrap, the next one for each start from backup."""
    return (generation << TOKEN_COUNTER_BITS) + 1


def generation_of(token: int) -> int:
    """The generation that issued a token."""
    return token >> TOKEN_COUNTER_BITS


def region_id(table_id: int, partition: int) -> int:
    """The id of one partition of a table. Ids are never used again."""
    return table_id << REGION_PARTITION_BITS | partition


def table_of(region: int) -> int:
    """The table that a region belongs to."""
    return region >> REGION_PARTITION_BITS


def partition_of(region: int) -> int:
    """The place of a region in its table."""
    return region & ((1 << REGION_PARTITION_BITS) - 1)


def region_text(region: int) -> str:
    """A region as people read and type it: TABLE_ID.PARTITION."""
    return f"{table_of(region)}.{partition_of(region)}"


def token_text(token: int) -> str:
    """A token (an incarnation, an epoch, a procedure) as people read and type it."""
    return f"{token:#x}"


def check_node_id(value: str, field: str = "node_id") -> str:
    """Return the node id, or raise BadInput."""
    if not _NODE_ID.fullmatch(value):
        raise BadInput(field, f"{value!r} is not 1 to 63 of a-z, 0-9 and '-', starting with a letter or digit")
    return value


class Lane(msgspec.Struct, frozen=True, order=True, array_like=True):
    """One WAL stream of one incarnation of a datanode. str() is its name in the log store."""

    node_id: str
    incarnation: int
    index: int

    def __str__(self) -> str:
        return f"{self.node_id}/{self.incarnation:016x}/{self.index}"

    @classmethod
    def parse(cls, text: str) -> "Lane":
        """The inverse of str()."""
        node_id, incarnation, index = text.split("/")
        return cls(node_id, int(incarnation, 16), int(index))


class Locality(NamedTuple):
    """Failure domains: a site (a geographic place) and a zone in it."""

    site: str
    zone: str

    def __str__(self) -> str:
        return f"{self.site}/{self.zone}"

    @classmethod
    def parse(cls, text: str, field: str = "locality") -> "Locality":
        """Parse `site/zone`."""
        site, slash, zone = text.partition("/")
        if not (slash and _NODE_ID.fullmatch(site) and _NODE_ID.fullmatch(zone)):
            raise BadInput(field, f"{text!r} is not of the form site/zone, as in site-1/zone-a")
        return cls(site, zone)
