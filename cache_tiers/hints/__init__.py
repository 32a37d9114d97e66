"""The wire between the API process and the engine's plugin.

One EngineCore utility call carries one encoded ``Command`` and returns one encoded reply (or an
encoded ``Failure``).

commands    what the API process asks and tells
replies     what the engine answers
kv_report   what one request reused
codec       all of them as bytes
wire        their common base, and the version
"""

from cache_tiers.hints.codec import decode_command, decode_reply, encode
from cache_tiers.hints.commands import (
    Arriving,
    Command,
    Drop,
    Expect,
    Flush,
    Fork,
    GetForesight,
    GetInfo,
    GetStatus,
    GetUsage,
    Hint,
    ListSessions,
    Park,
    Pin,
    Poll,
    Prefetch,
    TakeBroken,
    TakeReport,
    Truncate,
    TurnEnded,
    Unpin,
)
from cache_tiers.hints.kv_report import KvReport, Miss
from cache_tiers.hints.replies import (
    BrokenPin,
    BrokenPins,
    Done,
    Dropped,
    EngineInfo,
    Failure,
    Foresight,
    Pinned,
    Prefetched,
    Pulse,
    Reply,
    Report,
    SessionKv,
    SessionList,
    TenantBytes,
    Usage,
)
from cache_tiers.hints.wire import VERSION

__all__ = [
    "VERSION",
    "Arriving",
    "BrokenPin",
    "BrokenPins",
    "Command",
    "Done",
    "Drop",
    "Dropped",
    "EngineInfo",
    "Expect",
    "Failure",
    "Flush",
    "Foresight",
    "Fork",
    "GetForesight",
    "GetInfo",
    "GetStatus",
    "GetUsage",
    "Hint",
    "KvReport",
    "ListSessions",
    "Miss",
    "Park",
    "Pin",
    "Pinned",
    "Poll",
    "Prefetch",
    "Prefetched",
    "Pulse",
    "Reply",
    "Report",
    "SessionKv",
    "SessionList",
    "TakeBroken",
    "TakeReport",
    "TenantBytes",
    "Truncate",
    "TurnEnded",
    "Unpin",
    "Usage",
    "decode_command",
    "decode_reply",
    "encode",
]
