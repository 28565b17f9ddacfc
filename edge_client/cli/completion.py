"""hedge completion: what a shell needs to complete the commands and their options."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from hedge.common.command import Parser, command_parser, described, parse
from hedge.edge_client.cli.commands import commands

EXAMPLES = """  source <(hedge completion bash)
  hedge completion zsh > ~/.zfunc/_hedge                  (a folder of $fpath)
  hedge completion fish > ~/.config/fish/completions/hedge.fish"""
# Values by option, or None for options whose values are files or free.
Options = dict[str, list[str]]

_BASH = """_hedge() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" words=""
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "{commands} --version --help" -- "$word"))
        return
    fi
    case "${{COMP_WORDS[1]}} $before" in
{values}
    esac
    if [ -z "$words" ] && [ "${{word:0:1}}" = "-" ]; then
        case "${{COMP_WORDS[1]}}" in
{options}
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _hedge hedge
"""


def command(arguments: Sequence[str]) -> None:
    parser = command_parser(
        "hedge completion", "Prints the completion of hedge for a shell.", EXAMPLES
    )
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))
    shell = parse(parser, arguments).shell
    known = {
        name: options_of(described(where))
        for name, where in commands().items()
        if name != "completion"
    }
    known["completion"] = {"bash": [], "zsh": [], "fish": []}
    sys.stdout.write({"bash": bash, "zsh": zsh, "fish": fish}[shell](known))


def options_of(parser: Parser) -> Options:
    """The long options of a command, with the values that can be named."""
    actions: list[Any] = parser._actions
    return {
        flag: [str(choice) for choice in action.choices or ()]
        for action in actions
        for flag in action.option_strings
        if flag.startswith("--")
    }


def bash(known: Mapping[str, Options]) -> str:
    values = [
        f'        "{name} {flag}") words="{" ".join(choices)}" ;;'
        for name, options in known.items()
        for flag, choices in options.items()
        if choices
    ]
    options = [f'            {name}) words="{" ".join(flags)}" ;;' for name, flags in known.items()]
    return _BASH.format(
        commands=" ".join(known), values="\n".join(values), options="\n".join(options)
    )


def zsh(known: Mapping[str, Options]) -> str:
    """By the completion of bash, which zsh can read."""
    return "#compdef hedge\nautoload -U +X bashcompinit && bashcompinit\n" + bash(known)


def fish(known: Mapping[str, Options]) -> str:
    lines = [f"complete -c hedge -n __fish_use_subcommand -f -a '{' '.join(known)}'"]
    for name, options in known.items():
        for flag, choices in options.items():
            if flag.startswith("--"):
                values = f" -x -a '{' '.join(choices)}'" if choices else ""
                lines.append(
                    f"complete -c hedge -n '__fish_seen_subcommand_from {name}' -l "
                    f"{flag[2:]}{values}"
                )
    return "\n".join(lines) + "\n"
