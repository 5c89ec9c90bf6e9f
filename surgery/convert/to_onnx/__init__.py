"""Caffe to ONNX: every layer that runs becomes operators that compute the same numbers by Caffe's own rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Literal

from surgery.convert.records import is_one_way
from surgery.convert.to_onnx import sizes
from surgery.convert.to_onnx.conversion import Composite, Conversion, TensorType
from surgery.convert.to_onnx.graph import NEWEST_OPSET, OLDEST_OPSET, Graph, Operator
from surgery.convert.to_onnx.lowerings import LOWERINGS
from surgery.convert.to_onnx.parameters import RANDOM, parameters
from surgery.convert.to_onnx.refused import REASONS, UNKNOWN
from surgery.convert.to_onnx.site import InexpressibleError, Origin, Parameter, Site
from surgery.convert.to_onnx.values import Stage, Values
from surgery.errors import ConversionError, ModelError, PlanError
from surgery.formats.caffe import deploy, network
from surgery.formats.caffe.liveness import is_source
from surgery.formats.caffe.net import CaffeNet
from surgery.formats.caffe.network import Layer, Shape
from surgery.formats.onnx import encode
from surgery.model import Model

__all__ = ["Conversion", "InexpressibleError", "Origin", "to_onnx"]


def to_onnx(
    model: Model, *, opset: int = OLDEST_OPSET, batch: Literal["fixed", "dynamic"] = "fixed", all_blobs: bool = False
) -> Conversion:
    """Return the ONNX model that computes what a Caffe model computes, blob by blob.

    A network that reads data files is deployed first: its data layers become inputs, losses and metrics go. Tensors are
    called like the blobs; of a blob written in place the last value has the name, the others a suffix. With `all_blobs`
    every blob is an output, else those that no layer reads. Raises ConversionError with all layers that have no
    equivalent, ModelError for a network whose inputs have no shape, PlanError for an opset out of range.
    """
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise PlanError(f"opset {opset}: expected {OLDEST_OPSET} to {NEWEST_OPSET}")
    net: CaffeNet = model.native
    if net.cuts or net.reweighed:
        raise ModelError("the model has edits that are not saved; save it and convert the files")
    net = _deployed(net)
    varying = _inputs(net) if batch == "dynamic" else None
    sized = sizes.sized(net, varying)
    twin = sizes.sized(net, varying, sized.symbols) if sized.symbols else sized
    return _Conversion(net, sized, twin, Graph(opset, sized.symbols), model).run(all_blobs=all_blobs)


def _deployed(net: CaffeNet) -> CaffeNet:
    """Return the network with the layers that read data turned into inputs, where it has any.

    Where one runs in another phase only, nothing that runs makes the blobs that it makes there.
    """
    sources = [layer for layer in net.active if is_source(layer, net.active)]
    made = {*network.input_names(net.document), *(top for layer in net.active for top in layer.tops)}
    is_fed = all(name in made for layer in net.active for name in layer.bottoms)
    if is_fed and all(layer.type in ("Input", "DummyData", "Parameter") for layer in sources):
        return net
    document = deploy.deploy(net.document, net.state, net.shapes)
    found = network.layers(document)
    known = {*network.input_names(document), *(top for layer in found for top in layer.tops)}
    return replace(net, document=document, layers=found, shapes={n: s for n, s in net.shapes.items() if n in known})


def _inputs(net: CaffeNet) -> dict[str, Shape | None]:
    """Return the network's inputs in order, with their shapes."""
    known: dict[str, Shape | None] = dict(network.inputs(net.document))
    for layer in net.active:
        if layer.type == "Input":
            known.update(zip(layer.tops, net.inferred[id(layer)].tops, strict=True))
    return known | {name: shape for name, shape in net.shapes.items() if name in known}


class _Conversion:
    """One run over the layers."""

    def __init__(self, stated: CaffeNet, sized: sizes.Sized, twin: sizes.Sized, graph: Graph, model: Model) -> None:
        self.stated = stated  # the same layers with the shapes of the file
        self.sized = sized
        self.twin = twin  # the same with other primes
        self.net = sized.net
        self.graph = graph
        self.values = Values(graph)
        self.path = model.native.files[0]
        self.reasons: list[str] = []
        self.composites: list[Composite] = []
        self.loose: set[str] = set()  # blobs that no layer has read since they were written: Caffe's outputs

    def run(self, *, all_blobs: bool) -> Conversion:
        inputs = _inputs(self.net)
        for name, shape in inputs.items():
            if shape is None:
                raise ModelError(f"{self.path}: input '{name}' has no shape; give --shape {name}=N,C,H,W")
            self.values.make(name, name, shape, "")
            self.loose.add(name)
        # Tensors between the operators of a layer keep off the names that blobs get in the end.
        self.graph.taken.update(inputs, (top for layer in self.net.active for top in layer.tops))
        found = parameters(self.net)
        if self.net.weights is None and RANDOM in found.values():
            raise ModelError(f"{self.path}: has no weights; give its .caffemodel as well")
        for layer in self.net.active:
            if layer.type != "Input":
                self._layer(layer, found[id(layer)])
        if self.reasons:
            raise ConversionError(self.path, tuple(self.reasons))
        for blob in self.values.stages:
            self.graph.within(blob)
            self.values.read(blob, "")
        made = [blob for blob in self.values.stages if blob not in inputs or len(self.values.stages[blob]) > 1]
        return self._result(inputs, made, all_blobs=all_blobs)

    def _layer(self, layer: Layer, blobs: tuple[Parameter, ...] | str) -> None:
        self.graph.within(layer.name)
        try:
            results = self._lowered(layer, blobs)
        except InexpressibleError as error:
            if not (self.reasons and self._is_behind(layer)):
                self.reasons.append(f"'{layer.name}' ({layer.type}): {error}")
            results = tuple(f"{layer.name}#{i}" for i in range(len(layer.tops)))
        self.loose -= set(layer.bottoms)
        self.loose |= set(layer.tops)
        for index, (top, value) in enumerate(zip(layer.tops, results, strict=False)):
            self._enter(layer, index, top, value)

    def _is_behind(self, layer: Layer) -> bool:
        """Return whether nothing can be told because of a layer before this one, which is named already."""
        reason = self.net.inferred[id(layer)].reason or ""
        return reason.startswith("behind") or self.sized.bottoms(layer) != self.twin.bottoms(layer)

    def _lowered(self, layer: Layer, blobs: tuple[Parameter, ...] | str) -> tuple[str, ...]:
        """Add the layer's operators and return the tensors of its tops."""
        inferred = self.net.inferred[id(layer)]
        missing = next((name for name in layer.bottoms if name not in self.values), None)
        if missing is not None:
            raise InexpressibleError(f"no layer before it makes its bottom '{missing}'")
        if inferred.is_invalid:
            own = self.stated.inferred[id(layer)]
            if not own.is_invalid and own.reason is None:
                raise InexpressibleError("its shapes hold for one batch size only; convert with a fixed batch")
            raise InexpressibleError(_own_words(inferred.reason or "", layer))
        sizes.check(self.stated.inferred[id(layer)])
        if self.sized.results(layer) != self.twin.results(layer):
            size = self.graph.what([n for shape in inferred.bottoms if shape for n in shape])
            raise InexpressibleError(f"the size of its output is no multiple of that of {size}")
        if layer.type not in LOWERINGS:
            raise InexpressibleError(REASONS.get(layer.type, UNKNOWN))
        if any(map(self.graph.depends, inferred.blobs or ())):
            raise InexpressibleError("its parameters depend on the batch size; convert with a fixed batch")
        if isinstance(blobs, str):
            raise InexpressibleError(blobs)
        site = Site(
            layer=layer,
            key=layer.name,
            inputs=tuple(self.values.read(name, layer.name) for name in layer.bottoms),
            bottoms=tuple(self.values.shape(name) for name in layer.bottoms),
            tops=inferred.tops,
            parameters=blobs if inferred.blobs is not None else _own_words(inferred.reason or "", layer),
            is_test=_phase(layer, self.net.state.phase) == "TEST",
            overwritten=self._overwritten(layer),
        )
        if not layer.tops:
            return ()  # A loss without a top computes what nobody can read.
        start = len(self.graph.operators)
        results = LOWERINGS[layer.type](site, self.graph)
        if is_one_way(layer):
            bottoms = [TensorType(n, self._symbolic(s)) for n, s in zip(site.inputs, site.bottoms, strict=True)]
            self.composites.append(Composite(layer, bottoms, results, range(start, len(self.graph.operators))))
        return results

    def _overwritten(self, layer: Layer) -> frozenset[int]:
        """Return the bottoms that lie in the memory of an in-place layer's first top."""
        if layer.tops[:1] != layer.bottoms[:1]:
            return frozenset()
        return frozenset(i for i, name in enumerate(layer.bottoms) if self.values.share_memory(name, layer.bottoms[0]))

    def _enter(self, layer: Layer, index: int, top: str, value: str) -> None:
        inferred = self.net.inferred[id(layer)]
        shape = inferred.tops[index]
        if index < len(layer.bottoms) and layer.bottoms[index] == top and top in self.values:
            self.values.overwrite(top, value, shape, layer.name)
        elif inferred.shares_memory and layer.bottoms and layer.bottoms[0] in self.values:
            self.values.share(top, layer.bottoms[0], value, shape, layer.name)
        else:
            self.values.make(top, value, shape, layer.name)

    def _result(self, inputs: Mapping[str, Shape | None], made: list[str], *, all_blobs: bool) -> Conversion:
        names, operators = self._named(inputs)
        wanted = [*made] if all_blobs else sorted(self.loose)
        if not made:
            raise ModelError(f"{self.path}: no layer that runs computes anything")
        final = {blob: names[blob, len(stages) - 1] for blob, stages in self.values.stages.items()}
        stages = {
            blob: [Stage(stage.layer, names[blob, i]) for i, stage in enumerate(stages)]
            for blob, stages in self.values.stages.items()
            if len(stages) > 1
        }
        types = {blob: TensorType(final[blob], self._symbolic(self.values.shape(blob))) for blob in final}
        return Conversion(
            name=self.net.document.message("NetParameter").str("name") or self.path.stem,
            opset=self.graph.opset,
            operators=operators,
            initializers=self.graph.initializers,
            inputs=[TensorType(name, self._symbolic(shape)) for name, shape in inputs.items()],
            outputs=[types[blob] for blob in wanted],
            inner=[types[blob] for blob in made if blob not in wanted],
            tensors=final,
            weights=self.graph.origins,
            stages=stages,
            composites=self._renamed(operators),
        )

    def _renamed(self, operators: Sequence[Operator]) -> list[Composite]:
        """Return the composites with the names that tensors have in `operators`."""
        pairs = zip(self.graph.operators, operators, strict=False)
        both = (zip((*a.inputs, *a.outputs), (*b.inputs, *b.outputs), strict=True) for a, b in pairs)
        new = dict(chain.from_iterable(both))
        return [
            replace(
                composite,
                bottoms=[replace(bottom, name=new.get(bottom.name, bottom.name)) for bottom in composite.bottoms],
                tops=[new.get(top, top) for top in composite.tops],
            )
            for composite in self.composites
        ]

    def _named(self, inputs: Mapping[str, Shape | None]) -> tuple[dict[tuple[str, int], str], list[Operator]]:
        """Return the tensor of every stage of every blob, and the operators with these names.

        The last value of a blob has the blob's name, unless that is an input's, which keeps it.
        """
        computed = {output for operator in self.graph.operators for output in operator.outputs}
        new: dict[str, str] = {}
        names: dict[tuple[str, int], str] = {}
        copies: list[Operator] = []
        for blob, stages in self.values.stages.items():
            for i, stage in enumerate(stages):
                is_last = i + 1 == len(stages)
                if blob in inputs and i == 0:
                    names[blob, i] = blob
                    continue
                if is_last:
                    name = self.graph.fresh(f"{blob}_after_{stage.layer}") if blob in inputs else blob
                else:
                    name = f"{blob}_before_{stages[i + 1].layer}"
                if stage.value in computed and stage.value not in new:
                    new[stage.value] = name if is_last else self.graph.fresh(name)
                elif is_last:  # Another blob has that tensor: an alias in Caffe's memory, a copy here.
                    copies.append(Operator("Identity", blob, (stage.value,), (name,), {}))
                    names[blob, i] = name
                names.setdefault((blob, i), new.get(stage.value, stage.value))
        operators = [
            replace(
                operator,
                inputs=tuple(new.get(name, name) for name in operator.inputs),
                outputs=tuple(new.get(name, name) for name in operator.outputs),
            )
            for operator in (*self.graph.operators, *copies)
        ]
        return names, operators

    def _symbolic(self, shape: Shape | None) -> tuple[encode.Dim, ...] | None:
        return None if shape is None else sizes.symbolic(shape, self.graph.symbols)


def _phase(layer: Layer, phase: str) -> str:
    """Return the phase a layer runs in: its own where it states one, and V1 knows none."""
    return layer.message.str("phase") if layer.generation == 2 and layer.message.has("phase") else phase


def _own_words(reason: str, layer: Layer) -> str:
    """Return the reason without the layer's name and type, which the message has already."""
    return reason.removeprefix(f"'{layer.name}' ({layer.type}): ")
