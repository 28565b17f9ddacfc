"""What an answer has sent and received, and waited for."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Traffic:
    """Payload bytes are protobuf messages, the opening (`open_bytes`) included; socket bytes those
    of TCP, HTTP/2 included.
    """

    open_bytes: int = 0
    # Ids of prompts, and of answers so far, in openings.
    open_ids: int = 0
    uplink_payload_bytes: int = 0
    uplink_codec_bytes: int = 0
    uplink_paper_bits: int = 0
    downlink_payload_bytes: int = 0
    uplink_socket_bytes: int | None = None
    downlink_socket_bytes: int | None = None
    codec_s: float = 0.0
    wait_s: float = 0.0
    # From the last message that was judged to its verdict.
    verdict_s: float = 0.0
    disconnects: int = 0
    # When the cloud was gone, and when it was back, in seconds since the answer began.
    gaps: list[list[float]] = field(default_factory=list)
    # Of the cloud's rows: `bitwise`, `rounding`, or None when it does not say.
    engine: str | None = None
