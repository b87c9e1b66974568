"""The typed errors that more than one part handles.

MetasrvError
├── BadInput             a person or program asked for something that is not allowed; names the field
├── StoreError
│   ├── NotFound         no such object
│   ├── AlreadyExists    put-if-absent met an object: read its body to learn whose
│   └── StoreUnavailable slow, refused or broken; the outcome of a put is then NOT known
├── LaneError
│   ├── Sealed           the lane is over for good: this writer is out
│   ├── Trimmed          asked for positions below the trim point
│   └── Damaged          bytes that fail their checksum, or an object that cannot be what it claims
│       └── NewerFormat  whole bytes that a newer release wrote: nothing is lost, run that release
├── ConsensusError
│   ├── NotLeader        ask `leader_id`, where known
│   └── Unknown          the outcome is not known: propose again under the same request id
├── Refused              the cluster's state does not allow it; `kind` says why (not_found, exists, conflict, ...)
│   └── PermissionDenied the caller's certificate does not allow it
└── ForeignCluster       the other side belongs to another cluster
"""


class MetasrvError(Exception):
    """The base of every error that this program raises on purpose."""


class BadInput(MetasrvError):
    """What was asked is not allowed. `field` names it; the message says what is allowed."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class StoreError(MetasrvError):
    """The object store answered with something else than success."""


class NotFound(StoreError):
    """No object has this key."""


class AlreadyExists(StoreError):
    """Put-if-absent met an object. Its body decides whether it is one's own."""


class StoreUnavailable(StoreError):
    """The store did not answer, or with a passing fault. A put may or may not have landed."""


class LaneError(MetasrvError):
    """A lane cannot do what was asked."""


class Sealed(LaneError):
    """The lane has been sealed: no append will ever be acknowledged again."""


class Trimmed(LaneError):
    """The positions asked for lie below the trim point."""


class Damaged(LaneError):
    """Stored bytes fail their checksum, or are not what their name says."""


class NewerFormat(Damaged):
    """A newer release wrote these bytes. They may not be guessed at; that release can read them."""


class ConsensusError(MetasrvError):
    """A command could not be committed through this replica."""


class NotLeader(ConsensusError):
    """This replica does not lead. `leader_id` is the one that does, or None where not known."""

    def __init__(self, leader_id: str | None) -> None:
        super().__init__(f"not the leader; leader: {leader_id or 'unknown'}")
        self.leader_id = leader_id


class Unknown(ConsensusError):
    """The command may or may not commit. Proposing it again under the same request id is safe."""


class Refused(MetasrvError):
    """The replicated state does not allow what was asked. `kind` is one word for programs: not_found, exists, ..."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class PermissionDenied(Refused):
    """Who asks may not ask for this, whatever the state is; the message says who may."""

    def __init__(self, message: str) -> None:
        super().__init__("permission_denied", message)


class ForeignCluster(MetasrvError):
    """The other side names another cluster id: nothing of it may be believed."""
