"""A document database embedded in Python that replicates itself.

    with mynosql.opendb("Name", mode="mirror", listen="127.0.0.1:8800") as db:
        rec = db.savedoc({"id": "lamp", "on": True})

Start with opendb or MyNoSQL; every error is a MyNoSQLError.
"""

from mynosql.codec import register_type
from mynosql.database import MyNoSQL, opendb
from mynosql.errors import (
    AddressInvalid,
    DatabaseLocked,
    ForkError,
    FormatUnknown,
    ListenFailed,
    MyNoSQLError,
    NotOpen,
    OptionInvalid,
    PeerError,
    PeerRefused,
    RecordInvalid,
    RecordNotFound,
    RecordUnavailable,
    RevisionConflict,
    StorageCorrupt,
    StorageError,
    StorageFailed,
    StorageFull,
)
from mynosql.feed import Feed
from mynosql.fields import merge_fields
from mynosql.options import OpenOptions
from mynosql.repairing import repair
from mynosql.views import Change, CheckReport, Conflict, DocInfo, Problem, Rejection, RepairReport, SyncStatus

__version__ = "1.0.0.dev0"

__all__ = [
    "AddressInvalid",
    "Change",
    "CheckReport",
    "Conflict",
    "DatabaseLocked",
    "DocInfo",
    "Feed",
    "ForkError",
    "FormatUnknown",
    "ListenFailed",
    "MyNoSQL",
    "MyNoSQLError",
    "NotOpen",
    "OpenOptions",
    "OptionInvalid",
    "PeerError",
    "PeerRefused",
    "Problem",
    "RecordInvalid",
    "RecordNotFound",
    "RecordUnavailable",
    "Rejection",
    "RepairReport",
    "RevisionConflict",
    "StorageCorrupt",
    "StorageError",
    "StorageFailed",
    "StorageFull",
    "SyncStatus",
    "merge_fields",
    "opendb",
    "register_type",
    "repair",
]
