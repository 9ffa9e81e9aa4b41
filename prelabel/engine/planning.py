"""The beginning of a run: its source listed into a plan, or what the source has got since listed as further shards."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from itertools import chain, islice
from platform import python_version
from typing import Any

import numpy as np
import numpy.typing as npt

from prelabel import __version__
from prelabel.config import LabelOptions, raised
from prelabel.engine.progress import Reporter
from prelabel.errors import ConfigError, RunInterrupted, SourceError
from prelabel.image_ref import ImageRef
from prelabel.source.endings import describe_ignored
from prelabel.source.listing import SourceSummary, list_images
from prelabel.source.lists import other_name
from prelabel.storage import Storage, redact, without_secrets
from prelabel.store.links import Links
from prelabel.store.plan import Plan, new_refs, write_plan
from prelabel.store.plan_reader import digests_of
from prelabel.store.run import DetectorRecord, RunRecord


class Planner:
    """Lists sources for one call and tells how it goes.

    Args:
        options: Of the run.
        storage: Opens source and output.
        reporter: Hears how many images were listed.
        stop: Ends the listing when set.
    """

    def __init__(self, options: LabelOptions, storage: Storage, reporter: Reporter, stop: threading.Event) -> None:
        self._options = options
        self._storage = storage
        self._reporter = reporter
        self._stop = stop
        self._summary = SourceSummary()
        self._refs: Iterator[ImageRef] = iter(())
        self.seconds = 0.0
        self.links = Links()

    def look(self) -> None:
        """Look every source and the output up, without listing: what is mistyped is told before a model is fetched.

        Raises:
            SourceError: A source is missing.
            ConfigError: The output is a source itself.
        """
        start = time.perf_counter()
        options = self._options
        if options.output in (source.rstrip("/") for source in options.source):
            raise ConfigError(f"--output {redact(options.output)} is the source itself; name a folder of its own")
        self._refs = self._listed(self._summary)
        self.seconds = time.perf_counter() - start

    def plan(self, detector: DetectorRecord) -> RunRecord:
        """List the source into a plan.

        Nothing of an older run is touched, and the new one exists only when its `run.json` is written.

        Raises:
            SourceError: A source is missing, empty, or holds two images of one id.
        """
        options, run_id = self._options, uuid.uuid4().hex
        start = time.perf_counter()
        plan = write_plan(
            islice(self._list(), options.limit),
            options.output,
            self._storage,
            shard_size=options.shard_size,
            plan_id=run_id[:8],
            links=self.links,
        )
        if not plan.images:
            raise SourceError("there is no image to label: all that the sources hold was left out")
        self.seconds += time.perf_counter() - start
        self._reporter.message(f"{_images_in_shards(plan.images, plan.shards)}{self._ignored()}")
        self._tell_queries()
        return RunRecord(
            run_id=run_id,
            created=now(),
            settings=options.settings(),
            source=self._summary.to_json(),
            detector=detector,
            shard_size=plan.shard_size,
            parts=plan.parts,
            versions=_versions(),
        )

    def add_new(self, earlier: RunRecord) -> RunRecord | None:
        """Plan the images that no shard holds yet as further shards; None where there are none.

        Raises:
            SourceError: As for `plan`.
        """
        options = self._options
        start = time.perf_counter()
        plan = Plan.open(options.output, earlier.parts, self._storage)
        new = new_refs(named_as_planned(self._list(), plan), plan)
        first = next(new, None)
        if first is None:
            self._reporter.message("the source holds no new image")
            return None
        added = write_plan(
            chain([first], new),
            options.output,
            self._storage,
            shard_size=earlier.shard_size,
            first_shard=earlier.shards,
            plan_id=uuid.uuid4().hex[:8],
        )
        self.seconds += time.perf_counter() - start
        self._reporter.message(f"{_images_in_shards(added.images, added.shards, 'new ')}{self._ignored()}")
        self._tell_queries()
        return replace(
            earlier,
            parts=(*earlier.parts, *added.parts),
            source=self._summary.to_json(),
            settings=_as_begun(earlier.settings, options.settings()),
        )

    def find_links(self, record: RunRecord, plan: Plan) -> None:
        """Where images of a run that goes on came by signed links, read those again: signatures are not stored.

        Raises:
            SourceError: The source cannot be listed any more.
        """
        if not any(source.get("signed") for source in record.source.get("sources", ())):
            return
        start = time.perf_counter()
        self._refs = self._listed()
        self.links.find(named_as_planned(self._list(), plan), plan)
        self.seconds += time.perf_counter() - start
        self._reporter.message(f"{self.links.count:,} signed link{'s' * (self.links.count != 1)} read again")

    def _listed(self, summary: SourceSummary | None = None) -> Iterator[ImageRef]:
        options = self._options
        return list_images(
            options.source,
            self._storage,
            image_root=options.image_root,
            summary=summary,
            sniff=options.sniff,
            output=options.output,
            on_file=self._go_on,
        )

    def _go_on(self) -> None:
        if self._stop.is_set():
            raise RunInterrupted("stopped while the source was being listed; nothing was changed")

    def _list(self) -> Iterator[ImageRef]:
        for number, ref in enumerate(self._refs, 1):
            if number % 1000 == 0:
                self._reporter.listed(number)
            yield ref

    def _tell_queries(self) -> None:
        count = sum(source.by_query for source in self._summary.sources)
        if count:
            self._reporter.message(
                f"{count:,} web images differ from others in the query of their address only: their image_id ends in a "
                "digest of it, but for those planned before under a name without; a column image_id in the list gives "
                "them others"
            )

    def _ignored(self) -> str:
        ignored = self._summary.ignored
        count = sum(ignored.values())
        what = describe_ignored(ignored, self._options.sniff)
        return f" ({count:,} other file{'s' * (count != 1)} ignored: {what})" if count else ""


def named_as_planned(refs: Iterable[ImageRef], plan: Plan) -> Iterator[ImageRef]:
    """The images of a list, each under the name that the plan has for its address.

    Whether the name of a web address with a query ends in the query's digest depends on what else is in the list: with
    `img?id=2` added to it, `img?id=1` would be a new image. Holds 16 bytes for each image of the plan once an address
    with a query comes.
    """
    planned = None
    for ref in refs:
        name = other_name(ref)
        if name is not None:
            if planned is None:
                planned = plan.address_digests()
                planned.sort()
            address = without_secrets(ref.uri)
            if not _holds(planned, ref.image_id, address) and _holds(planned, name, address):
                yield replace(ref, image_id=name, file_name=name)
                continue
        yield ref


def _holds(planned: npt.NDArray[np.bytes_], image_id: str, address: str) -> bool:
    (digest,) = digests_of([f"{image_id}\0{address}"])
    place = int(np.searchsorted(planned, digest))
    return place < len(planned) and bool(planned[place] == digest)


def _as_begun(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a run that grows: its source may be named anew, its limits stay those it was begun with."""
    limits = raised(stored, wanted)
    return {name: stored[name] if name in limits and name in stored else now for name, now in wanted.items()}


def _images_in_shards(images: int, shards: int, new: str = "") -> str:
    return f"{images:,} {new}image{'s' * (images != 1)} in {shards:,} {new}shard{'s' * (shards != 1)}"


def now() -> str:
    """This moment, UTC, ISO 8601 to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    versions = {"prelabel": __version__, "python": python_version()}
    for name in ("ray", "tensorflow", "tensorflow-hub", "numpy", "pillow", "pyarrow", "fsspec"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
