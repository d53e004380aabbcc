"""What every process shows a Prometheus alike: the release it is of, and until when its certificates are good.

May not live here: what one process counts, and how it listens.
"""

from forebay_metrics.expiry import Expiry, watched
from forebay_metrics.release import shown

__all__ = ["Expiry", "shown", "watched"]
