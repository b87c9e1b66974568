"""Structured logs: one JSON line an event on stderr, or coloured text where a person is watching."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

FIRST = ("timestamp", "level", "process", "event")


def _readable(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """When, how bad, who, what; then the figures in the order of the call."""
    return {key: event[key] for key in FIRST if key in event} | {k: v for k, v in event.items() if k not in FIRST}


def configure_logs(process: str, level: str = "info") -> None:
    """Set up structlog for one process. `process` (its node id) is on every line."""
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    tty = sys.stderr.isatty()
    if tty:
        processors.append(structlog.dev.ConsoleRenderer())
    else:
        processors += [_readable, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)
