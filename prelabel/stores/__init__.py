"""What each object store needs beyond fsspec's common interface, one file for one store's library.

`base` says what that is; `s3`, `gcs` and `azure` do it; `STORES` finds it by the protocol of an address. Private
interfaces of `s3fs`, `gcsfs` and `adlfs` are used in these files alone, and `tests/test_stores.py` says when one moved.
"""

from __future__ import annotations

from prelabel.stores.azure import Azure
from prelabel.stores.base import ObjectStore
from prelabel.stores.gcs import Gcs
from prelabel.stores.s3 import S3

#: The object stores by protocol. Every other store is used through fsspec's common interface.
STORES: dict[str, ObjectStore] = {protocol: store for store in (S3(), Gcs(), Azure()) for protocol in store.protocols}
