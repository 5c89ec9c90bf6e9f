"""Layers that feed constants into the network, and layers that only read."""

from __future__ import annotations

import numpy as np

from surgery.convert.to_onnx.graph import Graph
from surgery.convert.to_onnx.site import InexpressibleError, Site


def dummy_data(site: Site, graph: Graph) -> tuple[str, ...]:
    """One constant for each top; random fillers draw anew in each forward pass, and are refused."""
    fillers = site.param("dummy_data_param").messages("data_filler")
    if len(fillers) not in (0, 1, len(site.layer.tops)):
        raise InexpressibleError(f"{len(fillers)} data_filler; expected none, one, or one per top")
    result = []
    for i in range(len(site.layer.tops)):
        filler = fillers[i if len(fillers) > 1 else 0] if fillers else None
        if filler is not None and filler.str("type") != "constant":
            raise InexpressibleError(f"its filler '{filler.str('type')}' is random; make it an Input layer")
        number = 0.0 if filler is None else filler.float("value")
        shape = graph.integers(site.top(i))
        result.append(graph.op("ConstantOfShape", shape, value=np.array([number], np.float32)))
    return tuple(result)


def parameter(site: Site, graph: Graph) -> tuple[str, ...]:
    """The blob itself."""
    return (graph.weight(site.blobs[0], "weight"),)


def sink(site: Site, graph: Graph) -> tuple[str, ...]:
    """Nothing: the layer has no tops."""
    return ()
