import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedge.common.errors import BadInput
from research.channel import Channel, open_uplink, path_loss_db, snr_at


def test_shannon_on_known_values() -> None:
    assert Channel(1e6, 0.0).rate(1.0) == pytest.approx(1e6)
    assert Channel(10e6, 10.0).rate(1.0) == pytest.approx(10e6 * np.log2(11))
    assert Channel(1e6, -10.0).rate(2.0) == pytest.approx(1e6 * np.log2(1.2))


def test_a_still_channel_needs_bits_over_rate_seconds() -> None:
    uplink = open_uplink(Channel(1e6, 0.0), np.random.default_rng(0))
    assert uplink.send(736_000, at=3.0) == pytest.approx(0.736)


def test_path_loss_and_snr_of_a_distance() -> None:
    assert path_loss_db(1000) == pytest.approx(128.1)
    assert path_loss_db(100) == pytest.approx(128.1 - 37.6)
    assert snr_at(1000, 1e6) == pytest.approx(23 - 128.1 + 174 - 60)


@pytest.mark.parametrize("fading", ["token", "block"])
def test_the_gain_is_exponential_and_its_draws_are_the_generators(fading: str) -> None:
    """Mean airtime of many messages against the integral of 1/C for `token`, of C for long `block`
    messages.
    """
    channel = Channel(1e6, 10.0, fading, coherence_s=1e-3)
    first = open_uplink(channel, np.random.default_rng(7))
    again = open_uplink(channel, np.random.default_rng(7))
    gains = np.random.default_rng(1).exponential(size=400_000)
    if fading == "token":
        times = np.array([first.send(1000, 0.0) for _ in range(20_000)])
        assert np.median(times) == pytest.approx(np.median(1000 / channel.rate(gains)), rel=0.03)
        assert [again.send(1000, 0.0) for _ in range(5)] == list(times[:5])
    else:
        took = first.send(3e8, 0.0)
        assert 3e8 / took == pytest.approx(float(channel.rate(gains).mean()), rel=0.02)
        assert again.send(3e8, 0.0) == took


def test_outage_waits_for_a_better_draw_as_often_as_it_says() -> None:
    channel = Channel(1e6, 0.0, "token", coherence_s=1.0, outage=1.0)
    assert channel.outage_probability == pytest.approx(1 - np.exp(-1))
    uplink = open_uplink(channel, np.random.default_rng(3))
    waits = np.array([np.floor(uplink.send(1.0, 0.0)) for _ in range(20_000)])
    # Five standard errors of a geometric distribution's share of zeros.
    assert abs((waits == 0).mean() - np.exp(-1)) < 5 * np.sqrt(0.25 / len(waits))


@given(st.lists(st.floats(1, 1e6), min_size=2, max_size=20), st.floats(0, 10), st.integers(0, 1000))
@settings(max_examples=100, deadline=None)
def test_blocks_carry_the_same_in_one_message_or_in_several(
    sizes: list[float], start: float, seed: int
) -> None:
    """The gain lies on the clock, not on the message; outage included."""
    channel = Channel(1e6, 5.0, "block", coherence_s=0.02, outage=0.5)
    whole = open_uplink(channel, np.random.default_rng(seed)).send(sum(sizes), start)
    parts = open_uplink(channel, np.random.default_rng(seed))
    now = start
    for size in sizes:
        now += parts.send(size, now)
    assert now - start == pytest.approx(whole, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0, 10), "bandwidth 0"),
        ((float("nan"), 10), "bandwidth nan"),
        ((1e6, float("-inf")), "SNR -inf"),
        ((1e6, float("nan")), "SNR nan"),
        ((1e6, 10, "rain"), "rain"),
        ((1e6, 10, "block", 0), "coherence 0"),
        ((1e6, -30, "none", 0.01, 1.0), "outage"),
        ((1e6, -30, "token", 0.01, 1.0), "nearly always"),
    ],
)
def test_channels_that_are_none(arguments: tuple[float, float], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        Channel(*arguments)
