"""`quantizer completion`: a script that completes the command line, made from the parser itself."""

import argparse
import shlex

from quantization_api.failures import ExitCode

ZSH = "autoload -U +X bashcompinit && bashcompinit\n"
SCRIPT = """_quantizer() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} words=
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    words={commands}
  else
    case "${{COMP_WORDS[1]}} $before" in
{choices}
      *) case "${{COMP_WORDS[1]}}" in
{options}
        esac ;;
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _quantizer quantizer
"""
"""Where no word fits, -o default completes names of files."""


def completion_command(options: argparse.Namespace) -> int:
    """Prints the script for a shell; zsh runs that of bash."""
    from quantizer.cli.parser import parser

    print((ZSH if options.shell == "zsh" else "") + script(parser()), end="")
    return int(ExitCode.DONE)


def script(parser: argparse.ArgumentParser) -> str:
    """The script for bash, with the commands of a parser, their options, and the choices of those."""
    commands = _commands(parser)
    choices, options = [], []
    for name, command in commands.items():
        words = [word for action in command._actions for word in action.option_strings]
        for action in command._actions:
            if action.choices is not None:
                chosen = [str(choice) for choice in action.choices]
                if not action.option_strings:
                    words += chosen
                choices += [_case(f"'{name} {word}'", chosen) for word in action.option_strings]
        options.append(_case(name, words))
    words = [*commands, *(word for action in parser._actions for word in action.option_strings)]
    return SCRIPT.format(
        commands=shlex.quote(" ".join(words)),
        choices="\n".join(f"      {line}" for line in choices),
        options="\n".join(f"        {line}" for line in options),
    )


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _case(pattern: str, words: list[str]) -> str:
    return f"{pattern}) words={shlex.quote(' '.join(words))} ;;"
