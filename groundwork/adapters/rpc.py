"""gRPC channels and servers with this program's options, mutual TLS where certificates are configured.

One event loop a process; the heartbeat thread uses the synchronous stack (docs/leases.md). `use_transport` puts another
transport in the place of gRPC's for everything that runs in the current context: the simulator gives each of its
processes a host of its own on a simulated network that way, and stubs, servicers and interceptors stay the real ones.
"""

import asyncio
import ipaddress
from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Protocol

import grpc
import grpc.aio

from groundwork.adapters.config import TlsConfig
from groundwork.core.errors import BadInput

MESSAGE_BYTES_MAX = 64 << 20
_OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    # A dead peer must be noticed within a lease even when its host vanished without a FIN.
    ("grpc.keepalive_time_ms", 2_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.max_ping_strikes", 0),
    # After a failover a process must find its peer again in tenths of a second, not in the library's two minutes.
    ("grpc.initial_reconnect_backoff_ms", 50),
    # Whatever its name says, it is the time that a connection may take to be made: TCP, TLS and the first frame, which
    # is several round trips between sites, and longer than that on a machine that is busy.
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 500),
    # Two servers must never share a port: the second one has to fail.
    ("grpc.so_reuseport", 0),
    ("grpc.use_local_subchannel_pool", 1),
]


class Transport(Protocol):
    """What carries the calls. Its channels and servers behave as those of grpc.aio."""

    def channel(self, address: str) -> grpc.aio.Channel:
        """A channel to an address."""
        ...

    def server(self, interceptors: Sequence[grpc.aio.ServerInterceptor]) -> grpc.aio.Server:
        """A server that is not bound yet."""
        ...

    def bind(self, server: grpc.aio.Server, address: str) -> int:
        """Bind it; the port. Raises BadInput when the address is in use."""
        ...


_transport: ContextVar[Transport | None] = ContextVar("transport", default=None)


def use_transport(transport: Transport) -> None:
    """Use it in this context and in all that are copied from it, instead of gRPC over TCP."""
    _transport.set(transport)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise BadInput("tls", f"cannot read {path}: {error.strerror}") from error


def is_loopback(address: str) -> bool:
    """Whether host:port names this machine only."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_transport(address: str, tls: TlsConfig | None, field: str) -> None:
    """Raise BadInput where plain text would leave this machine."""
    if tls is None and not is_loopback(address):
        raise BadInput(field, f"{address} is not a loopback address: configure [tls] (certificate, key, authority)")


def aio_channel(address: str, tls: TlsConfig | None, server_name: str | None = None) -> grpc.aio.Channel:
    """An asynchronous channel for the event loop.

    With `server_name`, the server's certificate must name that, whatever the address is: an identity, not a host.
    """
    transport = _transport.get()
    if transport is not None:
        return transport.channel(address)
    if tls is None:
        return grpc.aio.insecure_channel(address, options=_OPTIONS)
    named = [("grpc.ssl_target_name_override", server_name)] if server_name else []
    return grpc.aio.secure_channel(address, _channel_credentials(tls), options=[*_OPTIONS, *named])


def sync_channel(address: str, tls: TlsConfig | None) -> grpc.Channel:
    """A synchronous channel for a thread of its own."""
    if tls is None:
        return grpc.insecure_channel(address, options=_OPTIONS)
    return grpc.secure_channel(address, _channel_credentials(tls), options=_OPTIONS)


def aio_server(interceptors: Sequence[grpc.aio.ServerInterceptor] = ()) -> grpc.aio.Server:
    """A server on the running event loop. Interceptors come before every RPC, in this order."""
    transport = _transport.get()
    if transport is not None:
        return transport.server(interceptors)
    return grpc.aio.server(options=_OPTIONS, interceptors=list(interceptors))


def listen(server: grpc.aio.Server, address: str, tls: TlsConfig | None) -> int:
    """Bind the server; the port. Raises BadInput when the port is in use."""
    transport = _transport.get()
    if transport is not None:
        return transport.bind(server, address)
    check_transport(address, tls, "listen")
    try:
        if tls is None:
            return server.add_insecure_port(address)
        credentials = grpc.ssl_server_credentials(
            [(_read(tls.key), _read(tls.certificate))], _read(tls.authority), require_client_auth=True
        )
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise BadInput("listen", f"cannot listen on {address}: the port is in use or not allowed") from error


def raise_if_cancelled() -> None:
    """Raise CancelledError where the current task has been told to end.

    For loops that go on after a failed call: a cancellation that meets the status of a call is swallowed by grpc.aio,
    which then raises the status as AioRpcError. Such a loop would outlive its own end.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _channel_credentials(tls: TlsConfig) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(_read(tls.authority), _read(tls.key), _read(tls.certificate))
