"""Free TCP ports for parallel test processes: each is held while the test process lives, as launchers hold theirs."""

from metactl.ports import PortHolder

_HOLDER = PortHolder()


def free_ports(n: int) -> list[int]:
    """`n` ports on 127.0.0.1 that nobody listens on now and that no other test process, or launcher, will be given."""
    return _HOLDER.take(n)
