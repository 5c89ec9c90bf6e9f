"""Files with which people at a device time layers by stock Caffe's own `caffe time`, and the table to fill in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from surgery.choose.latency import LatencyTable, Shape
from surgery.choose.latency_csv import to_csv
from surgery.measure.tiny_nets import LAYER, write_prototxt

TABLE, SCRIPT, README = "latency.csv", "run.sh", "README.txt"
ITERATIONS = 50

_SCRIPT = """\
#!/bin/sh
# Times every layer of {table} that has no milliseconds yet with `caffe time`, and fills them in.
# Needs a POSIX shell, awk and the program `caffe`. It may be stopped and started again: each layer's log is kept.
set -eu
cd "$(dirname "$0")"
caffe=${{CAFFE:-caffe}}
iterations=${{ITERATIONS:-{iterations}}}
export OMP_NUM_THREADS={threads} OPENBLAS_NUM_THREADS={threads} GLOG_logtostderr=1 GLOG_minloglevel=0

# milliseconds LOG: the mean time of the layer's forward pass, nothing where the log has none
milliseconds() {{ awk '$0 ~ /{layer}0\\tforward: / {{ print $(NF - 1) }}' "$1"; }}

while IFS= read -r line; do
  case $line in
    *,,*.prototxt)
      file=${{line##*,}}
      log=${{file%.prototxt}}.log
      if [ ! -f "$log" ] || [ -z "$(milliseconds "$log")" ]; then
        echo "$file" >&2
        "$caffe" time -model "$file" -iterations "$iterations" >"$log" 2>&1 </dev/null || true
      fi
      time=$(milliseconds "$log")
      [ -n "$time" ] || echo "$file: not timed; $log says why" >&2
      line=${{line%,,*}},$time,$file
      ;;
  esac
  printf '%s\\n' "$line"
done <{table} >{table}.new
mv {table}.new {table}
"""

_README = """\
How long do these layers take on your device?

1. Copy this folder to the device and name the device in {table}, in the line that begins with "# machine:".
2. Run there:   CAFFE=/path/to/caffe sh run.sh
   Nothing else should run meanwhile. It runs `caffe time -model FILE -iterations {iterations}` for each of {count}
   files and fills in {table}; run again, it goes on where it stopped. `caffe` is the program of any Caffe build.
   Without a shell there, run the files by hand, and put the milliseconds behind "forward:" of `{layer}0` into the
   column "milliseconds". Rows that stay empty count as not measured.
3. Send {table} back. That file is all that is needed.
"""


def device_files(shapes: Sequence[Shape], folder: Path, *, threads: int = 1) -> tuple[Path, ...]:
    """Write into a folder that is there a net for each shape, the table, the script that fills it in, and what to do.

    Returns the paths. The script prints the mean of `caffe time` for each layer alone.
    """
    names = {shape: f"{i:04}.prototxt" for i, shape in enumerate(dict.fromkeys(shapes), 1)}
    paths = [write_prototxt(shape, 1, folder / name) for shape, name in names.items()]
    facts = {"table": TABLE, "layer": LAYER, "threads": threads, "iterations": ITERATIONS, "count": len(names)}
    texts = {
        TABLE: to_csv(LatencyTable("caffe", threads, "", {}), names),
        SCRIPT: _SCRIPT.format_map(facts),
        README: _README.format_map(facts),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    return (*paths, *(folder / name for name in texts))
