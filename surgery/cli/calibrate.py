"""`surgery calibrate`: keep what cuts need to know of a network's inputs, for when the images are gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from surgery.cli import data, options, tables
from surgery.cli.progress import bar
from surgery.errors import NothingToCutError


@click.command()
@click.argument("files", nargs=-1, required=True, type=options.FILE)
@click.option("--data", "path", required=True, type=options.FILE, help="A folder of images, .npy, .npz or a list file.")
@click.option("-o", "--output", required=True, type=options.FILE, help="File for the statistics.")
@click.option("--layer", "layers", multiple=True, metavar="NAME", help="Layers: a name or a glob; default: all.")
@data.reading_options
@options.network_options
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the positions.")
def calibrate(
    files: tuple[Path, ...], path: Path, output: Path, layers: tuple[str, ...], seed: int, **asked: Any
) -> None:
    """Run the network on samples and keep the statistics of every layer that can be cut.

    From the file any method can be fitted at any rank again, each layer to the original network's inputs. A fit to
    what the cuts before a layer leave needs the samples.

    \b
    Example:
      surgery calibrate net.prototxt net.caffemodel --data images/ -o net.statistics
      surgery compress net.prototxt net.caffemodel -o small --macs 0.5 --statistics net.statistics
    """
    from surgery.calibrate import calibration, save
    from surgery.cli.edits import chosen
    from surgery.output import check_file
    from surgery.survey import survey

    source = options.source(files, asked["shapes"], asked["phase"], asked["level"], asked["stages"])
    check_file(output, (*files, path))
    model = source.load()
    sites = [site.key for site in survey(model).sites]
    wanted = chosen(model, layers, sites)
    keys = tuple(key for key in sites if key in wanted)
    if not keys:
        raise NothingToCutError(())
    names = ("preprocess", "images", "positions", "scratch")
    settings = {name: asked[name] for name in names}
    with (
        bar() as progress,
        calibration(model, path, keys, symmetric=True, seed=seed, progress=progress, **settings) as d,
    ):
        save(d, keys, output)
    click.echo(f"{len(keys)} layers, {tables.size(output.stat().st_size)}")
    click.echo(tables.printable(f"wrote {output}", 1000))


__all__ = ["calibrate"]
