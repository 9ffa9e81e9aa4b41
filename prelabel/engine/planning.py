"""What happens before the workers start: the detector is inspected, and the source is listed into a plan.

The driver inspects only the files of the detector and never loads TensorFlow. When a run is resumed, the source is
listed again to compare it with the plan (`--add-new`, `--changed`, `--gone`), or for signed URLs, whose signatures are
not stored.
"""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from prelabel.config import LabelOptions, changed_limits
from prelabel.detectors.base import DetectorRecord
from prelabel.detectors.description import Description, describe_detector
from prelabel.engine.progress import Reporter
from prelabel.engine.source_comparison import SourceComparison, named_as_planned
from prelabel.errors import ConfigError, RunInterrupted, SourceError, first_of
from prelabel.image_ref import ImageRef
from prelabel.keypoints import COCO_PERSON
from prelabel.labels.keypoints import COCO_PERSON_KEYPOINTS, resolve_keypoints
from prelabel.labels.maps import LabelMap
from prelabel.source.formats import describe_ignored
from prelabel.source.listing import SourceSummary, list_images
from prelabel.storage.address import Address, AddressLike, redact
from prelabel.storage.files import Storage
from prelabel.store.links import Links
from prelabel.store.output import installed_versions
from prelabel.store.plan import Plan, PlanPart, PlanSummary, digests_of, remove_parts, write_plan
from prelabel.store.plan_update import update_plan
from prelabel.store.run import RunRecord, utc_now
from prelabel.store.source_check import DROP, FAIL, KEEP, SourceCheck
from prelabel.store.subset import ABSENT, ImageOrder
from prelabel.triage.image_list import ImageList
from prelabel.views import FLIP, USUAL_INPUT

#: Most damaged archives that are named in messages; `run.json` names more.
_MOST_DAMAGE = 5

#: Number of images whose ids are compared with the list of images at once.
_COMPARE_BATCH = 8192


def inspect_detector(
    options: LabelOptions,
    storage: Storage,
    notify: Callable[[str], None],
    stop: threading.Event | None = None,
) -> DetectorRecord:
    """Find the detector, fetching its model if needed, and refuse it if it is unsafe or does not fit the options.

    Args:
        options: Options of the run.
        storage: Opens the model and the label map.
        notify: Receives messages about settings that the user may want to change.
        stop: Ends the wait for a detector that is code.

    Raises:
        DetectorError: The model cannot be fetched, is not recognized, or is unsafe without `--trust-model`; or the
            detector is code that is not trusted or fails.
        ConfigError: The label map cannot be used, or does not have a selected class.
        RunInterrupted: `stop` was set.
    """
    detector = describe_detector(options, storage, notify, stop)
    if detector.record.classes is None and not detector.names_classes:
        notify("the detector has class numbers without names; use --label-map (a file, or `coco`) to name them")
    _require_boxes(options, detector)
    if options.batch_size and options.batch_size > 1 and not detector.takes_batches:
        notify(f"--batch-size {options.batch_size} has no effect: the detector takes one image at a time")
    if options.needs_working_size:
        for note in _notes_on_working_size(options, detector.input_size):
            notify(note)
    info = with_named_keypoints(detector.record, detector.labels, options, storage)
    for note in _notes_on_keypoints(info):
        notify(note)
    if info.classes is not None:
        options.selection.require_known_names(info.classes)
        for note in options.selection.class_notes(info.classes):
            notify(note)
    elif detector.names_classes and (names := options.selection.unknown_names(())):
        notify(
            "the detector's class names are known only while it runs, so these selected names were not checked: "
            + first_of([repr(name) for name in names], most=5)
        )
    for note in info.notes:
        notify(note)
    return info


def _require_boxes(options: LabelOptions, detector: Description) -> None:
    """Refuse several views for a classifier. Raises ConfigError."""
    views = options.view_options
    if not views.is_plain and detector.labels_images:
        raise ConfigError(
            f"--views {views.views}: {detector.record.name} labels whole images, and its labels cannot be merged: "
            "remove --views"
        )


def _notes_on_working_size(options: LabelOptions, size: int | None) -> list[str]:
    """What is decoded at full size, or cut into tiles of a guessed size, and why; one line each.

    Args:
        options: Options of the run.
        size: Pixels of the shorter side of the detector's input; None if unknown.
    """
    views, notes = options.view_options, []
    may_reduce = options.decode_scale == "auto"
    if may_reduce and size is None:
        notes.append("--decode-scale auto: the detector's input size is unknown, so images are decoded at full size")
    if views.needs_input_size and size is None:
        notes.append(
            f"--views {views.views}: the detector's input size is unknown, so it is taken to be {USUAL_INPUT} pixels; "
            "give --tile-size if it is not"
        )
    if may_reduce and views.has_tiles and views.tile_share is None:
        notes.append(
            "--decode-scale auto: images are decoded at full size, since the size of tiles is not a share of theirs"
        )
    return notes


def with_named_keypoints(
    info: DetectorRecord, labels: LabelMap | None, options: LabelOptions, storage: Storage
) -> DetectorRecord:
    """The same detector with the names of its keypoints, from `--keypoint-names`, itself or its label map.

    Raises:
        ConfigError: It has no keypoints although they are named, or another number of them; or the run shows it mirror
            images, but which of its keypoints are left and right is unknown.
    """
    if info.keypoints is None:
        if options.keypoint_names:
            raise ConfigError(f"--keypoint-names was given, but {info.name} returns no keypoints: remove it")
        return info
    keypoints = resolve_keypoints(
        info.keypoints,
        given=options.keypoint_names,
        in_label_map=None if labels is None else labels.keypoints,
        classes=info.classes or (),
        storage=storage,
    )
    if FLIP in options.view_options.kinds and keypoints.pairs is None:
        raise ConfigError(
            f"--views {options.view_options.views}: in a mirror image, left and right keypoints trade places, but "
            "which are left and right is unknown: name them with --keypoint-names (left_eye, right_eye), or remove flip"
        )
    return replace(info, keypoints=keypoints)


def _notes_on_keypoints(info: DetectorRecord) -> list[str]:
    keypoints = info.keypoints
    if keypoints is None or keypoints.has_names:
        return []
    note = f"the detector has {len(keypoints)} keypoints without names; use --keypoint-names to name them"
    if len(keypoints) == len(COCO_PERSON):
        note += f" (a file, or `{COCO_PERSON_KEYPOINTS}` if they are COCO's of a person)"
    return [note]


@dataclass(frozen=True, slots=True)
class PlanUpdate:
    """The plan of a run after it was compared with its sources.

    Attributes:
        record: The record with the new plan; the earlier one if nothing changes.
        check: What has changed in the sources.
        shards: Planned shards whose images change.
    """

    record: RunRecord
    check: SourceCheck
    shards: frozenset[int]


class Planner:
    """Lists the sources of one call into a plan.

    Args:
        options: Options of the run.
        storage: Opens the sources and the output.
        reporter: Receives the run's events.
        stop: Ends the listing when set.
        plan_folder: Where the plan is written, and read when it is extended; by default the output.

    Attributes:
        seconds: Seconds spent listing.
        links: Full addresses of images whose address in the plan lacks its signature or password.
    """

    def __init__(
        self,
        options: LabelOptions,
        storage: Storage,
        reporter: Reporter,
        stop: threading.Event,
        plan_folder: AddressLike | None = None,
    ) -> None:
        self._options = options
        self._plan_folder = options.output if plan_folder is None else plan_folder
        self._storage = storage
        self._reporter = reporter
        self._stop = stop
        self._summary = SourceSummary()
        self._list: ImageList | None = None
        self._refs: Iterator[ImageRef] = iter(())
        self.seconds = 0.0
        self.links = Links()

    def check(self) -> None:
        """Check that the sources exist, without listing them, and read the list of images that are wanted.

        So a typo is reported before the model is fetched.

        Raises:
            SourceError: A source is missing, or the list of images cannot be read.
            ConfigError: The output is one of the sources, or the list of images does not exist.
        """
        start = time.perf_counter()
        options = self._options
        if options.output in (source.rstrip("/") for source in options.source):
            raise ConfigError(
                f"--output {redact(options.output)} is also a source; use a separate folder for the output"
            )
        if options.images:
            self._list = ImageList.read(options.images, options.part, self._storage)
        self._refs = self._list_sources(self._summary)
        self.seconds = time.perf_counter() - start

    def plan(self, detector: DetectorRecord) -> RunRecord:
        """List the sources into a new plan.

        An older run is left unchanged, and the new run does not exist until its `run.json` is written.

        Raises:
            SourceError: A source is missing or empty, or two images have the same id.
            ConfigError: An image of the list is not in the sources.
        """
        options, run_id = self._options, uuid.uuid4().hex
        start = time.perf_counter()
        plan = write_plan(
            islice(self._wanted(self._listed()), options.limit),
            self._plan_folder,
            self._storage,
            shard_size=options.shard_size,
            views=options.view_options.usual_count,
            plan_id=run_id[:8],
            links=self.links,
        )
        if not plan.images:
            raise SourceError("no image to label: all files in the sources were ignored")
        self._report_plan(plan, start)
        return RunRecord(
            run_id=run_id,
            created=utc_now("seconds"),
            settings=options.settings(),
            source=self._summary.to_json(),
            detector=detector,
            shard_size=plan.shard_size,
            parts=plan.parts,
            versions=installed_versions(),
        )

    def update(self, earlier: RunRecord) -> PlanUpdate:
        """Compare the sources with the plan of a run, and plan what `--add-new`, `--changed` and `--gone` ask for.

        New images become additional shards. Images that have changed or are gone change the plan of their shards. The
        run stays as it is until the new record is written.

        Raises:
            SourceError: As for `plan`; or no image would be left.
            ConfigError: `--gone` would take the images of an earlier source for gone; or as for `plan`.
        """
        options = self._options
        start = time.perf_counter()
        settings = options.settings()
        earlier_sources = earlier.sources_not_in(settings["source"])
        if earlier_sources and options.gone in (DROP, FAIL):
            raise ConfigError(
                f"--gone {options.gone}: the run also has images of {first_of(earlier_sources, most=3)}, which would "
                "all count as gone: name these sources, too"
            )
        plan = Plan.open(self._plan_folder, earlier.parts, self._storage)
        comparison = SourceComparison(plan, is_exact=options.changed)
        added: tuple[PlanPart, ...] = ()
        new = comparison.new_refs(self._wanted(named_as_planned(self._listed(), plan)))
        try:
            if options.add_new:
                added = write_plan(
                    new,
                    self._plan_folder,
                    self._storage,
                    shard_size=earlier.shard_size,
                    is_exact=earlier.settings.get("shard_size", 0) is not None,
                    first_shard=earlier.shards,
                    plan_id=uuid.uuid4().hex[:8],
                ).parts
            else:
                deque(new, maxlen=0)
            gone_action = options.gone or KEEP
            if self._summary.damaged and gone_action != KEEP:
                raise SourceError(
                    f"--gone {gone_action}: which images are gone is unknown, since an archive is damaged: "
                    f"{first_of(self._summary.damage, most=1)}"
                )
            edits = comparison.edits(relabel=options.changed, gone_action=gone_action)
            if gone_action == DROP and comparison.gone == plan.images and not added:
                raise SourceError(
                    "no image of the run is in the source any more: use --add-new as well, to add those that are"
                )
            parts = update_plan(
                plan, self._plan_folder, self._storage, edits.shards, edits.apply, plan_id=uuid.uuid4().hex[:8]
            )
        except BaseException:
            remove_parts(added, self._plan_folder, self._storage)
            raise
        self.seconds += time.perf_counter() - start
        covers_run = not (earlier_sources or self._list is not None or self._summary.damaged)
        check = SourceCheck(
            run_id=earlier.run_id,
            at=utc_now("seconds"),
            images=comparison.listed,
            new=comparison.new,
            changed=len(comparison.changed),
            gone=comparison.gone if covers_run else None,
            added=options.add_new,
            relabeled=options.changed,
            gone_action=gone_action,
        )
        self._report_check(check, comparison.unversioned)
        if not (added or edits.shards):
            return PlanUpdate(earlier, check, frozenset())
        record = replace(
            earlier,
            parts=(*parts, *added),
            source=self._summary.to_json(),
            settings=_grown_settings(earlier.settings, settings),
            earlier_sources=earlier_sources,
        )
        return PlanUpdate(record, check, edits.shards)

    def find_links(self, record: RunRecord, plan: Plan) -> None:
        """Collect the signed URLs of a resumed run by listing its sources again: signatures are not stored.

        Raises:
            SourceError: The source can no longer be listed.
        """
        if not any(source.get("signed") for source in record.source.get("sources", ())):
            return
        start = time.perf_counter()
        self._refs = self._list_sources()
        self.links.find(named_as_planned(self._listed(), plan), plan)
        self.seconds += time.perf_counter() - start
        self._reporter.message(
            f"read {self.links.count:,} signed URL{'s' * (self.links.count != 1)} from the source again"
        )

    def _list_sources(self, summary: SourceSummary | None = None) -> Iterator[ImageRef]:
        options = self._options
        return list_images(
            options.source,
            self._storage,
            image_root=options.image_root,
            image_column=options.image_column,
            summary=summary,
            sniff=options.sniff,
            output=Address.of_folder(options.output),
            on_file=self._check_stop,
        )

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise RunInterrupted("stopped while the source was being listed; nothing was changed")

    def _listed(self) -> Iterator[ImageRef]:
        for number, ref in enumerate(self._refs, 1):
            if number % 1000 == 0:
                self._reporter.listed(number)
            yield ref

    def _wanted(self, refs: Iterator[ImageRef]) -> Iterator[ImageRef]:
        """The images that are in the list of images, if there is one; ConfigError at the end if one is missing."""
        if self._list is None:
            yield from refs
            return
        order, found = ImageOrder.of(self._list.digests), np.zeros(len(self._list), bool)
        while batch := list(islice(refs, _COMPARE_BATCH)):
            places = order.places_of(digests_of([ref.image_id for ref in batch]))
            found[places[places != ABSENT]] = True
            yield from itertools.compress(batch, (places != ABSENT).tolist())
        self._list.require_found(found, "the sources")

    def _report_plan(self, plan: PlanSummary, start: float) -> None:
        """Report the planned images and the ignored files, after a listing that began at `start`."""
        self.seconds += time.perf_counter() - start
        images, shards = plan.images, plan.shards
        text = f"{images:,} image{'s' * (images != 1)} in {shards:,} shard{'s' * (shards != 1)}"
        self._report_listing(text)

    def _report_check(self, check: SourceCheck, unversioned: int) -> None:
        if check.new or check.changed or check.gone:
            self._report_listing(f"the source has {check}")
        else:
            nor = " or changed images, and none is gone" if check.gone is not None else " or changed images"
            asked = self._options.changed or self._options.gone
            self._report_listing(f"the source has no new{nor if asked else ' images'}")
        if check.gone is None and self._options.gone:
            self._reporter.message(
                "which images are gone is unknown, since this call did not list everything that the run was made of: a "
                "source was not named, or --images chose some of its images, or an archive is damaged"
            )
        if unversioned and self._options.changed:
            self._reporter.message(
                f"the source reports no version of {unversioned:,} image{'s' * (unversioned != 1)} (lists and web "
                "servers have none): a change is noticed only by another address or, if it is known, another size"
            )

    def _report_listing(self, text: str) -> None:
        """Report what was listed, the ignored files, and ids that end in a digest."""
        ignored = self._summary.ignored
        if count := sum(ignored.values()):
            kinds = describe_ignored(ignored, self._options.sniff)
            text += f" ({count:,} other file{'s' * (count != 1)} ignored: {kinds})"
        self._reporter.message(text)
        if damaged := self._summary.damaged:
            self._reporter.message(
                f"{damaged:,} archive{'s' * (damaged != 1)} could not be read to the end: the images before the damage "
                "are in the run, those behind it are not"
            )
            for damage in self._summary.damage[:_MOST_DAMAGE]:
                self._reporter.message(f"damaged archive {damage}")
        count = sum(source.by_query for source in self._summary.sources)
        if count:
            self._reporter.message(
                f"{count:,} URLs differ from others only in their query: their image_id ends in a digest of the query, "
                "except for images that were planned earlier without one. To choose the ids, add a column image_id to "
                "the list"
            )


def _grown_settings(stored: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a run with new images: those of this call, except that limits stay as the run was begun."""
    limits = changed_limits(stored, given)
    return {name: stored[name] if name in limits and name in stored else now for name, now in given.items()}
