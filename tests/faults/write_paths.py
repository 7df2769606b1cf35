"""The write paths of the package, each a script that is recorded (recorded_child.py) and then replayed or disturbed.

A new way of writing gets a path here: a name and a script in PATHS. tests/test_power_loss.py then replays each of its
boundaries, tests/test_injection.py kills and fails each of its storage calls.
"""

from __future__ import annotations

_START = """
import sys
import mynosql.store.seal
from tests.faults.recorded_child import Child
child = Child(*sys.argv[1:])
SMALL = {"memtable_bytes_max": 1 << 16}
ids = [f"id{number:03}" for number in range(200)]
"""

_SCRIPTS = {
    "save each": """
node = child.open("A", durability="each")
node.save(*ids[:12])
node.save(*ids[:4])
node.close()
""",
    "save batch": """
node = child.open("A", durability="batch", fsync_interval_s=3600)
for start in range(0, 24, 6):
    node.save(*ids[start : start + 6])
    node.promise_durable()
node.save(*ids[30:33])
node.close()
""",
    "savedocs": """
node = child.open("A", fsync_interval_s=3600)
node.save_batch(*ids[:5])
node.save_batch(*ids[3:9])
node.promise_durable()
node.save_batch(*ids[20:60])
node.promise_durable()
node.save_batch(*ids[1:3])
node.close()
""",
    "delete": """
node = child.open("A", durability="each")
node.save_batch(*ids[:6])
node.delete(*ids[:3])
node.save(ids[0])
node.close()
node = child.open("A", durability="each")
node.delete(ids[0], ids[5])
node.save(ids[1])
node.close()
""",
    "seal and roll-over": """
mynosql.store.seal.SHARD_BYTES_MAX = 50_000
child.text_bytes = 12_000
node = child.open("A", fsync_interval_s=3600, **SMALL)
for start in range(0, 24, 3):
    node.save(*ids[start : start + 3])
    node.save(ids[start // 2])
    node.promise_durable()
node.close()
""",
    "reopen and recover": """
child.text_bytes = 9_000
node = child.open("A", durability="each", **SMALL)
node.save(*ids[:9])
node.close()
node = child.open("A", durability="each", **SMALL)
node.save(*ids[6:16])
node.delete(*ids[:3])
node.close()
node = child.open("A", durability="each", **SMALL)
node.save(*ids[:3])
node.close()
""",
    "compaction": """
child.text_bytes = 3_000
node = child.open("A", fsync_interval_s=3600, **SMALL)
for start in range(0, 24, 8):
    node.save(*ids[start : start + 8], *ids[:4])
    node.promise_durable()
    node.compact()
node.delete(*ids[4:8])
node.compact()
node.save(*ids[:3])
node.close()
""",
    "apply and acknowledge": """
b = child.open("B", mode="mirror", listen="127.0.0.1:0", receives=["A"], fsync_interval_s=3600, **SMALL)
a = child.open("A", peers=[b.db.endpoint], fsync_interval_s=3600)
child.text_bytes = 6_000
for start in range(0, 20, 4):
    a.save(*ids[start : start + 4])
    a.promise_durable(at="B")
a.save_batch(*ids[:8])
a.delete(*ids[8:10])
a.promise_durable(at="B")
a.close()
b.close()
""",
    "first sync": """
from functools import partial
from tests.waiting import wait_until
b = child.open("B", mode="mirror", listen="127.0.0.1:0", fsync_interval_s=3600)
for start in range(0, 100, 10):
    b.save_batch(*ids[start : start + 10])
b.promise_durable()
c = child.open("C", mode="mirror", listen="127.0.0.1:0", peers=[b.db.endpoint], receives=["B"], **SMALL)
wait_until(lambda: c.db.syncstatus().held == 100, 30.0, lambda: str(c.db.syncstatus()))
b.save(*ids[:10])
b.promise_durable(at="C")
c.close()
b.close()
""",
    "mode change": """
b = child.open("B", mode="mirror", listen="127.0.0.1:0", receives=["A"], fsync_interval_s=3600)
a = child.open("A", peers=[b.db.endpoint], listen="127.0.0.1:0", fsync_interval_s=3600)
a.save(*ids[:6])
a.promise_durable(at="B")
a.set_mode("Mirror")
a.promise_durable()
a.save(*ids[4:8])
a.set_mode("Peer")
a.promise_durable()
a.save(*ids[8:10])
a.promise_durable(at="B")
a.close()
b.close()
""",
    "eviction": """
b = child.open("B", mode="mirror", listen="127.0.0.1:0", receives=["A"], fsync_interval_s=3600)
a = child.open("A", peers=[b.db.endpoint], fsync_interval_s=3600, **SMALL)
child.text_bytes = 6_000
a.save(*ids[:24])
a.promise_durable(at="B")
a.evict(*ids[:6], *ids[18:22])
a.promise_durable()
a.fetch(*ids[4:8], ids[20])
a.promise_durable()
a.save(*ids[5:7])
a.promise_durable(at="B")
a.evict(ids[5])
a.close()
b.close()
""",
    "backup": """
child.text_bytes = 9_000
node = child.open("A", fsync_interval_s=3600, **SMALL)
node.save(*ids[:12])
node.delete(ids[3])
node.back_up("C")
node.save(*ids[8:14])
node.back_up("D")
node.close()
""",
}

PATHS = {name: _START + script for name, script in _SCRIPTS.items()}
"""Name → the whole script."""
