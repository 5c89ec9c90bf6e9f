"""The command and its verbs."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from surgery import __version__
from surgery.errors import ConversionError, ParseError, SurgeryError

# Verb -> module under surgery.cli that holds it; a verb's imports cost only those who call it.
VERBS = {
    "inspect": "inspect",
    "lint": "lint",
    "compress": "cut",
    "plan": "plan",
    "apply": "cut",
    "batch": "batch",
    "advise": "advise",
    "merge": "edits",
    "tune": "tune",
    "calibrate": "calibrate",
    "convert": "convert",
    "verify": "verify",
    "diff": "diff",
    "bench": "bench",
    "upgrade": "rework",
    "deploy": "rework",
    "extract": "edits",
    "fold": "edits",
    "fc-to-conv": "edits",
    "package": "package",
}


MESSAGE_LENGTH = 4000
# Raised without arguments, with the help as its text; click 8.1 does not have it and shows the help itself.
_HELP: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())
INTERRUPTED = 130  # as shells report SIGINT


class _Verbs(click.Group):
    """Finds a verb's function when it is called for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"surgery.cli.{VERBS[cmd_name]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run; what a user can put right is one line on stderr, anything else keeps its traceback."""
        try:
            # Without this click prints its own errors, with the usage above them.
            code = super().main(*args, **{**kwargs, "standalone_mode": False})
            if not kwargs.get("standalone_mode", True):
                return code
            sys.exit(code or 0)
        except _HELP as error:
            error.show()
            sys.exit(error.exit_code)
        except click.ClickException as error:
            verb = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "surgery"
            found = _printable(error.format_message())[:MESSAGE_LENGTH].rstrip(".")
            click.echo(f"surgery: {found}; see {verb} --help", err=True)
            sys.exit(error.exit_code)
        except click.Abort:
            click.echo("surgery: interrupted", err=True)
            sys.exit(INTERRUPTED)
        except SurgeryError as error:
            click.echo(f"surgery: {_shown(error)}", err=True)
            sys.exit(error.exit_code)
        except OSError as error:
            place = error.filename if error.filename is not None else "reading or writing a file"
            click.echo(f"surgery: {_printable(str(place))[:1000]}: {error.strerror or error}", err=True)
            sys.exit(2)
        except MemoryError:
            click.echo("surgery: there is not enough memory for this; expected more, or smaller files", err=True)
            sys.exit(2)


def _shown(error: SurgeryError) -> str:
    """Return the error's text; names from a file may hold a megabyte, or what would move the terminal's cursor."""
    text = str(error)
    if isinstance(error, ConversionError):
        return _printable(text)
    excerpt = "\n" + error.excerpt if isinstance(error, ParseError) and error.excerpt else ""
    line = _printable(text.removesuffix(excerpt)[:MESSAGE_LENGTH])
    return line + "\n".join(map(_printable, excerpt.split("\n")))


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


@click.command(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="surgery")
def main() -> None:
    """Cut layers of trained Caffe and ONNX networks into thinner ones that run in stock runtimes.

    A model is named by its files: net.prototxt [weights.caffemodel | weights.h5], or net.onnx.

    \b
    Examples:
      surgery inspect deploy.prototxt net.caffemodel
      surgery compress deploy.prototxt net.caffemodel -o small --layer 'fc*' --params 0.3
      surgery compress deploy.prototxt net.caffemodel -o small --layer 'conv2=tucker2:macs=0.5'
      surgery convert deploy.prototxt net.caffemodel -o net.onnx
      surgery verify deploy.prototxt net.caffemodel net.onnx --layers

    \b
    Exit codes: 0 done; 1 the answer is no (differs, cannot be cut); 2 the input or the request is wrong.
    Shell completion: eval "$(_SURGERY_COMPLETE=bash_source surgery)"   (or zsh_source, fish_source)
    """
