"""What the cloud thought of every token it has read: the risk that was really taken (algorithms: section 3)."""

from collections.abc import Sequence

import numpy as np
from hedge.v1 import hedge_pb2 as pb

from common.errors import Unreachable
from edge_client.engine.drafter import Drafted
from edge_client.engine.gates.recalibration import Recalibrated
from edge_client.engine.statistics import Statistics, rejection
from edge_client.transport.messages import audited


class Auditor:
    """Computes beta of every token the cloud has judged, tested or not."""

    def __init__(self, form: "pb.Audit.ValueType", statistics: Statistics, recalibrated: Recalibrated | None) -> None:
        self.form = form
        self.rejections: list[float] = []
        self._statistics, self._recalibrated = statistics, recalibrated

    def take(self, verdict: pb.Verdict, drafted: Sequence[Drafted]) -> None:
        if self.form == pb.AUDIT_NONE:
            return
        targets = audited(verdict.audit, self.form)
        if len(targets) != len(drafted):
            raise Unreachable(f"the server audited {len(targets)} of {len(drafted)} tokens")
        if not np.isfinite(targets).all():
            raise Unreachable(f"the server's audit holds {targets[~np.isfinite(targets)][0]}, which is no probability")
        for draft, target in zip(drafted, targets, strict=True):
            beta = rejection(draft.proposed, float(target))
            self._statistics.audited += 1
            if draft.proposal:
                self.rejections.append(beta)
            else:
                self._statistics.risk += beta
            if self._recalibrated:
                self._recalibrated.audited(0.0 if draft.proposal else beta)
