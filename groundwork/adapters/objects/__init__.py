"""Object stores: a directory, or S3."""

from pathlib import Path

from groundwork.adapters.config import ObjectStoreConfig
from groundwork.adapters.objects.directory import DirectoryStore
from groundwork.adapters.objects.s3 import open_s3
from groundwork.core.errors import BadInput
from groundwork.core.ports import ObjectStore, Workers


def open_object_store(config: ObjectStoreConfig, workers: Workers) -> ObjectStore:
    """The store that `[object_store]` names. Raises BadInput when it names none, both, or one that cannot be used."""
    if bool(config.directory) == bool(config.s3_bucket):
        raise BadInput("object_store", "name either `directory` or `s3_bucket`")
    if config.directory:
        return DirectoryStore(Path(config.directory), workers)
    return open_s3(config)
