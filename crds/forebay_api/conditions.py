"""What a status says: conditions by type and reason, and the one word that people read first.

A pool has Ready, Reconciling and Stalled alone. A type's meaning is API and never changes. ``STATES`` is display only:
machines read conditions.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ConditionType(StrEnum):
    """The last two are abnormal when True."""

    READY = "Ready"
    MODEL_RESOLVED = "ModelResolved"
    RESOURCES_AVAILABLE = "ResourcesAvailable"
    ACTIVE = "Active"
    LOADED = "Loaded"
    SCALING_ACTIVE = "ScalingActive"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"


class Status(StrEnum):
    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Reason(StrEnum):
    # Ready, Reconciling, Stalled in general
    READY = "Ready"
    PENDING = "Pending"
    INVALID_SPEC = "InvalidSpec"
    SUSPENDED = "Suspended"
    # ModelResolved
    RESOLVED = "Resolved"
    RESOLVING = "Resolving"
    NO_WORKER = "NoWorker"
    ARTIFACT_NOT_FOUND = "ArtifactNotFound"
    UNAUTHORIZED = "Unauthorized"
    CHECKSUM_MISMATCH = "ChecksumMismatch"
    UNSUPPORTED_ARCHITECTURE = "UnsupportedArchitecture"
    INVALID_CHECKPOINT = "InvalidCheckpoint"
    SOURCE_UNAVAILABLE = "SourceUnavailable"  # tried again: not terminal, unlike the five above
    CACHE_FULL = "CacheFull"  # likewise
    # ResourcesAvailable
    AVAILABLE = "Available"
    INSUFFICIENT_GPUS = "InsufficientGPUs"
    POOL_NOT_FOUND = "PoolNotFound"
    # Active
    SERVING = "Serving"
    ACTIVATING = "Activating"
    QUEUED = "Queued"
    NO_TRAFFIC = "NoTraffic"
    # Loaded
    LOADED = "Loaded"
    LOADING = "Loading"
    NOT_LOADED = "NotLoaded"
    MODEL_LOAD_FAILED = "ModelLoadFailed"
    # ScalingActive
    SCALING = "Scaling"
    PINNED = "Pinned"
    EXTERNAL = "External"
    METRICS_UNAVAILABLE = "MetricsUnavailable"  # a gateway is missing
    PROMETHEUS_UNREACHABLE = "PrometheusUnreachable"
    PROMETHEUS_TIMEOUT = "PrometheusTimeout"
    PROMETHEUS_UNAUTHORIZED = "PrometheusUnauthorized"
    QUERY_INVALID = "QueryInvalid"
    NO_SAMPLES = "NoSamples"
    NOT_A_NUMBER = "NotANumber"
    STALE_SAMPLES = "StaleSamples"
    SEVERAL_SERIES = "SeveralSeries"
    PARTIAL_SAMPLES = "PartialSamples"  # fewer gateways were scraped than are connected
    CLOCK_SKEW = "ClockSkew"
    NOT_YET_KNOWN = "NotYetKnown"  # the stable window is not full yet
    # Ready, Reconciling, Stalled of a pool
    NO_MATCHING_NODES = "NoMatchingNodes"
    PROGRESSING = "Progressing"
    WORKERS_NOT_READY = "WorkersNotReady"
    PODS_REFUSED = "PodsRefused"


@dataclass(frozen=True, slots=True)
class Condition:
    """``since`` (lastTransitionTime, unix seconds) moves only when ``status`` does."""

    type: ConditionType
    status: Status
    reason: str
    message: str = ""
    observed_generation: int = 0
    since: float = 0.0

    def following(self, previous: Condition | None) -> Condition:
        """This condition with the time of ``previous``, if the status is still the same."""
        if previous is None or previous.status != self.status:
            return self
        # Not `replace`, which takes ten times as long: it is done eight times a pass for each function.
        return Condition(self.type, self.status, self.reason, self.message, self.observed_generation, previous.since)


class State(StrEnum):
    IDLE = "Idle"
    QUEUED = "Queued"
    LOADING = "Loading"
    PIPELINED = "Pipelined"
    SERVING = "Serving"
    DRAINING = "Draining"
    SUSPENDED = "Suspended"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True)
class Facts:
    """What the state of a function follows from.

    ``failed``: a terminal error; ``suspended``: switched off by its spec; ``whole``: a formed pipeline of one stage;
    ``staged``: a formed pipeline of several; ``loading``: units are on their way to a pipeline; ``waiting``: requests
    are held; ``draining``: pipelines only finish what they have.
    """

    failed: bool = False
    suspended: bool = False
    whole: bool = False
    staged: bool = False
    loading: bool = False
    waiting: bool = False
    draining: bool = False


# The first fact that holds, from the top, gives the state:
#
#   failed suspended whole staged loading waiting draining
#     yes      ·       ·     ·       ·       ·       ·       Failed      whatever runs, a person must act
#     no      yes      ·     ·       ·       ·       ·       Suspended
#     no      no      yes    ·       ·       ·       ·       Serving     though other replicas still load
#     no      no      no    yes      ·       ·       ·       Pipelined   answers, by several workers
#     no      no      no    no      yes      ·       ·       Loading
#     no      no      no    no      no      yes      ·       Queued      held, and no plan yet
#     no      no      no    no      no      no      yes      Draining
#     no      no      no    no      no      no      no       Idle        and Ready
STATES: tuple[tuple[str, State], ...] = (
    ("failed", State.FAILED),
    ("suspended", State.SUSPENDED),
    ("whole", State.SERVING),
    ("staged", State.PIPELINED),
    ("loading", State.LOADING),
    ("waiting", State.QUEUED),
    ("draining", State.DRAINING),
)


def state(facts: Facts) -> State:
    return next((state for fact, state in STATES if getattr(facts, fact)), State.IDLE)
