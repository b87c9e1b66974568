"""The cluster's generation markers in the object store: who may begin generation n is decided by put-if-absent.

`cluster/generations/{n:010d}` is a small JSON file that names the cluster. A bootstrap takes generation 1; a start
from backup takes the next one. Tokens of lower generations are refused everywhere (DESIGN §2, T20). A datanode opens
no lane in a store that holds no marker of its cluster: nobody else would ever read what it acknowledged there.
"""

import msgspec

from groundwork.core.errors import AlreadyExists, BadInput, Damaged, ForeignCluster
from groundwork.core.ports import ObjectStore

PREFIX = "cluster/generations/"
FORMAT = "metasrv-generation"
VERSION = 1


class Marker(msgspec.Struct, frozen=True):
    """The body of a generation marker."""

    format: str
    version: int
    cluster_id: str
    generation: int


def key_of(generation: int) -> str:
    """Where the marker of a generation is."""
    return f"{PREFIX}{generation:010d}"


async def newest(store: ObjectStore, cluster_id: str) -> int:
    """The highest generation that has begun; 0 for none. Raises ForeignCluster where another cluster lives here."""
    keys = await store.list(PREFIX)
    if not keys:
        return 0
    return _check(keys[-1], await store.get(keys[-1]), cluster_id)


async def begin_first(store: ObjectStore, cluster_id: str) -> None:
    """Take generation 1, or find that this very cluster has (a bootstrap that was interrupted).

    Raises ForeignCluster where the store is another cluster's, BadInput where a later generation began: then this
    replica's empty state is not the cluster's.
    """
    found = await newest(store, cluster_id)
    if found > 1:
        raise BadInput(
            "object_store",
            f"generation {found} of cluster {cluster_id} has begun there, but this metasrv has no state: "
            "restore its data folder or start from backup",
        )
    if found == 1:
        return
    try:
        await store.create(key_of(1), msgspec.json.encode(Marker(FORMAT, VERSION, cluster_id, 1)))
    except AlreadyExists:
        _check(key_of(1), await store.get(key_of(1)), cluster_id)


async def check_begun(store: ObjectStore, cluster_id: str) -> None:
    """Raise BadInput where the cluster, which has begun, has not begun in this store; ForeignCluster where another has.

    StoreUnavailable: not known, ask again.
    """
    if await newest(store, cluster_id) == 0:
        raise BadInput(
            "object_store",
            f"it holds no {PREFIX} of cluster {cluster_id}: name the same directory or bucket as metasrv does",
        )


def _check(key: str, body: bytes, cluster_id: str) -> int:
    try:
        marker = msgspec.json.decode(body, type=Marker)
    except msgspec.DecodeError as error:
        raise Damaged(f"{key} is not a generation marker: {error}") from error
    if marker.format != FORMAT or marker.version > VERSION:
        raise BadInput("object_store", f"{key} is of version {marker.version}, newer than {VERSION}: upgrade metasrv")
    if marker.cluster_id != cluster_id:
        raise ForeignCluster(
            f"cluster_id: the object store belongs to cluster {marker.cluster_id}, this is {cluster_id}: "
            "correct cluster_id, or use an object store (or prefix) of its own"
        )
    return marker.generation
