"""Device profiles: the times and powers of machines that are not here. A run with one is emulated,
and says so.
"""

import math
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

from hedge.common.errors import BadInput
from hedge.common.files import TEXT

FOLDER = Path(__file__).parent / "profiles"
# The radio and the device of the GELATO study (docs/algorithms.md, section 4).
DEVICE_W = 12.0
RADIO_W = 0.2


@dataclass(frozen=True, slots=True)
class Profile:
    """Seconds and watts.

    A forward pass of the SLM takes slm_s + slm_position_s x (positions - 1), one of the LLM llm_s +
    llm_position_s x positions, `colocated_slm_s` is an SLM step beside the LLM in the cloud. The
    device draws `device_w` while it computes, `radio_w` while it sends.
    """

    name: str
    slm_s: float
    llm_s: float
    llm_position_s: float = 0.0
    slm_position_s: float = 0.0
    colocated_slm_s: float = 0.0
    device_w: float = DEVICE_W
    radio_w: float = RADIO_W
    about: str = ""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not 0 <= value < math.inf:
                raise BadInput(f"{field.name} {value:g} is not a number of at least 0")

    def energy(self, steps: int, uplink_bytes: float, rate: float) -> float:
        """Joules of the device: p_D T_D + p_U T_U (docs/algorithms.md, section 4), at `rate` bit/s
        up, 0 for no limit.
        """
        sending = 8 * uplink_bytes / rate if rate else 0.0
        return self.device_w * steps * self.slm_s + self.radio_w * sending


def list_profiles() -> dict[str, Path]:
    """The profiles that come with the package."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}


def read_profile(where: str | Path) -> Profile:
    """A profile by name, or a TOML file with slm_s and llm_s at least."""
    path = list_profiles().get(str(where), Path(where))
    numbers = [field.name for field in fields(Profile) if field.name not in ("name", "about")]
    try:
        data = tomllib.loads(path.read_text(TEXT))
        found = {name: float(data[name]) for name in numbers if name in data}
        if unknown := sorted(set(data) - {*numbers, "about"}):
            raise ValueError(f"unknown {', '.join(unknown)}")
        return Profile(path.stem, about=str(data.get("about", "")), **found)
    except OSError as error:
        raise BadInput(
            f"cannot read profile {path}: {error.strerror}; there are {', '.join(list_profiles())}"
        ) from None
    except (ValueError, TypeError) as error:
        raise BadInput(f"{path} is no device profile with slm_s and llm_s: {error}") from None
