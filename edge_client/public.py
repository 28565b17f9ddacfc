"""Settings for programs: a system by name, its options by keyword, as on the command line."""

from typing import Any

from common.command import command_parser
from common.errors import BadInput
from common.model import LanguageModel
from edge_client.cli.options import Pair, add_system, add_warp, settings_from
from edge_client.config import SYSTEMS, Settings
from edge_client.transport.link import Link


def choose(system: str = "hedge", *, slm: LanguageModel, link: Link | None = None, **options: Any) -> Settings:
    """What `hedge generate --system SYSTEM` would do with these options: `temperature=0`, `seed=1`, `max_risk=0.02`, ...

    `link` says which cloud the calibration has to belong to. BadInput for a system or an option there is not, and for
    values that make no sense. Without `seed` it is 0.
    """
    if system not in SYSTEMS:
        raise BadInput(f"no system {system!r}; there are {', '.join(SYSTEMS)}")
    parser = command_parser("choose", "", "")
    add_system(parser)
    add_warp(parser)
    args = parser.parse_args(["--seed", "0"])
    for name, value in options.items():
        if name not in vars(args):
            raise BadInput(f"no option {name!r}; there are {', '.join(sorted(vars(args)))}")
        setattr(args, name, value)
    return settings_from(args, Pair(slm, link.info if link else None), system)
