import numpy as np
import pytest

from hedge.common.errors import BadInput
from hedge.common.noise import Noise
from hedge.edge_client.config import VerificationConfig
from hedge.edge_client.engine.gates.simple import Constant, Random, Threshold
from hedge.edge_client.engine.verification.resampled import Resampled
from hedge.edge_client.systems import SYSTEMS
from tests.configs import changed, config_of


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"policy": "threshold", "threshold": float("nan")}, "nan"),
        ({"policy": "threshold"}, "threshold None"),
        ({"policy": "threshold", "threshold": float("inf")}, "threshold inf"),
        ({"theta": 0}, "theta 0"),
        ({"eta": float("inf")}, "eta inf"),
        ({"policy": "random", "verify_rate": 1.5}, "1.5"),
        ({"k": 0}, "k 0"),
        ({"bits": 0}, "bits 0"),
        ({"bits": 21}, "bits 21"),
        ({"seed": -1}, "seed -1"),
        ({"max_new_tokens": 0}, "max-new-tokens 0"),
        ({"stop": ("",)}, "empty"),
        ({"verification": "full"}, "truncation fixed"),
        ({"policy": "threshold", "threshold": 0.5, "draft_from": "sent"}, "perturbation"),
        ({"policy": "threshold", "threshold": 0.5, "verification": "coupled"}, "perturbation"),
        ({"exact": True}, "draft-from full"),
        ({"exact": True, "policy": "never", "draft_from": "sent"}, "policy never"),
        ({"max_in_flight": 0}, "max-in-flight 0"),
        ({"recalibrate": 0.1}, "recalibrate"),
        ({"probs_entries": 3}, "probs-entries 3"),
        ({"probs_entries": -1, "verification": "split"}, "probs-entries -1"),
        (
            {"probs_entries": 3, "verification": "split", "draft_from": "sent", "exact": True},
            "not exact",
        ),
        (
            {
                "recalibrate": 0.1,
                "policy": "threshold",
                "threshold": 0.5,
                "verification": "coupled",
                "exact": True,
            },
            "takes no risk",
        ),
    ],
)
def test_bad_settings_name_the_value(changes: dict[str, object], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        config_of(**changes)  # type: ignore[arg-type]


def test_exact_is_claimed_only_where_every_position_is_tested_against_its_proposal() -> None:
    assert config_of(policy="always", draft_from="sent").guarantee == "exact"
    assert config_of(policy="always", draft_from="full").guarantee == "opportunistic"
    assert (
        config_of(policy="random", verify_rate=1.0, draft_from="sent").guarantee == "opportunistic"
    )
    assert config_of(policy="stream").guarantee == "exact"
    gated = config_of(policy="threshold", threshold=0.5, measure="margin", verification="coupled")
    assert gated.guarantee == "opportunistic"
    assert changed(gated, exact=True).guarantee == "exact"
    assert config_of(policy="never").guarantee == "opportunistic"


def test_how_many_entries_a_message_keeps() -> None:
    probs = np.array([0.9, 0.06, 0.03, 0.005, 0.005])

    def resampled(**options: object) -> Resampled:
        return Resampled(VerificationConfig(**options), Noise(0, [1]), len(probs))  # type: ignore[arg-type]

    assert resampled(k=3).kept(probs) == resampled(truncation="offline", k=3).kept(probs) == 3
    assert resampled(kind="full", truncation="none").kept(probs) == 5
    online = resampled(truncation="online", theta=0.1, slope=1.0, intercept=0.0)
    # The flattening is 0.08 for k = 1, 0.033 for k = 2, 0 for k = 3; theta l is 0.066 with the
    # draft and 0.031 without.
    assert online.kept(probs, drafted=0.9, uncertainty=0.0) == 2
    assert online.kept(probs) == 3
    assert resampled(truncation="online", theta=1.0).kept(probs) == 1


def test_a_dead_link_is_waited_for_only_where_it_keeps_a_promise() -> None:
    assert (SYSTEMS["hedge"].on_disconnect, SYSTEMS["hedge"].patience) == ("wait", 60.0)
    assert (SYSTEMS["cu-hlm"].on_disconnect, SYSTEMS["cu-hlm"].patience) == ("continue", 5.0)
    asked = changed(SYSTEMS["cu-hlm"], on_disconnect="wait")
    assert (asked.on_disconnect, asked.patience, changed(asked, patience=7.0).patience) == (
        "wait",
        60.0,
        7.0,
    )


def test_policies() -> None:
    assert Constant(True).asks(0.0, 0)
    assert not Constant(False).asks(1.0, 0)
    assert [Threshold(0.5).asks(u, 0) for u in (0.4, 0.5, 0.6)] == [False, False, True]
    asked = [Random(0.3, Noise(1, [2])).asks(0.0, t) for t in range(4000)]
    assert 0.27 < sum(asked) / 4000 < 0.33
    assert asked == [Random(0.3, Noise(1, [2])).asks(1.0, t) for t in range(4000)]


def test_the_table_of_systems() -> None:
    assert set(SYSTEMS) == {"slm", "llm", "hlm", "rand-hlm", "u-hlm", "cu-hlm", "gelato", "hedge"}
