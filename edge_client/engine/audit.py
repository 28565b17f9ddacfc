"""What the cloud thought of every token it has read: the risk that was really taken
(docs/algorithms.md, section 3).
"""

from collections.abc import Sequence

import numpy as np

from hedge.common.errors import Unreachable
from hedge.edge_client.engine.gates.recalibration import Recalibrated
from hedge.edge_client.engine.sequence import Token
from hedge.edge_client.engine.statistics import Statistics, rejection
from hedge.v1 import hedge_pb2 as pb


class Auditor:
    """Computes beta of every token the cloud has judged, tested or not."""

    def __init__(
        self, form: "pb.Audit.ValueType", statistics: Statistics, recalibrated: Recalibrated | None
    ) -> None:
        self.form = form
        self.rejections: list[float] = []
        self._statistics = statistics
        self._recalibrated = recalibrated

    def take(self, verdict: pb.Verdict, judged: Sequence[Token]) -> None:
        if self.form == pb.AUDIT_NONE:
            return
        targets = audited(verdict.audit, self.form)
        if len(targets) != len(judged):
            raise Unreachable(f"the server audited {len(targets)} of {len(judged)} tokens")
        if not np.isfinite(targets).all():
            raise Unreachable(
                f"the server's audit holds {targets[~np.isfinite(targets)][0]}, which is no "
                "probability"
            )
        for token, target in zip(judged, targets, strict=True):
            beta = rejection(token.prob, float(target))
            self._statistics.audited += 1
            if token.proposal:
                self.rejections.append(beta)
            else:
                self._statistics.risk += beta
            if self._recalibrated:
                self._recalibrated.observe_audit(0.0 if token.proposal else beta)


def audited(data: bytes, form: "pb.Audit.ValueType") -> np.ndarray:
    """y_d per token, float64, from either form of the audit."""
    if form == pb.AUDIT_FLOAT32:
        return np.frombuffer(data[: len(data) // 4 * 4], dtype="<f4").astype(np.float64)
    codes = np.frombuffer(data, dtype=np.uint8)
    return np.where(codes == 255, 0.0, np.exp(codes / -16.0))
