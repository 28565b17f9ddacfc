"""Systems as benches name them: NAME:OPTION=VALUE,..."""

import argparse
import copy

from hedge.common.command import command_parser
from hedge.common.errors import BadInput
from hedge.edge_client.cli.options import add_system
from hedge.edge_client.systems import SYSTEMS


def parse_system(spec: str, args: argparse.Namespace) -> argparse.Namespace:
    """The options of NAME:OPTION=VALUE,... over those of the command line."""
    name, _, rest = spec.partition(":")
    if name not in SYSTEMS:
        raise BadInput(f"no system {name!r}; there are {', '.join(SYSTEMS)}")
    parser = command_parser(f"hedge ... --systems {spec}", "", "")
    add_system(parser)
    words = ["--system", name]
    for part in rest.split(",") if rest else []:
        option, mark, value = part.partition("=")
        if not mark:
            raise BadInput(f"{spec}: {part!r} is not OPTION=VALUE")
        words += [f"--{option.replace('_', '-')}={value}"]
    return parser.parse_args(words, copy.copy(args))
